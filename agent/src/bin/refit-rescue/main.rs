//! `refit-rescue`: brings a host back to what ran before an update when its agent can't. A program of its
//! own that shares no code with the agent: what breaks one must not break the other. It knows no
//! installer, no network and no clock but the host's running time; it reads the way back that the agent
//! left (docs/decisions/0002-way-back.md) and does its steps.
//!
//! Its timer is armed before the first change and looks every so often; at boot it runs before any
//! product starts; and systemd starts it when it gives the agent up. `judge.rs` decides whether to go back.

mod disk;
mod judge;
mod owners;
mod systemd;
mod undo;
mod watch;
mod way_back;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustix::time::{ClockId, clock_gettime};

use crate::{
    disk::AgentLock,
    judge::{Occasion, Reason},
    systemd::{Start, Systemd},
    watch::{Kept, Watch},
    way_back::{Undoing, WayBack},
};

const HELP: &str = "\
Brings a host back to what ran before an update, when its agent can't

Usage: refit-rescue <COMMAND> [--data FOLDER]

Commands:
  arm     Starts the timer that looks after the update under way; the agent calls it before the first change
  tick    Looks whether it is time to go back; the timer calls it
  boot    The same while the host boots, before the products start; refit-rescue.service calls it
  failed  Goes back if an update is under way; systemd calls it when it gives the agent up
  back    Goes back now, whoever runs; for a person who can't wait
  show    Says what would happen, and changes nothing

Options:
  --data FOLDER  The agent's folder [default: /var/lib/refit-agent]
";

/// How long the agent may take to end before the host goes back beside it.
const ENDING: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("refit-rescue: {error:#}\nhelp: docs/RUNBOOK.md, \"Stuck host\"");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut words = std::env::args_os().skip(1);
    let command = words.next().and_then(|word| word.into_string().ok()).unwrap_or_default();
    let data = match (words.next(), words.next(), words.next()) {
        (None, None, None) => PathBuf::from("/var/lib/refit-agent"),
        (Some(option), Some(data), None) if option == "--data" => data.into(),
        _ => bail!("what follows the command is not understood\n\n{HELP}"),
    };
    let host = || Rescuer::at(&data);
    if !data.exists() && matches!(command.as_str(), "boot" | "tick") {
        // Not enrolled yet: nothing was ever changed.
        return Ok(());
    }
    match command.as_str() {
        "arm" => host()?.arm(),
        "tick" => host()?.look(Occasion::Tick),
        "boot" => host()?.look(Occasion::Boot),
        "failed" => host()?.look(Occasion::AgentFailed),
        "back" => host()?.look(Occasion::ByHand),
        "show" => host()?.show(),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        "" => bail!("no command\n\n{HELP}"),
        other => bail!("no command {other:?} is known\n\n{HELP}"),
    }
}

/// Running time since the host booted, with the time that it was suspended.
fn running() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    Duration::from_secs(part(time.tv_sec)) + Duration::from_nanos(part(time.tv_nsec))
}

/// The rescuer of one agent.
struct Rescuer {
    data: PathBuf,
    boot: String,
    kept: Kept,
    systemd: Systemd,
}

impl Rescuer {
    fn at(data: &Path) -> Result<Rescuer> {
        // The agent writes its own paths resolved, too.
        let data = data
            .canonicalize()
            .with_context(|| format!("the agent's folder {}", data.display()))?;
        let boot = "/proc/sys/kernel/random/boot_id";
        let boot = std::fs::read_to_string(boot).context(boot)?.trim().to_owned();
        let name = way_back::hex(data.as_os_str().as_encoded_bytes());
        let in_memory = Path::new("/run/refit-rescue").join(&name[..16]);
        let kept = Kept { on_disk: data.join("way-back.watch"), in_memory };
        Ok(Rescuer { data, boot, kept, systemd: Systemd })
    }

    fn way_back(&self) -> Result<Option<WayBack>> {
        let path = self.data.join("way-back");
        let Some(bytes) = disk::read(&path)? else { return Ok(None) };
        let parsed = WayBack::parse(&bytes);
        parsed.map(Some).with_context(|| format!("{} can't be used", path.display()))
    }

    fn watch(&self, way_back: &WayBack) -> Watch {
        let install = &way_back.install;
        let known = self.kept.load(install, &self.boot);
        known.unwrap_or_else(|| Watch::begin(install, &self.boot, running()))
    }

    fn arm(&self) -> Result<()> {
        let Some(way_back) = self.way_back()? else { bail!("no way back is there to look after") };
        self.kept.save(&self.watch(&way_back));
        self.systemd.arm(&self.data, judge::period(&way_back))
    }

    fn agent_lock(&self) -> PathBuf {
        self.data.join("lock")
    }

    /// Whether an agent works on the folder. Where nobody can say, one does: a lock that can't be made is
    /// no proof.
    fn agent_runs(&self) -> bool {
        AgentLock::is_held(&self.agent_lock()).unwrap_or(true)
    }

