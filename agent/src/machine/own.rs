//! An update of the agent itself: this program puts another in its place, and PID 1 starts it. The way there
//! and the way back are those of every product; here stands what is different because whoever changes the
//! host is what is changed ([docs/decisions/0034](../../../docs/decisions/0034-own-update.md)).
//!
//! Each program takes the steps that it can answer for. The old one switches and has its unit started anew;
//! the new one finds the journal in Switching, does the step once more and so says that it runs. A new one
//! that has to go back puts everything in its place, has the old one started, and that one finishes.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use refit_proto::{
    names::{Digest, Product},
    package::{AGENT, AGENT_PROGRAM, WayBack, check_agent, is_agent},
};

use super::{HostMachine, failures::failure, settle::release_in};
use crate::{
    drive::HostError,
    host::{
        documents::Documents,
        files,
        own::Own,
        service::{Systemd, UnitFile, UnitName},
    },
    steps::Waited,
    unit::Unit,
    update::{Attempt, Cause, Change, Event, Failure, Undo, Verdict},
    way_back::{UndoStep, Undoing},
};

/// How long systemd may take to end this program after it was asked to start the unit anew.
const ENDED_WITHIN: Duration = Duration::from_secs(120);

/// After how many starts of the agent in one Switching the unit is taken not to start the new program: power
/// cuts before the switch account for a few.
const STARTS_OF_ANOTHER: u32 = 3;

/// What systemd says of a unit that it starts at every boot.
const ENABLED: [&str; 5] = ["enabled", "static", "generated", "indirect", "alias"];

impl HostMachine {
    /// Whether the agent can replace itself here, if the release is about it.
    pub(super) fn check_own(
        &self,
        attempt: &Attempt,
        documents: &Documents,
    ) -> Result<(), Failure> {
        let manifests = documents.packages.iter().map(|package| &package.manifest);
        check_agent(&attempt.product, manifests)?;
        if !is_agent(&attempt.product) {
            return Ok(());
        }
        let unable = |why: String| {
            let text = format!("this agent can't be replaced by a release of it: {why}");
            Failure::new(Cause::Unsupported, text)
        };
        if documents.release.plan.way_back == WayBack::None {
            return Err(unable("its plan says that there is no way back".into()));
        }
        let own = self.own.as_deref().ok_or_else(|| unable("systemd does not run it".into()))?;
        let words = own.arguments();
        if words.first().is_none_or(|word| word != "run") {
            return Err(unable(format!("it was started with {words:?}")));
        }
        let name = Unit::Agent.name();
        let state = own.unit(name).map_err(|why| Failure::new(Cause::HostFault, why))?;
        if state.main != own.process() {
            return Err(unable(format!("{name} is not what runs it")));
        }
        if !ENABLED.contains(&state.enabled.as_str()) {
            return Err(unable(format!("{name} is {}, not enabled", state.enabled)));
        }
        Ok(())
    }

    fn own_unit(&self, unit: Unit, release: &Path) -> UnitFile {
        let path = Path::new(Systemd::UNITS).join(unit.drop_in());
        let program = release.join(AGENT).join(AGENT_PROGRAM);
        let arguments = self.own.as_deref().map(Own::arguments).unwrap_or_default();
        UnitFile::File { path, bytes: unit.starts(&program, &self.data, &arguments).into_bytes() }
    }

    /// What makes the agent's units start its current release, through the link: the same for every release,
    /// so that the link alone tells which.
    pub(super) fn own_units(&self, attempt: &Attempt) -> Vec<UnitFile> {
        if !is_agent(&attempt.product) {
            return Vec::new();
        }
        let link = self.tree().link(&attempt.product);
        Unit::RUNNING.into_iter().map(|unit| self.own_unit(unit, &link)).collect()
    }

    /// The units whose program goes back with the agent, and that nothing else would start anew.
    pub(super) fn own_stops(&self, attempt: &Attempt) -> Vec<UndoStep> {
        if !is_agent(&attempt.product) {
            return Vec::new();
        }
        let others = Unit::RUNNING.into_iter().filter(|unit| *unit != Unit::Agent);
        others.map(|unit| Undoing::StopUnit { unit: unit.name().to_owned() }.into()).collect()
    }

    /// Every drop-in that an update of the agent may write.
    pub(super) fn own_drop_ins(&self, attempt: &Attempt) -> Vec<PathBuf> {
        if !is_agent(&attempt.product) {
            return Vec::new();
        }
        Unit::OWN.map(|unit| Path::new(Systemd::UNITS).join(unit.drop_in())).into()
    }

