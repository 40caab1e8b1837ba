//! One product in packages of every kind, for claims about installers on a booted Debian host. Each package
//! touches what its kind can: units, enabled links, folders of its own, configuration, what a module makes.

use std::{fmt::Write as _, fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use refit_tests::{
    lab::{self, DebianHost},
    process::Ran,
    sandbox::Sandbox,
    wait::until,
};

/// How a package is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Tree,
    Files,
    Deb,
    Mender,
}

pub(crate) const ALL: [Kind; 4] = [Kind::Tree, Kind::Files, Kind::Deb, Kind::Mender];

/// A release, and what it does beside being there: commands of a shell.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Release<'a> {
    pub(crate) version: &'a str,
    pub(crate) kinds: &'a [Kind],
    /// Hooks of its first package.
    pub(crate) before: &'a str,
    pub(crate) after: &'a str,
    /// In the script of its Debian package, and in `ArtifactInstall` of its module.
    pub(crate) postinst: &'a str,
    pub(crate) installs: &'a str,
    /// Its health.
    pub(crate) check: &'a str,
    pub(crate) good_seconds: u32,
    /// More of its first package, as TOML.
    pub(crate) more: &'a str,
}

/// A good release of these kinds.
pub(crate) fn good<'a>(version: &'a str, kinds: &'a [Kind]) -> Release<'a> {
    Release {
        version,
        kinds,
        before: "",
        after: "",
        postinst: "",
        installs: "",
        check: "true",
        good_seconds: 1,
        more: "",
    }
}

/// A host with its fleet.
pub(crate) struct Lab {
    pub(crate) fleet: Sandbox,
    pub(crate) host: DebianHost,
}

/// What a command of a release may write.
const GATES: &str = "/var/lib/gates";

impl Lab {
    /// `None` where this machine can't.
    pub(crate) fn boot(claim: &str) -> Option<Lab> {
        if Command::new("dpkg-deb").arg("--version").output().is_err() {
            refit_durable::testing::not_run(claim, "sudo apt-get install dpkg");
            return None;
        }
        let lab = lab::Lab::new(claim).unwrap()?;
        let host = lab.host("debian-1", &[]).unwrap();
        host.good(["mkdir", GATES]).unwrap();
        let fleet = lab.fleet(&super::ONE_RING).unwrap();
        let settings =
            "services = \"systemd\"\nrescue_after_seconds = 10\n\n[brake]\nfailures = 0\n";
        host.enroll(&fleet, &["ring=pilot"], settings).unwrap();
        Some(Lab { fleet, host })
    }

    /// Builds, publishes and promotes a release.
    pub(crate) fn promote(&self, release: &Release<'_>) {
        let source = self.fleet.path().join(format!("source-{}", release.version));
        fs::create_dir_all(&source).unwrap();
        let mut text = String::new();
        for (number, kind) in release.kinds.iter().enumerate() {
            self.write_package(&source, *kind, release, number == 0, &mut text);
        }
        self.promote_written(&source, &text, release.version);
    }

    /// The same of a release that removes the product, with this under `[remove]`.
    pub(crate) fn promote_removal(&self, version: &str, what: &str) {
        let source = self.fleet.path().join(format!("source-{version}"));
        fs::create_dir_all(&source).unwrap();
        self.promote_written(&source, &format!("[remove]\n{what}\n"), version);
    }

    /// The same of what was written beside this `refit.toml`.
    pub(crate) fn promote_written(&self, source: &Path, text: &str, version: &str) {
        fs::write(source.join("refit.toml"), text).unwrap();
        let built = self.fleet.build_from(source, version).unwrap();
        self.fleet.publish_built(&built).unwrap();
        self.fleet.promote(version, "pilot").unwrap();
    }

