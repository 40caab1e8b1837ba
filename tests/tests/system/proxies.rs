//! A host that gets out of its network by a proxy alone: Debian's tinyproxy, with a login.

use std::{
    fs,
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use refit_durable::testing::not_run;
use refit_tests::{
    process::{Process, Ran},
    release::Behaviour,
    sandbox::{Sandbox, free_port},
    wait::until,
};

/// A proxy that wants a login, and leads to one port alone.
struct Proxy {
    folder: PathBuf,
    port: u16,
    _process: Process,
}

impl Proxy {
    fn start(fleet: &Sandbox) -> Proxy {
        let folder = fleet.path().join("proxy");
        fs::create_dir(&folder).unwrap();
        let port = free_port().unwrap();
        let config = format!(
            "Port {port}\nListen 127.0.0.1\nAllow 127.0.0.1\nBasicAuth me right\n\
             ConnectPort {}\nLogLevel Connect\nLogFile \"{}\"\n",
            fleet.port(),
            folder.join("log").display()
        );
        fs::write(folder.join("conf"), config).unwrap();
        let mut tinyproxy = Command::new("tinyproxy");
        tinyproxy.arg("-d").arg("-c").arg(folder.join("conf"));
        let process = Process::start(&mut tinyproxy, &folder.join("output")).unwrap();
        until("the proxy listens", || Ok(TcpStream::connect(("127.0.0.1", port)).ok().map(drop)))
            .unwrap();
        Proxy { folder, port, _process: process }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

fn put_password(path: &Path, password: &str) {
    fs::write(path, format!("{password}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn a_host_behind_a_proxy_with_a_login_updates_and_one_with_a_wrong_password_says_so() {
    if Ran::of(Command::new("tinyproxy").arg("-v")).is_err() {
        let claim = "updates through a real proxy (tinyproxy is not installed)";
        return not_run(claim, "sudo apt-get install tinyproxy-bin");
    }
    let mut fleet = super::one_host_on_1_0();
    let proxy = Proxy::start(&fleet);
    assert!(fleet.host_mut("web-1").agent().unwrap().terminate().unwrap().success());
    let data = fleet.host_named("web-1").data();
    let (password, settings) = (data.join("proxy-password"), data.join("agent.toml"));
    put_password(&password, "wrong-secret");
    let proxied = format!(
        "{}\n[proxy]\nurl = \"http://127.0.0.1:{}\"\nuser = \"me\"\npassword_file = {password:?}\n\
         no_proxy = [\"10.0.0.0/8\", \"localhost\"]\n",
        fs::read_to_string(&settings).unwrap(),
        proxy.port
    );
    fs::write(&settings, proxied).unwrap();
    fleet.start_agent("web-1").unwrap();
    let log = fleet.host_named("web-1").folder().join("agent.log");
    let log = || fs::read_to_string(&log).unwrap_or_default();
    until("the agent names the proxy and the cause", || {
        let said = log();
        let named = said.contains(&format!("the proxy http://127.0.0.1:{}", proxy.port));
        Ok((named && said.contains("does not take the login of \"me\"")).then_some(()))
    })
    .unwrap();
    assert!(!log().contains("wrong-secret"), "a password is in the log");

    // Corrected, it is read again, and all of an update goes that way.
    put_password(&password, "right");
    fleet.publish("1.1", Behaviour::Good).unwrap();
    fleet.promote("1.1", "pilot").unwrap();
    fleet.until_runs("web-1", "1.1").unwrap();
    fleet.until_rollout("pilot", "1.1", "done").unwrap();
    let connects = format!("CONNECT 127.0.0.1:{}", fleet.port());
    assert!(proxy.log().contains(&connects), "{}", proxy.log());
}

#[test]
fn the_environment_names_the_proxy_where_the_settings_name_none() {
    if Ran::of(Command::new("tinyproxy").arg("-v")).is_err() {
        let claim = "the environment's proxy is used (tinyproxy is not installed)";
        return not_run(claim, "sudo apt-get install tinyproxy-bin");
    }
    let mut fleet = super::one_host_on_1_0();
    let proxy = Proxy::start(&fleet);
    let restart = |fleet: &mut Sandbox, environment: &[(&str, &str)]| {
        assert!(fleet.host_mut("web-1").agent().unwrap().terminate().unwrap().success());
        fleet.start_agent_with("web-1", environment).unwrap();
    };
    let url = format!("http://me:right@127.0.0.1:{}", proxy.port);
    // Excepted by its network, the server is called directly.
    restart(&mut fleet, &[("HTTPS_PROXY", &url), ("NO_PROXY", "127.0.0.0/8")]);
    fleet.publish("1.1", Behaviour::Good).unwrap();
    fleet.promote("1.1", "pilot").unwrap();
    fleet.until_runs("web-1", "1.1").unwrap();
    let connects = format!("CONNECT 127.0.0.1:{}", fleet.port());
    assert!(!proxy.log().contains(&connects), "{}", proxy.log());
    restart(&mut fleet, &[("HTTPS_PROXY", &url)]);
    until("the server is called through the proxy", || {
        Ok(proxy.log().contains(&connects).then_some(()))
    })
    .unwrap();
}
