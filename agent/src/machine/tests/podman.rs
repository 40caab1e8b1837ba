//! Releases in containers, with a stand-in for podman that can fail at any of its calls. What runs is told by the
//! units, as with every other installer; what podman has to have for it, by the images.

use refit_proto::package::{Entry, PodmanImage};

use super::*;
use crate::host::{
    podman::tests::StandIn,
    tree::testing::{file, folder},
};

/// A release with one container, of an image whose layers are `layer`.
fn publish_container(
    world: &mut World,
    stand_in: &StandIn,
    version: &str,
    layer: &str,
) -> ReleaseId {
    let name = PackageName::parse("payments").unwrap();
    let web = PackageName::parse("web").unwrap();
    let texts = [format!("config of {layer}"), format!("manifest of {layer}"), layer.to_owned()];
    let blob = |text: &String| {
        file(&format!("image/blobs/sha256/{}", Digest::of(text.as_bytes())), 0o644, text.as_bytes())
    };
    let mut entries: Vec<Entry> =
        ["image", "image/blobs", "image/blobs/sha256"].map(|path| folder(path, 0o755)).into();
    entries.extend(texts.iter().map(blob));
    for path in ["image/index.json", "image/oci-layout"] {
        entries.push(file(path, 0o644, b"{}"));
    }
    let service: package::Service =
        serde_json::from_str(r#"{"name":"web","command":["/bin/web"]}"#).unwrap();
    let checks =
        vec![Check { name: web.clone(), probe: Probe::Unit { service: web }, timeout_seconds: 5 }];
    let health = Health::Checked(Observed {
        checks,
        start_seconds: 0,
        failures: 2,
        good_seconds: 10,
        ..Observed::default()
    });
    let (config, manifest) = (Digest::of(texts[0].as_bytes()), Digest::of(texts[1].as_bytes()));
    stand_in.know(&manifest, &config);
    let image = PodmanImage { manifest, config, bytes: 1 };
    let (services, backup) = (vec![service], Backup::default());
    let mut tree = Manifest::new(name.clone(), entries, services, health, backup, vec![]).unwrap();
    tree.services[0].options.push("--network=host".into());
    let manifest = tree.with_image(image).unwrap();
    for bytes in texts.iter().map(String::as_bytes).chain([&b"{}"[..], &manifest.to_bytes()]) {
        world.frames.add(bytes);
    }
    let packages = vec![PackageRef { name, manifest: FileRef::to(&manifest.to_bytes()) }];
    let platforms = BTreeMap::from([(platform(), packages)]);
    release(world, version, platforms)
}

fn release(
    world: &mut World,
    version: &str,
    platforms: BTreeMap<Platform, Vec<PackageRef>>,
) -> ReleaseId {
    let version = Version::parse(version).unwrap();
    let release = Release::new(payments(), version.clone(), 1, platforms).to_bytes();
    let digest = Digest::of(&release);
    world.releases.insert(digest, release);
    ReleaseId { version, digest }
}

fn name_of(layer: &str) -> String {
    let manifest = Digest::of(format!("manifest of {layer}").as_bytes());
    format!("localhost/refit/payments-image/{manifest}")
}

fn names(layers: &[&str]) -> BTreeSet<String> {
    layers.iter().map(|layer| name_of(layer)).collect()
}

/// A host with podman, and three releases: the third has the image of the second.
fn host() -> (World, StandIn, [ReleaseId; 3]) {
    let mut world = empty();
    let stand_in = StandIn::new();
    world.podman = Some(stand_in.program());
    let releases = [("1.0", "one"), ("2.0", "two"), ("3.0", "two")]
        .map(|(version, layer)| publish_container(&mut world, &stand_in, version, layer));
    world.files = world.files.fork();
    (world, stand_in, releases)
}

fn updated(world: &mut World, to: &ReleaseId, from: Option<&ReleaseId>, id: &str) -> Phase {
    world.update(attempt(to, from, id)).unwrap().phase()
}

#[test]
fn podman_has_the_images_of_what_runs_and_of_what_a_backup_leads_to_and_no_other() {
    let (mut world, stand_in, [one, two, three]) = host();
    assert_eq!(updated(&mut world, &one, None, "i1"), Phase::Committed);
    assert_eq!(stand_in.names(), names(&["one"]));
    assert_eq!(updated(&mut world, &two, Some(&one), "i2"), Phase::Committed);
    assert_eq!(stand_in.names(), names(&["one", "two"]));
    // It fails, and what runs is of the very same image.
    world.bad = Some(three.digest);
    assert_eq!(updated(&mut world, &three, Some(&two), "i3"), Phase::RolledBack);
    assert_eq!(stand_in.names(), names(&["one", "two"]));
    assert_eq!(world.stands_on("back").unwrap().as_str(), "2.0");
    world.bad = None;
    // What somebody has pruned is brought in again where it is needed, and not before.
    stand_in.prune();
    assert_eq!(updated(&mut world, &three, Some(&two), "i4"), Phase::Committed);
    assert_eq!(stand_in.names(), names(&["two"]));
}

#[test]
fn a_failing_first_install_of_a_container_leaves_neither_container_nor_image_nor_unit() {
    let (mut world, stand_in, [one, ..]) = host();
    let outside = |world: &World| {
        let mut all = world.outside();
        all.remove(Path::new(UNITS));
        all
    };
    let before = outside(&world);
    world.bad = Some(one.digest);
    assert_eq!(updated(&mut world, &one, None, "i1"), Phase::RolledBack);
    assert_eq!(stand_in.names(), BTreeSet::new());
    assert_eq!(stand_in.removed_containers(), "refit-web\n");
    assert_eq!(outside(&world), before);
    assert_eq!(world.stands_on("nothing"), None);
    world.is_tidy("nothing");
}

#[test]
fn a_bad_release_is_undone_though_the_image_before_was_pruned_meanwhile() {
    let (mut world, stand_in, [one, two, _]) = host();
    updated(&mut world, &one, None, "i1");
    stand_in.prune();
    world.bad = Some(two.digest);
    assert_eq!(updated(&mut world, &two, Some(&one), "i2"), Phase::RolledBack);
    assert_eq!(world.stands_on("back").unwrap().as_str(), "1.0");
    assert_eq!(stand_in.names(), names(&["one"]));
}

#[test]
fn removing_a_product_of_containers_leaves_no_image_and_no_unit() {
    let (mut world, stand_in, [one, ..]) = host();
    let before = snapshot(&world.files, Path::new("/etc"));
    updated(&mut world, &one, None, "i1");
    let nothing = release(&mut world, "9.0", BTreeMap::from([(platform(), vec![])]));
    assert_eq!(updated(&mut world, &nothing, Some(&one), "i2"), Phase::Committed);
    assert_eq!(stand_in.names(), BTreeSet::new());
    let mut after = snapshot(&world.files, Path::new("/etc"));
    after.remove(Path::new(UNITS));
    assert_eq!(after, before);
    assert_eq!(world.running.lock().unwrap().len(), 0);
}

/// Whatever answer of podman is missing: the host stands on one whole release, with its image, and the next
/// update leaves no image behind.
#[test]
fn a_host_whose_podman_fails_once_at_any_call_stands_on_one_release_whose_image_is_there() {
    for bad in [false, true] {
        for call in 1.. {
            let (mut world, stand_in, [one, two, _]) = host();
            updated(&mut world, &one, None, "i1");
            world.bad = bad.then_some(two.digest);
            stand_in.fails_at(call);
            let phase = updated(&mut world, &two, Some(&one), "i2");
            if stand_in.calls() < call {
                assert_eq!(phase, if bad { Phase::RolledBack } else { Phase::Committed });
                assert!(call > 8, "{call} calls are all that it makes");
                break;
            }
            let step = format!("call {call} of a podman that fails, {phase:?}");
            let version = world.stands_on(&step).unwrap();
            let committed = phase == Phase::Committed;
            assert_eq!(version.as_str(), if committed { "2.0" } else { "1.0" }, "{step}");
            let needed = name_of(if committed { "two" } else { "one" });
            assert!(stand_in.names().contains(&needed), "{step}: {:?}", stand_in.names());
            // In peace, nothing of it is left after the next update.
            (world.bad, _) = (None, stand_in.restart());
            let from = if committed { &two } else { &one };
            let nothing = release(&mut world, "9.0", BTreeMap::from([(platform(), vec![])]));
            assert_eq!(updated(&mut world, &nothing, Some(from), "i3"), Phase::Committed, "{step}");
            assert_eq!(stand_in.names(), BTreeSet::new(), "{step}");
        }
    }
}
