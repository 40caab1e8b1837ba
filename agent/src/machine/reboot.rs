//! The boot that a release needs: whether, what holds it off, and asking for it with the way back standing
//! by. What follows from each is decided in [`crate::update`].

use std::{path::Path, time::Duration};

use refit_proto::package::Reboot;

use super::{HostMachine, change::STARTS};
use crate::{
    drive::HostError,
    host::files,
    steps::Waited,
    update::{Cause, Change, Event, Failure, RebootNeed, RebootReason, SealedBackup},
};

/// Where Debian's packages, and whoever does as they do, say that the host has to boot; and which they are.
const REQUIRED: &str = "/run/reboot-required";
const REQUIRED_BY: &str = "/run/reboot-required.pkgs";
/// As much of that as is read.
const LONGEST: u64 = 64 * 1024;

/// A host that is going down ends this agent within seconds. One that still stands after this does not.
const GOING_DOWN: Duration = Duration::from_secs(300);

impl HostMachine {
    /// Whether this host can do what the release needs.
    ///
    /// # Errors
    /// If nobody can boot it.
    pub(super) fn can_boot(&self, reboot: Reboot) -> Result<(), Failure> {
        match reboot {
            Reboot::Always if self.boots.is_none() => {
                let text = "the release runs after a boot only, and this agent can't boot the host, \
                            since systemd does not run its services";
                Err(Failure::new(Cause::Unsupported, text))
            }
            Reboot::Always | Reboot::WhenRequired | Reboot::Never => Ok(()),
        }
    }

    /// Why the host has to boot now that the release is in its place.
    pub(super) fn reboot_need(&self, change: &Change) -> Option<RebootNeed> {
        let reason = match change.terms.reboot {
            Reboot::Never => return None,
            Reboot::Always => RebootReason::Release,
            Reboot::WhenRequired => RebootReason::Required { text: self.required()? },
        };
        if self.boots.is_none() {
            tracing::warn!("the host says that it has to boot, and this agent can't boot it");
            return None;
        }
        Some(RebootNeed { reason, longest_hold: self.reboot_hold })
    }

    fn required(&self) -> Option<String> {
        let read = |path: &str| {
            let bytes = files::read_file(&*self.files, Path::new(path), LONGEST).ok()?;
            Some(String::from_utf8_lossy(&bytes).trim().replace('\n', " "))
        };
        let said = read(REQUIRED)?;
        let by = read(REQUIRED_BY).filter(|by| !by.is_empty());
        Some(by.map_or(said.clone(), |by| format!("{said} ({by})")))
    }

    /// Who on this host holds a boot off.
    pub(super) fn boot_held(&self) -> Option<Failure> {
        let held = self.boots.as_ref()?.held_by();
        (!held.is_empty()).then(|| Failure::new(Cause::Busy, held.join("; ")))
    }

    /// Asks for the boot. The rescuer is told to count one start more: this one is wanted.
    pub(super) fn reboot(
        &mut self,
        change: &Change,
        sealed: &SealedBackup,
        wait: &dyn Fn(Duration) -> Waited,
    ) -> Result<Event, HostError> {
        if let Err(failure) = self.arm_for_the_switch(change, sealed, STARTS + 1) {
            return Ok(Event::Failed { failure });
        }
        match self.let_modules_reboot(change) {
            Ok(true) => {}
            Ok(false) => return Ok(Event::Rebooted { at: self.clock.moment() }),
            Err(failure) => return Ok(Event::Failed { failure }),
        }
        let asked = match &mut self.boots {
            Some(boots) => boots.ask(),
            None => Err("this agent can't boot the host".to_owned()),
        };
        if let Err(said) = asked {
            return Ok(Event::StillUp { why: said });
        }
        tracing::info!(product = %change.attempt.product, "the host boots for an update");
        match wait(GOING_DOWN) {
            Waited::Ending => Err(HostError::Ending),
            Waited::Over | Waited::BackOut => {
                let why = format!("it still runs {} s later", GOING_DOWN.as_secs());
                Ok(Event::StillUp { why })
            }
        }
    }
}
