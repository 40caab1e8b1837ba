//! Rules about hours as they travel: read strictly, since a rule that is not understood would not be kept.

use jiff::Timestamp;

use super::{Freeze, Hours, MOST, Scope, WindowRule, Zone};
use crate::{
    names::{LabelName, LabelValue, NameError, RingName},
    policy::{Selector, limits},
    windows::{Window, WindowError, Windows},
    wire,
};

/// Why rules about hours are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HoursError {
    /// A name in them is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A window in them is none.
    #[error("{0}")]
    Window(#[from] WindowError),
    /// More than anybody could keep in mind.
    #[error(
        "there are more than {MOST} {0}\nhelp: put several days into one window, or use a calendar for each year"
    )]
    TooMany(&'static str),
    /// A rule that would keep nothing closed.
    #[error(
        "a window rule has neither `open` nor `avoid`\nhelp: say when updates may begin, when they may not, or both"
    )]
    Nothing,
    /// A rule without a clock.
    #[error(
        "a window rule names no time zone\nhelp: write zone = \"Europe/Berlin\", or zone = \"host\" for each host's own"
    )]
    NoZone,
    /// A selector without labels.
    #[error(
        "a rule selects by no label\nhelp: leave `select` out where the rule is about every host"
    )]
    NoLabel,
    /// A freeze that is over before it begins, or whose times are none.
    #[error(
        "the freeze {why:?} is from {from:?} until {until:?}\nhelp: give two times with their zone, the later one last: 2026-12-20T00:00:00+01:00"
    )]
    Freeze {
        /// Which.
        why: String,
        /// As it stands there.
        from: String,
        /// As it stands there.
        until: String,
    },
    /// A freeze that nobody could explain.
    #[error("a freeze does not say why\nhelp: write why = \"...\": whoever waits is shown it")]
    NoReason,
    /// A ring that there is not.
    #[error(
        "a window or a freeze is about ring {0}, which the product does not have\nhelp: name one of its rings, or none for all of them"
    )]
    Ring(RingName),
    /// Longer than anybody would wait.
    #[error("settle is {0} s\nhelp: use at most a year")]
    Settle(u64),
}

impl TryFrom<wire::Hours> for Hours {
    type Error = HoursError;

    fn try_from(wire: wire::Hours) -> Result<Hours, HoursError> {
        let wire::Hours { windows, freezes, settle_seconds } = wire;
        if windows.len() > MOST {
            return Err(HoursError::TooMany("window rules"));
        }
        if freezes.len() > MOST {
            return Err(HoursError::TooMany("freezes"));
        }
        if settle_seconds > limits::SPAN {
            return Err(HoursError::Settle(settle_seconds));
        }
        let windows = windows.into_iter().map(WindowRule::try_from).collect::<Result<_, _>>()?;
        let freezes = freezes.into_iter().map(Freeze::try_from).collect::<Result<_, _>>()?;
        Ok(Hours { windows, freezes, settle_seconds })
    }
}

impl TryFrom<wire::WindowRule> for WindowRule {
    type Error = HoursError;

    fn try_from(wire: wire::WindowRule) -> Result<WindowRule, HoursError> {
        let wire::WindowRule { scope, zone, open, avoid } = wire;
        let scope = Scope::try_from(scope.unwrap_or_default())?;
        if zone.is_empty() {
            return Err(HoursError::NoZone);
        }
        let (open, avoid) = (windows(&open)?, windows(&avoid)?);
        if open.is_none() && avoid.is_none() {
            return Err(HoursError::Nothing);
        }
        Ok(WindowRule { scope, zone: Zone::from(zone), open, avoid })
    }
}

fn windows(texts: &[String]) -> Result<Option<Windows>, WindowError> {
    if texts.is_empty() {
        return Ok(None);
    }
    let windows = texts.iter().map(|text| text.parse()).collect::<Result<Vec<Window>, _>>()?;
    Windows::try_from(windows).map(Some)
}

impl TryFrom<wire::Freeze> for Freeze {
    type Error = HoursError;

    fn try_from(wire: wire::Freeze) -> Result<Freeze, HoursError> {
        let wire::Freeze { scope, why, from, until } = wire;
        let scope = Scope::try_from(scope.unwrap_or_default())?;
        if why.trim().is_empty() {
            return Err(HoursError::NoReason);
        }
        let times = from.parse::<Timestamp>().ok().zip(until.parse::<Timestamp>().ok());
        match times.filter(|(from, until)| from < until) {
            Some((from, until)) => Ok(Freeze { scope, why, from, until }),
            None => Err(HoursError::Freeze { why, from, until }),
        }
    }
}

impl TryFrom<wire::Scope> for Scope {
    type Error = HoursError;

    fn try_from(wire: wire::Scope) -> Result<Scope, HoursError> {
        let wire::Scope { rings, select } = wire;
        let rings = rings.iter().map(|ring| RingName::parse(ring)).collect::<Result<_, _>>()?;
        let mut labels = std::collections::BTreeMap::new();
        for wire::LabelRule { label, values } in select {
            let values = values.iter().map(|value| LabelValue::parse(value));
            let values = values.collect::<Result<Vec<_>, _>>()?;
            if values.is_empty() {
                return Err(HoursError::NoLabel);
            }
            labels.insert(LabelName::parse(&label)?, values);
        }
        let select = (!labels.is_empty()).then_some(Selector::Labels(labels));
        Ok(Scope { rings, select })
    }
}

impl From<Hours> for wire::Hours {
    fn from(hours: Hours) -> wire::Hours {
        let Hours { windows, freezes, settle_seconds } = hours;
        wire::Hours {
            windows: windows.into_iter().map(wire::WindowRule::from).collect(),
            freezes: freezes.into_iter().map(wire::Freeze::from).collect(),
            settle_seconds,
        }
    }
}

impl From<WindowRule> for wire::WindowRule {
    fn from(rule: WindowRule) -> wire::WindowRule {
        let WindowRule { scope, zone, open, avoid } = rule;
        let texts = |windows: Option<Windows>| {
            let windows = windows.map(Vec::<Window>::from).unwrap_or_default();
            windows.iter().map(ToString::to_string).collect()
        };
        let (scope, zone) = (Some(scope.into()), zone.into());
        wire::WindowRule { scope, zone, open: texts(open), avoid: texts(avoid) }
    }
}

impl From<Freeze> for wire::Freeze {
    fn from(freeze: Freeze) -> wire::Freeze {
        let Freeze { scope, why, from, until } = freeze;
        let (from, until) = (from.to_string(), until.to_string());
        wire::Freeze { scope: Some(scope.into()), why, from, until }
    }
}

impl From<Scope> for wire::Scope {
    fn from(scope: Scope) -> wire::Scope {
        let rings = scope.rings.iter().map(ToString::to_string).collect();
        let labels = match scope.select {
            Some(Selector::Labels(labels)) => labels,
            Some(Selector::EveryHost) | None => Default::default(),
        };
        let rule = |(label, values): (LabelName, Vec<LabelValue>)| wire::LabelRule {
            label: label.to_string(),
            values: values.iter().map(ToString::to_string).collect(),
        };
        wire::Scope { rings, select: labels.into_iter().map(rule).collect() }
    }
}
