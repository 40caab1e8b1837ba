//! Who has a copy of data that stays: this host, or somebody else who proves it. Decided in preflight, in the
//! order of `backup.methods`; the proof is asked for again when the backup is made.

use refit_proto::package::DataUse;

use super::{HostMachine, failures::failure};
use crate::{
    host::{
        backup::{Cover, DataBy, Role, Turn, Vouched},
        documents::Documents,
        service::Service,
    },
    update::{Attempt, BackupMethod, Cause, Failure, Terms},
};

/// Who has the data, by an update's terms.
pub(super) fn data_by(terms: &Terms) -> DataBy {
    match terms.data_outside {
        true => DataBy::Outside,
        false => DataBy::Us,
    }
}

/// What is saved here: everything, or everything but data that stays. Configuration, units, programs and
/// data that the release converts are brought back by going back, so nobody else's copy is of use for them.
pub(super) fn saved_here(covers: Vec<Cover>, data: DataBy) -> Vec<Cover> {
    let here = |cover: &Cover| match (cover.role, data) {
        (Role::Data, DataBy::Outside) => false,
        (Role::Data, DataBy::Us)
        | (Role::Link | Role::Unit | Role::Placed | Role::Declared | Role::Converted, _) => true,
    };
    covers.into_iter().filter(here).collect()
}

impl HostMachine {
    /// Takes the first turn of `backup.methods` by which the backup can be made, and holds the room for it.
    pub(super) fn choose_backup(
        &mut self,
        attempt: &Attempt,
        release: &Documents,
        services: &[Service],
    ) -> Result<(BackupMethod, DataBy), Failure> {
        let methods = &self.backup.methods;
        let turns = match keeps_data(release) {
            true => methods.turns(),
            false => methods.without_outside(),
        };
        let mut first: Option<Failure> = None;
        for turn in turns {
            match self.try_turn(attempt, release, services, &turn) {
                Ok(method) => return Ok((method, turn.data)),
                Err(failure) if is_of_this_turn(failure.cause) => match &mut first {
                    Some(first) => first.text += &format!("; {}", failure.text),
                    None => first = Some(failure),
                },
                Err(failure) => return Err(failure),
            }
        }
        let none = || Failure::new(Cause::BackupFailed, "backup.methods names no method");
        Err(first.unwrap_or_else(none))
    }

    fn try_turn(
        &mut self,
        attempt: &Attempt,
        release: &Documents,
        services: &[Service],
        turn: &Turn,
    ) -> Result<BackupMethod, Failure> {
        if turn.data == DataBy::Outside {
            self.ask_outside()?;
        }
        let room = self.database_room(release, turn.data)?;
        let (needs, costs) = self.needs(attempt, release, services, &room, turn.data)?;
        let method = self.reserve(attempt, &turn.methods, &needs, &costs)?;
        self.preflight_of(attempt).check(&room.elsewhere)?;
        Ok(method)
    }

    fn ask_outside(&self) -> Result<crate::host::backup::Proof, Failure> {
        let Some(outside) = &self.backup.outside else {
            // Its settings were changed since preflight.
            let text = "backup.outside: nobody is named who could be asked";
            return Err(Failure::new(Cause::BackupFailed, text));
        };
        outside.ask(self.clock.now()).map_err(|error| failure(Cause::BackupFailed, &error))
    }

    /// What is not saved here, with a proof of now; `None` if all of it is saved.
    pub(super) fn vouched(
        &self,
        release: &Documents,
        covers: &[Cover],
        data: DataBy,
    ) -> Result<Option<Vouched>, Failure> {
        if data == DataBy::Us {
            return Ok(None);
        }
        let proof = self.ask_outside()?;
        let paths = covers.iter().filter(|cover| cover.role == Role::Data);
        let paths = paths.map(|cover| cover.path.clone()).collect();
        let databases = self.databases_of(release, DataBy::Us)?.into_iter();
        let kept = databases.filter(|(_, used)| *used == DataUse::Kept);
        let databases = kept.map(|(database, _)| database.name().clone()).collect();
        tracing::info!(restore_point = %proof.restore_point, "data is outside: it is not saved here");
        Ok(Some(Vouched { proof, paths, databases }))
    }
}

/// Whether another turn may do better.
fn is_of_this_turn(cause: Cause) -> bool {
    matches!(cause, Cause::NoSpace | Cause::BackupFailed)
}

fn keeps_data(release: &Documents) -> bool {
    release.packages.iter().any(|package| {
        let data = &package.manifest.data;
        let any = !data.paths.is_empty() || !data.databases.is_empty();
        data.used == DataUse::Kept && any
    })
}
