//! Content from mirrors: a copy of the server's content folder behind any web server, named in the signed
//! list. What a mirror gives proves itself; one that gives nothing, or something else, costs time alone.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use refit_durable::testing::not_run;
use refit_proto::names::Digest;
use refit_tests::{
    process::{Process, Ran},
    release::Behaviour,
    sandbox::{Sandbox, free_port},
    wait::until,
};

/// A web server with a copy of the content.
struct Mirror {
    folder: PathBuf,
    address: String,
    _nginx: Process,
}

impl Mirror {
    /// A copy of what the server has now.
    fn of(fleet: &Sandbox, name: &str) -> Mirror {
        let folder = fleet.path().join(name);
        fs::create_dir(&folder).unwrap();
        let copy = folder.join("content");
        let content = fleet.server_data().join("content");
        Ran::of(Command::new("cp").arg("-r").arg(content).arg(&copy)).unwrap().good().unwrap();
        // Its workers may run as another user.
        Ran::of(Command::new("chmod").args(["-R", "a+rX"]).arg(&folder)).unwrap().good().unwrap();
        let port = free_port().unwrap();
        let at = folder.display();
        let config = format!(
            "daemon off;\nmaster_process off;\npid {at}/nginx.pid;\nerror_log {at}/error.log;\n\
             events {{}}\nhttp {{\n  access_log {at}/access.log;\n  client_body_temp_path {at};\n\
             proxy_temp_path {at};\n  fastcgi_temp_path {at};\n  uwsgi_temp_path {at};\n  scgi_temp_path {at};\n\
             server {{ listen 127.0.0.1:{port}; location /refit/ {{ alias {at}/content/; }} }}\n}}\n"
        );
        fs::write(folder.join("nginx.conf"), config).unwrap();
        let mut nginx = Command::new("nginx");
        nginx.args(["-c", &format!("{at}/nginx.conf"), "-p", &format!("{at}")]);
        let nginx = Process::start(&mut nginx, &folder.join("nginx.log")).unwrap();
        until("nginx listens", || Ok(TcpStream::connect(("127.0.0.1", port)).ok().map(drop)))
            .unwrap();
        Mirror { folder, address: format!("http://127.0.0.1:{port}/refit"), _nginx: nginx }
    }

    /// Every file of content, the largest first.
    fn files(&self) -> Vec<PathBuf> {
        files(&self.folder.join("content"))
    }

    fn served(&self) -> String {
        fs::read_to_string(self.folder.join("access.log")).unwrap_or_default()
    }
}

fn files(content: &Path) -> Vec<PathBuf> {
    let folders = fs::read_dir(content).unwrap().map(|entry| entry.unwrap().path());
    let files = folders.flat_map(|folder| fs::read_dir(folder).unwrap());
    let mut files: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
    files.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).unwrap().len()));
    files
}

/// What the files of this folder hold.
fn digests(folder: &Path) -> Vec<String> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let of = |path: PathBuf| match path.is_dir() {
        true => digests(&path),
        false => vec![Digest::of(&fs::read(&path).unwrap()).to_string()],
    };
    paths.flat_map(of).collect()
}

/// Signs a list with these mirrors, and waits until the host goes by it.
fn sign(fleet: &Sandbox, mirrors: &[&str]) {
    let authority = fleet.server_data().join("keys/ca.crt");
    fs::copy(authority, fleet.path().join("ca.crt")).unwrap();
    let port = fleet.port();
    let list = format!(
        "[servers]\naddresses = [\"127.0.0.1:{port}\"]\nmirrors = {mirrors:?}\nauthorities = [\"ca.crt\"]\n"
    );
    fs::write(fleet.path().join("servers.toml"), list).unwrap();
    fleet.refit(["apply", "servers.toml", "--yes"]).unwrap();
}

fn has_nginx(claim: &str) -> bool {
    let there = Command::new("nginx").arg("-v").output().is_ok_and(|ran| ran.status.success());
    if !there {
        not_run(&format!("{claim} (nginx is not installed)"), "sudo apt-get install nginx-light");
    }
    there
}

