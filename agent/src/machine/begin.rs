//! Before anything is changed: is there room, is everything here, is it saved.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read},
    path::{Path, PathBuf},
};

use refit_proto::{
    gathered::Gathered as _,
    names::Digest,
    package::{Entry, FileRef, Release, stored},
};

use super::{
    HostMachine, Manager, backup_id,
    data::DatabaseRoom,
    failures::failure,
    outside::{data_by, saved_here},
};
use crate::{
    host::{
        backup::{Cost, Cover, DataBy, Role, covers, drop_ins},
        content::{Fetch, FetchError, Offered, longest_frame},
        database::When,
        deb::Debs,
        documents::{Documents, DocumentsError, manifests_of},
        files,
        modules::Modules,
        preflight::{BLOCK, LINKS, Need, Purpose, on_disk, total},
        service::{Service, Systemd, UnitName},
    },
    update::{Attempt, BackupMethod, Cause, Event, Failure, Terms},
};

/// What the agent's own records of an update may take.
const RECORDS: u64 = 8 << 20;
/// What a unit file may take: itself, the one it replaces, and their folder.
const UNIT_ROOM: u64 = 4 * BLOCK;

impl HostMachine {
    pub(super) fn preflight(
        &mut self,
        attempt: &Attempt,
        fetch: &mut dyn Fetch,
    ) -> Result<Event, Failure> {
        let release = Release::parse(&self.release_bytes(&attempt.release.digest)?)?;
        let manifests = manifests_of(&release, &self.platform)?;
        self.content().bring_in(&manifests, &Offered::new(), fetch)?;
        let documents = self.documents_from_content(attempt)?;
        self.check_own(attempt, &documents)?;
        // A variable that is missing here is found now, and not when the services are down.
        let services = self.services_of(&attempt.product, &documents)?;
        if Debs::brings(&documents) {
            self.debs().ready()?;
        }
        let owned = self.placed().check(&documents);
        owned.map_err(|error| failure(Cause::Unsupported, &error))?;
        self.check_modules(&documents, release.plan.way_back)?;
        self.check_containers(&documents)?;
        let (saves_by, data) = self.choose_backup(attempt, &documents, &services)?;
        let manifests = documents.packages.iter().map(|package| &package.manifest);
        let terms = Terms::of(release.plan.way_back, manifests);
        let terms = Terms { saves_by, data_outside: data == DataBy::Outside, ..terms };
        self.can_boot(terms.reboot)?;
        Ok(Event::PreflightPassed { terms })
    }

    /// Everything is here, and the release stands beside what runs.
    pub(super) fn fetch(
        &mut self,
        attempt: &Attempt,
        fetch: &mut dyn Fetch,
    ) -> Result<Event, Failure> {
        let documents = self.documents_from_content(attempt)?;
        let offered = self.offered(attempt)?;
        let room = self.preflight_of(attempt);
        room.give_back(Purpose::Download, &self.data)?;
        self.content().bring_in(&documents.content(), &offered, fetch)?;
        room.give_back(Purpose::Unpack, &self.root)?;
        use crate::host::tree::Installer as _;
        self.tree().prepare(&documents, &self.content())?;
        self.check_debs(attempt, &documents)?;
        self.take_images(attempt, &documents)?;
        Ok(Event::Fetched)
    }

    pub(super) fn back_up(&mut self, attempt: &Attempt, terms: &Terms) -> Result<(), Failure> {
        let backup = backup_id(attempt)?;
        let after = self.after(attempt)?;
        if Debs::brings(&after) {
            self.debs().ready()?;
        }
        let covers = self.covers(attempt, &after)?;
        let data = data_by(terms);
        // Asked again: since preflight the window may have been waited for.
        let vouched = self.vouched(&after, &covers, data)?;
        self.preflight_of(attempt).give_back(Purpose::Backup, &self.data)?;
        self.saves(terms.saves_by).save(&backup, &saved_here(covers, data))?;
        self.backups().keep_vouched(&backup, vouched.as_ref())?;
        self.save_databases(attempt, &after, When::Running, data)?;
        self.copy_saved(&backup)
    }

    /// What has to be saved before this release comes: also the units that it does not have any more.
    pub(super) fn covers(
        &mut self,
        attempt: &Attempt,
        after: &Documents,
    ) -> Result<Vec<Cover>, Failure> {
        let before = self.before(attempt)?;
        let mut units = self.unit_paths(&attempt.product, after)?;
        if let Some(before) = &before {
            units.extend(self.unit_paths(&attempt.product, before)?);
        }
        units.extend(self.own_drop_ins(attempt));
        let units: Vec<PathBuf> = units.into_iter().collect();
        let link = self.tree().link(&attempt.product);
        let own = [self.data.as_path(), self.root.as_path()];
        let mut placed = self.placed().covers(before.as_ref(), after)?;
        placed.extend(self.covers_of_debs(attempt, before.as_ref(), after)?);
        placed.extend(self.covers_of_modules(&attempt.product, after)?);
        let mut covers = covers(&*self.files, after, &self.variables, &link, &units, placed, &own)?;
        let mut names: BTreeSet<UnitName> = self.units_of(after).into_iter().gathered();
        if let Some(before) = &before {
            names.extend(self.units_of(before));
        }
        for folder in names.iter().filter_map(|unit| self.manager.services().drop_ins(unit)) {
            let more = drop_ins(&*self.files, &folder, &covers)?;
            covers.extend(more);
        }
        Ok(covers)
    }

