//! Refit's own chores: `cargo xtask demo`, `test`, `bench`, `lab`, `dist`, `tidy`, `powercuts`, `fuzz`.

mod bench;
mod cargo;
mod demo;
mod dist;
mod fuzz;
mod lab;
mod powercuts;
mod reference;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Refit's own chores.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Shows the main job end to end on this machine: a server, six hosts, three rings, a good release,
    /// a bad one that goes back by itself, and a tampered one that is refused.
    Demo(demo::Arguments),
    /// Measures what is promised to be small or fast, beside others of the field.
    Bench(bench::Arguments),
    /// Runs every test and check. What this machine can't run is listed at the end.
    Test(test::Arguments),
    /// Gives every parser inputs that nobody thought of, for a bounded time.
    Fuzz(fuzz::Arguments),
    /// Boots a fleet of Debian hosts to try things on: up, shell, kill, power-cut, partition, clock, down ...
    Lab(lab::Arguments),
    /// Makes what others install.
    Dist(dist::Arguments),
    /// Cuts the power, and lets files fail, at every operation of whole updates, and counts what survives.
    Powercuts,
    /// Checks the layout and the invariants that can be read off the source.
    Tidy,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().chore {
        Chore::Demo(arguments) => demo::run(&arguments),
        Chore::Bench(arguments) => bench::run(&arguments),
        Chore::Test(arguments) => test::run(&arguments),
        Chore::Fuzz(arguments) => fuzz::run(&arguments),
        Chore::Lab(arguments) => lab::run(&arguments),
        Chore::Dist(arguments) => dist::run(arguments),
        Chore::Powercuts => powercuts::run(),
        Chore::Tidy => tidy::run(),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
