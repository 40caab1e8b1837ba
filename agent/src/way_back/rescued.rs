//! What the rescuer says of a way back that it went: the other half of `refit-rescue`'s `note`.

use refit_proto::names::Digest;

use crate::update::{Cause, Failure, InstallId};

/// The rescuer went back, or began to, while no agent did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rescued {
    /// From which update.
    pub install: InstallId,
    /// Why, in the rescuer's word.
    reason: String,
    /// `begun`, `back`, or what failed.
    result: String,
}

impl Rescued {
    /// Its name in the agent's folder.
    pub(super) const FILE: &str = "rescued";
    /// Largest that is read: what failed is one line.
    pub(super) const LARGEST: u64 = 64 * 1024;

    /// Reads the record; `None` if it is not whole: then the journal goes on as if nobody had gone back,
    /// and its own steps and checks find out.
    pub(super) fn parse(bytes: &[u8]) -> Option<Rescued> {
        let text = std::str::from_utf8(bytes).ok()?;
        let start = text.strip_suffix('\n')?.rfind('\n')? + 1;
        let (body, end) = text.split_at(start);
        let sealed = Digest::parse(end.trim_end().strip_prefix("end ")?).ok()?;
        if sealed != Digest::of(body.as_bytes()) {
            return None;
        }
        let value =
            |name: &str| body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Some(Rescued {
            install: InstallId::parse(value("install")?).ok()?,
            reason: value("reason")?.to_owned(),
            result: value("result")?.to_owned(),
        })
    }

    /// Why the update did not hold.
    pub fn failure(&self) -> Failure {
        let (cause, why) = match self.reason.as_str() {
            "deadline" => (Cause::TimedOut, "the update took longer than it may".to_owned()),
            "starts" => {
                (Cause::Interrupted, "the host was started too often during the update".to_owned())
            }
            "agent-gone" => (Cause::Interrupted, "no agent ran during the update".to_owned()),
            "agent-failed" => (
                Cause::Interrupted,
                "the agent failed again and again during the update".to_owned(),
            ),
            "by-hand" => (Cause::BackedOut, "a person asked for it on the host".to_owned()),
            // A later rescuer's.
            other => (Cause::Interrupted, format!("the rescuer says {other:?}")),
        };
        let how = match self.result.as_str() {
            "back" => String::new(),
            "begun" => "; it was cut short".to_owned(),
            failed => format!("; it {failed}"),
        };
        Failure::new(cause, format!("{why}, so refit-rescue brought the host back{how}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(result: &str) -> Vec<u8> {
        let body = format!("refit-rescued 1\ninstall 6f1c\nreason agent-gone\nresult {result}\n");
        let end = Digest::of(body.as_bytes());
        format!("{body}end {end}\n").into_bytes()
    }

    #[test]
    fn a_whole_record_says_what_happened_and_a_damaged_one_says_nothing() {
        let read = Rescued::parse(&record("back")).unwrap();
        let text = "no agent ran during the update, so refit-rescue brought the host back";
        assert_eq!(read.failure(), Failure::new(Cause::Interrupted, text));
        let failed = Rescued::parse(&record("failed: no room")).unwrap().failure();
        assert_eq!(failed.text, format!("{text}; it failed: no room"));
        let whole = record("back");
        for index in 0..whole.len() {
            assert_eq!(Rescued::parse(&whole[..index]), None, "cut at {index}");
            let mut flipped = whole.clone();
            flipped[index] ^= 1;
            assert_eq!(Rescued::parse(&flipped), None, "flipped at {index}");
        }
    }
}