    /// Whether dpkg would take the packages that are here now, and has room for them.
    fn check_debs(&self, attempt: &Attempt, documents: &Documents) -> Result<(), Failure> {
        let folder = self.tree().folder(&attempt.product, &documents.id.digest);
        let bytes = self.debs().check(documents, &folder)?;
        let need = Need { purpose: Purpose::Place, at: "/usr".into(), bytes, inodes: 0 };
        Ok(self.preflight_of(attempt).check(&[need])?)
    }

    /// What has to be saved of packages. How to go back is told only before anything is changed, so it is
    /// written down then.
    fn covers_of_debs(
        &self,
        attempt: &Attempt,
        before: Option<&Documents>,
        after: &Documents,
    ) -> Result<Vec<Cover>, Failure> {
        if !Debs::brings(after) && !before.is_some_and(Debs::brings) {
            return Ok(Vec::new());
        }
        let folder = |release: &Documents| self.tree().folder(&attempt.product, &release.id.digest);
        let (old, new) = (before.map(folder), folder(after));
        let old = before.zip(old.as_deref());
        let backup = self.backups().folder(&backup_id(attempt)?);
        Ok(self.debs().save(old, (after, &new), &backup)?)
    }

    pub(super) fn needs(
        &mut self,
        attempt: &Attempt,
        documents: &Documents,
        services: &[Service],
        databases: &DatabaseRoom,
        data: DataBy,
    ) -> Result<(Vec<Need>, Vec<Cost>), Failure> {
        let content = documents.content();
        let missing = self.content().missing(&content, &self.offered(attempt)?)?;
        let download = total(missing.iter().map(|file| {
            // The frame, and the plain bytes beside it until they are checked.
            longest_frame(file.length).saturating_add(on_disk(file.length))
        }));
        let entries = documents.packages.iter().flat_map(|package| &package.manifest.entries);
        let (mut unpacked, mut inodes) = (0_u64, 16_u64);
        for entry in entries {
            inodes += 1;
            if let Entry::File { content, .. } = entry {
                unpacked = unpacked.saturating_add(on_disk(content.length));
            }
        }
        // The units of a release that is not unpacked yet can't be told; they are a few small files.
        let covers = self.fixed_covers(attempt, self.before(attempt)?.as_ref(), documents)?;
        let covers = saved_here(covers, data);
        let costs = self.saves(BackupMethod::default()).costs(&covers)?;
        // Dumps are written whatever way files are saved.
        let costs = costs
            .into_iter()
            .map(|cost| Cost { bytes: cost.bytes.saturating_add(databases.backup), ..cost });
        let costs = costs.collect();
        let need =
            |purpose, at: &PathBuf, bytes, inodes| Need { purpose, at: at.clone(), bytes, inodes };
        let mut needs = vec![
            need(Purpose::Download, &self.data, download, missing.len() as u64 * 2),
            need(Purpose::Unpack, &self.root, unpacked, inodes),
            need(Purpose::Journal, &self.data, RECORDS, 16),
        ];
        let mut places = BTreeMap::new();
        places.insert(self.data.clone(), Modules::room(documents));
        for (at, bytes, inodes) in self.placed().needs(documents)? {
            let place: &mut (u64, u64) = places.entry(at).or_default();
            *place = (place.0.saturating_add(bytes), place.1.saturating_add(inodes));
        }
        if let Some(at) = self.units_room().filter(|_| !services.is_empty()) {
            let count = services.len() as u64;
            let place: &mut (u64, u64) = places.entry(at).or_default();
            place.0 = place.0.saturating_add(count.saturating_mul(UNIT_ROOM));
            place.1 = place.1.saturating_add(count.saturating_mul(2));
        }
        for (at, (bytes, inodes)) in places.into_iter().filter(|(_, need)| *need != (0, 0)) {
            needs.push(need(Purpose::Place, &at, bytes, inodes));
        }
        for (at, (bytes, inodes)) in self.back_again(&covers)? {
            let more = if at == self.data { databases.way_back } else { 0 };
            let bytes = bytes.saturating_add(more);
            needs.push(need(Purpose::WayBack, &at, bytes, inodes));
        }
        Ok((needs, costs))
    }

