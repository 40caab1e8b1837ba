//! The whole server as its callers see it: over loopback, with real TLS, on a store on disk.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod attacks;
mod bundles;
mod changes;
mod discovery;
mod enrollment;
mod explain;
mod fleet;
mod gate;
mod healing;
mod hours;
mod impact;
mod promotions;
mod publisher;
mod publishing;
mod readmission;
mod reports;
mod rollouts;
mod stolen_keys;
