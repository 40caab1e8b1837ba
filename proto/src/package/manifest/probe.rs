//! What a health check asks, and by how much what a service uses may grow over what was measured before the
//! update. How it is asked is the agent's.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Observed;
use crate::names::PackageName;

/// The feature that a reader must know for the probes that came after the first four: an agent that does not
/// know it must refuse the package, not pass over a check.
pub(super) const PROBES: &str = "probes";

/// What a check asks. Host variables are expanded in all texts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Probe {
    /// Exit code 0 is good. A program that cannot be started is unknown.
    Command {
        /// As in [`super::Service::command`].
        command: Vec<String>,
    },
    /// A connection is good.
    Tcp {
        /// `host:port`.
        address: String,
    },
    /// `http://` only; the expected status is good.
    Http {
        /// The address.
        url: String,
        /// By default any of 200 to 299.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        status: Option<u16>,
        /// What the answer's body must hold, in its first 64 KiB.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        body: Option<String>,
    },
    /// The gRPC health protocol (`grpc.health.v1`), without TLS: `SERVING` is good.
    Grpc {
        /// `host:port`.
        address: String,
        /// Of which service; empty: of the server as a whole.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        service: String,
    },
    /// A systemd unit (or, without systemd, a service of the package) is active and was not restarted.
    Unit {
        /// A service of this package.
        service: PackageName,
    },
    /// Errors and worse that the service has written to the journal, in one minute.
    Errors {
        /// A service of this package.
        service: PackageName,
        /// By how much more.
        #[serde(default, skip_serializing_if = "Growth::is_usual")]
        growth: Growth,
    },
    /// What the service's cgroup computes, in thousandths of one processor.
    Cpu {
        /// A service of this package.
        service: PackageName,
        /// By how much more.
        #[serde(default, skip_serializing_if = "Growth::is_usual")]
        growth: Growth,
    },
    /// The memory of the service's cgroup without the file cache that can be given up at once, bytes.
    Memory {
        /// A service of this package.
        service: PackageName,
        /// By how much more.
        #[serde(default, skip_serializing_if = "Growth::is_usual")]
        growth: Growth,
    },
    /// Open file descriptors of every process in the service's cgroup.
    Descriptors {
        /// A service of this package.
        service: PackageName,
        /// By how much more.
        #[serde(default, skip_serializing_if = "Growth::is_usual")]
        growth: Growth,
    },
    /// What lies at these places takes on disk, bytes.
    Disk {
        /// Files and folders, absolute.
        paths: Vec<String>,
        /// By how much more.
        #[serde(default, skip_serializing_if = "Growth::is_usual")]
        growth: Growth,
    },
}

/// By how much a number may grow over the largest that was measured before the update. It has grown too
/// much if it is beyond `percent` of that and more than `least` above it: the ratio alone would blame a
/// release for a second file that it opens, the floor alone a large service for a small change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Growth {
    /// Of what was measured before; at least 100. By default 200: twice as much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u32>,
    /// So much more is never too much, in the probe's unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub least: Option<u64>,
    /// Beyond this it is too much in any case, unless it was so before; also where nothing was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most: Option<u64>,
}

impl Growth {
    fn is_usual(&self) -> bool {
        *self == Growth::default()
    }
}

/// By how much a number may grow, with what the manifest leaves to us filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Of what was measured before.
    pub percent: u32,
    /// So much more is never too much.
    pub least: u64,
    /// Beyond this it is too much in any case.
    pub most: Option<u64>,
}

/// Twice as much is more than a release is expected to bring by itself.
const USUAL_PERCENT: u32 = 200;
/// Ten errors a minute: one that is tried again every few seconds.
const LEAST_ERRORS: u64 = 10;
/// Half a processor: less than what a thread that spins takes, more than a busy start.
const LEAST_CPU: u64 = 500;
/// What a runtime may take more for a warm cache; a leak gets there.
const LEAST_MEMORY: u64 = 64 << 20;
/// A tenth of the usual limit of 1024 for one process.
const LEAST_DESCRIPTORS: u64 = 100;
/// What may be written in a probation without anybody noticing.
const LEAST_DISK: u64 = 1 << 30;

impl Probe {
    /// By how much what it measures may grow; `None` if it does not measure, but asks.
    pub fn limit(&self) -> Option<Limit> {
        let (growth, least) = match self {
            Probe::Errors { growth, .. } => (growth, LEAST_ERRORS),
            Probe::Cpu { growth, .. } => (growth, LEAST_CPU),
            Probe::Memory { growth, .. } => (growth, LEAST_MEMORY),
            Probe::Descriptors { growth, .. } => (growth, LEAST_DESCRIPTORS),
            Probe::Disk { growth, .. } => (growth, LEAST_DISK),
            Probe::Command { .. }
            | Probe::Tcp { .. }
            | Probe::Http { .. }
            | Probe::Grpc { .. }
            | Probe::Unit { .. } => return None,
        };
        Some(Limit {
            percent: growth.percent.unwrap_or(USUAL_PERCENT),
            least: growth.least.unwrap_or(least),
            most: growth.most,
        })
    }

