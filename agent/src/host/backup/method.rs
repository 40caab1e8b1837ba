//! By which methods a backup may get hold of what it saves, in which order, and what each takes. What fits
//! is decided in preflight; what can be done at all is tried here, on the disk.

use refit_proto::{names::Digest, package::FileRef};
use serde::Deserialize;

use super::{
    super::{
        files::{self, FileError},
        preflight::{BLOCK, on_disk},
    },
    BackupError, Backups, Cover,
    scan::{self, LooksAt},
};
use crate::update::BackupMethod;

/// What the host's owner may name as a method, in settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Clones.
    Reflink,
    /// Copies.
    Copy,
    /// For data that stays as it is, somebody else's backup stands. All else is saved by the other methods.
    Outside,
}

impl From<BackupMethod> for Method {
    fn from(method: BackupMethod) -> Method {
        match method {
            BackupMethod::Reflink => Method::Reflink,
            BackupMethod::Copy => Method::Copy,
        }
    }
}

impl Method {
    fn as_str(self) -> &'static str {
        match self {
            Method::Reflink => "reflink",
            Method::Copy => "copy",
            Method::Outside => "outside",
        }
    }

    fn saves(self) -> Option<BackupMethod> {
        match self {
            Method::Reflink => Some(BackupMethod::Reflink),
            Method::Copy => Some(BackupMethod::Copy),
            Method::Outside => None,
        }
    }
}

/// The methods that the host's owner allows, the one to be tried first first. Each once, and never without one
/// that saves something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Methods(Vec<Method>);

impl Default for Methods {
    /// What costs nothing where it can be had, else a copy.
    fn default() -> Methods {
        Methods(vec![Method::Reflink, Method::Copy])
    }
}

/// One turn of the order: what is tried together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Who has the data.
    pub data: DataBy,
    /// How all else is saved, in order.
    pub methods: Vec<BackupMethod>,
}

/// Who has a copy of data that stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataBy {
    /// This host, as of all else.
    Us,
    /// Somebody else, who proves it.
    Outside,
}

impl Methods {
    /// In this order.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(order: Vec<Method>) -> Result<Methods, String> {
        let twice = |nth: usize| order[..nth].contains(&order[nth]);
        if let Some(nth) = (0..order.len()).find(|nth| twice(*nth)) {
            return Err(format!("names {} twice", order[nth].as_str()));
        }
        match order.iter().any(|method| method.saves().is_some()) {
            true => Ok(Methods(order)),
            false => {
                Err("must name reflink or copy, or configuration could not be saved".to_owned())
            }
        }
    }

    /// Whether somebody else's word may stand for data.
    pub fn ask_outside(&self) -> bool {
        self.0.contains(&Method::Outside)
    }

    /// What is tried, in order: with `outside` after those that stand before it, each of which would have
    /// saved data too.
    pub fn turns(&self) -> Vec<Turn> {
        let saving: Vec<BackupMethod> = self.0.iter().filter_map(|method| method.saves()).collect();
        let mut turns: Vec<Turn> = Vec::new();
        for method in &self.0 {
            match (method.saves(), turns.last_mut()) {
                (None, _) => turns.push(Turn { data: DataBy::Outside, methods: saving.clone() }),
                (Some(method), Some(Turn { data: DataBy::Us, methods })) => methods.push(method),
                (Some(method), _) => {
                    turns.push(Turn { data: DataBy::Us, methods: vec![method] });
                }
            }
        }
        turns
    }

    /// The same where there is no data for which somebody else could stand.
    pub fn without_outside(&self) -> Vec<Turn> {
        let methods = self.0.iter().filter_map(|method| method.saves()).collect();
        vec![Turn { data: DataBy::Us, methods }]
    }

    fn allows(&self, method: BackupMethod) -> bool {
        self.0.contains(&method.into())
    }
}

