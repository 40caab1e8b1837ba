//! Whether a new release of the agent may take over from the one that runs. It is asked on the host itself:
//! the new program is run beside the old one, in a folder where it can do no harm, and has to show what it
//! will need: that it reads this host's settings and journal, verifies a signed release, makes and restores
//! a backup, writes a way back that both rescuers follow, and reaches the server. What it says is one line of
//! JSON in a file; the old one judges it, and reads what the new one wrote.
//!
//! ```text
//! <data>/qualify/state/         a copy of the journal; the new one saves the update there as in Probation
//! <data>/qualify/trust/         a copy of the signed metadata
//! <data>/qualify/before/        a way back as the old one writes it
//! <data>/qualify/way-back       one as the new one writes it
//! <data>/qualify/answer.json    what the new one says
//! ```
//!
//! The command line and the answer are between two versions of the agent, so they only grow: a later one
//! understands this one's question, and this one what a later one answers.

mod answer;
mod sample;
mod tasks;

pub use answer::{Answer, Checked, Finding, Task, judge};
pub use sample::{of_every_kind, sample_way_back};
pub use tasks::{Question, answer};

/// Of the folder to qualify in, below the agent's data.
pub const SCRATCH: &str = "qualify";
/// In that folder: the copy of the journal,
pub const STATE: &str = "state";
/// the copy of the signed metadata,
pub const TRUST: &str = "trust";
/// a way back of the old one's,
pub const BEFORE: &str = "before";
/// and the answer.
pub const ANSWER: &str = "answer.json";
