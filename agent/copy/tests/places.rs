//! What the helper promises at real second places: a folder on a disk of its own, OpenSSH's server, an
//! S3-compatible store. Each goes through the same claims.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use refit_copy::{About, Answer, File, Job, Listed, Pack, Place, Record, Request, Why};
use refit_durable::testing::{LoopFs, not_run};
use sha2::{Digest as _, Sha256};

const PROGRAM: &str = env!("CARGO_BIN_EXE_refit-copy");

/// Asks for a job, and hears all that is answered.
fn ask(place: &Place, host: &str, job: Job) -> Vec<Answer> {
    let request = Request { place: place.clone(), host: host.into(), job };
    let mut child = Command::new(PROGRAM)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&serde_json::to_vec(&request).unwrap()).unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let answers = lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    child.wait().unwrap();
    answers
}

fn failure(answers: &[Answer]) -> Option<(Why, String)> {
    answers.iter().find_map(|answer| match answer {
        Answer::Failed { why, text } => Some((*why, text.clone())),
        _ => None,
    })
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A host's backup: its files, the index last.
struct Backup {
    folder: tempfile::TempDir,
    files: Vec<File>,
}

impl Backup {
    fn new() -> Backup {
        let mut backup = Backup { folder: tempfile::tempdir().unwrap(), files: Vec::new() };
        // Not to be compressed, in part.
        let mut noise = 1_u64;
        let large: Vec<u8> = (0..12_000_000)
            .map(|_| {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (noise >> 56) as u8
            })
            .collect();
        for bytes in [b"".as_slice(), b"port = 1", &large, b"{ the index }"] {
            backup.add(bytes);
        }
        backup
    }

    fn add(&mut self, bytes: &[u8]) {
        let sha256 = sha256(bytes);
        let path = self.folder.path().join(&sha256);
        fs::write(&path, bytes).unwrap();
        self.files.push(File { sha256, length: bytes.len() as u64, path });
    }

    fn save(&self, id: &str, unsure: Vec<Pack>, encrypt_to: &[String]) -> Job {
        let about = About {
            host: "h1".into(),
            id: id.into(),
            product: "payments".into(),
            from: Some("1.0".into()),
            to: Some("1.1".into()),
            made: 7,
            order: 0,
            seal: self.files.last().unwrap().sha256.clone(),
            bytes: 9,
        };
        Job::Save {
            files: self.files.clone(),
            unsure,
            sure: Vec::new(),
            encrypt_to: encrypt_to.to_vec(),
            record: Some(Record::new(about)),
        }
    }

    fn is_in(&self, folder: &Path) {
        for file in &self.files[..3] {
            let bytes = fs::read(folder.join("content").join(&file.sha256)).unwrap();
            assert_eq!(sha256(&bytes), file.sha256);
        }
        assert_eq!(fs::read(folder.join("index.json")).unwrap(), b"{ the index }");
        assert_eq!(fs::read_to_string(folder.join("seal")).unwrap(), self.files[3].sha256);
    }
}

fn stored(answers: &[Answer]) -> Vec<Pack> {
    let packs = answers.iter().filter_map(|answer| match answer {
        Answer::Stored { pack } => Some(pack.clone()),
        _ => None,
    });
    packs.collect()
}

fn listed(place: &Place) -> Vec<Record> {
    match ask(place, "h1", Job::List).remove(0) {
        Answer::List { backups } => backups
            .into_iter()
            .map(|listed| match listed {
                Listed::Recorded { record } => record,
                Listed::Damaged { id, text } => panic!("{id}: {text}"),
            })
            .collect(),
        other => panic!("{other:?}"),
    }
}

fn damages(place: &Place) -> Vec<String> {
    let answers = ask(place, "h1", Job::Verify { ids: Vec::new() });
    assert_eq!(failure(&answers), None);
    let damages = answers.into_iter().flat_map(|answer| match answer {
        Answer::Verified { verified } => verified.damages,
        other => panic!("{other:?}"),
    });
    damages.collect()
}

/// A key pair as `age-keygen` writes it.
fn keys(folder: &Path) -> (String, PathBuf) {
    use age::secrecy::ExposeSecret as _;
    let identity = age::x25519::Identity::generate();
    let path = folder.join("identity.txt");
    let recipient = identity.to_public().to_string();
    let text = format!("# public key: {recipient}\n{}\n", identity.to_string().expose_secret());
    fs::write(&path, text).unwrap();
    (recipient, path)
}

/// What holds at every place. `damage` changes a byte of a file there, or none if nobody can.
fn holds_what_it_is_given(place: &Place, damage: Option<&dyn Fn(&str)>) {
    let backup = Backup::new();
    assert_eq!(listed(place), []);
    let answers = ask(place, "h1", backup.save("b1", Vec::new(), &[]));
    assert_eq!(failure(&answers), None);
    assert_eq!(answers.last(), Some(&Answer::Done));
    let packs = stored(&answers);
    assert!(packs.len() > 1);
    assert_eq!(damages(place), Vec::<String>::new());
    let record = listed(place).remove(0);
    assert_eq!((record.id.as_str(), record.made, record.packs.len()), ("b1", 7, packs.len()));
    assert_eq!(ask(place, "h1", Job::Hosts), [Answer::Hosts { hosts: vec!["h1".into()] }]);

    // Sent again, it takes nothing more there: what is known is only read back.
    ask(place, "h1", backup.save("b2", packs.clone(), &[]));
    let names =
        |record: &Record| record.packs.iter().map(|it| it.sha256.clone()).collect::<Vec<_>>();
    let both = listed(place);
    assert_eq!(names(&both[0]), names(&both[1]));

    let to = tempfile::tempdir().unwrap();
    let fetch = |id: &str, to: &Path, identity: Option<&Path>| Job::Fetch {
        id: id.into(),
        to: to.to_owned(),
        identity: identity.map(Path::to_owned),
    };
    let answers = ask(place, "h1", fetch("b1", to.path(), None));
    assert!(matches!(answers[..], [Answer::Fetched { .. }]), "{answers:?}");
    backup.is_in(to.path());

    // Encrypted, nothing of it can be read without the identity, also not by who wrote it.
    let own = tempfile::tempdir().unwrap();
    let (recipient, identity) = keys(own.path());
    let answers = ask(place, "h1", backup.save("b3", Vec::new(), &[recipient]));
    assert_eq!(failure(&answers), None);
    let other = tempfile::tempdir().unwrap();
    for wrong in [None, Some(keys(other.path()).1)] {
        let to = tempfile::tempdir().unwrap();
        let answers = ask(place, "h1", fetch("b3", to.path(), wrong.as_deref()));
        assert_eq!(failure(&answers).unwrap().0, Why::Host, "{answers:?}");
        assert!(!to.path().join("index.json").exists());
    }
    let to = tempfile::tempdir().unwrap();
    let answers = ask(place, "h1", fetch("b3", to.path(), Some(&identity)));
    assert_eq!(failure(&answers), None);
    backup.is_in(to.path());

    // What is removed is gone, and what another backup needs stays.
    let prune = |remove: &[&str]| Job::Prune {
        remove: remove.iter().map(|id| id.to_string()).collect(),
        keep: Vec::new(),
    };
    assert_eq!(ask(place, "h1", prune(&["b1", "b3"])), [Answer::Done]);
    assert_eq!(listed(place).len(), 1);
    assert_eq!(damages(place), Vec::<String>::new());
    if let Some(damage) = damage {
        damage(&format!("h1/packs/{}", packs[0].sha256));
        let said = damages(place);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains(&packs[0].sha256), "{said:?}");
        let to = tempfile::tempdir().unwrap();
        let answers = ask(place, "h1", fetch("b2", to.path(), None));
        assert_eq!(failure(&answers).unwrap().0, Why::Damaged, "{answers:?}");
        // The next copy does not rely on it.
        ask(place, "h1", backup.save("b2", packs.clone(), &[]));
        assert_eq!(damages(place), Vec::<String>::new());
    }
    assert_eq!(ask(place, "h1", prune(&["b2"])), [Answer::Done]);
    assert_eq!(listed(place), []);
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes[100] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn at(path: &Path) -> Place {
    Place::Folder { path: path.to_owned(), apart_from: Some(std::env::temp_dir()) }
}

#[test]
fn a_folder_on_another_disk_holds_what_it_is_given_and_says_what_was_damaged() {
    let own = tempfile::tempdir().unwrap();
    let what = "backups are copied to a disk of its own";
    let Some(disk) = LoopFs::create(what, own.path(), 200) else { return };
    holds_what_it_is_given(&at(disk.path()), Some(&|name| flip(&disk.path().join(name))));
    let left: Vec<_> = fs::read_dir(disk.path().join("h1/packs")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    // Where the disk is not mounted, its folder is none.
    let path = disk.path().to_owned();
    drop(disk);
    let backup = Backup::new();
    let answers = ask(&at(&path), "h1", backup.save("b1", Vec::new(), &[]));
    let (why, text) = failure(&answers).unwrap();
    assert!(why == Why::Away && text.contains("not mounted"), "{text}");
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0, "nothing was written into its place");
}

#[test]
fn a_disk_that_is_full_or_unplugged_in_the_middle_has_no_backup_that_counts_and_goes_on_later() {
    let own = tempfile::tempdir().unwrap();
    let what = "a disk for backups is full, or unplugged";
    let Some(disk) = LoopFs::create(what, own.path(), 40) else { return };
    let place = at(disk.path());
    let backup = Backup::new();
    // One pack of 8 MiB finds room, and the next does not.
    let space = rustix::fs::statvfs(disk.path()).unwrap();
    let free = usize::try_from(space.f_bavail * space.f_frsize).unwrap();
    fs::write(disk.path().join("filler"), vec![1; free - (10 << 20)]).unwrap();
    let answers = ask(&place, "h1", backup.save("b1", Vec::new(), &[]));
    let (why, text) = failure(&answers).unwrap();
    assert!(why == Why::Away && text.contains("is full"), "{text}");
    assert_eq!(listed(&place), []);
    let half = stored(&answers);
    assert!(!half.is_empty(), "some of it found room");
    let new = |entry: fs::DirEntry| entry.file_name().to_string_lossy().starts_with('.');
    let packs = disk.path().join("h1/packs");
    let left = fs::read_dir(packs).unwrap().any(|entry| new(entry.unwrap()));
    assert!(!left, "its space is given back");
    fs::remove_file(disk.path().join("filler")).unwrap();
    let answers = ask(&place, "h1", backup.save("b1", half, &[]));
    assert_eq!(failure(&answers), None);
    assert_eq!(damages(&place), Vec::<String>::new());

    // As if its cable was pulled: everything fails from now on.
    let mut shut = Command::new("xfs_io");
    shut.args(["-x", "-c", "shutdown"]).arg(disk.path());
    if !shut.output().is_ok_and(|done| done.status.success()) {
        return not_run(what, "apt-get install xfsprogs");
    }
    let answers = ask(&place, "h1", backup.save("b2", Vec::new(), &[]));
    assert!(failure(&answers).is_some_and(|(why, _)| why == Why::Away), "{answers:?}");
    let image = disk.image().to_owned();
    drop(disk);
    let Some(disk) = LoopFs::mount(what, &image, &own.path().join("disk")) else { return };
    assert_eq!(listed(&at(disk.path())).len(), 1);
    assert_eq!(damages(&at(disk.path())), Vec::<String>::new());
}

#[test]
fn no_link_that_others_have_put_into_the_folder_is_followed() {
    let own = tempfile::tempdir().unwrap();
    let (there, elsewhere) = (own.path().join("there"), own.path().join("elsewhere"));
    fs::create_dir(&there).unwrap();
    fs::create_dir(&elsewhere).unwrap();
    let place = Place::Folder { path: there.clone(), apart_from: None };
    std::os::unix::fs::symlink(&elsewhere, there.join("h1")).unwrap();
    let backup = Backup::new();
    let answers = ask(&place, "h1", backup.save("b1", Vec::new(), &[]));
    assert_eq!(failure(&answers).unwrap().0, Why::Refused, "{answers:?}");
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    for host in ["..", ".", "a/b", "", "-x"] {
        let answers = ask(&place, host, Job::List);
        assert_eq!(failure(&answers).unwrap().0, Why::Host, "{host}: {answers:?}");
    }
}

/// A server of the test's own; ended with it.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn until_listens(port: u16) {
    let until = Instant::now() + Duration::from_secs(60);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < until, "nothing listens on {port}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// OpenSSH's server with keys of its own: who may log in, and as what it is known.
struct Sshd {
    folder: tempfile::TempDir,
    port: u16,
    server: Option<Server>,
}

impl Sshd {
    fn start() -> Option<Sshd> {
        let what = "backups are copied to another host over SSH";
        if !Path::new("/usr/sbin/sshd").is_file() || !Path::new("/usr/bin/sftp").is_file() {
            not_run(what, "apt-get install openssh-server openssh-client");
            return None;
        }
        if !rustix::process::geteuid().is_root() {
            not_run(what, "run the tests as root");
            return None;
        }
        // Where the server locks itself up; systemd makes it elsewhere.
        fs::create_dir_all("/run/sshd").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for key in ["host", "user", "stranger"] {
            let mut make = Command::new("ssh-keygen");
            make.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(at(key));
            assert!(make.status().unwrap().success());
        }
        fs::copy(at("user.pub"), at("authorized")).unwrap();
        fs::create_dir(at("there")).unwrap();
        let port = free_port();
        let known = fs::read_to_string(at("host.pub")).unwrap();
        fs::write(at("known_hosts"), format!("[127.0.0.1]:{port} {known}")).unwrap();
        let other = fs::read_to_string(at("stranger.pub")).unwrap();
        fs::write(at("other_hosts"), format!("[127.0.0.1]:{port} {other}")).unwrap();
        let settings = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {0}/host\nAuthorizedKeysFile {0}/authorized\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nPidFile none\n\
             PermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\nForceCommand internal-sftp\n",
            folder.path().display()
        );
        fs::write(at("sshd_config"), settings).unwrap();
        let mut sshd = Sshd { folder, port, server: None };
        sshd.run();
        Some(sshd)
    }

    fn run(&mut self) {
        let log = fs::File::create(self.folder.path().join("log")).unwrap();
        let mut run = Command::new("/usr/sbin/sshd");
        run.args(["-D", "-e", "-f"]).arg(self.folder.path().join("sshd_config"));
        self.server = Some(Server(run.stderr(log).spawn().unwrap()));
        until_listens(self.port);
    }

    fn place(&self, key: &str, known_hosts: &str) -> Place {
        Place::Ssh {
            host: "127.0.0.1".into(),
            user: "root".into(),
            port: self.port,
            path: self.folder.path().join("there").to_str().unwrap().into(),
            key: self.folder.path().join(key),
            known_hosts: self.folder.path().join(known_hosts),
        }
    }
}

