//! Refit's own chores.

fn main() {}
