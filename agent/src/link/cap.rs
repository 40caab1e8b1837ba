//! How fast content may come, where the host's owner has set a limit: a bucket that fills with time and that
//! every byte is taken from, whoever brings it. The time that is waited here is the host's own, so that a
//! slow link of this kind is never called a stalled one.

use std::{
    io::{self, Read},
    sync::{Arc, Mutex},
    time::Duration,
};

use refit_proto::names::Digest;

use crate::{
    host::content::{Fetch, FetchError},
    update::Running,
};

/// What has been taken of the bytes that time allows. Pure: the time is passed in.
#[derive(Debug, Clone)]
pub struct Bucket {
    rate: u64,
    /// Bytes that may come at once, in parts of a nanosecond's worth: bytes times 1e9.
    level: u128,
    filled: Running,
}

const NANOS: u128 = 1_000_000_000;

impl Bucket {
    /// Full, at this moment. `rate` is bytes per second, at least one.
    pub fn full(rate: u64, now: Running) -> Bucket {
        let rate = rate.max(1);
        Bucket { rate, level: Bucket::holds(rate), filled: now }
    }

    /// A second's worth may come at once.
    fn holds(rate: u64) -> u128 {
        u128::from(rate) * NANOS
    }

    /// How many bytes may be read at once at most.
    pub fn most(&self) -> usize {
        usize::try_from(self.rate).unwrap_or(usize::MAX)
    }

    /// Takes bytes that have come, and says how long to wait before the next are read.
    pub fn take(&mut self, now: Running, bytes: usize) -> Duration {
        let passed = now.since(self.filled).as_nanos();
        self.filled = now;
        let level = self.level.saturating_add(passed.saturating_mul(u128::from(self.rate)));
        let level = level.min(Bucket::holds(self.rate));
        let taken = bytes as u128 * NANOS;
        if taken <= level {
            self.level = level - taken;
            return Duration::ZERO;
        }
        // What is missing will have come by then, and is spent already.
        let missing = (taken - level).div_ceil(u128::from(self.rate));
        let wait = Duration::from_nanos(u64::try_from(missing).unwrap_or(u64::MAX));
        self.level = 0;
        self.filled = now.plus(wait);
        wait
    }
}

/// Content from somewhere, no faster than the bucket allows.
pub struct Capped<'a> {
    from: Box<dyn Fetch + 'a>,
    bucket: Arc<Mutex<Bucket>>,
    now: &'a dyn Fn() -> Running,
    wait: &'a dyn Fn(Duration),
}

impl<'a> Capped<'a> {
    /// What comes from there counts for this bucket; `wait` may end early only where nothing is read any more.
    pub fn new(
        from: Box<dyn Fetch + 'a>,
        bucket: Arc<Mutex<Bucket>>,
        now: &'a dyn Fn() -> Running,
        wait: &'a dyn Fn(Duration),
    ) -> Capped<'a> {
        Capped { from, bucket, now, wait }
    }
}

impl Fetch for Capped<'_> {
    fn frame(&mut self, digest: Digest, offset: u64) -> Result<Box<dyn Read + '_>, FetchError> {
        let Capped { from, bucket, now, wait } = self;
        let reader = from.frame(digest, offset)?;
        Ok(Box::new(Slow { reader, bucket: bucket.clone(), now: *now, wait: *wait }))
    }

    fn another(&mut self, why: &str) -> bool {
        self.from.another(why)
    }
}

struct Slow<'a> {
    reader: Box<dyn Read + 'a>,
    bucket: Arc<Mutex<Bucket>>,
    now: &'a dyn Fn() -> Running,
    wait: &'a dyn Fn(Duration),
}

impl Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = self.bucket().most().min(buffer.len());
        let came = self.reader.read(&mut buffer[..most])?;
        let wait = self.bucket().take((self.now)(), came);
        if !wait.is_zero() {
            (self.wait)(wait);
        }
        Ok(came)
    }
}

impl Slow<'_> {
    fn bucket(&self) -> std::sync::MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    fn at(nanos: u64) -> Running {
        Running::from_nanos(nanos)
    }

    proptest! {
        #[test]
        fn in_any_span_no_more_comes_than_its_time_and_one_bucket_allow(
            rate in 1_u64..10_000_000,
            reads in prop::collection::vec((0_u64..3_000_000_000, 0.0_f64..=1.0), 1..60),
        ) {
            let mut bucket = Bucket::full(rate, at(0));
            let mut now = 0_u64;
            let mut came = vec![(0_u64, 0_u64)];
            for (pause, share) in reads {
                now += pause;
                let bytes = (bucket.most() as f64 * share) as usize;
                came.push((now, bytes as u64));
                now += u64::try_from(bucket.take(at(now), bytes).as_nanos()).unwrap();
            }
            for first in 0..came.len() {
                let mut sum = 0_u128;
                for (moment, bytes) in &came[first..] {
                    sum += u128::from(*bytes);
                    let passed = u128::from(moment - came[first].0);
                    let allowed = u128::from(rate) * passed / NANOS + 2 * u128::from(rate) + 1;
                    prop_assert!(sum <= allowed, "{sum} in {passed} ns at {rate}");
                }
            }
        }
    }

    #[test]
    fn a_long_download_takes_as_long_as_the_rate_says() {
        let now = Cell::new(0_u64);
        let mut bucket = Bucket::full(1000, at(0));
        for _ in 0..100 {
            let wait = bucket.take(at(now.get()), 1000);
            now.set(now.get() + u64::try_from(wait.as_nanos()).unwrap());
        }
        // The first second's worth was there.
        assert_eq!(now.get(), 99 * 1_000_000_000);
    }

    struct Endless;

    impl Fetch for Endless {
        fn frame(&mut self, _: Digest, _: u64) -> Result<Box<dyn Read + '_>, FetchError> {
            Ok(Box::new(io::repeat(7)))
        }
    }

    #[test]
    fn two_downloads_share_one_bucket() {
        let time = Cell::new(0_u64);
        let now = || at(time.get());
        let wait = |span: Duration| time.set(time.get() + u64::try_from(span.as_nanos()).unwrap());
        let bucket = Arc::new(Mutex::new(Bucket::full(500, at(0))));
        for _ in 0..2 {
            let mut capped = Capped::new(Box::new(Endless), bucket.clone(), &now, &wait);
            let mut frame = capped.frame(Digest::of(b""), 0).unwrap();
            frame.read_exact(&mut [0; 5000]).unwrap();
        }
        assert_eq!(time.get(), (10_000 - 500) / 500 * 1_000_000_000);
    }
}
