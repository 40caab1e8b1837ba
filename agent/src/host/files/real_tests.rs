//! What the real files promise beyond what the fake can show: no link is followed, on a real kernel.

use std::{fs, os::unix::fs::symlink, path::PathBuf, process::Command};

use refit_durable::testing::LoopFs;

use super::*;

fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap();
    (dir, path)
}

/// CVE-2026-6968.
#[test]
fn a_link_planted_on_the_way_or_at_the_end_is_never_followed() {
    let (_dir, top) = folder();
    fs::create_dir(top.join("victim")).unwrap();
    fs::write(top.join("victim/file"), "untouched").unwrap();
    symlink(top.join("victim"), top.join("way")).unwrap();
    symlink(top.join("victim/file"), top.join("end")).unwrap();
    let (way, end) = (top.join("way/file"), top.join("end"));

    let refused = [
        RealFiles.create(&top.join("way/new"), 0o644).err(),
        RealFiles.create(&end, 0o644).err(),
        RealFiles.append(&end).err(),
        RealFiles.open(&end).err(),
        RealFiles.open(&way).err(),
        RealFiles.create_dir(&top.join("way/dir"), 0o755).err(),
        RealFiles.remove_file(&way).err(),
        RealFiles.rename(&way, &top.join("x")).err(),
        RealFiles.symlink(Path::new("x"), &top.join("way/link")).err(),
        RealFiles.hard_link(&way, &top.join("x")).err(),
        RealFiles.list(&top.join("way")).err(),
        RealFiles.sync_file(&end).err(),
        RealFiles.set_mode(&end, 0o777).err(),
        RealFiles.set_owner(&way, 0, 0).err(),
        RealFiles.set_modified(&way, Time::default()).err(),
        RealFiles.set_attribute(&end, &"user.x".into(), b"x").err(),
        RealFiles.stat(&way).err(),
    ];
    for (n, error) in refused.iter().enumerate() {
        assert!(error.is_some(), "operation {n} followed the link");
    }
    let error = refused[4].as_ref().unwrap().to_string();
    assert!(error.contains("way on the way is a symbolic link"), "{error}");
    // Where the link itself is meant, it is what is changed.
    RealFiles.set_modified(&end, Time { seconds: 7, nanos: 0 }).unwrap();
    remove_tree(&RealFiles, &top.join("way")).unwrap();
    RealFiles.remove_file(&end).unwrap();
    assert_eq!(fs::read_to_string(top.join("victim/file")).unwrap(), "untouched");
    let names: Vec<_> = RealFiles.list(&top.join("victim")).unwrap();
    assert_eq!(names, ["file"]);
}

/// CVE-2026-6968.
#[test]
fn a_path_with_dots_or_without_a_root_is_refused() {
    for bad in ["a/b", "../x", "/tmp/../etc/passwd", ""] {
        assert!(RealFiles.stat(Path::new(bad)).is_err(), "{bad}");
    }
    assert!(RealFiles.stat(Path::new("/")).unwrap().is_some());
    assert!(!RealFiles.list(Path::new("/")).unwrap().is_empty());
    // `/tmp/./x` and `/tmp/x` are the same components.
    assert!(RealFiles.stat(Path::new("/")).unwrap().is_some());
}

#[test]
fn a_resolved_path_leads_through_no_link_and_keeps_its_last_name() {
    let (_dir, top) = folder();
    fs::create_dir(top.join("real")).unwrap();
    symlink(top.join("real"), top.join("way")).unwrap();
    symlink("nowhere", top.join("real/end")).unwrap();
    let resolved = |path: &str| RealFiles.resolve(&top.join(path)).unwrap();
    assert_eq!(resolved("way/end"), top.join("real/end"));
    assert_eq!(resolved("way/not/there/yet"), top.join("real/not/there/yet"));
    // A link that leads nowhere is no place.
    assert!(RealFiles.resolve(&top.join("real/end/x")).is_err());
}

