//! What runs before an update, as the new release's checks find it: measured while it still runs, with the same
//! probes, for a bounded time. What is made of it is decided in [`crate::update`].

use std::{collections::BTreeMap, time::Duration};

use refit_proto::package::{Check, Health, Probe};

use super::{HostMachine, backup_id};
use crate::{
    drive::HostError,
    host::{
        documents::Documents,
        health::{Answer, HostProber, Meters, Prober as _, When},
    },
    settings::RedBefore,
    steps::Waited,
    update::{Attempt, Baseline, Cause, CheckId, Event, Failure, Found, Terms, Verdict},
};

/// How often what fails before the update is asked, and how far apart, until it counts as red: a check that
/// fails once has not failed.
const TRIES: u32 = 3;
const BETWEEN: Duration = Duration::from_secs(1);
/// The longest pause between two measurements.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What ran before: its verdict on itself, and what the new release's checks found.
struct Before {
    verdict: Option<Verdict>,
    found: Baseline,
}

impl HostMachine {
    /// Measures what runs, then saves what the release may change.
    pub(super) fn measure_and_back_up(
        &mut self,
        attempt: &Attempt,
        terms: &Terms,
        wait: &dyn Fn(Duration) -> Waited,
    ) -> Result<Event, HostError> {
        let measured = self.measured(attempt, wait)?;
        let saved = measured.and_then(|before| {
            self.not_refused(&before)?;
            self.back_up(attempt, terms)?;
            let (baseline, before) = (before.verdict, before.found);
            Ok(Event::BackedUp { backup: backup_id(attempt)?, baseline, before })
        });
        Ok(saved.unwrap_or_else(|failure| Event::Failed { failure }))
    }

    /// Whether the host's owner lets a release come where what it replaces is red already.
    fn not_refused(&self, before: &Before) -> Result<(), Failure> {
        match (&before.verdict, self.red_before) {
            (Some(Verdict::Bad { text, .. }), RedBefore::Refuse) => {
                let text = format!("not healthy before the update: {text}");
                Err(Failure::new(Cause::RedBefore, text))
            }
            (Some(Verdict::Bad { text, .. }), RedBefore::Note) => {
                tracing::warn!("not healthy before the update: {text}");
                Ok(())
            }
            (Some(Verdict::Good | Verdict::Unknown { .. }) | None, _) => Ok(()),
        }
    }

    fn measured(
        &mut self,
        attempt: &Attempt,
        wait: &dyn Fn(Duration) -> Waited,
    ) -> Result<Result<Before, Failure>, HostError> {
        let documents = self.before(attempt).and_then(|old| Ok((old, self.after(attempt)?)));
        let (old, new) = match documents {
            Ok(documents) => documents,
            Err(failure) => return Ok(Err(failure)),
        };
        let Some(old) = old else {
            // There is nothing to measure, and that is known.
            let absent = comparing(&new).into_iter().map(|(id, _)| (id, Found::Absent));
            return Ok(Ok(Before { verdict: None, found: Baseline::of(absent) }));
        };
        let mut checks = self.checks_of_before(attempt, &old, When::Before);
        let mut verdict = None;
        if Self::can_be_asked(&old, &checks) {
            let mut said = self.round(&old, &mut checks);
            for _ in 1..TRIES {
                if !matches!(said, Verdict::Bad { .. }) {
                    break;
                }
                rest(wait, BETWEEN)?;
                said = self.round(&old, &mut checks);
            }
            verdict = Some(said);
        }
        let samples = self.samples(&new, wait)?;
        // What ends again and again shows it meanwhile.
        if matches!(verdict, Some(Verdict::Good | Verdict::Unknown { .. })) && !samples.is_empty() {
            verdict = Some(self.round(&old, &mut checks));
        }
        let mut found = red_checks(verdict.as_ref(), &old, &new);
        found.extend(samples);
        Ok(Ok(Before { verdict, found: Baseline::of(found) }))
    }

