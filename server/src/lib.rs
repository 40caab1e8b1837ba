//! Refit's server as a library, so that its parts can be tested without a process.

pub mod access;
pub mod audit;
pub mod ca;
pub mod clock;
pub mod content;
pub mod enrollment;
pub mod fleet;
pub mod identity;
pub mod keys;
pub mod publication;
pub mod reports;
pub mod rollout;
pub mod settings;
pub mod status;
pub mod store;
pub mod tls;
pub mod web;
