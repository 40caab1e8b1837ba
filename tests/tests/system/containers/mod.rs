//! Releases in containers, by Debian's podman on a booted Debian host that can reach no registry.

mod image;

use std::{collections::BTreeSet, fs, path::PathBuf};

use refit_durable::testing::not_run;
use refit_proto::{names::Digest, package::compress};
use refit_tests::{
    lab::{self, DebianHost, SmallDisk, software},
    sandbox::Sandbox,
    wait::until,
};

use super::lab_host::{SETTINGS, until_says};
use image::{Known, Runs};

/// Debian's podman, what runs its containers, and the program of our images.
const PACKAGES: [&str; 3] = ["podman", "crun", "busybox-static"];

/// What podman has to be told in a host that is itself a container: no keyring may be made there, and not even
/// root may change the host's cgroups and network.
const IN_A_LAB: &str = "[containers]\nkeyring = false\n";
const OPTIONS: &str = r#"["--network=host", "--cgroups=disabled", "--stop-signal=KILL"]"#;

struct Lab {
    fleet: Sandbox,
    host: DebianHost,
    busybox: PathBuf,
}

/// How long a release must be healthy, in seconds.
const SHORT: u32 = 1;
/// So long that it is not committed before the test has done its worst.
const LONG: u32 = 500;

impl Lab {
    fn boot(claim: &str) -> Option<Lab> {
        // First: the lab's network has no way to the archive.
        let fetched = software::packages(&PACKAGES)
            .and_then(|debs| Ok((debs, software::unpacked("busybox-static", None)?)));
        let (debs, busybox) = match fetched {
            Ok(fetched) => fetched,
            Err(error) => {
                let remedy = "a Debian 12 with `apt-get update` done, as root";
                not_run(&format!("{claim} ({error:#})"), remedy);
                return None;
            }
        };
        let lab = lab::Lab::new(claim).unwrap()?;
        // podman's storage lays layers over each other, which a host's own layers do not bear.
        let disk = SmallDisk { at: "/var/lib/containers", megabytes: 300 };
        let host = lab.host("debian-1", &[disk]).unwrap();
        for deb in &debs {
            host.put(deb, "/root/debs").unwrap();
        }
        let install =
            "DEBIAN_FRONTEND=noninteractive dpkg --force-unsafe-io --install /root/debs/*.deb";
        host.good(["sh", "-c", install]).unwrap();
        host.write("/etc/containers/containers.conf", IN_A_LAB).unwrap();
        let fleet = lab.fleet(&super::ONE_RING).unwrap();
        let settings = format!("rescue_after_seconds = 10\n{SETTINGS}");
        host.enroll(&fleet, &["ring=pilot"], &settings).unwrap();
        Some(Lab { fleet, host, busybox: busybox.join("bin/busybox") })
    }

    /// The folder of a release, as its publisher has it.
    fn source(&self, version: &str, runs: Runs, good: u32) -> (PathBuf, Known) {
        let source = self.fleet.path().join(format!("source-{version}"));
        let known = image::write(&source.join("tree/image"), &self.busybox, version, runs);
        let description = format!(
            "installer = \"podman\"\n\n[[services]]\nname = \"payments\"\noptions = {OPTIONS}\n\n\
             [health.checked]\nstart_seconds = 1\ninterval_seconds = 1\nfailures = 2\n\
             good_seconds = {good}\nmax_seconds = 600\n\n[[health.checked.checks]]\nname = \"answers\"\n\
             kind = \"http\"\nurl = \"http://127.0.0.1:${{PORT}}/health\"\ntimeout_seconds = 2\n"
        );
        fs::write(source.join("refit.toml"), description).unwrap();
        (source, known)
    }

    fn promote(&self, version: &str, runs: Runs, good: u32) -> Known {
        let (source, known) = self.source(version, runs, good);
        let built = self.fleet.build_from(&source, version).unwrap();
        self.fleet.publish_built(&built).unwrap();
        self.fleet.promote(version, "pilot").unwrap();
        known
    }

    fn podman<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> String {
        let words = std::iter::once("podman").chain(words);
        self.host.good(words).unwrap().trim().to_owned()
    }

