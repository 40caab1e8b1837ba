//! What going back has set aside: kept, and noted in a file beside it, until a person releases it.
//!
//! ```text
//! <data>/set-aside/<turn>/set-aside.json    what there is of one way back
//! ```

use std::{collections::BTreeSet, path::PathBuf};

use refit_proto::{
    gathered::Gathered as _,
    names::Product,
    package::{Database, Sqlite},
};
use serde::{Deserialize, Serialize};

use super::{
    super::{
        database::aside_name,
        files::{self, FileError},
    },
    BackupError, Backups, Covered, Dump, Index, Role, damaged,
    dumps::AsideOf,
    undo::aside_of,
};
use crate::{
    update::{BackupId, InstallId, ReleaseId, SetAside},
    way_back::{Undoing, WayBack},
};

/// What one way back has set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aside {
    /// Which way back: the update that it undid, or the request of a person.
    pub id: InstallId,
    /// Of which product.
    pub product: Product,
    /// Which release had written it; `None` if the backup did not say.
    pub release: Option<ReleaseId>,
    /// What there is.
    pub items: Vec<Item>,
}

/// One thing that was set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Where, and of data, from when to when it was written.
    #[serde(flatten)]
    pub kept: SetAside,
    /// The database beside which it is kept, where it is one of a server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<Database>,
}

const NOTE: &str = "set-aside.json";
/// Longest note: each thing in it takes a few hundred bytes.
const LONGEST: u64 = 16 << 20;

impl Item {
    /// The name of the database that it is, where it is one of a server.
    pub fn aside(&self, turn: &InstallId) -> Option<String> {
        match self.database.as_ref()? {
            Database::Postgresql(it) => Some(aside_name(turn, &it.database)),
            Database::Mysql(_) | Database::Sqlite(_) | Database::Command(_) => None,
        }
    }
}

