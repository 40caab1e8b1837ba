//! Backups at a second place: there before an update changes anything, and there when the host's disk is gone.

use std::{
    fs,
    path::{Path, PathBuf},
};

use refit_durable::testing::LoopFs;
use refit_tests::{
    process::{Ran, command},
    release::{Behaviour, Probation},
    sandbox::Sandbox,
    wait::until,
};

fn backup(data: &Path, words: &[&str]) -> Ran {
    let mut agent = command("refit-agent").unwrap();
    Ran::of(agent.arg("backup").args(words).arg("--data").arg(data)).unwrap()
}

/// A host on 1.0 whose backups are copied as `settings` say.
fn host_with(settings: &str) -> Sandbox {
    let mut fleet = super::one_host_on_1_0();
    set(&mut fleet, settings);
    fleet
}

/// Gives the host's agent other settings for its second place, and starts it again.
fn set(fleet: &mut Sandbox, settings: &str) {
    fleet.host_mut("web-1").agent().unwrap().terminate().unwrap();
    let path = fleet.host_named("web-1").data().join("agent.toml");
    let text = fs::read_to_string(&path).unwrap();
    let text = text.split("\n[backup.second]").next().unwrap();
    fs::write(&path, format!("{text}\n[backup.second]\n{settings}\n")).unwrap();
    fleet.start_agent("web-1").unwrap();
}

fn folder(path: &Path) -> String {
    format!("kind = \"folder\"\npath = {path:?}\n")
}

/// The host's ledger, which releases from here on declare as their configuration.
fn ledger(fleet: &Sandbox) -> PathBuf {
    let ledger = fleet.host_named("web-1").folder().join("ledger");
    fs::create_dir(&ledger).unwrap();
    for n in 0..300 {
        fs::write(ledger.join(format!("page-{n}")), format!("page {n}, ").repeat(50)).unwrap();
    }
    ledger
}

fn publish(fleet: &Sandbox, version: &str, behaviour: Behaviour) {
    let declared = "\n[backup]\npaths = [\"${HOST_FOLDER}/ledger\"]\n";
    let built = fleet.build_with(version, behaviour, Probation::default(), declared).unwrap();
    fleet.publish_built(&built).unwrap();
    fleet.promote(version, "pilot").unwrap();
}

#[test]
fn what_a_host_saved_is_had_again_from_its_second_place_when_its_disk_is_gone() {
    let scratch = tempfile::tempdir().unwrap();
    let there = scratch.path().join("there");
    fs::create_dir(&there).unwrap();
    let apart = format!("{}same_file_system = true\nrequired = true", folder(&there));
    let fleet = host_with(&apart);
    let ledger = ledger(&fleet);
    publish(&fleet, "1.1", Behaviour::Good);
    fleet.until_runs("web-1", "1.1").unwrap();
    fleet.until_rollout("pilot", "1.1", "done").unwrap();

    let data = fleet.host_named("web-1").data();
    let listed = backup(&data, &["list", "--second"]).good().unwrap();
    assert!(listed.contains("payments 1.0 -> 1.1"), "{listed}");
    let id = listed.split_whitespace().next().unwrap().to_owned();
    let here = backup(&data, &["list"]).good().unwrap();
    assert!(here.contains("at the second place too"), "{here}");
    let verified = backup(&data, &["verify", "--second"]).good().unwrap();
    assert!(verified.contains("whole"), "{verified}");

    // Another machine, which knows the place and nothing else.
    let other = scratch.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("agent.toml"), format!("[backup.second]\n{apart}\n")).unwrap();
    let host = fs::read_dir(&there).unwrap().next().unwrap().unwrap().file_name();
    let host = host.to_str().unwrap();
    let said = backup(&other, &["list", "--second"]).refused().unwrap();
    assert!(said.contains("--of") && said.contains(host), "{said}");
    let look = scratch.path().join("look");
    let to = look.to_str().unwrap();
    let words = ["restore", &id, "--second", "--of", host, "--to", to];
    let said = backup(&other, &words).good().unwrap();
    assert!(said.contains("payments 1.0 -> 1.1"), "{said}");
    let again = look.join(ledger.strip_prefix("/").unwrap());
    for n in 0..300 {
        let page = format!("page-{n}");
        assert_eq!(fs::read(again.join(&page)).unwrap(), fs::read(ledger.join(&page)).unwrap());
    }
    let mut left: Vec<_> =
        fs::read_dir(scratch.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["look", "other", "there"], "nothing of what was fetched is left");

    // What is damaged there is named, and nothing is made of it.
    let packs = there.join(host).join("packs");
    let pack = fs::read_dir(&packs).unwrap().next().unwrap().unwrap().path();
    let whole = fs::read(&pack).unwrap();
    fs::write(&pack, &whole[1..]).unwrap();
    let said = backup(&data, &["verify", "--second"]).refused().unwrap();
    assert!(said.contains(pack.file_name().unwrap().to_str().unwrap()), "{said}");
    let look = scratch.path().join("look again");
    let words = ["restore", &id, "--second", "--of", host, "--to", look.to_str().unwrap()];
    backup(&other, &words).refused().unwrap();
    assert!(!look.exists());
    // The next update does not rely on it.
    publish(&fleet, "1.2", Behaviour::Good);
    fleet.until_runs("web-1", "1.2").unwrap();
    fleet.until_rollout("pilot", "1.2", "done").unwrap();
    let newest = backup(&data, &["list", "--second"]).good().unwrap();
    let newest = newest.split_whitespace().next().unwrap();
    backup(&data, &["verify", "--second", newest]).good().unwrap();
}