    fn write_package(
        &self,
        source: &Path,
        kind: Kind,
        release: &Release<'_>,
        first: bool,
        text: &mut String,
    ) {
        let name = kind.package();
        let tree = source.join(name);
        let version = release.version;
        let (installer, service, more) = match kind {
            Kind::Tree => {
                write(&tree, "share/version", version, 0o644);
                ("tree", Some(SLEEPS), "")
            }
            Kind::Files => {
                for path in ["etc/pay/version", "etc/pay/conf.d/one", "srv/pay-files/deep/data"] {
                    write(&tree, path, version, 0o644);
                }
                write(&tree, "usr/local/bin/pay-tool", "#!/bin/sh\n", 0o755);
                ("files", Some(SLEEPS), "")
            }
            Kind::Deb => {
                self.write_debs(&tree, release);
                ("deb", Some(""), "")
            }
            Kind::Mender => {
                write(&tree, "payload/version", version, 0o644);
                write(&tree, "module/pay", &module(release.installs), 0o755);
                let more = "[package.mender]\ntype = \"pay\"\ntimeout_seconds = 120\n\
                            [package.backup]\npaths = [\"/srv/pay-mender\"]\n";
                ("mender", None, more)
            }
        };
        let _ = writeln!(
            text,
            "[[package]]\nname = \"{name}\"\ntree = \"{name}\"\ninstaller = \"{installer}\"\n{more}"
        );
        if let Some(command) = service {
            let _ = writeln!(text, "[[package.services]]\nname = \"{name}\"\n{command}");
        }
        let _ = writeln!(
            text,
            "[package.health.checked]\nstart_seconds = 1\ninterval_seconds = 1\nfailures = 2\n\
             good_seconds = {}\nmax_seconds = 600\n[[package.health.checked.checks]]\n\
             name = \"works\"\nkind = \"command\"\ncommand = [\"/bin/sh\", \"-c\", {:?}]",
            release.good_seconds, release.check
        );
        if first {
            for (when, script) in [("before", release.before), ("after", release.after)] {
                if !script.is_empty() {
                    let _ = writeln!(
                        text,
                        "[[package.hooks]]\nwhen = \"{when}-switch\"\ntimeout_seconds = 120\n\
                         writes = [\"{GATES}\"]\ncommand = [\"/bin/sh\", \"-c\", {script:?}]"
                    );
                }
            }
            text.push_str(release.more);
        }
    }

    /// `pay-deb`, with a unit, and `pay-data`, whose own script takes data when it is purged.
    fn write_debs(&self, out: &Path, release: &Release<'_>) {
        let version = release.version;
        let root = self.fleet.path().join(format!("deb-{version}"));
        write(&root, "usr/lib/pay-deb/version", version, 0o644);
        write(&root, "etc/pay-deb.conf", "conf\n", 0o644);
        let unit = "[Service]\nWorkingDirectory=/usr/lib/pay-deb\nExecStart=/usr/bin/sleep infinity\n\
                    [Install]\nWantedBy=multi-user.target\n";
        write(&root, "lib/systemd/system/pay-deb.service", unit, 0o644);
        write(&root, "DEBIAN/conffiles", "/etc/pay-deb.conf\n", 0o644);
        let script = format!(
            "#!/bin/sh\nset -e\nsystemctl daemon-reload\nsystemctl enable pay-deb\n{}\n\
             systemctl restart pay-deb\n",
            release.postinst
        );
        write(&root, "DEBIAN/postinst", &script, 0o755);
        let script = "#!/bin/sh\nsystemctl stop pay-deb || true\n\
                      [ \"$1\" != remove ] || systemctl disable pay-deb || true\n";
        write(&root, "DEBIAN/prerm", script, 0o755);
        build_deb(&root, "pay-deb", version, out);

        let root = self.fleet.path().join(format!("deb-data-{version}"));
        write(&root, "usr/lib/pay-data/version", version, 0o644);
        write(&root, "etc/pay-data.conf", "conf\n", 0o644);
        write(&root, "DEBIAN/conffiles", "/etc/pay-data.conf\n", 0o644);
        let script = "#!/bin/sh\nset -e\nmkdir -p /var/lib/pay-data\n";
        write(&root, "DEBIAN/postinst", script, 0o755);
        let script = "#!/bin/sh\n[ \"$1\" != purge ] || rm -rf /var/lib/pay-data\n";
        write(&root, "DEBIAN/postrm", script, 0o755);
        build_deb(&root, "pay-data", version, out);
    }

