//! `refit-agent hold`: a person on this host lets nothing begin for a while, and says why.

use std::{path::Path, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use jiff::{Span, SpanRelativeTo, Timestamp, civil::DateTime, tz::TimeZone};
use refit_agent::{
    clock::Clock,
    holds::{Holds, NewHold},
    host::files::RealFiles,
    settings::Settings,
    status::{self, Question, holds::SOCKET},
    update::LocalHold,
};
use refit_proto::names::Product;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    Common,
    line::{Arg, Command, Does, Given},
    reach::{Reached, reach},
    status::Output,
};

const UNTIL: Arg = Arg::option(
    "until",
    "TIME",
    "Until when: `2026-12-24 18:00` by this host's clock, or with an offset, `2026-12-24T18:00:00+01:00`",
);
const FOR: Arg = Arg::option("for", "SPAN", "For how long: 90s, 30m, 2h, 3d");
const WHY: Arg = Arg::option("why", "WHY", "Why; whoever watches the fleet reads it").needed();
const PRODUCT: Arg =
    Arg::option("product", "PRODUCT", "Only updates of this product; else of every one");
const ID: Arg = Arg::word("ID", "Which, of `refit-agent hold list`");

pub(super) const COMMAND: Command = Command {
    name: "hold",
    about: "Let no update begin on this host for a while, and say why",
    args: &[UNTIL, FOR, WHY, PRODUCT],
    does: Does::ThisOr(
        hold,
        &[
            Command {
                name: "list",
                about: "What is held here, by whom, until when and why",
                args: &[Output::ARG],
                does: Does::This(list),
                ..Command::NONE
            },
            Command {
                name: "release",
                about: "End a hold before its time",
                args: &[ID],
                does: Does::This(release),
                ..Command::NONE
            },
        ],
    ),
    more: "Examples:
  refit-agent hold --for 2h --why 'a demonstration for customers'
  refit-agent hold --until '2026-12-24 18:00' --product payments --why 'stocktaking'
  refit-agent hold list
  refit-agent hold release h0123abcd

What has begun goes on to its end. A hold ends by itself, at most seven days later unless agent.toml says
otherwise; whoever watches the fleet sees it, with its reason and who holds.",
    ..Command::NONE
};

fn release(given: &Given) -> Result<ExitCode> {
    let id = given.must(&ID, given.text(&ID)?)?;
    let question = Question::ReleaseHold { id: id.clone() };
    let hold: LocalHold = asked(&Place::of(given)?, &question, |holds, uid| {
        Ok(serde_json::to_value(holds.release(&id, uid)?)?)
    })?;
    println!("{} is released: {}", hold.id, hold.why);
    Ok(ExitCode::SUCCESS)
}

fn hold(given: &Given) -> Result<ExitCode> {
    given.either(&UNTIL, &FOR)?;
    let why = given.must(&WHY, given.text(&WHY)?)?;
    let product: Option<Product> = given.parsed(&PRODUCT)?;
    let (until, span) = (given.text(&UNTIL)?, given.text(&FOR)?);
    let place = Place::of(given)?;
    let now = Clock::system()?.now();
    let seconds = match until {
        Some(until) => seconds_until(&until, now)?,
        None => seconds_of(&span.unwrap_or_default())?,
    };
    let by = std::env::var("SUDO_USER").ok().filter(|name| !name.is_empty());
    let new = NewHold { product, seconds, why, by };
    let question = Question::Hold { hold: new.clone() };
    let hold: LocalHold =
        asked(&place, &question, |holds, uid| Ok(serde_json::to_value(holds.add(new, uid)?)?))?;
    println!(
        "{}\nnext: `refit-agent hold release {}` ends it before its time",
        line(&hold),
        hold.id
    );
    Ok(ExitCode::SUCCESS)
}