    fn looked(&self, way_back: &WayBack, occasion: Occasion) -> Watch {
        let mut watch = self.watch(way_back);
        let agent_runs = self.agent_runs();
        judge::count(&mut watch, way_back, occasion, agent_runs, &self.boot, running());
        watch
    }

    fn look(&self, occasion: Occasion) -> Result<()> {
        let done = self.looked_after(occasion);
        if occasion == Occasion::AgentFailed {
            // However often it failed, it is tried again: there is nobody else to report.
            self.systemd.start_agent();
        }
        done
    }

    fn looked_after(&self, occasion: Occasion) -> Result<()> {
        let Some(way_back) = self.way_back()? else {
            self.kept.forget();
            self.systemd.disarm();
            return Ok(());
        };
        let watch = self.looked(&way_back, occasion);
        self.kept.save(&watch);
        let reason = match self.begun(&way_back) {
            // Done, or cut short and now in the agent's hands.
            Some((_, true)) => return Ok(()),
            Some((_, false)) if occasion != Occasion::ByHand && self.agent_runs() => return Ok(()),
            Some((reason, false)) => Some(reason),
            None => judge::judge(&watch, &way_back, occasion),
        };
        match (reason, occasion) {
            (Some(reason), _) => self.go_back(&way_back, reason, occasion),
            (None, Occasion::Boot) => {
                self.systemd.arm(&self.data, judge::period(&way_back))?;
                self.start_products(&way_back);
                Ok(())
            }
            (None, Occasion::Tick | Occasion::AgentFailed | Occasion::ByHand) => Ok(()),
        }
    }

    /// What is to run after going back runs also in the middle of the update, should nothing else start it.
    fn start_products(&self, way_back: &WayBack) {
        for step in &way_back.steps {
            if let Undoing::StartUnit { unit } = &step.undoing
                && let Err(error) = self.systemd.start(unit, Start::InTurn)
            {
                eprintln!("{unit} could not be started: {error:#}");
            }
        }
    }

    fn go_back(&self, way_back: &WayBack, reason: Reason, occasion: Occasion) -> Result<()> {
        eprintln!("going back to what ran before the update {}: {reason}", way_back.install);
        if occasion != Occasion::Boot {
            self.systemd.stop_agent();
        }
        // Held to the end, so that no agent begins meanwhile.
        let lock = AgentLock::wait(&self.agent_lock(), ENDING).unwrap_or_default();
        if lock.is_none() {
            eprintln!(
                "an agent still has {}; the host goes back all the same",
                self.data.display()
            );
        }
        // On a full disk this fails, and the first steps make room.
        let noted = self.note(way_back, reason, "begun");
        let start = if occasion == Occasion::Boot { Start::InTurn } else { Start::Now };
        let back = undo::run(way_back, &self.systemd, start);
        let result =
            back.as_ref().map_or_else(|error| format!("failed: {error:#}"), |()| "back".into());
        let noted = self.note(way_back, reason, &result).or(noted);
        drop(lock);
        if occasion == Occasion::Boot {
            self.systemd.arm(&self.data, judge::period(way_back))?;
        } else {
            self.systemd.start_agent();
        }
        back.and(noted)
    }

    /// The record that the agent reads when it starts.
    fn note(&self, way_back: &WayBack, reason: Reason, result: &str) -> Result<()> {
        let result = result.replace('\n', " ");
        let install = &way_back.install;
        let text =
            format!("refit-rescued 1\ninstall {install}\nreason {reason}\nresult {result}\n");
        let end = way_back::hex(text.as_bytes());
        disk::write(&self.data.join("rescued"), format!("{text}end {end}\n").as_bytes())
    }

    /// Why the rescuer began to go back from this update, and whether it has come to the end.
    fn begun(&self, way_back: &WayBack) -> Option<(Reason, bool)> {
        let bytes = disk::read(&self.data.join("rescued")).ok()??;
        let body = way_back::sealed(std::str::from_utf8(&bytes).ok()?).ok()?;
        let value =
            |name: &str| body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        if value("install")? != way_back.install {
            return None;
        }
        let word = value("reason")?;
        let reason = Reason::ALL.into_iter().find(|reason| reason.as_str() == word)?;
        Some((reason, value("result")? == "back"))
    }

    fn show(&self) -> Result<()> {
        let Some(way_back) = self.way_back()? else {
            println!("no update is under way; nothing would be done");
            return Ok(());
        };
        let watch = self.looked(&way_back, Occasion::Tick);
        println!("update {}", way_back.install);
        println!("used {} of {} s", watch.used.as_secs(), way_back.patience.as_secs());
        println!("without an agent {} of {} s", watch.gone.as_secs(), way_back.alone.as_secs());
        println!("started {} of {} times", watch.starts, way_back.starts);
        for step in &way_back.steps {
            println!("step {}", step.line);
        }
        Ok(())
    }
}
