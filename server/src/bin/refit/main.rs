//! refit, the administrator's command.

fn main() {}
