//! Waiting for what processes do in their own time: asks again and again, and gives up with what it saw.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Longest wait for something that takes about a second on an idle machine, where two cores under a whole
/// test suite are up to thirty times slower; or for something that a host does once a minute.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Asks `what` until it answers `Ok(Some(_))`. An error of `what` is not the end: what is asked may not
/// be up yet. Past [`PATIENCE`] the last one is told.
///
/// # Errors
/// If it never came.
pub fn until<T>(claim: &str, mut what: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begun = Instant::now();
    loop {
        let last = match what() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => "it was not so yet".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        if begun.elapsed() > PATIENCE {
            bail!("waited {} s in vain until {claim}: {last}", PATIENCE.as_secs());
        }
        thread::sleep(Duration::from_millis(50));
    }
}
