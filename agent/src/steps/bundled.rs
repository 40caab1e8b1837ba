//! What is different where root on this host installs a release from a bundle: where metadata and content
//! come from, and whose leave it is. What is permitted is not: that is decided by the same signatures.

use std::{sync::Arc, time::Duration};

use super::{Machine, Steps};
use crate::{
    bundle::{Bundle, Spool},
    update::{Attempt, Cause, Failure, InstallId, Lease, LeaseId, OrderedBy},
};

/// How long the own leave holds: as the longest of a server.
const LEAVE: Duration = Duration::from_secs(3600);

/// Whether an update of the server's steps aside: one that waits for a network must not keep a bundle
/// waiting, which is there because there is no network. The server offers it again.
pub(super) fn gives_way(spool: &Spool, attempt: &Attempt) -> bool {
    attempt.ordered_by == OrderedBy::Server && !spool.waiting().is_empty()
}

impl<M: Machine> Steps<M> {
    pub(super) fn gives_way(&self, attempt: &Attempt) -> bool {
        gives_way(&self.spool, attempt)
    }

    /// The bundle of an install, read once.
    pub fn bundle(&mut self, install: &InstallId) -> Result<Arc<Bundle>, Failure> {
        if let Some((of, bundle)) = &self.opened
            && of == install
        {
            return Ok(bundle.clone());
        }
        let bundle = self.spool.open(install).map_err(|error| {
            let text = error.to_string();
            let text = text.split("\nhelp:").next().unwrap_or_default();
            Failure::new(Cause::FetchFailed, text)
        })?;
        let bundle = Arc::new(bundle);
        self.opened = Some((install.clone(), bundle.clone()));
        Ok(bundle)
    }

    /// The leave of an update that root ordered here. A server that was heard before and has stopped the
    /// product is obeyed, whoever orders.
    pub(super) fn own_leave(&self, attempt: &Attempt) -> Result<Lease, Failure> {
        if let Some(stop) = self.wanted.stop(&attempt.product) {
            let text = format!("the server has stopped this product: {stop}");
            return Err(Failure::new(Cause::LeaseDenied, text));
        }
        let id = LeaseId::parse(&format!("local-root/{}", attempt.install))
            .map_err(|error| Failure::new(Cause::HostFault, error.to_string()))?;
        Ok(Lease { id, asked: self.clock.moment(), lasts: LEAVE })
    }
}
