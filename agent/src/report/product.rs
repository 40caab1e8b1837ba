//! What a host says of one product: its ring, what is installed, where its update stands, and why it does
//! not move.

use jiff::Timestamp;
use refit_proto::{
    names::Product,
    wire::{Attempt, Failure, Hold, HookRun, Installed, ProductState},
};

use super::InstalledRelease;
use crate::{
    host::hook::{self, HookRuns},
    journal::{Ended, Quarantined},
    link::Order,
    trusted::View,
    update::{self, InstallId, Outcome, Update, Verdict},
};

/// What is the same for every product.
pub(super) struct Look<'a> {
    pub(super) view: Option<&'a View>,
    pub(super) now: Timestamp,
    pub(super) update: Option<&'a Update>,
    pub(super) quarantine: &'a [Quarantined],
    pub(super) hook_runs: &'a HookRuns,
}

impl Look<'_> {
    pub(super) fn product(
        &self,
        product: &Product,
        installed: Option<&InstalledRelease>,
        order: Option<&Order>,
        last: Option<&Ended>,
    ) -> ProductState {
        let ring = self.view.and_then(|view| view.ring(product));
        let mut state = ProductState {
            product: product.to_string(),
            ring: ring.map(String::from).unwrap_or_default(),
            installed: installed.map(|release| Installed {
                version: release.id.version.to_string(),
                digest: release.id.digest.as_bytes().to_vec(),
            }),
            quarantine: self
                .quarantine
                .iter()
                .filter(|quarantined| quarantined.product == *product)
                .map(|quarantined| quarantined.digest.to_string())
                .collect(),
            ahead: self.is_ahead(product, installed),
            ..ProductState::default()
        };
        match self.update.filter(|update| update.attempt().product == *product) {
            Some(update) => {
                state.hooks = self.hooks(update.install());
                under_way(update, &mut state);
            }
            None => {
                if let Some(ended) = last {
                    state.hooks = self.hooks(&ended.attempt.install);
                    let lease = ended.lease.as_ref();
                    state.attempt = Some(attempt(&ended.attempt, lease));
                    over(&ended.outcome, &mut state);
                }
            }
        }
        let well = matches!(state.health.as_str(), "good" | "unobserved");
        if well && !self.stands(product, installed, last) {
            "unknown".clone_into(&mut state.health);
        }
        state.hold = self.hold(product, &state, order);
        // Nearer than whatever the server waits for: it may be this.
        if let Some(drift) = installed.and_then(|installed| installed.drift.text()) {
            state.hold = Some(hold("changed-on-host", &drift, "the host's owner"));
        }
        state
    }

    /// How the hooks of an update went.
    fn hooks(&self, install: &InstallId) -> Vec<HookRun> {
        let runs = self.hook_runs.get(install).into_iter().flatten();
        runs.map(|run| HookRun {
            package: run.package.to_string(),
            when: hook::word(run.when).to_owned(),
            number: u32::try_from(run.number).unwrap_or(u32::MAX),
            good: run.ended().is_ok(),
            how: run.how(),
            output: run.output.clone(),
        })
        .collect()
    }

    /// Whether what was found healthy is what stands here, unchanged.
    fn stands(
        &self,
        product: &Product,
        installed: Option<&InstalledRelease>,
        last: Option<&Ended>,
    ) -> bool {
        if installed.is_some_and(|installed| !installed.drift.is_empty()) {
            return false;
        }
        let under_way = self.update.filter(|update| update.attempt().product == *product);
        let (attempt, outcome) = match (under_way, last) {
            (Some(Update::Finished { attempt, outcome, .. }), _) => (attempt, outcome),
            (Some(_), _) | (None, None) => return true,
            (None, Some(ended)) => (&ended.attempt, &ended.outcome),
        };
        let meant = match outcome {
            Outcome::RolledBack { .. } => attempt.previous.as_ref(),
            Outcome::Committed { .. }
            | Outcome::Refused { .. }
            | Outcome::Dropped
            | Outcome::Stuck { .. } => Some(&attempt.release),
        };
        installed.map(|installed| &installed.id) == meant
    }

    /// Whether what is installed is newer than what the ring should run, as far as both are known.
    fn is_ahead(&self, product: &Product, installed: Option<&InstalledRelease>) -> bool {
        let (Some(view), Some(installed)) = (self.view, installed) else { return false };
        let Some(current) = view.current(product) else { return false };
        current.digest != installed.id.digest
            && view.counter(&current.digest).is_some_and(|counter| installed.counter > counter)
    }

    /// Why the product does not move, the reason that lies nearest first.
    fn hold(&self, product: &Product, state: &ProductState, order: Option<&Order>) -> Option<Hold> {
        let Some(view) = self.view else {
            return Some(hold("no-metadata", "no signed metadata is here yet", "time"));
        };
        if state.ring.is_empty() {
            let text = format!("no ring of {product} selects this host");
            return Some(hold("no-ring", &text, "operator"));
        }
        if view.expired(self.now) {
            let mut hold =
                hold("metadata-expired", "the signed metadata has expired", "the server's owner");
            hold.since = view.expires().map(|at| at.to_string()).unwrap_or_default();
            return Some(hold);
        }
        let waits = self.update.filter(|update| update.attempt().product == *product);
        if let Some(held) = waits.and_then(own_hold) {
            return Some(held);
        }
        if let Some(failure) = waits.filter(|u| u.lease().is_none()).and_then(Update::failure) {
            return Some(hold(failure.cause.as_str(), &failure.text, "time"));
        }
        match order {
            Some(Order::Hold(hold) | Order::BackOut(hold)) => Some(hold.clone()),
            Some(Order::Offer(offer)) => {
                let other = self.update.filter(|update| {
                    update.attempt().product != *product && !update.phase().is_end()
                });
                let refused = state.quarantine.contains(&offer.release.digest.to_string());
                match other {
                    _ if refused => Some(hold(
                        "quarantined",
                        "the release failed here before",
                        "the ring's signers",
                    )),
                    Some(update) => {
                        let text = format!("{} is updated first", update.attempt().product);
                        Some(hold("other-product", &text, "time"))
                    }
                    None => None,
                }
            }
            None => None,
        }
    }
}

