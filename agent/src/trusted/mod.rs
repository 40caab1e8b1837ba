//! What this host trusts: the signed metadata it holds, its ring for each product, and whether a release
//! is permitted here. Decides by `refit_proto::trust` alone; where the bytes come from is `link`'s, what
//! is done with a permission is decided in [`crate::update`].

mod folder;
mod refresh;
mod view;

pub use folder::{TrustError, TrustFolder};
pub use refresh::{RefreshError, ReleaseError, Source, release};
pub use view::{Denial, Servers, View};

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError, RwLock},
};

use refit_proto::{
    names::{Digest, HostId, Labels, Product},
    sorted,
    trust::Role,
    wire::{MetadataFile, OfferMetadataRequest},
};

use crate::clock::Clock;

/// Who asks, as far as trust depends on it. From the enrollment.
#[derive(Debug, Clone)]
pub struct Holder {
    /// The host's id, by which the centre names it.
    pub host: HostId,
    /// The labels of its token.
    pub labels: Labels,
    /// SHA-256 of the first root.
    pub root: Digest,
}

/// Why the newest metadata that the server gives is not trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The attack that it would be, in one word.
    pub attack: &'static str,
    /// What was refused, and why.
    pub text: String,
}

/// What this host trusts, and how it learns of news. Shared; one refresh runs at a time.
pub struct Trust {
    folder: TrustFolder,
    holder: Holder,
    clock: Clock,
    view: RwLock<Option<Arc<View>>>,
    refusal: RwLock<Option<Refusal>>,
    refreshing: tokio::sync::Mutex<()>,
}

impl Trust {
    /// What the folder holds, verified anew; nothing is asked of anyone.
    pub fn load(folder: TrustFolder, holder: Holder, clock: Clock) -> Trust {
        let trust = Trust {
            folder,
            holder,
            clock,
            view: RwLock::new(None),
            refusal: RwLock::new(None),
            refreshing: tokio::sync::Mutex::new(()),
        };
        match trust.load_view() {
            Ok(view) => trust.set_view(view),
            // A host that was just enrolled has only a root; whatever else is missing is fetched again.
            Err(error) => tracing::info!("no usable metadata is stored: {error}"),
        }
        trust
    }

    /// What is trusted now; `None` before the first refresh.
    pub fn view(&self) -> Option<Arc<View>> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Brings the metadata up to date, with the release and ring files of these products. What was
    /// accepted before a failure stays.
    ///
    /// # Errors
    /// If the source could not be asked, or what it gave is refused.
    pub async fn refresh(
        &self,
        source: &impl Source,
        products: &BTreeSet<Product>,
    ) -> Result<Arc<View>, RefreshError> {
        let _one_at_a_time = self.refreshing.lock().await;
        let refreshed = refresh::run(self, source, products).await;
        let refusal = match &refreshed {
            Ok(view) => view.refusal(),
            Err(error) => match error.refusal() {
                // Nothing was heard: what was refused last still is.
                None => return refreshed,
                refusal => refusal,
            },
        };
        *self.refusal.write().unwrap_or_else(PoisonError::into_inner) = refusal;
        refreshed
    }

    /// Keeps what is stored as it is for as long as the answer is held: for who copies it.
    pub async fn still(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.refreshing.lock().await
    }

    /// Why the newest metadata was refused when it was asked for last; `None`: it was not.
    pub fn refusal(&self) -> Option<Refusal> {
        self.refusal.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What signed files are held, by role and version.
    pub fn held(&self) -> Vec<(Role, u64)> {
        let roles = self.view().map(|view| view.set().roles()).unwrap_or_default();
        roles.into_iter().map(|(role, version, _)| (role, version)).collect()
    }

    /// What a server that has lost these roles' files can have back: the files, the snapshot that pins
    /// them, and the documents of the policy role.
    pub fn give_back(&self, wanted: &[String]) -> Option<OfferMetadataRequest> {
        let view = self.view()?;
        let files = view.set().files();
        let snapshot = files.get(&Role::Snapshot)?.clone();
        let mut offered: Vec<(Role, Vec<u8>)> =
            files.into_iter().filter(|(role, _)| wanted.contains(&role.to_string())).collect();
        // What others are verified by goes first.
        let order = |role: &Role| match role {
            Role::Root => 0,
            Role::Targets => 1,
            Role::Ring(..) => 3,
            _ => 2,
        };
        sorted::sort_by(&mut offered, |a, b| order(&a.0).cmp(&order(&b.0)));
        let documents = match wanted.contains(&Role::Policy.to_string()) {
            true => self.folder.policies(),
            false => Vec::new(),
        };
        let files = offered
            .into_iter()
            .map(|(role, file)| MetadataFile { role: role.to_string(), file })
            .collect();
        Some(OfferMetadataRequest { files, snapshot, documents })
    }

    /// What the signed list of servers says, as far as the source can prove it. Only the way to that list
    /// is brought up to date; what may be installed here is not looked at.
    ///
    /// # Errors
    /// If the source could not be asked, or what it gave is refused.
    pub async fn refresh_servers(&self, source: &impl Source) -> Result<Servers, RefreshError> {
        let _one_at_a_time = self.refreshing.lock().await;
        refresh::servers(self, source).await
    }

    fn load_view(&self) -> Result<View, TrustError> {
        View::load(&self.folder, &self.holder)
    }

    fn set_view(&self, view: View) {
        self.clock.raise_floor(view.signed_at());
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(view));
    }
}

#[cfg(test)]
mod tests;
