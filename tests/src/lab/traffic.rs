//! Live traffic: a client that asks again and again while a host is updated, and counts what a user would
//! have noticed.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};

/// Pause between two requests of a client.
const PAUSE: Duration = Duration::from_millis(5);

/// What the clients of a service saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests that were answered.
    pub answered: u32,
    /// Requests that were not, or wrongly.
    pub errors: u32,
    /// From the last answer before to the first one after the longest outage, or between two requests.
    pub longest_gap: Duration,
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gap = self.longest_gap.as_millis();
        write!(f, "{} answered, {} errors, longest gap {gap} ms", self.answered, self.errors)
    }
}

/// A client at work in a thread of its own, in the network of the thread that started it.
#[derive(Debug)]
pub struct Client {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Traffic>,
}

impl Client {
    /// Sends one request after the other; each is an error or was answered.
    pub fn start(mut request: impl FnMut() -> Result<()> + Send + 'static) -> Client {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let mut traffic = Traffic::default();
            let mut last = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                let asked = request();
                let now = Instant::now();
                traffic.longest_gap = traffic.longest_gap.max(now - last);
                match asked {
                    Ok(()) => {
                        traffic.answered += 1;
                        last = now;
                    }
                    Err(_) => traffic.errors += 1,
                }
                thread::sleep(PAUSE);
            }
            traffic
        });
        Client { stop, thread }
    }

    /// Stops it; what it saw.
    ///
    /// # Errors
    /// If the client panicked.
    pub fn stop(self) -> Result<Traffic> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the client panicked"))
    }
}
