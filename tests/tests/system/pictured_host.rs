//! What the model of lost power says is kept honest by a real one: pictures of a booted host's ext4, taken
//! while it updates. From each a host is booted, with no server in reach, and looked at.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use refit_tests::{
    lab::{self, DebianHost, pictures_can_be_taken},
    release::Behaviour,
    wait::until,
};
use serde_json::Value;

use super::lab_host::{SETTINGS, let_payments_be_reached, says, until_says};

/// How many pictures a normal run boots; `cargo xtask powercuts` boots all of them.
const SHARE: usize = 5;

/// States in which nothing on the host was changed, or nothing is any more.
const AT_REST: [&str; 9] = [
    "",
    "offered",
    "preflight",
    "fetching",
    "waiting",
    "refused",
    "dropped",
    "committed",
    "rolled-back",
];

#[test]
fn from_every_picture_of_a_good_update_a_host_comes_to_stand_on_one_whole_release() {
    let seen = booted_from_pictures(
        "pictures of a disk in a good update, on booted Debian hosts",
        Behaviour::Good,
        "done",
    );
    let Some(seen) = seen else { return };
    assert!(seen.first().is_some_and(|version| version == "1.0"), "{seen:?}");
    assert!(seen.last().is_some_and(|version| version == "1.1"), "{seen:?}");
    // Once it has stayed, no power cut takes it back.
    let first = seen.iter().position(|version| version == "1.1").unwrap();
    assert!(seen[first..].iter().all(|version| version == "1.1"), "{seen:?}");
}

#[test]
fn from_every_picture_of_an_update_that_goes_back_a_host_comes_to_stand_on_the_release_before() {
    let seen = booted_from_pictures(
        "pictures of a disk in an update that goes back, on booted Debian hosts",
        Behaviour::Unhealthy,
        "halted",
    );
    let Some(seen) = seen else { return };
    assert!(seen.iter().all(|version| version == "1.0"), "{seen:?}");
}

/// On which release each host stands in the end, by the order of the pictures.
fn booted_from_pictures(claim: &str, behaviour: Behaviour, ends: &str) -> Option<Vec<String>> {
    if !pictures_can_be_taken(claim) {
        return None;
    }
    let lab = lab::Lab::new(claim).unwrap()?;
    let mut host = lab.pictured_host("debian-1").unwrap();
    let mut fleet = lab.fleet(&super::ONE_RING).unwrap();
    let_payments_be_reached(&host);
    host.enroll(&fleet, &["ring=pilot"], SETTINGS).unwrap();
    fleet.publish("1.0", Behaviour::Good).unwrap();
    fleet.promote("1.0", "pilot").unwrap();
    until_says(&host, "1.0");
    fleet.until_rollout("pilot", "1.0", "done").unwrap();

    fleet.publish("1.1", behaviour).unwrap();
    // What another hand has written, and may have left to the kernel.
    host.good(["sync"]).unwrap();
    let camera = host.take_pictures().unwrap();
    fleet.promote("1.1", "pilot").unwrap();
    fleet.until_rollout("pilot", "1.1", ends).unwrap();
    let pictures = camera.end().unwrap();
    host.cut_power().unwrap();
    fleet.server().unwrap().terminate().unwrap();

    let tried = chosen(&pictures);
    let (mut seen, mut lost) = (Vec::new(), Vec::new());
    for (number, picture) in &tried {
        match stands_on(&lab, picture, &format!("after-{number}"), behaviour) {
            Ok(version) => seen.push(version),
            Err(error) => lost.push(format!("picture {number} of {}: {error:#}", pictures.len())),
        }
    }
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    println!("cut-points {} {} {name}", tried.len(), seen.len());
    assert!(lost.is_empty(), "{}", lost.join("\n"));
    Some(seen)
}

/// All of them, or a few over the whole span, with the first and the last.
fn chosen(pictures: &[PathBuf]) -> Vec<(usize, &PathBuf)> {
    assert!(pictures.len() > SHARE, "only {} pictures were taken", pictures.len());
    let all = std::env::var("REFIT_POWERCUTS").is_ok_and(|share| share == "all");
    let last = pictures.len() - 1;
    let wanted = if all { pictures.len() } else { SHARE };
    (0..wanted).map(|n| n * last / (wanted - 1)).map(|n| (n, &pictures[n])).collect()
}

/// Boots a host from a picture and waits until it has come to rest.
fn stands_on(lab: &lab::Lab, picture: &Path, name: &str, behaviour: Behaviour) -> Result<String> {
    let host = lab.host_from(picture, name)?;
    let product = until("the host has come to rest", || {
        let product = status(&host)?["products"][0].clone();
        let phase = product["phase"].as_str().unwrap_or_default();
        ensure!(AT_REST.contains(&phase), "it is {phase}");
        Ok(Some(product))
    })?;
    let version = product["installed"]["version"].as_str().context("nothing is installed")?;
    let wanted = format!("payments {version}");
    until("the service says what is installed", || Ok((says(&host)? == wanted).then_some(())))?;
    ensure!(product["installed"]["damage"].as_str().unwrap_or_default().is_empty(), "{product}");
    // The backup that leads back from it is whole, and so is what the agent remembers.
    host.good(["refit-agent", "backup", "verify"])?;
    let kept = host.good(["sh", "-c", "ls -R /var/lib/refit-agent"])?;
    ensure!(!kept.contains(".corrupt-"), "a record was damaged: {kept}");
    ensure!(!kept.contains("way-back\n"), "a way back is still armed: {kept}");
    let quarantine = product["quarantine"].as_array().map_or(0, Vec::len);
    let rolled_back = product["phase"] == "rolled-back";
    ensure!(quarantine == usize::from(rolled_back), "{product}");
    ensure!(behaviour == Behaviour::Good || version == "1.0", "the bad release runs");
    host.remove()?;
    Ok(version.to_owned())
}

fn status(host: &DebianHost) -> Result<Value> {
    let said = host.good(["refit-agent", "status", "--output", "json"])?;
    Ok(serde_json::from_str(&said)?)
}
