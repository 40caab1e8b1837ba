//! `[[product.window]]` and `[[product.freeze]]` of a fleet file: when updates may begin.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use jiff::{
    Timestamp,
    tz::{self, TimeZone},
};
use refit_proto::{
    hours::Hours,
    names::{LabelName, RingName},
    policy::words::any_of,
    wire,
};
use serde::{Deserialize, Serialize};

use super::{
    calendar,
    file::{Seconds, Values},
};
use crate::toml_text;

/// When hosts may begin, as it is written.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WindowFile {
    #[serde(default)]
    rings: BTreeSet<RingName>,
    #[serde(default)]
    select: BTreeMap<LabelName, Values>,
    zone: String,
    #[serde(default)]
    open: Vec<String>,
    #[serde(default)]
    avoid: Vec<String>,
}

/// Times in which nothing begins, as they are written: one by its beginning and end, or all events of a calendar.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FreezeFile {
    #[serde(default)]
    rings: BTreeSet<RingName>,
    #[serde(default)]
    select: BTreeMap<LabelName, Values>,
    why: Option<String>,
    from: Option<String>,
    until: Option<String>,
    /// An iCalendar file, beside the description.
    calendar: Option<PathBuf>,
    /// Of events of whole days.
    zone: Option<String>,
}

/// Where calendars are, and what time it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Around<'a> {
    /// The folder of the description.
    pub(super) folder: &'a Path,
    pub(super) now: Timestamp,
}

/// All of it, checked as the server will check it.
pub(super) fn hours(
    windows: Vec<WindowFile>,
    freezes: Vec<FreezeFile>,
    settle: Seconds,
    rings: &[&RingName],
    around: Around<'_>,
) -> anyhow::Result<wire::Hours> {
    let freezes = freezes.into_iter().map(|file| freeze(file, around));
    let freezes = freezes.collect::<anyhow::Result<Vec<_>>>()?;
    let wire = wire::Hours {
        windows: windows.into_iter().map(window).collect(),
        freezes: freezes.into_iter().flatten().collect(),
        settle_seconds: settle.0,
    };
    let hours = Hours::try_from(wire)?;
    hours.check_rings(rings.iter().copied())?;
    // A machine without any time zones says nothing about which there are.
    for name in hours.zone_names().filter(|_| !tz::db().is_definitively_empty()) {
        known(name)?;
    }
    Ok(hours.into())
}

fn known(zone: &str) -> anyhow::Result<TimeZone> {
    TimeZone::get(zone).ok().with_context(|| {
        let help = "write one like \"Europe/Berlin\"; a window may have \"host\" for the own one of each host";
        format!("there is no time zone {zone:?}\nhelp: {help}")
    })
}

fn window(file: WindowFile) -> wire::WindowRule {
    let WindowFile { rings, select, zone, open, avoid } = file;
    wire::WindowRule { scope: Some(scope(rings, select)), zone, open, avoid }
}

fn freeze(file: FreezeFile, around: Around<'_>) -> anyhow::Result<Vec<wire::Freeze>> {
    let FreezeFile { rings, select, why, from, until, calendar, zone } = file;
    let scope = scope(rings, select);
    let path = match (calendar, why, from, until, zone) {
        (None, Some(why), Some(from), Some(until), None) => {
            return Ok(vec![wire::Freeze { scope: Some(scope), why, from, until }]);
        }
        (Some(path), None, None, None, zone) => (around.folder.join(path), zone),
        _ => bail!(
            "a freeze is neither one time nor a calendar\nhelp: give why, from and until; or calendar, and zone where its events are whole days"
        ),
    };
    let (path, zone) = path;
    let zone = zone.map(|name| known(&name));
    let text = toml_text::text(&path)?;
    let events = calendar::freezes(&text, zone.transpose()?.as_ref(), around.now);
    let events = events.with_context(|| path.display().to_string())?;
    let freeze = |calendar::Frozen { from, until, why }| {
        let (from, until) = (from.to_string(), until.to_string());
        wire::Freeze { scope: Some(scope.clone()), why, from, until }
    };
    Ok(events.into_iter().map(freeze).collect())
}

fn scope(rings: BTreeSet<RingName>, select: BTreeMap<LabelName, Values>) -> wire::Scope {
    let rule = |(label, values): (LabelName, Values)| wire::LabelRule {
        label: label.to_string(),
        values: Vec::from(values).iter().map(ToString::to_string).collect(),
    };
    wire::Scope {
        rings: rings.iter().map(ToString::to_string).collect(),
        select: select.into_iter().map(rule).collect(),
    }
}

/// Every rule in words, each once, for what changes between two policies.
pub(super) fn in_words(hours: Option<&wire::Hours>) -> BTreeSet<String> {
    let Some(hours) = hours else { return BTreeSet::new() };
    let windows = hours.windows.iter().map(|rule| {
        let times = |word: &str, times: &[String]| match times {
            [] => String::new(),
            times => format!(" {word} {}", times.join(" or ")),
        };
        let zone = match rule.zone.as_str() {
            "host" => "each host's own clock",
            zone => zone,
        };
        let (only, never) = (times("only", &rule.open), times("never", &rule.avoid));
        format!("begins{only}{never}, by {zone}{}", about(rule.scope.as_ref()))
    });
    let freezes = hours.freezes.iter().map(|freeze| {
        let wire::Freeze { scope, why, from, until } = freeze;
        format!("begins nothing from {from} until {until} ({why}){}", about(scope.as_ref()))
    });
    windows.chain(freezes).collect()
}

fn about(scope: Option<&wire::Scope>) -> String {
    let Some(scope) = scope else { return String::new() };
    let labels = scope.select.iter().map(|rule| any_of(&rule.label, &rule.values));
    let mut words = String::new();
    if !scope.rings.is_empty() {
        words = format!(", in {}", scope.rings.join(" and "));
    }
    for label in labels {
        words += &format!(", where {label}");
    }
    words
}