    /// The unit of what it measures, as texts say it.
    pub fn unit(&self) -> &'static str {
        match self {
            Probe::Errors { .. } => "errors a minute",
            Probe::Cpu { .. } => "thousandths of a processor",
            Probe::Memory { .. } | Probe::Disk { .. } => "bytes",
            Probe::Descriptors { .. } => "open files",
            Probe::Command { .. }
            | Probe::Tcp { .. }
            | Probe::Http { .. }
            | Probe::Grpc { .. }
            | Probe::Unit { .. } => "",
        }
    }

    /// The service of the package that it looks at.
    pub fn service(&self) -> Option<&PackageName> {
        match self {
            Probe::Unit { service }
            | Probe::Errors { service, .. }
            | Probe::Cpu { service, .. }
            | Probe::Memory { service, .. }
            | Probe::Descriptors { service, .. } => Some(service),
            Probe::Command { .. }
            | Probe::Tcp { .. }
            | Probe::Http { .. }
            | Probe::Grpc { .. }
            | Probe::Disk { .. } => None,
        }
    }

    /// Whether an agent of before there were others would follow it.
    fn is_of_the_first(&self) -> bool {
        match self {
            Probe::Command { .. }
            | Probe::Tcp { .. }
            | Probe::Http { body: None, .. }
            | Probe::Unit { .. } => true,
            Probe::Http { body: Some(_), .. }
            | Probe::Grpc { .. }
            | Probe::Errors { .. }
            | Probe::Cpu { .. }
            | Probe::Memory { .. }
            | Probe::Descriptors { .. }
            | Probe::Disk { .. } => false,
        }
    }

    fn check(&self, services: &BTreeSet<&PackageName>) -> Result<(), String> {
        if let Some(service) = self.service()
            && !services.contains(service)
        {
            return Err(format!("asks for {service}, no service of this package"));
        }
        if self.limit().is_some_and(|limit| limit.percent < 100) {
            return Err(
                "lets less than what was there before be too much: percent is below 100".into()
            );
        }
        match self {
            Probe::Command { command } if command.first().is_none_or(String::is_empty) => {
                Err("has an empty command".into())
            }
            Probe::Http { url, .. } if !url.starts_with("http://") => {
                Err(format!("asks {url:?}, which is not an http:// address"))
            }
            Probe::Http { body: Some(body), .. } if body.is_empty() => {
                Err("looks for an empty text, which every answer holds".into())
            }
            Probe::Disk { paths, .. } if paths.is_empty() => Err("names no paths".into()),
            Probe::Disk { paths, .. } => match paths.iter().find(|path| !path.starts_with('/')) {
                Some(path) => Err(format!("names {path:?}, which is not an absolute path")),
                None => Ok(()),
            },
            Probe::Command { .. }
            | Probe::Tcp { .. }
            | Probe::Http { .. }
            | Probe::Grpc { .. }
            | Probe::Unit { .. }
            | Probe::Errors { .. }
            | Probe::Cpu { .. }
            | Probe::Memory { .. }
            | Probe::Descriptors { .. } => Ok(()),
        }
    }
}

/// The longest time for which what runs before is measured: half of the usual lease.
const LONGEST_BASELINE: u32 = 300;

impl Observed {
    /// The feature that a reader must know to follow all of the checks.
    pub(super) fn feature(&self) -> Option<&'static str> {
        let known = self.checks.iter().all(|check| check.probe.is_of_the_first());
        (!known).then_some(PROBES)
    }

    /// The times alone, and how many failures count.
    pub(super) fn check_times(&self) -> Result<(), String> {
        if self.interval_seconds == 0 || self.failures == 0 || self.max_seconds == 0 {
            return Err("health needs an interval, a number of failures and a longest time".into());
        }
        if !(1..=LONGEST_BASELINE).contains(&self.baseline_seconds) {
            return Err(format!("baseline_seconds must be from 1 to {LONGEST_BASELINE}"));
        }
        Ok(())
    }

    pub(super) fn check(&self, services: &BTreeSet<&PackageName>) -> Result<(), String> {
        if self.checks.is_empty() {
            return Err("health has no checks; write `health = \"none\"` if that is meant".into());
        }
        self.check_times()?;
        let mut names = BTreeSet::new();
        for check in &self.checks {
            let name = &check.name;
            if check.timeout_seconds == 0 {
                return Err(format!("check {name} has no time"));
            }
            check.probe.check(services).map_err(|why| format!("check {name} {why}"))?;
            // Two of one name were taken before; what is compared must be told apart.
            if !names.insert(name) && check.probe.limit().is_some() {
                return Err(format!("check {name} stands twice"));
            }
        }
        // On a host where nothing ran before, nobody could tell.
        if self.checks.iter().all(|check| check.probe.limit().is_some_and(|it| it.most.is_none())) {
            return Err("every check compares with what ran before: add one that asks".into());
        }
        Ok(())
    }
}
