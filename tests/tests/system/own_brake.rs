//! The host's own brake, which holds whatever the server offers and whatever leave it gives.

use std::fs;

use refit_tests::{
    process::{Ran, command},
    release::{Behaviour, Probation},
    sandbox::Sandbox,
    wait::until,
};

/// The agent of the one host with these settings beside its own, from now on.
fn with_settings(fleet: &mut Sandbox, more: &str) {
    let path = fleet.host_named("web-1").data().join("agent.toml");
    let own = fs::read_to_string(&path).unwrap();
    let own = own.split("# More").next().unwrap().to_owned();
    fleet.host_mut("web-1").agent().unwrap().terminate().unwrap();
    fs::write(&path, format!("{own}# More\n{more}\n")).unwrap();
    fleet.start_agent("web-1").unwrap();
    fleet.until_listens("web-1").unwrap();
}

/// Waits until the host itself and the server both name this reason.
fn until_held(fleet: &Sandbox, reason: &str) -> serde_json::Value {
    until(&format!("the server knows that {reason} holds the host"), || {
        let told = fleet.host_status("web-1")?.to_string();
        if told.contains(reason) { Ok(Some(())) } else { anyhow::bail!("it knows {told}") }
    })
    .unwrap();
    let said = fleet.agent_status("web-1").unwrap()["products"][0].clone();
    assert_eq!(said["hold"]["reason"], reason, "{said}");
    said
}

/// A window of one minute that is not open for a while yet.
fn closed_window() -> String {
    #[expect(clippy::disallowed_methods, reason = "the host under test goes by the real clock")]
    let later = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(12);
    let from = later.to_zoned(jiff::tz::TimeZone::UTC);
    let to = &from + jiff::SignedDuration::from_mins(1);
    let window = format!("daily {}-{}", from.strftime("%H:%M"), to.strftime("%H:%M"));
    format!("[windows]\nzone = \"UTC\"\nopen = [\"{window}\"]")
}

#[test]
fn outside_its_own_window_a_host_begins_nothing_and_takes_no_lease() {
    let mut fleet = super::one_host_on_1_0();
    with_settings(&mut fleet, &closed_window());
    fleet.publish("1.1", Behaviour::Good).unwrap();
    fleet.promote("1.1", "pilot").unwrap();
    let said = until_held(&fleet, "outside-window");
    assert_eq!(said["phase"], "waiting");
    for part in ["since", "until", "who", "text"] {
        assert_ne!(said["hold"][part], "", "{said}");
    }
    let counts = fleet.ring("pilot").unwrap()["rollout"]["counts"].clone();
    assert_eq!(counts["in_flight"], 0, "no lease is taken that can't be used: {counts}");
    fleet.until_runs("web-1", "1.0").unwrap();

    // It holds over a new start, and without a server; then the owner opens it.
    fleet.server().unwrap().terminate().unwrap();
    with_settings(&mut fleet, &closed_window());
    let said = fleet.agent_status("web-1").unwrap()["products"][0].clone();
    assert_eq!(said["hold"]["reason"], "outside-window", "{said}");
    fleet.start_server().unwrap();
    with_settings(&mut fleet, "[windows]\nopen = [\"daily 00:00-24:00\"]");
    fleet.until_runs("web-1", "1.1").unwrap();
    fleet.until_rollout("pilot", "1.1", "done").unwrap();
}

#[test]
fn no_more_updates_begin_in_a_day_than_the_host_takes() {
    let mut fleet = super::one_host_on_1_0();
    with_settings(&mut fleet, "[brake]\nmost_updates_per_day = 2");
    super::install(&fleet, "1.1");
    fleet.publish("1.2", Behaviour::Good).unwrap();
    fleet.promote("1.2", "pilot").unwrap();
    let said = until_held(&fleet, "enough-for-a-day");
    assert!(said["hold"]["text"].as_str().unwrap().contains("2 updates began"), "{said}");
    fleet.until_runs("web-1", "1.1").unwrap();
    // Counted durably: a new start forgets none.
    with_settings(&mut fleet, "[brake]\nmost_updates_per_day = 2");
    until_held(&fleet, "enough-for-a-day");
    with_settings(&mut fleet, "[brake]\nmost_updates_per_day = 3");
    fleet.until_runs("web-1", "1.2").unwrap();
}

