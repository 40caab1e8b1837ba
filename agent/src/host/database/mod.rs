//! Databases by recipes: each is dumped into the backup, loaded again and compared by its own tools, which
//! run as its own user. No tool gets a shell, and nothing is put into a command of SQL but names that need
//! no quoting. Decides nothing about when; what a database is stands in the manifest.
//!
//! ```text
//! <data>/scratch/<name>.json     a database that is made to try a dump, written before it is made
//! <data>/scratch/<name>/         the same of SQLite, whose databases are files
//! ```

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use refit_proto::{
    names::Digest,
    package::{Data, DataUse, Database, ExpandError, FileRef, Variables},
};

use super::{
    backup::{BackupError, Backups, Dump},
    files::{self, FileError, Files},
    piped::{PipeError, Take},
    preflight::on_disk,
};
use crate::update::{BackupId, InstallId};

mod by_command;
mod compare;
mod expand;
pub(super) mod mysql;
pub(super) mod postgresql;
mod sqlite;
mod tool;

use compare::{Contents, difference};
use tool::Tools;

/// Why a database is not saved.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// One of its tools failed.
    #[error("the database {database} cannot be {action}: {why}")]
    Tool {
        /// Which database.
        database: String,
        /// What was tried.
        action: &'static str,
        /// What came of it.
        why: String,
    },
    /// One of its tools is not here.
    #[error(
        "the database {database} needs {program}, which is not on this host\n\
         help: install it, or name the folder that it is in"
    )]
    Missing {
        /// Which database.
        database: String,
        /// Which tool.
        program: String,
    },
    /// What was dumped does not bring back what is there.
    #[error("the dump of the database {database} does not bring back what is there: {why}")]
    Unequal {
        /// Which database.
        database: String,
        /// What is different.
        why: String,
    },
    /// It is written to while nobody should.
    #[error(
        "the database {database} is written to while its services are down: {why}\n\
         help: find out who writes to it"
    )]
    Busy {
        /// Which database.
        database: String,
        /// What is different.
        why: String,
    },
    /// What the manifest says of it makes no sense here.
    #[error("the database {database} cannot be saved here: {why}")]
    Unfit {
        /// Which database.
        database: String,
        /// Why.
        why: String,
    },
    /// A variable that is not there.
    #[error(transparent)]
    Variable(#[from] ExpandError),
    /// The disk.
    #[error(transparent)]
    File(#[from] FileError),
    /// The backup.
    #[error(transparent)]
    Backup(#[from] BackupError),
}

/// How much a database takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Size {
    /// Bytes of a dump, at most.
    pub dump: u64,
    /// Where it lies on this host, if it does, and its bytes there.
    pub at: Option<(PathBuf, u64)>,
}

/// What a kind of database can do. `scratch` is the name of a database of ours.
trait Recipe {
    /// How much it takes; `None`: there is no such database.
    fn size(&self) -> Result<Option<Size>, DatabaseError>;
    /// What is in it.
    fn look(&self) -> Result<Contents, DatabaseError>;
    /// Dumps it. How many bytes of that are loaded in a test; `None`: all.
    fn dump(&self, scratch: &str, take: Take<'_>) -> Result<Option<u64>, DatabaseError>;
    /// Loads a dump into the scratch and says what is in it then; `None`: it is as its check says.
    fn load(
        &self,
        scratch: &str,
        dump: Box<dyn io::Read + Send>,
    ) -> Result<Option<Contents>, DatabaseError>;
    /// Removes the scratch, if it is there.
    fn clear(&self, scratch: &str) -> Result<(), DatabaseError>;
}

/// Whether the services of the product run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// They do, and write.
    Running,
    /// They are stopped.
    AtRest,
}

/// How often a database that is written to is dumped again, until the dump can be compared.
const TRIES: u32 = 5;

/// The databases of this host.
pub struct Databases<'a> {
    files: &'a dyn Files,
    data: PathBuf,
}

