//! What every parser holds to, whatever it is given: it never panics, never needs more than its limit, and
//! what it takes it writes again as it read it. Each function is a fuzz target (`cargo xtask fuzz`), and
//! every test run replays their corpus, `fuzz/corpus/TARGET/`: good ones, hostile ones made by hand, and
//! whatever fuzzing has found.

mod archive;
mod bundle;
mod manifest;
mod metadata;
#[cfg(test)]
mod replay;
mod token;
mod wire;

pub use self::{
    archive::archive, bundle::bundle, manifest::manifest, metadata::metadata, token::token,
    wire::wire,
};

/// A fuzz target.
pub type Target = fn(&[u8]);

/// All of them, by name.
pub const TARGETS: [(&str, Target); 6] = [
    ("archive", archive),
    ("bundle", bundle),
    ("manifest", manifest),
    ("metadata", metadata),
    ("token", token),
    ("wire", wire),
];