    /// The ids of all images that podman has.
    fn images(&self) -> BTreeSet<String> {
        let listed = self.podman(["images", "--all", "--no-trunc", "--format", "{{.Id}}"]);
        listed.lines().map(|id| id.trim_start_matches("sha256:").to_owned()).collect()
    }

    fn until_says(&self, version: &str) {
        until_says(&self.host, version);
    }

    /// It runs, of this image and no other.
    fn runs(&self, version: &str, known: &Known) {
        self.until_says(version);
        let said =
            self.podman(["inspect", "--format", "{{.Image}} {{.ImageDigest}}", "refit-payments"]);
        assert_eq!(said, format!("{} sha256:{}", known.id, known.manifest));
        assert_eq!(self.podman(["ps", "--all", "--quiet"]).lines().count(), 1);
    }

    fn until_reports(&self, words: &[&str]) {
        self.fleet.until_host_reports("debian-1", words).unwrap();
    }

    fn until_gone(&self, path: &str) {
        let path = self.host.root().join(path);
        let gone = || Ok(fs::symlink_metadata(&path).is_err().then_some(()));
        until(&format!("{} is gone", path.display()), gone).unwrap();
    }

    /// Nothing of a container, an image or a unit, and nothing that says so.
    fn has_nothing(&self) {
        assert_eq!(self.podman(["ps", "--all", "--quiet"]), "");
        assert_eq!(self.images(), BTreeSet::new());
        assert_eq!(self.podman(["volume", "ls", "--quiet"]), "");
        let there = |path: &str| fs::symlink_metadata(self.host.root().join(path)).is_ok();
        for path in ["payments.service", "multi-user.target.wants/payments.service"] {
            assert!(!there(&format!("etc/systemd/system/{path}")), "{path}");
        }
        assert!(!there("opt/refit/payments/current"));
    }
}

fn ids<'a>(known: impl IntoIterator<Item = &'a Known>) -> BTreeSet<String> {
    known.into_iter().map(|known| known.id.clone()).collect()
}

#[test]
fn containers_run_of_the_image_in_their_package_and_a_bad_one_leaves_the_image_before() {
    let claim = "releases in containers, by podman on a booted Debian host";
    let Some(mut lab) = Lab::boot(claim) else { return };

    // A failing first install of each kind leaves nothing.
    for (version, runs) in [("0.1", Runs::Unhealthy), ("0.2", Runs::NotAtAll)] {
        lab.promote(version, runs, SHORT);
        lab.fleet.until_rollout("pilot", version, "halted").unwrap();
        lab.has_nothing();
        lab.until_gone("opt/refit/payments");
    }

    let one = lab.promote("1.0", Runs::Well, SHORT);
    lab.fleet.until_rollout("pilot", "1.0", "done").unwrap();
    lab.runs("1.0", &one);
    let two = lab.promote("2.0", Runs::Well, SHORT);
    lab.fleet.until_rollout("pilot", "2.0", "done").unwrap();
    lab.runs("2.0", &two);
    assert_eq!(lab.images(), ids([&one, &two]), "a backup leads to the one before");

    // It ends at once, or answers that it is not healthy.
    for (version, runs) in [("3.0", Runs::NotAtAll), ("3.1", Runs::Unhealthy)] {
        lab.promote(version, runs, SHORT);
        lab.fleet.until_rollout("pilot", version, "halted").unwrap();
        lab.runs("2.0", &two);
        assert_eq!(lab.images(), ids([&one, &two]), "{version}");
        let host = lab.fleet.host_status("debian-1").unwrap().to_string();
        assert!(host.contains("rolled-back") && !host.contains("refit-rescue"), "{host}");
    }

    // A layer that is not what its name says: its publisher is told, and no host sees it.
    let (source, known) = lab.source("4.0", Runs::Well, SHORT);
    let mut layer = fs::read(&known.layer).unwrap();
    layer[600] ^= 1;
    fs::write(&known.layer, &layer).unwrap();
    let refused = lab.fleet.build_from(&source, "4.0").unwrap_err();
    assert!(format!("{refused:#}").contains("is not what its name says"), "{refused:#}");

    // And one that was changed on the server after that: refused by the host before anything is changed.
    let (source, known) = lab.source("4.1", Runs::Well, SHORT);
    let built = lab.fleet.build_from(&source, "4.1").unwrap();
    lab.fleet.publish_built(&built).unwrap();
    let digest = Digest::of(&fs::read(&known.layer).unwrap()).to_string();
    let mut frame = Vec::new();
    compress(&mut &layer[..], &mut frame).unwrap();
    fs::write(super::tampering::stored(&lab.fleet, &digest), frame).unwrap();
    let started = lab.podman(["inspect", "--format", "{{.State.StartedAt}}", "refit-payments"]);
    lab.fleet.promote("4.1", "pilot").unwrap();
    lab.until_reports(&["content-mismatch", "refused"]);
    lab.runs("2.0", &two);
    assert_eq!(lab.images(), ids([&one, &two]));
    let runs = lab.podman(["inspect", "--format", "{{.State.StartedAt}}", "refit-payments"]);
    assert_eq!(runs, started, "it was never stopped");

    // After a power cut the container is there again, and not twice.
    lab.host.cut_power().unwrap();
    lab.host.power_on().unwrap();
    lab.runs("2.0", &two);

    // What runs no container any more leaves none.
    let source = lab.fleet.path().join("source-9.0");
    fs::create_dir_all(source.join("tree")).unwrap();
    fs::write(source.join("refit.toml"), "health = \"none\"\n").unwrap();
    let built = lab.fleet.build_from(&source, "9.0").unwrap();
    lab.fleet.publish_built(&built).unwrap();
    lab.fleet.promote("9.0", "pilot").unwrap();
    lab.fleet.until_rollout("pilot", "9.0", "done").unwrap();
    assert_eq!(lab.podman(["ps", "--all", "--quiet"]), "");
    lab.until_gone("etc/systemd/system/payments.service");
    until("no image is left", || Ok(lab.images().is_empty().then_some(()))).unwrap();
}

