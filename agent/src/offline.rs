//! The agent's folder without a running agent, for commands that look at it or mend it. Holds the folder,
//! so that no agent starts meanwhile.

use std::sync::{Arc, Mutex, RwLock};

use refit_durable::StateStore;

use crate::{
    clock::Clock,
    holds::Holds,
    host::{
        backup::Backups,
        files::RealFiles,
        hook::{self, KeptRuns},
        tree::Tree,
    },
    identity::Identity,
    journal::StoreJournal,
    link::Wanted,
    machine,
    outbox::Outbox,
    report::{Reporter, ReportingJournal, held_backups},
    run::{Lock, RunError, open_store},
    settings::Settings,
    trusted::{Holder, Trust, TrustFolder},
    witness::Witness,
};

/// The agent's folder, held.
pub struct Offline {
    store: Arc<dyn StateStore>,
    clock: Clock,
    // Last, so that the store is closed before another may open it.
    _lock: Lock,
}

impl Offline {
    /// Takes the folder.
    ///
    /// # Errors
    /// If an agent runs on it, or its store can't be opened.
    pub fn open(settings: &Settings, clock: Clock) -> Result<Offline, RunError> {
        Offline::with(Lock::take(settings)?, settings, clock)
    }

    /// Takes the folder to look at it, as who is not to pass for an agent.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn look(settings: &Settings, clock: Clock) -> Result<Offline, RunError> {
        Offline::with(Lock::look(settings)?, settings, clock)
    }

    fn with(lock: Lock, settings: &Settings, clock: Clock) -> Result<Offline, RunError> {
        Ok(Offline { store: open_store(settings, &clock)?, clock, _lock: lock })
    }

    /// What the host remembers of its updates.
    pub fn journal(&self) -> StoreJournal {
        StoreJournal::new(self.store.clone())
    }

    /// What puts the host's state together.
    ///
    /// # Errors
    /// If the host is not enrolled.
    pub fn reporter(&self, settings: &Settings) -> Result<Reporter, RunError> {
        let (identity, keys) = Identity::load(&settings.identity())?;
        let tree = Tree::new(
            &RealFiles,
            machine::install_root(&RealFiles, settings),
            settings.platform.clone(),
        );
        let inventory = machine::inventory(&tree);
        let hook_runs = KeptRuns::load(&RealFiles, hook::folder(&settings.data));
        let backups = Backups::new(&RealFiles, settings.data.clone());
        let host = identity.host.clone();
        let holder = Holder { host: host.clone(), labels: identity.labels, root: identity.root };
        let trust = Trust::load(TrustFolder::at(settings.trust()), holder, self.clock.clone());
        let outbox = Outbox::new(self.store.clone(), host, keys.into_report(), || {});
        Ok(Reporter {
            server: None,
            outbox: Arc::new(outbox),
            journal: self.journal(),
            trust: Arc::new(trust),
            wanted: Arc::new(Wanted::default()),
            clock: self.clock.clone(),
            platform: settings.platform.clone(),
            inventory: Arc::new(RwLock::new(inventory)),
            holds: Arc::new(Holds::load(
                Arc::new(RealFiles),
                &settings.data,
                self.clock.clone(),
                settings.holds.longest,
            )),
            hook_runs: Arc::new(RwLock::new(hook_runs.reported().clone())),
            backups: Arc::new(RwLock::new(held_backups(&backups))),
            witness: Arc::new(Witness::load(settings.identity().audit())?),
            files: Arc::new(RealFiles),
            data: settings.data.clone(),
            reported: Mutex::new(None),
        })
    }

    /// The journal, which reports what it saves: it is sent when the agent runs again.
    ///
    /// # Errors
    /// If the host is not enrolled.
    pub fn reporting_journal(
        &self,
        settings: &Settings,
    ) -> Result<ReportingJournal<StoreJournal>, RunError> {
        Ok(ReportingJournal::new(self.journal(), Arc::new(self.reporter(settings)?)))
    }
}
