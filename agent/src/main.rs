//! Refit's agent.

fn main() {}