#[test]
fn the_image_before_comes_back_though_podmans_storage_was_pruned_with_the_agent_and_without_it() {
    let claim = "a pruned storage of podman on the way back, on a booted Debian host";
    let Some(lab) = Lab::boot(claim) else { return };
    let one = lab.promote("1.0", Runs::Well, SHORT);
    lab.fleet.until_rollout("pilot", "1.0", "done").unwrap();
    lab.runs("1.0", &one);

    // The agent goes back.
    let two = lab.promote("2.0", Runs::Well, LONG);
    lab.runs("2.0", &two);
    lab.podman(["system", "prune", "--all", "--force"]);
    assert_eq!(lab.images(), ids([&two]), "what the way back leads to is gone");
    lab.podman(["exec", "refit-payments", "/bin/busybox", "rm", "/www/health"]);
    lab.fleet.until_rollout("pilot", "2.0", "halted").unwrap();
    lab.runs("1.0", &one);
    lab.until_reports(&["rolled-back"]);
    let host = lab.fleet.host_status("debian-1").unwrap().to_string();
    assert!(!host.contains("refit-rescue"), "{host}");
    assert_eq!(lab.images(), ids([&one]));

    // The rescuer does, alone.
    let three = lab.promote("3.0", Runs::Well, LONG);
    lab.runs("3.0", &three);
    lab.podman(["system", "prune", "--all", "--force"]);
    assert_eq!(lab.images(), ids([&three]));
    lab.host.good(["systemctl", "mask", "--now", "refit-agent"]).unwrap();
    lab.runs("1.0", &one);
    lab.until_reports(&["rolled-back", "refit-rescue brought the host back"]);
    lab.fleet.until_rollout("pilot", "3.0", "halted").unwrap();
    lab.runs("1.0", &one);
    assert_eq!(lab.images(), ids([&one]));

    // And where nobody goes back: a unit that is started takes its image itself.
    lab.host.good(["systemctl", "stop", "payments", "refit-agent"]).unwrap();
    lab.podman(["system", "prune", "--all", "--force"]);
    assert_eq!(lab.images(), BTreeSet::new());
    lab.host.good(["systemctl", "start", "payments"]).unwrap();
    lab.runs("1.0", &one);
}