impl<'a> Databases<'a> {
    /// With scratch places below this data folder.
    pub fn new(files: &'a dyn Files, data: PathBuf) -> Databases<'a> {
        Databases { files, data }
    }

    /// A package's databases as they are on this host, unless its release leaves them alone.
    ///
    /// # Errors
    /// A variable that is not there, or makes of a name what is none.
    pub fn of(data: &Data, variables: &Variables) -> Result<Vec<Database>, DatabaseError> {
        if data.used == DataUse::Untouched {
            return Ok(Vec::new());
        }
        data.databases.iter().map(|database| expand::expand(database, variables)).collect()
    }

    fn recipe(&self, database: &Database) -> Result<Box<dyn Recipe + 'a>, DatabaseError> {
        let tools = |user: &str| Tools::of(self.files, database, user, &self.data);
        Ok(match database {
            Database::Postgresql(it) => Box::new(postgresql::Recipe::new(it, tools(&it.user)?)?),
            Database::Mysql(it) => Box::new(mysql::Recipe::new(it, tools(&it.user)?)?),
            Database::Sqlite(it) => {
                let scratch = self.scratches();
                Box::new(sqlite::Recipe::new(self.files, it, tools("")?, scratch)?)
            }
            Database::Command(it) => Box::new(by_command::Recipe::new(it, tools(&it.user)?)),
        })
    }

    /// The numbers of the user that its tools run as.
    ///
    /// # Errors
    /// If the host does not know it.
    pub fn user(&self, database: &Database) -> Result<(u32, u32), DatabaseError> {
        let user = match database {
            Database::Postgresql(it) => &it.user,
            Database::Mysql(it) => &it.user,
            Database::Command(it) => &it.user,
            Database::Sqlite(_) => "",
        };
        Ok(Tools::of(self.files, database, user, &self.data)?.numbers())
    }

    /// How much it takes, asked of itself; `None`: there is no such database.
    ///
    /// # Errors
    /// If it can't be asked.
    pub fn size(&self, database: &Database) -> Result<Option<Size>, DatabaseError> {
        self.recipe(database)?.size()
    }

    /// Dumps a database into a backup, loads the dump into a scratch and compares; then the scratch is gone.
    ///
    /// # Errors
    /// If there is no dump that brings back what is there. The scratch is gone all the same.
    pub fn save(
        &self,
        backups: &Backups<'_>,
        id: &BackupId,
        database: &Database,
        used: DataUse,
        when: When,
    ) -> Result<Dump, DatabaseError> {
        let recipe = self.recipe(database)?;
        let converted = used == DataUse::Converted;
        let mut dump = Dump {
            database: database.clone(),
            converted,
            content: None,
            user: self.user(database)?,
        };
        if recipe.size()?.is_none() {
            return Ok(dump);
        }
        let scratch = scratch_name(id, database);
        self.note(&scratch, database)?;
        let saved = self.try_save(&*recipe, backups, id, database, when, &scratch);
        // Whatever came of it. What can't be removed now stays noted, and is removed later.
        let cleared = recipe.clear(&scratch);
        if cleared.is_ok() {
            self.forget(&scratch)?;
        }
        dump.content = Some(saved?);
        cleared?;
        Ok(dump)
    }

    fn try_save(
        &self,
        recipe: &dyn Recipe,
        backups: &Backups<'_>,
        id: &BackupId,
        database: &Database,
        when: When,
        scratch: &str,
    ) -> Result<FileRef, DatabaseError> {
        let name = || database.name().to_string();
        recipe.clear(scratch)?;
        let mut before = recipe.look()?;
        let mut tries = 0;
        loop {
            tries += 1;
            let mut loaded = None;
            let content = backups.take_dump(id, &mut |take| {
                loaded = recipe.dump(scratch, take)?;
                Ok::<(), DatabaseError>(())
            })?;
            let after = recipe.look()?;
            if let (When::AtRest, Some(why)) = (when, difference(&before, &before, &after)) {
                return Err(DatabaseError::Busy { database: name(), why });
            }
            let dump = backups.open(id, &content)?;
            let dump = io::Read::take(dump, loaded.unwrap_or(u64::MAX));
            let Some(restored) = recipe.load(scratch, Box::new(dump))? else { return Ok(content) };
            let Some(why) = difference(&before, &after, &restored) else { return Ok(content) };
            if before == after || tries == TRIES {
                return Err(DatabaseError::Unequal { database: name(), why });
            }
            // Written to and back again between the looks, it may be: once more.
            backups.drop_dump(id, &content)?;
            recipe.clear(scratch)?;
            before = after;
        }
    }

