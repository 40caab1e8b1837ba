//! The `files` installer: each file of a release at its own place on the host. `etc/motd` in the tree is
//! `/etc/motd`. The release stands whole in its folder below the install root first, as with `tree`; from
//! there each file is copied beside its place, read back by hash, and put there in one move.
//!
//! Folders that were there stay as they are. Those that had to be made are written down in the product's
//! folder first, so that exactly they go when nothing needs them any more. Decides nothing about when, and
//! saves nothing: what stood there is in the backup by [`Placed::covers`].

mod differences;
mod mend;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    path::{Path, PathBuf},
};

use refit_proto::{
    gathered::Gathered as _,
    package::{Entry, FileRef, Installer, PlacedAs},
};

use super::{
    backup::{BackupError, Cover, Role, resolve},
    documents::Documents,
    files::{self, Action, FileError, Files, Kind},
    preflight::on_disk,
    tree::InstallError,
};
use crate::way_back::{UndoStep, Undoing};

/// The installer, on this host.
pub struct Placed<'a> {
    files: &'a dyn Files,
    /// The agent's own folders, where nothing is placed.
    own: [&'a Path; 2],
}

/// One thing of a release at its place.
struct Target<'r> {
    at: PathBuf,
    package: &'r str,
    entry: &'r Entry,
    placed_as: Option<&'r PlacedAs>,
}

impl Target<'_> {
    fn mode(&self) -> Option<u32> {
        let mode = match self.entry {
            Entry::Directory { mode, .. } | Entry::File { mode, .. } => Some(*mode),
            Entry::Link { .. } => None,
        };
        self.placed_as.and_then(|placed| placed.mode).or(mode)
    }
}

/// The folders that were made for a product, one path a line, in the product's folder.
const FOLDERS: &str = "folders";
/// Largest list of users, groups or folders that is read.
const LONGEST: u64 = 16 << 20;

