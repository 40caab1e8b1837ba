//! The script and the names, with a stand-in for podman that can fail, or be cut, at any of its calls.

use std::{fs, os::unix::fs::PermissionsExt as _};

use proptest::prelude::*;
use refit_proto::names::Digest;

use super::*;

/// podman, as far as the installer asks it: images by id, and names that lead to them.
const STAND_IN: &str = r#"#!/bin/sh
d=@DIR@
n=$(($(cat $d/calls) + 1)); echo $n >$d/calls
[ "$n" != "$(cat $d/fails)" ] || exit 125
[ "$n" != "$(cat $d/cuts)" ] || { set -- $(cat /proc/$PPID/stat); kill -9 $4 $PPID; exit 137; }
key() { printf %s "$1" | tr / ,; }
id() { cat "$d/names/$(key "$1")" 2>/dev/null || { [ -e "$d/ids/$1" ] && echo "$1"; }; }
names() { grep -rlx -- "$1" "$d/names" | sed 's|.*/||' | tr , /; }
case "$1 $2" in
'image inspect') i=$(id "$5") || exit 1; case $4 in *Id*) echo "$i" ;; *) names "$i" ;; esac ;;
'image exists') id "$3" >/dev/null ;;
'image rm')
  i=$(id "$3") || exit 1
  [ ! -e "$d/used/$i" ] || [ "$(names "$i" | wc -l)" -gt 1 ] || exit 2
  rm -f "$d/names/$(key "$3")"
  [ -n "$(names "$i")" ] || rm -f "$d/ids/$i" ;;
'pull --quiet') i=${3##*/}; i=$(cat "$d/known/${i%-new}") || exit 1
  : >"$d/ids/$i"; echo "$i" >"$d/names/$(key "localhost/${3#oci:}")" ;;
'info --format') echo "$d" ;;
'images --no-trunc') ls "$d/names" | tr , / ;;
'rm --force') for name do :; done; echo "$name" >>"$d/removed" ;;
*) [ "$1" = tag ] || exit 64; id "$2" >"$d/new" && mv "$d/new" "$d/names/$(key "$3")" ;;
esac
"#;

/// A stand-in for podman that can fail, or end who called it, at one of its calls.
pub(crate) struct StandIn(tempfile::TempDir);

impl StandIn {
    pub(crate) fn new() -> StandIn {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["names", "ids", "known", "used"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let stand_in = StandIn(dir);
        stand_in.restart();
        let text = STAND_IN.replace("@DIR@", &stand_in.0.path().display().to_string());
        fs::write(stand_in.program(), text).unwrap();
        fs::set_permissions(stand_in.program(), fs::Permissions::from_mode(0o755)).unwrap();
        stand_in
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    pub(crate) fn program(&self) -> PathBuf {
        self.at("podman")
    }

    /// From now on nothing goes wrong, and calls are counted anew.
    pub(crate) fn restart(&self) {
        for (file, number) in [("calls", "0"), ("fails", "0"), ("cuts", "0")] {
            fs::write(self.at(file), format!("{number}\n")).unwrap();
        }
    }

    /// Calls are counted anew, and this one fails.
    pub(crate) fn fails_at(&self, call: u32) {
        self.restart();
        fs::write(self.at("fails"), format!("{call}\n")).unwrap();
    }

    fn cuts_at(&self, call: u32) {
        self.restart();
        fs::write(self.at("cuts"), format!("{call}\n")).unwrap();
    }

    pub(crate) fn calls(&self) -> u32 {
        fs::read_to_string(self.at("calls")).unwrap().trim().parse().unwrap()
    }

    /// What a layout of this manifest holds.
    pub(crate) fn know(&self, manifest: &Digest, config: &Digest) {
        fs::write(self.at("known").join(manifest.to_string()), format!("{config}\n")).unwrap();
    }

    fn use_in_container(&self, id: &Digest) {
        fs::write(self.at("used").join(id.to_string()), "").unwrap();
    }

    fn name(&self, name: &str, id: &Digest) {
        fs::write(self.at("ids").join(id.to_string()), "").unwrap();
        fs::write(self.at("names").join(name.replace('/', ",")), format!("{id}\n")).unwrap();
    }

    /// `podman system prune -a`.
    pub(crate) fn prune(&self) {
        for folder in ["names", "ids"] {
            fs::remove_dir_all(self.at(folder)).unwrap();
            fs::create_dir(self.at(folder)).unwrap();
        }
    }

    /// The names of all images.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        let listed = fs::read_dir(self.at("names")).unwrap();
        let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().replace(',', "/");
        listed.map(|entry| name(entry.unwrap())).collect()
    }

    fn id(&self, name: &str) -> Option<String> {
        let id = fs::read_to_string(self.at("names").join(name.replace('/', ","))).ok()?;
        Some(id.trim().to_owned())
    }

    pub(crate) fn removed_containers(&self) -> String {
        fs::read_to_string(self.at("removed")).unwrap_or_default()
    }
}

fn product() -> Product {
    Product::parse("payments").unwrap()
}

fn image(number: u8) -> Image {
    let (manifest, config) = (Digest::of(&[b'm', number]), Digest::of(&[b'c', number]));
    let image = PodmanImage { manifest, config, bytes: 0 };
    Image::of(&product(), &image, Path::new("/opt/refit/payments/releases/x/payments"))
}

fn known(stand_in: &StandIn) {
    for number in 0..4 {
        stand_in.know(&Digest::of(&[b'm', number]), &image(number).id);
    }
}

/// Whether the script ended well.
fn run(command: Vec<String>) -> bool {
    let mut shell = std::process::Command::new(&command[0]);
    // What is cut leaves a folder behind, which goes with the stand-in.
    shell.env("TMPDIR", Path::new(&command[5]).parent().unwrap());
    shell
        .args(&command[1..])
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null());
    shell.status().unwrap().success()
}

