//! What people and monitoring see: the page, the metrics, the probes, and why something does not move.

use std::process::Command;

use refit_durable::testing::not_run;
use refit_tests::{http, process::Ran, release::Behaviour, sandbox::Sandbox};

#[test]
fn the_page_shows_rings_hosts_and_holds_in_a_real_browser_and_asks_no_other_host() {
    let chromium = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok());
    let Some(chromium) = chromium else {
        return not_run("the page in a real browser", "sudo apt-get install chromium");
    };
    let mut fleet = Sandbox::new(&super::TWO_RINGS).unwrap();
    fleet.host("web-1", &["ring=pilot"]).unwrap();
    fleet.publish("1.0", Behaviour::Unhealthy).unwrap();
    fleet.promote("1.0", "pilot").unwrap();
    fleet.until_rollout("pilot", "1.0", "halted").unwrap();
    let profile = tempfile::tempdir().unwrap();
    let page = format!("http://127.0.0.1:{}/", fleet.status_port());
    let mut browser = Command::new(chromium);
    browser
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--virtual-time-budget=2000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(&page);
    let shown = Ran::of(&mut browser).unwrap().good().unwrap();
    for word in ["pilot", "early", "web-1", "halted", "1.0"] {
        assert!(shown.contains(word), "the page does not show {word}: {shown}");
    }
    let links = shown.match_indices("http").map(|(at, _)| &shown[at..shown.len().min(at + 40)]);
    for link in links.filter(|link| link.starts_with("http://") || link.starts_with("https://")) {
        assert!(link.starts_with("http://127.0.0.1"), "the page names another host: {link}");
    }
    let screenshot = profile.path().join("page.png");
    let mut browser = Command::new(chromium);
    browser
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--window-size=1280,900"])
        .arg(format!("--screenshot={}", screenshot.display()))
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(&page);
    Ran::of(&mut browser).unwrap().good().unwrap();
    assert!(screenshot.metadata().unwrap().len() > 10_000, "the page is blank");
}

#[test]
fn metrics_probes_and_json_tell_the_same_as_the_command_line() {
    let fleet = super::one_host_on_1_0();
    let port = fleet.status_port();
    assert_eq!(http::get(port, "/healthz").unwrap().0, 200);
    assert_eq!(http::get(port, "/readyz").unwrap().0, 200);
    let (code, metrics) = http::get(port, "/metrics").unwrap();
    assert_eq!(code, 200);
    assert!(metrics.contains("refit_") && metrics.contains("pilot"), "{metrics}");
    let shown = fleet.json(["status"]).unwrap();
    let served = fleet.status().unwrap();
    assert_eq!(
        shown["products"][0]["rings"][0]["versions"],
        served["products"][0]["rings"][0]["versions"]
    );
    assert_eq!(http::get(port, "/nowhere").unwrap().0, 404);
}

#[test]
fn everything_that_does_not_move_says_why() {
    let mut fleet = Sandbox::new(&super::TWO_RINGS).unwrap();
    fleet.host("web-1", &["ring=pilot"]).unwrap();
    fleet.host("web-2", &["ring=early"]).unwrap();
    fleet.publish("1.0", Behaviour::Unhealthy).unwrap();
    fleet.promote("1.0", "pilot").unwrap();
    fleet.promote("1.0", "early").unwrap();
    fleet.until_rollout("pilot", "1.0", "halted").unwrap();
    let status = fleet.status().unwrap();
    for ring in status["products"][0]["rings"].as_array().unwrap() {
        let hold = &ring["hold"];
        for part in ["reason", "text", "since", "who"] {
            assert!(hold[part].as_str().is_some_and(|text| !text.is_empty()), "{part} in {ring}");
        }
    }
    for host in ["web-1", "web-2"] {
        let shown = fleet.host_status(host).unwrap();
        assert!(shown["products"][0]["hold"]["text"].is_string(), "{shown}");
    }
}
