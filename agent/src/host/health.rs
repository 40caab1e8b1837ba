//! Whether a release works on this host: asks what its manifest's checks say, and adds the answers up
//! to one verdict. Bad is only what failed as often in a row as the manifest allows; what cannot be
//! asked is unknown. What follows from a verdict is decided in [`crate::update`].

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream, ToSocketAddrs as _},
    path::PathBuf,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use refit_proto::package::{Check, Observed, Probe, Variables, expand};

use super::{
    process::{Ended, Program},
    service::{ServiceState, Services, UnitName, resolve_command},
};
use crate::update::{Running, Verdict};

/// What one check says, this one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It passed.
    Good,
    /// It failed, and how.
    Failed(String),
    /// It could not be asked, and why.
    Unknown(String),
}

/// What asks one check.
pub trait Prober {
    /// Asks it once.
    fn probe(&mut self, check: &Check) -> Answer;
}

/// The checks of one package, and how often each has failed in a row.
#[derive(Debug, Clone)]
pub struct Checker {
    observed: Observed,
    failures: Vec<u32>,
    began: Option<Running>,
}

impl Checker {
    /// Checks that have not been asked yet. A new one for each start of the services.
    pub fn new(observed: Observed) -> Checker {
        let failures = vec![0; observed.checks.len()];
        Checker { observed, failures, began: None }
    }

    /// How long to wait between two rounds.
    pub fn interval(&self) -> Duration {
        Duration::from_secs(self.observed.interval_seconds.into())
    }

    /// Asks every check once, at this moment of running time. The worst answer is the verdict.
    pub fn round(&mut self, prober: &mut dyn Prober, now: Running) -> Verdict {
        let began = *self.began.get_or_insert(now);
        let starting = now.since(began) < Duration::from_secs(self.observed.start_seconds.into());
        let mut bad = Vec::new();
        let mut unknown = Vec::new();
        for (check, failures) in self.observed.checks.iter().zip(&mut self.failures) {
            match prober.probe(check) {
                Answer::Good => *failures = 0,
                // Neither a failure nor the end of a row of them.
                Answer::Unknown(why) => unknown.push(format!("{}: {why}", check.name)),
                Answer::Failed(why) if starting => {
                    unknown.push(format!("{}: still starting: {why}", check.name));
                }
                Answer::Failed(why) => {
                    *failures = failures.saturating_add(1);
                    let (failed, of) = (*failures, self.observed.failures);
                    let text = format!("{}: {why} ({failed} times in a row)", check.name);
                    if failed >= of { bad.push(text) } else { unknown.push(text) }
                }
            }
        }
        match (bad.is_empty(), unknown.is_empty()) {
            (true, true) => Verdict::Good,
            (true, false) => Verdict::Unknown { text: unknown.join("; ") },
            (false, _) => Verdict::Bad { text: bad.join("; ") },
        }
    }
}

/// The worst of several packages' verdicts: they switch together, and are healthy together or not.
pub fn worst(verdicts: impl IntoIterator<Item = Verdict>) -> Verdict {
    let rank = |verdict: &Verdict| match verdict {
        Verdict::Good => 0,
        Verdict::Unknown { .. } => 1,
        Verdict::Bad { .. } => 2,
    };
    verdicts.into_iter().max_by_key(rank).unwrap_or(Verdict::Good)
}

/// Asks checks on this host.
pub struct HostProber<'a> {
    /// What runs the package's services.
    pub services: &'a mut dyn Services,
    /// The host's variables.
    pub variables: &'a Variables,
    /// The package's tree.
    pub folder: PathBuf,
}