/// How a backup is made and tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saving {
    /// By which method: the first that fits.
    pub by: BackupMethod,
    /// By which it may be.
    pub methods: Methods,
    /// Most bytes that are restored for a test; of a larger backup a sample is.
    pub restore_test: u64,
}

impl Default for Saving {
    /// As agents of before: by copying, and all of it is restored once.
    fn default() -> Saving {
        Saving { by: BackupMethod::Copy, methods: Methods::default(), restore_test: u64::MAX }
    }
}

impl Saving {
    /// Whether files are cloned where they can be.
    pub(super) fn clones(&self) -> bool {
        match self.by {
            BackupMethod::Reflink => true,
            BackupMethod::Copy => false,
        }
    }

    /// Whether what can't be cloned may be copied.
    pub(super) fn copies(&self) -> bool {
        self.by == BackupMethod::Copy || self.methods.allows(BackupMethod::Copy)
    }
}

/// What a backup by one method takes, in the agent's data folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// The method.
    pub method: BackupMethod,
    /// Bytes, the test's among them.
    pub bytes: u64,
    /// Files, folders and links.
    pub inodes: u64,
}

/// What one covered path holds.
struct Found {
    data: u64,
    inodes: u64,
    clones: bool,
}

impl Backups<'_> {
    /// What the backup and its test take by each method that can be used here, allowed or not.
    ///
    /// # Errors
    /// If something that is covered cannot be read or saved.
    pub fn costs(&self, covers: &[Cover]) -> Result<Vec<Cost>, BackupError> {
        let mut found = Vec::new();
        for cover in covers {
            found.push(self.look_at(cover)?);
        }
        let can_clone = found.iter().any(|found| found.clones);
        let methods = [can_clone.then_some(BackupMethod::Reflink), Some(BackupMethod::Copy)];
        let costs = methods.into_iter().flatten().map(|method| self.cost(method, &found));
        Ok(costs.collect())
    }

    fn cost(&self, method: BackupMethod, found: &[Found]) -> Cost {
        let (mut bytes, mut inodes) = (0_u64, 8_u64);
        for found in found {
            // What is cloned takes no room; its test is cloned from the backup, on the same file system.
            let data = if found.clones && method == BackupMethod::Reflink { 0 } else { found.data };
            bytes = bytes.saturating_add(data);
            inodes = inodes.saturating_add(found.inodes);
        }
        // A folder and a link may each take a block; a line of the index each is less than that.
        let blocks = inodes.saturating_mul(BLOCK);
        let test = bytes.min(self.saving.restore_test).saturating_add(blocks);
        Cost {
            method,
            bytes: bytes.saturating_add(blocks).saturating_add(test),
            inodes: inodes.saturating_mul(2),
        }
    }

    fn look_at(&self, cover: &Cover) -> Result<Found, BackupError> {
        let (mut data, mut first) = (0_u64, None);
        let scanned = scan::scan(self.files, cover, LooksAt::Lengths, &mut |path, stat| {
            let length = files::data_length(self.files, path, stat.length)?;
            data = data.saturating_add(on_disk(length));
            if stat.length > 0 && first.is_none() {
                first = Some(path.to_owned());
            }
            Ok(Some(FileRef { sha256: Digest::of(b""), length: stat.length }))
        })?;
        let clones = match first {
            Some(path) => self.can_clone(&path)?,
            None => false,
        };
        Ok(Found { data, inodes: scanned.entries.len() as u64, clones })
    }

    /// Whether this file can be cloned into the agent's data folder: tried, since no table tells it.
    fn can_clone(&self, path: &std::path::Path) -> Result<bool, FileError> {
        let root = self.root();
        files::create_dirs(self.files, &root, 0o700)?;
        let probe = root.join(".clone-probe");
        files::remove_tree(self.files, &probe)?;
        match self.files.clone_file(path, &probe, 0o600) {
            Ok(cloned) => {
                files::remove_tree(self.files, &probe)?;
                Ok(cloned)
            }
            // It is gone or changes just now; whatever is wrong is found where it is saved.
            Err(error) if error.path == path => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