impl<'a> Placed<'a> {
    /// On this host, whose agent has these folders.
    pub fn new(files: &'a dyn Files, own: [&'a PathBuf; 2]) -> Placed<'a> {
        Placed { files, own: own.map(PathBuf::as_path) }
    }

    fn targets<'r>(&self, release: &'r Documents) -> Result<Vec<Target<'r>>, BackupError> {
        let mut targets = Vec::new();
        for package in &release.packages {
            let manifest = &package.manifest;
            if manifest.installer != Installer::Files {
                continue;
            }
            let placed_as: BTreeMap<_, _> =
                manifest.files.iter().map(|placed| (&placed.path, placed)).gathered();
            for entry in &manifest.entries {
                let path = Path::new("/").join(entry.path().as_str());
                targets.push(Target {
                    at: self.place_of(&path, entry)?,
                    package: package.name.as_str(),
                    entry,
                    placed_as: placed_as.get(entry.path()).copied(),
                });
            }
        }
        Ok(targets)
    }

    /// A folder that is a link on this host, such as `/bin`, is followed; a file is what it is.
    fn place_of(&self, path: &Path, entry: &Entry) -> Result<PathBuf, BackupError> {
        match entry {
            Entry::Directory { .. } => {
                let inside = path.join("x");
                let inside = self.files.resolve(&inside)?;
                Ok(inside.parent().unwrap_or(path).to_owned())
            }
            Entry::File { .. } | Entry::Link { .. } => resolve(self.files, path, &self.own),
        }
    }

    /// Whether all of the release can be placed here: its owners are known, and no place is the agent's.
    ///
    /// # Errors
    /// What can't be.
    pub fn check(&self, release: &Documents) -> Result<(), InstallError> {
        let targets = self.targets(release).map_err(unplaceable)?;
        let mut seen = BTreeSet::new();
        for target in &targets {
            self.owner(target)?;
            let is_folder = matches!(target.entry, Entry::Directory { .. });
            if !is_folder && !seen.insert(&target.at) {
                return Err(refused(&target.at, "two files of the release would stand there"));
            }
        }
        Ok(())
    }

    /// What has to be saved before `after` takes the place of `before`: each file that is replaced or taken
    /// away, and the folders that will be made for new ones.
    ///
    /// # Errors
    /// A place where nothing could be brought back.
    pub fn covers(
        &self,
        before: Option<&Documents>,
        after: &Documents,
    ) -> Result<Vec<Cover>, BackupError> {
        let (mut places, mut made) = (BTreeSet::new(), BTreeSet::new());
        for release in before.into_iter().chain([after]) {
            for target in self.targets(release)? {
                match target.entry {
                    Entry::Directory { .. } => made.extend(self.first_missing(&target.at)?),
                    Entry::File { .. } | Entry::Link { .. } => {
                        let parent = target.at.parent().unwrap_or(&target.at);
                        made.extend(self.first_missing(parent)?);
                        places.insert(target.at);
                    }
                }
            }
        }
        let places = places.into_iter().map(|path| Cover { path, role: Role::Placed });
        // After the files: what is left in them then was not placed, and is set aside.
        let made = made.into_iter().map(|path| Cover { path, role: Role::Declared });
        Ok(places.chain(made).collect())
    }

    /// The folder nearest to the root that is not there yet, of those that lead to this one.
    fn first_missing(&self, folder: &Path) -> Result<Option<PathBuf>, FileError> {
        let mut missing = None;
        for folder in folder.ancestors() {
            if files::exists(self.files, folder)? {
                break;
            }
            missing = Some(folder.to_owned());
        }
        Ok(missing)
    }

    /// How many bytes and inodes are needed on which file system, by where it is mounted.
    ///
    /// # Errors
    /// A place that cannot be told.
    pub fn needs(&self, release: &Documents) -> Result<Vec<(PathBuf, u64, u64)>, BackupError> {
        let mut needs: BTreeMap<PathBuf, (u64, u64)> = BTreeMap::new();
        for target in self.targets(release)? {
            let nearest = files::nearest(self.files, target.at.parent().unwrap_or(&target.at))?;
            let at = files::file_system(self.files, &nearest)?;
            let need = needs.entry(at).or_default();
            need.1 += 1;
            if let Entry::File { content, .. } = target.entry {
                need.0 = need.0.saturating_add(on_disk(content.length));
            }
        }
        Ok(needs.into_iter().map(|(at, (bytes, inodes))| (at, bytes, inodes)).collect())
    }

    /// Puts everything of `after`, which stands in `folder`, at its place, and takes away what only `before`
    /// had. Safe to repeat.
    ///
    /// # Errors
    /// Something that could not be placed as the manifest says.
    pub fn place(
        &self,
        product: &Path,
        folder: &Path,
        before: Option<&Documents>,
        after: &Documents,
    ) -> Result<(), InstallError> {
        let targets = self.targets(after).map_err(unplaceable)?;
        if !targets.is_empty() {
            self.note_new_folders(product, &targets)?;
        }
        for target in &targets {
            match target.entry {
                Entry::Directory { .. } => self.put_folder(target)?,
                Entry::Link { target: to, .. } => {
                    files::replace_link(self.files, Path::new(to), &target.at)?;
                    let (uid, gid) = self.owner(target)?;
                    self.files.set_owner(&target.at, uid, gid)?;
                }
                Entry::File { path, content, .. } => {
                    let from = folder.join(target.package).join(path.as_str());
                    self.put_file(target, &from, content)?;
                }
            }
        }
        let kept: BTreeSet<_> = targets.iter().map(|target| &target.at).gathered();
        let Some(before) = before else { return Ok(()) };
        for target in self.targets(before).map_err(unplaceable)? {
            let is_folder = matches!(target.entry, Entry::Directory { .. });
            if !is_folder && !kept.contains(&target.at) {
                self.take_away(&target.at)?;
            }
        }
        Ok(())
    }

    /// Notes the folders of a release that are gone, before they are made again.
    ///
    /// # Errors
    /// If that can't be told or written.
    pub fn note_missing(&self, product: &Path, release: &Documents) -> Result<(), InstallError> {
        let targets = self.targets(release).map_err(unplaceable)?;
        if targets.is_empty() { Ok(()) } else { self.note_new_folders(product, &targets) }
    }

    /// The steps that make the folders of a release again, as it wants them: those that were made for the
    /// product, and those that are gone. Without extended attributes.
    ///
    /// # Errors
    /// A place or an owner that cannot be told.
    pub fn folder_steps(
        &self,
        product: &Path,
        release: &Documents,
    ) -> Result<Vec<UndoStep>, InstallError> {
        let noted = self.noted(product)?;
        let mut steps = Vec::new();
        for target in self.targets(release).map_err(unplaceable)? {
            let Entry::Directory { mode, .. } = target.entry else { continue };
            if !noted.contains(&target.at) && files::exists(self.files, &target.at)? {
                continue;
            }
            let (uid, gid) = self.owner(&target)?;
            let mode = target.mode().unwrap_or(*mode);
            let undoing = Undoing::Folder { path: target.at.clone(), mode, uid, gid };
            steps.push(UndoStep { undoing, unless: Some(target.at) });
        }
        Ok(steps)
    }

    fn put_folder(&self, target: &Target<'_>) -> Result<(), InstallError> {
        match self.files.stat(&target.at)? {
            Some(stat) if stat.kind == Kind::Directory => return Ok(()),
            Some(_) => {
                return Err(refused(&target.at, "something else than a folder stands there"));
            }
            None => {}
        }
        files::create_dirs(self.files, &target.at, 0o755)?;
        self.dress(target, &target.at)?;
        Ok(self.files.sync_dir(&target.at)?)
    }

    fn put_file(
        &self,
        target: &Target<'_>,
        from: &Path,
        wanted: &FileRef,
    ) -> Result<(), InstallError> {
        if self.is_as_signed(target)?.is_ok() {
            return Ok(());
        }
        let new = files::beside(&target.at);
        let made = self.copy(from, &new, wanted).and_then(|()| self.dress(target, &new));
        let placed = made.and_then(|()| Ok(self.files.sync_file(&new)?));
        let placed = placed.and_then(|()| Ok(self.files.rename(&new, &target.at)?));
        if let Err(error) = placed {
            // What counts is why it failed; a full disk needs its space back.
            let _best_effort = files::remove_tree(self.files, &new);
            return Err(error);
        }
        Ok(files::sync_parent(self.files, &target.at)?)
    }

    fn copy(&self, from: &Path, new: &Path, wanted: &FileRef) -> Result<(), InstallError> {
        files::remove_tree(self.files, new)?;
        let mut file = self.files.create(new, 0o600)?;
        let limit = wanted.length.saturating_add(1);
        let (sha256, length) = files::copy(self.files, from, Some((new, file.as_mut())), limit)?;
        file.sync().map_err(FileError::at(Action::Sync, new))?;
        let read = files::copy(self.files, new, None, limit)?;
        if (FileRef { sha256, length }) == *wanted && read == (sha256, length) {
            return Ok(());
        }
        let why = "it was changed on the disk".into();
        Err(InstallError::Damaged { path: from.to_owned(), why })
    }

    /// Owner first, since that takes set-user-id and capabilities away; the mode last, since a list of
    /// access changes it.
    fn dress(&self, target: &Target<'_>, at: &Path) -> Result<(), InstallError> {
        let (uid, gid) = self.owner(target)?;
        self.files.set_owner(at, uid, gid)?;
        for (name, value) in attributes(target) {
            self.files.set_attribute(at, &name, &value)?;
        }
        match target.mode() {
            Some(mode) => Ok(self.files.set_mode(at, mode)?),
            None => Ok(()),
        }
    }

    fn take_away(&self, path: &Path) -> Result<(), InstallError> {
        match self.files.stat(path)?.map(|stat| stat.kind) {
            Some(Kind::File | Kind::Link) => {
                self.files.remove_file(path)?;
                Ok(files::sync_parent(self.files, path)?)
            }
            // Another hand has put it there.
            Some(Kind::Directory | Kind::Socket | Kind::Special) | None => Ok(()),
        }
    }

    /// Whether everything of the release stands at its place as its signed manifests say.
    ///
    /// # Errors
    /// The first thing that is not as it should be.
    pub fn verify(&self, release: &Documents) -> Result<(), InstallError> {
        for target in self.targets(release).map_err(unplaceable)? {
            if let Err(why) = self.is_as_signed(&target)? {
                return Err(InstallError::Damaged { path: target.at, why });
            }
        }
        Ok(())
    }

    fn is_as_signed(&self, target: &Target<'_>) -> Result<Result<(), String>, InstallError> {
        let Some(stat) = self.files.stat(&target.at)? else {
            return Ok(Err("it is not there".into()));
        };
        let kind = match target.entry {
            // One that was there before is somebody else's.
            Entry::Directory { .. } if stat.kind == Kind::Directory => return Ok(Ok(())),
            Entry::Directory { .. } => Kind::Directory,
            Entry::File { .. } => Kind::File,
            Entry::Link { .. } => Kind::Link,
        };
        if stat.kind != kind {
            return Ok(Err("it is something else".into()));
        }
        let (uid, gid) = self.owner(target)?;
        if (stat.uid, stat.gid) != (uid, gid) {
            return Ok(Err(format!("it belongs to {}:{}, not {uid}:{gid}", stat.uid, stat.gid)));
        }
        match target.entry {
            Entry::Link { target: to, .. } => {
                let leads = self.files.read_link(&target.at)? == Path::new(to);
                Ok(if leads { Ok(()) } else { Err("it leads elsewhere".into()) })
            }
            Entry::File { content, .. } => self.is_this_file(target, stat.mode, content),
            Entry::Directory { .. } => Ok(Ok(())),
        }
    }

    fn is_this_file(
        &self,
        target: &Target<'_>,
        mode: u32,
        content: &FileRef,
    ) -> Result<Result<(), String>, InstallError> {
        if let Some(wanted) = target.mode().filter(|wanted| *wanted != mode) {
            return Ok(Err(format!("its mode is {mode:o}, not {wanted:o}")));
        }
        let found = self.files.attributes(&target.at)?;
        if let Some((name, _)) =
            attributes(target).find(|(name, value)| found.get(name) != Some(value))
        {
            return Ok(Err(format!("its attribute {} is another", name.display())));
        }
        let limit = content.length.saturating_add(1);
        let (sha256, length) = files::copy(self.files, &target.at, None, limit)?;
        let same = (FileRef { sha256, length }) == *content;
        Ok(if same { Ok(()) } else { Err("its bytes are others".into()) })
    }

    /// User and group by number, of the host's own lists.
    fn owner(&self, target: &Target<'_>) -> Result<(u32, u32), InstallError> {
        let Some(placed) = target.placed_as else { return Ok((0, 0)) };
        let id = |name: &Option<String>, list: &str| match name {
            None => Ok(0),
            Some(name) => self.id(name, list).map_err(|why| refused(&target.at, &why)),
        };
        Ok((id(&placed.owner, "/etc/passwd")?, id(&placed.group, "/etc/group")?))
    }

    fn id(&self, name: &str, list: &str) -> Result<u32, String> {
        if let Ok(id) = name.parse() {
            return Ok(id);
        }
        let bytes = files::read_file(self.files, Path::new(list), LONGEST)
            .map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&bytes);
        let found = text.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next()? == name).then(|| fields.nth(1)?.parse().ok()).flatten()
        });
        found.ok_or_else(|| format!("{list} on this host has no {name}"))
    }

    /// Written before they are made, so that a crash in between forgets none.
    fn note_new_folders(&self, product: &Path, targets: &[Target<'_>]) -> Result<(), InstallError> {
        let mut noted = self.noted(product)?;
        let before = noted.len();
        for target in targets {
            let folder = match target.entry {
                Entry::Directory { .. } => target.at.as_path(),
                Entry::File { .. } | Entry::Link { .. } => target.at.parent().unwrap_or(&target.at),
            };
            for folder in folder.ancestors() {
                if files::exists(self.files, folder)? {
                    break;
                }
                noted.insert(folder.to_owned());
            }
        }
        if noted.len() == before {
            return Ok(());
        }
        self.note(product, &noted)
    }

    fn noted(&self, product: &Path) -> Result<BTreeSet<PathBuf>, InstallError> {
        let list = product.join(FOLDERS);
        if !files::exists(self.files, &list)? {
            return Ok(BTreeSet::new());
        }
        let bytes = files::read_file(self.files, &list, LONGEST)?;
        // Paths of a manifest are text.
        Ok(String::from_utf8_lossy(&bytes).lines().map(PathBuf::from).gathered())
    }

    fn note(&self, product: &Path, noted: &BTreeSet<PathBuf>) -> Result<(), InstallError> {
        let list = product.join(FOLDERS);
        if noted.is_empty() {
            return Ok(files::remove_tree(self.files, &list).map(drop)?);
        }
        let lines = noted.iter().map(|path| format!("{}\n", path.display()));
        Ok(files::write_file(self.files, &list, lines.collect::<String>().as_bytes(), 0o644)?)
    }

    /// Once it is clear what stays, `now` or nothing: removes the folders that were made for the product, hold
    /// nothing any more and are not of the release.
    ///
    /// # Errors
    /// If the system refuses; the next call goes on.
    pub fn tidy(&self, product: &Path, now: Option<&Documents>) -> Result<(), InstallError> {
        let noted = self.noted(product)?;
        if noted.is_empty() {
            return Ok(());
        }
        let mut needed: BTreeSet<PathBuf> = BTreeSet::new();
        if let Some(now) = now {
            for target in self.targets(now).map_err(unplaceable)? {
                needed.extend(target.at.ancestors().map(Path::to_owned));
            }
        }
        let mut left = noted.clone();
        // What is in a folder comes after it.
        for folder in noted.iter().rev().filter(|folder| !needed.contains(*folder)) {
            files::remove_if_empty(self.files, folder)?;
            if !files::exists(self.files, folder)? {
                left.remove(folder);
            }
        }
        if left != noted { self.note(product, &left) } else { Ok(()) }
    }
}

fn attributes(target: &Target<'_>) -> impl Iterator<Item = (OsString, Vec<u8>)> {
    let all = target.placed_as.into_iter().flat_map(|placed| &placed.attributes);
    // The manifest was refused where a value is none.
    all.map(|(name, value)| (name.into(), PlacedAs::value(value).unwrap_or_default()))
}

fn refused(path: &Path, why: &str) -> InstallError {
    InstallError::Unplaceable { path: path.to_owned(), why: why.to_owned() }
}

fn unplaceable(error: BackupError) -> InstallError {
    match error {
        BackupError::File(error) => error.into(),
        BackupError::Unsaveable { path, why } => InstallError::Unplaceable { path, why },
        other => InstallError::Unplaceable { path: PathBuf::from("/"), why: other.to_string() },
    }
}
