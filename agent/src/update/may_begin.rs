//! Whether this host may begin an update now, by its own rules alone: a second brake beside the server's,
//! which holds when the server is gone, and against a server that gives leave to everything. What can't be
//! told holds. A reason that holds is no failure: the update waits for as long as it takes.

use jiff::Timestamp;
use refit_proto::windows::Standing;
use serde::{Deserialize, Serialize};

use super::{LocalHold, past::TooMany};

/// What the host's own rules go by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// How the host's own windows stand.
    pub windows: OwnWindows,
    /// How many updates began here lately.
    pub rate: Rate,
    /// What people on this host hold, of the product that is to be updated.
    pub local: Vec<LocalHold>,
}

/// How many updates began here lately, beside how many may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rate {
    /// Another may begin.
    Within,
    /// As many as may have begun.
    Reached(TooMany),
    /// Nobody can tell.
    Untold {
        /// Why.
        why: String,
    },
}

/// How the host's own windows stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnWindows {
    /// It has none: any time is as good.
    None,
    /// They are open or closed.
    Told(Standing),
    /// Nobody can tell, since the clock or its zone can't be relied on.
    Untold {
        /// Why.
        why: String,
    },
}

/// One of the host's own reasons not to begin now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "reason")]
pub enum HostHold {
    /// None of the host's windows is open.
    OutsideWindow {
        /// When one opens; `None`: nobody can say.
        opens: Option<Timestamp>,
    },
    /// Whether one is open can't be told.
    WindowUntold {
        /// Why.
        why: String,
    },
    /// As many updates as may have begun in the last 24 hours.
    EnoughForADay {
        /// So many.
        began: u32,
        /// When the next may.
        until: Timestamp,
    },
    /// How many began can't be told.
    RateUntold {
        /// Why.
        why: String,
    },
    /// A person on this host holds it.
    Local {
        /// Which hold.
        id: String,
        /// Who holds.
        who: String,
        /// Why.
        why: String,
        /// When it ends by itself.
        ends: Timestamp,
    },
    /// A reason that a later version of the agent has written and this one does not know.
    #[serde(other)]
    Unrecognised,
}

/// Every reason that holds an update off now; none: the host may begin. Asked at the end of Waiting, before
/// the server is asked for a lease, and once more before the first service stops.
pub fn may_begin(facts: &Facts) -> Vec<HostHold> {
    let mut holds = Vec::new();
    match &facts.windows {
        OwnWindows::None | OwnWindows::Told(Standing::Open { .. }) => {}
        OwnWindows::Told(Standing::Closed { opens }) => {
            holds.push(HostHold::OutsideWindow { opens: *opens });
        }
        OwnWindows::Untold { why } => holds.push(HostHold::WindowUntold { why: why.clone() }),
    }
    match &facts.rate {
        Rate::Within => {}
        Rate::Reached(TooMany { began, until }) => {
            holds.push(HostHold::EnoughForADay { began: *began, until: *until });
        }
        Rate::Untold { why } => holds.push(HostHold::RateUntold { why: why.clone() }),
    }
    holds.extend(facts.local.iter().map(|hold| HostHold::Local {
        id: hold.id.clone(),
        who: hold.who.clone(),
        why: hold.why.clone(),
        ends: hold.until(),
    }));
    holds
}

impl HostHold {
    /// The machine-readable word of the wire (`Hold.reason`).
    pub fn reason(&self) -> &'static str {
        match self {
            HostHold::OutsideWindow { .. } => "outside-window",
            HostHold::WindowUntold { .. } => "window-untold",
            HostHold::EnoughForADay { .. } => "enough-for-a-day",
            HostHold::RateUntold { .. } => "rate-untold",
            HostHold::Local { .. } => "local",
            HostHold::Unrecognised => "unrecognised",
        }
    }

    /// One sentence for people.
    pub fn text(&self) -> String {
        match self {
            HostHold::OutsideWindow { opens: Some(opens) } => {
                format!("this host's next maintenance window opens at {opens}")
            }
            HostHold::OutsideWindow { opens: None } => {
                "none of this host's maintenance windows is open".to_owned()
            }
            HostHold::WindowUntold { why } => {
                format!("whether this host's maintenance window is open can't be told: {why}")
            }
            HostHold::EnoughForADay { began, until } => {
                format!("{began} updates began on this host within a day; the next may at {until}")
            }
            HostHold::RateUntold { why } => {
                format!("how many updates began on this host can't be told: {why}")
            }
            HostHold::Local { id, who, why, .. } => format!("{who} holds this host ({id}): {why}"),
            HostHold::Unrecognised => {
                "a later version of the agent has a reason that this one does not know".to_owned()
            }
        }
    }

    /// When it ends by itself; `None`: somebody has to act, or nobody can say.
    pub fn until(&self) -> Option<Timestamp> {
        match self {
            HostHold::OutsideWindow { opens } => *opens,
            HostHold::EnoughForADay { until, .. } => Some(*until),
            HostHold::Local { ends, .. } => Some(*ends),
            HostHold::WindowUntold { .. }
            | HostHold::RateUntold { .. }
            | HostHold::Unrecognised => None,
        }
    }

    /// Who can change it.
    pub fn who(&self) -> &'static str {
        match self {
            HostHold::OutsideWindow { .. } => "the host's owner, by `[windows]` in agent.toml",
            HostHold::WindowUntold { .. } => "the host's owner, who sets its clock and its zone",
            HostHold::EnoughForADay { .. } => {
                "time, or the host's owner by `[brake]` in agent.toml"
            }
            HostHold::Local { .. } => "whoever holds, or root: `refit-agent hold release`",
            HostHold::RateUntold { .. } | HostHold::Unrecognised => "the host's owner",
        }
    }
}