    /// Removes every scratch that a killed agent has left. What can't be removed is tried again.
    pub fn clear_scratches(&self) {
        if let Err(error) = self.try_clear_scratches() {
            tracing::warn!("a scratch database is left for now: {error}");
        }
    }

    fn try_clear_scratches(&self) -> Result<(), DatabaseError> {
        if !files::exists(self.files, &self.scratches())? {
            return Ok(());
        }
        for file in self.files.list(&self.scratches())? {
            let Some(name) = file.to_str().and_then(|name| name.strip_suffix(".json")) else {
                continue;
            };
            let bytes = files::read_file(self.files, &self.scratches().join(&file), 1 << 20)?;
            // One that is cut was not made yet.
            if let Ok(database) = serde_json::from_slice::<Database>(&bytes) {
                self.recipe(&database)?.clear(name)?;
            }
            self.forget(name)?;
        }
        Ok(())
    }

    fn scratches(&self) -> PathBuf {
        self.data.join("scratch")
    }

    fn note(&self, scratch: &str, database: &Database) -> Result<(), FileError> {
        files::create_dirs(self.files, &self.scratches(), 0o700)?;
        // No map with other than string keys and no fallible value: this cannot fail.
        let bytes = serde_json::to_vec(database).unwrap_or_default();
        let path = self.scratches().join(format!("{scratch}.json"));
        files::write_file(self.files, &path, &bytes, 0o600)
    }

    fn forget(&self, scratch: &str) -> Result<(), FileError> {
        files::remove_tree(self.files, &self.scratches().join(format!("{scratch}.json"))).map(drop)
    }

    /// Removes a database that was set aside.
    ///
    /// # Errors
    /// If its server refuses.
    pub fn remove_aside(&self, database: &Database, aside: &str) -> Result<(), DatabaseError> {
        self.recipe(database)?.clear(aside)
    }
}

/// Named for the backup and the database, so that a repeated step finds what it has left.
fn scratch_name(id: &BackupId, database: &Database) -> String {
    named("refit_scratch_", &[id.as_str(), database.name().as_str()])
}

/// The name of a PostgreSQL database that a way back sets aside: another in each turn.
pub(super) fn aside_name(turn: &InstallId, database: &str) -> String {
    // At most 63 bytes are a name there.
    named(&format!("{database}_refit_"), &[turn.as_str(), database])
}

fn named(start: &str, of: &[&str]) -> String {
    let digest = Digest::of(of.join("\n").as_bytes()).to_string();
    format!("{start}{}", digest.get(..12).unwrap_or_default())
}

/// Bytes of files at these paths.
fn length(files: &dyn Files, paths: &[String]) -> Result<Option<u64>, FileError> {
    let mut found = None;
    for path in paths {
        if let Some(stat) = files.stat(Path::new(path))? {
            found = Some(found.unwrap_or(0) + on_disk(stat.length));
        }
    }
    Ok(found)
}

/// In words, and by the database.
fn failed(database: &Database, action: &'static str) -> impl FnOnce(PipeError) -> DatabaseError {
    let database = database.name().to_string();
    move |error| DatabaseError::Tool { database, action, why: error.in_short() }
}

/// How long a tool may take that only asks.
const ASKING: Duration = Duration::from_secs(120);
