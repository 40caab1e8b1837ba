//! What a backup on a real disk promises, whoever brings it back: the agent, or the rescuer, which has not
//! a line of code in common with it.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Seek as _, SeekFrom, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use refit_agent::{
    host::{
        backup::{About, Backups, Cover, Index, Role},
        files::{Attributes, Files as _, RealFiles, Time},
    },
    update::{BackupId, BootId, InstallId, Running, SealedBackup},
    way_back::{NoServices, Place, WayBack, run},
};
use refit_durable::testing::not_run;
use refit_proto::names::{Digest, Product};

fn turn() -> InstallId {
    InstallId::parse("b1").unwrap()
}

/// All that there is to see of one name, but where its bytes lie.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    holds: Digest,
    attributes: Attributes,
    /// The first name of the same file.
    first: PathBuf,
    /// Whether a good part of it takes no space.
    has_holes: bool,
}

fn seen(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut found = BTreeMap::new();
    let mut names = BTreeMap::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<_> =
            fs::read_dir(root.join(&folder)).unwrap().map(|entry| entry.unwrap()).collect();
        entries.sort_by_key(|entry| entry.file_name());
        for entry in entries {
            let (name, path) = (folder.join(entry.file_name()), entry.path());
            let there = fs::symlink_metadata(&path).unwrap();
            let (mut holds, mut attributes) = (Vec::new(), Attributes::new());
            if there.is_symlink() {
                holds = fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes();
            } else {
                attributes = RealFiles.attributes(&path).unwrap();
            }
            if there.is_file() {
                holds = fs::read(&path).unwrap();
            }
            if there.is_dir() {
                folders.push(name.clone());
            }
            let first = names.entry(there.ino()).or_insert_with(|| name.clone()).clone();
            let has_holes = there.is_file() && there.blocks() * 512 + (1 << 20) < there.len();
            let seen = Seen {
                mode: there.mode(),
                owner: (there.uid(), there.gid()),
                modified: (there.mtime(), there.mtime_nsec()),
                holds: Digest::of(&holds),
                attributes,
                first,
                has_holes,
            };
            found.insert(name, seen);
        }
    }
    found
}

/// A host whose `etc/payments` and `etc/payments.db` are saved.
struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Host {
        let host = Host(tempfile::tempdir().unwrap());
        fs::create_dir_all(host.etc("payments/sub")).unwrap();
        fs::create_dir(host.data()).unwrap();
        host
    }

    fn root(&self) -> PathBuf {
        self.0.path().canonicalize().unwrap()
    }

    fn etc(&self, path: &str) -> PathBuf {
        self.root().join("etc").join(path)
    }

    fn data(&self) -> PathBuf {
        self.root().join("data")
    }

    fn backups(&self) -> Backups<'static> {
        Backups::new(&RealFiles, self.data())
    }

    fn covers(&self) -> Vec<Cover> {
        let cover = |path: &str| Cover { path: self.etc(path), role: Role::Declared };
        vec![cover("payments"), cover("payments.db")]
    }

    fn seal(&self) -> (SealedBackup, Index) {
        let id = BackupId::parse("b1").unwrap();
        let product = Product::parse("payments").unwrap();
        self.backups().save(&id, &self.covers()).unwrap();
        let about = About { id, product, from: None, to: None, made: 0 };
        let sealed = self.backups().seal(&about, &self.covers()).unwrap();
        let index = self.backups().verify(&sealed).unwrap();
        (sealed, index)
    }

    fn arm(&self, index: &Index) -> WayBack {
        let way_back = WayBack {
            install: turn(),
            boot: BootId::parse("boot-1").unwrap(),
            deadline: Running::from_nanos(0),
            patience: Duration::from_secs(600),
            alone: Duration::from_secs(600),
            starts: 3,
            attempt: None,
            lease: None,
            restores: None,
            owners: Default::default(),
            steps: self.backups().undo_steps(index, &turn()).unwrap(),
        };
        Place::in_folder(Arc::new(RealFiles), &self.data()).arm(&way_back).unwrap();
        way_back
    }

    /// What a release does to what is saved.
    fn change(&self) {
        fs::remove_dir_all(self.etc("payments")).unwrap();
        fs::create_dir(self.etc("payments")).unwrap();
        fs::write(self.etc("payments/new"), "new").unwrap();
        fs::write(self.etc("payments.db"), "new").unwrap();
    }

    fn by_the_rescuer(&self) {
        let mut rescuer = Command::new(env!("CARGO_BIN_EXE_refit-rescue"));
        // Without a systemd: no unit of this machine is the test's.
        rescuer.env("PATH", "/nonexistent").arg("back").arg("--data").arg(self.data());
        let done = rescuer.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    /// Goes back once by the agent and once by the rescuer, from the same change, and checks each.
    fn comes_back_whole_by_either(&self) {
        let before = seen(&self.root().join("etc"));
        let (_, index) = self.seal();
        assert_eq!(seen(&self.root().join("etc")), before, "making a backup changes nothing");
        type GoBack<'a> = &'a dyn Fn();
        let agent: GoBack =
            &|| run(&self.arm(&index), &RealFiles, &mut NoServices(|_: &[String]| Ok(()))).unwrap();
        let rescuer: GoBack = &|| {
            self.arm(&index);
            self.by_the_rescuer();
        };
        for (who, go_back) in [("agent", agent), ("rescuer", rescuer)] {
            self.change();
            go_back();
            let kept = self.backups().finish(&index, &turn()).unwrap();
            assert_eq!(seen(&self.root().join("etc")), before, "{who}");
            assert_eq!(fs::read(Path::new(&kept[0].place).join("new")).unwrap(), b"new", "{who}");
            fs::remove_dir_all(self.data().join("set-aside")).unwrap();
        }
    }
}

