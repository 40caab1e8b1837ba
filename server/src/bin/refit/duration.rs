//! Spans of time as people write them: "10m", "36h", "1h 30m". Whole seconds, never negative.

use anyhow::{Context as _, ensure};
use jiff::{SignedDuration, Span, SpanRelativeTo};

/// The seconds in a span; a day has 24 hours here.
///
/// # Errors
/// What is no span of whole seconds.
pub(crate) fn seconds(text: &str) -> anyhow::Result<u64> {
    let help = || format!("{text:?} is not a span of time\nhelp: write it as 90s, 10m, 36h or 7d");
    let span: Span = text.parse().ok().with_context(help)?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok().with_context(help)?;
    ensure!(duration.subsec_nanos() == 0 && !duration.is_negative(), help());
    Ok(duration.as_secs().unsigned_abs())
}

/// The same the other way round.
pub(crate) fn in_words(seconds: u64) -> String {
    let whole = i64::try_from(seconds).unwrap_or(i64::MAX);
    format!("{:#}", SignedDuration::from_secs(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_whole_seconds_and_never_negative() {
        for (text, expected) in [("90s", 90), ("10m", 600), ("36h", 129_600), ("1h 30m", 5400)] {
            assert_eq!(seconds(text).unwrap(), expected, "{text}");
        }
        assert_eq!(seconds("7d").unwrap(), 604_800);
        assert_eq!(seconds("0s").unwrap(), 0);
        for bad in ["", "10", "-5m", "1.5s", "soon", "10 m ago", "1mo", "1y"] {
            assert!(seconds(bad).is_err(), "{bad:?}");
        }
        assert_eq!(in_words(5400), "1h 30m");
    }
}