fn log(fleet: &Sandbox) -> String {
    fs::read_to_string(fleet.host_named("web-1").folder().join("agent.log")).unwrap()
}

#[test]
fn content_that_the_server_has_not_comes_from_a_mirror() {
    if !has_nginx("content that the server has not comes from a mirror") {
        return;
    }
    let fleet = super::one_host_on_1_0();
    fleet.publish("1.1", Behaviour::Good).unwrap();
    let mirror = Mirror::of(&fleet, "mirror");
    sign(&fleet, &[&mirror.address]);
    // The server loses what the host has yet to fetch.
    let old = digests(&fleet.path().join("source-1.0"));
    let lost = digests(&fleet.path().join("source-1.1")).into_iter().filter(|it| !old.contains(it));
    let content = fleet.server_data().join("content");
    let lost: Vec<(String, PathBuf)> = lost
        .map(|it| (it.clone(), content.join(&it[..2]).join(it)))
        .filter(|it| it.1.exists())
        .collect();
    assert!(!lost.is_empty());
    lost.iter().for_each(|(_, path)| fs::remove_file(path).unwrap());
    fleet.promote("1.1", "pilot").unwrap();
    fleet.until_runs("web-1", "1.1").unwrap();
    let served = mirror.served();
    for (digest, _) in &lost {
        let line = served.lines().find(|line| line.contains(digest));
        assert!(line.is_some_and(|line| line.contains("\" 200 ")), "{digest} in\n{served}");
    }
    assert!(!log(&fleet).contains("a mirror is left out"), "{}", log(&fleet));
}

#[test]
fn a_mirror_that_lies_never_ends_is_slow_or_away_is_named_and_the_server_is_asked() {
    let claim = "a mirror that lies, never ends, is slow or away";
    if !has_nginx(claim) {
        return;
    }
    let mut fleet = super::one_host_on_1_0();
    fleet.host_mut("web-1").agent().unwrap().terminate().unwrap();
    let settings = fleet.host_named("web-1").data().join("agent.toml");
    let text = fs::read_to_string(&settings).unwrap();
    let impatient = format!("patience_seconds = 2\nslowest_bytes_per_second = 1000\n{text}");
    fs::write(&settings, impatient).unwrap();
    fleet.publish("1.1", Behaviour::Good).unwrap();
    let liar = Mirror::of(&fleet, "liar");
    for path in liar.files() {
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    let endless = answers(|stream| while stream.write_all(&[0x28; 65_536]).is_ok() {});
    let slow = answers(|stream| {
        while stream.write_all(b"x").is_ok() {
            thread::sleep(Duration::from_millis(200));
        }
    });
    let silent = answers(|stream| {
        let _until_the_other_side_leaves = stream.read(&mut [0; 1]);
    });
    let away = format!("http://127.0.0.1:{}", free_port().unwrap());
    let useless = [away.as_str(), &liar.address, &endless, &slow, &silent];
    sign(&fleet, &useless);
    fleet.promote("1.1", "pilot").unwrap();
    fleet.start_agent("web-1").unwrap();
    fleet.until_runs("web-1", "1.1").unwrap();
    let log = log(&fleet);
    for mirror in useless {
        let named = log.lines().any(|line| line.contains("left out") && line.contains(mirror));
        assert!(named, "{mirror} is not named in\n{log}");
    }
    assert!(
        !log.contains("content-mismatch"),
        "a mirror's lie is no failure of the release:\n{log}"
    );
}

/// A web server that answers each request so, after a head that promises a file.
fn answers(body: fn(&mut TcpStream)) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    // Ends with the program that runs the tests.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                let _request = stream.read(&mut [0; 4096]);
                let head =
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nConnection: close\r\n\r\n";
                if stream.write_all(head.as_bytes()).is_ok() {
                    body(&mut stream);
                }
            });
        }
    });
    address
}
