//! The `tree` installer: each release in a folder of its own, and one link that says which is current.
//!
//! ```text
//! <install>/<product>/current -> releases/<digest>
//! <install>/<product>/releases/<digest>/<package>/…        the packages, which so switch together
//! <install>/<product>/releases/<digest>/.refit/…           the signed documents, as received
//! ```
//!
//! A release folder has its name only after everything in it was synced and read back by hash; it is
//! not changed after that. A release without packages removes the product: it is current like any
//! other, with nothing but its documents, so that the file system tells that too. Decides nothing about
//! when to switch, and starts nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use refit_proto::{
    names::{Digest, Platform, Product},
    package::{Entry, FileRef},
};

use super::{
    content::ContentStore,
    documents::{self, Documents, DocumentsError},
    files::{self, Action, FileError, Files, Kind},
};

/// How packages of a kind are put on a host. Each is safe to repeat.
pub trait Installer {
    /// Puts the release beside what is installed. Changes nothing that runs.
    ///
    /// # Errors
    /// If the release does not stand there whole, as read back.
    fn prepare(&self, release: &Documents, content: &ContentStore<'_>) -> Result<(), InstallError>;
    /// Makes a prepared release the current one, in one move.
    ///
    /// # Errors
    /// If the one before still is.
    fn switch(&self, product: &Product, release: &Digest) -> Result<(), InstallError>;
    /// Makes current what was before: a link to there, or nothing.
    ///
    /// # Errors
    /// If the new one still is.
    fn revert(&self, product: &Product, before: Option<&Path>) -> Result<(), InstallError>;
    /// Removes what is neither current nor in `keep`, and says what that was. Of a product of which
    /// nothing is current or kept, nothing is left.
    ///
    /// # Errors
    /// If the system refuses; the next call goes on.
    fn clean(
        &self,
        product: &Product,
        keep: &BTreeSet<Digest>,
    ) -> Result<Vec<Digest>, InstallError>;
}

/// Why a release is not installed as it should be.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The disk.
    #[error(transparent)]
    File(#[from] FileError),
    /// The documents of an installed release.
    #[error(transparent)]
    Documents(#[from] DocumentsError),
    /// An installed file is not what the signed manifest says.
    #[error(
        "{} is not what the signed manifest says: {why}\n\
         help: find out who changed it; installing another release and then this one mends it",
        path.display()
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file cannot be placed as the manifest says.
    #[error("{} cannot be placed: {why}\nhelp: correct the release, or make the host fit it", path.display())]
    Unplaceable {
        /// Where.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Something stands at the place of the link that Refit did not put there.
    #[error(
        "{} is not a link that Refit made: {why}\n\
         help: move it away; Refit never replaces what it does not know",
        path.display()
    )]
    Foreign {
        /// Where.
        path: PathBuf,
        /// What stands there.
        why: String,
    },
}

/// Whether files that no manifest names make a tree damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extras {
    /// They do: in a tree that was just made.
    Refused,
    /// They do not: a program may have written beside itself.
    Ignored,
}

/// The installer, for one root folder.
pub struct Tree<'a> {
    files: &'a dyn Files,
    root: PathBuf,
    platform: Platform,
}

/// What a release folder has for a name while it is made, and while it is removed.
const MAKING: &str = ".new";
const REMOVING: &str = ".old";

