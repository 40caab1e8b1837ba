//! Where the server is and who vouches for it is signed: a server moves and its authority is replaced
//! without anybody touching a host, and a slip in the signed list strands no fleet.

use std::fs;

use refit_durable::testing::not_run;
use refit_tests::{
    process::{Ran, command},
    sandbox::{Sandbox, free_port},
    wait::until,
};

/// Signs these addresses, and waits until the host calls the server by `expected`.
fn move_to(fleet: &Sandbox, addresses: &[String], expected: &str) {
    sign_servers(fleet, addresses);
    until(&format!("the host says that it calls {expected}"), || {
        let status = fleet.host_status("web-1")?;
        Ok((status["server"] == expected).then_some(()))
    })
    .unwrap();
}

fn sign_servers(fleet: &Sandbox, addresses: &[String]) {
    sign_servers_of(fleet, addresses, &[]);
}

/// The same with authorities in files, the one that issues first.
fn sign_servers_of(fleet: &Sandbox, addresses: &[String], authorities: &[&str]) {
    let list = |words: &[String]| {
        let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
        words.join(", ")
    };
    let files: Vec<String> = authorities.iter().map(|file| (*file).to_owned()).collect();
    let servers =
        format!("[servers]\naddresses = [{}]\nauthorities = [{}]\n", list(addresses), list(&files));
    fs::write(fleet.path().join("servers.toml"), servers).unwrap();
    fleet.refit(["apply", "servers.toml", "--yes"]).unwrap();
}

/// Stops the server, gives it a command about its authority, and starts it again.
fn change_authority(fleet: &mut Sandbox, words: &[&str]) {
    fleet.server().unwrap().terminate().unwrap();
    authority_command(fleet, words);
    fleet.start_server().unwrap();
}

fn authority_command(fleet: &Sandbox, words: &[&str]) -> String {
    let mut ca = command("refit-server").unwrap();
    ca.arg("ca").args(words).arg("--data").arg(fleet.server_data());
    Ran::of(&mut ca).unwrap().good().unwrap()
}

/// Copies the certificate of the authority that issues to where the administrator works.
fn take_certificate(fleet: &Sandbox, name: &str) {
    let from = fleet.server_data().join("keys/ca.crt");
    fs::copy(from, fleet.path().join(name)).unwrap();
}

/// "standing: hosts" of each authority.
fn authorities(fleet: &Sandbox) -> Vec<String> {
    let shown = fleet.json(["server", "show"]).unwrap();
    let rows = shown["authorities"].as_array().unwrap().iter();
    rows.map(|row| format!("{}: {}", row["standing"].as_str().unwrap(), row["hosts"])).collect()
}

fn until_authorities(fleet: &Sandbox, expected: &[&str]) {
    until(&format!("the authorities are {expected:?}"), || {
        let found = authorities(fleet);
        if found == expected { Ok(Some(())) } else { anyhow::bail!("{found:?}") }
    })
    .unwrap();
}

#[test]
fn hosts_go_where_the_signed_list_says_and_a_wrong_address_in_it_strands_nobody() {
    let fleet = super::one_host_on_1_0();
    let enrolled = format!("127.0.0.1:{}", fleet.port());
    until("the host says which address it calls", || {
        Ok((fleet.host_status("web-1")?["server"] == enrolled.as_str()).then_some(()))
    })
    .unwrap();
    let other = format!("localhost:{}", fleet.port());
    move_to(&fleet, std::slice::from_ref(&other), &other);

    let nobody = format!("127.0.0.1:{}", free_port().unwrap());
    move_to(&fleet, &[nobody], &enrolled);
    super::install(&fleet, "1.1");
}

