//! For how long whoever answers asks not to be asked again: `Retry-After`, `grpc-retry-pushback-ms` and
//! `google.rpc.RetryInfo`. It is obeyed up to an hour: an emergency brake must be heard within that.

use std::time::Duration;

use hyper::header::{DATE, HeaderMap, RETRY_AFTER};
use jiff::{Timestamp, fmt::rfc2822};
use prost::Message;
use tonic::Status;

/// The longest that anybody can ask for.
pub(super) const LONGEST: Duration = Duration::from_secs(3600);

/// What the headers of an HTTP answer ask for: seconds, or a date (RFC 9110, 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let asked = text(RETRY_AFTER)?;
    // This host's clock may be wrong; the answer's own date is the one that its author meant.
    bounded(in_words(asked, text(DATE).and_then(date)))
}

/// What a refused call asks for.
pub(super) fn of_status(status: &Status) -> Option<Duration> {
    let metadata = status.metadata();
    let text = |name: &str| metadata.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let asked = text("retry-after").and_then(|asked| in_words(asked, text("date").and_then(date)));
    // Negative is "never": the next usual time then, since never would be the end of this host.
    let pushed = text("grpc-retry-pushback-ms")
        .and_then(|text| text.parse::<u64>().ok())
        .map(Duration::from_millis);
    let longest = [asked, pushed, in_details(status.details())].into_iter().flatten().max();
    bounded(longest)
}

fn bounded(asked: Option<Duration>) -> Option<Duration> {
    asked.filter(|asked| !asked.is_zero()).map(|asked| asked.min(LONGEST))
}

/// Seconds, or until a date, counted from the answer's own; one that has passed is none.
fn in_words(asked: &str, now: Option<Timestamp>) -> Option<Duration> {
    if !asked.is_empty() && asked.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than there are numbers is a long time too.
        return Some(asked.parse().map_or(LONGEST, Duration::from_secs));
    }
    Duration::try_from(date(asked)?.duration_since(now?)).ok()
}

fn date(text: &str) -> Option<Timestamp> {
    rfc2822::DateTimeParser::new().parse_timestamp(text).ok()
}

/// `google.rpc.Status`, as far as it is read here.
#[derive(Clone, PartialEq, Message)]
struct Details {
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Span>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

fn in_details(bytes: &[u8]) -> Option<Duration> {
    let details = Details::decode(bytes).ok()?.details;
    let any = details.into_iter().find(|any| any.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let span = RetryInfo::decode(any.value.as_slice()).ok()?.retry_delay?;
    let seconds = u64::try_from(span.seconds).ok()?;
    Some(Duration::new(seconds, u32::try_from(span.nanos).ok()?.min(999_999_999)))
}

#[cfg(test)]
mod tests {
    use tonic::{Code, metadata::MetadataMap};

    use super::*;

    const NOON: &str = "Mon, 01 Mar 2027 12:00:00 GMT";

    fn headers(asked: &str) -> HeaderMap {
        [(RETRY_AFTER, asked.parse().unwrap()), (DATE, NOON.parse().unwrap())].into_iter().collect()
    }

    #[test]
    fn seconds_and_dates_are_obeyed_up_to_an_hour_and_the_past_is_nothing() {
        for (asked, seconds) in [
            ("1", Some(1)),
            (" 120 ", Some(120)),
            ("Mon, 01 Mar 2027 12:05:00 GMT", Some(300)),
            ("Tue, 02 Mar 2027 12:00:00 GMT", Some(3600)),
            ("86400", Some(3600)),
            ("99999999999999999999999999", Some(3600)),
            ("0", None),
            ("-5", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
            ("Mon, 01 Mar 2027 11:00:00 GMT", None),
            ("Mon, 01 Mar 2027 12:00:00 GMT", None),
        ] {
            assert_eq!(retry_after(&headers(asked)).map(|it| it.as_secs()), seconds, "{asked:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    #[test]
    fn every_way_in_which_grpc_says_it_is_read() {
        let said = |name: &'static str, value: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert(name, value.parse().unwrap());
            of_status(&Status::with_metadata(Code::Unavailable, "full", metadata))
        };
        assert_eq!(said("retry-after", "7"), Some(Duration::from_secs(7)));
        assert_eq!(said("grpc-retry-pushback-ms", "2500"), Some(Duration::from_millis(2500)));
        assert_eq!(said("grpc-retry-pushback-ms", "-1"), None);
        assert_eq!(said("grpc-retry-pushback-ms", "99999999999"), Some(LONGEST));
        let details = |seconds, nanos| {
            let info = RetryInfo { retry_delay: Some(Span { seconds, nanos }) };
            let type_url = "type.googleapis.com/google.rpc.RetryInfo".to_owned();
            let any = Any { type_url, value: info.encode_to_vec() };
            let bytes = Details { details: vec![any] }.encode_to_vec();
            of_status(&Status::with_details(Code::ResourceExhausted, "full", bytes.into()))
        };
        assert_eq!(details(30, 0), Some(Duration::from_secs(30)));
        assert_eq!(details(-30, 0), None);
        assert_eq!(details(0, -1), None);
        assert_eq!(details(i64::MAX, i32::MAX), Some(LONGEST));
        let garbage = Status::with_details(Code::Unavailable, "x", vec![0xff; 50].into());
        assert_eq!(of_status(&garbage), None);
    }
}
