//! What the services of a package use, measured again and again: numbers that only mean something beside
//! the last ones (time on the processor, lines in the journal) are kept here from round to round.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use refit_proto::{
    names::PackageName,
    package::{Check, Probe, Variables, expand},
};

use super::Answer;
use crate::{
    host::{
        service::{ErrorsSince, ServiceState, Services, UnitName},
        usage::Usage,
    },
    update::Running,
};

/// Whether what is asked is what runs before the update or the new release.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum When {
    /// What has been running for long: its errors are the worst minute of the last hour, and how often it
    /// ended in its life says nothing.
    Before,
    /// What has been started now.
    #[default]
    After,
}

/// Errors are counted by the minute.
const MINUTE: Duration = Duration::from_secs(60);

/// What was read last, by check.
#[derive(Debug, Default)]
pub struct Meters {
    when: When,
    usage: Usage,
    cpu: BTreeMap<PackageName, (u64, Running)>,
    restarts: BTreeMap<PackageName, u32>,
    errors: BTreeMap<PackageName, Errors>,
}

#[derive(Debug)]
struct Errors {
    cursor: String,
    counted: VecDeque<(Running, u64)>,
}

impl Meters {
    /// Nothing read yet.
    pub fn new(when: When) -> Meters {
        Meters { when, ..Meters::default() }
    }

    /// How often a unit has ended since this was asked first; of a new release, since it was started.
    pub(super) fn ended(&mut self, check: &PackageName, restarts: u32) -> u32 {
        match self.when {
            When::After => restarts,
            When::Before => {
                let first = *self.restarts.entry(check.clone()).or_insert(restarts);
                restarts.saturating_sub(first)
            }
        }
    }

    /// What a check that measures finds.
    pub(super) fn read(
        &mut self,
        check: &Check,
        services: &mut dyn Services,
        variables: &Variables,
        now: Running,
    ) -> Answer {
        if let Probe::Disk { paths, .. } = &check.probe {
            return self.disk(paths, variables);
        }
        let Some(service) = check.probe.service() else {
            return Answer::Unknown("it measures nothing".into());
        };
        let unit = match UnitName::parse(&format!("{service}.service")) {
            Ok(unit) => unit,
            Err(error) => return Answer::Unknown(error.to_string()),
        };
        if let Probe::Errors { .. } = &check.probe {
            return self.errors(&check.name, services, &unit, now);
        }
        let cgroup = match services.cgroup(&unit) {
            Ok(Some(cgroup)) => cgroup,
            Ok(None) => return Answer::Absent(format!("{unit} does not run")),
            Err(error) => return Answer::Unknown(error.to_string()),
        };
        let read = match &check.probe {
            Probe::Cpu { .. } => return self.cpu(&check.name, &cgroup, now),
            Probe::Memory { .. } => self.usage.memory(&cgroup),
            Probe::Descriptors { .. } => self.usage.descriptors(&cgroup),
            Probe::Command { .. }
            | Probe::Tcp { .. }
            | Probe::Http { .. }
            | Probe::Grpc { .. }
            | Probe::Unit { .. }
            | Probe::Errors { .. }
            | Probe::Disk { .. } => return Answer::Unknown("it measures nothing".into()),
        };
        read.map_or_else(|error| Answer::Unknown(error.to_string()), Answer::Measured)
    }

    fn cpu(&mut self, check: &PackageName, cgroup: &str, now: Running) -> Answer {
        let used = match self.usage.cpu_micros(cgroup) {
            Ok(used) => used,
            Err(error) => return Answer::Unknown(error.to_string()),
        };
        let Some((before, at)) = self.cpu.insert(check.clone(), (used, now)) else {
            return Answer::Unknown("it is told from two rounds on".into());
        };
        let micros = now.since(at).as_micros();
        // A service that was started again counts from nothing.
        match (used.checked_sub(before), micros) {
            (Some(used), 1..) => {
                let thousandths = u128::from(used) * 1000 / micros;
                Answer::Measured(u64::try_from(thousandths).unwrap_or(u64::MAX))
            }
            (None, _) | (_, 0) => Answer::Unknown("it is told from two rounds on".into()),
        }
    }

    fn errors(
        &mut self,
        check: &PackageName,
        services: &mut dyn Services,
        unit: &UnitName,
        now: Running,
    ) -> Answer {
        if self.when == When::Before {
            return match services.state(unit) {
                Ok(ServiceState::Unknown) => Answer::Absent(format!("{unit} is not known")),
                Ok(_) => match services.errors(unit, &ErrorsSince::AnHour) {
                    Ok(errors) => Answer::Measured(errors.worst_minute()),
                    Err(error) => Answer::Unknown(error.to_string()),
                },
                Err(error) => Answer::Unknown(error.to_string()),
            };
        }
        let since = match self.errors.get(check) {
            Some(errors) => ErrorsSince::Cursor(errors.cursor.clone()),
            None => ErrorsSince::Now,
        };
        let read = match services.errors(unit, &since) {
            Ok(read) => read,
            Err(error) => return Answer::Unknown(error.to_string()),
        };
        let count = read.count();
        let kept = self
            .errors
            .entry(check.clone())
            .or_insert_with(|| Errors { cursor: String::new(), counted: VecDeque::new() });
        kept.cursor = read.cursor;
        kept.counted.push_back((now, count));
        while kept.counted.front().is_some_and(|(at, _)| now.since(*at) >= MINUTE) {
            kept.counted.pop_front();
        }
        Answer::Measured(kept.counted.iter().map(|(_, count)| count).sum())
    }

    fn disk(&self, paths: &[String], variables: &Variables) -> Answer {
        let mut sum = 0_u64;
        for path in paths {
            let path = match expand(path, variables) {
                Ok(path) => path,
                Err(error) => return Answer::Unknown(error.to_string()),
            };
            match self.usage.disk(path.as_ref()) {
                Ok(bytes) => sum = sum.saturating_add(bytes),
                Err(error) => return Answer::Unknown(format!("{path}: {error}")),
            }
        }
        Answer::Measured(sum)
    }
}
