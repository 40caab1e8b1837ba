//! How slow a download may be. A slow link that lives is not cut; a server that brings next to nothing,
//! or only empty messages, would keep a host busy for ever. Pure: what was waited for and what came is
//! passed in.

use std::time::Duration;

/// How slow a download may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// How long it is waited for bytes before they are counted.
    pub window: Duration,
    /// Fewest bytes per second of waiting.
    pub slowest: u32,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { window: Duration::from_secs(60), slowest: 100 }
    }
}

/// A download that brings too little.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the download is too slow (slow-retrieval): {came} bytes in {} s, at least {least} are needed",
    .window.as_secs()
)]
pub(super) struct TooSlow {
    came: u64,
    least: u64,
    window: Duration,
}

/// Counts what came in the time that was waited. Time in which nobody asked for bytes does not count:
/// a slow disk is not the server's fault.
#[derive(Debug)]
pub(super) struct Meter {
    patience: Patience,
    waited: Duration,
    came: u64,
}

impl Meter {
    pub(super) fn new(patience: Patience) -> Meter {
        Meter { patience, waited: Duration::ZERO, came: 0 }
    }

    /// How much longer to wait before it is counted.
    pub(super) fn left(&self) -> Duration {
        self.patience.window.saturating_sub(self.waited)
    }

    /// So long was waited, and so much came.
    ///
    /// # Errors
    /// If the window is over and too little came in it.
    pub(super) fn count(&mut self, waited: Duration, came: usize) -> Result<(), TooSlow> {
        self.waited += waited;
        self.came += came as u64;
        let window = self.patience.window;
        if self.waited < window {
            return Ok(());
        }
        let least = window.as_secs().max(1) * u64::from(self.patience.slowest);
        let came = std::mem::take(&mut self.came);
        self.waited = Duration::ZERO;
        if came < least { Err(TooSlow { came, least, window }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn meter() -> Meter {
        Meter::new(Patience { window: 10 * SECOND, slowest: 100 })
    }

    #[test]
    fn a_slow_link_that_lives_is_never_cut() {
        let mut meter = meter();
        for _ in 0..10_000 {
            assert_eq!(meter.count(SECOND, 100), Ok(()));
        }
        // All of it at the end of the window will do as well.
        for _ in 0..100 {
            assert_eq!(meter.count(meter.left() - SECOND, 0), Ok(()));
            assert_eq!(meter.count(SECOND, 1000), Ok(()));
        }
    }

    /// slow-retrieval: a byte now and then, or empty messages without end.
    #[test]
    fn a_server_that_brings_next_to_nothing_is_given_up_after_one_window() {
        for came in [0, 1, 99] {
            let mut meter = meter();
            for _ in 0..9 {
                assert_eq!(meter.count(SECOND, came), Ok(()));
            }
            let error = meter.count(SECOND, came).unwrap_err();
            assert!(error.to_string().contains("slow-retrieval"), "{error}");
        }
    }

    #[test]
    fn what_came_quickly_before_does_not_pay_for_a_crawl_afterwards() {
        let mut meter = meter();
        assert_eq!(meter.count(10 * SECOND, 1 << 30), Ok(()));
        assert!(meter.count(10 * SECOND, 999).is_err());
    }
}
