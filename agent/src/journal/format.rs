//! How a journal's record is written: a line with the format and a digest of all the rest, then JSON.
//! A later agent reads what an earlier one wrote, and an earlier one what a later one wrote, as long as
//! `least` permits: fields are only added, and a reader skips what it does not know. The line itself
//! never changes.

use refit_proto::names::Digest;
use serde::{Serialize, de::DeserializeOwned};

use super::JournalError;

/// The format that this agent writes and knows.
pub(super) const FORMAT: u32 = 1;

/// The smallest format whose reader understands what this agent writes. Raised only when skipping what
/// is new would be wrong.
const LEAST: u32 = 1;

const MAGIC: &str = "refit-journal";

/// A record's bytes.
pub(super) fn write<T: Serialize>(name: &str, record: &T) -> Result<Vec<u8>, JournalError> {
    let json = serde_json::to_string(record).map_err(|error| unreadable(name, error))?;
    let covered = format!("{FORMAT} {LEAST}\n{json}");
    let digest = Digest::of(covered.as_bytes());
    Ok(format!("{MAGIC} {digest} {covered}").into_bytes())
}

/// A record from its bytes.
pub(super) fn read<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, JournalError> {
    let text = std::str::from_utf8(bytes).map_err(|error| unreadable(name, error))?;
    let (least, json) = checked(text).map_err(|why| unreadable(name, why))?;
    if least > FORMAT {
        let record = name.into();
        return Err(JournalError::Newer { record, needed: least, known: FORMAT });
    }
    serde_json::from_slice(json.as_bytes()).map_err(|error| unreadable(name, error))
}

/// A record on which nothing alone depends: `None` where a later agent wrote what this one does not know, as
/// after a release of the agent was taken back.
pub(super) fn read_known<T: DeserializeOwned>(
    name: &str,
    bytes: &[u8],
) -> Result<Option<T>, JournalError> {
    let text = std::str::from_utf8(bytes).map_err(|error| unreadable(name, error))?;
    let (least, json) = checked(text).map_err(|why| unreadable(name, why))?;
    let known = (least <= FORMAT).then(|| serde_json::from_slice(json.as_bytes()).ok()).flatten();
    if known.is_none() {
        tracing::debug!("the journal's record {name:?} is of a later agent, and is left out");
    }
    Ok(known)
}

/// The format that a reader must know, and the JSON, if they are as they were written.
fn checked(text: &str) -> Result<(u32, &str), &'static str> {
    let rest = text.strip_prefix(MAGIC).and_then(|rest| rest.strip_prefix(' '));
    let (digest, covered) = rest.and_then(|rest| rest.split_once(' ')).ok_or("it is no record")?;
    if Digest::parse(digest).ok() != Some(Digest::of(covered.as_bytes())) {
        return Err("it is not what was written: its digest differs");
    }
    let (formats, json) = covered.split_once('\n').ok_or("its first line has no end")?;
    let (_, least) = formats.split_once(' ').ok_or("its formats are missing")?;
    Ok((least.parse().map_err(|_| "its format is no number")?, json))
}

fn unreadable(name: &str, why: impl ToString) -> JournalError {
    JournalError::Unreadable { record: name.into(), why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(covered: &str) -> Vec<u8> {
        format!("{MAGIC} {} {covered}", Digest::of(covered.as_bytes())).into_bytes()
    }

    #[test]
    fn what_a_later_agent_wrote_is_read_unless_it_says_that_it_must_not_be() {
        assert_eq!(read::<Vec<u32>>("r", &written("7 1\n[1,2]")).unwrap(), [1, 2]);
        let changed = read::<Vec<u32>>("r", &written("7 7\n[1,2]"));
        assert!(matches!(changed, Err(JournalError::Newer { needed: 7, .. })));
    }

    #[test]
    fn a_record_cut_or_flipped_anywhere_is_unreadable() {
        let whole = write("r", &vec!["one", "two"]).unwrap();
        assert_eq!(read::<Vec<String>>("r", &whole).unwrap(), ["one", "two"]);
        for place in 0..whole.len() {
            let cut = read::<Vec<String>>("r", &whole[..place]);
            assert!(matches!(cut, Err(JournalError::Unreadable { .. })), "cut at {place}");
            for bit in 0..8 {
                let mut flipped = whole.clone();
                flipped[place] ^= 1 << bit;
                let read = read::<Vec<String>>("r", &flipped);
                assert!(matches!(read, Err(JournalError::Unreadable { .. })), "{place}, {bit}");
            }
        }
    }
}
