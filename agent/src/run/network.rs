//! What the network thread does beside syncing: keeps the certificate young and the metadata fresh, and
//! has changes of the host's state reported.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use refit_proto::{
    gathered::Gathered as _,
    names::{Digest, Product},
    trust::Role,
    wire::{HeldMetadata, SyncReply, SyncRequest},
};

use tokio::sync::Notify;

use super::alarm;
use crate::{
    clock::Clock,
    identity::{Identity, IdentityFolder, Keys, Ways},
    link::{self, CallError, Calls, Link, Order, Pace, Trouble, Turn, Wanted},
    report::Reporter,
    trusted::{Servers, Trust},
    update::Running,
};

/// How often to ask somebody who can't prove to be the server, at most.
const STRANGER_EVERY: Duration = Duration::from_secs(60);
/// How often to try to renew, at most: a server that does not want to must not be asked with each call.
const RENEW_EVERY: Duration = Duration::from_secs(10 * 60);

/// The network side of a running agent.
pub(super) struct Network {
    pub(super) server: Arc<Link>,
    pub(super) identity: tokio::sync::Mutex<(Identity, Keys)>,
    pub(super) folder: IdentityFolder,
    pub(super) clock: Clock,
    pub(super) trust: Arc<Trust>,
    pub(super) reporter: Arc<Reporter>,
    pub(super) wanted: Arc<Wanted>,
    pub(super) renewing: Mutex<Renewing>,
    /// When somebody who could not prove to be the server was last asked for the list of servers.
    pub(super) asked_stranger: Mutex<Option<Running>>,
    /// Told at each call: this process is awake.
    pub(super) awake: Arc<Notify>,
}

/// The tries to renew.
#[derive(Debug, Default)]
pub(super) struct Renewing {
    last: Option<Running>,
    said: Option<String>,
}

impl Network {
    /// Refreshes the metadata again and again. A failure is logged once; what is trusted stays.
    pub(super) async fn refresh_for_ever(&self) {
        let mut said = None;
        // That of the calls: a host that has nothing to do wakes up once for both.
        let turn = Turn::of(&self.identity.lock().await.0.host, "sync");
        let mut pace = Pace::new(None, turn);
        loop {
            let refreshed = self.trust.refresh(&*self.server, &self.products()).await;
            let (key, text) = match &refreshed {
                Ok(view) => {
                    self.follow_servers(view.servers()).await;
                    let refused: Vec<String> = view.refused().collect();
                    let text = (!refused.is_empty())
                        .then(|| format!("metadata is refused: {}", refused.join("; ")));
                    (text.clone(), text)
                }
                Err(error) => {
                    // Words that are the same at each try.
                    let key = error.refusal().map_or_else(|| error.to_string(), |it| it.text);
                    (Some(key), Some(error.to_string()))
                }
            };
            if let Some(text) = text.filter(|_| said != key) {
                tracing::warn!("{text}");
            }
            said = key;
            self.reporter.report_changes();
            // Whoever waits for what was just learned looks again.
            self.wanted.stir();
            match refreshed {
                Ok(_) => pace.succeeded(self.server.rests().period()),
                Err(_) => pace.failed(),
            }
            let (now, rest) = (self.clock.running(), self.server.rests_for());
            alarm::after(pace.delay(now, rest, link::chance())).await;
        }
    }

    /// Goes by what signed metadata says of the servers from now on, and after every restart.
    async fn follow_servers(&self, servers: &Servers) {
        let servers = match servers {
            Servers::Unknown => return,
            Servers::NotNamed => None,
            Servers::Named(servers) => Some(servers),
        };
        let ways = Ways::of(&self.identity.lock().await.0, servers);
        let kept = match Ways::load(&self.folder) {
            Ok(known) if known.as_ref() == servers => Ok(()),
            Ok(_) | Err(_) => Ways::save(&self.folder, servers),
        };
        let followed = kept
            .map_err(|error| error.to_string())
            .and_then(|()| self.server.change_ways(ways).map_err(|error| error.to_string()));
        if let Err(error) = followed {
            self.say(format!("the signed list of servers can't be followed: {error}"));
        }
    }

    /// A server that was put back to an older copy gets back what this host still has.
    async fn give_back(&self, wanted: &[String]) {
        let Some(offer) = self.trust.give_back(wanted).filter(|offer| !offer.files.is_empty())
        else {
            return;
        };
        match self.server.offer(offer).await {
            Ok(_) => {
                tracing::info!(roles = wanted.join(" "), "the server has back what it had lost")
            }
            Err(error) => {
                self.say(format!("the server lacks signed files and does not take them: {error}"))
            }
        }
    }

