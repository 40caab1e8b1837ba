//! The gRPC services. A handler reads who calls and what they say, asks, and answers; nothing is decided
//! here. What was refused leaves one line in the log, and an entry in the audit log where somebody is
//! to answer for it.

mod admin;
mod agent;
mod bundle;
mod call;
mod changes;
mod content;
mod enrollment;
mod error;
mod readmission;
pub(crate) mod repository;
mod status;

use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use tokio::sync::{Notify, watch};

pub(crate) use admin::find_host;
pub use error::ApiError;

use crate::{
    clock::Clock, content::ContentFolder, keys::ServerKeys, placing::LabelCache,
    presence::Presence, refusals::Throttle, settings::Settings, store::StoreHandle,
    troubles::Troubles,
};

/// What all services and the leader share.
pub struct Shared {
    /// Everything that is remembered.
    pub store: StoreHandle,
    /// Content by digest.
    pub content: ContentFolder,
    /// The server's own keys.
    pub keys: ServerKeys,
    /// What time it is.
    pub clock: Clock,
    /// As they were read at the start.
    pub settings: Settings,
    /// Wakes the leader after a commit, so that nobody waits for its next tick.
    pub wake: Notify,
    /// Since when this server listens.
    pub listening_since: Timestamp,
    /// When each host last called.
    pub presence: Presence,
    /// How many hosts share their identity.
    pub troubles: Troubles,
    /// What it once published and has lost.
    pub healing: crate::healing::Healing,
    /// Labels set from the centre.
    pub labels: LabelCache,
    /// Says `true` when the server stops: answers without an end end then.
    pub stop: watch::Receiver<bool>,
    /// Where commits queue up that have collided.
    pub turn: Mutex<()>,
    /// Keeps floods out of the audit log.
    pub throttle: Mutex<Throttle>,
}

/// The services themselves, cheap to clone.
#[derive(Clone)]
pub struct Api(Arc<Shared>);

impl Api {
    /// The services over what they share.
    pub fn new(shared: Arc<Shared>) -> Api {
        Api(shared)
    }
}