/// A file of 8 MiB with two islands of data.
fn sparse(path: &Path) {
    let mut file = File::create(path).unwrap();
    file.seek(SeekFrom::Start(1 << 20)).unwrap();
    file.write_all(&[7; 5000]).unwrap();
    file.seek(SeekFrom::Start((6 << 20) + 17)).unwrap();
    file.write_all(b"island").unwrap();
    file.set_len(8 << 20).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn a_file_with_several_names_comes_back_as_one_file() {
    let host = Host::new();
    fs::write(host.etc("payments/sub/file"), vec![1; 300_000]).unwrap();
    fs::hard_link(host.etc("payments/sub/file"), host.etc("payments/another")).unwrap();
    fs::hard_link(host.etc("payments/sub/file"), host.etc("payments/third")).unwrap();
    fs::set_permissions(host.etc("payments/third"), fs::Permissions::from_mode(0o4750)).unwrap();
    // The same bytes, and not the same file.
    fs::write(host.etc("payments/same"), vec![1; 300_000]).unwrap();
    // A name of it that is not covered.
    fs::write(host.etc("outside"), "outside").unwrap();
    fs::hard_link(host.etc("outside"), host.etc("payments.db")).unwrap();
    RealFiles
        .set_modified(&host.etc("payments/sub/file"), Time { seconds: 1_000_000, nanos: 5 })
        .unwrap();
    let (_, index) = host.seal();
    let found = seen(&host.root().join("etc"));
    assert_eq!(found[Path::new("payments/third")].first, Path::new("payments/another"));
    host.change();
    run(&host.arm(&index), &RealFiles, &mut NoServices(|_: &[String]| Ok(()))).unwrap();
    let after = seen(&host.root().join("etc"));
    for name in ["payments/third", "payments/sub/file", "payments/same", "payments/sub"] {
        assert_eq!(after[Path::new(name)], found[Path::new(name)], "{name}");
    }
    // The name that is not covered was never touched: it kept what the release wrote.
    assert_eq!(fs::read(host.etc("outside")).unwrap(), b"new");
    assert_eq!(fs::read(host.etc("payments.db")).unwrap(), b"outside");
}

#[test]
fn names_holes_links_and_times_come_back_by_the_agent_and_by_the_rescuer() {
    let host = Host::new();
    sparse(&host.etc("payments/sub/holes"));
    fs::hard_link(host.etc("payments/sub/holes"), host.etc("payments/holes")).unwrap();
    sparse(&host.etc("payments.db"));
    File::create(host.etc("payments/nothing")).unwrap().set_len(64 << 20).unwrap();
    symlink("sub/holes", host.etc("payments/link")).unwrap();
    for (path, seconds) in [("payments/holes", 99), ("payments/sub", 98), ("payments", 97)] {
        RealFiles.set_modified(&host.etc(path), Time { seconds, nanos: 123_456_789 }).unwrap();
    }
    assert!(seen(&host.root().join("etc"))[Path::new("payments.db")].has_holes);
    host.comes_back_whole_by_either();
    let blocks = |path: PathBuf| fs::metadata(path).unwrap().blocks() * 512;
    let saved: u64 = fs::read_dir(host.data().join("backups/b1/content"))
        .unwrap()
        .map(|entry| blocks(entry.unwrap().path()))
        .sum();
    assert!(saved < 1 << 20, "{saved} bytes for 80 MiB of holes");
    let bytes = host.backups().costs(&host.covers()).unwrap().last().unwrap().bytes;
    assert!(bytes < 1 << 20, "preflight reserves {bytes} bytes for 80 MiB of holes");
}

#[test]
fn capabilities_owners_and_lists_of_access_come_back_and_none_is_inherited() {
    let what = "owners, capabilities and lists of access come back";
    if !rustix::process::geteuid().is_root() {
        return not_run(what, "the test is not root");
    }
    let host = Host::new();
    let program = host.etc("payments/sub/program");
    fs::write(&program, "program").unwrap();
    fs::write(host.etc("payments.db"), "db").unwrap();
    fs::set_permissions(host.etc("payments.db"), fs::Permissions::from_mode(0o640)).unwrap();
    RealFiles.set_owner(&program, 12, 34).unwrap();
    // cap_net_bind_service, effective and permitted.
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    RealFiles.set_attribute(&program, &"security.capability".into(), &capability).unwrap();
    // A list of access that lets user 77 read, as `setfacl -m u:77:r` makes it.
    let entry = |tag: u16, perm: u16, id: u32| {
        [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let none = u32::MAX;
    let list = [
        vec![2, 0, 0, 0],
        entry(0x01, 6, none),
        entry(0x02, 4, 77),
        entry(0x04, 4, none),
        entry(0x10, 4, none),
        entry(0x20, 0, none),
    ]
    .concat();
    let listed = host.etc("payments/listed");
    fs::write(&listed, "listed").unwrap();
    RealFiles.set_attribute(&listed, &"system.posix_acl_access".into(), &list).unwrap();
    // From now on all that is made in `etc` gets this list, and nothing that was there before has it.
    RealFiles
        .set_attribute(&host.root().join("etc"), &"system.posix_acl_default".into(), &list)
        .unwrap();
    let before = seen(&host.root().join("etc"));
    assert!(before[Path::new("payments/sub/program")].attributes.len() == 1);
    assert!(before[Path::new("payments")].attributes.is_empty());
    host.comes_back_whole_by_either();
}

#[test]
fn more_files_than_a_way_back_can_hold_are_refused_while_the_services_run() {
    let host = Host::new();
    fs::write(host.etc("payments.db"), "db").unwrap();
    // Long names, so that it takes fewer of them.
    for n in 0..90_000 {
        symlink("nowhere", host.etc("payments").join(format!("{n:0>250}"))).unwrap();
    }
    let id = BackupId::parse("b1").unwrap();
    let error = host.backups().save(&id, &host.covers()).unwrap_err().to_string();
    assert!(error.contains("too many files for a way back"), "{error}");
    assert_eq!(host.backups().list().unwrap(), [], "nothing of it is left");
}

#[test]
fn a_backup_is_made_anew_in_a_folder_to_look_at_and_nothing_else_is_changed() {
    let host = Host::new();
    sparse(&host.etc("payments/sub/holes"));
    fs::hard_link(host.etc("payments/sub/holes"), host.etc("payments/second")).unwrap();
    symlink("sub/holes", host.etc("payments/link")).unwrap();
    fs::set_permissions(host.etc("payments/sub"), fs::Permissions::from_mode(0o550)).unwrap();
    let before = seen(&host.root().join("etc"));
    let (sealed, index) = host.seal();
    host.change();
    let all = || (seen(&host.root().join("etc")), seen(&host.data()));
    let changed = all();

    let folder = host.root().join("look/here");
    fs::create_dir(host.root().join("look")).unwrap();
    let nothing = host.backups().restore_to(&index, &folder).unwrap();
    assert_eq!(nothing, [host.etc("payments.db")], "nothing stood there");
    let there = folder.join(host.root().strip_prefix("/").unwrap()).join("etc");
    assert_eq!(seen(&there), before);
    assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700, "it may hold secrets");

    // Not over what is there, not among the agent's own, not where it was saved.
    for wrong in [folder.clone(), host.data().join("look"), host.root()] {
        host.backups().restore_to(&index, &wrong).unwrap_err();
    }
    assert_eq!(all(), changed, "nothing else was changed");
    // Of what is damaged nothing is made.
    let content = index.content().into_iter().next().unwrap();
    let place = host.data().join("backups/b1/content").join(content.sha256.to_string());
    let whole = fs::read(&place).unwrap();
    fs::write(&place, "damaged").unwrap();
    let again = host.root().join("again");
    let error = host.backups().restore_to(&index, &again).unwrap_err().to_string();
    assert!(error.contains(&content.sha256.to_string()), "{error}");
    assert!(!again.exists());
    fs::write(&place, whole).unwrap();
    host.backups().verify(&sealed).unwrap();
    assert_eq!(seen(&host.root().join("etc")), changed.0, "nothing else was changed");
}

#[test]
fn every_damaged_file_of_a_backup_is_named() {
    let host = Host::new();
    for n in 0..5 {
        fs::write(host.etc("payments").join(n.to_string()), [n; 100]).unwrap();
    }
    let (_, index) = host.seal();
    assert!(host.backups().check(&index.id).is_whole());
    let content: Vec<_> = index.content().into_iter().collect();
    let place =
        |n: usize| host.data().join("backups/b1/content").join(content[n].sha256.to_string());
    fs::write(place(1), [9; 100]).unwrap();
    fs::remove_file(place(3)).unwrap();
    File::options().append(true).open(place(4)).unwrap().write_all(b"more").unwrap();
    let checked = host.backups().check(&index.id);
    assert!(!checked.is_whole());
    let said: Vec<String> = checked.damages.iter().map(|error| error.to_string()).collect();
    assert_eq!(said.len(), 3, "{said:?}");
    for (said, n) in said.iter().zip([1, 3, 4]) {
        assert!(said.contains(place(n).to_str().unwrap()), "{said}");
    }
    fs::write(host.data().join("backups/b1/index.json"), "{}").unwrap();
    let checked = host.backups().check(&index.id);
    assert!(checked.index.is_none() && !checked.is_whole());
    assert!(checked.damages[0].to_string().contains("index.json"));
}
