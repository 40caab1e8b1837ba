//! Whether a release works on this host: asks what its manifest's checks say, and adds the answers up
//! to one verdict. Bad is only what failed as often in a row as the manifest allows; what cannot be
//! asked is unknown. What follows from a verdict is decided in [`crate::update`].

mod grpc;
mod http;
mod meters;

pub use meters::{Meters, When};

use std::{
    io,
    net::{SocketAddr, TcpStream, ToSocketAddrs as _},
    path::PathBuf,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use refit_proto::{
    names::PackageName,
    package::{Check, Observed, Probe, Variables, expand},
};

use super::{
    network_up::Ways,
    process::{Ended, Program},
    service::{ServiceState, Services, UnitName, resolve_command},
};
use crate::update::{Baseline, CheckId, Compared, Running, Verdict, compare};

/// What one check says, this one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It passed.
    Good,
    /// It failed, and how.
    Failed(String),
    /// It could not be asked, and why.
    Unknown(String),
    /// It measures, and found this number.
    Measured(u64),
    /// It measures, and there is nothing to measure.
    Absent(String),
}

/// What asks one check.
pub trait Prober {
    /// Asks it once.
    fn probe(&mut self, check: &Check) -> Answer;
}

/// The checks of one package, and how often each has failed in a row.
#[derive(Debug, Clone)]
pub struct Checker {
    package: PackageName,
    observed: Observed,
    before: Baseline,
    failures: Vec<u32>,
    began: Option<Running>,
}

impl Checker {
    /// Checks that have not been asked yet, with what was measured before the update. A new one for each
    /// start of the services.
    pub fn new(package: PackageName, observed: Observed, before: Baseline) -> Checker {
        let failures = vec![0; observed.checks.len()];
        Checker { package, observed, before, failures, began: None }
    }

    /// How long to wait between two rounds.
    pub fn interval(&self) -> Duration {
        Duration::from_secs(self.observed.interval_seconds.into())
    }

    /// Asks every check once, at this moment of running time. The worst answer is the verdict.
    pub fn round(&mut self, prober: &mut dyn Prober, now: Running) -> Verdict {
        let began = *self.began.get_or_insert(now);
        let starting = now.since(began) < Duration::from_secs(self.observed.start_seconds.into());
        let (mut said, mut bad, mut unknown) = (0, Vec::new(), Vec::new());
        let mut checks = Vec::new();
        for (check, failures) in self.observed.checks.iter().zip(&mut self.failures) {
            let id = CheckId { package: self.package.clone(), check: check.name.clone() };
            let Some(answer) = judged(check, prober.probe(check), &self.before, &id) else {
                continue;
            };
            said += 1;
            match answer {
                Ok(()) => *failures = 0,
                // Neither a failure nor the end of a row of them.
                Err(Trouble::Unknown(why)) => unknown.push(format!("{}: {why}", check.name)),
                Err(Trouble::Failed(why)) if starting => {
                    unknown.push(format!("{}: still starting: {why}", check.name));
                }
                Err(Trouble::Failed(why)) => {
                    *failures = failures.saturating_add(1);
                    let (failed, of) = (*failures, self.observed.failures);
                    let text = format!("{}: {why} ({failed} times in a row)", check.name);
                    if failed < of {
                        unknown.push(text);
                        continue;
                    }
                    bad.push(text);
                    checks.push(id);
                }
            }
        }
        if said == 0 {
            unknown.push("nothing ran before that any check could compare with".to_owned());
        }
        match (bad.is_empty(), unknown.is_empty()) {
            (true, true) => Verdict::Good,
            (true, false) => Verdict::Unknown { text: unknown.join("; ") },
            (false, _) => Verdict::Bad { text: bad.join("; "), checks },
        }
    }
}

/// Why a check is not good.
enum Trouble {
    Failed(String),
    Unknown(String),
}

