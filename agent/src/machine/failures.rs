//! Which cause a failure of the machine has: what is blamed decides what follows.

use refit_proto::package::DocumentError;

use crate::{
    host::{
        backup::BackupError,
        content::{ContentError, FetchError},
        database::DatabaseError,
        deb::DebError,
        documents::DocumentsError,
        files::FileError,
        podman::PodmanError,
        preflight::PreflightError,
        service::{ResolveError, ServiceError},
        tree::InstallError,
    },
    update::{Cause, Failure},
    way_back::PlaceError,
};

/// A failure of this cause, in the words of the error, without its help: the cause has its own.
pub(super) fn failure(cause: Cause, error: &dyn std::fmt::Display) -> Failure {
    let text = error.to_string();
    Failure::new(cause, text.split("\nhelp:").next().unwrap_or_default())
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Failure {
        let cause = if error.is_full() { Cause::NoSpace } else { Cause::HostFault };
        failure(cause, &error)
    }
}

impl From<ContentError> for Failure {
    fn from(error: ContentError) -> Failure {
        match error {
            ContentError::File(error) => error.into(),
            ContentError::Mismatch(_) => failure(Cause::ContentMismatch, &error),
            ContentError::Fetch {
                why: FetchError::Away(_) | FetchError::Shorter { .. } | FetchError::Refused(_),
                ..
            } => failure(Cause::FetchFailed, &error),
        }
    }
}

impl From<DocumentsError> for Failure {
    fn from(error: DocumentsError) -> Failure {
        match error {
            DocumentsError::File(error) => error.into(),
            DocumentsError::Mismatch { .. } => failure(Cause::ContentMismatch, &error),
            DocumentsError::Document(_) | DocumentsError::Platform { .. } => {
                failure(Cause::Unsupported, &error)
            }
        }
    }
}

impl From<DocumentError> for Failure {
    fn from(error: DocumentError) -> Failure {
        failure(Cause::Unsupported, &error)
    }
}

impl From<PreflightError> for Failure {
    fn from(error: PreflightError) -> Failure {
        match error {
            PreflightError::NoRoom(_) => failure(Cause::NoSpace, &error),
            PreflightError::File(error) => error.into(),
        }
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Failure {
        match error {
            BackupError::Damaged { .. } => failure(Cause::BackupDamaged, &error),
            BackupError::Variable(_) => failure(Cause::Unsupported, &error),
            BackupError::File(_)
            | BackupError::Full { .. }
            | BackupError::Busy(_)
            | BackupError::Unsaveable { .. }
            | BackupError::Unrestorable { .. } => failure(Cause::BackupFailed, &error),
        }
    }
}

impl From<DatabaseError> for Failure {
    fn from(error: DatabaseError) -> Failure {
        match error {
            DatabaseError::File(error) => error.into(),
            DatabaseError::Backup(error) => error.into(),
            DatabaseError::Variable(_) => failure(Cause::Unsupported, &error),
            DatabaseError::Tool { .. }
            | DatabaseError::Missing { .. }
            | DatabaseError::Unequal { .. }
            | DatabaseError::Busy { .. }
            | DatabaseError::Unfit { .. } => failure(Cause::BackupFailed, &error),
        }
    }
}

impl From<InstallError> for Failure {
    fn from(error: InstallError) -> Failure {
        match error {
            InstallError::File(error) => error.into(),
            InstallError::Documents(error) => error.into(),
            InstallError::Damaged { .. }
            | InstallError::Foreign { .. }
            | InstallError::Unplaceable { .. } => failure(Cause::SwitchFailed, &error),
        }
    }
}

impl From<DebError> for Failure {
    fn from(error: DebError) -> Failure {
        let cause = match &error {
            DebError::File(_) => Cause::HostFault,
            DebError::Locked(_) => Cause::Busy,
            DebError::NoDpkg | DebError::Refused(_) => Cause::Unsupported,
            DebError::NoWayBack { .. } => Cause::BackupFailed,
            DebError::Failed(_) => Cause::HookFailed,
            DebError::Interrupted(_) | DebError::Unasked(..) => Cause::HostFault,
        };
        failure(cause, &error)
    }
}

impl From<PodmanError> for Failure {
    fn from(error: PodmanError) -> Failure {
        let cause = match &error {
            PodmanError::NoPodman | PodmanError::NoSystemd => Cause::Unsupported,
            PodmanError::Refused { .. } => Cause::SwitchFailed,
            PodmanError::Unasked { .. } => Cause::HostFault,
        };
        failure(cause, &error)
    }
}

impl From<ResolveError> for Failure {
    fn from(error: ResolveError) -> Failure {
        failure(Cause::Unsupported, &error)
    }
}

impl From<PlaceError> for Failure {
    fn from(error: PlaceError) -> Failure {
        failure(Cause::HostFault, &error)
    }
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Failure {
        failure(Cause::HostFault, &error)
    }
}