#[test]
fn a_product_that_failed_too_often_comes_no_more_until_a_person_forgives_it() {
    let mut fleet = super::one_host_on_1_0();
    with_settings(&mut fleet, "[brake]\nfailures = 1");
    fleet.publish("1.1", Behaviour::Unhealthy).unwrap();
    fleet.promote("1.1", "pilot").unwrap();
    fleet.until_rollout("pilot", "1.1", "halted").unwrap();
    fleet.until_runs("web-1", "1.0").unwrap();

    fleet.publish("1.2", Behaviour::Good).unwrap();
    fleet.promote("1.2", "pilot").unwrap();
    until("the host refuses the next release of the product", || {
        let told = fleet.host_status("web-1")?.to_string();
        if told.contains("failed-too-often") { Ok(Some(())) } else { anyhow::bail!("{told}") }
    })
    .unwrap();
    fleet.until_runs("web-1", "1.0").unwrap();
    let counts = fleet.ring("pilot").unwrap()["rollout"]["counts"].clone();
    assert_eq!(counts["failed"], 0, "nobody blames 1.2: {counts}");

    let forgive = |product: &str| {
        let mut forgive = command("refit-agent").unwrap();
        forgive.args(["brake", "forgive", product, "--data"]);
        Ran::of(forgive.arg(fleet.host_named("web-1").data())).unwrap()
    };
    assert!(forgive("orders").good().is_err(), "no failure of it counts");
    let said = forgive("payments").good().unwrap();
    assert!(said.contains("count no more"), "{said}");
    fleet.until_runs("web-1", "1.2").unwrap();
}

#[test]
fn a_service_that_is_red_before_its_update_is_refused_or_noted_as_the_owner_says() {
    let mut fleet = super::one_host_on_1_0();
    let mark = fleet.host_named("web-1").folder().join("ledger");
    fs::write(&mark, "").unwrap();
    let check = "[[health.checked.checks]]\nname = \"ledger\"\nkind = \"command\"\n\
                 command = [\"/usr/bin/test\", \"-e\", \"${HOST_FOLDER}/ledger\"]\n";
    let publish = |fleet: &Sandbox, version: &str| {
        let probation = Probation::default();
        let built = fleet.build_with(version, Behaviour::Good, probation, check).unwrap();
        fleet.publish_built(&built).unwrap();
        fleet.promote(version, "pilot").unwrap();
    };
    publish(&fleet, "1.1");
    fleet.until_runs("web-1", "1.1").unwrap();
    fleet.until_rollout("pilot", "1.1", "done").unwrap();

    with_settings(&mut fleet, "[health]\nred_before = \"refuse\"");
    fs::remove_file(&mark).unwrap();
    publish(&fleet, "1.2");
    until("the update is refused and the check is named", || {
        let told = fleet.host_status("web-1")?.to_string();
        let named = told.contains("red-before") && told.contains("ledger: ");
        if named { Ok(Some(())) } else { anyhow::bail!("{told}") }
    })
    .unwrap();
    fleet.until_runs("web-1", "1.1").unwrap();

    // Noted: 1.2 comes, and is what repairs it.
    with_settings(&mut fleet, "[health]\nred_before = \"note\"");
    let log = fleet.host_named("web-1").folder().join("agent.log");
    let hook = format!(
        "{check}\n[[hooks]]\nwhen = \"after-switch\"\ntimeout_seconds = 10\n\
         command = [\"/usr/bin/touch\", \"${{HOST_FOLDER}}/ledger\"]\n"
    );
    let built = fleet.build_with("1.3", Behaviour::Good, Probation::default(), &hook).unwrap();
    fleet.publish_built(&built).unwrap();
    fleet.promote("1.3", "pilot").unwrap();
    fleet.until_runs("web-1", "1.3").unwrap();
    until("its end is told with what was red before", || {
        let said = fleet.agent_status("web-1")?["products"][0].clone();
        let noted = said["red_before"].as_str().unwrap_or_default().contains("ledger: ");
        let told = said["phase"] == "committed" && noted;
        if told { Ok(Some(())) } else { anyhow::bail!("{said}") }
    })
    .unwrap();
    assert!(fs::read_to_string(log).unwrap().contains("not healthy before the update: ledger"));
}