fn list(given: &Given) -> Result<ExitCode> {
    let (place, output) = (Place::of(given)?, Output::of(given)?);
    let held: Vec<LocalHold> =
        asked(&place, &Question::Holds, |holds, _| Ok(serde_json::to_value(holds.now())?))?;
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&held)?),
        Output::Text if held.is_empty() => println!("nothing is held here"),
        Output::Text => {
            for hold in &held {
                println!("{}", line(hold));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn line(hold: &LocalHold) -> String {
    let what =
        hold.product.as_ref().map_or("every update".to_owned(), |it| format!("updates of {it}"));
    let left = Duration::from_secs(hold.left().as_secs());
    let left = jiff::SignedDuration::try_from(left).unwrap_or_default();
    let until = Timestamp::from_second(hold.until().as_second()).unwrap_or_default();
    format!("{}  {what} held by {} until {until} ({left:#} left): {}", hold.id, hold.who, hold.why)
}

/// Where holds are asked for.
enum Place {
    /// Whoever may read the agent's folder: there, or of the agent.
    Folder(Box<Settings>),
    /// Whoever may not: on the socket of those who may hold.
    Socket,
}

impl Place {
    fn of(given: &Given) -> Result<Place> {
        let common = Common::of(given)?;
        let is_root = rustix::process::geteuid().is_root();
        if !is_root && Path::new(SOCKET).exists() {
            return Ok(Place::Socket);
        }
        let settings = Settings::load(&common.data, common.config.as_deref());
        let help =
            "help: only root may hold updates off here, and members of `holds.group` in agent.toml";
        match settings {
            Ok(settings) => Ok(Place::Folder(Box::new(settings))),
            Err(error) if !is_root => Err(error).context(help),
            Err(error) => Err(error.into()),
        }
    }
}

/// Asks the agent, or does it in its folder where none runs.
fn asked<T: DeserializeOwned>(
    place: &Place,
    question: &Question,
    offline: impl FnOnce(&Holds, u32) -> Result<Value>,
) -> Result<T> {
    let answer = match place {
        Place::Socket => status::ask(Path::new(SOCKET), question)
            .context("the agent takes no holds from you\nhelp: only root may, and members of `holds.group` in agent.toml")?
            .context("no agent runs on this host\nhelp: root may hold all the same")?,
        Place::Folder(settings) => match reach(settings, question)? {
            Reached::Agent(answer) => answer,
            Reached::Folder(_held) => {
                let (clock, longest) = (Clock::system()?, settings.holds.longest);
                let holds = Holds::load(Arc::new(RealFiles), &settings.data, clock, longest);
                offline(&holds, rustix::process::getuid().as_raw())?
            }
        },
    };
    if let Some(error) = answer["error"].as_str() {
        bail!("{error}");
    }
    serde_json::from_value(answer).context("the agent answers something else")
}

/// The seconds in a span; a day has 24 hours here.
fn seconds_of(text: &str) -> Result<u64> {
    let help = || format!("{text:?} is no span of time\nhelp: write it as 90s, 30m, 2h or 3d");
    let span: Span = text.parse().ok().with_context(help)?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok().with_context(help)?;
    u64::try_from(duration.as_secs()).ok().with_context(help)
}

fn seconds_until(text: &str, now: Timestamp) -> Result<u64> {
    let help = || {
        format!(
            "{text:?} is no moment\nhelp: write it as 2026-12-24 18:00, or 2026-12-24T18:00:00Z"
        )
    };
    let until = match text.parse::<Timestamp>() {
        Ok(until) => until,
        Err(_) => {
            let civil: DateTime = text.parse().ok().with_context(help)?;
            civil.to_zoned(TimeZone::system()).ok().with_context(help)?.timestamp()
        }
    };
    let left = until.duration_since(now).as_secs();
    if left <= 0 {
        bail!("{until} is not to come\nhelp: it is {now} by this host's clock");
    }
    u64::try_from(left).ok().with_context(help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_or_a_span_is_so_many_seconds_and_nothing_else_is_taken() {
        let now: Timestamp = "2026-12-24T12:00:00Z".parse().unwrap();
        assert_eq!(seconds_until("2026-12-24T13:00:00+00:00", now).unwrap(), 3600);
        assert_eq!(seconds_until("2026-12-24T14:00:00+01:00", now).unwrap(), 3600);
        assert!(seconds_until("2026-12-26 12:00", now).unwrap() > 86_400);
        for bad in ["2026-12-24T11:59:59Z", "tomorrow", "", "2026-13-01 00:00"] {
            assert!(seconds_until(bad, now).is_err(), "{bad}");
        }
        assert_eq!(seconds_of("1h 30m").unwrap(), 5400);
        assert_eq!(seconds_of("3d").unwrap(), 259_200);
        assert!(seconds_of("2").is_err() && seconds_of("-2h").is_err());
    }
}
