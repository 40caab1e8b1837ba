//! The errors that a service has written to systemd's journal: how many, and in which minute. Read by
//! `journalctl`, bounded in lines and in time; what the messages say is not read.

use std::{
    io::Read as _,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use refit_proto::sorted;

use super::{ServiceError, UnitName};
use crate::host::process::system_program;

/// From when on errors are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ErrorsSince {
    /// The last hour.
    AnHour,
    /// From now on: none yet.
    Now,
    /// After this place in the journal, whatever the clock says.
    Cursor(String),
}

/// Errors that were read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoggedErrors {
    /// When each was written, microseconds since 1970.
    times: Vec<u64>,
    /// Where in the journal to go on.
    pub cursor: String,
}

impl LoggedErrors {
    /// How many.
    pub fn count(&self) -> u64 {
        self.times.len() as u64
    }

    /// So many in one minute.
    #[cfg(test)]
    pub(crate) fn of(count: u64) -> LoggedErrors {
        let times = (0..count).collect();
        LoggedErrors { times, cursor: "c".into() }
    }

    /// How many in the worst minute, wherever it begins.
    pub fn worst_minute(&self) -> u64 {
        let mut times = self.times.clone();
        sorted::sort(&mut times);
        let until =
            |at: usize| times.partition_point(|time| *time < times[at].saturating_add(MINUTE)) - at;
        (0..times.len()).map(until).max().unwrap_or_default() as u64
    }
}

/// Most errors that are counted at a time: what is beyond is beyond any limit.
const MOST: &str = "10000";
/// As long a text as those can be: a line without its message is shorter than 1 KiB.
const LONGEST: u64 = 10 << 20;
/// As the journal counts time.
const MINUTE: u64 = 60_000_000;
/// A journal of some gigabytes is searched within this.
const PATIENCE: Duration = Duration::from_secs(20);

/// Reads the errors, and worse, of a unit.
pub(super) fn errors(unit: &UnitName, since: &ErrorsSince) -> Result<LoggedErrors, ServiceError> {
    let failed = |why: String| ServiceError::new("count the errors of", unit, why);
    let journalctl =
        system_program("journalctl").ok_or_else(|| failed("there is no journalctl".into()))?;
    let mut asked = Command::new(journalctl);
    asked.args(["--no-pager", "--quiet", "--output=json", "--output-fields=PRIORITY"]);
    match since {
        // The newest entry of all: every host has one.
        ErrorsSince::Now => asked.arg("--lines=1"),
        ErrorsSince::AnHour => asked.args(["--since=-1h", "--lines", MOST]),
        ErrorsSince::Cursor(cursor) => {
            asked.arg(format!("--after-cursor={cursor}")).args(["--lines", MOST])
        }
    };
    if *since != ErrorsSince::Now {
        asked.args(["--priority=err", "--unit", unit.as_str()]);
    }
    let text = output(asked).map_err(failed)?;
    let mut read = parsed(&text).map_err(failed)?;
    match since {
        ErrorsSince::Now if read.cursor.is_empty() => {
            return Err(failed("the journal is empty, or this user may not read it".into()));
        }
        ErrorsSince::Now => read.times.clear(),
        ErrorsSince::Cursor(cursor) if read.cursor.is_empty() => read.cursor.clone_from(cursor),
        ErrorsSince::AnHour | ErrorsSince::Cursor(_) => {}
    }
    Ok(read)
}

fn output(mut asked: Command) -> Result<Vec<u8>, String> {
    let asked = asked.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = asked.spawn().map_err(|error| format!("journalctl does not start: {error}"))?;
    let mut stdout = child.stdout.take().ok_or("journalctl has no output")?.take(LONGEST);
    let (sender, read) = mpsc::channel();
    thread::spawn(move || {
        let mut text = Vec::new();
        let read = stdout.read_to_end(&mut text);
        sender.send(read.map(|_| text))
    });
    let read = read.recv_timeout(PATIENCE);
    // It has ended, or is ended here.
    let _it_may_have_ended = child.kill();
    let status = child.wait().map_err(|error| error.to_string())?;
    match read {
        // Nothing that fits is an exit code of 1 in some versions.
        Ok(Ok(text)) if status.success() || !text.is_empty() => Ok(text),
        Ok(Ok(text)) if status.code() == Some(1) => Ok(text),
        // Killed between the end of its output and its own.
        Ok(Ok(text)) if status.code().is_none() => Ok(text),
        Ok(Ok(_)) => Err(format!("journalctl ended with {status}")),
        Ok(Err(error)) => Err(format!("journalctl: {error}")),
        Err(_) => Err(format!("journalctl took longer than {} s", PATIENCE.as_secs())),
    }
}

/// Each line is an entry. One that makes no sense is an error: nobody can say how many there are.
fn parsed(text: &[u8]) -> Result<LoggedErrors, String> {
    #[derive(serde::Deserialize)]
    struct Entry {
        #[serde(rename = "__CURSOR")]
        cursor: String,
        #[serde(rename = "__REALTIME_TIMESTAMP")]
        micros: String,
    }
    let mut read = LoggedErrors::default();
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let entry: Entry = serde_json::from_slice(line)
            .map_err(|error| format!("the journal's entry: {error}"))?;
        let micros = entry.micros.parse().map_err(|_| "the journal's entry has no time")?;
        read.times.push(micros);
        read.cursor = entry.cursor;
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_counted_by_the_minute_and_the_last_place_is_kept() {
        let line = |second: u64, cursor: &str| {
            format!(
                "{{\"__CURSOR\":\"{cursor}\",\"__REALTIME_TIMESTAMP\":\"{}\",\"PRIORITY\":\"3\"}}\n",
                second * 1_000_000
            )
        };
        let text = [line(10, "a"), line(59, "b"), line(60, "c"), line(400, "d")].concat();
        let read = parsed(text.as_bytes()).unwrap();
        assert_eq!((read.count(), read.worst_minute()), (4, 3), "a minute begins anywhere");
        assert_eq!(read.cursor, "d");
        assert_eq!(parsed(b"").unwrap(), LoggedErrors::default());
        assert!(parsed(b"-- No entries --\n").is_err());
        let cut = &text.as_bytes()[..text.len() - 5];
        assert!(parsed(cut).is_err(), "an entry that was cut is not one less");
    }
}
