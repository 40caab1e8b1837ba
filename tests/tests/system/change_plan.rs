//! What a release says of itself: what a product's policy asks for has to be there before anybody promotes it.

use std::fs;

use refit_tests::{
    release::{Behaviour, Probation},
    sandbox::{LIMITS, Sandbox},
};

const FLEET: &str = r#"
[[product]]
name = "payments"

[product.plan]
normal = ["goal", "kind", "owner", "impact", "runbook", "notes"]
emergency = ["goal", "owner"]

[[product.ring]]
name = "pilot"
select = { ring = "pilot" }
"#;

/// Builds a release whose plan says this besides goal and owner.
fn build(fleet: &Sandbox, version: &str, plan: &str) -> String {
    let built =
        fleet.build_headed(version, Behaviour::Good, Probation::default(), "", plan).unwrap();
    built.to_string_lossy().into_owned()
}

#[test]
fn a_release_that_lacks_what_the_policy_asks_for_is_found_before_it_is_signed_and_promoted_nowhere()
{
    let fleet = Sandbox::new(&super::ONE_RING).unwrap();
    fs::write(fleet.path().join("fleet.toml"), format!("{FLEET}{LIMITS}")).unwrap();
    let applied = fleet.refit(["apply", "fleet.toml", "--yes"]).unwrap();
    assert!(
        applied.contains("emergency releases have to say goal, owner, was nothing"),
        "{applied}"
    );

    let bare = build(&fleet, "1.0", "");
    let lacks = "the change plan of payments 1.0 lacks kind, impact, runbook, notes";
    for words in
        [&["release", "check", &*bare][..], &["release", "check", &*bare, "--fleet", "fleet.toml"]]
    {
        let said = fleet.refit_refused(words.iter().copied()).unwrap();
        assert!(said.contains(lacks) && said.contains("build another version"), "{said}");
    }
    fleet.publish_built(bare.as_ref()).unwrap();
    let promote = |version| ["release", "promote", "payments", version, "--to", "pilot"];
    assert!(fleet.refit_refused(promote("1.0")).unwrap().contains(lacks));
    let shown = fleet.json(["release", "show", "payments", "1.0"]).unwrap();
    assert!(shown["rings"][0]["standing"].is_null(), "{shown}");

    // In an emergency less is asked for.
    let urgent = build(&fleet, "1.1", "urgency = \"emergency\"\n");
    let said = fleet.refit(["release", "check", &*urgent]).unwrap();
    assert!(said.contains("urgency    emergency") && !said.contains("MISSING"), "{said}");
    fleet.publish_built(urgent.as_ref()).unwrap();
    fleet.refit(promote("1.1")).unwrap();

    // And one that says all of it shows it to whoever signs.
    let plan = "kind = \"security\"\nimpact = \"two minutes without payments\"\n\
                resources = \"one operator\"\ntimeline = \"pilot on Monday\"\n\
                runbook = \"https://wiki.example/payments\"\n";
    let source = fleet.path().join("source-1.2");
    build(&fleet, "1.2", plan);
    let notes = fleet.path().join("notes.md");
    fs::write(&notes, "# Faster\n").unwrap();
    let (from, notes) = (source.to_string_lossy(), notes.to_string_lossy());
    let built = fleet.path().join("noted");
    let out = built.to_string_lossy();
    let build = ["release", "build", &*from, "--product", "payments", "--version", "1.2"];
    fleet.refit(build.into_iter().chain(["--notes", &*notes, "--out", &*out])).unwrap();
    fleet.refit(["release", "check", &*out]).unwrap();
    fleet.publish_built(&built).unwrap();
    fleet.refit(promote("1.2")).unwrap();
    let shown = fleet.refit(["release", "show", "payments", "1.2"]).unwrap();
    for part in
        ["kind      security", "impact    two minutes", "runbook   https://wiki.example/payments"]
    {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}
