//! Holds by people on this host, kept in a file of the agent's data folder: they outlive the agent, and can be
//! made where none runs. Decides how many there may be and how long they may be; when one ends is decided in
//! [`crate::update`], and what a hold means for an update too.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use refit_proto::{names::Product, printable::printable};
use serde::{Deserialize, Serialize};

use crate::{
    clock::Clock,
    host::files::{self, Files},
    update::LocalHold,
};

/// The file's name in the data folder.
const FILE: &str = "holds.json";
/// Longest file that is read.
const LONGEST: u64 = 1 << 20;
/// Most holds at a time: a person looks through them.
const MOST: usize = 16;
/// Longest reason, characters.
const LONGEST_WHY: usize = 200;
/// How often what has passed is written down: so much a host may lose of it at a power cut, and a hold be
/// longer by it.
const COUNTED_EVERY: Duration = Duration::from_secs(600);

/// What a person asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewHold {
    /// Of which product; `None`: of all.
    pub product: Option<Product>,
    /// For how long, seconds.
    pub seconds: u64,
    /// Why.
    pub why: String,
    /// Who asked root for it, as `sudo` says.
    #[serde(default)]
    pub by: Option<String>,
}

/// Why there is no such hold.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// No reason is given.
    #[error("a hold needs a reason of at most 200 characters\nhelp: say it with `--why`")]
    Why,
    /// It would end before it began.
    #[error("a hold lasts at least a second\nhelp: name a moment to come, or a span with `--for`")]
    Short,
    /// It would last too long.
    #[error(
        "a hold lasts at most {days} days here: longer, nobody would know of the updates that this host lacks\n\
         help: hold again when it has ended, or let the host's owner set `holds.longest_days`"
    )]
    Long {
        /// What the settings allow.
        days: u64,
    },
    /// There are too many.
    #[error("there are 16 holds already\nhelp: `refit-agent hold list` shows them")]
    Many,
    /// There is none of this name.
    #[error("there is no hold {0}\nhelp: `refit-agent hold list` shows them")]
    None(String),
    /// It is another person's.
    #[error("hold {id} is {who}'s\nhelp: ask that person, or root")]
    Others {
        /// Which.
        id: String,
        /// Whose.
        who: String,
    },
    /// It can't be kept.
    #[error(transparent)]
    File(#[from] files::FileError),
}

/// The holds of this host.
pub struct Holds {
    files: Arc<dyn Files>,
    path: PathBuf,
    clock: Clock,
    longest: Duration,
    /// As they were written down last, and when they were counted.
    known: Mutex<Vec<LocalHold>>,
}

impl Holds {
    /// The holds in this data folder. A record that can't be read is set aside, and counts as one hold of the
    /// greatest length: somebody held something.
    pub fn load(files: Arc<dyn Files>, data: &Path, clock: Clock, longest: Duration) -> Holds {
        let path = data.join(FILE);
        let holds = Holds { files, path, clock, longest, known: Mutex::default() };
        let known = match holds.read() {
            Ok(known) => known,
            Err(why) => holds.instead(&why),
        };
        *holds.known.lock().unwrap_or_else(PoisonError::into_inner) = known;
        holds
    }

