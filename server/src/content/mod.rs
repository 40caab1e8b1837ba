//! Content by the digest of its plain bytes, kept as zstd frames. A frame is in its place only after
//! it was unpacked once and found to be what its name says; so whoever finds one here may send it on.

mod folder;
mod unpack;

pub use folder::{ContentError, ContentFolder, Frame, Upload};
