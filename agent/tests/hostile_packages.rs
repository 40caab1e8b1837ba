//! Packages that want out of their folder, or more of the disk than was signed, on real files: refused, and
//! nothing around the agent's own folders has changed by a byte.
//!
//! A package is no archive: its manifest names each file, and each file's content travels as one frame. So
//! there is no entry for a device, a pipe or a hard link that could be unpacked; a manifest that names one is
//! refused as a whole.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read},
    os::unix::fs::{MetadataExt as _, symlink},
    path::{Path, PathBuf},
};

use refit_agent::host::{
    content::{ContentStore, Fetch, FetchError},
    documents::Documents,
    files::RealFiles,
    tree::{Installer as _, Tree},
};
use refit_durable::testing::LoopFs;
use refit_proto::{
    names::{Digest, PackageName, Platform, Product, Version},
    package::{FileRef, PackageRef, Release, compress},
};

const SECRET: &[u8] = b"what belongs to somebody else";

/// The agent's two folders, and what lies around them.
struct Host {
    top: PathBuf,
    _passing: Option<tempfile::TempDir>,
}

impl Host {
    fn new() -> Host {
        let passing = tempfile::tempdir().unwrap();
        let top = passing.path().canonicalize().unwrap();
        Host::at(top, Some(passing))
    }

    fn at(top: PathBuf, passing: Option<tempfile::TempDir>) -> Host {
        for folder in ["opt", "data", "outside"] {
            fs::create_dir(top.join(folder)).unwrap();
        }
        fs::write(top.join("outside/secret"), SECRET).unwrap();
        Host { top, _passing: passing }
    }

    fn product(&self) -> PathBuf {
        self.top.join("opt/payments")
    }

    fn content(&self) -> ContentStore<'static> {
        ContentStore::new(&RealFiles, self.top.join("data/content"))
    }

    /// Takes in a release with this manifest, as an update does up to the switch.
    fn install(&self, manifest: &[u8], fetch: &mut dyn Fetch) -> Result<(), String> {
        let release = release(manifest);
        let documents = Documents::new(release, &platform(), |_| Ok(manifest.to_owned()));
        let documents = documents.map_err(|error| error.to_string())?;
        let needed: BTreeSet<FileRef> =
            documents.packages.iter().flat_map(|package| package.manifest.content()).collect();
        let content = self.content();
        content.bring_in(&needed, &BTreeMap::new(), fetch).map_err(|error| error.to_string())?;
        let tree = Tree::new(&RealFiles, self.top.join("opt"), platform());
        tree.prepare(&documents, &content).map_err(|error| error.to_string())
    }

    /// Everything but what is in the agent's own two folders.
    fn surroundings(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        for folder in ["", "outside"] {
            listed(&self.top.join(folder), &mut found);
        }
        found
    }
}

/// Each entry of a folder with all that could have been changed of it.
fn listed(folder: &Path, found: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        let own = path.ends_with("opt") || path.ends_with("data");
        let text = if own {
            format!("{:o}", meta.mode())
        } else {
            let bytes = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            let link = fs::read_link(&path).unwrap_or_default();
            let (mode, links, changed) = (meta.mode(), meta.nlink(), meta.ctime_nsec());
            format!("{mode:o} {links} {changed} {} {}", link.display(), Digest::of(&bytes))
        };
        found.insert(path, text);
    }
}

fn platform() -> Platform {
    Platform::parse("any").unwrap()
}

fn release(manifest: &[u8]) -> Vec<u8> {
    let package = PackageName::parse("payments").unwrap();
    let packages = vec![PackageRef { name: package, manifest: FileRef::to(manifest) }];
    let platforms = BTreeMap::from([(platform(), packages)]);
    let (product, version) = (Product::parse("payments").unwrap(), Version::parse("1.0").unwrap());
    Release::new(product, version, 1, platforms).to_bytes()
}

/// A manifest as whoever holds the release key may write it: its entries are any JSON.
fn manifest(entries: &[String]) -> Vec<u8> {
    format!(
        r#"{{"_type":"manifest","format":1,"package":"payments","installer":"tree","entries":[{}],"services":[],"health":"none","backup":{{"paths":[]}},"hooks":[]}}"#,
        entries.join(",")
    )
    .into_bytes()
}