#[test]
fn an_authority_is_replaced_while_hosts_go_on_and_the_old_one_is_retired() {
    let mut fleet = super::one_host_on_1_0();
    let here = format!("127.0.0.1:{}", fleet.port());
    take_certificate(&fleet, "old.crt");
    change_authority(&mut fleet, &["replace"]);
    until_authorities(&fleet, &["issues: 0", "replaced: 1"]);
    take_certificate(&fleet, "new.crt");
    // A list that would lose every host is not signed.
    let only_new = format!("[servers]\naddresses = [{here:?}]\nauthorities = [\"new.crt\"]\n");
    fs::write(fleet.path().join("wrong.toml"), only_new).unwrap();
    let refused = fleet.refit_refused(["apply", "wrong.toml", "--yes"]).unwrap();
    assert!(refused.contains("by which the server proves itself now"), "{refused}");

    sign_servers_of(&fleet, std::slice::from_ref(&here), &["new.crt", "old.crt"]);
    until_authorities(&fleet, &["issues: 1", "replaced: 0"]);
    // Who enrolls meanwhile comes in as well.
    fleet.host("web-2", &["ring=pilot"]).unwrap();
    fleet.until_runs("web-2", "1.0").unwrap();
    until_authorities(&fleet, &["issues: 2", "replaced: 0"]);

    change_authority(&mut fleet, &["retire"]);
    sign_servers_of(&fleet, &[here], &["new.crt"]);
    until_authorities(&fleet, &["issues: 2", "retired: 0"]);
    super::install(&fleet, "1.1");
    fleet.until_runs("web-2", "1.1").unwrap();
}

#[test]
fn a_stolen_ca_key_is_replaced_at_once_and_hosts_come_back_with_the_keys_that_they_have() {
    let mut fleet = super::one_host_on_1_0();
    let here = format!("127.0.0.1:{}", fleet.port());
    change_authority(&mut fleet, &["replace", "--stolen"]);
    take_certificate(&fleet, "new.crt");
    fleet.refit(["server", "believe", "new.crt"]).unwrap();
    until_authorities(&fleet, &["issues: 0", "retired: 1"]);
    sign_servers(&fleet, &[here]);
    until_authorities(&fleet, &["issues: 1", "retired: 0"]);
    super::install(&fleet, "1.1");
}

#[test]
fn a_host_that_was_off_for_a_year_finds_a_server_with_another_name_and_another_authority() {
    let claim = "a host that was off for a year finds its server";
    let Some(faketime) = super::stale_metadata::faketime() else {
        let why = format!("{claim} (libfaketime is not installed)");
        return not_run(&why, "sudo apt-get install libfaketime");
    };
    let mut fleet = super::one_host_on_1_0();
    fleet.host_mut("web-1").agent().unwrap().terminate().unwrap();
    let moved = format!("localhost:{}", fleet.port());
    take_certificate(&fleet, "old.crt");
    change_authority(&mut fleet, &["replace"]);
    take_certificate(&fleet, "new.crt");
    sign_servers_of(&fleet, std::slice::from_ref(&moved), &["new.crt", "old.crt"]);

    // The server leaves its name; the old one still leads to the machine, and nothing there has it.
    fleet.server().unwrap().terminate().unwrap();
    authority_command(&fleet, &["retire"]);
    let settings = fleet.server_data().join("server.toml");
    let text = fs::read_to_string(&settings).unwrap();
    let renamed =
        text.replace(r#"addresses = ["127.0.0.1", "localhost"]"#, r#"addresses = ["localhost"]"#);
    assert_ne!(text, renamed);
    fs::write(&settings, renamed).unwrap();
    // Almost a year later: what people sign for half a year, and every certificate, has expired.
    let library = faketime.to_string_lossy().into_owned();
    fleet.set_environment(&[("LD_PRELOAD", &library), ("FAKETIME", "+360d")]);
    fleet.start_server().unwrap();
    for role in ["targets", "policy", "ring.payments.pilot"] {
        fleet.refit(["trust", "renew", role]).unwrap();
    }
    sign_servers_of(&fleet, std::slice::from_ref(&moved), &["new.crt"]);

    fleet.start_agent("web-1").unwrap();
    until_authorities(&fleet, &["issues: 1", "retired: 0"]);
    until("the host calls the new name", || {
        Ok((fleet.host_status("web-1")?["server"] == moved.as_str()).then_some(()))
    })
    .unwrap();
    super::install(&fleet, "1.1");
}
