//! The running agent: takes the lock, finds its way after whatever ended it, then keeps two threads at
//! work. One carries updates from step to step; the other runs the network and answers on the socket.
//! Decides what is started and ended when, and nothing else.

mod alarm;
mod driver;
mod network;
mod network_half;
mod probe;
mod watchdog;

pub use network_half::run_network_half;
pub use probe::COMMAND as PROBE_STORE;

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, RwLock},
    thread,
    time::{Duration, Instant},
};

use refit_durable::{FileError, Options, SledStore, StateStore, StoreError, file};
use refit_proto::transport::TransportError;
use rustix::fs::{FlockOperation, flock};
use tokio::sync::Notify;

use crate::{
    bundle::Spool,
    clock::{Clock, SKEW},
    holds::Holds,
    host::{
        backup::Backups,
        files::Files,
        hook::HookRuns,
        service::{Services, UnitsOf},
    },
    identity::{Identity, IdentityError, Ways},
    journal::{Journal, StoreJournal},
    link::{Access, Bucket, Link, Pace, Sync, Turn, Wanted},
    machine::Manager,
    outbox::Outbox,
    report::{HeldBackups, Inventory, Reporter, ReportingJournal},
    restore,
    settings::Settings,
    status,
    steps::{Brake, Machine, Memory, Steps},
    trusted::{Holder, Trust, TrustFolder},
    way_back::{self, Place, RecoverError, Recovered},
    witness::Witness,
};

/// How long a step may take to come to a safe point when the agent is told to end. What is not there by
/// then is ended as by `kill -9`, which every step survives.
const ENDING: Duration = Duration::from_secs(15);

/// How long the agent waits at its start for somebody who only looks at its folder. Looking takes
/// milliseconds; what holds the folder for longer than this works on it.
const LOOK: Duration = Duration::from_secs(10);

/// Between two tries to take the folder.
const AGAIN: Duration = Duration::from_millis(50);

/// Why the agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Another agent works on this folder.
    #[error(
        "another refit-agent works on {path}\n\
         help: `refit-agent status` asks it; to work offline, end it first"
    )]
    Locked {
        /// The data folder.
        path: String,
    },
    /// The lock.
    #[error(
        "cannot lock {path}: {source}\n\
         help: the agent writes to its data folder; look at the folder's owner, mode and file system"
    )]
    Lock {
        /// The lock's file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Who the host is.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The way to the server.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A person is needed before anything else can be done.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// The system.
    #[error("the agent cannot run: {0}")]
    System(#[from] std::io::Error),
    /// The thread that carries updates is gone.
    #[error(
        "the agent failed in the middle of its work\n\
         help: this is a defect; report it with the host's log. The agent goes on when it starts again"
    )]
    Broken,
}

/// Held by the one agent, or offline command, that works on a data folder, or by who only looks at it.
pub struct Lock(#[expect(dead_code, reason = "held, not read")] Vec<File>);

impl Lock {
    /// Takes the folder, to work on it.
    ///
    /// # Errors
    /// If another has it.
    pub fn take(settings: &Settings) -> Result<Lock, RunError> {
        let lock = lock_file(settings)?;
        locked(settings, &lock, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Lock(vec![lock]))
    }

    /// Takes the folder, to look at it: nobody works on it meanwhile, and one looks at a time. The rescuer does
    /// not take who looks for an agent, however often somebody looks.
    ///
    /// # Errors
    /// If another has it.
    pub fn look(settings: &Settings) -> Result<Lock, RunError> {
        let lock = lock_file(settings)?;
        locked(settings, &lock, FlockOperation::NonBlockingLockShared)?;
        // The store can be opened by one process.
        let one = File::open(&settings.data).map_err(lock_failed(&settings.data))?;
        locked(settings, &one, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Lock(vec![lock, one]))
    }
}

fn lock_file(settings: &Settings) -> Result<File, RunError> {
    file::create_dir_all(&settings.data)?;
    let path = settings.lock();
    let opened = File::options().create(true).truncate(false).write(true).open(&path);
    opened.map_err(lock_failed(&path))
}

fn locked(settings: &Settings, file: &File, how: FlockOperation) -> Result<(), RunError> {
    match flock(file, how) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(RunError::Locked { path: settings.data.display().to_string() })
        }
        Err(error) => Err(lock_failed(&settings.lock())(error.into())),
    }
}

fn lock_failed(path: &Path) -> impl FnOnce(std::io::Error) -> RunError {
    let path = path.display().to_string();
    move |source| RunError::Lock { path, source }
}

/// Tries again for a while, as long as another has the folder: a person who looks at a host that is booting
/// must not keep its agent from starting, nor be told that an agent runs where one only begins to.
///
/// # Errors
/// As the last try.
pub fn once_free<T>(mut attempt: impl FnMut() -> Result<T, RunError>) -> Result<T, RunError> {
    let began = Instant::now();
    loop {
        match attempt() {
            Err(RunError::Locked { .. }) if began.elapsed() < LOOK => thread::sleep(AGAIN),
            ended => return ended,
        }
    }
}

