//! Whether it is time to go back. Reads no clock and touches nothing.
//!
//! Time is the host's running time, in the pieces between two looks: a host that was off, or whose clock
//! was set, loses and gains nothing.

use std::{fmt, time::Duration};

use crate::{watch::Watch, way_back::WayBack};

/// Why the rescuer was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// Its timer, every so often while an update is under way.
    Tick,
    /// The host boots.
    Boot,
    /// systemd gave the agent up.
    AgentFailed,
    /// A person asks for it.
    ByHand,
}

/// Why the host goes back without its agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The update took longer than it may.
    Deadline,
    /// The host was started too often in the middle of the update.
    Starts,
    /// No agent ran for too long.
    AgentGone,
    /// systemd gave the agent up.
    AgentFailed,
    /// A person asked for it.
    ByHand,
}

impl Reason {
    pub(crate) const ALL: [Reason; 5] =
        [Reason::Deadline, Reason::Starts, Reason::AgentGone, Reason::AgentFailed, Reason::ByHand];

    /// The word in the record that the agent reads.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Reason::Deadline => "deadline",
            Reason::Starts => "starts",
            Reason::AgentGone => "agent-gone",
            Reason::AgentFailed => "agent-failed",
            Reason::ByHand => "by-hand",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How often the rescuer looks: four times in the span in which an agent may be missing, and so that
/// little running time is lost with the power.
pub(crate) fn period(way_back: &WayBack) -> Duration {
    (way_back.alone / 4).clamp(Duration::from_secs(1), Duration::from_secs(600))
}

/// Adds the time since the last look. A look that comes much later than it should is one after a freeze
/// or a suspend, in which nobody could have done anything: it counts as two.
pub(crate) fn count(
    watch: &mut Watch,
    way_back: &WayBack,
    occasion: Occasion,
    agent_runs: bool,
    boot: &str,
    now: Duration,
) {
    let same_boot = watch.boot == boot;
    let since = if same_boot { now.saturating_sub(watch.seen) } else { now };
    let since = since.min(period(way_back) * 2);
    watch.used = watch.used.saturating_add(since);
    watch.gone = match agent_runs || !same_boot {
        true => Duration::ZERO,
        false => watch.gone.saturating_add(since),
    };
    if occasion == Occasion::Boot && !same_boot {
        watch.starts = watch.starts.saturating_add(1);
    }
    watch.boot = boot.to_owned();
    watch.seen = now;
}

/// Whether to go back now; `None` to go on waiting.
pub(crate) fn judge(watch: &Watch, way_back: &WayBack, occasion: Occasion) -> Option<Reason> {
    match occasion {
        Occasion::ByHand => Some(Reason::ByHand),
        _ if watch.used >= way_back.patience => Some(Reason::Deadline),
        Occasion::AgentFailed => Some(Reason::AgentFailed),
        Occasion::Boot if watch.starts >= way_back.starts => Some(Reason::Starts),
        Occasion::Tick if watch.gone >= way_back.alone => Some(Reason::AgentGone),
        Occasion::Boot | Occasion::Tick => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn way_back() -> WayBack {
        let (install, steps) = ("1".into(), vec![]);
        let (users, groups) = Default::default();
        WayBack { install, patience: S(1000), alone: S(40), starts: 3, users, groups, steps }
    }

    /// Looks at these moments of one boot, with (1) or without (0) an agent, until it goes back.
    fn looks(looks: &[(u64, u8)]) -> Option<(u64, Reason)> {
        let mut watch = Watch::begin("1", "a", S(0));
        for (at, agent) in looks {
            count(&mut watch, &way_back(), Occasion::Tick, *agent == 1, "a", S(*at));
            if let Some(reason) = judge(&watch, &way_back(), Occasion::Tick) {
                return Some((*at, reason));
            }
        }
        None
    }

    #[test]
    fn an_agent_that_is_gone_for_long_enough_without_a_break_is_gone() {
        assert_eq!(looks(&[(10, 0), (20, 0), (30, 0), (40, 0)]), Some((40, Reason::AgentGone)));
        assert_eq!(looks(&[(10, 0), (20, 0), (30, 0), (35, 1), (45, 0), (55, 0), (65, 0)]), None);
    }

    #[test]
    fn the_deadline_counts_whether_or_not_an_agent_runs() {
        let all: Vec<_> = (1..=120).map(|look| (look * 10, 1)).collect();
        assert_eq!(looks(&all), Some((1000, Reason::Deadline)));
    }

    #[test]
    fn a_freeze_or_a_suspend_of_a_day_is_no_reason() {
        assert_eq!(looks(&[(10, 1), (86_400, 1), (86_410, 1)]), None);
        assert_eq!(looks(&[(10, 1), (86_400, 0), (86_401, 1)]), None);
    }

    #[test]
    fn the_third_start_of_the_host_goes_back_and_time_goes_on_where_it_stopped() {
        let mut watch = Watch::begin("1", "a", S(500));
        let mut boot = |name: &str, at: u64| {
            count(&mut watch, &way_back(), Occasion::Boot, false, name, S(at));
            judge(&watch, &way_back(), Occasion::Boot)
        };
        assert_eq!(boot("a", 501), None, "not a boot: the unit was started by hand");
        assert_eq!(boot("b", 5), None);
        assert_eq!(boot("c", 5), None);
        assert_eq!(boot("d", 5), Some(Reason::Starts));
        assert_eq!(watch.used, S(16));
    }

    #[test]
    fn an_agent_that_systemd_gave_up_is_not_waited_for() {
        let watch = Watch::begin("1", "a", S(0));
        assert_eq!(judge(&watch, &way_back(), Occasion::AgentFailed), Some(Reason::AgentFailed));
    }
}
