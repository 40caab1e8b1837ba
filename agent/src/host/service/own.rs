//! Services run by the agent itself, where there is no systemd: on a laptop, as an ordinary user. Each
//! runs in a process group of its own and outlives the agent; a small file says which process it is, so
//! that after a restart or `kill -9` the agent finds it again. What ends unasked is started again, more
//! and more slowly.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::Child,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use refit_durable::{
    FileError,
    file::{self, Access},
};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::{Service, ServiceError, ServiceState, Services, UnitFile, UnitName, sleep::Bell};
use crate::host::process::{Process, Program, boot_id, kill_marked};

/// How long a service may take to end when asked; then it is killed.
const STOP: Duration = Duration::from_secs(10);

/// The first pause before a service that ended is started again; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A service that ran for this long had started well: the next pause is the first again.
const RAN_WELL: Duration = Duration::from_secs(60);

/// After so many ends in a row a service counts as failed; it is still started again.
const FAILED_AFTER: u32 = 5;

/// A log that is larger is put aside when its service starts; one older log is kept.
const LARGEST_LOG: u64 = 1 << 20;

/// The largest description or state that is read.
const LARGEST_FILE: u64 = 1 << 20;

/// Services run by the agent itself. Dropped, it watches no more; what runs goes on.
pub struct OwnSupervisor {
    inner: Arc<Mutex<Inner>>,
    /// Rung whenever what should run may have changed.
    bell: Arc<Bell>,
    dropped: Arc<AtomicBool>,
}

impl Drop for OwnSupervisor {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::Relaxed);
        self.bell.ring();
    }
}

struct Inner {
    folder: PathBuf,
    boot: String,
    patience: Duration,
    units: BTreeMap<UnitName, Unit>,
}

/// One service: whether it should run, and what runs.
#[derive(Default)]
struct Unit {
    wanted: bool,
    process: Option<Process>,
    /// The process's handle, if this agent started it: only so can its remains be taken away.
    child: Option<Child>,
    restarts: u32,
    /// Ends in a row without a long run between.
    ends: u32,
    since: Option<Instant>,
    not_before: Option<Instant>,
    ended: String,
}

/// What a new agent has to know.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    wanted: bool,
    boot: String,
    pid: Option<i32>,
    started: Option<u64>,
    restarts: u32,
}

impl OwnSupervisor {
    /// Services that are described in this folder. Finds those that still run; starts and ends none.
    ///
    /// # Errors
    /// If the folder cannot be used.
    pub fn open(folder: &Path) -> Result<OwnSupervisor, ServiceError> {
        let failed = |why: String| ServiceError::new("open", folder.display(), why);
        file::create_dir_all(folder).map_err(|error| failed(error.to_string()))?;
        let mut inner = Inner {
            folder: folder.to_owned(),
            boot: boot_id(),
            patience: STOP,
            units: BTreeMap::new(),
        };
        for entry in fs::read_dir(folder).map_err(|error| failed(error.to_string()))? {
            let name = entry.map_err(|error| failed(error.to_string()))?.file_name();
            let unit = name.to_str().and_then(|name| name.strip_suffix(STATE));
            if let Some(unit) = unit.and_then(|unit| UnitName::parse(unit).ok()) {
                inner.find(unit);
            }
        }
        let bell = Arc::new(Bell::new().map_err(|error| failed(error.to_string()))?);
        Ok(OwnSupervisor { inner: Arc::new(Mutex::new(inner)), bell, dropped: Arc::default() })
    }

    /// From now on starts again what should run and does not. Not before an update that was under way
    /// was found and recovered: until then nobody knows what should run.
    pub fn supervise(&self) {
        let (inner, bell, dropped) = (self.inner.clone(), self.bell.clone(), self.dropped.clone());
        thread::spawn(move || {
            while !dropped.load(Ordering::Relaxed) {
                let (running, until) = {
                    let mut inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
                    inner.start_what_ended();
                    (inner.running(), inner.next_start())
                };
                bell.sleep(&running, until);
            }
        });
    }