/// The store of this folder. A damaged one is set aside and named by the store itself.
///
/// # Errors
/// If it can't be opened.
pub fn open_store(settings: &Settings, clock: &Clock) -> Result<Arc<dyn StateStore>, RunError> {
    let options = Options { probe: probe::probe(), ..Options::new(settings.state(), clock.now()) };
    let opened = SledStore::open(options)?;
    if let Some(path) = &opened.set_aside {
        tracing::error!(
            path = %path.display(),
            "the state store was damaged and is set aside; what is installed is told by the file system"
        );
    }
    if opened.repaired {
        tracing::warn!("the state store was damaged and could be repaired; check the disk");
    }
    Ok(Arc::new(opened.store))
}

/// What the agent works with on this machine.
pub struct Parts<M> {
    /// Every file of the host.
    pub files: Arc<dyn Files>,
    /// What changes the machine, made after recovery from what runs services.
    pub machine: Box<dyn FnOnce(Manager) -> M>,
    /// What runs services.
    pub services: Manager,
    /// The socket of the network half; none: it is in this process.
    pub link: Option<PathBuf>,
}

/// Runs the agent until it is told to end.
///
/// # Errors
/// If it can't begin, or broke.
pub fn run<M: Machine + 'static>(
    settings: &Settings,
    clock: Clock,
    mut parts: Parts<M>,
) -> Result<(), RunError> {
    let _lock = once_free(|| Lock::take(settings))?;
    let (identity, keys) = Identity::load(&settings.identity())?;
    let store = open_store(settings, &clock)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let server = {
        // A channel's own tasks live on the runtime.
        let _inside = runtime.enter();
        let ways = Ways::of(&identity, Ways::load(&settings.identity())?.as_ref());
        let access = Access::new(&identity, &keys, ways, settings.patience)
            .through(settings.proxies.clone());
        let link = match parts.link.take() {
            None => Link::here(access, clock.clone())?,
            Some(socket) => Link::by_socket(access, clock.clone(), socket)?,
        };
        Arc::new(link.with_turn(Turn::of(&identity.host, "work")))
    };
    let holder = Holder {
        host: identity.host.clone(),
        labels: identity.labels.clone(),
        root: identity.root,
    };
    let trust = Arc::new(Trust::load(TrustFolder::at(settings.trust()), holder, clock.clone()));
    if clock.behind() > SKEW {
        tracing::warn!(
            behind_seconds = clock.behind().as_secs(),
            "this host's clock is wrong; the newest moment known from signed metadata is used"
        );
    }
    let wanted = Arc::new(Wanted::in_store(store.clone()));
    let spool = Arc::new(Spool::at(settings.spool()));
    spool.tidy();
    let news = Arc::new(Notify::new());
    let inventory = Arc::new(RwLock::new(Inventory::new()));
    let hook_runs = Arc::new(RwLock::new(HookRuns::new()));
    let longest = settings.holds.longest;
    let holds = Arc::new(Holds::load(parts.files.clone(), &settings.data, clock.clone(), longest));
    let backups = HeldBackups::default();
    let report_key = crate::identity::Keys::load(&settings.identity())
        .map_err(IdentityError::from)?
        .into_report();
    let told = news.clone();
    let outbox =
        Arc::new(Outbox::new(store.clone(), identity.host.clone(), report_key, move || {
            told.notify_one()
        }));
    let reporter = Arc::new(Reporter {
        outbox: outbox.clone(),
        journal: StoreJournal::new(store.clone()),
        trust: trust.clone(),
        wanted: wanted.clone(),
        clock: clock.clone(),
        platform: settings.platform.clone(),
        inventory: inventory.clone(),
        hook_runs: hook_runs.clone(),
        holds: holds.clone(),
        backups: backups.clone(),
        server: Some(server.clone()),
        witness: Arc::new(Witness::load(settings.identity().audit())?),
        files: parts.files.clone(),
        data: settings.data.clone(),
        reported: Mutex::new(None),
    });
    let mut journal = ReportingJournal::new(StoreJournal::new(store.clone()), reporter.clone());
    let recovered = recover(settings, &mut journal, &parts.files, parts.services.services())?;

    let machine = (parts.machine)(parts.services);
    if matches!(recovered, Recovered::WentBack(_)) && machine.is_undone() {
        tracing::warn!("this release of the agent was undone; systemd starts the one of before");
        return Ok(());
    }
    let steps = Steps {
        machine,
        server: server.clone(),
        trust: trust.clone(),
        wanted: wanted.clone(),
        clock: clock.clone(),
        journal: StoreJournal::new(store.clone()),
        memory: Memory::new(store.clone()),
        runtime: runtime.handle().clone(),
        inventory,
        hook_runs,
        drifts: std::collections::BTreeMap::new(),
        answered: std::collections::BTreeSet::new(),
        drift: settings.drift,
        backups,
        spool: spool.clone(),
        cap: settings
            .most_bytes_per_second
            .map(|rate| Arc::new(Mutex::new(Bucket::full(rate, clock.running())))),
        opened: None,
        said: None,
        brake: Brake::new(settings, holds.clone()),
        reached: None,
    };
    steps.look();
    steps.look_at_backups();
    let restores = Arc::new(restore::Requests::default());
    let queue = StoreJournal::new(store);
    let driver = driver::Driver { steps, journal, queue, restores: restores.clone() };
    let (ended, driver_ended) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name("updates".into()).spawn(move || {
        driver.run();
        // Dropped without being sent where the thread panics.
        let _nobody_listens_any_more = ended.send(());
    })?;
    let awake = Arc::new(Notify::new());
    let pace = Pace::new(settings.poll, Turn::of(&identity.host, "sync"));
    let network = network::Network {
        server,
        identity: tokio::sync::Mutex::new((identity, keys)),
        folder: settings.identity(),
        clock,
        trust,
        reporter: reporter.clone(),
        wanted: wanted.clone(),
        renewing: Mutex::new(network::Renewing::default()),
        asked_stranger: Mutex::new(None),
        awake: awake.clone(),
    };
    let network = Arc::new(network);
    let holders = holders(settings, runtime.handle());
    let sync = Sync::new(network.clone(), outbox, wanted.clone(), news, pace);
    let socket = status::listen(&settings.socket(), runtime.handle())?;
    let broken = runtime.block_on(async {
        sd_ready();
        let mut driver_ended = driver_ended;
        let broken = tokio::select! {
            () = sync.run() => false,
            () = network.refresh_for_ever() => false,
            () = status::holds::serve(holders, reporter.clone(), holds.clone()) => false,
            () = status::serve(socket, reporter, spool, restores, holds) => false,
            () = watchdog::watchdog(&awake) => false,
            signal = told_to_end() => {
                signal?;
                false
            }
            _panicked = &mut driver_ended => true,
        };
        let _not_under_systemd = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        wanted.end();
        if !broken && tokio::time::timeout(ENDING, driver_ended).await.is_err() {
            tracing::warn!("a step did not come to its end; it is repeated at the next start");
        }
        std::io::Result::Ok(broken)
    })?;
    let _gone_already = std::fs::remove_file(settings.socket());
    if broken {
        let _its_message_is_in_the_log = thread.join();
        return Err(RunError::Broken);
    }
    Ok(())
}

