//! `cargo xtask lab`: a fleet of booted Debian hosts to try things on by hand, with what can happen to hosts.

use std::{env, os::unix::process::CommandExt as _, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use refit_tests::{
    http,
    lab::{Cable, DebianHost, Lab, SmallDisk},
    process,
    release::Behaviour,
    sandbox::{LIMITS, PRODUCT, Ring, Sandbox, Setup},
    wait::until,
};

/// A fleet of booted Debian hosts, each with its own network, disks and systemd, and the agent from our
/// own package; and what can happen to hosts.
#[derive(Parser)]
#[command(name = "cargo xtask lab", bin_name = "cargo xtask lab")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boot hosts and a server, enroll the hosts, and install payments 1.0 on them
    Up {
        /// How many hosts: host-1 is in the ring pilot, the others in broad
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=100))]
        hosts: u16,
    },
    /// Show the hosts and what each runs
    Status,
    /// Run `refit` as the administrator of this fleet
    #[command(disable_help_flag = true)]
    Refit {
        /// What follows `refit`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Open a shell on a host, or run a command there
    Shell {
        /// The host
        host: String,
        /// A command instead of the shell
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// `kill -9` the agent of a host; systemd starts it again
    Kill {
        /// The host
        host: String,
    },
    /// End everything on a host at once; what was written stays
    PowerCut {
        /// The host
        host: String,
    },
    /// Boot a host again after a power cut
    PowerOn {
        /// The host
        host: String,
    },
    /// Let nothing through a host's cable, and not tell the host
    Partition {
        /// The host
        host: String,
        /// Pull the cable: the host sees that it has no network
        #[arg(long, conflicts_with = "heal")]
        pulled: bool,
        /// Plug the cable in again
        #[arg(long)]
        heal: bool,
    },
    /// Move the clock that the agent of a host sees (libfaketime): +365d, -2h, +0
    Clock {
        /// The host
        host: String,
        /// By how much, from the right time
        #[arg(allow_hyphen_values = true)]
        by: String,
    },
    /// Fill the disks of a host that Refit writes to, to the last byte
    FillDisk {
        /// The host
        host: String,
        /// Give it back
        #[arg(long)]
        free: bool,
    },
    /// End it all and leave nothing behind
    Down,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Up { hosts } => up(hosts),
        Command::Status => status(&Lab::up()?),
        Command::Refit { arguments } => refit(&Lab::up()?, &arguments),
        Command::Shell { host, command } => shell(&named(&host)?, &command),
        Command::Kill { host } => named(&host)?.kill_agent(),
        Command::PowerCut { host } => named(&host)?.cut_power(),
        Command::PowerOn { host } => named(&host)?.power_on(),
        Command::Partition { host, pulled, heal } => {
            let cable = match (heal, pulled) {
                (true, _) => Cable::Plugged,
                (false, true) => Cable::Pulled,
                (false, false) => Cable::Silent,
            };
            named(&host)?.set_cable(cable)
        }
        Command::Clock { host, by } => named(&host)?.move_clock(&by),
        Command::FillDisk { host, free } => {
            let host = named(&host)?;
            for folder in host.disk_folders()? {
                if free { host.free_disk(&folder)? } else { host.fill_disk(&folder)? }
            }
            Ok(())
        }
        Command::Down => Lab::down(),
    }
}

fn named(name: &str) -> Result<DebianHost> {
    let hosts = Lab::up()?.hosts()?;
    let names: Vec<String> = hosts.iter().map(|host| host.name().to_owned()).collect();
    let found = hosts.into_iter().find(|host| host.name() == name);
    found.with_context(|| format!("no host {name}\nhelp: there are {}", names.join(", ")))
}

/// What Refit writes to, on disks that are quickly full.
const DISKS: [SmallDisk; 2] = [
    SmallDisk { at: "/opt/refit", megabytes: 400 },
    SmallDisk { at: "/var/lib/refit-agent", megabytes: 400 },
];

const RINGS: [Ring; 2] =
    [Ring { name: "pilot", limits: LIMITS }, Ring { name: "broad", limits: LIMITS }];

const SERVICE_PORT: u16 = 8080;

fn ring_of(number: u16) -> &'static str {
    if number == 1 { "pilot" } else { "broad" }
}