fn file(path: &str, content: FileRef) -> String {
    let FileRef { sha256, length } = content;
    format!(r#"{{"kind":"file","path":"{path}","mode":420,"sha256":"{sha256}","length":{length}}}"#)
}

fn folder(path: &str) -> String {
    format!(r#"{{"kind":"directory","path":"{path}","mode":493}}"#)
}

fn link(path: &str, target: &str) -> String {
    format!(r#"{{"kind":"link","path":"{path}","target":"{target}"}}"#)
}

fn x() -> FileRef {
    FileRef::to(b"x")
}

/// Gives every digest the same frame.
struct One(Vec<u8>);

impl One {
    fn of(plain: &[u8]) -> One {
        let mut frame = Vec::new();
        compress(&mut &plain[..], &mut frame).unwrap();
        One(frame)
    }
}

impl Fetch for One {
    fn frame(&mut self, _: Digest, offset: u64) -> Result<Box<dyn Read + '_>, FetchError> {
        let rest = self.0.get(offset as usize..).ok_or(FetchError::Shorter { offset })?;
        Ok(Box::new(rest))
    }
}

/// Never ends.
struct Endless;

impl Fetch for Endless {
    fn frame(&mut self, _: Digest, _: u64) -> Result<Box<dyn Read + '_>, FetchError> {
        Ok(Box::new(io::repeat(0)))
    }
}

/// Bytes below a folder.
fn used(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let of =
        |path: PathBuf| if path.is_dir() { used(&path) } else { path.metadata().unwrap().len() };
    entries.map(|entry| of(entry.unwrap().path())).sum()
}

#[test]
fn a_good_package_is_put_into_its_folder_and_nowhere_else() {
    let host = Host::new();
    let before = host.surroundings();
    let good = manifest(&[folder("bin"), file("bin/a", x()), link("bin/b", "../bin/a")]);
    host.install(&good, &mut One::of(b"x")).unwrap();
    assert_eq!(host.surroundings(), before);
    assert!(used(&host.product()) > 0);
}

#[test]
fn a_package_whose_service_would_take_the_place_of_the_agent_is_refused_by_name() {
    let host = Host::new();
    let before = host.surroundings();
    let of = |service: &str| {
        let whole = String::from_utf8(manifest(&[])).unwrap();
        let services = format!(
            r#""services":[{{"name":"{service}","command":["/bin/true"]}}],"health":{{"checked":{{"checks":[{{"name":"runs","kind":"unit","service":"{service}"}}],"start_seconds":1,"interval_seconds":1,"failures":1,"good_seconds":1,"max_seconds":9}}}}"#
        );
        whole.replace(r#""services":[],"health":"none""#, &services).into_bytes()
    };
    for own in ["refit-agent", "refit-link", "refit-rescue", "refit-rescue-tick"] {
        let error = host.install(&of(own), &mut One::of(b"x")).unwrap_err();
        assert!(error.contains(&format!("{own} is a unit of Refit's own")), "{error}");
        assert_eq!(host.surroundings(), before);
        assert!(!host.product().exists());
    }
    host.install(&of("refit-agent-exporter"), &mut One::of(b"x")).unwrap();
}

fn outside(host: &Host) -> String {
    host.top.join("outside").display().to_string()
}

/// An entry of a kind that there is not.
fn entry(kind: &str, more: &str) -> String {
    format!(r#"{{"kind":"{kind}","path":"x"{more}}}"#)
}

/// The entries of a manifest, made for a host.
type Entries = Box<dyn Fn(&Host) -> Vec<String>>;

#[test]
fn a_package_that_wants_out_of_its_folder_is_refused_without_a_byte_outside_it() {
    let hostile: Vec<(&str, Entries)> = vec![
        ("..", Box::new(|_| vec![file("../../../../outside/x", x())])),
        (".. inside", Box::new(|_| vec![folder("a"), file("a/../../x", x())])),
        ("absolute", Box::new(|host| vec![file(&format!("{}/x", outside(host)), x())])),
        ("link out", Box::new(|_| vec![link("l", "../../../../../outside/secret")])),
        ("link far out", Box::new(|_| vec![link("l", &format!("{}etc/passwd", "../".repeat(12)))])),
        ("link absolute", Box::new(|host| vec![link("l", &outside(host))])),
        ("link in and out", Box::new(|_| vec![folder("a"), link("a/l", "b/../../../x")])),
        ("file below a link", Box::new(|_| vec![folder("a"), link("l", "a"), file("l/x", x())])),
        ("link, then folder", Box::new(|_| vec![link("l", "a"), folder("l"), file("l/x", x())])),
        ("file twice", Box::new(|_| vec![file("x", x()), file("x", x())])),
        ("link and file", Box::new(|_| vec![link("x", "y"), file("x", x())])),
        ("folder twice", Box::new(|_| vec![folder("a"), folder("a")])),
        ("twice by a blank component", Box::new(|_| vec![folder("a"), file("a//x", x())])),
        ("twice by a dot", Box::new(|_| vec![file("x", x()), file("./x", x())])),
        ("hard link", Box::new(|_| vec![entry("hard-link", r#","target":"../outside/secret""#)])),
        (
            "character device",
            Box::new(|_| vec![entry("device", r#","mode":8630,"major":1,"minor":1"#)]),
        ),
        ("block device", Box::new(|_| vec![entry("block-device", r#","major":8,"minor":0"#)])),
        ("pipe", Box::new(|_| vec![entry("fifo", r#","mode":420"#)])),
        ("socket", Box::new(|_| vec![entry("socket", "")])),
        ("device by its mode", Box::new(|_| vec![file("x", x()).replace("420", "8630")])),
        ("set-user-id", Box::new(|_| vec![file("x", x()).replace("420", "2541")])),
        ("line break", Box::new(|_| vec![file("x\\ny", x())])),
        ("end of a C string", Box::new(|_| vec![file("x\\u0000y", x())])),
        ("no folder above", Box::new(|_| vec![file("a/x", x())])),
        ("its documents", Box::new(|_| vec![file("../.refit/release.json", x())])),
    ];
    for (kind, entries) in hostile {
        let host = Host::new();
        let before = host.surroundings();
        let refused = host.install(&manifest(&entries(&host)), &mut One::of(b"x"));
        let error = refused.expect_err(kind);
        assert!(error.contains("manifest"), "{kind}: {error}");
        assert_eq!(host.surroundings(), before, "{kind}");
        assert_eq!((used(&host.product()), used(&host.top.join("data"))), (0, 0), "{kind}");
    }
}

#[test]
fn links_that_somebody_planted_in_the_agents_folders_are_not_followed() {
    let good = manifest(&[folder("bin"), file("bin/a", x())]);
    let release = Digest::of(&release(&good)).to_string();
    let content = x().sha256.to_string();
    let planted = [
        // Where the release is made, and where all of them lie.
        (format!("opt/payments/releases/.{release}.new"), "outside"),
        (format!("opt/payments/releases/{release}"), "outside"),
        ("opt/payments/releases".to_owned(), "outside"),
        ("opt/payments".to_owned(), "outside"),
        // Where content is received, unpacked and kept.
        (format!("data/content/{}/{content}.part", &content[..2]), "outside/secret"),
        (format!("data/content/{}/{content}.new", &content[..2]), "outside/secret"),
        (format!("data/content/{}/{content}", &content[..2]), "outside/secret"),
        (format!("data/content/{}", &content[..2]), "outside"),
        ("data/content".to_owned(), "outside"),
    ];
    for (place, target) in planted {
        let host = Host::new();
        let at = host.top.join(&place);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        symlink(host.top.join(target), &at).unwrap();
        let before = host.surroundings();
        let ended = host.install(&good, &mut One::of(b"x"));
        assert_eq!(host.surroundings(), before, "{place}: {ended:?}");
        if ended.is_ok() {
            let bytes = host.product().join("releases").join(&release).join("payments/bin/a");
            assert!(fs::symlink_metadata(&bytes).unwrap().is_file(), "{place}");
            assert_eq!(fs::read(bytes).unwrap(), b"x", "{place}");
        }
    }
}

#[test]
fn a_file_of_another_length_than_was_signed_is_refused_and_leaves_nothing() {
    let lies = [
        ("longer", FileRef { length: 0, ..FileRef::to(b"xxxx") }),
        ("one longer", FileRef { length: 3, ..FileRef::to(b"xxxx") }),
        ("one shorter", FileRef { length: 5, ..FileRef::to(b"xxxx") }),
        ("endlessly shorter", FileRef { length: u64::MAX, ..FileRef::to(b"xxxx") }),
        ("other bytes", FileRef { length: 4, ..FileRef::to(b"yyyy") }),
    ];
    for (kind, content) in lies {
        let host = Host::new();
        let before = host.surroundings();
        let wanted = manifest(&[file("x", content)]);
        let error = host.install(&wanted, &mut One::of(b"xxxx")).expect_err(kind);
        assert!(error.contains("content"), "{kind}: {error}");
        assert_eq!(host.surroundings(), before, "{kind}");
        assert_eq!((used(&host.product()), used(&host.top.join("data"))), (0, 0), "{kind}");
    }
    // A manifest of another length than the release says.
    let host = Host::new();
    let good = manifest(&[file("x", x())]);
    let longer = [&good[..], b" "].concat();
    let documents = Documents::new(release(&good), &platform(), |_| Ok(longer.clone()));
    assert!(documents.is_err());
    assert_eq!(used(&host.top.join("data")), 0);
}

#[test]
fn a_stream_without_end_is_cut_where_the_file_could_end() {
    let host = Host::new();
    let wanted = manifest(&[file("x", FileRef { length: 1000, ..x() })]);
    host.install(&wanted, &mut Endless).unwrap_err();
    assert_eq!(used(&host.top.join("data")), 0);
}

/// A frame (RFC 8878) of zeros: blocks of 128 KiB, each of which is one byte and how often it comes.
fn zeros(length: u64) -> Vec<u8> {
    const BLOCK: u64 = 128 << 10;
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 7 << 3];
    let blocks = length / BLOCK;
    for block in 0..blocks {
        let is_last = u64::from(block + 1 == blocks);
        let head = BLOCK << 3 | 1 << 1 | is_last;
        frame.extend_from_slice(&head.to_le_bytes()[..3]);
        frame.push(0);
    }
    frame
}

/// On a disk of 32 MiB, so that what is unpacked too far can't be overlooked.
#[test]
fn five_gib_of_nothing_in_a_small_frame_never_get_onto_the_disk() {
    const FIVE_GIB: u64 = 5 << 30;
    let passing = tempfile::tempdir().unwrap();
    let what = "a bomb on a disk of its own";
    let Some(disk) = LoopFs::create(what, passing.path(), 32) else { return };
    let host = Host::at(disk.path().canonicalize().unwrap().join(""), None);
    let frame = zeros(FIVE_GIB);
    assert!(frame.len() < 1 << 20, "a bomb of {} bytes", frame.len());
    // It is what it says it is, as far as one looks.
    let plain = zstd::Decoder::new(frame.as_slice()).unwrap();
    assert_eq!(io::copy(&mut plain.take(100 << 20), &mut io::sink()).unwrap(), 100 << 20);
    let before = host.surroundings();
    // Signed as something small: cut where that would end.
    let small = manifest(&[file("x", FileRef { length: 1000, ..x() })]);
    let error = host.install(&small, &mut One(frame.clone())).unwrap_err();
    assert!(!error.contains("No space"), "{error}");
    assert_eq!(used(&host.top.join("data")), 0);
    // Signed as what it is: this disk can't hold it, says so, and has its space back.
    let large = manifest(&[file("x", FileRef { length: FIVE_GIB, ..x() })]);
    let error = host.install(&large, &mut One(frame.clone())).unwrap_err();
    assert!(error.contains("No space") || error.contains("space"), "{error}");
    assert!(used(&host.top.join("data")) <= frame.len() as u64, "only the download may stay");
    assert_eq!(used(&host.product()), 0);
    assert_eq!(host.surroundings(), before);
    fs::write(host.top.join("outside/free"), vec![1; 16 << 20]).unwrap();
}