    /// Measures, round by round, what the new release's checks will be compared with.
    fn samples(
        &mut self,
        new: &Documents,
        wait: &dyn Fn(Duration) -> Waited,
    ) -> Result<Vec<(CheckId, Found)>, HostError> {
        let checks = comparing(new);
        let Some((longest, pause)) = spans(new).filter(|_| !checks.is_empty()) else {
            return Ok(Vec::new());
        };
        let mut found: BTreeMap<CheckId, Samples> = BTreeMap::new();
        let mut meters = Meters::new(When::Before);
        let until = self.clock.running().plus(longest);
        // At least two: some numbers are told from two rounds on.
        for round in 0_u32.. {
            for (id, check) in &checks {
                // An hour of the journal says it once.
                if round > 0 && matches!(check.probe, Probe::Errors { .. }) {
                    continue;
                }
                let answer = self.measure(check, &mut meters);
                found.entry(id.clone()).or_default().take(answer);
            }
            let measures = found.values().any(|samples| !samples.numbers.is_empty());
            let over = self.clock.running() >= until || !measures;
            if round > 0 && over {
                break;
            }
            rest(wait, pause)?;
        }
        Ok(found.into_iter().map(|(id, samples)| (id, samples.found())).collect())
    }

    fn measure(&mut self, check: &Check, meters: &mut Meters) -> Answer {
        let now = self.clock.running();
        let services = self.manager.services();
        let variables = &self.variables;
        // What measures runs nothing of the package's.
        let folder = "/".into();
        HostProber { services, variables, folder, meters, now, ways: &mut self.ways }.probe(check)
    }
}

fn rest(wait: &dyn Fn(Duration) -> Waited, span: Duration) -> Result<(), HostError> {
    match wait(span) {
        Waited::Over | Waited::BackOut => Ok(()),
        Waited::Ending => Err(HostError::Ending),
    }
}

/// What one check found, round by round.
#[derive(Default)]
struct Samples {
    numbers: Vec<u64>,
    otherwise: Option<Found>,
}

impl Samples {
    fn take(&mut self, answer: Answer) {
        match answer {
            Answer::Measured(number) => self.numbers.push(number),
            Answer::Absent(_) => self.otherwise = Some(Found::Absent),
            Answer::Unknown(why) | Answer::Failed(why) => {
                self.otherwise = Some(Found::Unknown { why });
            }
            Answer::Good => {}
        }
    }

    fn found(self) -> Found {
        match (self.numbers.is_empty(), self.otherwise) {
            (false, _) => Found::Measured { samples: self.numbers },
            (true, Some(otherwise)) => otherwise,
            (true, None) => Found::Unknown { why: "nothing was measured".into() },
        }
    }
}

fn checks(release: &Documents) -> impl Iterator<Item = (CheckId, &Check)> {
    release.packages.iter().flat_map(|package| {
        let checks = match &package.manifest.health {
            Health::Checked(observed) => observed.checks.as_slice(),
            Health::None => &[],
        };
        checks.iter().map(move |check| {
            let id = CheckId { package: package.name.clone(), check: check.name.clone() };
            (id, check)
        })
    })
}

/// The checks of a release that compare.
fn comparing(release: &Documents) -> Vec<(CheckId, &Check)> {
    checks(release).filter(|(_, check)| check.probe.limit().is_some()).collect()
}

/// For how long to measure, and how far apart.
fn spans(release: &Documents) -> Option<(Duration, Duration)> {
    let observed = release.packages.iter().filter_map(|package| match &package.manifest.health {
        Health::Checked(observed) => Some(observed),
        Health::None => None,
    });
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    observed
        .map(|it| (seconds(it.baseline_seconds), seconds(it.interval_seconds).min(LONGEST_PAUSE)))
        .reduce(|(longest, pause), (other, often)| (longest.max(other), pause.min(often)))
}

/// The checks of the new release that were red in the old one: by the same name, or the same question.
fn red_checks(
    verdict: Option<&Verdict>,
    old: &Documents,
    new: &Documents,
) -> Vec<(CheckId, Found)> {
    let Some(Verdict::Bad { text, checks: red }) = verdict else { return Vec::new() };
    let red: Vec<_> = checks(old).filter(|(id, _)| red.contains(id)).collect();
    let was_red = |id: &CheckId, check: &Check| {
        red.iter().any(|(red_id, red)| red_id == id || red.probe == check.probe)
    };
    let found =
        checks(new).filter(|(id, check)| check.probe.limit().is_none() && was_red(id, check));
    found.map(|(id, _)| (id, Found::Red { text: text.clone() })).collect()
}
