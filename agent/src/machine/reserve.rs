//! By which method the backup fits, in the order that the host's owner gives; the room for that is held. What
//! does not fit is told with the bytes that are missing and the cheapest method that would fit.

use super::{HostMachine, failures::failure};
use crate::{
    host::{
        backup::Cost,
        preflight::{Need, NoRoom, PreflightError, Purpose},
    },
    update::{Attempt, BackupMethod, Cause, Failure},
};

impl HostMachine {
    /// Holds room for everything, with the first method of the backup for which there is enough.
    pub(super) fn reserve(
        &self,
        attempt: &Attempt,
        methods: &[BackupMethod],
        needs: &[Need],
        costs: &[Cost],
    ) -> Result<BackupMethod, Failure> {
        let room = self.preflight_of(attempt);
        let mut lacking = None;
        for method in methods {
            let Some(cost) = costs.iter().find(|cost| cost.method == *method) else { continue };
            match room.reserve(&self.with(needs, cost)) {
                Ok(()) => return Ok(*method),
                Err(PreflightError::NoRoom(error)) => {
                    lacking.get_or_insert(error);
                }
                Err(PreflightError::File(error)) => return Err(error.into()),
            }
        }
        match lacking {
            Some(error) => Err(self.no_room(attempt, needs, costs, &error)),
            None => {
                let text = "no method of backup.methods can be used here: what is to be saved can't be \
                            cloned, and copying is not allowed";
                Err(Failure::new(Cause::BackupFailed, text))
            }
        }
    }

    fn with(&self, needs: &[Need], cost: &Cost) -> Vec<Need> {
        let Cost { bytes, inodes, .. } = *cost;
        let backup = Need { purpose: Purpose::Backup, at: self.data.clone(), bytes, inodes };
        needs.iter().cloned().chain([backup]).collect()
    }

    /// In the words of the first that did not fit, with what would.
    fn no_room(
        &self,
        attempt: &Attempt,
        needs: &[Need],
        costs: &[Cost],
        error: &NoRoom,
    ) -> Failure {
        let room = self.preflight_of(attempt);
        let fits = |cost: &&Cost| room.check(&self.with(needs, cost)).is_ok();
        let mut text = failure(Cause::NoSpace, error).text;
        match costs.iter().filter(fits).min_by_key(|cost| cost.bytes) {
            Some(Cost { method, bytes, .. }) => {
                let method = method.as_str();
                text += &format!(
                    "; the backup would fit by {method}, with {bytes} bytes, which backup.methods does \
                     not allow"
                );
            }
            None => {
                if let Some(Cost { method, bytes, .. }) = costs.iter().min_by_key(|cost| cost.bytes)
                {
                    let method = method.as_str();
                    text += &format!("; the cheapest backup, by {method}, takes {bytes} bytes");
                }
            }
        }
        Failure::new(Cause::NoSpace, text)
    }
}
