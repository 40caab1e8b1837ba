//! Who may come in, and how those who may not are told.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use refit_tests::{
    process::{Ran, command},
    release::Behaviour,
    sandbox::Sandbox,
    wait::until,
};

fn enroll(fleet: &Sandbox, name: &str, token: &str) -> Ran {
    let data = fleet.path().join(name).join("data");
    fs::create_dir_all(&data).unwrap();
    let mut enroll = command("refit-agent").unwrap();
    enroll.args(["enroll", "--token", token, "--name", name, "--data"]).arg(data);
    Ran::of(&mut enroll).unwrap()
}

#[test]
fn a_used_wrong_or_foreign_token_is_refused_on_both_sides_and_on_record() {
    let fleet = Sandbox::new(&super::ONE_RING).unwrap();
    let token = fleet.token(&["ring=pilot"]).unwrap();
    enroll(&fleet, "web-1", &token).good().unwrap();
    // The same host again: nothing changes, and it is no error of the fleet's.
    let again = enroll(&fleet, "web-1", &token);
    assert!(format!("{}{}", again.out, again.err).contains("enrolled"), "{again:?}");
    let used = enroll(&fleet, "web-2", &token).refused().unwrap();
    assert!(used.contains("used") && used.contains("help:"), "{used}");
    let mangled = enroll(&fleet, "web-3", &token[..token.len() - 3]).refused().unwrap();
    assert!(mangled.contains("help:"), "{mangled}");
    let other = Sandbox::new(&super::ONE_RING).unwrap();
    let foreign = other.token(&["ring=pilot"]).unwrap();
    let parsed = refit_proto::token::Token::parse(&foreign).unwrap();
    let mut stolen = parsed.clone();
    stolen.server = format!("127.0.0.1:{}", fleet.port());
    // The token's authority is not this server's: the host itself hangs up.
    let refused = enroll(&fleet, "web-4", &stolen.to_text()).refused().unwrap();
    assert!(refused.contains("help:"), "{refused}");
    let audit = fleet.refit(["audit", "list"]).unwrap();
    assert!(audit.contains("token") && audit.contains("refused"), "{audit}");
}

#[test]
fn an_expired_token_is_refused() {
    let fleet = Sandbox::new(&super::ONE_RING).unwrap();
    let out = fleet.refit(["token", "create", "--label", "ring=pilot", "--expires", "5s"]).unwrap();
    let token = out.split_whitespace().find(|word| word.starts_with("refit1-")).unwrap().to_owned();
    let expires = refit_proto::token::Token::parse(&token).unwrap().expires;
    until("the token has expired", || {
        let now = jiff::Timestamp::try_from(std::time::SystemTime::UNIX_EPOCH)?
            + jiff::SignedDuration::try_from(std::time::UNIX_EPOCH.elapsed()?)?;
        Ok((now > expires).then_some(()))
    })
    .unwrap();
    let refused = enroll(&fleet, "web-1", &token).refused().unwrap();
    assert!(refused.contains("expired") && refused.contains("help:"), "{refused}");
}

#[test]
fn a_revoked_host_is_refused_at_once_and_a_retired_one_leaves_every_count() {
    let mut fleet = super::one_host_on_1_0();
    fleet.host("web-2", &["ring=pilot"]).unwrap();
    fleet.until_runs("web-2", "1.0").unwrap();
    fleet.refit(["host", "revoke", "web-2", "--reason", "stolen"]).unwrap();
    until("the revoked host's agent says so", || {
        let log = fs::read_to_string(fleet.host_named("web-2").folder().join("agent.log"))?;
        Ok(log.contains("revoked").then_some(()))
    })
    .unwrap();
    super::install(&fleet, "1.1");
    assert_eq!(fleet.host_named("web-2").says().unwrap(), "payments 1.0");
    fleet.refit(["host", "retire", "web-2", "--reason", "scrapped"]).unwrap();
    until("the retired host is in no count", || Ok((fleet.status()?["hosts"] == 1).then_some(())))
        .unwrap();
}

#[test]
fn garbage_on_its_ports_does_not_stop_the_server() {
    let mut fleet = super::one_host_on_1_0();
    for port in [fleet.port(), fleet.status_port()] {
        for garbage in [
            &b""[..],
            b"GET / HTTP/1.1\r\n\r\n",
            &[0; 70_000],
            b"\x16\x03\x01\xff\xff",
            &[0xff; 999],
        ] {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            // The server may hang up at any moment; that is what it should do.
            let _ = stream.write_all(garbage);
            let _ = stream.read(&mut [0; 4096]);
        }
    }
    assert!(fleet.server().unwrap().runs());
    fleet.publish("1.1", Behaviour::Good).unwrap();
    fleet.promote("1.1", "pilot").unwrap();
    fleet.until_runs("web-1", "1.1").unwrap();
}
