//! The second place of this host's backups: another disk, another host, a bucket. What is copied there is
//! read back from there before it counts. Decides what is sent and what is kept there; when that is done,
//! and what follows where it can't be, is decided in [`crate::machine`]. What speaks to the place is a
//! program of its own, `refit-copy`.

mod copied;
mod helper;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use refit_copy::{About, Answer, File, Job, Listed, Pack, Record, Request, Verified, Why};
use refit_proto::{
    gathered::Gathered as _,
    names::{Digest, Product},
    package::FileRef,
};

pub use copied::{Copied, Standing};
pub use helper::{Copier, Helper};

use super::{
    backup::{BackupError, Backups, Index, Kept},
    files::FileError,
};
use crate::{
    settings::SecondSettings,
    update::{BackupId, SealedBackup},
};

/// Why something was not done at the second place.
#[derive(Debug, thiserror::Error)]
pub enum SecondError {
    /// The place, or what is there.
    #[error("the second place of backups: {text}\nhelp: {}", help(*why))]
    Place {
        /// Whose fault.
        why: Why,
        /// What happened.
        text: String,
    },
    /// It took longer than it may.
    #[error(
        "the second place of backups: not done within {} s\n\
         help: give it longer in [backup.second], or look at what makes it slow",
        .0.as_secs()
    )]
    TooSlow(Duration),
    /// The helper can't be used.
    #[error(
        "the second place of backups: {} can't be used: {text}\n\
         help: install refit-copy beside refit-agent; our Debian package brings it",
        program.display()
    )]
    Helper {
        /// The program.
        program: PathBuf,
        /// Why.
        text: String,
    },
    /// Nobody knows by which name the host's folder there goes.
    #[error(
        "the second place of backups: this host is not enrolled, so it has no folder there\n\
         help: enroll it; to look at another host's backups, name it with `--of`"
    )]
    NotEnrolled,
    /// The agent's own files.
    #[error(transparent)]
    File(#[from] FileError),
    /// The backup itself.
    #[error(transparent)]
    Backup(#[from] BackupError),
}

fn help(why: Why) -> &'static str {
    match why {
        Why::Away => "look whether it is mounted, reachable and has room; it is tried again",
        Why::Refused => "look at its rights and at [backup.second] in agent.toml",
        Why::Damaged => "`refit-agent backup verify --second` names what is damaged there",
        Why::Host => "look at [backup.second] in agent.toml and the files that it names",
    }
}

/// The second place of one host.
pub struct Second<'a> {
    settings: &'a SecondSettings,
    /// The name of the host's folder there.
    host: String,
    copier: &'a dyn Copier,
    backups: Backups<'a>,
}

