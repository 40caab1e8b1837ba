//! The agent's only clock: what time it is, for how long the host has been running, and which boot this
//! is. Decides what to make of a clock that cannot be right; what follows from the time is for others.
//!
//! A host whose clock says 1970 must still find its server, or it never learns better. So the time has a
//! floor: the moment this agent was built, and the newest moment that signed metadata has named. A clock
//! behind the floor is wrong, and the floor is used. Behind the floor but after the build it may as well
//! be the floor that is wrong, since a server's clock was once: whoever was refused by the floor's time
//! asks again by the clock's own ([`Clock::readings`]), so that a wrong moment never stays for ever.
//! Nothing raises the floor but what is signed: a host whose clock was once ahead does not stay there.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

use crate::update::{BootId, IdError, Moment, Running};

/// No agent of this version ran before: raised with each release of the agent. A reproducible build
/// sets SOURCE_DATE_EPOCH, which is later.
const BUILT_AFTER: i64 = 1_793_491_200; // 2026-11-01T00:00:00Z

/// The moment of the build, in seconds since 1970.
fn built() -> i64 {
    option_env!("SOURCE_DATE_EPOCH")
        .and_then(|seconds| seconds.parse().ok())
        .map_or(BUILT_AFTER, |seconds: i64| seconds.max(BUILT_AFTER))
}

/// How far this host's clock may be behind the server's and still count as right: signed metadata is as
/// new as a second, and no two clocks agree.
pub const SKEW: Duration = Duration::from_secs(60);

/// Where the boot's id is told by the kernel.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Why there is no clock.
#[derive(Debug, thiserror::Error)]
pub enum ClockError {
    /// The kernel does not tell which boot this is.
    #[error(
        "cannot read the boot's id from {BOOT_ID}: {0}\nhelp: the agent needs /proc to be mounted"
    )]
    NoBootId(std::io::Error),
    /// It tells something else.
    #[error("{BOOT_ID} holds no boot id: {0}\nhelp: the agent needs the /proc of Linux")]
    NotABootId(#[from] IdError),
}

/// Where the time comes from. Cheap to clone; clones share the floor.
#[derive(Clone)]
pub struct Clock {
    boot: BootId,
    wall: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    running: Arc<dyn Fn() -> Running + Send + Sync>,
    floor: Arc<AtomicI64>,
}

impl Clock {
    /// The clocks of this machine.
    ///
    /// # Errors
    /// If the kernel does not tell which boot this is.
    pub fn system() -> Result<Clock, ClockError> {
        let boot = std::fs::read_to_string(BOOT_ID).map_err(ClockError::NoBootId)?;
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
        let wall = Timestamp::now;
        Ok(Clock::from_fns(BootId::parse(boot.trim())?, wall, boot_time))
    }

    /// The clocks of this machine, for whoever never says which boot it is and may not see `/proc`.
    pub fn of_no_boot() -> Clock {
        #[expect(clippy::disallowed_methods, reason = "the same clock, read in the same place")]
        let wall = Timestamp::now;
        #[expect(clippy::unwrap_used, reason = "a word is an id")]
        let boot = BootId::parse("not-told").unwrap();
        Clock::from_fns(boot, wall, boot_time)
    }

    /// Clocks that the caller decides.
    pub fn from_fns(
        boot: BootId,
        wall: impl Fn() -> Timestamp + Send + Sync + 'static,
        running: impl Fn() -> Running + Send + Sync + 'static,
    ) -> Clock {
        let (wall, running) = (Arc::new(wall), Arc::new(running));
        Clock { boot, wall, running, floor: Arc::new(AtomicI64::new(built())) }
    }

    /// What time it is: the clock's own, or the floor if that is later.
    pub fn now(&self) -> Timestamp {
        (self.wall)().max(self.floor())
    }

    /// What time it may be: [`Clock::now`], and the clock's own time where that is not impossible.
    pub fn readings(&self) -> Vec<Timestamp> {
        let (own, floor) = ((self.wall)(), self.floor());
        if own >= floor {
            vec![own]
        } else if own.as_second() >= built() {
            vec![floor, own]
        } else {
            vec![floor]
        }
    }

    /// How far the host's clock is behind what is known to have passed; zero for a clock that may be
    /// right.
    pub fn behind(&self) -> Duration {
        let behind = self.floor().duration_since((self.wall)());
        Duration::try_from(behind).unwrap_or_default()
    }

    /// Takes a moment that signed metadata has named as the least that it can be.
    pub fn raise_floor(&self, seen: Timestamp) {
        self.floor.store(seen.as_second().max(built()), Ordering::Relaxed);
    }

    /// Running time since the host booted.
    pub fn running(&self) -> Running {
        (self.running)()
    }

    /// Now, by all clocks.
    pub fn moment(&self) -> Moment {
        Moment { wall: self.now(), boot: self.boot.clone(), running: self.running() }
    }

    /// This boot.
    pub fn boot(&self) -> &BootId {
        &self.boot
    }

    /// The least that the time can be, as far as is known here: to be handed to the other half.
    pub fn known_to_have_passed(&self) -> Timestamp {
        self.floor()
    }

    fn floor(&self) -> Timestamp {
        Timestamp::from_second(self.floor.load(Ordering::Relaxed)).unwrap_or(Timestamp::UNIX_EPOCH)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}

fn boot_time() -> Running {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    Running::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// The host's own time zone by the IANA's name; empty where the system does not tell it.
pub fn zone_name() -> String {
    let zone = jiff::tz::TimeZone::try_system().ok();
    zone.and_then(|zone| zone.iana_name().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(wall: &str) -> Clock {
        let wall: Timestamp = wall.parse().unwrap();
        Clock::from_fns(BootId::parse("boot").unwrap(), move || wall, || Running::from_nanos(0))
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_clock_in_1970_gives_the_newest_moment_that_is_known_to_have_passed() {
        let clock = clock("1970-01-01T00:01:00Z");
        assert!(clock.now() >= at("2026-11-01T00:00:00Z"));
        clock.raise_floor(at("2031-05-05T00:00:00Z"));
        assert_eq!(clock.now(), at("2031-05-05T00:00:00Z"));
        assert_eq!(clock.readings(), [clock.now()], "1970 is not a time that it may be");
        assert!(!clock.behind().is_zero());
    }

    #[test]
    fn a_floor_that_was_too_high_once_does_not_stay() {
        let clock = clock("2027-01-01T00:00:00Z");
        clock.raise_floor(at("2036-01-01T00:00:00Z"));
        assert_eq!(clock.readings(), [at("2036-01-01T00:00:00Z"), at("2027-01-01T00:00:00Z")]);
        clock.raise_floor(at("2026-12-31T00:00:00Z"));
        assert_eq!(clock.readings(), [at("2027-01-01T00:00:00Z")]);
        assert!(clock.behind().is_zero());
    }

    #[test]
    fn running_time_goes_forward() {
        let clock = Clock::system().unwrap();
        let first = clock.running();
        assert!(clock.running() >= first && first > Running::from_nanos(0));
    }
}
