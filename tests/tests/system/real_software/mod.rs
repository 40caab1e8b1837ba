//! Software that no one here wrote, as its users have it: a security update under live traffic, then a
//! configuration that does not work, from which the host goes back by itself.

mod nginx;
mod postgresql;

use std::{fs, path::Path};

use anyhow::Result;
use refit_durable::testing::not_run;
use refit_tests::{
    lab::{DebianHost, Lab, Traffic, software},
    sandbox::{Sandbox, Setup},
};

/// A product of Debian's, in the two versions that the archive has.
struct Product {
    name: &'static str,
    host: DebianHost,
    fleet: Sandbox,
    old: String,
    new: String,
}

impl Product {
    /// A host and a fleet for the product in this package, with the libraries that it needs; `None` where
    /// this machine can't, which was said then.
    fn new(name: &'static str, package: &str, libraries: &[&str], claim: &str) -> Option<Product> {
        // First: the lab's network has no way to the archive.
        let (old, new) = match fetched(package, libraries) {
            Ok(versions) => versions,
            Err(error) => {
                not_run(&format!("{claim} ({error:#})"), "a Debian 12 with `apt-get update` done");
                return None;
            }
        };
        let lab = Lab::new(claim).unwrap()?;
        let setup = Setup { address: lab.address(), product: name, ..Setup::default() };
        let fleet = Sandbox::set_up(setup, &super::ONE_RING).unwrap();
        let host = lab.host("debian-1", &[]).unwrap();
        host.enroll(&fleet, &["ring=pilot"], "services = \"systemd\"\n").unwrap();
        Some(Product { name, host, fleet, old, new })
    }

    /// Builds a release from what `fill` puts into its tree, and lets it loose.
    fn release(&self, version: &str, fill: impl FnOnce(&Path) -> Result<String>) {
        let source = self.fleet.path().join(format!("source-{version}"));
        fs::create_dir_all(source.join("tree")).unwrap();
        let description = fill(&source.join("tree")).unwrap();
        fs::write(source.join("refit.toml"), description).unwrap();
        let built = self.fleet.build_from(&source, version).unwrap();
        self.fleet.publish_built(&built).unwrap();
        self.fleet.promote(version, "pilot").unwrap();
    }

    fn until(&self, version: &str, state: &str) {
        self.fleet.until_rollout("pilot", version, state).unwrap();
    }

    /// The host went back by itself, and says so.
    fn went_back(&self) {
        let shown = self.fleet.host_status("debian-1").unwrap().to_string();
        assert!(shown.contains("rolled-back"), "{shown}");
        assert!(!shown.contains("refit-rescue"), "the agent itself was there: {shown}");
    }

    /// The program that runs is the one of Debian's package, byte for byte.
    fn runs_program_of(&self, unpacked: &Path, program: &str) {
        let id = self.host.good(["systemctl", "show", "-P", "MainPID", self.name]).unwrap();
        let running = format!("/proc/{}/exe", id.trim());
        let sum = self.host.good(["sha256sum", &running]).unwrap();
        let wanted = refit_proto::names::Digest::of(&fs::read(unpacked.join(program)).unwrap());
        assert!(sum.starts_with(&wanted.to_string()), "{running}: {sum}");
    }
}

/// Sees to it that everything is there; the package's oldest and newest version.
fn fetched(package: &str, libraries: &[&str]) -> Result<(String, String)> {
    let (old, new) = software::oldest_and_newest(package)?;
    for version in [&old, &new] {
        software::unpacked(package, Some(version))?;
    }
    for library in libraries {
        software::unpacked(library, None)?;
    }
    Ok((old, new))
}

fn tell(what: &str, traffic: &Traffic) {
    println!("{what}: {traffic}");
}

const HEALTH: &str = "
[health.checked]
start_seconds = 3
interval_seconds = 1
failures = 2
good_seconds = 2
max_seconds = 600
";