/// A reason, and since when it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The reason.
    pub hold: HostHold,
    /// Since when.
    pub since: Timestamp,
}

/// The reasons that hold now, each since it was found first without a break.
pub(super) fn held_since(before: &[Held], holds: Vec<HostHold>, now: Timestamp) -> Vec<Held> {
    let since = |hold: &HostHold| {
        let known = before.iter().find(|held| held.hold.reason() == hold.reason());
        known.map_or(now, |held| held.since)
    };
    holds.into_iter().map(|hold| Held { since: since(&hold), hold }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn with(windows: OwnWindows) -> Vec<HostHold> {
        may_begin(&Facts { windows, rate: Rate::Within, local: Vec::new() })
    }

    #[test]
    fn every_reason_that_holds_is_named() {
        let windows = OwnWindows::Told(Standing::Closed { opens: None });
        let rate = Rate::Reached(TooMany { began: 3, until: at(9) });
        let holds = may_begin(&Facts { windows, rate, local: Vec::new() });
        let words: Vec<_> = holds.iter().map(HostHold::reason).collect();
        assert_eq!(words, ["outside-window", "enough-for-a-day"]);
        let rate = Rate::Untold { why: "the disk fails".into() };
        let holds = may_begin(&Facts { windows: OwnWindows::None, rate, local: Vec::new() });
        assert_eq!(holds, [HostHold::RateUntold { why: "the disk fails".into() }]);
    }

    #[test]
    fn a_host_begins_only_with_its_window_open_or_none_at_all() {
        assert_eq!(with(OwnWindows::None), []);
        assert_eq!(with(OwnWindows::Told(Standing::Open { until: Some(at(9)) })), []);
        let opens = Some(at(9));
        let closed = with(OwnWindows::Told(Standing::Closed { opens }));
        assert_eq!(closed, [HostHold::OutsideWindow { opens }]);
        assert_eq!(closed[0].until(), opens);
        let why = "the clock is wrong".to_owned();
        let untold = with(OwnWindows::Untold { why: why.clone() });
        assert_eq!(untold, [HostHold::WindowUntold { why }]);
        assert!(untold[0].text().contains("the clock is wrong"));
    }

    #[test]
    fn a_reason_holds_since_it_was_found_first() {
        let closed = |opens| HostHold::OutsideWindow { opens: Some(at(opens)) };
        let first = held_since(&[], vec![closed(9)], at(1));
        let later = held_since(&first, vec![closed(20)], at(2));
        assert_eq!(later, [Held { hold: closed(20), since: at(1) }]);
        let other = HostHold::WindowUntold { why: String::new() };
        let after = held_since(&later, vec![other.clone()], at(3));
        assert_eq!(after, [Held { hold: other, since: at(3) }]);
    }

    #[test]
    fn the_word_of_a_reason_is_the_one_in_the_journal_and_a_later_one_is_read() {
        for hold in [
            HostHold::OutsideWindow { opens: None },
            HostHold::WindowUntold { why: "x".into() },
            HostHold::EnoughForADay { began: 1, until: at(9) },
            HostHold::RateUntold { why: "x".into() },
            HostHold::Local {
                id: "h1".into(),
                who: "alice (1000)".into(),
                why: "a dump".into(),
                ends: at(1),
            },
            HostHold::Unrecognised,
        ] {
            assert_eq!(serde_json::to_value(&hold).unwrap()["reason"], hold.reason());
        }
        let later: HostHold = serde_json::from_str(r#"{"reason":"eaten","by":"a grue"}"#).unwrap();
        assert_eq!(later, HostHold::Unrecognised);
    }
}
