//! Containers within the steps of an update. podman takes a release's images while it is fetched, before the
//! services stop, and is asked once more in the switch: nothing keeps what runs from nothing meanwhile.

use std::{collections::BTreeSet, path::PathBuf};

use refit_proto::names::{Digest, Product};

use super::{HostMachine, Manager};
use crate::{
    host::{
        documents::Documents,
        podman::{self, Containers, Image},
    },
    update::{Attempt, Failure},
    way_back::UndoStep,
};

pub(super) use crate::host::podman::container;

impl HostMachine {
    fn containers(&self) -> Containers {
        Containers::new(self.podman.clone(), matches!(self.manager, Manager::Systemd(_)))
    }

    fn stands_in(&self, product: &Product, release: &Documents) -> PathBuf {
        self.tree().folder(product, &release.id.digest)
    }

    pub(super) fn check_containers(&self, release: &Documents) -> Result<(), Failure> {
        if !Containers::brings(release) {
            return Ok(());
        }
        let by_systemd = match self.manager {
            Manager::Systemd(_) => true,
            Manager::Own(_) => false,
            #[cfg(test)]
            Manager::Fake(_) => true,
        };
        Ok(self.containers().ready(by_systemd)?)
    }

    /// Has podman take the images of a release that was fetched, if there is room for them.
    pub(super) fn take_images(&self, attempt: &Attempt, after: &Documents) -> Result<(), Failure> {
        if !Containers::brings(after) {
            return Ok(());
        }
        self.preflight_of(attempt).check(&self.containers().needs(after)?)?;
        self.load_images(attempt, after)
    }

    pub(super) fn load_images(&self, attempt: &Attempt, after: &Documents) -> Result<(), Failure> {
        let folder = self.stands_in(&attempt.product, after);
        Ok(self.containers().load(&attempt.install, after, &folder)?)
    }

    /// The steps of a way back from `after` to `before`.
    pub(super) fn undo_images(
        &self,
        product: &Product,
        before: Option<&Documents>,
        after: &Documents,
    ) -> Vec<UndoStep> {
        let old = before.map(|before| self.stands_in(product, before));
        let new = self.stands_in(product, after);
        self.containers().undo_steps(before.zip(old.as_deref()), (after, &new))
    }

    /// Removes from podman's storage what no release needs that stays: the current one, and those in `keep`. Of a
    /// product that runs no container any more all of it goes; a way back takes it from the release's folder. What
    /// podman does not give now is asked for again after the next update.
    pub(super) fn clean_images(&self, product: &Product, keep: &BTreeSet<Digest>) {
        let Ok(standing) = self.tree().standing(product) else { return };
        let images = |digest: &Digest| -> BTreeSet<Image> {
            let release = self.tree().documents(product, digest);
            let folder = self.tree().folder(product, digest);
            release.map(|release| podman::images(&release, &folder)).unwrap_or_default()
        };
        if standing.iter().all(|digest| images(digest).is_empty()) {
            return;
        }
        let current = self.tree().current(product).ok().flatten();
        let mut stay = current.as_ref().map(images).unwrap_or_default();
        if !stay.is_empty() {
            stay.extend(keep.iter().flat_map(images));
        }
        if let Err(error) = self.containers().clean(product, &stay) {
            tracing::warn!(%product, "old images are not removed: {error}");
        }
    }
}
