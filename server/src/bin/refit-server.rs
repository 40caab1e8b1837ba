//! Refit's server.

fn main() {}
