//! The rescuer and the agent run one and the same way back: two programs without a common line of code
//! come to the same end, also where one was cut and the other goes on.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
    time::Duration,
};

use refit_agent::{
    host::{
        files::{Files as _, RealFiles, Time},
        owners::Owners,
    },
    update::{BootId, Cause, InstallId, Running},
    way_back::{NoServices, Place, UndoStep, Undoing, UnitsError, WayBack, run},
};
use refit_proto::names::Digest;

/// Before 1970, and not a whole second.
const LONG_AGO: Time = Time { seconds: -7, nanos: 123_456_789 };

/// The number that whoever tests had before the update, as user and as group: it has another one now.
const BEFORE: u32 = 4_242_424;

/// Its name, as `id` says it.
fn now(option: &str) -> BTreeMap<u32, String> {
    let said = Command::new("id").arg(option).output().unwrap().stdout;
    BTreeMap::from([(BEFORE, String::from_utf8(said).unwrap().trim().to_owned())])
}

/// Runs a saved command.
fn run_command(command: &[String]) -> Result<(), UnitsError> {
    let (program, arguments) = command.split_first().unwrap();
    let status = Command::new(program).args(arguments).status().unwrap();
    if status.success() { Ok(()) } else { Err(UnitsError(status.to_string())) }
}

/// Everything that can be seen of a folder.
fn tree(root: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let there = fs::symlink_metadata(&path).unwrap();
            let holds = if there.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else if there.is_dir() {
                folders.push(path.clone());
                Vec::new()
            } else {
                fs::read(&path).unwrap()
            };
            found.insert(path.strip_prefix(root).unwrap().to_owned(), (there.mode(), holds));
        }
    }
    found
}

