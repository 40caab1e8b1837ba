//! One call: who makes it, whether they are let in, and what log and audit log say about its end.

use std::sync::PoisonError;

use jiff::Timestamp;
use tonic::{Request, Response, Status};
use tracing::{debug, info, warn};

use super::{Api, ApiError, Shared};
use crate::{
    access::{self, Member, Refusal},
    audit::{self, Deed},
    fleet::{Actor, Host, Person},
    identity::{Peer, Role},
    refusals::actor,
    store::{Commit, CommitError, Reads as _, Rev, Store},
};

/// A call as log and audit log name it.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) peer: Peer,
    pub(super) who: Actor,
    pub(super) what: String,
    pub(super) now: Timestamp,
    act: &'static str,
}

impl Call {
    /// Begins a call. `act` is what log and audit log call it.
    pub(super) fn begin<T>(
        shared: &Shared,
        request: &Request<T>,
        act: &'static str,
    ) -> Result<Call, Status> {
        // Every connection comes through the acceptor, which puts its peer there.
        let peer = request
            .extensions()
            .get::<Peer>()
            .cloned()
            .ok_or_else(|| Status::internal("the connection has no peer"))?;
        let who = actor(&peer.caller());
        Ok(Call { peer, who, what: String::new(), now: shared.clock.now(), act })
    }

    /// What the call is about, for the logs.
    pub(super) fn about(mut self, what: impl AsRef<str>) -> Call {
        self.what = what.as_ref().trim().chars().take(200).collect();
        self
    }

    /// The call did what it was asked to.
    pub(super) fn done(&self) -> Vec<Deed> {
        vec![Deed::done(self.who.clone(), self.act, &*self.what)]
    }

    fn refused(&self, error: &ApiError) -> Deed {
        Deed::refused(self.who.clone(), self.act, &*self.what, first_line(error))
    }

    /// The calling host, by its record.
    pub(super) fn host(&self, store: &dyn Store) -> Result<Rev<Host>, ApiError> {
        let certified = access::certified(&self.peer, self.now)?;
        let id = access::as_host(certified)?;
        let host = store.host(id)?;
        access::let_host_in(certified, host.as_ref().map(|held| &held.value))?;
        host.ok_or_else(|| Refusal::Unknown(format!("host {id}")).into())
    }

    /// The calling person or CI job, with one of these roles.
    pub(super) fn member(
        &self,
        store: &dyn Store,
        needed: &'static [Role],
    ) -> Result<Member, ApiError> {
        let certified = access::certified(&self.peer, self.now)?;
        let name = access::as_person(certified)?;
        let person = store.read::<Person>(name.clone())?;
        let member = access::let_person_in(certified, person.as_ref().map(|held| &held.value))?;
        member.needs(needed)?;
        Ok(member)
    }

    /// Anybody that is let in: reading signed metadata and content is for all.
    pub(super) fn anyone(&self, store: &dyn Store) -> Result<(), ApiError> {
        let certified = access::certified(&self.peer, self.now)?;
        match access::as_host(certified) {
            Ok(_) => self.host(store).map(drop),
            Err(_) => self.member(store, access::ANY_ROLE).map(drop),
        }
    }
}

/// Commits that collide with another are tried again this often: each time somebody else got on.
const TRIES: usize = 100;

/// Does something that ends in a commit. Where another commit was faster, all of it is done again on
/// what is stored then, in turn with everybody to whom that happened: a storm of calls queues up instead of
/// colliding over and over.
pub(super) fn retry<T>(
    shared: &Shared,
    store: &dyn Store,
    now: Timestamp,
    mut attempt: impl FnMut() -> Result<(T, Commit, Vec<Deed>), ApiError>,
) -> Result<T, ApiError> {
    let mut turn = None;
    for tried in 1.. {
        let (done, commit, deeds) = attempt()?;
        if commit == Commit::default() && deeds.is_empty() {
            return Ok(done);
        }
        match audit::commit(store, &commit, now, &deeds) {
            Ok(_) => return Ok(done),
            Err(CommitError::Conflict(_)) if tried < TRIES => {
                let queue = || shared.turn.lock().unwrap_or_else(PoisonError::into_inner);
                turn.get_or_insert_with(queue);
            }
            Err(error) => return Err(error.into()),
        }
    }
    unreachable!("the loop ends by returning")
}

impl Api {
    /// Does the work of a call on a thread that may wait for the disk, and ends it: what was refused is
    /// in the log, and where it acts, on record. What was done is on record by the commit that did it.
    pub(super) async fn act<T: Send + 'static>(
        &self,
        call: Call,
        work: impl FnOnce(&Shared, &dyn Store, &Call) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let result = self.work(&call, work).await;
        self.0.wake.notify_one();
        let on_record = matches!(&result, Err(error) if !error.is_ours());
        self.end(&call, result, on_record).await
    }

    /// The same for a call that only reads, or speaks for a host: who was kept out is on record, what was
    /// not found is not.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        call: Call,
        work: impl FnOnce(&Shared, &dyn Store, &Call) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let result = self.work(&call, work).await;
        self.finish(&call, result).await
    }

    /// Ends a call whose work was done elsewhere.
    pub(super) async fn finish<T>(
        &self,
        call: &Call,
        result: Result<T, ApiError>,
    ) -> Result<Response<T>, Status> {
        let on_record = matches!(&result, Err(ApiError::Refusal(_)));
        self.end(call, result, on_record).await
    }

    /// The work of a call, on a thread that may wait for the disk.
    pub(super) async fn work<T: Send + 'static>(
        &self,
        call: &Call,
        work: impl FnOnce(&Shared, &dyn Store, &Call) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let (shared, call) = (self.0.clone(), call.clone());
        self.0.store.run(move |store| work(&shared, store, &call)).await
    }

    async fn end<T>(
        &self,
        call: &Call,
        result: Result<T, ApiError>,
        on_record: bool,
    ) -> Result<Response<T>, Status> {
        let error = match result {
            Ok(reply) => return Ok(Response::new(reply)),
            Err(error) => error,
        };
        let (act, who, what, address) = (call.act, &call.who, &call.what, call.peer.address);
        if matches!(error, ApiError::NotFound(_)) {
            debug!(act, %who, what, %address, cause = first_line(&error), "not found");
        } else if error.is_ours() {
            warn!(act, %who, what, %address, error = %error.chain(), "failed");
        } else {
            info!(act, %who, what, %address, cause = first_line(&error), "refused");
        }
        if on_record {
            self.note_refusal(call.refused(&error), call.now).await;
        }
        Err(error.into())
    }

    /// Puts a refusal on record, unless the same one was there a moment ago.
    pub async fn note_refusal(&self, deed: Deed, now: Timestamp) {
        let admitted = {
            let throttle = self.0.throttle.lock();
            throttle.unwrap_or_else(|poisoned| poisoned.into_inner()).admits(&deed, now)
        };
        if !admitted {
            return;
        }
        let record = move |store: &dyn Store| audit::commit(store, &Commit::new(), now, &[deed]);
        if let Err(error) = self.0.store.run(record).await {
            warn!(%error, "a refusal could not be put on record");
        }
    }
}

/// Without the help line: the logs say what happened, not what to do.
fn first_line(error: &ApiError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
