//! Refit's agent: what brings a host to the release that it may run, watches it there, and brings it
//! back. The life of an update is decided in [`update`], which touches nothing; [`drive`] saves, then
//! acts; what touches the machine or the network is in adapters around them.

pub mod bundle;
pub mod clock;
pub mod drive;
pub mod holds;
pub mod host;
pub mod identity;
pub mod journal;
pub mod journald;
pub mod link;
pub mod machine;
pub mod offline;
pub mod outbox;
pub mod qualify;
pub mod report;
pub mod restore;
pub mod run;
pub mod settings;
pub mod status;
pub mod steps;
pub mod trusted;
pub mod unit;
pub mod update;
pub mod version;
pub mod way_back;
pub mod witness;
