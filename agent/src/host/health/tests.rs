//! What answers add up to, and what each probe says of a service that a test plays.

use std::{
    collections::VecDeque,
    io::{Read as _, Write as _},
    net::TcpListener,
};

use super::*;
use crate::{
    host::service::{ErrorsSince, LoggedErrors, Service, ServiceError, UnitFile},
    update::Found,
};

fn package() -> PackageName {
    PackageName::parse("payments").unwrap()
}

/// A network with a way to everywhere, or to nowhere.
struct Linked(bool);

impl crate::host::network_up::Network for Linked {
    fn leads_to(&self, _: std::net::IpAddr) -> bool {
        self.0
    }
}

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
    let mut checker = Checker::new(package(), observed, Baseline::default());
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
    let bad_of = |name: &str| {
        let check = CheckId { package: package(), check: PackageName::parse(name).unwrap() };
        Verdict::Bad { text: name.into(), checks: vec![check] }
    };
    let bad = bad_of("a");
    assert_eq!(worst([good.clone(), bad.clone(), unknown.clone()]), bad);
    let Verdict::Bad { text, checks } = worst([bad, unknown.clone(), bad_of("b")]) else {
        panic!("bad")
    };
    assert_eq!((text.as_str(), checks.len()), ("a; b", 2), "none of them is lost");
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
    let mut prober = HostProber {
        services: &mut Stand(stand),
        variables: &variables,
        folder: "/".into(),
        meters: &mut Meters::default(),
        now: Running::default(),
        ways: &mut Ways::of(Linked(true)),
    };
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
    ask(Probe::Http { url, status, body: None })
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
            Answer::Measured(_) | Answer::Absent(_) => '?',
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
    let error = ServiceError { action: "ask for", unit: "payments".into(), why: "no D-Bus".into() };
    assert_eq!(on(Err(error)), 'u');
}

#[test]
fn a_number_is_compared_with_what_was_measured_before_and_only_a_row_of_them_is_bad() {
    let id = CheckId { package: package(), check: PackageName::parse("size").unwrap() };
    let probe = Probe::Memory { service: package(), growth: Default::default() };
    let verdicts = |found: Option<Found>, answers: &[Answer]| {
        let tcp = Probe::Tcp { address: "x:1".into() };
        let checks = vec![check("answers", tcp), check("size", probe.clone())];
        let observed = Observed { checks, start_seconds: 0, failures: 2, ..Observed::default() };
        let before = Baseline::of(found.map(|found| (id.clone(), found)));
        let mut checker = Checker::new(package(), observed, before);
        let mut said = String::new();
        for answer in answers {
            let mut script = Script([Answer::Good, answer.clone()].into());
            said.push(match checker.round(&mut script, Running::default()) {
                Verdict::Good => 'g',
                Verdict::Unknown { .. } => 'u',
                Verdict::Bad { checks, .. } => {
                    assert_eq!(checks, std::slice::from_ref(&id));
                    'b'
                }
            });
        }
        said
    };
    let (small, large) = (Answer::Measured(300 << 20), Answer::Measured(600 << 20));
    let measured = Some(Found::Measured { samples: vec![200 << 20, 250 << 20] });
    let rounds = [small.clone(), large.clone(), small.clone(), large.clone(), large.clone()];
    assert_eq!(verdicts(measured.clone(), &rounds), "gugub");
    let gone = Answer::Absent("it does not run".into());
    assert_eq!(verdicts(measured, &[gone.clone(), gone]), "uu");
    assert_eq!(verdicts(None, &[small.clone(), large.clone(), large.clone()]), "uuu");
    // Where nothing ran before, the other check decides.
    assert_eq!(verdicts(Some(Found::Absent), &[large.clone(), large]), "gg");
}

