//! The host's own brake as updates meet it: gathers what the host's rules go by, waits while they hold, and
//! says why. What follows from it is decided in [`crate::update`].

use std::{sync::Arc, time::Duration};

use refit_proto::names::Product;

use super::{Machine, Steps};
use crate::{
    clock::{Clock, SKEW},
    drive::HostError,
    holds::Holds,
    settings::{BrakeSettings, Settings, WindowSettings},
    update::{
        Attempt, Cause, Event, Facts, Failure, HostHold, InstallId, OwnWindows, Rate, failures_of,
        may_begin, too_many_in_a_day,
    },
};

/// How often the rules are asked again while they hold. No window opens later by more than this.
const LOOK: Duration = Duration::from_secs(60);

/// The host's own rules, and what was told of them.
pub struct Brake {
    /// When updates may begin; `None`: at any time.
    pub windows: Option<WindowSettings>,
    /// How often, and how many failures are enough.
    pub limits: BrakeSettings,
    /// What people on this host hold.
    pub local: Arc<Holds>,
    /// The reasons that the journal and the log know, and of which update: what goes on holding is waited
    /// for, and not written down again.
    pub told: Option<(InstallId, Vec<&'static str>)>,
}

impl Brake {
    /// The rules of these settings, of which nothing was told yet.
    pub fn new(settings: &Settings, local: Arc<Holds>) -> Brake {
        Brake { windows: settings.windows.clone(), limits: settings.brake, local, told: None }
    }

    /// How the host's windows stand. A clock that is known to be wrong opens none.
    fn own_windows(&self, clock: &Clock) -> OwnWindows {
        let Some(windows) = &self.windows else { return OwnWindows::None };
        let behind = clock.behind();
        if behind > SKEW {
            let why = format!("this host's clock is at least {} s behind", behind.as_secs());
            return OwnWindows::Untold { why };
        }
        match windows.time_zone() {
            Ok(zone) => OwnWindows::Told(windows.open.at(clock.now(), &zone)),
            Err(why) => OwnWindows::Untold { why },
        }
    }
}

impl<M: Machine> Steps<M> {
    /// Every reason of this host's own not to begin now.
    pub(super) fn holds(&self, product: &Product) -> Vec<HostHold> {
        let mut local = self.brake.local.now();
        local.retain(|hold| hold.holds(product));
        let windows = self.brake.own_windows(&self.clock);
        may_begin(&Facts { windows, rate: self.rate(), local })
    }

    fn rate(&self) -> Rate {
        let Some(most) = self.brake.limits.most_updates_per_day else { return Rate::Within };
        match self.journal.begun() {
            Ok(past) => too_many_in_a_day(&past, most, &self.clock.moment())
                .map_or(Rate::Within, Rate::Reached),
            Err(error) => Rate::Untold { why: first_line(&error) },
        }
    }

    /// Whether releases of this product have failed here so often that none comes any more.
    pub(super) fn failed_too_often(&self, product: &Product) -> Result<(), Failure> {
        let limits = self.brake.limits;
        let Some(enough) = limits.failures else { return Ok(()) };
        let past = self.journal.begun()?;
        let now = self.clock.moment();
        let failed = failures_of(&past, product, limits.failures_within, &now);
        if failed < enough {
            return Ok(());
        }
        let days = limits.failures_within.as_secs() / (24 * 3600);
        let text = format!("{failed} updates of {product} failed on this host within {days} days");
        Err(Failure::new(Cause::FailedTooOften, text))
    }

    /// Says why the update does not begin; `None` if nothing holds it.
    pub(super) fn held(&mut self, attempt: &Attempt) -> Option<Event> {
        let holds = self.holds(&attempt.product);
        if holds.is_empty() {
            self.brake.told = None;
            return None;
        }
        for hold in &holds {
            tracing::info!(product = %attempt.product, reason = hold.reason(), "{}", hold.text());
        }
        self.brake.told = Some((attempt.install.clone(), words(&holds)));
        Some(Event::Held { holds, at: self.clock.moment() })
    }

    /// Waits while the same reasons hold that were told already, or until there is news.
    pub(super) fn wait_while_held(
        &self,
        attempt: &Attempt,
        news: impl Fn() -> Option<Event>,
    ) -> Result<Option<Event>, HostError> {
        let told = self.brake.told.as_ref().filter(|(of, _)| *of == attempt.install);
        let Some((_, told)) = told else { return Ok(None) };
        loop {
            let seen = self.wanted.changes();
            self.go_on()?;
            if let Some(news) = news() {
                return Ok(Some(news));
            }
            let holds = self.holds(&attempt.product);
            if holds.is_empty() || words(&holds) != *told {
                return Ok(None);
            }
            self.wanted.wait(seen, LOOK.min(self.next_end(&holds)));
        }
    }

    /// How long until the first of the reasons ends by itself.
    fn next_end(&self, holds: &[HostHold]) -> Duration {
        let now = self.clock.now();
        let ends = holds.iter().filter_map(HostHold::until).min();
        let left = ends.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default());
        left.map_or(LOOK, |left| left.max(Duration::from_secs(1)))
    }
}

fn first_line(error: &dyn std::fmt::Display) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

fn words(holds: &[HostHold]) -> Vec<&'static str> {
    holds.iter().map(HostHold::reason).collect()
}