impl<'a> Tree<'a> {
    /// The installer for this root folder, which is resolved.
    pub fn new(files: &'a dyn Files, root: PathBuf, platform: Platform) -> Tree<'a> {
        Tree { files, root, platform }
    }

    /// The folder of a product.
    pub fn product(&self, product: &Product) -> PathBuf {
        self.root.join(product.as_str())
    }

    /// The link that says which release is current.
    pub fn link(&self, product: &Product) -> PathBuf {
        self.product(product).join("current")
    }

    /// The folder of a release.
    pub fn folder(&self, product: &Product, release: &Digest) -> PathBuf {
        self.releases(product).join(release.to_string())
    }

    /// The releases of a product that stand here, in order.
    ///
    /// # Errors
    /// If their folder cannot be read.
    pub fn standing(&self, product: &Product) -> Result<Vec<Digest>, FileError> {
        let releases = self.releases(product);
        if !files::exists(self.files, &releases)? {
            return Ok(Vec::new());
        }
        let names = self.files.list(&releases)?;
        Ok(names.iter().filter_map(|name| Digest::parse(name.to_str()?).ok()).collect())
    }

    fn releases(&self, product: &Product) -> PathBuf {
        self.product(product).join("releases")
    }

    /// Which release is current; `None` if none is.
    ///
    /// # Errors
    /// If something stands at the link's place that Refit did not put there.
    pub fn current(&self, product: &Product) -> Result<Option<Digest>, InstallError> {
        let link = self.link(product);
        let foreign = |why: String| InstallError::Foreign { path: link.clone(), why };
        let Some(stat) = self.files.stat(&link)? else { return Ok(None) };
        if stat.kind != Kind::Link {
            return Err(foreign("it is not a symbolic link".into()));
        }
        let target = self.files.read_link(&link)?;
        let digest = target.to_str().and_then(|target| target.strip_prefix("releases/"));
        match digest.map(Digest::parse) {
            Some(Ok(digest)) => Ok(Some(digest)),
            _ => Err(foreign(format!("it leads to {}", target.display()))),
        }
    }

    /// The documents of the current release, checked by hash; `None` if none is current.
    ///
    /// # Errors
    /// If they are not there or were changed.
    pub fn installed(&self, product: &Product) -> Result<Option<Documents>, InstallError> {
        let Some(digest) = self.current(product)? else { return Ok(None) };
        self.documents(product, &digest).map(Some)
    }

    /// The documents of a release that stands here.
    ///
    /// # Errors
    /// If they are not there or were changed.
    pub fn documents(
        &self,
        product: &Product,
        release: &Digest,
    ) -> Result<Documents, InstallError> {
        let folder = self.folder(product, release);
        Ok(Documents::load(self.files, &folder, release, &self.platform)?)
    }

    /// The products that have a folder here, in order.
    ///
    /// # Errors
    /// If the root folder cannot be read.
    pub fn products(&self) -> Result<Vec<Product>, FileError> {
        if !files::exists(self.files, &self.root)? {
            return Ok(Vec::new());
        }
        let names = self.files.list(&self.root)?;
        Ok(names.iter().filter_map(|name| Product::parse(name.to_str()?).ok()).collect())
    }

    /// Whether everything of a release stands in its folder as its signed manifests say, by hash.
    ///
    /// # Errors
    /// The first thing that is not as it should be.
    pub fn verify(&self, release: &Documents, extras: Extras) -> Result<(), InstallError> {
        self.verify_at(&self.folder(&release.release.product, &release.id.digest), release, extras)
    }

    fn verify_at(
        &self,
        folder: &Path,
        release: &Documents,
        extras: Extras,
    ) -> Result<(), InstallError> {
        let digest = &release.id.digest;
        let found = Documents::load(self.files, folder, digest, &self.platform)?;
        if found != *release {
            let why = "its documents are of another release".into();
            return Err(InstallError::Damaged { path: folder.to_owned(), why });
        }
        let mut expected = Expected::new();
        for (path, _) in release.files() {
            expected.add(&folder.join(path));
        }
        for package in &release.packages {
            let top = folder.join(package.name.as_str());
            expected.add(&top);
            expected.folder(&top);
            for entry in &package.manifest.entries {
                let path = top.join(entry.path().as_str());
                self.verify_entry(&path, entry)?;
                expected.add(&path);
                if let Entry::Directory { .. } = entry {
                    expected.folder(&path);
                }
            }
        }
        match extras {
            Extras::Refused => {
                expected.add(&folder.join(documents::FOLDER));
                expected.find_extra(self.files, folder)
            }
            Extras::Ignored => Ok(()),
        }
    }

    /// Whether an entry stands at its path as it was signed. One that can't be read is another.
    pub fn is_as_signed(&self, path: &Path, entry: &Entry) -> bool {
        self.verify_entry(path, entry).is_ok()
    }

    fn verify_entry(&self, path: &Path, entry: &Entry) -> Result<(), InstallError> {
        let damaged = |why: String| Err(InstallError::Damaged { path: path.to_owned(), why });
        let Some(stat) = self.files.stat(path)? else { return damaged("it is not there".into()) };
        let (kind, mode) = match entry {
            Entry::Directory { mode, .. } => (Kind::Directory, Some(*mode)),
            Entry::File { mode, .. } => (Kind::File, Some(*mode)),
            Entry::Link { .. } => (Kind::Link, None),
        };
        if stat.kind != kind {
            return damaged(format!("it is a {:?}, not a {kind:?}", stat.kind).to_lowercase());
        }
        if let Some(mode) = mode.filter(|mode| *mode != stat.mode) {
            return damaged(format!("its mode is {:o}, not {mode:o}", stat.mode));
        }
        match entry {
            Entry::Directory { .. } => Ok(()),
            Entry::Link { target, .. } if self.files.read_link(path)? == Path::new(target) => {
                Ok(())
            }
            Entry::Link { .. } => damaged("it leads elsewhere".into()),
            Entry::File { content, .. } => {
                let limit = content.length.saturating_add(1);
                let (sha256, length) = files::copy(self.files, path, None, limit)?;
                if (FileRef { sha256, length }) == *content {
                    Ok(())
                } else {
                    damaged("its bytes are others".into())
                }
            }
        }
    }

    fn fill(
        &self,
        new: &Path,
        release: &Documents,
        content: &ContentStore<'_>,
    ) -> Result<(), InstallError> {
        self.files.create_dir(new, 0o755)?;
        let mut used = BTreeSet::new();
        for package in &release.packages {
            let top = new.join(package.name.as_str());
            self.files.create_dir(&top, 0o755)?;
            let entries = &package.manifest.entries;
            for entry in entries {
                let path = top.join(entry.path().as_str());
                match entry {
                    // Its own mode comes last: it may forbid to put anything into it.
                    Entry::Directory { .. } => self.files.create_dir(&path, 0o700)?,
                    Entry::Link { target, .. } => self.files.symlink(Path::new(target), &path)?,
                    Entry::File { mode, content: wanted, .. } => {
                        let first = used.insert(wanted.sha256);
                        self.place(&path, *mode, wanted, content, first)?;
                    }
                }
            }
            for entry in entries.iter().rev() {
                if let Entry::Directory { path, mode } = entry {
                    let path = top.join(path.as_str());
                    self.files.set_mode(&path, *mode)?;
                    self.files.sync_dir(&path)?;
                }
            }
            self.files.sync_dir(&top)?;
        }
        for (path, bytes) in release.files() {
            let path = new.join(path);
            files::create_dirs(self.files, path.parent().unwrap_or(new), 0o755)?;
            files::write_file(self.files, &path, bytes, 0o644)?;
        }
        Ok(self.files.sync_dir(new)?)
    }

    /// Puts content at its path. Where the content store is on the same file system the file gets a
    /// second name instead of a copy, once: two files of a release, or of two releases, never share
    /// their bytes, since a program may write to its own.
    fn place(
        &self,
        path: &Path,
        mode: u32,
        wanted: &FileRef,
        content: &ContentStore<'_>,
        first: bool,
    ) -> Result<(), InstallError> {
        let source = content.path(&wanted.sha256);
        let alone = self.files.stat(&source)?.is_some_and(|stat| stat.links == 1);
        if first && alone {
            match self.files.hard_link(&source, path) {
                Ok(()) => {
                    self.files.set_mode(path, mode)?;
                    return Ok(self.files.sync_file(path)?);
                }
                Err(error) if cannot_link(error.source.kind()) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut file = self.files.create(path, mode)?;
        let limit = wanted.length.saturating_add(1);
        let to = Some((path, file.as_mut()));
        let (sha256, length) = files::copy(self.files, &source, to, limit)?;
        if (FileRef { sha256, length }) != *wanted {
            let why = "the content that was fetched changed on the disk".into();
            return Err(InstallError::Damaged { path: source, why });
        }
        Ok(file.sync().map_err(FileError::at(Action::Sync, path))?)
    }

    /// Takes a release's name away, durably, and then its files.
    fn discard(&self, folder: &Path) -> Result<(), FileError> {
        let old = hidden(folder, REMOVING);
        files::remove_tree(self.files, &old)?;
        self.files.rename(folder, &old)?;
        files::sync_parent(self.files, folder)?;
        files::remove_tree(self.files, &old).map(drop)
    }
}

/// Whether a copy is needed because this file system, or another one, has no second names.
fn cannot_link(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::CrossesDevices
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::Unsupported
            | io::ErrorKind::TooManyLinks
    )
}

fn hidden(folder: &Path, ending: &str) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    folder.with_file_name(format!(".{name}{ending}"))
}

impl Installer for Tree<'_> {
    fn prepare(&self, release: &Documents, content: &ContentStore<'_>) -> Result<(), InstallError> {
        let product = &release.release.product;
        let folder = self.folder(product, &release.id.digest);
        if files::exists(self.files, &folder)? {
            if self.current(product)? == Some(release.id.digest) {
                return self.verify(release, Extras::Ignored);
            }
            match self.verify(release, Extras::Refused) {
                Ok(()) => return Ok(()),
                // Nothing runs from it, so it can be made again.
                Err(InstallError::Damaged { .. } | InstallError::Documents(_)) => {
                    self.discard(&folder)?;
                }
                Err(error) => return Err(error),
            }
        }
        files::create_dirs(self.files, &self.releases(product), 0o755)?;
        let new = hidden(&folder, MAKING);
        files::remove_tree(self.files, &new)?;
        let made = self
            .fill(&new, release, content)
            .and_then(|()| self.verify_at(&new, release, Extras::Refused));
        if let Err(error) = made {
            // What counts is why it failed; a full disk needs its space back.
            let _best_effort = files::remove_tree(self.files, &new);
            return Err(error);
        }
        self.files.rename(&new, &folder)?;
        Ok(files::sync_parent(self.files, &folder)?)
    }