    /// What going back will write, and where: what is covered is made anew beside its place.
    fn back_again(&self, covers: &[Cover]) -> Result<BTreeMap<PathBuf, (u64, u64)>, Failure> {
        let mut rooms: BTreeMap<PathBuf, (u64, u64)> =
            [&self.data, &self.root].map(|at| (at.clone(), (LINKS, 16))).into();
        let stays = |cover: &&Cover| matches!(cover.role, Role::Link | Role::Data);
        for cover in covers.iter().filter(|cover| !stays(cover)) {
            let (bytes, inodes) = self.backups().found(cover)?;
            let room = rooms.entry(self.file_system_of(&cover.path)?).or_insert((LINKS, 16));
            *room = (room.0.saturating_add(bytes), room.1.saturating_add(inodes));
        }
        Ok(rooms)
    }

    fn file_system_of(&self, path: &Path) -> Result<PathBuf, Failure> {
        let nearest = files::nearest(&*self.files, path.parent().unwrap_or(path))?;
        Ok(files::file_system(&*self.files, &nearest)?)
    }

    /// The file system that unit files are written to, where there is a folder for them.
    fn units_room(&self) -> Option<PathBuf> {
        match self.manager {
            Manager::Systemd(_) => self.file_system_of(&Path::new(Systemd::UNITS).join("any")).ok(),
            // In the agent's data folder, among its own records.
            Manager::Own(_) => None,
            #[cfg(test)]
            Manager::Fake(_) => None,
        }
    }

    /// Where room may be held for the attempt.
    pub(super) fn rooms(&self, attempt: &Attempt) -> Vec<PathBuf> {
        let mut rooms: BTreeSet<_> = [self.data.clone(), self.root.clone()].into_iter().gathered();
        rooms.extend(self.units_room());
        // Until it was unpacked it is told by what was fetched.
        let after = self.after(attempt).or_else(|_| self.documents_from_content(attempt));
        let (Ok(after), Ok(before)) = (after, self.before(attempt)) else {
            return rooms.into_iter().collect();
        };
        let placed = self.placed().needs(&after).into_iter().flatten();
        rooms.extend(placed.map(|(at, _, _)| at));
        let covered = self.fixed_covers(attempt, before.as_ref(), &after);
        let covered = covered.into_iter().flatten();
        rooms.extend(covered.filter_map(|cover| self.file_system_of(&cover.path).ok()));
        rooms.into_iter().collect()
    }

    /// What is told by the manifests alone, so that it is the same before and after the switch.
    fn fixed_covers(
        &self,
        attempt: &Attempt,
        before: Option<&Documents>,
        after: &Documents,
    ) -> Result<Vec<Cover>, Failure> {
        let link = self.tree().link(&attempt.product);
        let own = [self.data.as_path(), self.root.as_path()];
        let mut placed = self.placed().covers(before, after)?;
        placed.extend(self.covers_of_modules(&attempt.product, after)?);
        Ok(covers(&*self.files, after, &self.variables, &link, &[], placed, &own)?)
    }

    fn offered(&self, attempt: &Attempt) -> Result<Offered, Failure> {
        let Some(before) = self.before(attempt)? else { return Ok(Offered::new()) };
        Ok(before.offers(&self.tree().folder(&attempt.product, &before.id.digest)))
    }

    /// The release document, from the content that is here.
    pub(super) fn release_bytes(&self, digest: &Digest) -> Result<Vec<u8>, Failure> {
        let path = self.content().path(digest);
        let bytes = files::read_file(&*self.files, &path, Release::MAX_LENGTH)?;
        if Digest::of(&bytes) != *digest {
            let text = format!("{} was changed on this host", path.display());
            return Err(Failure::new(crate::update::Cause::FetchFailed, text));
        }
        Ok(bytes)
    }

    /// Keeps a release document, whose digest is signed, as content.
    pub(super) fn keep_release(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let wanted = [FileRef::to(bytes)].into_iter().gathered();
        Ok(self.content().bring_in(&wanted, &Offered::new(), &mut Known(bytes))?)
    }

    fn documents_from_content(&self, attempt: &Attempt) -> Result<Documents, Failure> {
        let bytes = self.release_bytes(&attempt.release.digest)?;
        Ok(Documents::new(bytes, &self.platform, |package| {
            let path = self.content().path(&package.manifest.sha256);
            files::read_file(&*self.files, &path, package.manifest.length)
                .map_err(DocumentsError::File)
        })?)
    }
}

/// A file whose bytes are known already, where content comes from.
struct Known<'a>(&'a [u8]);

impl Fetch for Known<'_> {
    fn frame(&mut self, _: Digest, offset: u64) -> Result<Box<dyn Read + '_>, FetchError> {
        let mut frame = stored(self.0);
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        if at > frame.len() {
            return Err(FetchError::Shorter { offset });
        }
        Ok(Box::new(io::Cursor::new(frame.split_off(at))))
    }
}
