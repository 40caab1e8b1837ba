//! Our TUF client and the reference implementation, against each other: the client reads what
//! python-tuf makes, good repositories and one per attack, and python-tuf reads what our server publishes.
//! `cargo xtask test` makes the virtual environment and builds the client, which alone verifies P-256 and
//! RSA keys; this file is built as the shipped programs are, and shows that they don't.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};
use refit_durable::testing::not_run;
use refit_proto::trust::{TrustError, verify::verify_root};
use refit_tests::{
    folder_server::FolderServer,
    process::command,
    release::Behaviour,
    sandbox::{LIMITS, PRODUCT, Ring, Sandbox},
};
use serde_json::Value;

/// Names the interpreter that has the reference implementation.
const PYTHON: &str = "REFIT_REFERENCE_PYTHON";

fn python(what: &str) -> Option<PathBuf> {
    let python = env::var_os(PYTHON).map(PathBuf::from).filter(|python| python.is_file());
    if python.is_none() {
        let remedy = "sudo apt-get install python3-venv, and let pip reach the Python registry";
        not_run(what, &format!("{remedy}; then cargo xtask test"));
    }
    python
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(name)
}

fn client(arguments: &[&str]) -> Result<Output> {
    command("tuf-conformance-client")?.args(arguments).output().context("cannot start the client")
}

/// One repository of the reference implementation, and what the client has of it.
struct Case {
    folder: PathBuf,
    held: PathBuf,
    targets: PathBuf,
    /// Every file that was served or handed over so far.
    genuine: BTreeSet<Vec<u8>>,
}

impl Case {
    fn begin(folder: &Path, work: &Path) -> Result<Case> {
        let name = folder.file_name().context("a case has a name")?;
        let (held, targets) = (work.join(name), work.join(name).join("downloaded"));
        fs::create_dir_all(&targets)?;
        let root = folder.join("root.json");
        let made = client(&["--metadata-dir", text(&held)?, "init", text(&root)?])?;
        ensure!(made.status.success(), "init: {}", String::from_utf8_lossy(&made.stderr));
        let genuine = BTreeSet::from([fs::read(root)?]);
        Ok(Case { folder: folder.to_owned(), held, targets, genuine })
    }

    fn step(&mut self, number: usize, step: &Value) -> Result<()> {
        let served = self.folder.join(number.to_string());
        for entry in fs::read_dir(served.join("metadata"))? {
            self.genuine.insert(fs::read(entry?.path())?);
        }
        let server = FolderServer::start(&served)?;
        let (metadata, targets) = (server.url("metadata/"), server.url("targets/"));
        let mut arguments = vec!["--metadata-url", &metadata, "--metadata-dir", text(&self.held)?];
        let verb = match step["download"].as_str() {
            Some(name) => {
                arguments.extend(["--target-name", name, "--target-dir", text(&self.targets)?]);
                arguments.extend(["--target-base-url", &targets]);
                "download"
            }
            None => "refresh",
        };
        arguments.push(verb);
        let before = contents(&self.targets)?;
        let ran = client(&arguments)?;
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        let wanted = if step["ok"].as_bool() == Some(true) { 0 } else { 1 };
        ensure!(ran.status.code() == Some(wanted), "{:?}, not {wanted}: {said}", ran.status);
        ensure!(wanted == 0 || !said.trim().is_empty(), "refused without a word");
        if wanted == 1 {
            ensure!(contents(&self.targets)? == before, "a refused target was kept");
        }
        self.holds(step)
    }

    /// Every trusted file is one that was served, to the byte, in the version that is expected.
    fn holds(&self, step: &Value) -> Result<()> {
        for entry in fs::read_dir(&self.held)? {
            let path = entry?.path();
            if path.is_file() {
                ensure!(self.genuine.contains(&fs::read(&path)?), "{} was changed", path.display());
            }
        }
        for (role, version) in step["trusted"].as_object().context("versions")? {
            let path = self.held.join(format!("{role}.json"));
            let held = match fs::read(&path) {
                Ok(bytes) => serde_json::from_slice::<Value>(&bytes)?["signed"]["version"].clone(),
                Err(_) => 0.into(),
            };
            ensure!(held == *version, "holds {role} {held}, not {version}");
        }
        Ok(())
    }
}

fn contents(folder: &Path) -> Result<BTreeSet<Vec<u8>>> {
    fs::read_dir(folder)?.map(|entry| Ok(fs::read(entry?.path())?)).collect()
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path of ASCII")
}

