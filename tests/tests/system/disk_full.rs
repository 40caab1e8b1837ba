//! A disk without room for the backup: refused, with the target untouched.

use std::{fs, path::Path};

use refit_durable::testing::LoopFs;
use refit_tests::{
    process::{Ran, command},
    release::{Behaviour, Probation},
    wait::until,
};

#[test]
fn a_backup_that_cannot_be_made_refuses_the_update_and_leaves_the_host_as_it_was() {
    let scratch = tempfile::tempdir().unwrap();
    let claim = "a backup on a full disk is refused";
    let Some(disk) = LoopFs::create(claim, scratch.path(), 600) else { return };
    let mut fleet = super::one_host_on_1_0();
    // The agent's data, and with it its backups, move to a small disk.
    fleet.host_mut("web-1").agent().unwrap().terminate().unwrap();
    let data = fleet.host_named("web-1").data();
    let moved = disk.path().join("data");
    Ran::of(std::process::Command::new("cp").arg("-a").arg(&data).arg(&moved))
        .unwrap()
        .good()
        .unwrap();
    fs::rename(&data, data.with_extension("old")).unwrap();
    std::os::unix::fs::symlink(&moved, &data).unwrap();
    let ledger = fleet.host_named("web-1").folder().join("ledger");
    fs::create_dir(&ledger).unwrap();
    fs::write(ledger.join("book"), vec![7; 4 << 20]).unwrap();
    fleet.start_agent("web-1").unwrap();
    let backup = "\n[backup]\npaths = [\"${HOST_FOLDER}/ledger\"]\n";
    let built = fleet.build_with("1.1", Behaviour::Good, Probation::default(), backup).unwrap();
    fleet.publish_built(&built).unwrap();
    fill(disk.path(), 2 << 20);
    let before =
        fs::read_link(fleet.host_named("web-1").install().join("payments/current")).unwrap();
    fleet.promote("1.1", "pilot").unwrap();
    until("the host says that it has no room", || {
        let product = &fleet.host_status("web-1")?["products"][0];
        let said = format!("{} {}", product["failure"], product["hold"]);
        Ok(said.contains("no-space").then_some(()))
    })
    .unwrap();
    let host = fleet.host_named("web-1");
    assert_eq!(fs::read_link(host.install().join("payments/current")).unwrap(), before);
    assert_eq!(host.says().unwrap(), "payments 1.0");
    assert_eq!(fs::read(ledger.join("book")).unwrap(), vec![7; 4 << 20]);
    // The agent itself is alive and can be asked.
    let mut status = command("refit-agent").unwrap();
    Ran::of(status.args(["status", "--data"]).arg(host.data())).unwrap().good().unwrap();
    // With room again, and told to try again, it goes on by itself.
    fs::remove_file(disk.path().join("filler")).unwrap();
    fleet.until_rollout("pilot", "1.1", "halted").unwrap();
    fleet.refit(["rollout", "resume", "payments", "pilot", "--reason", "disk cleaned"]).unwrap();
    fleet.until_runs("web-1", "1.1").unwrap();
    fleet.host_mut("web-1").agent().unwrap().terminate().unwrap();
    drop(fleet);
}

/// Leaves `rest` bytes free.
fn fill(disk: &Path, rest: u64) {
    let free = rustix::fs::statvfs(disk).unwrap();
    let bytes = (free.f_bavail * free.f_frsize).saturating_sub(rest);
    let filler = fs::File::create(disk.join("filler")).unwrap();
    rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), 0, bytes).unwrap();
}