/// What an answer says of the release; `None`: nothing.
fn judged(
    check: &Check,
    answer: Answer,
    before: &Baseline,
    id: &CheckId,
) -> Option<Result<(), Trouble>> {
    let (now, limit) = match (answer, check.probe.limit()) {
        (Answer::Measured(now), Some(limit)) => (now, limit),
        (Answer::Measured(_), None) => {
            return Some(Err(Trouble::Unknown("it asks, and was answered with a number".into())));
        }
        (Answer::Good, _) => return Some(Ok(())),
        (Answer::Failed(why), _) => return Some(Err(Trouble::Failed(why))),
        (Answer::Unknown(why) | Answer::Absent(why), _) => {
            return Some(Err(Trouble::Unknown(why)));
        }
    };
    let unit = check.probe.unit();
    match compare(before.found(id), now, &limit) {
        Compared::Good => Some(Ok(())),
        Compared::NoSay => None,
        Compared::Unknown(why) => Some(Err(Trouble::Unknown(format!("{now} {unit}: {why}")))),
        Compared::Over { before: Some(before) } => {
            let text = format!("{now} {unit}, and at most {before} before the update");
            Some(Err(Trouble::Failed(text)))
        }
        Compared::Over { before: None } => {
            let most = limit.most.unwrap_or_default();
            Some(Err(Trouble::Failed(format!(
                "{now} {unit}, more than the {most} of the manifest"
            ))))
        }
    }
}

/// The worst of several packages' verdicts: they switch together, and are healthy together or not. Of bad
/// ones, all that failed is named.
pub fn worst(verdicts: impl IntoIterator<Item = Verdict>) -> Verdict {
    verdicts.into_iter().fold(Verdict::Good, |worst, verdict| match (worst, verdict) {
        (Verdict::Bad { text, mut checks }, Verdict::Bad { text: other, checks: others }) => {
            checks.extend(others);
            Verdict::Bad { text: format!("{text}; {other}"), checks }
        }
        (bad @ Verdict::Bad { .. }, _) | (_, bad @ Verdict::Bad { .. }) => bad,
        (unknown @ Verdict::Unknown { .. }, _) | (_, unknown @ Verdict::Unknown { .. }) => unknown,
        (Verdict::Good, Verdict::Good) => Verdict::Good,
    })
}

/// Asks checks on this host.
pub struct HostProber<'a> {
    /// What runs the package's services.
    pub services: &'a mut dyn Services,
    /// The host's variables.
    pub variables: &'a Variables,
    /// The package's tree.
    pub folder: PathBuf,
    /// What was measured last.
    pub meters: &'a mut Meters,
    /// When it is asked.
    pub now: Running,
    /// The ways to other hosts.
    pub ways: &'a mut Ways,
}

impl Prober for HostProber<'_> {
    fn probe(&mut self, check: &Check) -> Answer {
        let timeout = Duration::from_secs(check.timeout_seconds.into());
        let expanded = |text: &str| expand(text, self.variables);
        match &check.probe {
            Probe::Command { command } => self.command(check, command, timeout),
            Probe::Tcp { address } => match expanded(address) {
                Ok(address) => self.over_network(Some(&address), || tcp(&address, timeout)),
                Err(error) => Answer::Unknown(error.to_string()),
            },
            Probe::Http { url, status, body } => match expanded(url) {
                Ok(url) => self.over_network(http::authority(&url).as_deref(), || {
                    let wanted = http::Wanted { status: *status, body: body.as_deref() };
                    http::ask(&url, wanted, timeout)
                }),
                Err(error) => Answer::Unknown(error.to_string()),
            },
            Probe::Grpc { address, service } => match expanded(address) {
                Ok(address) => {
                    self.over_network(Some(&address), || grpc::ask(&address, service, timeout))
                }
                Err(error) => Answer::Unknown(error.to_string()),
            },
            Probe::Unit { service } => match UnitName::parse(&format!("{service}.service")) {
                Ok(unit) => self.unit(check, &unit),
                Err(error) => Answer::Unknown(error.to_string()),
            },
            Probe::Errors { .. }
            | Probe::Cpu { .. }
            | Probe::Memory { .. }
            | Probe::Descriptors { .. }
            | Probe::Disk { .. } => {
                self.meters.read(check, self.services, self.variables, self.now)
            }
        }
    }
}

/// How long the addresses behind a name are waited for once more.
const NAME_PATIENCE: Duration = Duration::from_secs(1);

