//! What would become of this host if its power went now. The power-cut tests hold what is said here.

use super::state::{Outcome, Update};

/// What a start of the host would lead to, in one sentence for people.
pub fn if_power_went(update: Option<&Update>) -> &'static str {
    let Some(update) = update else {
        return "the host starts with what is installed; no update is under way";
    };
    match update {
        Update::Offered { .. }
        | Update::Preflight { .. }
        | Update::Fetching { .. }
        | Update::Waiting { .. } => {
            "the host starts with what runs now, and the update is gone on with: nothing is changed yet"
        }
        Update::BackingUp { .. } => {
            "the host starts with what runs now; the update goes on if its leave still holds, else it asks again: nothing is changed yet"
        }
        Update::Quiescing { .. } | Update::Sealing { .. } => {
            "the host starts with the release of before in its place, and the update is gone on with"
        }
        Update::Switching { .. } => {
            "the host ends on one whole release: the switch is repeated, or undone from the sealed backup"
        }
        Update::Rebooting { .. } => {
            "it would be the boot that the update waits for: the new release starts and has to prove itself"
        }
        Update::Probation { .. } => {
            "the new release starts again and its probation goes on; at the third start, or with no agent, the host goes back"
        }
        Update::RollingBack { .. } => {
            "going back is gone on with until the release of before stands again"
        }
        Update::Finished { outcome, settled, .. } => match (outcome, settled) {
            (Outcome::Committed { .. }, false) => {
                "the host starts with the new release, which stays; what is left is tidied up"
            }
            (Outcome::Refused { .. } | Outcome::Dropped | Outcome::RolledBack { .. }, false) => {
                "the host starts with the release of before; what is left is tidied up"
            }
            (Outcome::Stuck { .. }, _) => {
                "the host stays as it is: neither release is whole by the agent's own means, and a person is needed"
            }
            (
                Outcome::Committed { .. }
                | Outcome::Refused { .. }
                | Outcome::Dropped
                | Outcome::RolledBack { .. },
                true,
            ) => "the host starts with what is installed; no update is under way",
        },
    }
}