    /// After the commit what brings this host back is the release's own too, by its folder: the next release
    /// must not move it along before it is committed.
    pub(super) fn let_rescue_follow(&mut self, attempt: &Attempt) -> Result<(), Failure> {
        if !is_agent(&attempt.product) {
            return Ok(());
        }
        let folder = self.tree().folder(&attempt.product, &attempt.release.digest);
        for unit in Unit::OWN.into_iter().filter(|unit| !Unit::RUNNING.contains(unit)) {
            let UnitFile::File { path, bytes } = self.own_unit(unit, &folder) else { continue };
            files::create_dirs(&*self.files, path.parent().unwrap_or(&path), 0o755)?;
            files::write_file(&*self.files, &path, &bytes, 0o644)?;
        }
        let reloaded = self.manager.services().reload();
        reloaded.map_err(|error| failure(Cause::HostFault, &error))
    }

    /// What is left of qualifying, and folders for drop-ins that have none any more.
    pub(super) fn tidy_own(&self, attempt: &Attempt) -> Result<(), Failure> {
        if !is_agent(&attempt.product) {
            return Ok(());
        }
        self.remove_scratch()?;
        for path in self.own_drop_ins(attempt) {
            files::remove_if_empty(&*self.files, path.parent().unwrap_or(&path))?;
        }
        Ok(())
    }

    /// Of which release of the agent this program is; `None`: of none, as the packaged one.
    fn own_release(&self, own: &dyn Own, agent: &Product) -> Option<Digest> {
        let program = own.program();
        program.strip_prefix(self.tree().product(agent)).ok().and_then(release_in)
    }

    /// Whether this program is of the release that the attempt is about; `None` where that is about no agent, or
    /// systemd runs none.
    fn runs_new(&self, attempt: &Attempt) -> Option<bool> {
        let own = self.own.as_deref().filter(|_| is_agent(&attempt.product))?;
        Some(self.own_release(own, &attempt.product) == Some(attempt.release.digest))
    }

    /// For how long an update of the agent may take until the new one has taken over: one that hangs must not
    /// have the whole of its probation for it.
    pub(super) fn patience_to_take_over(&self, attempt: &Attempt) -> Option<Duration> {
        let taken_over = self.runs_new(attempt)?;
        (!taken_over).then_some(self.rescue_after.saturating_mul(2))
    }

    /// Whether everything is in its place and another program has to say so.
    pub(super) fn is_to_hand_over(&self, attempt: &Attempt) -> bool {
        self.runs_new(attempt) == Some(false)
    }

    /// Has the new program started, in the place of this one.
    pub(super) fn hand_over(
        &mut self,
        change: &Change,
        wait: &dyn Fn(Duration) -> Waited,
    ) -> Result<Event, HostError> {
        if change.starts >= STARTS_OF_ANOTHER {
            let program = self.own.as_deref().map(Own::program).unwrap_or_default();
            let text = format!(
                "{} starts {}, and not the release of the agent that is in its place",
                Unit::Agent.name(),
                program.display()
            );
            return Ok(Event::Failed { failure: Failure::new(Cause::SwitchFailed, text) });
        }
        tracing::info!(version = %change.attempt.release.version, "the new agent takes over");
        self.start_anew(Cause::SwitchFailed, wait)
    }

    /// Whether this program is what is to be undone.
    pub(super) fn is_to_hand_back(&self, attempt: &Attempt) -> bool {
        self.runs_new(attempt) == Some(true)
    }

    /// Puts what ran before in its place and has it started: it takes the same steps once more, and finishes.
    pub(super) fn hand_back(
        &mut self,
        change: &Change,
        undo: &Undo,
        wait: &dyn Fn(Duration) -> Waited,
    ) -> Result<Event, HostError> {
        if let Err(failure) = self.undo_own(change, undo) {
            return Ok(Event::Failed { failure });
        }
        tracing::warn!(version = %change.attempt.release.version, "the agent of before takes over");
        self.start_anew(Cause::RollbackFailed, wait)
    }

    fn undo_own(&mut self, change: &Change, undo: &Undo) -> Result<(), Failure> {
        self.keep_log(&change.attempt);
        match undo {
            // Nothing was changed, so nothing of the new one runs.
            Undo::StartAgain { .. } => Ok(()),
            Undo::Restore { sealed } => {
                let steps = self.undo(change, sealed)?;
                let taken = self.take(change, steps);
                taken.map_err(|error| failure(Cause::RollbackFailed, &error))
            }
        }
    }

