//! What an update does with the data of its packages: databases are dumped and tried before anything is
//! changed, and those that the release converts once more when its services are down.

use refit_proto::package::{DataUse, Database};

use super::HostMachine;
use crate::{
    host::{
        backup::DataBy,
        database::{Databases, When},
        documents::Documents,
        preflight::{Need, Purpose},
    },
    update::{Attempt, BackupId, Failure},
};

/// What has to be held for databases.
#[derive(Debug, Default)]
pub(super) struct DatabaseRoom {
    /// In the agent's folder, for dumps and what tries them.
    pub(super) backup: u64,
    /// In the agent's folder, for going back.
    pub(super) way_back: u64,
    /// Where servers keep their databases. Only looked at: nothing of ours belongs there.
    pub(super) elsewhere: Vec<Need>,
}

impl HostMachine {
    pub(super) fn databases(&self) -> Databases<'_> {
        Databases::new(&*self.files, self.data.clone())
    }

    /// The databases of a release that have to be saved here, and what it does with each.
    pub(super) fn databases_of(
        &self,
        release: &Documents,
        by: DataBy,
    ) -> Result<Vec<(Database, DataUse)>, Failure> {
        let here = |used: DataUse| match by {
            DataBy::Us => true,
            DataBy::Outside => used == DataUse::Converted,
        };
        let mut found = Vec::new();
        for package in &release.packages {
            let data = &package.manifest.data;
            if !here(data.used) {
                continue;
            }
            let databases = Databases::of(data, &self.variables)?;
            found.extend(databases.into_iter().map(|database| (database, data.used)));
        }
        Ok(found)
    }

    /// How much room its databases take, asked of themselves. One that doesn't answer is found here.
    pub(super) fn database_room(
        &self,
        release: &Documents,
        by: DataBy,
    ) -> Result<DatabaseRoom, Failure> {
        let mut room = DatabaseRoom::default();
        for (database, used) in self.databases_of(release, by)? {
            let Some(size) = self.databases().size(&database)? else { continue };
            room.backup = room.backup.saturating_add(size.dump);
            let mut there = size.at.as_ref().map_or(0, |(_, bytes)| *bytes);
            if used == DataUse::Converted {
                // A copy of the dump to load from, and a dump of what is set aside.
                room.way_back = room.way_back.saturating_add(size.dump.saturating_mul(2));
                there = there.saturating_mul(2);
            }
            if let Some((at, _)) = size.at {
                room.elsewhere.push(Need {
                    purpose: Purpose::Backup,
                    at,
                    bytes: there,
                    inodes: 64,
                });
            }
        }
        Ok(room)
    }

    /// Dumps the databases of a release and tries each dump. At rest, those that it converts.
    pub(super) fn save_databases(
        &self,
        attempt: &Attempt,
        release: &Documents,
        when: When,
        by: DataBy,
    ) -> Result<(), Failure> {
        let id = super::backup_id(attempt)?;
        let saved = self.try_save_databases(&id, release, when, by);
        if saved.is_err() {
            // What counts is why it failed; the next try removes what is left.
            let _best_effort = self.backups().remove(&id);
        }
        saved
    }

    fn try_save_databases(
        &self,
        id: &BackupId,
        release: &Documents,
        when: When,
        by: DataBy,
    ) -> Result<(), Failure> {
        let databases = self.databases_of(release, by)?;
        let again = |used: DataUse| match when {
            When::Running => true,
            When::AtRest => used == DataUse::Converted,
        };
        if !databases.iter().any(|(_, used)| again(*used)) {
            return match when {
                When::Running => Ok(self.backups().keep_dumps(id, &[])?),
                When::AtRest => Ok(()),
            };
        }
        self.databases().clear_scratches();
        let before = self.backups().dumps(id)?;
        let mut dumps = Vec::new();
        for (database, used) in databases {
            if !again(used) {
                dumps.extend(before.iter().find(|dump| dump.database == database).cloned());
                continue;
            }
            let dump = self.databases().save(&self.backups(), id, &database, used, when)?;
            match (&database, dump.content) {
                // Its files are saved as they are when nobody writes to them.
                (Database::Sqlite(_), Some(content)) if used == DataUse::Converted => {
                    self.backups().drop_dump(id, &content)?;
                }
                (Database::Sqlite(_), None) if used == DataUse::Converted => {}
                _ => dumps.push(dump),
            }
        }
        Ok(self.backups().keep_dumps(id, &dumps)?)
    }
}
