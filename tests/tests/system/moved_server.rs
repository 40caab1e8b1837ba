//! Where the server is and who vouches for it is signed: a server moves and its authority is replaced
//! without anybody touching a host, and a slip in the signed list strands no fleet.

use std::fs;

use refit_tests::{
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
    let list: Vec<String> = addresses.iter().map(|address| format!("{address:?}")).collect();
    let servers = format!("[servers]\naddresses = [{}]\n", list.join(", "));
    fs::write(fleet.path().join("servers.toml"), servers).unwrap();
    fleet.refit(["apply", "servers.toml", "--yes"]).unwrap();
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
