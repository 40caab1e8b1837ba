//! What the agent says to `refit-copy`, the helper that carries a host's backups to a second place, and what
//! it hears back. The helper is a program of its own, so that what speaks to object stores and encrypts is
//! never part of the agent. One request comes by standard input and answers go by standard output, as lines
//! of JSON: no secret is ever on a command line.
//!
//! ```text
//! <place>/<host>/packs/<sha256>       files in one pack: compressed, encrypted if that is asked for; named by
//!                                     the hash of these bytes, so that anybody can tell whether it is whole
//! <place>/<host>/backups/<id>.json    one backup: which packs hold it. Written last, removed first
//! ```

mod record;
mod request;

pub use record::{About, Pack, Part, Record, RecordError};
pub use request::{Answer, File, Job, Listed, Place, Request, Verified, Why, is_name, is_sha256};
