//! What a server takes from publishers, and what it refuses without storing anything.

use std::fs;

use refit_tests::{process::Ran, release::Behaviour, sandbox::Sandbox};

#[test]
fn the_same_version_with_other_bytes_is_refused() {
    let fleet = Sandbox::new(&super::ONE_RING).unwrap();
    fleet.publish("1.0", Behaviour::Good).unwrap();
    let before = fleet.refit(["release", "list", "payments"]).unwrap();
    let source = fleet.path().join("other");
    refit_tests::release::write(&source, "1.0", Behaviour::Unhealthy, Default::default(), "")
        .unwrap();
    let out = fleet.path().join("other-built").to_string_lossy().into_owned();
    let source = source.to_string_lossy().into_owned();
    let words =
        ["release", "build", &source, "--product", "payments", "--version", "1.0", "--out", &out];
    fleet.refit(words).unwrap();
    let signed =
        Ran::of(fleet.refit_command().unwrap().args(["release", "sign", &out, "--key", "release"]));
    let complaint = match signed.unwrap() {
        signed if signed.success => fleet.refit_refused(["release", "publish", &out]).unwrap(),
        refused => refused.err,
    };
    assert!(complaint.contains("1.0") && complaint.contains("help:"), "{complaint}");
    assert_eq!(fleet.refit(["release", "list", "payments"]).unwrap(), before);
}

#[test]
fn publishing_twice_is_as_good_as_once() {
    let fleet = Sandbox::new(&super::ONE_RING).unwrap();
    let built = fleet.build("1.0", Behaviour::Good).unwrap();
    fleet.publish_built(&built).unwrap();
    fleet.refit(["release", "publish", &built.to_string_lossy()]).unwrap();
    assert_eq!(fleet.releases().unwrap(), ["1.0"]);
}

#[test]
fn a_release_whose_content_is_missing_is_refused() {
    let fleet = Sandbox::new(&super::ONE_RING).unwrap();
    let built = fleet.build("1.0", Behaviour::Good).unwrap();
    let path = built.to_string_lossy().into_owned();
    fleet.refit(["release", "sign", &path, "--key", "release"]).unwrap();
    let content = fs::read_dir(built.join("content")).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(content).unwrap();
    let complaint = fleet.refit_refused(["release", "publish", &path]).unwrap();
    assert!(complaint.contains("help:"), "{complaint}");
    let list = fleet.refit(["release", "list", "payments"]).unwrap();
    assert!(!list.contains("1.0"), "{list}");
}

#[test]
fn the_second_of_two_publishers_is_told_who_was_first_and_publishes_on_top() {
    let fleet = Sandbox::new(&super::ONE_RING).unwrap();
    let one = fleet.build("1.0", Behaviour::Good).unwrap().to_string_lossy().into_owned();
    let two = fleet.build("1.1", Behaviour::Good).unwrap().to_string_lossy().into_owned();
    // Both are signed as the next version of the same file.
    for built in [&one, &two] {
        fleet.refit(["release", "sign", built, "--key", "release"]).unwrap();
    }
    fleet.refit(["release", "publish", &one]).unwrap();
    let second =
        Ran::of(fleet.refit_command().unwrap().args(["release", "publish", &two])).unwrap();
    assert!(second.success, "{second:?}");
    let told = format!("{}{}", second.out, second.err);
    assert!(told.contains("alice"), "nobody was named: {told}");
    let list = fleet.refit(["release", "list", "payments"]).unwrap();
    assert!(list.contains("1.0") && list.contains("1.1"), "{list}");
}

#[test]
fn a_person_without_the_role_is_refused_and_the_refusal_is_on_record() {
    let fleet = Sandbox::new(&super::ONE_RING).unwrap();
    let out = fleet
        .refit(["token", "create", "--person", "victor", "--role", "viewer", "--expires", "1h"])
        .unwrap();
    let token = out.split_whitespace().find(|word| word.starts_with("refit1-")).unwrap();
    let victor =
        |words: &[&str]| Ran::of(fleet.refit_command_of("victor").unwrap().args(words)).unwrap();
    victor(&["login", token]).good().unwrap();
    victor(&["status"]).good().unwrap();
    let pause = ["rollout", "pause", "payments", "pilot", "--reason", "no right to"];
    let refused = victor(&pause).refused().unwrap();
    assert!(refused.contains("operator"), "{refused}");
    let audit = fleet.refit(["audit", "list"]).unwrap();
    assert!(audit.contains("victor"), "{audit}");
    fleet.refit(["audit", "verify"]).unwrap();
}

#[test]
fn without_a_product_the_releases_of_all_are_listed() {
    let fleet = Sandbox::new(&super::ONE_RING).unwrap();
    assert_eq!(fleet.refit(["release", "list"]).unwrap().lines().count(), 1, "headings alone");
    fleet.publish("1.0", Behaviour::Good).unwrap();
    let all = fleet.refit(["release", "list"]).unwrap();
    assert_eq!(all, fleet.refit(["release", "list", "payments"]).unwrap());
    assert!(all.contains("payments") && all.contains("1.0"), "{all}");
}