#[test]
fn a_failing_probe_of_another_host_says_nothing_before_this_one_has_a_network() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let ask = |probe: &Probe, network: bool| {
        let mut prober = HostProber {
            services: &mut Stand(Ok(ServiceState::Stopped)),
            variables: &Variables::new(),
            folder: "/".into(),
            meters: &mut Meters::default(),
            now: Running::default(),
            ways: &mut Ways::of(Linked(network)),
        };
        prober.probe(&check("answers", probe.clone()))
    };
    // 0.0.0.0 is this host as well, but by no name that says so.
    let other = format!("0.0.0.0:{port}");
    for probe in [
        Probe::Tcp { address: other.clone() },
        Probe::Http { url: format!("http://{other}/"), status: None, body: None },
        Probe::Grpc { address: other, service: String::new() },
    ] {
        assert!(matches!(ask(&probe, false), Answer::Unknown(_)), "{probe:?}");
        assert!(matches!(ask(&probe, true), Answer::Failed(_)), "{probe:?}");
    }
    for own in [format!("127.0.0.1:{port}"), format!("localhost:{port}")] {
        let own = Probe::Tcp { address: own };
        assert!(matches!(ask(&own, false), Answer::Failed(_)), "{own:?}");
    }
}

#[test]
fn a_unit_that_ended_long_ago_is_not_red_before_the_update_and_one_that_ends_now_is() {
    let mut meters = Meters::new(When::Before);
    let mut ask = |restarts| {
        let mut prober = HostProber {
            services: &mut Stand(Ok(ServiceState::Active { restarts })),
            variables: &Variables::new(),
            folder: "/".into(),
            meters: &mut meters,
            now: Running::default(),
            ways: &mut Ways::of(Linked(true)),
        };
        prober.probe(&check("runs", Probe::Unit { service: package() }))
    };
    assert_eq!(ask(7), Answer::Good);
    assert_eq!(ask(7), Answer::Good);
    assert!(matches!(ask(8), Answer::Failed(_)));
}

#[test]
fn what_the_agents_own_supervisor_cannot_tell_is_unknown() {
    let growth = Default::default;
    for probe in [
        Probe::Cpu { service: package(), growth: growth() },
        Probe::Memory { service: package(), growth: growth() },
        Probe::Descriptors { service: package(), growth: growth() },
        Probe::Errors { service: package(), growth: growth() },
    ] {
        let said = ask_on(Ok(ServiceState::Active { restarts: 0 }), probe.clone());
        assert!(matches!(said, Answer::Unknown(_)), "{probe:?}: {said:?}");
    }
}

/// A manager whose cgroups and journal a test writes.
struct Measured {
    cgroup: Option<String>,
    errors: VecDeque<u64>,
}

impl Services for Measured {
    fn unit_files(&self, _: &Service) -> Result<Vec<UnitFile>, ServiceError> {
        Ok(Vec::new())
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
        Ok(ServiceState::Active { restarts: 0 })
    }
    fn log(&mut self, _: &UnitName) -> String {
        String::new()
    }
    fn cgroup(&mut self, _: &UnitName) -> Result<Option<String>, ServiceError> {
        Ok(self.cgroup.clone())
    }
    fn errors(&mut self, _: &UnitName, _: &ErrorsSince) -> Result<LoggedErrors, ServiceError> {
        Ok(LoggedErrors::of(self.errors.pop_front().unwrap_or_default()))
    }
}

#[test]
fn errors_are_counted_over_the_last_minute_of_running_time() {
    let mut services = Measured { cgroup: None, errors: [0, 3, 4, 5, 0].into() };
    let mut meters = Meters::new(When::After);
    let errors = check("errors", Probe::Errors { service: package(), growth: Default::default() });
    let mut now = Running::default();
    let mut said = Vec::new();
    for _ in 0..5 {
        said.push(meters.read(&errors, &mut services, &Variables::new(), now));
        now = now.plus(Duration::from_secs(25));
    }
    let counted = [0, 3, 7, 12, 9].map(Answer::Measured);
    assert_eq!(said, counted, "those of 60 s ago and more are not in it");
}

#[test]
fn a_service_that_does_not_run_uses_nothing_that_could_be_compared() {
    let mut services = Measured { cgroup: None, errors: VecDeque::new() };
    let cpu = check("cpu", Probe::Cpu { service: package(), growth: Default::default() });
    let said = Meters::default().read(&cpu, &mut services, &Variables::new(), Running::default());
    assert!(matches!(said, Answer::Absent(_)), "{said:?}");
}