/// The socket for those who may hold updates off beside root. Without it the agent does all else.
fn holders(
    settings: &Settings,
    runtime: &tokio::runtime::Handle,
) -> Option<tokio::net::UnixListener> {
    let group = settings.holds.group.as_ref()?;
    let path = std::path::Path::new(status::holds::SOCKET);
    match status::holds::listen(path, group, runtime) {
        Ok(socket) => Some(socket),
        Err(error) => {
            tracing::error!("only root may hold updates off: {}: {error}", path.display());
            None
        }
    }
}

/// Before anything else: an update that was under way and lost its journal goes back. Also the work of
/// `refit-agent recover`.
///
/// # Errors
/// If a person is needed.
pub fn recover(
    settings: &Settings,
    journal: &mut dyn Journal,
    files: &Arc<dyn Files>,
    services: &mut dyn Services,
) -> Result<Recovered, RunError> {
    let place = Place::in_folder(files.clone(), &settings.data);
    let backups = Backups::new(&**files, settings.data.clone());
    let recovered = way_back::recover(
        &place,
        journal,
        &mut (),
        &**files,
        &mut UnitsOf(services),
        &|way_back| backups.finish_after(way_back),
    )?;
    match &recovered {
        Recovered::Nothing => {}
        Recovered::SetAside => {
            tracing::error!(
                "the journal's record could not be read and is set aside; nothing had begun"
            );
        }
        Recovered::Rescued(failure) => tracing::warn!("{}", failure.text),
        Recovered::WentBack(_) => tracing::warn!("the host went back to what ran before"),
    }
    Ok(recovered)
}

/// Ends the process's work where it is asked to.
async fn told_to_end() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn sd_ready() {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::debug!(%error, "nobody waits for the agent to be ready");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_only_looks_at_the_folder_keeps_nobody_from_starting_and_other_errors_end_at_once() {
        let mut tries = 0;
        let taken = once_free(|| {
            tries += 1;
            if tries < 3 { Err(RunError::Locked { path: "/var".into() }) } else { Ok(tries) }
        });
        assert_eq!(taken.unwrap(), 3);
        let mut tries = 0;
        let refused: Result<(), _> = once_free(|| {
            tries += 1;
            Err(RunError::Broken)
        });
        assert!(matches!((refused, tries), (Err(RunError::Broken), 1)));
    }

    #[test]
    fn one_works_on_the_folder_or_one_looks_at_it() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings::load(folder.path(), None).unwrap();
        let is_taken =
            |tried: Result<Lock, RunError>| matches!(tried, Err(RunError::Locked { .. }));
        let looks = Lock::look(&settings).unwrap();
        assert!(is_taken(Lock::take(&settings)) && is_taken(Lock::look(&settings)));
        drop(looks);
        let works = Lock::take(&settings).unwrap();
        assert!(is_taken(Lock::take(&settings)) && is_taken(Lock::look(&settings)));
        drop(works);
        drop(Lock::look(&settings).unwrap());
        drop(Lock::take(&settings).unwrap());
    }
}