/// The host's own reasons why the update does not begin: the first, with the others' words.
fn own_hold(update: &Update) -> Option<Hold> {
    let (first, others) = update.holds().split_first()?;
    let texts = others.iter().map(|held| held.hold.text());
    let text = texts.fold(first.hold.text(), |text, other| format!("{text}; {other}"));
    Some(Hold {
        since: first.since.to_string(),
        until: first.hold.until().map(|until| until.to_string()).unwrap_or_default(),
        ..hold(first.hold.reason(), &text, first.hold.who())
    })
}

fn hold(reason: &str, text: &str, who: &str) -> Hold {
    Hold { reason: reason.into(), text: text.into(), who: who.into(), ..Hold::default() }
}

fn under_way(update: &Update, state: &mut ProductState) {
    state.attempt = Some(attempt(update.attempt(), update.lease()));
    match update {
        Update::Finished { outcome, .. } => return over(outcome, state),
        Update::Probation { probation, .. } => {
            let verdict = probation.last.as_ref();
            state.health = verdict.map_or("unknown", Verdict::as_str).to_owned();
        }
        Update::Rebooting { reboot, .. } => {
            state.failure = reboot.retry.last.as_ref().map(failure);
        }
        Update::RollingBack { failure: why, .. } => state.failure = Some(failure(why)),
        Update::Offered { .. }
        | Update::Preflight { .. }
        | Update::Fetching { .. }
        | Update::Waiting { .. }
        | Update::BackingUp { .. }
        | Update::Quiescing { .. }
        | Update::Sealing { .. }
        | Update::Switching { .. } => {}
    }
    state.phase = update.phase().to_string();
}

fn over(outcome: &Outcome, state: &mut ProductState) {
    state.phase = outcome.phase().to_string();
    state.failure = outcome.failure().map(failure);
    if let Outcome::Committed { red_before, .. } = outcome {
        state.red_before.clone_from(red_before);
    }
    state.health = match outcome {
        Outcome::Committed { proof, .. } => proof.as_str(),
        Outcome::RolledBack { health: Some(verdict), .. } => verdict.as_str(),
        Outcome::Stuck { .. } => "bad",
        Outcome::RolledBack { health: None, .. } | Outcome::Refused { .. } | Outcome::Dropped => "",
    }
    .to_owned();
}

/// A failure as the wire says it.
pub(super) fn failure(failure: &update::Failure) -> Failure {
    Failure {
        cause: failure.cause.to_string(),
        text: failure.text.clone(),
        help: failure.cause.help().to_owned(),
        log: failure.log.clone(),
    }
}

fn attempt(attempt: &update::Attempt, lease: Option<&update::LeaseId>) -> Attempt {
    Attempt {
        rollout_id: attempt.rollout.clone(),
        number: attempt.number,
        version: attempt.release.version.to_string(),
        digest: attempt.release.digest.as_bytes().to_vec(),
        lease_id: lease.map(ToString::to_string).unwrap_or_default(),
        ordered_by: attempt.ordered_by.as_str().to_owned(),
    }
}
