//! Whether this host may begin this attempt now: by what is signed, and by what happened here before. The
//! server's word counts for nothing.

use refit_durable::Batch;
use refit_proto::{
    gathered::Gathered as _,
    package::Release,
    trust::{Misfit, Promotion, Role, Standing, TrustError, fits_document},
};

use super::{Machine, Steps};
use crate::{
    link::{CallError, Trouble},
    report::InstalledRelease,
    trusted::{Denial, RefreshError, ReleaseError, Source, View, release},
    update::{Attempt, Cause, Failure, OrderedBy},
};

impl<M: Machine> Steps<M> {
    pub(super) fn permit(&mut self, attempt: &Attempt) -> Result<(), Failure> {
        match attempt.ordered_by {
            OrderedBy::Server => self.permit_from(&*self.server.clone(), attempt),
            OrderedBy::LocalRoot => {
                let bundle = self.bundle(&attempt.install)?;
                self.permit_from(&*bundle, attempt)
            }
        }
    }

    fn permit_from(&mut self, source: &impl Source, attempt: &Attempt) -> Result<(), Failure> {
        let products = [attempt.product.clone()].into_iter().gathered();
        let view = self
            .runtime
            .block_on(self.trust.refresh(source, &products))
            .map_err(|error| not_refreshed(&error))?;
        let digest = &attempt.release.digest;
        let (ring, promotion) = view
            .permit(&attempt.product, digest, self.clock.now())
            .map_err(|denial| denied(&denial))?;
        if ring != attempt.ring {
            let (product, own) = (attempt.product.clone(), ring);
            let offered = attempt.ring.to_string();
            return Err(denied(&Denial::OtherRing { product, own, offered }));
        }
        self.not_refused_by_the_past(attempt, &view, &promotion)?;
        let (document, bytes) = self
            .runtime
            .block_on(release(source, &promotion))
            .map_err(|error| no_document(&error))?;
        fits_document(&attempt.product, &promotion, &bytes, &document).map_err(|it| misfit(&it))?;
        let installed = self.machine.inventory().remove(&attempt.product);
        let floor = self.memory.floor(&attempt.product).map_err(at_fault)?;
        in_order(attempt, &promotion, &document, installed.as_ref(), floor)?;
        self.machine.learn(&bytes)?;
        let next = promotion.terms.min_release_counter;
        self.memory.expect_floor(&attempt.product, digest, next).map_err(at_fault)
    }

    /// Whether what is trusted here permits the release now; nobody is asked.
    pub(super) fn still_permitted(&self, attempt: &Attempt) -> Result<(), Failure> {
        let Some(view) = self.trust.view() else {
            return Err(Failure::new(Cause::FetchFailed, "no signed metadata is here any more"));
        };
        let permitted = view.permit(&attempt.product, &attempt.release.digest, self.clock.now());
        permitted.map(drop).map_err(|denial| denied(&denial))
    }

    /// What happened here before: the release's own failure, and those of the product. A promotion that names
    /// the release under `retry` lifts both, once.
    fn not_refused_by_the_past(
        &self,
        attempt: &Attempt,
        view: &View,
        promotion: &Promotion,
    ) -> Result<(), Failure> {
        let digest = &attempt.release.digest;
        let quarantined = self.journal.is_quarantined(digest)?;
        let refused = match quarantined {
            true => {
                let text = format!("release {} failed on this host before", promotion.version);
                Some(Failure::new(Cause::Quarantined, text))
            }
            false => self.failed_too_often(&attempt.product).err(),
        };
        let Some(refused) = refused else { return Ok(()) };
        let role = Role::Ring(attempt.product.clone(), attempt.ring.clone());
        let version = view.set().version(&role).unwrap_or(0);
        if promotion.terms.retry.contains(digest)
            && self.memory.lifts(digest, version).map_err(at_fault)?
        {
            tracing::info!(version = %promotion.version, "its promotion lets it be tried again");
            self.journal.forgive(&attempt.product)?;
            self.journal.lift(digest, Batch::new())?;
            return Ok(());
        }
        Err(refused)
    }
}

/// Whether the release is one to go to from what is installed. Only a rollback goes to an older one, and
/// only to the ring's `back`; nothing goes below the floor.
pub(super) fn in_order(
    attempt: &Attempt,
    promotion: &Promotion,
    document: &Release,
    installed: Option<&InstalledRelease>,
    floor: u64,
) -> Result<(), Failure> {
    let refused = |text: String| Err(Failure::new(Cause::NotPermitted, text));
    let version = &attempt.release.version;
    let named = (&document.product, &document.version, &promotion.version);
    if named != (&attempt.product, version, version) {
        return refused(format!(
            "the offer names {} {version}, the signed document {} {}",
            attempt.product, document.product, document.version
        ));
    }
    if document.counter < floor {
        let counter = document.counter;
        let text = format!("release {version} has counter {counter}, the floor here is {floor}");
        return Err(Failure::new(Cause::BelowFloor, text));
    }
    let back = promotion.terms.standing == Standing::Back;
    if attempt.rollback != back {
        return refused(format!(
            "release {version} is offered as {}, its promotion names it as {}",
            if attempt.rollback { "a rollback" } else { "an update" },
            if back { "the one to go back to" } else { "one to run" },
        ));
    }
    match installed {
        Some(installed) if installed.counter > document.counter && !back => refused(format!(
            "the installed release {} is newer than {version}: this host is ahead of its ring",
            installed.id.version
        )),
        Some(_) | None => Ok(()),
    }
}

fn at_fault(error: refit_durable::StoreError) -> Failure {
    Failure::new(Cause::HostFault, error.to_string())
}

fn denied(denial: &Denial) -> Failure {
    Failure::new(denial.cause(), first_line(&denial.to_string()))
}

fn misfit(misfit: &Misfit) -> Failure {
    let cause = match misfit {
        Misfit::OtherRelease { .. } => Cause::NotPermitted,
        Misfit::Floor { .. } => Cause::BelowFloor,
        Misfit::OtherPlan { .. } => Cause::NotProven,
    };
    Failure::new(cause, first_line(&misfit.to_string()))
}

fn not_refreshed(error: &RefreshError) -> Failure {
    let cause = match error {
        RefreshError::Call(error) => not_called(error),
        RefreshError::Trust(TrustError::Expired { .. }) => Cause::MetadataExpired,
        // Withheld: the server may have it again in a moment.
        RefreshError::Trust(TrustError::Missing { .. }) => Cause::FetchFailed,
        RefreshError::Trust(_) | RefreshError::Denied(_) | RefreshError::OtherRoot { .. } => {
            Cause::NotPermitted
        }
        RefreshError::File(_) => Cause::HostFault,
    };
    Failure::new(cause, first_line(&error.to_string()))
}

fn no_document(error: &ReleaseError) -> Failure {
    let cause = match error {
        ReleaseError::Call(error) => not_called(error),
        ReleaseError::Other(_) => Cause::ContentMismatch,
        ReleaseError::Document(_) => Cause::Unsupported,
    };
    Failure::new(cause, first_line(&error.to_string()))
}

fn not_called(error: &CallError) -> Cause {
    match error.trouble {
        Trouble::Weather | Trouble::Barred => Cause::ServerAway,
        Trouble::Absent => Cause::FetchFailed,
        Trouble::Refused => Cause::ContentMismatch,
    }
}

/// Without the help: a failure's cause has its own.
fn first_line(text: &str) -> String {
    text.split("\nhelp:").next().unwrap_or_default().to_owned()
}