    /// Which version of each package stands on the host, runs, and is known; nothing where there is none.
    pub(crate) fn stands(&self) -> Vec<(Kind, String)> {
        let script = r#"
            of() { cat "/proc/$(systemctl show -P MainPID $1)/cwd/$2" 2>/dev/null; }
            echo "$(cat /opt/refit/payments/current/pay-server/share/version) $(of pay-server share/version)"
            echo "$(cat /etc/pay/version) $(cat /srv/pay-files/deep/data) $(systemctl is-active pay-files)"
            echo "$(dpkg-query -W -f '${Version}' pay-deb) $(of pay-deb version) $(cat /usr/lib/pay-data/version)"
            cat /srv/pay-mender/version; echo
        "#;
        let said = self.host.run(["sh", "-c", script]).unwrap().out;
        let lines = said.lines().map(|line| line.trim().to_owned());
        ALL.into_iter().zip(lines).collect()
    }

    /// Waits until all of these kinds stand on the host in this version, and nothing of the others.
    pub(crate) fn until_stands(&self, version: &str, kinds: &[Kind]) {
        let wanted: Vec<_> = ALL
            .into_iter()
            .map(|kind| match (kinds.contains(&kind), kind) {
                (false, Kind::Files) => (kind, "inactive".to_owned()),
                (false, _) => (kind, String::new()),
                (true, Kind::Tree) => (kind, format!("{version} {version}")),
                (true, Kind::Files) => (kind, format!("{version} {version} active")),
                (true, Kind::Deb) => (kind, format!("{version} {version} {version}")),
                (true, Kind::Mender) => (kind, version.to_owned()),
            })
            .collect();
        until(&format!("{kinds:?} stand on {version}"), || {
            let found = self.stands();
            anyhow::ensure!(found == wanted, "{found:?}");
            Ok(Some(()))
        })
        .unwrap();
    }

    /// Waits until the host's update to this release has ended as the first word says, and is reported with all of
    /// these words.
    pub(crate) fn until_reports(&self, version: &str, words: &[&str]) {
        // Its report of the update before may say the same.
        self.until_phase(version, words[0]);
        until(&format!("the host reports {words:?} of {version}"), || {
            let host = self.fleet.host_status("debian-1")?["products"][0].to_string();
            match words.iter().chain([&version]).all(|word| host.contains(word)) {
                true => Ok(Some(())),
                false => anyhow::bail!("it reports {host}"),
            }
        })
        .unwrap();
    }

    /// How far the host's update is, by its own word, and of which release.
    pub(crate) fn phase(&self) -> anyhow::Result<(String, String)> {
        let said = self.host.agent_status()?;
        let product = &said["products"][0];
        let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        Ok((word(&product["phase"]), word(&product["attempt"]["version"])))
    }

    /// Waits until the host's update to this release is in `phase`.
    pub(crate) fn until_phase(&self, version: &str, phase: &str) {
        until(&format!("the update to {version} is in {phase}"), || {
            let found = self.phase()?;
            anyhow::ensure!(found == (phase.to_owned(), version.to_owned()), "{found:?}");
            Ok(Some(()))
        })
        .unwrap();
    }
}

const SLEEPS: &str = "command = [\"/usr/bin/sleep\", \"infinity\"]";

impl Kind {
    fn package(self) -> &'static str {
        match self {
            Kind::Tree => "pay-server",
            Kind::Files => "pay-files",
            Kind::Deb => "pay-deb",
            Kind::Mender => "pay-mender",
        }
    }
}

/// A module without a rollback.
fn module(script: &str) -> String {
    format!(
        "#!/bin/sh\nset -e\ncase $1 in\nArtifactInstall)\n  mkdir -p /srv/pay-mender/deep\n  \
         cp files/version /srv/pay-mender/version\n  {script}\n  ;;\nesac\n"
    )
}

pub(crate) fn write(root: &Path, path: &str, text: &str, mode: u32) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn build_deb(root: &Path, name: &str, version: &str, out: &Path) {
    let control = format!(
        "Package: {name}\nVersion: {version}\nArchitecture: all\nInstalled-Size: 100\n\
         Maintainer: The payments team <payments@example.org>\nDescription: payments\n"
    );
    write(root, "DEBIAN/control", &control, 0o644);
    fs::create_dir_all(out).unwrap();
    let mut build = Command::new("dpkg-deb");
    build.args(["--root-owner-group", "-Zgzip", "-z1", "--build"]).arg(root);
    build.arg(out.join(format!("{name}_{version}_all.deb")));
    Ran::of(&mut build).unwrap().good().unwrap();
}