    fn switch(&self, product: &Product, release: &Digest) -> Result<(), InstallError> {
        // Also says so where something else stands in the link's place.
        if self.current(product)? == Some(*release) {
            return Ok(files::sync_parent(self.files, &self.link(product))?);
        }
        let target = Path::new("releases").join(release.to_string());
        Ok(files::replace_link(self.files, &target, &self.link(product))?)
    }

    fn revert(&self, product: &Product, before: Option<&Path>) -> Result<(), InstallError> {
        self.current(product)?;
        let link = self.link(product);
        match before {
            Some(target) => files::replace_link(self.files, target, &link)?,
            None => files::remove_tree(self.files, &link).map(drop)?,
        }
        Ok(())
    }

    fn clean(
        &self,
        product: &Product,
        keep: &BTreeSet<Digest>,
    ) -> Result<Vec<Digest>, InstallError> {
        let releases = self.releases(product);
        // Before anything is removed: who cannot tell what is current removes nothing.
        let current = self.current(product)?;
        let mut removed = Vec::new();
        let there = files::exists(self.files, &releases)?;
        for name in if there { self.files.list(&releases)? } else { Vec::new() } {
            let path = releases.join(&name);
            let Some(name) = name.to_str() else { continue };
            let ours = |ending| {
                let digest = name.strip_prefix('.').and_then(|name| name.strip_suffix(ending));
                digest.is_some_and(|digest| Digest::parse(digest).is_ok())
            };
            match Digest::parse(name) {
                Ok(digest) if current != Some(digest) && !keep.contains(&digest) => {
                    self.discard(&path)?;
                    removed.push(digest);
                }
                Ok(_) => {}
                Err(_) if ours(MAKING) || ours(REMOVING) => {
                    files::remove_tree(self.files, &path)?;
                }
                // Somebody else's.
                Err(_) => {}
            }
        }
        files::remove_unfinished(self.files, &self.link(product))?;
        if current.is_none() {
            files::remove_if_empty(self.files, &releases)?;
            files::remove_if_empty(self.files, &self.product(product))?;
        }
        Ok(removed)
    }
}

/// What must stand in which folder, and nothing else.
struct Expected {
    names: BTreeMap<PathBuf, BTreeSet<PathBuf>>,
}

impl Expected {
    fn new() -> Expected {
        Expected { names: BTreeMap::new() }
    }

    fn folder(&mut self, folder: &Path) {
        self.names.entry(folder.to_owned()).or_default();
    }

    fn add(&mut self, path: &Path) {
        if let Some(folder) = path.parent() {
            self.names.entry(folder.to_owned()).or_default().insert(path.to_owned());
        }
    }

    fn find_extra(mut self, files: &dyn Files, top: &Path) -> Result<(), InstallError> {
        // The folder of the manifests stands in a folder too.
        let manifests = top.join(documents::FOLDER).join("packages");
        if self.names.contains_key(&manifests) {
            self.add(&manifests);
        }
        for (folder, expected) in &self.names {
            for name in files.list(folder)? {
                let path = folder.join(name);
                if !expected.contains(&path) {
                    let why = "no signed manifest names it".into();
                    return Err(InstallError::Damaged { path, why });
                }
            }
        }
        Ok(())
    }
}

mod differences;
mod mend;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
