//! The second place of backups in an update: what is saved while the services run is copied then, the rest
//! in Sealing, and the settings say what follows where that can't be done. Going back never needs it.

use std::collections::BTreeSet;

use refit_proto::names::Product;

use super::HostMachine;
use crate::{
    host::second::{Copier, Helper, Second, SecondError, Standing},
    identity::Identity,
    settings::{Required, SecondSettings, Settings},
    update::{BackupId, Cause, Failure, SealedBackup},
};

/// What a machine with a second place has for it.
pub(super) struct SecondPlace {
    pub(super) settings: SecondSettings,
    /// The name of the host's folder there: its id, once it is enrolled.
    pub(super) host: Option<String>,
    pub(super) copier: Box<dyn Copier>,
}

impl SecondPlace {
    /// The one that the settings name, if they name any.
    pub(super) fn of(settings: &Settings) -> Option<SecondPlace> {
        let second = settings.backup.second.clone()?;
        let identity = Identity::load_if_enrolled(&settings.identity()).ok().flatten();
        let host = identity.map(|identity| identity.host.to_string());
        let copier = Box::new(Helper::beside_this_program());
        Some(SecondPlace { settings: second, host, copier })
    }
}

impl HostMachine {
    /// While the services run: whatever is copied now need not be copied with them down.
    pub(super) fn copy_saved(&self, backup: &BackupId) -> Result<(), Failure> {
        let Some(place) = &self.second else { return Ok(()) };
        let copied = self.second(place).and_then(|second| second.copy_saved(backup));
        self.judge(place, backup, copied)
    }

    /// With the services down: the rest, in bounded time.
    pub(super) fn copy_sealed(&self, sealed: &SealedBackup) -> Result<(), Failure> {
        let Some(place) = &self.second else { return Ok(()) };
        let copied = self.copy_whole(place, sealed, place.settings.seal_within);
        self.judge(place, &sealed.id, copied)
    }

    fn copy_whole(
        &self,
        place: &SecondPlace,
        sealed: &SealedBackup,
        within: std::time::Duration,
    ) -> Result<(), SecondError> {
        let index = self.backups().index(&sealed.id)?;
        let now = self.clock.now().as_second();
        self.second(place)?.copy_sealed(sealed, &index, within, now)
    }

    /// After the update: what could not be copied before is copied now, if it can be; and what the second
    /// place need not keep is removed there. Neither stands in anybody's way.
    pub(super) fn settle_second(&self, product: &Product, held: &BTreeSet<BackupId>) {
        let Some(place) = &self.second else { return };
        for id in held {
            let whole = |standing: &Standing| matches!(standing, Standing::Whole { .. });
            let copied = self.backups().copied(id).ok().flatten();
            if copied.is_some_and(|copied| whole(&copied.standing)) {
                continue;
            }
            let Ok(sealed) = self.backups().own_seal(id) else { continue };
            match self.copy_whole(place, &sealed, place.settings.within) {
                Ok(()) => tracing::info!(backup = %id, "the backup is at the second place now"),
                Err(error) => self.note(place, id, &error),
            }
        }
        let now = self.clock.now().as_second();
        let cleaned = self.second(place).and_then(|second| second.clean(product, held, now));
        if let Err(error) = cleaned {
            tracing::warn!("nothing old is removed at the second place: {error}");
        }
    }

    fn second<'a>(&'a self, place: &'a SecondPlace) -> Result<Second<'a>, SecondError> {
        let host = place.host.clone().ok_or(SecondError::NotEnrolled)?;
        Ok(Second::new(&place.settings, host, &*place.copier, self.backups()))
    }

    fn judge(
        &self,
        place: &SecondPlace,
        backup: &BackupId,
        copied: Result<(), SecondError>,
    ) -> Result<(), Failure> {
        let Err(error) = copied else { return Ok(()) };
        let cause = match place.settings.required {
            Required::No => {
                self.note(place, backup, &error);
                return Ok(());
            }
            Required::Delay => Cause::SecondPlaceAway,
            Required::Refuse => Cause::BackupFailed,
        };
        Err(super::failures::failure(cause, &error))
    }

    fn note(&self, place: &SecondPlace, backup: &BackupId, error: &SecondError) {
        tracing::warn!(%backup, "the backup is not at the second place: {error}");
        let text = super::failures::failure(Cause::SecondPlaceAway, error).text;
        let now = self.clock.now().as_second();
        let noted = self.second(place).and_then(|second| second.note_failed(backup, &text, now));
        if let Err(error) = noted {
            tracing::warn!(%backup, "nor can that be noted: {error}");
        }
    }
}
