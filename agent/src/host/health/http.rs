//! One GET to a service on this host: its status, and what its body holds. Bounded in time and in bytes; a
//! service that drips does not hold the check.

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use super::{Answer, connect};

/// The longest head of an answer that is read: twice what servers allow themselves.
const LONGEST_HEAD: usize = 16 * 1024;
/// As much of a body as is looked through.
const LONGEST_BODY: usize = 64 * 1024;
/// The longest beginning of an answer in which a status line must end.
const LONGEST_STATUS_LINE: usize = 1024;

/// What an answer must be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// By default any of 200 to 299.
    pub(super) status: Option<u16>,
    /// What the body must hold.
    pub(super) body: Option<&'a str>,
}

/// One GET, and whether its answer is what is wanted.
pub(super) fn ask(url: &str, wanted: Wanted<'_>, timeout: Duration) -> Answer {
    let Some((authority, path)) = split_url(url) else {
        return Answer::Unknown(format!("{url:?} is no address of the form http://host:port/path"));
    };
    let deadline = Instant::now() + timeout;
    let stream = match connect(&with_port(authority), deadline) {
        Ok(stream) => stream,
        Err(answer) => return answer,
    };
    match get(stream, authority, path, wanted, deadline) {
        Ok(got) => judge(url, &got, wanted),
        Err(error) => Answer::Failed(format!("{url}: {error}")),
    }
}

/// Host and port that an address leads to; `None` if it is none.
pub(super) fn authority(url: &str) -> Option<String> {
    split_url(url).map(|(authority, _)| with_port(authority))
}

fn judge(url: &str, got: &[u8], wanted: Wanted<'_>) -> Answer {
    let Some(status) = status_of(got) else {
        return Answer::Failed(format!("{url} answers something else than HTTP"));
    };
    if !wanted.status.map_or((200..=299).contains(&status), |want| want == status) {
        return Answer::Failed(format!("{url} answers {status}"));
    }
    match wanted.body {
        Some(text) if !holds(got, text) => Answer::Failed(format!(
            "{url} answers {status}, and not with {text:?} in the first {} KiB of its body",
            LONGEST_BODY / 1024
        )),
        Some(_) | None => Answer::Good,
    }
}

/// Host and path of `http://host/path`, if nothing in them could be another request.
fn split_url(url: &str) -> Option<(&str, &str)> {
    let rest = url.strip_prefix("http://")?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let plain = rest.bytes().all(|byte| byte.is_ascii_graphic());
    (plain && !authority.is_empty() && !authority.contains('@')).then_some((authority, path))
}

fn with_port(authority: &str) -> String {
    // In `[::1]` the colons are the address's.
    let after = authority.rsplit_once(']').map_or(authority, |(_, after)| after);
    if after.contains(':') { authority.to_owned() } else { format!("{authority}:80") }
}

/// As much of the answer as is needed to judge it.
fn get(
    mut stream: TcpStream,
    authority: &str,
    path: &str,
    wanted: Wanted<'_>,
    deadline: Instant,
) -> io::Result<Vec<u8>> {
    let slash = if path.starts_with('/') { "" } else { "/" };
    let request = format!(
        "GET {slash}{path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: refit-agent\r\n\
         Accept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.set_write_timeout(Some(left(deadline)?))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !says_enough(&answer, wanted) {
        // The bound is for the whole answer.
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut buffer)? {
            0 => break,
            length => answer.extend_from_slice(&buffer[..length]),
        }
    }
    Ok(answer)
}

/// Whether nothing that may still come changes what is said of the answer.
fn says_enough(answer: &[u8], wanted: Wanted<'_>) -> bool {
    let Some(text) = wanted.body else {
        return answer.contains(&b'\n') || answer.len() >= LONGEST_STATUS_LINE;
    };
    match parts(answer) {
        None => answer.len() >= LONGEST_HEAD,
        Some((head, body)) => {
            body.len() >= 2 * LONGEST_BODY
                || length_of(head).is_some_and(|length| body.len() >= length)
                || holds(answer, text)
        }
    }
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// The status in the first line of an answer: `HTTP/1.1 200 OK`.
fn status_of(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_whitespace();
    let version = words.next()?;
    let status = words.next().filter(|status| status.len() == 3)?;
    version.starts_with("HTTP/1.").then(|| status.parse().ok()).flatten()
}

/// Head and body of an answer whose head is whole.
fn parts(answer: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some((&answer[..end], &answer[end + 4..]))
}

fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    let lines = head.split(|byte| *byte == b'\n').skip(1);
    lines
        .filter_map(|line| std::str::from_utf8(line).ok()?.split_once(':'))
        .find_map(|(key, value)| key.trim().eq_ignore_ascii_case(name).then(|| value.trim()))
}

fn length_of(head: &[u8]) -> Option<usize> {
    header(head, "content-length")?.parse().ok()
}

/// Whether the beginning of the body holds this text.
fn holds(answer: &[u8], text: &str) -> bool {
    let Some((head, body)) = parts(answer) else { return false };
    let chunked = header(head, "transfer-encoding")
        .is_some_and(|coding| coding.to_ascii_lowercase().contains("chunked"));
    let body = if chunked { unchunked(body) } else { body.to_vec() };
    let body = &body[..body.len().min(LONGEST_BODY)];
    body.windows(text.len().max(1)).any(|part| part == text.as_bytes())
}

/// What of a body in chunks has come.
fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
        let size = std::str::from_utf8(&rest[..end]).ok();
        let size = size.and_then(|line| line.split(';').next());
        let size = size.and_then(|hex| usize::from_str_radix(hex.trim(), 16).ok());
        let Some(size @ 1..) = size else { break };
        rest = &rest[end + 2..];
        body.extend_from_slice(&rest[..size.min(rest.len())]);
        rest = rest.get(size.saturating_add(2)..).unwrap_or_default();
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_more_than_an_address_is_not_asked() {
        let wanted = Wanted { status: None, body: None };
        for url in ["https://x/", "http://", "http://a b/", "http://x/\r\nX: y", "http://u@x/"] {
            let asked = ask(url, wanted, Duration::from_secs(1));
            assert!(matches!(asked, Answer::Unknown(_)), "{url:?}");
        }
        assert_eq!(split_url("http://x?y"), Some(("x", "?y")));
        assert_eq!(with_port("[::1]"), "[::1]:80");
        assert_eq!(with_port("[::1]:8"), "[::1]:8");
        assert_eq!(authority("http://x/y").unwrap(), "x:80");
    }

    #[test]
    fn a_text_is_found_in_the_body_alone_and_across_its_chunks() {
        let found = |answer: &str| holds(answer.as_bytes(), "ready");
        assert!(found("HTTP/1.1 200 OK\r\n\r\nall ready\n"));
        assert!(!found("HTTP/1.1 200 ready\r\nX: ready\r\n\r\nno"));
        assert!(!found("HTTP/1.1 200 OK\r\nX: ready"));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(found(&format!("{chunked}2\r\nre\r\n3;x=y\r\nady\r\n0\r\n\r\n")));
        assert!(!found(&format!("{chunked}2\r\nre\r\n0\r\n\r\n3\r\nady\r\n")));
        for wrong in ["ffffffffffffffff\r\nready", "-1\r\nre", "zz\r\nready\r\n", "\r\nready"] {
            // Whatever comes, it ends.
            found(&format!("{chunked}{wrong}"));
        }
        let late = format!("HTTP/1.1 200 OK\r\n\r\n{}ready", "x".repeat(LONGEST_BODY));
        assert!(!found(&late), "only the beginning is looked through");
    }
}
