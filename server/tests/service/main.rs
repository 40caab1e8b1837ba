//! The whole server as its callers see it: over loopback, with real TLS, on a store on disk.

mod enrollment;
mod fleet;
mod publisher;
mod publishing;
mod reports;
mod rollouts;
