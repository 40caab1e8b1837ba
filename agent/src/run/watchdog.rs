//! The signs of life that systemd's watchdog wants. They are given when the process is awake anyway, and a
//! timer of their own is only for when nothing else wakes it.

use std::time::Duration;

use tokio::sync::Notify;

use super::alarm;

/// Tells systemd that this process lives: at the latest after half of the time that it asks for, and
/// whenever `awake` says that something was done, but then no more often than after a fifth of it.
pub(super) async fn watchdog(awake: &Notify) {
    let Some(every) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    // Kept by the runtime, a wait for minutes would wake the process each time that the runtime sorts its timers.
    signs(every, awake, alarm::after, || {
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]) {
            tracing::warn!(%error, "systemd's watchdog was not told");
        }
    })
    .await;
}

async fn signs<W: Future<Output = ()>>(
    every: Duration,
    awake: &Notify,
    wait: impl Fn(Duration) -> W,
    mut give: impl FnMut(),
) {
    let clock = tokio::time::Instant::now;
    loop {
        give();
        let given = clock();
        let last = wait(every / 2);
        let done = async {
            loop {
                awake.notified().await;
                if clock() - given >= every / 5 {
                    return;
                }
            }
        };
        tokio::select! {
            () = last => {}
            () = done => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use tokio::time::{Instant, sleep};

    use super::*;

    const EVERY: Duration = Duration::from_secs(120);

    /// When signs are given within this time, with something done every so often.
    async fn given(done_every: Duration, span: Duration) -> Vec<Duration> {
        let (start, awake) = (Instant::now(), Notify::new());
        let seen = Rc::new(RefCell::new(Vec::new()));
        let noted = seen.clone();
        let work = async {
            loop {
                sleep(done_every).await;
                awake.notify_one();
            }
        };
        tokio::select! {
            () = signs(EVERY, &awake, sleep, move || noted.borrow_mut().push(start.elapsed())) => {}
            () = work => {}
            () = sleep(span) => {}
        }
        seen.take()
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_does_nothing_gives_a_sign_twice_in_the_time_that_it_has() {
        let signs = given(EVERY * 1000, EVERY * 2 - Duration::from_secs(1)).await;
        let seconds: Vec<u64> = signs.iter().map(Duration::as_secs).collect();
        assert_eq!(seconds, [0, 60, 120, 180]);
    }

    /// The runtime's clock jumps to its next timer when there is nothing to do: it finds none.
    #[tokio::test(start_paused = true)]
    async fn the_wait_for_a_sign_is_the_kernels_and_no_timer_of_the_runtime() {
        let (awake, mut given) = (Notify::new(), 0);
        tokio::select! {
            () = signs(EVERY, &awake, alarm::after, || given += 1) => {}
            () = sleep(EVERY * 10) => {}
        }
        assert_eq!(given, 1, "only the first, which waits for nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_works_gives_them_when_it_is_awake_and_never_too_late_or_all_the_time() {
        for done_every in [1, 24, 30, 59, 61, 100] {
            let signs = given(Duration::from_secs(done_every), EVERY * 10).await;
            for pair in signs.windows(2) {
                let gap = pair[1] - pair[0];
                assert!((EVERY / 5..=EVERY / 2).contains(&gap), "{done_every} s: {gap:?}");
            }
            if (24..60).contains(&done_every) {
                let own = signs.iter().filter(|sign| sign.as_secs() % done_every != 0).count();
                assert_eq!(own, 0, "{done_every} s: it never wakes up for a sign alone");
            }
        }
    }
}
