//! Releases that come in a file, on a host without a network. Decides where such a file waits and whether it
//! may be looked at; what it is worth is decided in [`crate::trusted`] and by digests, as with a server's
//! bytes.

mod open;
mod spool;

use crate::update::InstallId;

pub use open::{Bundle, BundleFrames};
pub use spool::{Answer, Spool, SpoolError};

/// An id that was never used before.
pub fn new_install() -> InstallId {
    let (high, low) = (getrandom::u64(), getrandom::u64());
    let text = format!("{:016x}{:016x}", high.unwrap_or_default(), low.unwrap_or_default());
    #[expect(clippy::unwrap_used, reason = "hex digits are an id")]
    InstallId::parse(&text).unwrap()
}