#[test]
fn another_host_over_ssh_holds_what_it_is_given_and_only_the_one_that_is_known() {
    let Some(mut sshd) = Sshd::start() else { return };
    let there = sshd.folder.path().join("there");
    let place = sshd.place("user", "known_hosts");
    holds_what_it_is_given(&place, Some(&|name| flip(&there.join(name))));
    let backup = Backup::new();
    let job = || backup.save("b1", Vec::new(), &[]);
    for (key, known_hosts) in [("stranger", "known_hosts"), ("user", "other_hosts")] {
        let answers = ask(&sshd.place(key, known_hosts), "h1", job());
        assert_eq!(failure(&answers).unwrap().0, Why::Refused, "{answers:?}");
    }
    assert_eq!(listed(&place), [], "nothing came from them");
    sshd.server = None;
    let answers = ask(&place, "h1", job());
    assert_eq!(failure(&answers).unwrap().0, Why::Away, "{answers:?}");
    sshd.run();
    assert_eq!(failure(&ask(&place, "h1", job())), None);
}

/// The interpreter that has an S3 server: `cargo xtask test` makes it.
const PYTHON: &str = "REFIT_S3_SERVER_PYTHON";

#[test]
fn an_s3_compatible_store_holds_what_it_is_given() {
    let what = "backups are copied to an S3-compatible store";
    let Some(python) = std::env::var_os(PYTHON) else {
        return not_run(what, "run the tests by `cargo xtask test`, with python3-venv installed");
    };
    let own = tempfile::tempdir().unwrap();
    let port = free_port();
    let mut run = Command::new(python);
    run.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
    let log = fs::File::create(own.path().join("log")).unwrap();
    let mut server = Server(run.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    until_listens(port);
    let credentials = own.path().join("credentials");
    fs::write(&credentials, "AWS_ACCESS_KEY_ID=refit\nAWS_SECRET_ACCESS_KEY=secret\n").unwrap();
    let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    fs::set_permissions(&credentials, mode(0o600)).unwrap();
    let place = Place::S3 {
        bucket: "backups".into(),
        prefix: "fleet".into(),
        endpoint: Some(format!("http://127.0.0.1:{port}")),
        region: "us-east-1".into(),
        credentials: Some(credentials.clone()),
        authority: None,
    };
    let put = |path: &str, body: &[u8]| {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let head = format!(
            "PUT {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        assert!(line.contains(" 200 "), "{line}");
    };
    // Of a bucket that is not there.
    let backup = Backup::new();
    let answers = ask(&place, "h1", backup.save("b1", Vec::new(), &[]));
    let (why, text) = failure(&answers).unwrap();
    assert!(why != Why::Host, "{text}");
    put("/backups", b"");
    // Nobody but who has the keys may damage what is there.
    holds_what_it_is_given(&place, None);
    // A file of keys that others may read is not used.
    fs::set_permissions(&credentials, mode(0o644)).unwrap();
    let (why, text) = failure(&ask(&place, "h1", Job::List)).unwrap();
    assert!(why == Why::Host && text.contains("chmod 600"), "{text}");
    fs::set_permissions(&credentials, mode(0o600)).unwrap();
    server.0.kill().unwrap();
    let answers = ask(&place, "h1", Job::List);
    assert_eq!(failure(&answers).unwrap().0, Why::Away, "{answers:?}");
}

#[test]
fn a_request_that_makes_no_sense_is_answered_and_changes_nothing() {
    for garbage in [
        "",
        "{}",
        "[1,2",
        "{\"place\":{\"kind\":\"tape\"},\"host\":\"h\",\"job\":{\"job\":\"list\"}}",
    ] {
        let mut child =
            Command::new(PROGRAM).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(garbage.as_bytes()).unwrap();
        let done = child.wait_with_output().unwrap();
        let answer: Answer = serde_json::from_slice(&done.stdout).unwrap();
        assert!(matches!(answer, Answer::Failed { why: Why::Host, .. }), "{answer:?}");
    }
}
