//! Updates in every state and events of every kind, for the tests of what decides about them and of what
//! saves them.

use std::time::Duration;

use jiff::Timestamp;
use refit_proto::{
    names::{Digest, Product, RingName, Version},
    package::{Reboot, WayBack},
};

use super::*;

pub(crate) fn attempt_of(product: &str, version: &str) -> Attempt {
    let release = |version: &str| ReleaseId {
        version: Version::parse(version).unwrap(),
        digest: Digest::of(format!("{product} {version}").as_bytes()),
    };
    Attempt {
        install: InstallId::parse("install-1").unwrap(),
        product: Product::parse(product).unwrap(),
        release: release(version),
        ring: RingName::parse("pilot").unwrap(),
        rollout: "7".into(),
        number: 1,
        rollback: false,
        previous: Some(release("1.0")),
        ordered_by: OrderedBy::Server,
    }
}

pub(crate) fn terms() -> Terms {
    Terms {
        probation: Duration::from_secs(20),
        probation_max: Duration::from_secs(100),
        check_every: Duration::from_secs(5),
        health: Observed::ByChecks,
        way_back: WayBack::Automatic,
        reboot: Reboot::Never,
        modules: false,
        saves_by: BackupMethod::default(),
        data_outside: false,
    }
}

pub(crate) fn at_boot(boot: &str, seconds: u64) -> Moment {
    Moment {
        wall: Timestamp::UNIX_EPOCH,
        boot: BootId::parse(boot).unwrap(),
        running: Running::from_nanos(seconds * 1_000_000_000),
    }
}

pub(crate) fn at(seconds: u64) -> Moment {
    at_boot("boot-1", seconds)
}

pub(crate) fn lease() -> Lease {
    let lasts = Duration::from_secs(600);
    Lease { id: LeaseId::parse("lease-1").unwrap(), asked: at(100), lasts }
}

pub(crate) fn sealed() -> SealedBackup {
    SealedBackup { id: BackupId::parse("backup-1").unwrap(), seal: Digest::of(b"list") }
}

pub(crate) fn change_with(terms: Terms) -> Change {
    Change {
        attempt: attempt_of("payments", "2.0"),
        terms,
        lease: lease().id,
        backup: sealed().id,
        baseline: Some(Verdict::Good),
        before: Baseline::default(),
        starts: 0,
    }
}

pub(crate) fn change() -> Change {
    change_with(terms())
}

pub(crate) fn failure(cause: Cause) -> Failure {
    Failure::new(cause, "it is said to have failed")
}

pub(crate) fn reboot_need() -> RebootNeed {
    RebootNeed { reason: RebootReason::Release, longest_hold: Duration::from_secs(600) }
}

pub(crate) fn still_up() -> Event {
    Event::StillUp { why: "it is still here".into() }
}

pub(crate) fn failed(cause: Cause) -> Event {
    Event::Failed { failure: failure(cause) }
}

pub(crate) fn good(seconds: u64) -> Event {
    Event::Checked { verdict: Verdict::Good, at: at(seconds) }
}

pub(crate) fn bad() -> Event {
    Event::Checked {
        verdict: Verdict::Bad { text: "503".into(), checks: vec![check_id()] },
        at: at(110),
    }
}

pub(crate) fn check_id() -> CheckId {
    let name = |text: &str| refit_proto::names::PackageName::parse(text).unwrap();
    CheckId { package: name("payments"), check: name("answers") }
}

pub(crate) fn unknown(seconds: u64) -> Event {
    let verdict = Verdict::Unknown { text: "no answer yet".into() };
    Event::Checked { verdict, at: at(seconds) }
}

pub(crate) fn probation(change: Change) -> Update {
    Update::Probation { change, sealed: sealed(), probation: Probation::begin(at(100)) }
}

pub(crate) fn rolling_back() -> Update {
    let undo = Undo::Restore { sealed: sealed() };
    let failure = failure(Cause::HealthCheckFailed);
    Update::RollingBack { change: change(), undo, failure, retry: Retry::default() }
}

pub(crate) fn ended(outcome: Outcome) -> Update {
    let attempt = attempt_of("payments", "2.0");
    Update::Finished { attempt, lease: Some(lease().id), outcome, settled: false }
}

/// One update in each state; of the ends, one of each.
pub(crate) fn every_state() -> Vec<Update> {
    let attempt = attempt_of("payments", "2.0");
    let retry = Retry::default();
    let failure = failure(Cause::HealthCheckFailed);
    let (health, backup) = (Some(Verdict::Good), sealed().id);
    vec![
        Update::offered(attempt.clone()),
        Update::Preflight { attempt: attempt.clone(), retry: retry.clone() },
        Update::Fetching { attempt: attempt.clone(), terms: terms(), retry: retry.clone() },
        Update::Waiting { attempt: attempt.clone(), terms: terms(), retry },
        Update::BackingUp { attempt, terms: terms(), lease: lease() },
        Update::Quiescing { change: change() },
        Update::Sealing { change: change() },
        Update::Switching { change: change(), sealed: sealed() },
        Update::Rebooting {
            change: change(),
            sealed: sealed(),
            reboot: Rebooting::begin(reboot_need(), at(0)),
        },
        probation(change()),
        ended(Outcome::Committed {
            proof: Proof::Good,
            sealed: sealed(),
            red_before: String::new(),
        }),
        ended(Outcome::Refused { failure: failure.clone() }),
        ended(Outcome::Dropped),
        rolling_back(),
        ended(Outcome::RolledBack { failure: failure.clone(), health }),
        ended(Outcome::Stuck { failure, rollback: None, backup }),
    ]
}

/// One of every event, and failures of every blame.
pub(crate) fn every_event() -> Vec<(&'static str, Event)> {
    vec![
        ("permitted", Event::Permitted),
        ("preflight-passed", Event::PreflightPassed { terms: terms() }),
        ("fetched", Event::Fetched),
        ("lease-given", Event::LeaseGiven { lease: lease(), at: at(101) }),
        ("held", Event::Held { holds: vec![HostHold::OutsideWindow { opens: None }], at: at(101) }),
        (
            "backed-up",
            Event::BackedUp {
                backup: sealed().id,
                baseline: Some(Verdict::Good),
                before: Baseline::default(),
            },
        ),
        ("quiesced", Event::Quiesced),
        ("sealed", Event::Sealed { sealed: sealed() }),
        ("switched", Event::Switched { at: at(110), reboot: None }),
        ("may-reboot", Event::MayReboot),
        ("reboot-held", Event::RebootHeld { failure: failure(Cause::Busy), at: at(110) }),
        ("still-up", still_up()),
        ("rebooted", Event::Rebooted { at: at(110) }),
        ("agreed", Event::Agreed),
        ("good", good(105)),
        ("bad", bad()),
        ("unknown", unknown(105)),
        (
            "went-back",
            Event::WentBack { health: Some(Verdict::Good), kept: Vec::new(), log: String::new() },
        ),
        ("settled", Event::Settled),
        ("weather", failed(Cause::ServerAway)),
        ("release's fault", failed(Cause::ContentMismatch)),
        ("host's fault", failed(Cause::NoSpace)),
        ("not permitted", failed(Cause::NotPermitted)),
        ("resumed", Event::Resumed { at: at(111) }),
        ("resumed after a boot", Event::Resumed { at: at_boot("boot-2", 1) }),
        ("rescued", Event::Rescued { failure: failure(Cause::Interrupted) }),
        ("taken-back", Event::TakenBack),
        ("back-out", Event::BackOut),
    ]
}