/// All repositories, good ones and attacks, a folder each.
fn make_repositories(python: &Path, folder: &Path) -> Result<()> {
    let status = Command::new(python).arg(script("repositories.py")).arg(folder).status()?;
    ensure!(status.success(), "the repositories were not made");
    Ok(())
}

#[test]
fn the_client_ends_as_it_must_on_every_repository_of_the_reference_implementation() {
    let Some(python) = python("the TUF client on repositories of python-tuf") else { return };
    let work = tempfile::tempdir().unwrap();
    let made = work.path().join("made");
    make_repositories(&python, &made).unwrap();
    let mut count = 0;
    let mut wrong = Vec::new();
    for entry in fs::read_dir(&made).unwrap() {
        let folder = entry.unwrap().path();
        count += 1;
        if let Err(error) = play(&folder, &work.path().join("held")) {
            wrong.push(format!("{}: {error:#}", folder.file_name().unwrap().display()));
        }
    }
    assert!(count >= 40, "only {count} repositories were made");
    assert!(wrong.is_empty(), "{} of {count} end otherwise:\n{}", wrong.len(), wrong.join("\n"));
}

fn play(folder: &Path, held: &Path) -> Result<()> {
    let steps: Vec<Value> = serde_json::from_slice(&fs::read(folder.join("case.json"))?)?;
    let mut case = Case::begin(folder, held)?;
    for (number, step) in steps.iter().enumerate() {
        case.step(number, step).with_context(|| format!("step {number}"))?;
    }
    Ok(())
}

/// This test is built without the feature `conformance`, as the agent and the server are.
#[test]
fn what_is_shipped_refuses_metadata_signed_with_p256_or_rsa() {
    let Some(python) = python("P-256 and RSA refused by what is shipped") else { return };
    let work = tempfile::tempdir().unwrap();
    make_repositories(&python, work.path()).unwrap();
    let verified = |kind: &str| {
        let root = fs::read(work.path().join(format!("good_{kind}_consistent/root.json"))).unwrap();
        verify_root(&root, None)
    };
    assert!(verified("ed25519").is_ok());
    for kind in ["ecdsa_p256", "rsa_pss"] {
        let refused = verified(kind).unwrap_err();
        assert!(matches!(refused, TrustError::Unsigned { valid: 0, .. }), "{kind}: {refused}");
    }
}

#[test]
fn the_reference_client_reads_what_our_server_publishes() {
    let Some(python) = python("python-tuf's client on a repository of ours") else { return };
    let sandbox = Sandbox::new(&[Ring { name: "pilot", limits: LIMITS }]).unwrap();
    sandbox.publish("2.0.0", Behaviour::Good).unwrap();
    sandbox.promote("2.0.0", "pilot").unwrap();
    // A person's own copy holds every file as the server sent it.
    sandbox.refit(["trust", "status"]).unwrap();
    let served = sandbox.path().join("mirror/metadata");
    fs::create_dir_all(&served).unwrap();
    let own = sandbox.path().join("home-alice/trust");
    for entry in fs::read_dir(&own).unwrap() {
        let path = entry.unwrap().path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if !name.ends_with(".json") || name == "1.root.json" {
            continue;
        }
        let file: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let version = &file["signed"]["version"];
        let place = match name {
            "timestamp.json" => name.to_owned(),
            other => format!("{version}.{other}"),
        };
        fs::copy(&path, served.join(place)).unwrap();
    }
    let server = FolderServer::start(&sandbox.path().join("mirror")).unwrap();
    let release = format!("releases/{PRODUCT}/2.0.0.json");
    let ring = format!("rings/{PRODUCT}/pilot/2.0.0.json");
    let ran = Command::new(python)
        .arg(script("read_ours.py"))
        .arg(own.join("1.root.json"))
        .arg(server.url(""))
        .arg(sandbox.path().join("reader"))
        .args([&release, &ring, &format!("releases/{PRODUCT}/9.9.9.json")])
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let said = String::from_utf8(ran.stdout).unwrap();
    let of = |path: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(&format!("{path} ")));
        line.unwrap_or_else(|| panic!("{path} in {said}")).to_owned()
    };
    // Release and promotion sign the same bytes, and the reference client finds both.
    assert_ne!(of(&release), "-");
    assert_eq!(of(&release), of(&ring));
    assert_eq!(of(&format!("releases/{PRODUCT}/9.9.9.json")), "-");
}
