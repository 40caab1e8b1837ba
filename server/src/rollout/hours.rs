//! Whether an update may begin by the clock: the product's windows and freezes, and a while after each change in
//! which nothing begins, so that nobody is surprised by a window that happens to be open. Hosts are offered a
//! release all the same and get it ready; what waits is the leave to begin. Going back waits for no clock.

use jiff::Timestamp;
use refit_proto::hours::{Closed, Closing, HostPlace, Hours, Place, Zones};

use super::{
    counts::after,
    hold::{Hold, HoldReason},
};
use crate::fleet::{Direction, RingRecord, Rollout};

/// The hours of a product, ready to be asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HoursNow {
    /// The rules.
    pub hours: Hours,
    /// The time zones that they name.
    pub zones: Zones,
    /// When they were last changed; `None`: never since they are kept.
    pub changed_at: Option<Timestamp>,
}

impl HoursNow {
    /// Why nothing of this rollout begins now; `None`: it may. `host`: one host, or the ring as a whole.
    pub fn hold(
        &self,
        ring: &RingRecord,
        rollout: &Rollout,
        host: Option<HostPlace<'_>>,
        now: Timestamp,
    ) -> Option<Hold> {
        match rollout.direction {
            Direction::Rollback => return None,
            Direction::Forward => {}
        }
        let place = Place { ring: &ring.ring, host };
        let closed = self.hours.closed(place, &ring.passed, &self.zones, now);
        closed.map(|closing| shut(closing, now)).or_else(|| self.settling(place, rollout, now))
    }

    /// The while after a change.
    fn settling(&self, place: Place<'_>, rollout: &Rollout, now: Timestamp) -> Option<Hold> {
        let promoted = self.hours.has_windows(place).then_some(rollout.created_at);
        let since = promoted.max(self.changed_at)?;
        let until = after(since, self.hours.settle_seconds);
        (now < until).then(|| Hold::until(HoldReason::Settling, since, until))
    }

    /// When something that may begin now may no longer.
    pub(super) fn closes(
        &self,
        ring: &RingRecord,
        rollout: &Rollout,
        host: HostPlace<'_>,
        now: Timestamp,
    ) -> Option<Timestamp> {
        match rollout.direction {
            Direction::Rollback => None,
            Direction::Forward => {
                let place = Place { ring: &ring.ring, host: Some(host) };
                self.hours.closes(place, &ring.passed, &self.zones, now)
            }
        }
    }
}

fn shut(Closing { why, opens }: Closing, now: Timestamp) -> Hold {
    let reason = match why {
        Closed::Window => HoldReason::OutsideWindow,
        Closed::Avoided => HoldReason::Avoided,
        Closed::Frozen { why } => HoldReason::Frozen(why),
        Closed::UnknownZone(zone) => HoldReason::UnknownZone(zone),
    };
    Hold { reason, since: now, until: opens }
}
