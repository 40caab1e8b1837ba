//! Long waits that wake this process once, when they are over. The timers of the runtime are kept by wheels: one
//! that is far away wakes the process some seconds ahead as well, to be moved to a finer wheel.

use std::{io, time::Duration};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::{Interest, unix::AsyncFd};

/// From here on a wait is long: the second wheel of the runtime reaches so far, and its slots are of 64 ms.
const LONG: Duration = Duration::from_secs(4);

/// Waits for so long, as time runs while the host is awake.
pub(super) async fn after(span: Duration) {
    if span < LONG {
        return tokio::time::sleep(span).await;
    }
    let begun = tokio::time::Instant::now();
    if let Err(error) = by_kernel(span).await {
        // It is only calmer: where no more files can be opened, the call comes all the same.
        tracing::debug!(%error, "a wait is kept by the runtime");
        tokio::time::sleep_until(begun + span).await;
    }
}

async fn by_kernel(span: Duration) -> io::Result<()> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
    let it_value = Timespec::try_from(span).map_err(io::Error::other)?;
    let once = Itimerspec { it_interval: Timespec::default(), it_value };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &once)?;
    #[expect(deprecated, reason = "safe for a file that is owned; what replaces it is unsafe code")]
    let timer = AsyncFd::with_interest(timer, Interest::READABLE)?;
    let _rung = timer.readable().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn a_long_wait_ends_by_the_kernels_timer_and_not_before() {
        let (begun, span) = (Instant::now(), Duration::from_millis(50));
        by_kernel(span).await.unwrap();
        assert!(begun.elapsed() >= span);
    }

    #[tokio::test]
    async fn a_wait_that_is_given_up_leaves_nothing_and_others_go_on() {
        let (begun, span) = (Instant::now(), Duration::from_millis(50));
        tokio::select! {
            () = after(Duration::from_secs(3600)) => panic!("too early"),
            rung = by_kernel(span) => rung.unwrap(),
        }
        assert!(begun.elapsed() >= span);
        by_kernel(span).await.unwrap();
        assert!(begun.elapsed() >= span * 2);
    }
}
