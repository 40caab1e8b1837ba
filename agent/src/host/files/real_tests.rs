//! What the real files promise beyond what the fake can show: no link is followed, on a real kernel.

use std::{fs, os::unix::fs::symlink, path::PathBuf};

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