impl<'a> Second<'a> {
    /// The place of these settings, for the host that has this name there.
    pub fn new(
        settings: &'a SecondSettings,
        host: String,
        copier: &'a dyn Copier,
        backups: Backups<'a>,
    ) -> Second<'a> {
        Second { settings, host, copier, backups }
    }

    /// Copies what is saved so far, and reads it back from there. Safe to repeat: what is there already
    /// and still whole is not sent again.
    ///
    /// # Errors
    /// If not all of it is there. What was read back until then is remembered.
    pub fn copy_saved(&self, id: &BackupId) -> Result<(), SecondError> {
        let files = self.backups.content_files(id)?;
        let files = files.into_iter().map(|(file, path)| wire_file(&file, path)).collect();
        let mut copied = self.known(id)?;
        copied.standing = Standing::Begun;
        self.save(id, copied, files, None, self.settings.within)?;
        let mut copied = self.known(id)?;
        copied.standing = Standing::Saved;
        Ok(self.backups.keep_copied(id, &copied)?)
    }

    /// Copies the rest of a sealed backup and then what makes it count there.
    ///
    /// # Errors
    /// If it does not count there. What was read back until then is remembered.
    pub fn copy_sealed(
        &self,
        sealed: &SealedBackup,
        index: &Index,
        within: Duration,
        now: i64,
    ) -> Result<(), SecondError> {
        let id = &sealed.id;
        let content = index.content();
        let mut files: Vec<File> = content
            .iter()
            .map(|file| wire_file(file, self.backups.content_path(id, &file.sha256)))
            .collect();
        let (path, length) = self.backups.index_file(id)?;
        files.push(wire_file(&FileRef { sha256: sealed.seal, length }, path));
        let version = |release: &Option<crate::update::ReleaseId>| {
            release.as_ref().map(|release| release.version.to_string())
        };
        let record = Record::new(About {
            host: self.host.clone(),
            id: id.to_string(),
            product: index.product.to_string(),
            from: version(&index.from),
            to: version(&index.to),
            made: index.made,
            order: index.order(),
            seal: sealed.seal.to_string(),
            bytes: content.iter().map(|file| file.length).sum(),
        });
        let copied = self.known(id)?;
        self.save(id, copied, files, Some(record), within)?;
        let mut copied = self.known(id)?;
        copied.standing = Standing::Whole { at: now };
        Ok(self.backups.keep_copied(id, &copied)?)
    }

    /// Remembers that a backup is not there.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn note_failed(&self, id: &BackupId, text: &str, now: i64) -> Result<(), SecondError> {
        let mut copied = self.known(id)?;
        copied.standing = Standing::Failed { at: now, text: text.to_owned() };
        Ok(self.backups.keep_copied(id, &copied)?)
    }

    fn save(
        &self,
        id: &BackupId,
        mut copied: Copied,
        files: Vec<File>,
        record: Option<Record>,
        within: Duration,
    ) -> Result<(), SecondError> {
        // With the services down, what was read back a moment ago is not read again.
        let own = std::mem::take(&mut copied.packs);
        let names: BTreeSet<&str> = own.iter().map(|pack| pack.sha256.as_str()).gathered();
        let mut unsure = self.known_of_others(id)?;
        unsure.retain(|pack| !names.contains(pack.sha256.as_str()));
        let sure = match copied.standing {
            Standing::Saved => own,
            Standing::Begun | Standing::Whole { .. } | Standing::Failed { .. } => {
                unsure.extend(own);
                Vec::new()
            }
        };
        let job = Job::Save {
            files,
            unsure,
            sure: sure.clone(),
            encrypt_to: self.settings.encrypt_to.clone(),
            record,
        };
        copied.packs = sure;
        let mut failed = None;
        let done = self.run(job, within, &mut |answer| {
            if let Answer::Stored { pack } = answer {
                copied.packs.push(pack);
                if failed.is_none() {
                    failed = self.backups.keep_copied(id, &copied).err();
                }
            }
        });
        match failed {
            Some(error) => Err(error.into()),
            None => done,
        }
    }

    /// What is known to be there of a backup; nothing where the place or its encryption was another then.
    fn known(&self, id: &BackupId) -> Result<Copied, SecondError> {
        let place = self.place_mark();
        let known = self.backups.copied(id)?.filter(|copied| copied.place == place);
        Ok(known.unwrap_or_else(|| Copied::nothing(place)))
    }

    fn known_of_others(&self, id: &BackupId) -> Result<Vec<Pack>, SecondError> {
        let mut packs = BTreeMap::new();
        for other in self.backups.list()?.iter().filter(|other| *other != id) {
            let known = self.known(other)?.packs;
            packs.extend(known.into_iter().map(|pack| (pack.sha256.clone(), pack)));
        }
        Ok(packs.into_values().collect())
    }

    /// Tells one place, name and encryption from another.
    fn place_mark(&self) -> Digest {
        let mark = (&self.settings.place, &self.host, &self.settings.encrypt_to);
        // No map with other than string keys and no fallible value: this cannot fail.
        Digest::of(&serde_json::to_vec(&mark).unwrap_or_default())
    }

    /// Removes copies of a product's backups that retention does not keep, but for those that are `held`,
    /// and then the packs that no copy needs.
    ///
    /// # Errors
    /// If it can't be done now; the next call goes on.
    pub fn clean(
        &self,
        product: &Product,
        held: &BTreeSet<BackupId>,
        now: i64,
    ) -> Result<(), SecondError> {
        let mut kept = Vec::new();
        for listed in self.list()? {
            let Listed::Recorded { record } = listed else { continue };
            let Ok(id) = BackupId::parse(&record.id) else { continue };
            if record.product == product.as_str() {
                let packs = record.packs.iter().filter_map(|pack| {
                    Some(FileRef { sha256: Digest::parse(&pack.sha256).ok()?, length: pack.length })
                });
                let (order, made) = (record.order(), record.made);
                kept.push(Kept { id, order, made, content: packs.gathered() });
            }
        }
        let remove = self.settings.retention.surplus(&kept, held, now);
        // What was sent and is not recorded there yet.
        let mut keep = BTreeSet::new();
        for id in self.backups.list()? {
            let known = self.known(&id)?;
            match known.standing {
                Standing::Whole { .. } => {}
                Standing::Begun | Standing::Saved | Standing::Failed { .. } => {
                    keep.extend(known.packs.into_iter().map(|pack| pack.sha256));
                }
            }
        }
        let remove = remove.iter().map(ToString::to_string).collect();
        let job = Job::Prune { remove, keep: keep.into_iter().collect() };
        self.run(job, self.settings.within, &mut |_| {})
    }

    /// The backups that are there.
    ///
    /// # Errors
    /// If the place can't be asked.
    pub fn list(&self) -> Result<Vec<Listed>, SecondError> {
        let mut found = Vec::new();
        self.run(Job::List, self.settings.within, &mut |answer| {
            if let Answer::List { backups } = answer {
                found = backups;
            }
        })?;
        Ok(found)
    }

    /// The hosts that have backups there.
    ///
    /// # Errors
    /// If the place can't be asked.
    pub fn hosts(&self) -> Result<Vec<String>, SecondError> {
        let mut found = Vec::new();
        self.run(Job::Hosts, self.settings.within, &mut |answer| {
            if let Answer::Hosts { hosts } = answer {
                found = hosts;
            }
        })?;
        Ok(found)
    }

    /// Reads backups back from there, all of them if none is named.
    ///
    /// # Errors
    /// If the place can't be asked. What is damaged there is no error.
    pub fn verify(&self, ids: &[BackupId]) -> Result<Vec<Verified>, SecondError> {
        let mut found = Vec::new();
        let ids = ids.iter().map(ToString::to_string).collect();
        self.run(Job::Verify { ids }, self.settings.within, &mut |answer| {
            if let Answer::Verified { verified } = answer {
                found.push(verified);
            }
        })?;
        Ok(found)
    }

    /// Fetches a backup into a folder that is there and empty, as it lay on its host.
    ///
    /// # Errors
    /// If it can't be fetched whole.
    pub fn fetch(
        &self,
        id: &BackupId,
        to: &Path,
        identity: Option<&Path>,
    ) -> Result<Record, SecondError> {
        let job = Job::Fetch {
            id: id.to_string(),
            to: to.to_owned(),
            identity: identity.map(Path::to_owned),
        };
        let mut found = None;
        self.run(job, self.settings.within, &mut |answer| {
            if let Answer::Fetched { record } = answer {
                found = Some(record);
            }
        })?;
        found.ok_or_else(|| SecondError::Place {
            why: Why::Host,
            text: "the helper ended without an answer".into(),
        })
    }

    fn run(
        &self,
        job: Job,
        within: Duration,
        heard: &mut dyn FnMut(Answer),
    ) -> Result<(), SecondError> {
        let request = Request { place: self.settings.place.clone(), host: self.host.clone(), job };
        let mut failed = None;
        self.copier.run(&request, within, &mut |answer| match answer {
            Answer::Failed { why, text } => failed = Some(SecondError::Place { why, text }),
            answer => heard(answer),
        })?;
        failed.map_or(Ok(()), Err)
    }
}

fn wire_file(file: &FileRef, path: PathBuf) -> File {
    File { sha256: file.sha256.to_string(), length: file.length, path }
}