#[test]
fn an_update_waits_for_a_disk_that_is_not_mounted_and_goes_on_by_itself_when_it_is() {
    let scratch = tempfile::tempdir().unwrap();
    let claim = "an update waits for the disk of its second place";
    let Some(disk) = LoopFs::create(claim, scratch.path(), 64) else { return };
    let (at, image) = (disk.path().to_owned(), disk.image().to_owned());
    drop(disk);
    let mut fleet = host_with(&format!("{}required = true", folder(&at)));
    let ledger = ledger(&fleet);
    publish(&fleet, "1.1", Behaviour::Good);
    let current = fleet.host_named("web-1").install().join("payments/current");
    let before = fs::read_link(&current).unwrap();
    until("the host says what it waits for", || {
        let product = &fleet.host_status("web-1")?["products"][0];
        let said = format!("{} {}", product["failure"], product["hold"]);
        Ok((said.contains("second-place-away") && said.contains("not mounted")).then_some(()))
    })
    .unwrap();
    assert_eq!(fs::read_link(&current).unwrap(), before);
    assert_eq!(fleet.host_named("web-1").says().unwrap(), "payments 1.0");
    assert_eq!(fs::read_dir(&at).unwrap().count(), 0, "nothing is written in the disk's place");
    let disk = LoopFs::mount(claim, &image, &at).unwrap();
    fleet.until_runs("web-1", "1.1").unwrap();
    fleet.until_rollout("pilot", "1.1", "done").unwrap();
    let data = fleet.host_named("web-1").data();
    backup(&data, &["verify", "--second"]).good().unwrap();

    // Full, and not required: the update goes on, and says that there is no copy.
    set(&mut fleet, &folder(&at));
    fs::write(ledger.join("large"), noise(8 << 20)).unwrap();
    let space = rustix::fs::statvfs(&at).unwrap();
    let free = usize::try_from(space.f_bavail * space.f_frsize).unwrap();
    fs::write(at.join("filler"), vec![1; free - (2 << 20)]).unwrap();
    publish(&fleet, "1.2", Behaviour::Good);
    fleet.until_runs("web-1", "1.2").unwrap();
    fleet.until_rollout("pilot", "1.2", "done").unwrap();
    let listed = backup(&data, &["list", "--output", "json"]).good().unwrap();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed[0]["second_place"]["standing"], "failed", "{listed}");
    assert!(listed[0]["second_place"]["text"].as_str().unwrap().contains("is full"), "{listed}");
    // What is there of before still counts.
    backup(&data, &["verify", "--second"]).good().unwrap();
    fleet.host_mut("web-1").agent().unwrap().terminate().unwrap();
    drop((fleet, disk));
}

/// Bytes that nothing makes smaller.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}
