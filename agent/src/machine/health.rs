//! How healthy a release is on this machine: its checks, package by package; without any, whether what is
//! installed is what was signed.

use std::{path::PathBuf, time::Duration};

use refit_proto::{
    names::Product,
    package::{Health, Observed},
};

use super::HostMachine;
use crate::{
    host::{
        documents::Documents,
        health::{Checker, HostProber, worst},
        tree::Extras,
    },
    steps::Waited,
    update::{Attempt, Change, Event, Failure, Verdict},
};

/// How often, and how far apart, what ran before is asked after going back, until it is good: services
/// take a while to start.
const TRIES: u32 = 20;
const BETWEEN: Duration = Duration::from_secs(1);

/// The checks of a release's packages, and how they have gone.
pub(super) struct Checks(Vec<(PathBuf, Checker)>);

impl HostMachine {
    /// One round of checks of what is on probation.
    pub(super) fn watch(&mut self, change: &Change) -> Result<Event, Failure> {
        let attempt = &change.attempt;
        let after = self.after(attempt)?;
        self.verify_reboot_of_modules(attempt, &after)?;
        let mut checks = match self.probation.take() {
            Some((install, checks)) if install == attempt.install => checks,
            Some(_) | None => self.checks(&attempt.product, &after, |observed| observed),
        };
        let verdict = self.round(&after, &mut checks);
        self.probation = Some((attempt.install.clone(), checks));
        Ok(Event::Checked { verdict, at: self.clock.moment() })
    }

    /// How healthy what runs before the update is; `None` if nothing does that could be asked.
    pub(super) fn health_before(&mut self, attempt: &Attempt) -> Result<Option<Verdict>, Failure> {
        let Some(before) = self.before(attempt)? else { return Ok(None) };
        let mut checks = self.checks(&attempt.product, &before, at_once);
        if checks.0.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.round(&before, &mut checks)))
    }

    /// The same after going back, with some time to start.
    pub(super) fn health_after_going_back(
        &mut self,
        attempt: &Attempt,
        wait: &dyn Fn(Duration) -> Waited,
    ) -> Result<Option<Verdict>, Failure> {
        for _ in 1..TRIES {
            match self.health_before(attempt)? {
                None => return Ok(None),
                Some(Verdict::Good) => return Ok(Some(Verdict::Good)),
                Some(Verdict::Bad { .. } | Verdict::Unknown { .. }) => {}
            }
            // The host is back already: what is still waited for is only said in the report.
            if wait(BETWEEN) != Waited::Over {
                break;
            }
        }
        self.health_before(attempt)
    }

    fn checks(
        &self,
        product: &Product,
        release: &Documents,
        as_wanted: impl Fn(Observed) -> Observed,
    ) -> Checks {
        let mut checks = Vec::new();
        for package in &release.packages {
            if let Health::Checked(observed) = &package.manifest.health {
                let folder = self.folder(product, &release.id.digest, package.name.as_str());
                checks.push((folder, Checker::new(as_wanted(observed.clone()))));
            }
        }
        Checks(checks)
    }

    fn round(&mut self, release: &Documents, checks: &mut Checks) -> Verdict {
        if checks.0.is_empty() {
            let verified = self.tree().verify(release, Extras::Ignored);
            let verified = verified.and_then(|()| self.placed().verify(release));
            let folder = self.tree().folder(&release.release.product, &release.id.digest);
            return match verified.and_then(|()| self.debs().verify(release, &folder)) {
                Ok(()) => Verdict::Good,
                Err(error) => Verdict::Bad { text: error.to_string() },
            };
        }
        let now = self.clock.running();
        let variables = &self.variables;
        let services = self.manager.services();
        worst(checks.0.iter_mut().map(|(folder, checker)| {
            let mut prober = HostProber { services, variables, folder: folder.clone() };
            checker.round(&mut prober, now)
        }))
    }
}

/// The checks of what has been running for long: one failure says enough.
fn at_once(observed: Observed) -> Observed {
    Observed { start_seconds: 0, failures: 1, ..observed }
}