impl Backups<'_> {
    /// What is set aside on this host, by the way back that did it. A folder whose note can't be read is
    /// named with what is in it by no product.
    ///
    /// # Errors
    /// If it can't be listed.
    pub fn asides(&self) -> Result<Vec<Aside>, BackupError> {
        let mut found = Vec::new();
        if !files::exists(self.files, &self.set_aside())? {
            return Ok(found);
        }
        for name in self.files.list(&self.set_aside())? {
            let Some(id) = name.to_str().and_then(|name| InstallId::parse(name).ok()) else {
                continue;
            };
            found.extend(self.noted_aside(&id)?);
        }
        Ok(found)
    }

    /// What one way back has set aside; `None`: nothing.
    ///
    /// # Errors
    /// If its note can't be read.
    pub fn noted_aside(&self, turn: &InstallId) -> Result<Option<Aside>, BackupError> {
        let note = self.set_aside().join(turn.as_str()).join(NOTE);
        if !files::exists(self.files, &note)? {
            return Ok(None);
        }
        let bytes = self.read(&note, LONGEST)?;
        let aside = serde_json::from_slice(&bytes);
        aside.map(Some).map_err(|error| damaged(&note, error.to_string()))
    }

    /// Removes the files of what one way back has set aside, its note last.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn remove_aside(&self, turn: &InstallId) -> Result<(), FileError> {
        let folder = self.set_aside().join(turn.as_str());
        for name in self.files.list(&folder)? {
            if name != NOTE {
                files::remove_tree(self.files, &folder.join(name))?;
            }
        }
        files::remove_tree(self.files, &folder).map(drop)
    }

    pub(super) fn note_aside(
        &self,
        index: &Index,
        turn: &InstallId,
        kept: &[SetAside],
        databases: &[(SetAside, Database)],
    ) -> Result<(), BackupError> {
        let files = kept.iter().map(|kept| Item { kept: kept.clone(), database: None });
        let databases = databases
            .iter()
            .map(|(kept, database)| Item { kept: kept.clone(), database: Some(database.clone()) });
        let before = self.noted_aside(turn)?;
        let mut items = before.map(|aside| aside.items).unwrap_or_default();
        let news: Vec<Item> = files.chain(databases).filter(|item| !items.contains(item)).collect();
        if news.is_empty() {
            return Ok(());
        }
        items.extend(news);
        let (product, release) = (index.product.clone(), index.to.clone());
        let aside = Aside { id: turn.clone(), product, release, items };
        let folder = self.set_aside().join(turn.as_str());
        files::create_dirs(self.files, &folder, 0o700)?;
        // No map with other than string keys and no fallible value: this cannot fail.
        let bytes = serde_json::to_vec(&aside).unwrap_or_default();
        Ok(files::write_file(self.files, &folder.join(NOTE), &bytes, 0o600)?)
    }

    /// What is kept of one covered path.
    pub(super) fn kept_of(
        &self,
        index: &Index,
        turn: &InstallId,
        covered: &Covered,
        n: u32,
    ) -> Result<Option<SetAside>, BackupError> {
        if let Some((main, n)) = main_of(index, covered) {
            // Goes where its file is, and is named with that.
            let with = files::exists(self.files, &self.kept_at(turn, main, n))?;
            self.keep_aside(turn, covered, n, with)?;
            return Ok(None);
        }
        let mut whole = false;
        // Whether it is the same is told by what it holds, not by who had it open.
        let holds =
            |beside: &&Covered| !beside.path.as_os_str().as_encoded_bytes().ends_with(b"-shm");
        for beside in satellites(index, covered).filter(holds) {
            whole |= !self.is_as_saved(beside, &aside_of(&beside.path, turn))?;
        }
        let Some(path) = self.keep_aside(turn, covered, n, whole)? else { return Ok(None) };
        let written = match covered.role {
            Role::Converted => Some((index.made, self.newest(&path)?)),
            Role::Link | Role::Unit | Role::Placed | Role::Declared | Role::Data => None,
        };
        Ok(Some(SetAside { place: path.display().to_string(), written }))
    }

    /// What is kept of one database.
    pub(super) fn kept_of_database(
        &self,
        index: &Index,
        turn: &InstallId,
        dump: &Dump,
    ) -> Result<Option<(SetAside, Database)>, BackupError> {
        let place = AsideOf::new(self, turn, dump);
        let Some(done) = self.files.stat(&place.done)? else { return Ok(None) };
        let file = self.files.stat(&place.file)?;
        let until = file.map_or(done.modified, |file| file.modified).seconds;
        let kept =
            SetAside { place: place.named(&dump.database), written: Some((index.made, until)) };
        Ok(Some((kept, dump.database.clone())))
    }

    /// When anything there was written last, in seconds since 1970.
    fn newest(&self, path: &std::path::Path) -> Result<i64, FileError> {
        let Some(stat) = self.files.stat(path)? else { return Ok(0) };
        let mut newest = stat.modified.seconds;
        if stat.kind == files::Kind::Directory {
            for name in self.files.list(path)? {
                newest = newest.max(self.newest(&path.join(name))?);
            }
        }
        Ok(newest)
    }

    /// Where what stood at a covered path is kept.
    pub(super) fn kept_at(&self, turn: &InstallId, covered: &Covered, n: u32) -> PathBuf {
        let name = covered.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.set_aside().join(turn.as_str()).join(format!("{n}-{name}"))
    }

    /// The backups from which a way back brings something back: mostly one.
    pub(super) fn brought_back_from(&self, way_back: &WayBack) -> BTreeSet<BackupId> {
        let froms = way_back.steps.iter().filter_map(|step| match &step.undoing {
            Undoing::File { from, .. } => from.strip_prefix(self.root()).ok(),
            _ => None,
        });
        let ids = froms.filter_map(|from| BackupId::parse(from.iter().next()?.to_str()?).ok());
        ids.chain(way_back.backup().ok()).gathered()
    }
}

/// The file of SQLite that something is kept beside, and its number.
fn main_of<'a>(index: &'a Index, covered: &Covered) -> Option<(&'a Covered, u32)> {
    if covered.role != Role::Converted {
        return None;
    }
    let is_main =
        |main: &Covered| satellites(index, main).any(|beside| beside.path == covered.path);
    index.covered.iter().zip(0..).find(|(main, _)| is_main(main))
}

/// What SQLite keeps beside a file of its own.
fn satellites<'a>(index: &'a Index, main: &Covered) -> impl Iterator<Item = &'a Covered> {
    let files = Sqlite::files(&main.path.to_string_lossy());
    let is_converted = main.role == Role::Converted;
    index.covered.iter().filter(move |it| {
        let beside = files.iter().skip(1).any(|file| it.path.as_os_str() == file.as_str());
        is_converted && it.role == Role::Converted && beside
    })
}