    /// Has this process's units started anew by PID 1, and waits for its end.
    fn start_anew(
        &mut self,
        cause: Cause,
        wait: &dyn Fn(Duration) -> Waited,
    ) -> Result<Event, HostError> {
        for unit in Unit::RUNNING {
            let Some(own) = self.own.as_deref_mut() else { continue };
            if let Err(why) = own.start_anew(unit.name()) {
                if unit != Unit::Agent {
                    // There is none where both halves are one, and it does not serve another version for long.
                    tracing::debug!("{}: {why}", unit.name());
                    continue;
                }
                let text = format!("{} was not started anew: {why}", unit.name());
                return Ok(Event::Failed { failure: Failure::new(cause, text) });
            }
        }
        match wait(ENDED_WITHIN) {
            Waited::Ending => Err(HostError::Ending),
            Waited::Over | Waited::BackOut => {
                let seconds = ENDED_WITHIN.as_secs();
                let text = format!("this agent still runs {seconds} s after it was to end");
                Ok(Event::Failed { failure: Failure::new(cause, text) })
            }
        }
    }

    /// After a backup of the agent was brought back: the program that it leads to goes on.
    pub(super) fn give_way_to_restored(
        &mut self,
        wait: &dyn Fn(Duration) -> Waited,
    ) -> Result<(), Failure> {
        if !self.is_undone_release() {
            return Ok(());
        }
        match self.start_anew(Cause::RollbackFailed, wait) {
            Ok(Event::Failed { failure }) => Err(failure),
            Ok(_) | Err(_) => {
                Err(Failure::new(Cause::Interrupted, "the agent of before goes on with it"))
            }
        }
    }

    /// Whether this program is of a release of the agent that is not the current one.
    pub(super) fn is_undone_release(&self) -> bool {
        self.other_release().is_some_and(|(of, _)| of.is_some())
    }

    /// Where the agent has a current release and this program is not of it: another hand has its unit start
    /// something else.
    pub(super) fn another_runs(&self) -> Option<(Product, PathBuf)> {
        let (_, current) = self.other_release()?;
        current?;
        Some((Product::parse(AGENT).ok()?, self.own.as_deref()?.program()))
    }

    /// Of which release of the agent this program is, and which is current, where the two differ.
    fn other_release(&self) -> Option<(Option<Digest>, Option<Digest>)> {
        let product = Product::parse(AGENT).ok()?;
        let of = self.own_release(self.own.as_deref()?, &product);
        let current = self.tree().current(&product).ok()?;
        (of != current).then_some((of, current))
    }

    /// How healthy this agent is as the release that it is said to be; `None` for any other product.
    pub(super) fn own_health(&self, release: &Documents) -> Option<Verdict> {
        let product = &release.release.product;
        if !is_agent(product) {
            return None;
        }
        let unknown = |text: String| Some(Verdict::Unknown { text });
        let bad = |text: String| Some(Verdict::Bad { text, checks: Vec::new() });
        let Some(own) = self.own.as_deref() else { return unknown("systemd runs none".into()) };
        if self.own_release(own, product) != Some(release.id.digest) {
            return bad(format!("what runs as the agent is {}", own.program().display()));
        }
        // The other half is started whenever it is asked, and judged by whether the server is reached.
        let name = Unit::Agent.name();
        let state = match own.unit(name) {
            Ok(state) => state,
            Err(why) => return unknown(format!("{name} can't be asked for: {why}")),
        };
        if !ENABLED.contains(&state.enabled.as_str()) {
            return bad(format!("{name} is {}, not enabled", state.enabled));
        }
        if state.main != own.process() {
            return bad(format!("{name} runs process {}, not this agent", state.main));
        }
        match state.active.as_str() {
            "active" => {}
            "activating" | "reloading" | "deactivating" | "refreshing" => {
                return unknown(format!("{name} is {}", state.active));
            }
            other => return bad(format!("{name} is {other}")),
        }
        Some(Verdict::Good)
    }
}

/// Whose last words are kept if the attempt fails: the agent's own, where it is about it.
pub(super) fn logged(attempt: &Attempt) -> Vec<UnitName> {
    if !is_agent(&attempt.product) {
        return Vec::new();
    }
    Unit::RUNNING.iter().filter_map(|unit| UnitName::parse(unit.name()).ok()).collect()
}