impl Prober for HostProber<'_> {
    fn probe(&mut self, check: &Check) -> Answer {
        let timeout = Duration::from_secs(check.timeout_seconds.into());
        match &check.probe {
            Probe::Command { command } => self.command(check, command, timeout),
            Probe::Tcp { address } => match expand(address, self.variables) {
                Ok(address) => tcp(&address, timeout),
                Err(error) => Answer::Unknown(error.to_string()),
            },
            Probe::Http { url, status } => match expand(url, self.variables) {
                Ok(url) => http(&url, *status, timeout),
                Err(error) => Answer::Unknown(error.to_string()),
            },
            Probe::Unit { service } => match UnitName::parse(&format!("{service}.service")) {
                Ok(unit) => self.unit(&unit),
                Err(error) => Answer::Unknown(error.to_string()),
            },
        }
    }
}

impl HostProber<'_> {
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

    fn unit(&mut self, unit: &UnitName) -> Answer {
        match self.services.state(unit) {
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

/// The longest beginning of an answer that is read: more than any status line.
const LONGEST_STATUS_LINE: usize = 1024;

/// One GET, and its status.
fn http(url: &str, expected: Option<u16>, timeout: Duration) -> Answer {
    let Some((authority, path)) = split_url(url) else {
        return Answer::Unknown(format!("{url:?} is no address of the form http://host:port/path"));
    };
    let address =
        if has_port(authority) { authority.to_owned() } else { format!("{authority}:80") };
    let deadline = Instant::now() + timeout;
    let stream = match connect(&address, deadline) {
        Ok(stream) => stream,
        Err(answer) => return answer,
    };
    match get(stream, authority, path, deadline) {
        Ok(Some(status))
            if expected.map_or((200..=299).contains(&status), |want| want == status) =>
        {
            Answer::Good
        }
        Ok(Some(status)) => Answer::Failed(format!("{url} answers {status}")),
        Ok(None) => Answer::Failed(format!("{url} answers something else than HTTP")),
        Err(error) => Answer::Failed(format!("{url}: {error}")),
    }
}

/// Host and path of `http://host/path`, if nothing in them could be another request.
fn split_url(url: &str) -> Option<(&str, &str)> {
    let rest = url.strip_prefix("http://")?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let plain = rest.bytes().all(|byte| byte.is_ascii_graphic());
    (plain && !authority.is_empty() && !authority.contains('@')).then_some((authority, path))
}

fn has_port(authority: &str) -> bool {
    // In `[::1]` the colons are the address's.
    authority.rsplit_once(']').map_or(authority, |(_, after)| after).contains(':')
}

fn get(
    mut stream: TcpStream,
    authority: &str,
    path: &str,
    deadline: Instant,
) -> io::Result<Option<u16>> {
    let slash = if path.starts_with('/') { "" } else { "/" };
    let request = format!(
        "GET {slash}{path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: refit-agent\r\n\
         Accept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.set_write_timeout(Some(left(deadline)?))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut buffer = [0; 256];
    while !answer.contains(&b'\n') && answer.len() < LONGEST_STATUS_LINE {
        // The bound is for the whole answer: a service that drips does not hold the check.
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut buffer)? {
            0 => break,
            length => answer.extend_from_slice(&buffer[..length]),
        }
    }
    Ok(status_of(&answer))
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// The status in the first line of an answer: `HTTP/1.1 200 OK`.
fn status_of(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_whitespace();
    let version = words.next()?;
    let status = words.next().filter(|status| status.len() == 3)?;
    version.starts_with("HTTP/1.").then(|| status.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, net::TcpListener};

    use refit_proto::names::PackageName;

    use super::*;
    use crate::host::service::{Service, ServiceError, UnitFile};

    fn check(name: &str, probe: Probe) -> Check {
        Check { name: PackageName::parse(name).unwrap(), probe, timeout_seconds: 1 }
    }

    /// Answers in their order.
    struct Script(VecDeque<Answer>);

    impl Prober for Script {
        fn probe(&mut self, _: &Check) -> Answer {
            self.0.pop_front().unwrap()
        }
    }

    /// One letter per round, in and out: good, failed or bad, unknown. Five seconds between rounds.
    fn verdicts(start_seconds: u32, failures: u32, answers: &str) -> String {
        let tcp = Probe::Tcp { address: "x:1".into() };
        let observed = Observed {
            checks: vec![check("answers", tcp)],
            start_seconds,
            failures,
            ..Observed::default()
        };
        let mut checker = Checker::new(observed);
        let mut now = Running::from_nanos(7_000_000_000);
        let mut verdicts = String::new();
        for answer in answers.chars() {
            let answer = match answer {
                'g' => Answer::Good,
                'f' => Answer::Failed("503".into()),
                _ => Answer::Unknown("no program".into()),
            };
            verdicts.push(match checker.round(&mut Script([answer].into()), now) {
                Verdict::Good => 'g',
                Verdict::Bad { .. } => 'b',
                Verdict::Unknown { .. } => 'u',
            });
            now = now.plus(Duration::from_secs(5));
        }
        verdicts
    }

    #[test]
    fn bad_is_only_what_failed_so_often_in_a_row() {
        assert_eq!(verdicts(0, 3, "ffgfffgf"), "uuguubgu");
        assert_eq!(verdicts(0, 1, "gfg"), "gbg");
    }

    #[test]
    fn what_cannot_be_asked_is_unknown_however_often_and_hides_no_failure() {
        assert_eq!(verdicts(0, 2, "xxxxxxxx"), "uuuuuuuu");
        assert_eq!(verdicts(0, 2, "fxf"), "uub");
    }

    #[test]
    fn a_service_that_still_starts_is_not_bad() {
        assert_eq!(verdicts(15, 2, "fffff"), "uuuub");
    }

    #[test]
    fn one_bad_check_outweighs_all_good_and_unknown_ones() {
        let text = String::new;
        let (good, unknown) = (Verdict::Good, Verdict::Unknown { text: text() });
        let bad = Verdict::Bad { text: text() };
        assert_eq!(worst([good.clone(), bad.clone(), unknown.clone()]), bad);
        assert_eq!(worst([unknown.clone(), good.clone()]), unknown);
        assert_eq!(worst([]), good);
    }

    /// Services in this state.
    struct Stand(Result<ServiceState, ServiceError>);

    impl Services for Stand {
        fn unit_files(&self, _: &Service) -> Result<Vec<UnitFile>, ServiceError> {
            Ok(vec![])
        }
        fn reload(&mut self) -> Result<(), ServiceError> {
            Ok(())
        }
        fn start(&mut self, _: &UnitName) -> Result<(), ServiceError> {
            Ok(())
        }
        fn stop(&mut self, _: &UnitName) -> Result<(), ServiceError> {
            Ok(())
        }
        fn state(&mut self, _: &UnitName) -> Result<ServiceState, ServiceError> {
            self.0.clone()
        }

        fn log(&mut self, _: &UnitName) -> String {
            String::new()
        }
    }

    fn ask_on(stand: Result<ServiceState, ServiceError>, probe: Probe) -> Answer {
        let variables = Variables::from([("PORT".into(), "1".into())]);
        let mut prober =
            HostProber { services: &mut Stand(stand), variables: &variables, folder: "/".into() };
        prober.probe(&check("answers", probe))
    }

    fn ask(probe: Probe) -> Answer {
        ask_on(Ok(ServiceState::Stopped), probe)
    }

    /// A listener that reads a request and answers with these bytes, a part at a time.
    fn server(parts: &'static [&'static str]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]);
            for part in parts {
                let _ = stream.write_all(part.as_bytes());
                let _ = stream.flush();
            }
            // Kept open: an answer is whole with its first line.
            let _ = stream.read(&mut [0; 1]);
        });
        address
    }

    fn get_from(parts: &'static [&'static str], status: Option<u16>) -> Answer {
        let url = format!("http://{}/health?x=1", server(parts));
        ask(Probe::Http { url, status })
    }

    #[test]
    fn an_http_check_goes_by_the_status_alone() {
        assert_eq!(get_from(&["HTTP/1.1 200 OK\r\n\r\n"], None), Answer::Good);
        assert_eq!(get_from(&["HT", "TP/1.0 2", "04 No", "\n"], None), Answer::Good);
        assert_eq!(get_from(&["HTTP/1.1 503 Down\r\n\r\n"], Some(503)), Answer::Good);
        for wrong in [
            &["HTTP/1.1 503 Service Unavailable\r\n\r\n"] as &[&str],
            &["HTTP/1.1 302 Found\r\n\r\n"],
            &["HTTP/1.1 2000\r\n"],
            &["SSH-2.0-OpenSSH\r\n"],
            &["\r\n"],
        ] {
            assert!(matches!(get_from(wrong, None), Answer::Failed(_)), "{wrong:?}");
        }
        assert!(matches!(get_from(&["HTTP/1.1 200 OK\r\n"], Some(204)), Answer::Failed(_)));
    }

    #[test]
    fn a_service_that_accepts_and_says_nothing_fails_in_time() {
        let answer = get_from(&[], None);
        assert!(matches!(answer, Answer::Failed(_)), "{answer:?}");
    }

    #[test]
    fn a_port_on_which_nobody_listens_fails_and_a_name_without_address_is_unknown() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        assert_eq!(ask(Probe::Tcp { address: address.clone() }), Answer::Good);
        drop(listener);
        assert!(matches!(ask(Probe::Tcp { address }), Answer::Failed(_)));
        let nowhere = Probe::Tcp { address: "no-such-host.invalid:80".into() };
        assert!(matches!(ask(nowhere), Answer::Unknown(_)));
        let undefined = Probe::Tcp { address: "127.0.0.1:${NOWHERE}".into() };
        assert!(matches!(ask(undefined), Answer::Unknown(_)));
    }

    #[test]
    fn an_address_that_is_more_than_an_address_is_not_asked() {
        for url in ["https://x/", "http://", "http://a b/", "http://x/\r\nX: y", "http://u@x/"] {
            let asked = ask(Probe::Http { url: url.into(), status: None });
            assert!(matches!(asked, Answer::Unknown(_)), "{url:?}");
        }
        assert_eq!(split_url("http://x?y"), Some(("x", "?y")));
        assert!(has_port("[::1]:80") && !has_port("[::1]") && !has_port("x"));
    }

    #[test]
    fn a_command_goes_by_its_exit_code_and_one_that_cannot_start_is_unknown() {
        let run = |words: &[&str]| {
            let command = words.iter().map(|word| (*word).to_owned()).collect();
            ask(Probe::Command { command })
        };
        assert_eq!(run(&["true"]), Answer::Good);
        assert!(matches!(run(&["false"]), Answer::Failed(_)));
        assert!(matches!(run(&["sleep", "600"]), Answer::Failed(_)));
        assert!(matches!(run(&["/no/such/program"]), Answer::Unknown(_)));
        assert!(matches!(run(&["true", "${NOWHERE}"]), Answer::Unknown(_)));
    }

    #[test]
    fn a_unit_is_good_only_if_it_runs_and_was_never_started_again() {
        let on = |state| {
            let service = PackageName::parse("payments").unwrap();
            match ask_on(state, Probe::Unit { service }) {
                Answer::Good => 'g',
                Answer::Failed(_) => 'f',
                Answer::Unknown(_) => 'u',
            }
        };
        let text = String::new();
        assert_eq!(on(Ok(ServiceState::Active { restarts: 0 })), 'g');
        assert_eq!(on(Ok(ServiceState::Active { restarts: 1 })), 'f');
        assert_eq!(on(Ok(ServiceState::Changing { restarts: 0 })), 'u');
        assert_eq!(on(Ok(ServiceState::Changing { restarts: 2 })), 'f');
        assert_eq!(on(Ok(ServiceState::Stopped)), 'f');
        assert_eq!(on(Ok(ServiceState::Failed { text })), 'f');
        assert_eq!(on(Ok(ServiceState::Unknown)), 'f');
        let error =
            ServiceError { action: "ask for", unit: "payments".into(), why: "no D-Bus".into() };
        assert_eq!(on(Err(error)), 'u');
    }
}