impl HostProber<'_> {
    /// What fails over the network says nothing before this host has a way there: it has just booted.
    fn over_network(&mut self, address: Option<&str>, ask: impl FnOnce() -> Answer) -> Answer {
        // Looked for in any case, so that a way that is there now is known later.
        let numeric = address.and_then(|address| address.parse::<SocketAddr>().ok());
        let way = numeric.is_none_or(|address| self.ways.lead_to(address.ip()));
        match ask() {
            Answer::Failed(why) if !way || !self.leads(address) => {
                Answer::Unknown(format!("this host has no network yet: {why}"))
            }
            answer => answer,
        }
    }

    /// Whether there is a way to one of the addresses behind a name.
    fn leads(&mut self, address: Option<&str>) -> bool {
        let Some(address) = address else { return true };
        match resolve(address, Instant::now() + NAME_PATIENCE) {
            Ok(behind) => behind.iter().any(|address| self.ways.lead_to(address.ip())),
            Err(_) => false,
        }
    }

    fn command(&self, check: &Check, command: &[String], timeout: Duration) -> Answer {
        let (program, arguments) = match resolve_command(command, &self.folder, self.variables) {
            Ok(resolved) => resolved,
            Err(error) => return Answer::Unknown(error.to_string()),
        };
        let run = Program {
            program: program.clone().into(),
            arguments,
            folder: self.folder.clone(),
            environment: Default::default(),
            mark: format!("check {} {}", check.name, self.folder.display()),
        };
        match run.run(timeout) {
            Ok(Ended::Exited { code: Some(0), .. }) => Answer::Good,
            Ok(Ended::Exited { code: Some(code), output }) => {
                Answer::Failed(format!("{program} ended with {code}: {output}"))
            }
            Ok(Ended::Exited { code: None, .. }) => {
                Answer::Failed(format!("{program} was killed by a signal"))
            }
            Ok(Ended::TimedOut { .. }) => {
                Answer::Failed(format!("{program} took longer than {} s", timeout.as_secs()))
            }
            Err(error) => Answer::Unknown(format!("{program} does not start: {error}")),
        }
    }

    fn unit(&mut self, check: &Check, unit: &UnitName) -> Answer {
        let state = self.services.state(unit).map(|state| match state {
            ServiceState::Active { restarts } => {
                ServiceState::Active { restarts: self.meters.ended(&check.name, restarts) }
            }
            ServiceState::Changing { restarts } => {
                ServiceState::Changing { restarts: self.meters.ended(&check.name, restarts) }
            }
            state @ (ServiceState::Stopped
            | ServiceState::Failed { .. }
            | ServiceState::Unknown) => state,
        });
        match state {
            Ok(ServiceState::Active { restarts: 0 }) => Answer::Good,
            Ok(ServiceState::Changing { restarts: 0 }) => {
                Answer::Unknown(format!("{unit} is on its way up or down"))
            }
            Ok(ServiceState::Active { restarts } | ServiceState::Changing { restarts }) => {
                Answer::Failed(format!("{unit} has ended {restarts} times"))
            }
            Ok(ServiceState::Stopped) => Answer::Failed(format!("{unit} does not run")),
            Ok(ServiceState::Failed { text }) => Answer::Failed(format!("{unit} failed: {text}")),
            Ok(ServiceState::Unknown) => Answer::Failed(format!("{unit} is not known")),
            Err(error) => Answer::Unknown(error.to_string()),
        }
    }
}

fn tcp(address: &str, timeout: Duration) -> Answer {
    match connect(address, Instant::now() + timeout) {
        Ok(_) => Answer::Good,
        Err(answer) => answer,
    }
}

/// Connects to the first address that takes it.
fn connect(address: &str, deadline: Instant) -> Result<TcpStream, Answer> {
    let addresses = resolve(address, deadline)?;
    let mut answer = Answer::Unknown(format!("{address} has no address"));
    for candidate in addresses {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Answer::Failed(format!("{address} took too long")));
        }
        answer = match TcpStream::connect_timeout(&candidate, left) {
            Ok(stream) => return Ok(stream),
            Err(error) => match error.kind() {
                // It may be the network, not the service.
                io::ErrorKind::NetworkUnreachable
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkDown
                | io::ErrorKind::AddrNotAvailable => Answer::Unknown(format!("{address}: {error}")),
                _ => Answer::Failed(format!("{address}: {error}")),
            },
        };
    }
    Err(answer)
}

/// The addresses behind a name. Asked beside this thread, since the system's resolver has no bound.
fn resolve(address: &str, deadline: Instant) -> Result<Vec<SocketAddr>, Answer> {
    if let Ok(numeric) = address.parse() {
        return Ok(vec![numeric]);
    }
    let (sender, answers) = mpsc::channel();
    let name = address.to_owned();
    thread::spawn(move || sender.send(name.to_socket_addrs().map(Vec::from_iter)));
    match answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(Ok(addresses)) => Ok(addresses),
        Ok(Err(error)) => Err(Answer::Unknown(format!("{address} has no address: {error}"))),
        Err(_) => Err(Answer::Unknown(format!("nobody says the address of {address} in time"))),
    }
}

#[cfg(test)]
mod tests;
