//! A release with the installer `files` on a booted Debian host: owners, modes, capabilities, folders.

use std::{fs, path::Path};

use refit_tests::{
    lab::{DebianHost, Lab},
    release::{self, Behaviour},
    sandbox::Sandbox,
    wait::until,
};

use super::lab_host::{SETTINGS, let_payments_be_reached, until_says};

/// `cap_net_bind_service=ep`, as the kernel keeps it (capabilities(7), version 2 of the attribute).
const CAPABILITY: &str = "0x0100000200040000000000000000000000000000";

const AS_WHAT: &str = r#"
[[files]]
path = "etc/payments.conf"
owner = "daemon"
group = "adm"
mode = 0o640
"#;

const TOOL: &str = r#"
[[files]]
path = "usr/local/bin/pay-tool"
mode = 0o4711
attributes = { "security.capability" = "CAPABILITY", "user.note" = "kept" }
"#;

/// Builds, publishes and promotes a release whose tree has these files beside the service.
fn promote(
    fleet: &Sandbox,
    version: &str,
    behaviour: Behaviour,
    files: &[(&str, &str)],
    what: &str,
) {
    let source = fleet.path().join(format!("files-{version}"));
    release::write(&source, version, behaviour, Default::default(), what).unwrap();
    for (path, text) in files {
        let path = source.join("tree").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let description = source.join("refit.toml");
    let text = fs::read_to_string(&description).unwrap();
    fs::write(&description, format!("installer = \"files\"\n{text}")).unwrap();
    let built = fleet.build_from(&source, version).unwrap();
    fleet.publish_built(&built).unwrap();
    fleet.promote(version, "pilot").unwrap();
}

/// What stands at the places of the release, in words.
fn places(host: &DebianHost) -> String {
    let mut said = String::new();
    for path in ["etc/payments.conf", "usr/local/bin/pay-tool", "srv/pay/new", "share/version"] {
        let shown = ["stat", "-c", "%U:%G %a %F", &format!("/{path}")];
        let stat = host.run(shown).unwrap().out;
        let at = host.root().join(path);
        let text = fs::read_to_string(&at).unwrap_or_default();
        said += &format!("{path}: {} {text:?} {}\n", stat.trim(), attributes(&at));
    }
    said
}

fn attributes(path: &Path) -> String {
    let mut value = [0; 64];
    let read = |name: &str, value: &mut [u8; 64]| {
        let length = rustix::fs::getxattr(path, name, &mut value[..]).ok()?;
        Some(value[..length].iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    };
    let names = ["security.capability", "user.note"];
    names.map(|name| read(name, &mut value).unwrap_or_default()).join(" ").trim().to_owned()
}

#[test]
fn files_stand_with_owners_modes_and_capabilities_and_a_bad_release_of_them_leaves_no_trace() {
    let claim = "files with owners and capabilities, on a booted Debian host";
    let Some(lab) = Lab::new(claim).unwrap() else { return };
    let host = lab.host("debian-1", &[]).unwrap();
    let fleet = lab.fleet(&super::ONE_RING).unwrap();
    let_payments_be_reached(&host);
    host.write("/etc/payments.conf", "by hand").unwrap();
    host.good(["chmod", "600", "/etc/payments.conf"]).unwrap();
    host.enroll(&fleet, &["ring=pilot"], SETTINGS).unwrap();
    let says = |version: &str| until_says(&host, version);

    // A first release that is bad: what another hand had put there is back, and nothing else is left.
    let files = [("etc/payments.conf", "conf 1"), ("usr/local/bin/pay-tool", "tool 1")];
    let before = places(&host);
    let what = format!("{AS_WHAT}{}", TOOL.replace("CAPABILITY", CAPABILITY));
    promote(&fleet, "0.9", Behaviour::Unhealthy, &files, &what);
    fleet.until_rollout("pilot", "0.9", "halted").unwrap();
    assert_eq!(places(&host), before);
    assert!(
        before.contains("etc/payments.conf: root:root 600 regular file \"by hand\""),
        "{before}"
    );
    assert!(!host.root().join("share").exists(), "a folder that was made for it is gone");

    promote(&fleet, "1.0", Behaviour::Good, &files, &what);
    fleet.until_rollout("pilot", "1.0", "done").unwrap();
    says("1.0");
    let placed = places(&host);
    for part in [
        "etc/payments.conf: daemon:adm 640 regular file \"conf 1\"",
        "usr/local/bin/pay-tool: root:root 4711 regular file \"tool 1\" \
         0100000200040000000000000000000000000000 6b657074",
        "share/version: root:root 644 regular file \"1.0\"",
    ] {
        assert!(placed.contains(part), "{part} in\n{placed}");
    }

    // A bad one that changes one file, drops one and brings one in a new folder.
    let files = [("etc/payments.conf", "conf 2"), ("srv/pay/new", "new")];
    promote(&fleet, "1.1", Behaviour::Unhealthy, &files, AS_WHAT);
    fleet.until_rollout("pilot", "1.1", "halted").unwrap();
    says("1.0");
    assert_eq!(places(&host), placed);
    assert!(!host.root().join("srv/pay").exists());

    promote(&fleet, "1.2", Behaviour::Good, &files, AS_WHAT);
    fleet.until_rollout("pilot", "1.2", "done").unwrap();
    says("1.2");
    let placed = places(&host);
    assert!(placed.contains("srv/pay/new: root:root 644 regular file \"new\""), "{placed}");
    assert!(!host.root().join("usr/local/bin/pay-tool").exists());

    // Another hand changes a file: the host names it.
    host.write("/etc/payments.conf", "changed").unwrap();
    host.good(["systemctl", "restart", "refit-agent"]).unwrap();
    until("the host names what was changed", || {
        let said = host.good(["refit-agent", "status"])?;
        Ok(said.contains("/etc/payments.conf is not what").then_some(()))
    })
    .unwrap();
}