    /// Whoever answers is not known to be the server: perhaps its authority was replaced while this host
    /// was away. The list of servers proves itself; says whether there are other ways now.
    async fn ask_stranger(&self) -> bool {
        let now = self.clock.running();
        {
            let mut asked = self.asked_stranger.lock().unwrap_or_else(PoisonError::into_inner);
            if asked.is_some_and(|last| now.since(last) < STRANGER_EVERY) {
                return false;
            }
            *asked = Some(now);
        }
        let before = (self.server.address(), self.server.authorities());
        match self.trust.refresh_servers(&self.server.stranger()).await {
            Ok(servers) => self.follow_servers(&servers).await,
            Err(error) => {
                tracing::info!(
                    "whoever answers at {} has no newer list of servers: {error}",
                    before.0
                );
                return false;
            }
        }
        let changed = before != (self.server.address(), self.server.authorities());
        if changed {
            // A renewal that failed for the wrong authority need not wait for its next turn.
            self.renewing.lock().unwrap_or_else(PoisonError::into_inner).last = None;
            tracing::info!(
                "the signed list of servers is newer; going on with {}",
                self.server.address()
            );
        }
        changed
    }

    /// The address in use did not answer.
    async fn move_on(&self) {
        let before = self.server.address();
        match self.server.move_on().await {
            Ok(()) if self.server.address() == before => {}
            Ok(()) => tracing::info!(
                "server {before} was not reached; the next is {}",
                self.server.address()
            ),
            Err(error) => self.say(error.to_string()),
        }
    }

    /// The products that matter here: what is installed and what is offered.
    fn products(&self) -> BTreeSet<Product> {
        let inventory = self.reporter.inventory.read().unwrap_or_else(PoisonError::into_inner);
        let mut products: BTreeSet<Product> = inventory.keys().cloned().gathered();
        let orders = self.wanted.orders().unwrap_or_default();
        let offered = orders.products.into_iter().filter(|(_, o)| matches!(o, Order::Offer(_)));
        products.extend(offered.map(|(product, _)| product));
        products
    }

    /// Whether it is time to try again, and notes the try.
    fn may_renew(&self) -> bool {
        let now = self.clock.running();
        let mut renewing = self.renewing.lock().unwrap_or_else(PoisonError::into_inner);
        if renewing.last.is_some_and(|last| now.since(last) < RENEW_EVERY) {
            return false;
        }
        renewing.last = Some(now);
        true
    }

    fn say(&self, text: String) {
        let mut renewing = self.renewing.lock().unwrap_or_else(PoisonError::into_inner);
        if renewing.said.as_ref() != Some(&text) {
            tracing::warn!("{text}");
            renewing.said = Some(text);
        }
    }
}

impl Calls for Arc<Network> {
    async fn sync(&self, mut request: SyncRequest) -> Result<SyncReply, CallError> {
        self.awake.notify_one();
        let held = self.trust.held().into_iter();
        let line = |(role, version): (Role, u64)| HeldMetadata { role: role.to_string(), version };
        request.metadata = held.map(line).collect();
        request.audit_held = self.reporter.witness.held();
        let reply = match self.server.sync(request).await {
            Err(error) if error.trouble == Trouble::Weather => {
                if !(error.is_impostor() && self.ask_stranger().await) {
                    self.move_on().await;
                }
                return Err(error);
            }
            reply => reply?,
        };
        if let Some(authority) = self.server.authorities().first() {
            self.reporter.witness.look(&reply, Digest::of(authority));
        }
        let period = u64::from(reply.poll_after_seconds).clamp(1, 3600);
        self.server.rests().answers(Duration::from_secs(period));
        if !reply.wanted_metadata.is_empty() {
            self.give_back(&reply.wanted_metadata).await;
        }
        Ok(reply)
    }

    async fn keep_certificate(&self, barred: bool) {
        let mut identity = self.identity.lock().await;
        let authorities = self.server.authorities();
        let due = match link::is_due(&identity.0, authorities.first(), self.clock.now()) {
            Ok(due) => due,
            Err(error) => return self.say(error.to_string()),
        };
        if !(due || barred) || !self.may_renew() {
            return;
        }
        let (own, keys) = &*identity;
        match link::renew(&self.server, own, keys, &self.folder, &self.clock).await {
            Ok(renewed) => {
                tracing::info!("this host's certificate is renewed");
                identity.0 = renewed;
            }
            Err(error) => self.say(error.to_string()),
        }
    }

    fn report_changes(&self) {
        self.reporter.report_changes();
    }

    async fn wait(&self, span: Duration) {
        alarm::after(span).await;
    }

    fn now_and_rest(&self) -> (Running, Duration) {
        (self.clock.running(), self.server.rests_for())
    }
}
