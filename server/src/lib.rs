//! Refit's server as a library, so that its parts can be tested without a process.