    /// Stops every service, without forgetting that it should run: the next agent starts it again.
    pub fn stop_all_for_now(&mut self) {
        let mut inner = self.lock();
        let running: Vec<_> = inner.units.keys().cloned().collect();
        for unit in running {
            inner.end(&unit);
            // So that nobody starts it again before this agent ends.
            if let Some(unit) = inner.units.get_mut(&unit) {
                unit.wanted = false;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // What a panic left is looked at anew at the next turn.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const STATE: &str = ".state";

impl Services for OwnSupervisor {
    fn unit_files(&self, service: &Service) -> Result<Vec<UnitFile>, ServiceError> {
        if service.container.is_some() {
            let why = "only systemd runs containers";
            return Err(ServiceError::new("describe", &service.unit, why));
        }
        let path = self.lock().description(&service.unit);
        let bytes = serde_json::to_vec_pretty(service)
            .map_err(|error| ServiceError::new("describe", &service.unit, error))?;
        Ok(vec![UnitFile::File { path, bytes }])
    }

    fn reload(&mut self) -> Result<(), ServiceError> {
        // A description is read whenever its service starts.
        Ok(())
    }

    fn start(&mut self, unit: &UnitName) -> Result<(), ServiceError> {
        let mut inner = self.lock();
        if inner.looked_at(unit).is_some_and(|unit| unit.wanted && unit.process.is_some()) {
            return Ok(());
        }
        // Heard when this lock is free again.
        self.bell.ring();
        let fresh = Unit { wanted: true, ..Unit::default() };
        inner.units.insert(unit.clone(), fresh);
        let started = inner.spawn(unit);
        if started.is_err() {
            inner.units.insert(unit.clone(), Unit::default());
            inner.save(unit)?;
        }
        started
    }

    fn stop(&mut self, unit: &UnitName) -> Result<(), ServiceError> {
        let mut inner = self.lock();
        inner.units.entry(unit.clone()).or_default().wanted = false;
        inner.save(unit)?;
        inner.end(unit);
        let known = inner.looked_at(unit);
        if known.is_some_and(|unit| unit.process.is_some()) {
            return Err(ServiceError::new("stop", unit, "it does not end"));
        }
        let mark = inner.mark(unit);
        kill_marked(&mark).map_err(|error| ServiceError::new("stop", unit, error))
    }

    fn state(&mut self, unit: &UnitName) -> Result<ServiceState, ServiceError> {
        let mut inner = self.lock();
        let described = inner.description(unit).exists();
        Ok(match inner.looked_at(unit) {
            Some(Unit { process: Some(_), restarts, .. }) => {
                ServiceState::Active { restarts: *restarts }
            }
            Some(Unit { wanted: true, ends, ended, .. }) if *ends >= FAILED_AFTER => {
                ServiceState::Failed { text: ended.clone() }
            }
            Some(Unit { wanted: true, restarts, .. }) => {
                // It has ended at least once, though it was not yet started again.
                ServiceState::Changing { restarts: restarts.saturating_add(1) }
            }
            Some(Unit { wanted: false, .. }) | None if described => ServiceState::Stopped,
            Some(Unit { wanted: false, .. }) | None => ServiceState::Unknown,
        })
    }

    fn log(&mut self, unit: &UnitName) -> String {
        use io::{Read as _, Seek as _};
        let path = self.lock().folder.join(format!("{unit}.log"));
        let read = fs::File::open(path).and_then(|mut log| {
            let from = log.metadata()?.len().saturating_sub(super::LONGEST_LOG);
            log.seek(io::SeekFrom::Start(from))?;
            let mut bytes = Vec::new();
            log.take(super::LONGEST_LOG).read_to_end(&mut bytes)?;
            Ok(bytes)
        });
        String::from_utf8_lossy(&read.unwrap_or_default()).into_owned()
    }
}

impl Inner {
    fn description(&self, unit: &UnitName) -> PathBuf {
        self.folder.join(format!("{unit}.json"))
    }

    /// By what its processes are found: no other agent's service of the same name has it.
    fn mark(&self, unit: &UnitName) -> String {
        format!("service {}", self.description(unit).display())
    }

    /// What an earlier agent knew of a service.
    fn find(&mut self, unit: UnitName) {
        let path = self.folder.join(format!("{unit}{STATE}"));
        let read = file::read_if_there(&path, LARGEST_FILE).ok().flatten();
        // A state that cannot be read is none: its processes are still found by their mark.
        let saved: Option<Saved> = read.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let Some(saved) = saved else { return };
        let known = saved.pid.zip(saved.started).filter(|_| saved.boot == self.boot);
        let found = Unit {
            wanted: saved.wanted,
            process: known.and_then(|(pid, started)| Process::known(pid, started)),
            restarts: saved.restarts,
            since: Some(Instant::now()),
            ..Unit::default()
        };
        self.units.insert(unit, found);
    }

    /// A service, after a look at whether it still runs.
    fn looked_at(&mut self, unit: &UnitName) -> Option<&mut Unit> {
        let unit = self.units.get_mut(unit)?;
        let Some(process) = unit.process else { return Some(unit) };
        let ended = match &mut unit.child {
            Some(child) => match child.try_wait() {
                Ok(Some(status)) => Some(format!("it ended with {status}")),
                Ok(None) => None,
                Err(error) => Some(error.to_string()),
            },
            None => (!process.lives()).then(|| "it ended".to_owned()),
        };
        if let Some(ended) = ended {
            let ran_well = unit.since.is_some_and(|since| since.elapsed() >= RAN_WELL);
            unit.ends = if ran_well { 1 } else { unit.ends.saturating_add(1) };
            let doubled = FIRST_PAUSE.saturating_mul(1 << (unit.ends - 1).min(10));
            unit.not_before = Some(Instant::now() + doubled.min(LONGEST_PAUSE));
            unit.process = None;
            unit.child = None;
            unit.ended = ended;
        }
        Some(unit)
    }

    fn start_what_ended(&mut self) {
        let names: Vec<_> = self.units.keys().cloned().collect();
        for name in names {
            let Some(unit) = self.looked_at(&name) else {
                continue;
            };
            let waits = unit.not_before.is_some_and(|moment| Instant::now() < moment);
            if !unit.wanted || unit.process.is_some() || waits {
                continue;
            }
            // Found by an earlier agent's word alone, it has not ended but was never started here.
            if !unit.ended.is_empty() {
                unit.restarts = unit.restarts.saturating_add(1);
            }
            if let Err(error) = self.spawn(&name) {
                tracing::warn!(unit = %name, %error, "a service does not start");
                self.put_off(&name, error.to_string());
            }
        }
    }

    /// The processes whose end matters.
    fn running(&self) -> Vec<Process> {
        self.units.values().filter_map(|unit| unit.process).collect()
    }

    /// When the next of those that ended is to be started again.
    fn next_start(&self) -> Option<Instant> {
        let waits = |unit: &&Unit| unit.wanted && unit.process.is_none();
        self.units.values().filter(waits).filter_map(|unit| unit.not_before).min()
    }

    fn put_off(&mut self, name: &UnitName, why: String) {
        if let Some(unit) = self.units.get_mut(name) {
            unit.ends = unit.ends.saturating_add(1);
            unit.not_before = Some(Instant::now() + LONGEST_PAUSE);
            unit.ended = why;
        }
    }

    /// Starts a service's process. What an earlier one left is ended first: a service runs once.
    fn spawn(&mut self, name: &UnitName) -> Result<(), ServiceError> {
        let failed = |why: String| ServiceError::new("start", name, why);
        let service = self.read_description(name).map_err(&failed)?;
        let mark = self.mark(name);
        kill_marked(&mark).map_err(|error| failed(error.to_string()))?;
        // That it should run is known before it does; which process it is, after.
        self.save(name)?;
        let log = self.open_log(name).map_err(|error| failed(error.to_string()))?;
        let program = Program {
            program: service.program.into(),
            arguments: service.arguments,
            folder: service.folder,
            environment: service.environment,
            mark,
        };
        let mut command = program.command();
        command.stdout(log.try_clone().map_err(|error| failed(error.to_string()))?).stderr(log);
        let child = command
            .spawn()
            .map_err(|error| failed(format!("{}: {error}", program.program.display())))?;
        if let Some(unit) = self.units.get_mut(name) {
            unit.process = i32::try_from(child.id()).ok().and_then(Process::find);
            unit.child = Some(child);
            unit.since = Some(Instant::now());
            if unit.process.is_none() {
                // It has ended already.
                unit.ends = unit.ends.saturating_add(1);
                unit.ended = "it ended at once".into();
                unit.not_before = Some(Instant::now() + FIRST_PAUSE);
            }
        }
        self.save(name)
    }

    fn read_description(&self, unit: &UnitName) -> Result<Service, String> {
        let bytes = file::read(&self.description(unit), LARGEST_FILE);
        let bytes = bytes.map_err(|error: FileError| error.to_string())?;
        serde_json::from_slice(&bytes).map_err(|error| format!("its description: {error}"))
    }

    fn open_log(&self, unit: &UnitName) -> io::Result<fs::File> {
        let path = self.folder.join(format!("{unit}.log"));
        if fs::metadata(&path).is_ok_and(|log| log.len() > LARGEST_LOG) {
            fs::rename(&path, self.folder.join(format!("{unit}.log.1")))?;
        }
        fs::OpenOptions::new().append(true).create(true).open(path)
    }

    /// Ends a service's process and its group, gently first.
    fn end(&mut self, name: &UnitName) {
        for signal in [Signal::TERM, Signal::KILL] {
            let deadline = Instant::now() + self.patience;
            let Some(process) = self.looked_at(name).and_then(|unit| unit.process) else { return };
            process.signal(signal);
            while Instant::now() < deadline {
                if self.looked_at(name).is_none_or(|unit| unit.process.is_none()) {
                    // Its leader has ended; what is left of the group ends now.
                    process.signal(Signal::KILL);
                    return;
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
    }

    fn save(&self, name: &UnitName) -> Result<(), ServiceError> {
        let Some(unit) = self.units.get(name) else { return Ok(()) };
        let saved = Saved {
            wanted: unit.wanted,
            boot: self.boot.clone(),
            pid: unit.process.map(|process| process.number()),
            started: unit.process.map(|process| process.started()),
            restarts: unit.restarts,
        };
        let failed = |error: String| ServiceError::new("save the state of", name, error);
        let bytes = serde_json::to_vec(&saved).map_err(|error| failed(error.to_string()))?;
        let path = self.folder.join(format!("{name}{STATE}"));
        file::write(&path, &bytes, Access::Private).map_err(|error| failed(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::process::marked;

    struct Sandbox {
        folder: tempfile::TempDir,
        unit: UnitName,
    }

    /// Services outlive the agent; tests' services must not outlive the test.
    impl Drop for Sandbox {
        fn drop(&mut self) {
            let inner = OwnSupervisor::open(self.folder.path()).unwrap();
            let mark = inner.lock().mark(&self.unit);
            kill_marked(&mark).unwrap();
        }
    }

    impl Sandbox {
        fn new() -> Sandbox {
            let unit = UnitName::parse("payments.service").unwrap();
            Sandbox { folder: tempfile::tempdir().unwrap(), unit }
        }

        fn open(&self) -> OwnSupervisor {
            OwnSupervisor::open(self.folder.path()).unwrap()
        }

        fn describe(&self, script: &str) {
            let service = Service {
                unit: self.unit.clone(),
                program: "/bin/sh".into(),
                arguments: vec!["-c".into(), script.into()],
                environment: Default::default(),
                folder: "/".into(),
                user: None,
                own_unit: None,
                container: None,
            };
            for wanted in self.open().unit_files(&service).unwrap() {
                let UnitFile::File { path, bytes } = wanted else { panic!("{wanted:?}") };
                fs::write(path, bytes).unwrap();
            }
        }

        fn processes(&self) -> Vec<i32> {
            let mark = self.open().lock().mark(&self.unit);
            let mut numbers: Vec<_> =
                marked(&mark).unwrap().iter().map(|process| process.number()).collect();
            numbers.sort_unstable();
            numbers
        }

        /// Looks until something holds; fails loudly if it never does.
        fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
            let deadline = Instant::now() + Duration::from_secs(30);
            while !holds() {
                assert!(Instant::now() < deadline, "it never happens that {what}");
                thread::sleep(Duration::from_millis(5));
            }
        }
    }

    const FOR_EVER: &str = "while :; do sleep 600; done";

    #[test]
    fn a_service_outlives_its_agent_and_the_next_one_finds_and_ends_it() {
        let host = Sandbox::new();
        host.describe(FOR_EVER);
        let mut first = host.open();
        first.start(&host.unit).unwrap();
        host.until("it runs", || host.processes().len() == 2);
        let running = host.processes();
        // As after a restart; the handle goes the way it does with `kill -9`.
        drop(first);
        let mut second = host.open();
        assert_eq!(second.state(&host.unit), Ok(ServiceState::Active { restarts: 0 }));
        second.start(&host.unit).unwrap();
        assert_eq!(host.processes(), running, "what runs is not started twice");
        second.stop(&host.unit).unwrap();
        assert_eq!(host.processes(), [] as [i32; 0]);
        assert_eq!(second.state(&host.unit), Ok(ServiceState::Stopped));
        assert_eq!(host.open().state(&host.unit), Ok(ServiceState::Stopped));
    }

    #[test]
    fn a_service_whose_number_was_never_saved_runs_once_after_a_start() {
        let host = Sandbox::new();
        host.describe(FOR_EVER);
        let mut first = host.open();
        first.start(&host.unit).unwrap();
        host.until("it runs", || host.processes().len() == 2);
        let lost = host.processes();
        fs::remove_file(host.folder.path().join("payments.service.state")).unwrap();
        let mut second = host.open();
        second.start(&host.unit).unwrap();
        host.until("it runs again", || host.processes().len() == 2);
        assert!(host.processes().iter().all(|number| !lost.contains(number)));
        // And a stop finds what nobody remembers.
        fs::remove_file(host.folder.path().join("payments.service.state")).unwrap();
        host.open().stop(&host.unit).unwrap();
        assert_eq!(host.processes(), [] as [i32; 0]);
        drop(first);
    }

    #[test]
    fn what_ends_unasked_is_started_again_and_counted() {
        let host = Sandbox::new();
        host.describe(FOR_EVER);
        let mut supervisor = host.open();
        supervisor.supervise();
        supervisor.start(&host.unit).unwrap();
        host.until("it runs", || host.processes().len() == 2);
        let inner = host.open();
        let mark = inner.lock().mark(&host.unit);
        kill_marked(&mark).unwrap();
        host.until("it is started again", || {
            supervisor.state(&host.unit) == Ok(ServiceState::Active { restarts: 1 })
        });
    }

    #[test]
    fn a_service_that_ends_at_once_is_never_called_active_for_long() {
        let host = Sandbox::new();
        host.describe("exit 7");
        let mut supervisor = host.open();
        supervisor.start(&host.unit).unwrap();
        host.until("its end is seen", || {
            matches!(supervisor.state(&host.unit), Ok(ServiceState::Changing { restarts: 1 }))
        });
    }

    #[test]
    fn a_program_that_is_not_there_does_not_start_and_is_not_tried_again() {
        let host = Sandbox::new();
        host.describe(FOR_EVER);
        let path = host.folder.path().join("payments.service.json");
        let text = fs::read_to_string(&path).unwrap().replace("/bin/sh", "/no/such/program");
        fs::write(&path, text).unwrap();
        let mut supervisor = host.open();
        let error = supervisor.start(&host.unit).unwrap_err().to_string();
        assert!(error.contains("/no/such/program"), "{error}");
        assert_eq!(supervisor.state(&host.unit), Ok(ServiceState::Stopped));
    }

    #[test]
    fn a_service_that_ignores_the_asking_ends_anyway_with_all_it_started() {
        let host = Sandbox::new();
        host.describe("trap '' TERM; setsid sleep 600 & sleep 600 & kill -STOP $$");
        let mut supervisor = host.open();
        supervisor.lock().patience = Duration::from_millis(500);
        supervisor.start(&host.unit).unwrap();
        host.until("it runs", || host.processes().len() == 3);
        supervisor.stop(&host.unit).unwrap();
        assert_eq!(host.processes(), [] as [i32; 0]);
    }

    #[test]
    fn a_service_that_nobody_described_is_unknown_and_stopped_already() {
        let host = Sandbox::new();
        let mut supervisor = host.open();
        assert_eq!(supervisor.state(&host.unit), Ok(ServiceState::Unknown));
        supervisor.stop(&host.unit).unwrap();
        assert!(supervisor.start(&host.unit).is_err());
    }
}
