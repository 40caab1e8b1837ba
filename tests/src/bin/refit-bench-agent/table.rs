//! What is printed: a line for each program, and what the project promises beside what was measured.

use std::time::Duration;

use refit_proto::transport::KEEP_ALIVE;

use super::{Measured, Part};

/// The largest program, in bytes; the promise says megabytes, which are of 10^6.
const MOST_BYTES: u64 = 6_000_000;
/// The largest resident memory of both halves together, as PSS in bytes.
const MOST_MEMORY: u64 = 10_000_000;
/// How much earlier than after the keepalive a moment may come: timers are of this host's kernel, and are
/// looked at ten times a second.
const EARLY: Duration = Duration::from_millis(500);

pub(super) fn print(lines: &[Measured]) {
    println!(
        "{:<34} {:>8} {:>8} {:>9} {:>7} {:>12} {:>8}",
        "program", "file MB", "PSS MB", "processes", "threads", "switches/min", "awake/min"
    );
    for line in lines {
        println!(
            "{:<34} {:>8.2} {:>8.2} {:>9} {:>7} {:>12.0} {:>8.1}   {}",
            line.name,
            mb(line.bytes),
            mb(line.memory()),
            line.parts.len(),
            line.parts.iter().map(|part| part.threads).sum::<u64>(),
            line.parts.iter().map(|part| part.switches_a_minute).sum::<f64>(),
            line.moments_a_minute,
            line.what
        );
        for part in line.parts.iter().filter(|_| line.parts.len() > 1) {
            part.print();
        }
    }
    println!(
        "\nfile: the program alone, stripped as it is shipped, without its libraries; refit-agent needs the C \
         library only.\nPSS: what it would give back if it ended; idle, its own processes.\nswitches: how often \
         a thread went to sleep again, by /proc/PID/status. awake: in how many moments; what is less than a \
         second apart is one."
    );
}

impl Part {
    fn print(&self) {
        let anonymous = mb(self.anonymous);
        println!(
            "{:<34} {:>8} {:>8.2} {:>9} {:>7} {:>12.0} {:>8}   of it {anonymous:.2} MB its own",
            format!("  {}", self.name),
            "",
            mb(self.memory),
            "",
            self.threads,
            self.switches_a_minute,
            ""
        );
    }
}

/// What is promised of ours, what was measured, and how the others compare. Says whether all of it is kept.
pub(super) fn judge(ours: &Measured, others: &[Measured]) -> bool {
    println!();
    let size = kept("program", mb(ours.bytes), mb(MOST_BYTES), "MB", ours.bytes <= MOST_BYTES);
    let memory = ours.memory();
    let memory =
        kept("memory, both halves", mb(memory), mb(MOST_MEMORY), "MB", memory <= MOST_MEMORY);
    let calm = match ours.every {
        Some((mean, shortest)) => {
            let calm = mean + EARLY >= KEEP_ALIVE;
            println!(
                "{} awake every {:.1} s on average, at least {:.1} s apart; not more often than the keepalive of \
                 {} s",
                word(calm),
                mean.as_secs_f64(),
                shortest.as_secs_f64(),
                KEEP_ALIVE.as_secs()
            );
            calm
        }
        None => {
            println!("{} awake less than twice; count for longer", word(false));
            false
        }
    };
    for other in others {
        println!(
            "     {}: {} times our file, {} times our memory, {} times as often awake",
            other.name,
            ratio(mb(other.bytes), mb(ours.bytes)),
            ratio(mb(other.memory()), mb(ours.memory())),
            ratio(other.moments_a_minute, ours.moments_a_minute),
        );
    }
    size && memory && calm
}

fn kept(what: &str, measured: f64, most: f64, unit: &str, kept: bool) -> bool {
    let share = ratio(measured, most);
    println!("{} {what}: {measured:.2} {unit} of at most {most:.2} ({share} times)", word(kept));
    kept
}

fn word(kept: bool) -> &'static str {
    if kept { "pass" } else { "FAIL" }
}

fn ratio(one: f64, other: f64) -> String {
    if other > 0.0 { format!("{:.2}", one / other) } else { "?".to_owned() }
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