fn up(hosts: u16) -> Result<()> {
    println!("making the lab (the first time, Debian is fetched) ...");
    let lab = Lab::to_keep()?;
    let setup = Setup {
        kept: Some(lab.folder().join("fleet")),
        address: lab.address(),
        ..Setup::default()
    };
    let mut fleet = Sandbox::set_up(setup, &RINGS)?;
    for (version, behaviour) in
        [("1.0", Behaviour::Good), ("1.1", Behaviour::Good), ("1.2", Behaviour::Unhealthy)]
    {
        fleet.publish(version, behaviour)?;
    }
    for number in 1..=hosts {
        let host = lab.host(&format!("host-{number}"), &DISKS)?;
        host.write("/etc/payments/listen", "0.0.0.0")?;
        let settings = format!(
            "poll_seconds = 1\nrescue_after_seconds = 60\n\n[variables]\nPORT = \"{SERVICE_PORT}\"\n"
        );
        host.enroll(&fleet, &[&format!("ring={}", ring_of(number))], &settings)?;
        println!("{} has booted and is enrolled, in the ring {}", host.name(), ring_of(number));
        lab.keep(host);
    }
    fleet.promote("1.0", "pilot")?;
    fleet.until_rollout("pilot", "1.0", "done")?;
    fleet.promote("1.0", "broad")?;
    for host in lab.hosts()? {
        until(&format!("{} runs payments 1.0", host.name()), || {
            Ok((says(&host)? == "payments 1.0").then_some(()))
        })?;
    }
    fleet.leave_running();
    let page = fleet.status_port();
    lab.stay()?;
    println!();
    status(&lab)?;
    println!(
        "\nThe server's page, in the lab's network namespace (this machine's own network is not touched):\n\
         \n  ip netns exec {name} curl http://127.0.0.1:{page}/\n\
         \nTry:\n\
         \n  cargo xtask lab refit release promote {PRODUCT} 1.1 --to pilot     (good)\
         \n  cargo xtask lab refit release promote {PRODUCT} 1.2 --to pilot     (fails its health check: the host goes back)\
         \n  cargo xtask lab refit rollout status {PRODUCT}\
         \n  cargo xtask lab shell host-1 refit-agent status\
         \n  cargo xtask lab power-cut host-1; cargo xtask lab power-on host-1\
         \n  cargo xtask lab partition host-1; cargo xtask lab partition host-1 --heal\
         \n  cargo xtask lab fill-disk host-1; cargo xtask lab clock host-1 +365d; cargo xtask lab kill host-1\n\
         \nTo end it:  cargo xtask lab down",
        name = lab.network(),
    );
    Ok(())
}

fn says(host: &DebianHost) -> Result<String> {
    let (_, body) = http::get_at(host.at(SERVICE_PORT), "/", Duration::from_secs(2))?;
    Ok(body.trim().to_owned())
}

fn status(lab: &Lab) -> Result<()> {
    println!(
        "{:<10} {:<12} {:<6} {:<12} {:<14} disks",
        "host", "address", "power", "agent", "service"
    );
    for host in lab.hosts()? {
        let (name, address) = (host.name().to_owned(), host.address().to_string());
        if !host.is_on() {
            println!("{name:<10} {address:<12} off");
            continue;
        }
        let agent = host.run(["systemctl", "is-active", "refit-agent"])?.out;
        let service = says(&host).unwrap_or_else(|_| "no answer".to_owned());
        println!(
            "{name:<10} {address:<12} {:<6} {:<12} {service:<14} {}",
            "on",
            agent.trim(),
            disks(&host)?
        );
    }
    Ok(())
}

fn disks(host: &DebianHost) -> Result<String> {
    let folders = host.disk_folders()?;
    let mut words = vec!["df", "--output=target,pcent"];
    words.extend(folders.iter().map(String::as_str));
    let shown = host.good(words)?;
    let rows =
        shown.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>().join(" "));
    Ok(rows.collect::<Vec<_>>().join(", "))
}

fn refit(lab: &Lab, arguments: &[String]) -> Result<()> {
    let mut refit = process::command("refit")?;
    refit.arg("--home").arg(lab.folder().join("fleet/home-alice")).args(arguments);
    Err(refit.stdin(std::process::Stdio::inherit()).exec()).context("refit")
}

fn shell(host: &DebianHost, command: &[String]) -> Result<()> {
    if !host.is_on() {
        bail!("{name} is off\nhelp: cargo xtask lab power-on {name}", name = host.name());
    }
    let term = env::var("TERM").unwrap_or_else(|_| "dumb".to_owned());
    let term = format!("TERM={term}");
    let clean = ["env", "-i", &term, "HOME=/root", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"];
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let wanted = if command.is_empty() { vec!["bash", "-l"] } else { command };
    host.become_command(clean.into_iter().chain(wanted))
}
