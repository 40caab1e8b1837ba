//! How healthy a release is on this machine: its checks, package by package; without any, whether what is
//! installed is what was signed.

use std::{path::PathBuf, time::Duration};

use refit_proto::{
    names::Product,
    package::{Health, Observed, is_agent},
};

use super::HostMachine;
use crate::{
    host::{
        documents::Documents,
        health::{Checker, HostProber, Meters, When, worst},
        tree::Extras,
    },
    steps::Waited,
    update::{Attempt, Baseline, Change, Event, Failure, Verdict},
};

/// How often, and how far apart, what ran before is asked after going back, until it is good: services
/// take a while to start.
const TRIES: u32 = 20;
const BETWEEN: Duration = Duration::from_secs(1);

/// The checks of a release's packages, and how they have gone.
pub(super) struct Checks(Vec<PackageChecks>);

struct PackageChecks {
    folder: PathBuf,
    checker: Checker,
    meters: Meters,
}

impl HostMachine {
    /// One round of checks of what is on probation.
    pub(super) fn watch(&mut self, change: &Change) -> Result<Event, Failure> {
        let attempt = &change.attempt;
        let after = self.after(attempt)?;
        self.verify_reboot_of_modules(attempt, &after)?;
        let mut checks = match self.probation.take() {
            Some((install, checks)) if install == attempt.install => checks,
            Some(_) | None => {
                self.checks(&attempt.product, &after, When::After, &change.before, Observed::clone)
            }
        };
        let verdict = self.round(&after, &mut checks);
        self.probation = Some((attempt.install.clone(), checks));
        Ok(Event::Checked { verdict, at: self.clock.moment() })
    }

    /// The same after going back, with some time to start.
    pub(super) fn health_after_going_back(
        &mut self,
        attempt: &Attempt,
        wait: &dyn Fn(Duration) -> Waited,
    ) -> Result<Option<Verdict>, Failure> {
        let Some(before) = self.before(attempt)? else { return Ok(None) };
        let mut checks = self.checks_of_before(attempt, &before, When::After);
        if !Self::can_be_asked(&before, &checks) {
            return Ok(None);
        }
        let mut verdict = self.round(&before, &mut checks);
        for _ in 1..TRIES {
            // The host is back already: what is still waited for is only said in the report.
            if verdict == Verdict::Good || wait(BETWEEN) != Waited::Over {
                break;
            }
            verdict = self.round(&before, &mut checks);
        }
        Ok(Some(verdict))
    }

    /// The checks of what ran before the update that ask; one failure says enough.
    pub(super) fn checks_of_before(
        &self,
        attempt: &Attempt,
        before: &Documents,
        when: When,
    ) -> Checks {
        self.checks(&attempt.product, before, when, &Baseline::default(), at_once)
    }

    fn checks(
        &self,
        product: &Product,
        release: &Documents,
        when: When,
        before: &Baseline,
        as_wanted: impl Fn(&Observed) -> Observed,
    ) -> Checks {
        let mut checks = Vec::new();
        for package in &release.packages {
            let Health::Checked(observed) = &package.manifest.health else { continue };
            // The agent's own, which is looked at otherwise.
            if observed.checks.is_empty() {
                continue;
            }
            let observed = as_wanted(observed);
            let checker = Checker::new(package.name.clone(), observed, before.clone());
            let folder = self.folder(product, &release.id.digest, package.name.as_str());
            checks.push(PackageChecks { folder, checker, meters: Meters::new(when) });
        }
        Checks(checks)
    }

    /// Whether anything tells how healthy a release is: a check of its own, or the agent that it is.
    pub(super) fn can_be_asked(release: &Documents, checks: &Checks) -> bool {
        !checks.0.is_empty() || is_agent(&release.release.product)
    }

    pub(super) fn round(&mut self, release: &Documents, checks: &mut Checks) -> Verdict {
        match self.own_health(release) {
            None => self.round_of_checks(release, checks),
            Some(own) => worst([own, self.round_of_checks(release, checks)]),
        }
    }

    fn round_of_checks(&mut self, release: &Documents, checks: &mut Checks) -> Verdict {
        if checks.0.is_empty() {
            let verified = self.tree().verify(release, Extras::Ignored);
            let verified = verified.and_then(|()| self.placed().verify(release));
            let folder = self.tree().folder(&release.release.product, &release.id.digest);
            return match verified.and_then(|()| self.debs().verify(release, &folder)) {
                Ok(()) => Verdict::Good,
                Err(error) => Verdict::Bad { text: error.to_string(), checks: Vec::new() },
            };
        }
        let (now, ways) = (self.clock.running(), &mut self.ways);
        let variables = &self.variables;
        let services = self.manager.services();
        worst(checks.0.iter_mut().map(|PackageChecks { folder, checker, meters }| {
            let folder = folder.clone();
            let mut prober = HostProber { services, variables, folder, meters, now, ways };
            checker.round(&mut prober, now)
        }))
    }
}

/// The checks of what has been running for long that ask: one failure says enough, and there is nothing to
/// compare with.
fn at_once(observed: &Observed) -> Observed {
    let mut observed = Observed { start_seconds: 0, failures: 1, ..observed.clone() };
    observed.checks.retain(|check| check.probe.limit().is_none());
    observed
}
