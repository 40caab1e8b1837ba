//! Ways back to try readers on: one with a step of every kind, and one of a sample backup.

use std::time::Duration;

use refit_proto::names::Digest;

use crate::{
    clock::Clock,
    host::files::Time,
    update::InstallId,
    way_back::{UndoStep, Undoing, WayBack},
};

/// A way back with these steps that nobody will ever run: read, and no more.
pub fn sample_way_back(install: &InstallId, clock: &Clock, steps: Vec<UndoStep>) -> WayBack {
    let patience = Duration::from_secs(3600);
    WayBack {
        install: install.clone(),
        boot: clock.boot().clone(),
        deadline: clock.running().plus(patience),
        patience,
        alone: Duration::from_secs(600),
        starts: 3,
        attempt: None,
        lease: None,
        restores: None,
        owners: Default::default(),
        steps,
    }
}

/// A step of every kind that this agent writes, about paths that no host has.
pub fn of_every_kind() -> Vec<UndoStep> {
    let path = || "/nowhere/refit-qualifies".into();
    let (mode, uid, gid, unit) = (0o644, 0, 0, || "refit-qualifies.service".to_owned());
    let steps = [
        Undoing::StopUnit { unit: unit() },
        Undoing::Link { path: path(), target: "releases/1".into() },
        Undoing::RemoveLink { path: path() },
        Undoing::Folder { path: path(), mode, uid, gid },
        Undoing::File { path: path(), from: path(), digest: Digest::of(b""), mode, uid, gid },
        Undoing::Remove { path: path() },
        Undoing::Swap { path: path(), from: path(), aside: path() },
        Undoing::Attribute { path: path(), name: "user.note".into(), value: b"a b".to_vec() },
        Undoing::Owner { path: path(), uid, gid },
        Undoing::Mode { path: path(), mode },
        Undoing::Modified { path: path(), time: Time { seconds: -1, nanos: 1 } },
        Undoing::HardLink { path: path(), from: path() },
        Undoing::Run { command: vec!["true".into(), "a b".into()], timeout_seconds: 1 },
        Undoing::ReloadUnits,
        Undoing::StartUnit { unit: unit() },
    ];
    let mut steps: Vec<_> = steps.into_iter().map(UndoStep::from).collect();
    steps.push(UndoStep { undoing: Undoing::ReloadUnits, unless: Some(path()) });
    steps
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_kind_of_step_is_left_out() {
        let kinds: BTreeSet<_> = of_every_kind().iter().map(|step| step.undoing.kind()).collect();
        // As docs/decisions/0002-way-back.md lists them.
        assert_eq!(kinds.len(), 15);
    }
}
