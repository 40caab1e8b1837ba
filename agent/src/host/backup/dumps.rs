//! Dumps of databases as a part of a backup: sealed by the same index as its files, and brought back by a
//! saved command that needs no agent. How a database is dumped is its recipe's.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use refit_proto::{
    names::Digest,
    package::{Database, FileRef},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    super::{
        database::{aside_name, mysql, postgresql},
        files::{self, Action, FileError, Reading},
        piped::Take,
        process::system_program,
    },
    BackupError, Backups,
};
use crate::{
    update::{BackupId, InstallId},
    way_back::{UndoStep, Undoing},
};

/// A database in a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dump {
    /// Which, as it is on this host.
    pub database: Database,
    /// Whether the release converts it, so that going back brings it back.
    pub converted: bool,
    /// Its dump; `None`: there was no such database.
    pub content: Option<FileRef>,
    /// User and group that its tools run as.
    pub user: (u32, u32),
}

/// In a backup's folder until it is sealed: what was dumped.
const DUMPS: &str = "dumps.json";
/// Longest list of dumps.
const LONGEST: u64 = 1 << 20;

impl Dump {
    /// The command that brings it back.
    fn script(&self) -> Option<&'static [u8]> {
        match (&self.database, self.converted) {
            (_, false) | (Database::Sqlite(_), true) => None,
            (Database::Postgresql(_), true) => Some(include_bytes!("back/postgresql.sh")),
            (Database::Mysql(_), true) => Some(include_bytes!("back/mysql.sh")),
            (Database::Command(_), true) => Some(include_bytes!("back/command.sh")),
        }
    }

    /// Every content that it needs.
    pub(super) fn contents(&self) -> impl Iterator<Item = FileRef> {
        self.content.into_iter().chain(self.script().map(FileRef::to))
    }
}