fn load(stand_in: &StandIn, image: &Image) -> bool {
    run(image.command("load", &stand_in.program()))
}

#[test]
fn an_image_comes_in_whatever_call_of_podman_failed_or_was_cut_before_and_nothing_else_is_left() {
    for cut in [false, true] {
        for call in 1.. {
            let stand_in = StandIn::new();
            known(&stand_in);
            if cut {
                stand_in.cuts_at(call)
            } else {
                stand_in.fails_at(call)
            }
            let came = load(&stand_in, &image(0));
            if stand_in.calls() < call {
                assert!(came && call > 5, "{call} calls are all that it makes");
                break;
            }
            // Half done is never taken for done: the name comes last.
            assert!(!came || stand_in.id(&image(0).name).is_some(), "call {call}");
            stand_in.restart();
            assert!(load(&stand_in, &image(0)), "call {call}, cut {cut}");
            assert_eq!(stand_in.id(&image(0).name), Some(image(0).id.to_string()));
            // A name that it had meanwhile goes with the next cleaning.
            let containers = Containers::new(stand_in.program(), false);
            containers.clean(&product(), &[image(0)].into()).unwrap();
            assert_eq!(stand_in.names(), [image(0).name].into(), "call {call}");
        }
    }
}

#[test]
fn an_image_of_another_id_than_the_manifests_does_not_come() {
    let stand_in = StandIn::new();
    stand_in.know(&Digest::of(&[b'm', 0]), &image(1).id);
    assert!(!load(&stand_in, &image(0)));
    assert_eq!(stand_in.names(), BTreeSet::new());
    // Nor is one taken for it that another hand has given its name.
    stand_in.name(&image(0).name, &image(2).id);
    assert!(!load(&stand_in, &image(0)));
    // Without an image the way back goes on: other services have to start.
    assert!(run(image(0).command("try", &stand_in.program())));
}

#[test]
fn old_images_go_and_neither_those_that_are_kept_nor_other_peoples_nor_those_in_use() {
    let stand_in = StandIn::new();
    known(&stand_in);
    for number in 0..3 {
        assert!(load(&stand_in, &image(number)));
    }
    let others = ["localhost/refit/payments-two-image/x", "docker.io/library/nginx"];
    for name in others {
        stand_in.name(name, &Digest::of(name.as_bytes()));
    }
    // The owner has one of ours under a name of theirs, and runs another.
    stand_in.name("localhost/mine", &image(0).id);
    stand_in.use_in_container(&image(1).id);
    let containers = Containers::new(stand_in.program(), false);
    containers.clean(&product(), &[image(2)].into()).unwrap();
    let left = |images: &[Image]| -> BTreeSet<String> {
        let names = images.iter().map(|image| image.name.clone());
        names.chain(others.map(str::to_owned)).chain(["localhost/mine".to_owned()]).collect()
    };
    assert_eq!(stand_in.names(), left(&[image(1), image(2)]));
    fs::remove_file(stand_in.at("used").join(image(1).id.to_string())).unwrap();
    containers.clean(&product(), &[].into()).unwrap();
    assert_eq!(stand_in.names(), left(&[]));
    assert_eq!(stand_in.id("localhost/mine"), Some(image(0).id.to_string()));
}

#[derive(Debug, Clone)]
enum Happens {
    Load(u8),
    LoadCut(u8, u32),
    Drop(u8),
    Keep(u8),
    Prune,
    Owner(u8),
}

fn happens() -> impl Strategy<Value = Happens> {
    let number = 0..4_u8;
    prop_oneof![
        number.clone().prop_map(Happens::Load),
        (number.clone(), 1..12_u32).prop_map(|(number, call)| Happens::LoadCut(number, call)),
        number.clone().prop_map(Happens::Drop),
        number.clone().prop_map(Happens::Keep),
        Just(Happens::Prune),
        number.prop_map(Happens::Owner),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happened_to_podmans_storage_the_image_of_the_release_before_comes_back(
        happened in prop::collection::vec(happens(), 0..8),
        before in 0..4_u8,
    ) {
        let stand_in = StandIn::new();
        known(&stand_in);
        let mut owners = BTreeSet::new();
        let containers = Containers::new(stand_in.program(), false);
        for happens in happened {
            match happens {
                Happens::Load(number) => prop_assert!(load(&stand_in, &image(number))),
                Happens::LoadCut(number, call) => {
                    stand_in.cuts_at(call);
                    load(&stand_in, &image(number));
                    stand_in.restart();
                }
                Happens::Drop(number) => {
                    let mut command = script("drop", &stand_in.program());
                    command.push(image(number).name);
                    prop_assert!(run(command));
                }
                Happens::Keep(number) => {
                    containers.clean(&product(), &[image(number)].into()).unwrap();
                }
                Happens::Prune => {
                    stand_in.prune();
                    owners.clear();
                }
                Happens::Owner(number) => {
                    let name = format!("localhost/mine-{number}");
                    stand_in.name(&name, &image(number).id);
                    owners.insert((name, image(number).id.to_string()));
                }
            }
        }
        prop_assert!(run(image(before).command("try", &stand_in.program())));
        prop_assert_eq!(stand_in.id(&image(before).name), Some(image(before).id.to_string()));
        for (name, id) in owners {
            prop_assert_eq!(stand_in.id(&name), Some(id), "what is the owner's stays");
        }
    }
}
