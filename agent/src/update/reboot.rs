//! The boot that an update waits for: what asked for it, what holds it off, how often it was asked for.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    attempt::Retry,
    cause::{Cause, Failure},
    ids::BootId,
    moment::{Moment, Running},
};

/// How often a host is asked to boot before that counts as failed.
const MOST_ASKED: u32 = 2;

/// Who asks for the boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "reason")]
pub enum RebootReason {
    /// The release's manifest: it runs after a boot only.
    Release,
    /// What the release has put on the host: `/run/reboot-required` is there after the switch.
    Required {
        /// What the host says of it: the packages, as far as they are named.
        text: String,
    },
}

/// What a switch leads to where the host has to boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebootNeed {
    /// Who asks.
    pub reason: RebootReason,
    /// For how much running time the boot may be held off before the host goes back.
    pub longest_hold: Duration,
}

impl Default for RebootNeed {
    /// What an agent meant that did not write it.
    fn default() -> RebootNeed {
        RebootNeed { reason: RebootReason::Release, longest_hold: Duration::from_secs(3600) }
    }
}

/// The boot that an update waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebooting {
    /// Who asks, and how long it may take.
    #[serde(default)]
    pub need: RebootNeed,
    /// The boot that has to end.
    pub from: BootId,
    /// Since when, in the running time of that boot.
    #[serde(default)]
    pub since: Running,
    /// How often the host was asked to boot. Saved before it is asked, so that no cut makes it less.
    pub asked: u32,
    /// Nothing holds the boot off any more, and the host is asked.
    #[serde(default)]
    pub leave: bool,
    /// What holds it off.
    #[serde(default)]
    pub retry: Retry,
}

impl Rebooting {
    /// How often what holds a boot off is asked again: services may be down meanwhile.
    const LONGEST_PAUSE: Duration = Duration::from_secs(15);

    /// Needed from this moment on.
    pub fn begin(need: RebootNeed, at: Moment) -> Rebooting {
        let (from, since) = (at.boot, at.running);
        Rebooting { need, from, since, asked: 0, leave: false, retry: Retry::default() }
    }

    /// Whether the host has booted since.
    pub fn is_over(&self, at: &Moment) -> bool {
        at.boot != self.from
    }

    /// How long to wait before asking again what holds the boot off.
    pub fn pause(&self) -> Duration {
        self.retry.pause().min(Self::LONGEST_PAUSE)
    }

    /// Nothing holds it off.
    pub(super) fn let_go(self) -> Rebooting {
        if self.leave {
            return self;
        }
        let asked = self.asked.saturating_add(1);
        Rebooting { asked, leave: true, retry: Retry::default(), ..self }
    }

    /// Something holds it off.
    ///
    /// # Errors
    /// For longer than it may.
    pub(super) fn held(self, why: Failure, at: &Moment) -> Result<Rebooting, Failure> {
        let held = at.running.since(self.since);
        if held < self.need.longest_hold {
            return Ok(Rebooting { leave: false, retry: self.retry.after(why), ..self });
        }
        let text = format!("the boot was held off for {} s: {}", held.as_secs(), why.text);
        Err(Failure::new(Cause::RebootHeld, text))
    }

    /// The host was asked and has not booted.
    ///
    /// # Errors
    /// It was asked often enough.
    pub(super) fn not_booted(self, why: &str) -> Result<Rebooting, Failure> {
        if self.asked < MOST_ASKED {
            return Ok(Rebooting { leave: false, ..self });
        }
        let text = format!("the host was asked {} times to boot and did not: {why}", self.asked);
        Err(Failure::new(Cause::RebootFailed, text))
    }
}