#[test]
fn modes_times_and_attributes_are_as_asked_for_whatever_the_umask() {
    let (_dir, top) = folder();
    let (file, dir) = (top.join("file"), top.join("dir"));
    write_file(&RealFiles, &file, b"x", 0o666).unwrap();
    RealFiles.create_dir(&dir, 0o777).unwrap();
    let stat = |path| RealFiles.stat(path).unwrap().unwrap();
    assert_eq!((stat(&file).mode, stat(&dir).mode), (0o666, 0o777));
    let time = Time { seconds: -5, nanos: 7 };
    RealFiles.set_modified(&file, time).unwrap();
    RealFiles.set_attribute(&file, &"user.refit".into(), b"v\0").unwrap();
    let attributes = RealFiles.attributes(&file).unwrap();
    assert_eq!(attributes.get(&OsString::from("user.refit")).unwrap(), b"v\0");
    RealFiles.remove_attribute(&file, &"user.refit".into()).unwrap();
    assert!(!RealFiles.attributes(&file).unwrap().contains_key(&OsString::from("user.refit")));
    // Also where there are many: an ext4 file holds 4 KiB of them.
    let many: Attributes =
        (0..40).map(|n| (format!("user.number-{n:02}").into(), vec![n])).collect();
    for (name, value) in &many {
        RealFiles.set_attribute(&file, name, value).unwrap();
    }
    assert_eq!(RealFiles.attributes(&file).unwrap(), many);
    // Also where it may be neither read nor written any more.
    RealFiles.set_mode(&file, 0o000).unwrap();
    assert_eq!((stat(&file).modified, stat(&file).mode), (time, 0));
    RealFiles.set_mode(&file, 0o600).unwrap();
}

#[test]
fn space_is_reserved_for_real() {
    let (_dir, top) = folder();
    RealFiles.reserve(&top.join("some"), 1 << 20).unwrap();
    let blocks = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(top.join("some")).unwrap());
    assert!(blocks * 512 >= 1 << 20, "{blocks} blocks");
}

fn old_kernel(what: &str) {
    refit_durable::testing::not_run(what, "boot Linux 5.17 or later");
}

/// The disk below takes no more after a while, which the writer hears of late or never.
#[test]
fn a_sync_of_all_tells_of_what_could_not_be_written_also_before_it_was_asked_for() {
    let what = "a write that fails behind our back is told by the sync of a file system";
    let (_dir, top) = folder();
    let Some(small) = LoopFs::create(what, &top, 32) else { return };
    let inner = top.join("inner");
    fs::create_dir(&inner).unwrap();
    let image = small.path().join("disk.img");
    fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image).status();
    assert!(made.unwrap().success());
    let Some(disk) = LoopFs::mount(what, &image, &inner.join("disk")) else { return };
    let at = disk.path();
    let Some(mut before) = RealFiles.together(at).unwrap() else { return old_kernel(what) };
    before.sync().expect("a whole disk");

    RealFiles.create(&at.join("lost"), 0o600).unwrap().write_all(&vec![7; 64 << 20]).unwrap();
    // Somebody else's sync, which is told of it first; whoever comes after that is told of nothing.
    let theirs = Command::new("sync").arg("--file-system").arg(at).output().unwrap();
    let error = before.sync().expect_err("half of it can't be there");
    assert!([Some(5), Some(28), Some(30)].contains(&error.raw_os_error()), "{error}");
    println!("told: {error}; they: {}", String::from_utf8_lossy(&theirs.stderr));
}

#[test]
fn only_a_file_system_that_is_known_is_synced_as_a_whole() {
    let what = "which file systems are synced as a whole";
    let (_dir, top) = folder();
    let Some(ext4) = LoopFs::create(what, &top, 16) else { return };
    if RealFiles.together(ext4.path()).unwrap().is_none() {
        old_kernel(what);
    }
    // A file system in memory.
    assert!(RealFiles.together(Path::new("/dev/shm")).unwrap().is_none());
    assert!(RealFiles.together(&top.join("nothing")).is_err());
}