impl Backups<'_> {
    /// Takes what a tool dumps into a backup, as it comes.
    ///
    /// # Errors
    /// What the tool says, or if there is no room.
    pub(crate) fn take_dump<E: From<BackupError>>(
        &self,
        id: &BackupId,
        dump: &mut dyn FnMut(Take<'_>) -> Result<(), E>,
    ) -> Result<FileRef, E> {
        let new = self.folder(id).join("content").join("dump.new");
        let file = |error: FileError| E::from(BackupError::from(error));
        files::create_dirs(self.files, &self.folder(id).join("content"), 0o700).map_err(file)?;
        files::remove_tree(self.files, &new).map_err(file)?;
        let mut writing = self.files.create(&new, 0o600).map_err(file)?;
        let (mut hash, mut length) = (Sha256::new(), 0_u64);
        let mut full = false;
        let dumped = dump(&mut |bytes| {
            hash.update(bytes);
            length += bytes.len() as u64;
            let written = writing.write_all(bytes);
            full |= written.as_ref().is_err_and(|error| {
                FileError { action: Action::Write, path: new.clone(), source: error.kind().into() }
                    .is_full()
            });
            written
        });
        if let Err(error) = dumped {
            drop(writing);
            files::remove_tree(self.files, &new).map_err(file)?;
            return Err(match full {
                true => self.full(new, length).map_err(file)?.into(),
                false => error,
            });
        }
        writing.sync().map_err(FileError::at(Action::Sync, &new)).map_err(file)?;
        let content = FileRef { sha256: Digest::from(<[u8; 32]>::from(hash.finalize())), length };
        let place = self.content(id, &content.sha256);
        self.files.rename(&new, &place).map_err(file)?;
        files::sync_parent(self.files, &place).map_err(file)?;
        Ok(content)
    }

    /// A content of a backup, to be read.
    ///
    /// # Errors
    /// If it can't be.
    pub fn open(&self, id: &BackupId, content: &FileRef) -> Result<Box<dyn Reading>, FileError> {
        self.files.open(&self.content(id, &content.sha256))
    }

    /// Takes a dump out of a backup that is not sealed.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn drop_dump(&self, id: &BackupId, content: &FileRef) -> Result<(), FileError> {
        files::remove_tree(self.files, &self.content(id, &content.sha256)).map(drop)
    }

    /// What was dumped into a backup that is not sealed.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn dumps(&self, id: &BackupId) -> Result<Vec<Dump>, BackupError> {
        let path = self.folder(id).join(DUMPS);
        if !files::exists(self.files, &path)? {
            return Ok(Vec::new());
        }
        let bytes = self.read(&path, LONGEST)?;
        serde_json::from_slice(&bytes).map_err(|error| super::damaged(&path, error.to_string()))
    }

    /// Says what was dumped into a backup, so that its seal covers it, with the commands that bring it back.
    /// What was dumped before and is not any more is taken out.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn keep_dumps(&self, id: &BackupId, dumps: &[Dump]) -> Result<(), BackupError> {
        let now: Vec<FileRef> = dumps.iter().flat_map(Dump::contents).collect();
        for before in self.dumps(id)?.iter().flat_map(Dump::contents) {
            if !now.contains(&before) {
                self.drop_dump(id, &before)?;
            }
        }
        for script in dumps.iter().filter_map(Dump::script) {
            let place = self.content(id, &Digest::of(script));
            files::create_dirs(self.files, place.parent().unwrap_or(&place), 0o700)?;
            files::write_file(self.files, &place, script, 0o600)?;
        }
        let path = self.folder(id).join(DUMPS);
        if dumps.is_empty() {
            return Ok(files::remove_tree(self.files, &path).map(drop)?);
        }
        // No map with other than string keys and no fallible value: this cannot fail.
        let bytes = serde_json::to_vec(dumps).unwrap_or_default();
        Ok(files::write_file(self.files, &path, &bytes, 0o600)?)
    }

    /// The steps that bring back a database which the release has converted; none for any other.
    pub fn undo_dump(&self, id: &BackupId, turn: &InstallId, dump: &Dump) -> Vec<UndoStep> {
        let Some(script) = dump.script() else { return Vec::new() };
        let place = AsideOf::new(self, turn, dump);
        let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let folder = |path: &Path| Undoing::Folder {
            path: path.to_owned(),
            mode: 0o700,
            uid: own.0,
            gid: own.1,
        };
        let file = |name: &str, digest: Digest| Undoing::File {
            path: place.work.join(name),
            from: self.content(id, &digest),
            digest,
            mode: 0o600,
            uid: own.0,
            gid: own.1,
        };
        let mut steps = vec![
            folder(&self.set_aside()),
            folder(&place.folder),
            Undoing::Remove { path: place.work.clone() },
            folder(&place.work),
            file(SCRIPT, Digest::of(script)),
        ];
        steps.extend(dump.content.map(|content| file(DUMP, content.sha256)));
        let timeout_seconds = dump.database.timeout_seconds().saturating_add(MORE);
        let run = |command| Undoing::Run { command, timeout_seconds };
        steps.extend(self.commands(dump, &place).into_iter().map(run));
        steps.push(folder(&place.done));
        // Once it is there, the release before may have written to it.
        let once =
            steps.into_iter().map(|undoing| UndoStep { undoing, unless: Some(place.done.clone()) });
        once.chain([Undoing::Remove { path: place.work.clone() }.into()]).collect()
    }

    fn commands(&self, dump: &Dump, place: &AsideOf) -> Vec<Vec<String>> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let script = text(&place.work.join(SCRIPT));
        let saved = text(&place.work.join(DUMP));
        let (uid, gid) = (dump.user.0.to_string(), dump.user.1.to_string());
        let from = if dump.content.is_some() { saved.clone() } else { "-".to_owned() };
        let tool = |folder: Option<&str>, names: &[&str]| {
            let first = names.first().copied().unwrap_or_default();
            let found = names.iter().find_map(|name| match folder {
                Some(folder) => Some(Path::new(folder).join(name)),
                None => system_program(name),
            });
            found.map_or_else(|| first.to_owned(), |path| text(&path))
        };
        let shell = || vec!["/bin/sh".to_owned(), script.clone()];
        match &dump.database {
            Database::Postgresql(it) => {
                let folder = it.programs.as_deref();
                let (psql, restore) = (tool(folder, &["psql"]), tool(folder, &["pg_restore"]));
                let aside = aside_name(&place.turn, &it.database);
                let words = [from, it.database.clone(), aside, uid, gid, psql, restore];
                let server = postgresql::server(it);
                vec![shell().into_iter().chain(words).chain(server).collect()]
            }
            Database::Mysql(it) => {
                let client = tool(None, &["mariadb", "mysql"]);
                let dumper = tool(None, &["mariadb-dump", "mysqldump"]);
                let aside = text(&place.file);
                let words = [from, it.database.clone(), aside, uid, gid, client, dumper];
                let server = mysql::server(it);
                vec![shell().into_iter().chain(words).chain(server).collect()]
            }
            Database::Command(it) => {
                let save = ["save".to_owned(), text(&place.file), uid.clone(), gid.clone()];
                let load = ["load".to_owned(), saved, uid, gid];
                let act = |words: [String; 4], command: &[String]| {
                    shell().into_iter().chain(words).chain(command.iter().cloned()).collect()
                };
                vec![act(save, &it.dump), act(load, &it.restore)]
            }
            Database::Sqlite(_) => Vec::new(),
        }
    }
}

/// Names in the folder that a saved command works in.
const SCRIPT: &str = "back.sh";
const DUMP: &str = "dump";
/// Beside loading, a database is also set aside.
const MORE: u32 = 600;

/// Where a way back puts what a release has made of a database.
pub(super) struct AsideOf {
    turn: InstallId,
    folder: PathBuf,
    work: PathBuf,
    /// Its dump, where it is dumped.
    pub(super) file: PathBuf,
    /// There as soon as the database is back.
    pub(super) done: PathBuf,
}

impl AsideOf {
    pub(super) fn new(backups: &Backups<'_>, turn: &InstallId, dump: &Dump) -> AsideOf {
        let folder = backups.set_aside().join(turn.as_str());
        let name = dump.database.name();
        let end = match &dump.database {
            Database::Mysql(_) => "sql",
            Database::Postgresql(_) | Database::Sqlite(_) | Database::Command(_) => "dump",
        };
        AsideOf {
            turn: turn.clone(),
            work: folder.join(format!(".work-{name}")),
            file: folder.join(format!("{name}.{end}")),
            done: folder.join(format!(".done-{name}")),
            folder,
        }
    }

    /// What is kept, in words.
    pub(super) fn named(&self, database: &Database) -> String {
        match database {
            Database::Postgresql(it) => {
                format!("the PostgreSQL database {}", aside_name(&self.turn, &it.database))
            }
            Database::Mysql(_) | Database::Sqlite(_) | Database::Command(_) => {
                self.file.display().to_string()
            }
        }
    }
}
