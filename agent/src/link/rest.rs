//! Who has asked to be left alone for a while, and until when: the server, and each mirror. It is kept in
//! memory alone: after a start of the agent they are asked again, and say it again.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use refit_proto::servers::Mirror;

use crate::update::Running;

/// Who rests until when.
#[derive(Debug, Default)]
pub struct Rests(Mutex<Until>);

#[derive(Debug)]
struct Until {
    server: Option<Running>,
    mirrors: BTreeMap<Mirror, Running>,
    /// How often the server asks to be called.
    period: Duration,
    /// Whether it was not reached when it was called last.
    away: bool,
}

/// Until a server has said otherwise.
const PERIOD: Duration = Duration::from_secs(30);

impl Default for Until {
    fn default() -> Until {
        Until { server: None, mirrors: BTreeMap::new(), period: PERIOD, away: false }
    }
}

impl Rests {
    /// The server answers, and asks to be called so often.
    pub fn answers(&self, period: Duration) {
        let mut until = self.until();
        (until.period, until.away) = (period, false);
    }

    /// The server was not reached.
    pub fn was_away(&self) {
        self.until().away = true;
    }

    /// How often the server asks to be called.
    pub fn period(&self) -> Duration {
        self.until().period
    }

    /// The same, if the server was not reached when it was called last.
    pub fn away(&self) -> Option<Duration> {
        let until = self.until();
        until.away.then_some(until.period)
    }

    /// The server asks not to be called for so long from now on.
    pub fn server_rests(&self, now: Running, span: Duration) {
        let mut until = self.until();
        // A shorter word after a longer one does not end the longer.
        until.server = until.server.max(Some(now.plus(span)));
    }

    /// For how much longer the server rests.
    pub fn server_for(&self, now: Running) -> Duration {
        self.until().server.map_or(Duration::ZERO, |until| until.since(now))
    }

    /// This mirror asks not to be called for so long from now on.
    pub fn mirror_rests(&self, mirror: &Mirror, now: Running, span: Duration) {
        self.until().mirrors.insert(mirror.clone(), now.plus(span));
    }

    /// Those of these mirrors that may be called.
    pub fn awake(&self, mirrors: Vec<Mirror>, now: Running) -> Vec<Mirror> {
        let mut until = self.until();
        until.mirrors.retain(|_, until| *until > now);
        mirrors.into_iter().filter(|mirror| !until.mirrors.contains_key(mirror)).collect()
    }

    fn until(&self) -> MutexGuard<'_, Until> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Running {
        Running::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn who_asked_to_be_left_alone_is_until_then_and_no_longer() {
        let (rests, minute) = (Rests::default(), Duration::from_secs(60));
        assert_eq!(rests.server_for(at(0)), Duration::ZERO);
        rests.server_rests(at(0), minute);
        rests.server_rests(at(10), Duration::from_secs(5));
        assert_eq!(rests.server_for(at(20)), Duration::from_secs(40));
        assert_eq!(rests.server_for(at(61)), Duration::ZERO);

        let both: Vec<Mirror> =
            ["http://a", "http://b"].into_iter().map(|text| text.parse().unwrap()).collect();
        rests.mirror_rests(&both[0], at(0), minute);
        assert_eq!(rests.awake(both.clone(), at(59)), both[1..]);
        assert_eq!(rests.awake(both.clone(), at(60)), both);
    }
}