fn write(path: &Path, bytes: &str, mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A host in the middle of an update: `live` is what it changed, `own` is the agent's.
struct Host(tempfile::TempDir);

impl Host {
    fn in_the_middle_of_an_update() -> Host {
        let host = Host(tempfile::tempdir().unwrap());
        write(&host.live("data/orders"), "new data", 0o644);
        write(&host.live("data/more"), "newer data", 0o600);
        write(&host.live("releases/2.0/serve"), "new program", 0o755);
        symlink("releases/2.0", host.live("current")).unwrap();
        symlink("/somewhere", host.live("added")).unwrap();
        write(&host.live("unit"), "new unit", 0o600);
        write(&host.own("spare/file"), "spare", 0o600);
        write(&host.own("backup/orders"), "old data", 0o600);
        write(&host.own("backup/unit"), "old unit", 0o600);
        host
    }

    fn live(&self, path: &str) -> PathBuf {
        self.root().join("live").join(path)
    }

    fn own(&self, path: &str) -> PathBuf {
        self.root().join("own").join(path)
    }

    fn root(&self) -> PathBuf {
        self.0.path().canonicalize().unwrap()
    }

    fn file(&self, path: &str, saved: &str, mode: u32) -> Undoing {
        let from = self.own(saved);
        let digest = Digest::of(&fs::read(&from).unwrap());
        let (uid, gid) = (BEFORE, BEFORE);
        Undoing::File { path: self.live(path), from, digest, mode, uid, gid }
    }

    /// One step of every kind that needs no service manager.
    fn way_back(&self) -> WayBack {
        let ran = self.live("ra n%").display().to_string();
        let (uid, gid) = (BEFORE, BEFORE);
        let aside = self.live("data.aside");
        let staged = self.live("data.back");
        let unless = |undoing| UndoStep { undoing, unless: Some(aside.clone()) };
        let steps = vec![
            Undoing::Link { path: self.live("current"), target: "releases/1.0".into() }.into(),
            Undoing::RemoveLink { path: self.live("added") }.into(),
            self.file("unit", "backup/unit", 0o640).into(),
            unless(Undoing::Remove { path: staged.clone() }),
            unless(Undoing::Folder { path: staged.clone(), mode: 0o2750, uid, gid }),
            unless(self.file("data.back/orders", "backup/orders", 0o4711)),
            Undoing::Swap { path: self.live("data"), from: staged, aside: aside.clone() }.into(),
            Undoing::Swap {
                path: self.live("absent"),
                from: self.own("spare"),
                aside: self.live("absent.aside"),
            }
            .into(),
            Undoing::Remove { path: self.live("releases/2.0") }.into(),
            Undoing::Owner { path: self.live("current"), uid, gid }.into(),
            Undoing::Attribute {
                path: self.live("unit"),
                name: "user.refit".into(),
                value: b"\0 %=value".to_vec(),
            }
            .into(),
            Undoing::Mode { path: self.live("unit"), mode: 0o4750 }.into(),
            Undoing::HardLink { path: self.live("second"), from: self.live("unit") }.into(),
            Undoing::Modified { path: self.live("unit"), time: LONG_AGO }.into(),
            Undoing::Modified { path: self.live("data"), time: LONG_AGO }.into(),
            Undoing::Run { command: vec!["/usr/bin/touch".into(), ran], timeout_seconds: 60 }
                .into(),
        ];
        WayBack {
            install: InstallId::parse("install-1").unwrap(),
            boot: BootId::parse("boot-1").unwrap(),
            deadline: Running::from_nanos(0),
            patience: Duration::from_secs(600),
            alone: Duration::from_secs(600),
            starts: 3,
            attempt: None,
            lease: None,
            restores: None,
            owners: Owners { users: now("-un"), groups: now("-gn") },
            steps,
        }
    }

    /// What no listing shows: attribute, time, mode and the second name.
    fn is_dressed(&self) {
        let unit = self.live("unit");
        let value = RealFiles.attributes(&unit).unwrap().remove(OsStr::new("user.refit"));
        assert_eq!(value.as_deref(), Some(b"\0 %=value".as_slice()));
        let there = fs::metadata(&unit).unwrap();
        assert_eq!((there.mode() & 0o7777, there.nlink()), (0o4750, 2));
        assert_eq!(there.ino(), fs::metadata(self.live("second")).unwrap().ino());
        let own = fs::metadata(self.root()).unwrap();
        for at in ["unit", "data", "data/orders", "current"].map(|at| self.live(at)) {
            let owner = fs::symlink_metadata(&at).unwrap();
            assert_eq!((owner.uid(), owner.gid()), (own.uid(), own.gid()), "{}", at.display());
        }
        for at in [unit, self.live("data")] {
            assert_eq!(RealFiles.stat(&at).unwrap().unwrap().modified, LONG_AGO);
        }
    }

    fn place(&self) -> Place {
        Place::in_folder(Arc::new(RealFiles), &self.own(""))
    }

    fn by_the_agent(&self) {
        run(&self.place().load().unwrap().unwrap(), &RealFiles, &mut NoServices(run_command))
            .unwrap();
    }

    fn rescuer(&self, command: &str) -> Output {
        let mut rescuer = Command::new(env!("CARGO_BIN_EXE_refit-rescue"));
        // Without a systemd: no unit of this machine is the test's.
        rescuer.env("PATH", "/nonexistent").arg(command).arg("--data");
        rescuer.arg(self.own("")).output().unwrap()
    }

    fn by_the_rescuer(&self) {
        let done = self.rescuer("back");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

fn armed() -> Host {
    let host = Host::in_the_middle_of_an_update();
    host.place().arm(&host.way_back()).unwrap();
    host
}

#[test]
fn the_rescuer_and_the_agent_come_to_the_same_end_in_whichever_order_they_run() {
    let agent = armed();
    agent.by_the_agent();
    let back = tree(&agent.live(""));
    assert!(back.contains_key(Path::new("data.aside/more")));
    assert_eq!(back[Path::new("unit")].1, b"old unit");
    agent.is_dressed();

    let rescuer = armed();
    rescuer.by_the_rescuer();
    assert_eq!(tree(&rescuer.live("")), back);
    rescuer.is_dressed();
    // The agent, which finds the record, does the steps once more.
    rescuer.by_the_agent();
    assert_eq!(tree(&rescuer.live("")), back);

    agent.by_the_rescuer();
    assert_eq!(tree(&agent.live("")), back);
}

#[test]
fn what_the_rescuer_did_is_read_by_the_agent() {
    let host = armed();
    host.by_the_rescuer();
    let rescued = host.place().rescued().unwrap();
    assert_eq!(rescued.install.as_str(), "install-1");
    assert_eq!(rescued.failure().cause, Cause::BackedOut);
    host.place().disarm().unwrap();
    assert_eq!(host.place().rescued(), None, "told once");
}

#[test]
fn a_damaged_backup_touches_nothing_and_is_said() {
    let host = armed();
    fs::write(host.own("backup/orders"), "old dato").unwrap();
    let before = tree(&host.live(""));
    let done = host.rescuer("back");
    assert!(!done.status.success());
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(said.contains("nothing was touched") && said.contains("backup/orders"), "{said}");
    assert_eq!(tree(&host.live("")), before);
    let failure = host.place().rescued().unwrap().failure();
    assert!(failure.text.contains("nothing was touched"), "{failure}");
}

#[test]
fn a_damaged_way_back_is_an_error_and_never_nothing_to_do() {
    let host = armed();
    let path = host.own("way-back");
    let whole = fs::read(&path).unwrap();
    let before = tree(&host.live(""));
    for at in (0..whole.len()).step_by(37) {
        let mut flipped = whole.clone();
        flipped[at] ^= 4;
        fs::write(&path, flipped).unwrap();
        assert!(!host.rescuer("back").status.success(), "flipped at {at}");
    }
    assert_eq!(tree(&host.live("")), before);
}

#[test]
fn a_link_on_the_way_leads_the_rescuer_nowhere_else() {
    let host = armed();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::rename(host.live(""), host.root().join("moved")).unwrap();
    symlink(elsewhere.path(), host.root().join("live")).unwrap();
    assert!(!host.rescuer("back").status.success());
    assert_eq!(tree(elsewhere.path()), BTreeMap::new());
}