    /// Those that hold now.
    pub fn now(&self) -> Vec<LocalHold> {
        self.counted(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn counted(&self, known: &mut Vec<LocalHold>) -> Vec<LocalHold> {
        if known.is_empty() {
            return Vec::new();
        }
        let now = self.clock.moment();
        let counted: Vec<_> = known.iter().map(|hold| hold.clone().at(&now)).collect();
        let holding: Vec<_> = counted.into_iter().filter(|hold| !hold.is_over()).collect();
        let written =
            |hold: &LocalHold| now.since(&hold.seen).is_some_and(|passed| passed < COUNTED_EVERY);
        let current = holding.len() == known.len() && known.iter().all(written);
        if !current {
            match self.write(&holding) {
                Ok(()) => known.clone_from(&holding),
                // Counted on from what is written: nothing is lost but a moment.
                Err(error) => tracing::warn!("holds can't be written down: {error}"),
            }
        }
        holding
    }

    /// Holds, from now on and as long as is asked for.
    ///
    /// # Errors
    /// If it may not, or can't be kept; then nothing is held.
    pub fn add(&self, asked: NewHold, uid: u32) -> Result<LocalHold, HoldError> {
        let why = asked.why.trim();
        if why.is_empty() || why.chars().count() > LONGEST_WHY {
            return Err(HoldError::Why);
        }
        let lasts = Duration::from_secs(asked.seconds);
        if lasts.is_zero() {
            return Err(HoldError::Short);
        }
        if lasts > self.longest {
            return Err(HoldError::Long { days: self.longest.as_secs() / 86_400 });
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut holding = self.counted(&mut known);
        if holding.len() >= MOST {
            return Err(HoldError::Many);
        }
        let seen = self.clock.moment();
        let hold = LocalHold {
            id: new_id(),
            product: asked.product,
            why: printable(why),
            who: self.name(uid, asked.by.as_deref()),
            uid,
            made: seen.wall,
            lasts,
            passed: Duration::ZERO,
            seen,
        };
        holding.push(hold.clone());
        self.write(&holding)?;
        *known = holding;
        tracing::info!(id = %hold.id, who = %hold.who, until = %hold.until(), "held: {}", hold.why);
        Ok(hold)
    }

    /// Ends one before its time. Root ends anybody's, others their own.
    ///
    /// # Errors
    /// If there is none of this name that this person may end, or that can't be written down.
    pub fn release(&self, id: &str, uid: u32) -> Result<LocalHold, HoldError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut holding = self.counted(&mut known);
        let none = || HoldError::None(printable(id));
        let at = holding.iter().position(|hold| hold.id == id).ok_or_else(none)?;
        let hold = holding.remove(at);
        if uid != 0 && uid != hold.uid && uid != rustix::process::getuid().as_raw() {
            return Err(HoldError::Others { id: hold.id, who: hold.who });
        }
        self.write(&holding)?;
        *known = holding;
        tracing::info!(id = %hold.id, uid, "released");
        Ok(hold)
    }

    fn read(&self) -> Result<Vec<LocalHold>, String> {
        let there = self.files.stat(&self.path).map_err(|error| error.to_string())?;
        if there.is_none() {
            return Ok(Vec::new());
        }
        let bytes = files::read_file(&*self.files, &self.path, LONGEST);
        let bytes = bytes.map_err(|error| error.to_string())?;
        let read: Vec<LocalHold> =
            serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        // A longest length that was set lower meanwhile holds for what is there too.
        let shorter = |hold: LocalHold| LocalHold { lasts: hold.lasts.min(self.longest), ..hold };
        Ok(read.into_iter().map(shorter).collect())
    }

    fn write(&self, holds: &[LocalHold]) -> Result<(), files::FileError> {
        if let Some(folder) = self.path.parent() {
            files::create_dirs(&*self.files, folder, 0o700)?;
        }
        let bytes = serde_json::to_vec_pretty(holds).unwrap_or_default();
        files::write_file(&*self.files, &self.path, &bytes, 0o600)
    }

    fn instead(&self, why: &str) -> Vec<LocalHold> {
        tracing::error!("the holds of this host can't be read and are set aside: {why}");
        let seen = self.clock.moment();
        let hold = LocalHold {
            id: new_id(),
            product: None,
            why: format!("{} could not be read; nobody knows who held what", self.path.display()),
            who: "refit-agent".to_owned(),
            uid: 0,
            made: seen.wall,
            lasts: self.longest,
            passed: Duration::ZERO,
            seen,
        };
        let aside = self.path.with_extension("unreadable");
        let moved = files::remove_tree(&*self.files, &aside)
            .and_then(|_| self.files.rename(&self.path, &aside))
            .and_then(|()| self.write(std::slice::from_ref(&hold)));
        if let Err(error) = moved {
            tracing::error!("that they can't be read is not written down: {error}");
        }
        vec![hold]
    }

    /// `alice (1000)`, as far as the host knows the name.
    fn name(&self, uid: u32, by: Option<&str>) -> String {
        let users = files::read_file(&*self.files, Path::new("/etc/passwd"), LONGEST);
        let users = users.unwrap_or_default();
        let users = String::from_utf8_lossy(&users);
        let of = |line: &str| {
            let mut parts = line.split(':');
            let name = parts.next()?.to_owned();
            (parts.nth(1)?.parse() == Ok(uid)).then_some(name)
        };
        let name = users.lines().find_map(of).unwrap_or_else(|| "user".to_owned());
        match by.filter(|by| *by != name) {
            Some(by) => format!("{} as {name} ({uid})", printable(by)),
            None => format!("{name} ({uid})"),
        }
    }
}

fn new_id() -> String {
    // Unique among a handful; without a source of chance all holds of this agent have one name.
    format!("h{:08x}", getrandom::u32().unwrap_or_default())
}

#[cfg(test)]
mod tests;
