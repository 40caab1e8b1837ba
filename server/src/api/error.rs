//! Every reason for which a call fails, and the gRPC code that says so. What is the server's own trouble
//! is logged with its causes and not sent.

use std::error::Error;

use prost::Message as _;
use refit_proto::{names::NameError, trust::repository::Refused, wire};
use tonic::{Code, Status, metadata::MetadataValue};

use crate::{
    access::Refusal,
    ca::CaError,
    changes,
    content::ContentError,
    enrollment::EnrollmentError,
    fleet::PolicyError,
    placing::LabelsError,
    publication::PublicationError,
    reports,
    rollout::{self, ActError},
    store::{CommitError, Invalid, StoreFault},
};

/// For how many seconds whoever is told that the server can't serve now is asked not to call.
const RETRY_AFTER: &str = "15";

/// Why a call fails.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The caller is kept out.
    #[error(transparent)]
    Refusal(#[from] Refusal),
    /// The token, the name or the key is not right.
    #[error(transparent)]
    Enrollment(#[from] EnrollmentError),
    /// The certificate request is not right.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// A word in the message is not one of ours.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The message says something that can't be.
    #[error("{0}")]
    Invalid(String),
    /// What it names is not there.
    #[error("{0}")]
    NotFound(String),
    /// What it changes has changed meanwhile.
    #[error("{message}")]
    Stale {
        /// What, and what to do.
        message: String,
        /// Who changed it, for a program.
        conflict: Option<wire::Conflict>,
    },
    /// Content is missing, damaged or too long.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// Signed, and still not publishable.
    #[error(transparent)]
    Publication(#[from] PublicationError),
    /// The metadata does not verify, or does not follow on what is held.
    #[error(transparent)]
    Trust(#[from] Refused),
    /// A change that is not opened or not signed.
    #[error(transparent)]
    Change(#[from] changes::Refused),
    /// Reports that are not the next ones.
    #[error(transparent)]
    Reports(#[from] reports::ReportError),
    /// A report that says what can't be.
    #[error(transparent)]
    Report(#[from] rollout::ReportError),
    /// A policy that can't be.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A rollout that does not do that now.
    #[error(transparent)]
    Act(#[from] ActError),
    /// The caller stopped sending in the middle.
    #[error("the upload was broken off: {0}\nhelp: send it again")]
    BrokenOff(String),
    /// The labels that the policy role signed can't be had.
    #[error(transparent)]
    Labels(#[from] LabelsError),
    /// The server's own trouble with its store.
    #[error(transparent)]
    Store(#[from] StoreFault),
    /// A commit that was not made, or may not have been.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The server's own trouble, logged where it arose.
    #[error("the server can't read its store now")]
    Unavailable,
    /// The server's own trouble otherwise.
    #[error("{0}")]
    Internal(String),
}

impl ApiError {
    /// The server's own trouble, not the caller's.
    pub(super) fn is_ours(&self) -> bool {
        matches!(self.code(), Code::Internal | Code::Unavailable | Code::ResourceExhausted)
    }

    /// With all causes, for the log.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }

    fn code(&self) -> Code {
        match self {
            ApiError::Refusal(refusal) => refusal_code(refusal),
            ApiError::Enrollment(error) => enrollment_code(error),
            ApiError::Ca(CaError::Request(_) | CaError::KeyKind) => Code::InvalidArgument,
            ApiError::Ca(CaError::Authority(_) | CaError::Random(_)) => Code::Internal,
            ApiError::Name(_)
            | ApiError::Invalid(_)
            | ApiError::Policy(_)
            | ApiError::Report(_) => Code::InvalidArgument,
            ApiError::NotFound(_) => Code::NotFound,
            ApiError::Stale { .. } => Code::Aborted,
            ApiError::Content(error) => content_code(error),
            ApiError::Publication(error) => publication_code(error),
            ApiError::Trust(error) => trust_code(error),
            ApiError::Change(error) => change_code(error),
            ApiError::Reports(error) => reports_code(error),
            ApiError::Act(_) => Code::FailedPrecondition,
            ApiError::BrokenOff(_) => Code::Cancelled,
            ApiError::Labels(_) => Code::Internal,
            ApiError::Store(_) | ApiError::Unavailable => Code::Unavailable,
            ApiError::Commit(error) => match error {
                CommitError::Conflict(_) | CommitError::Fenced | CommitError::Fault(_) => {
                    Code::Unavailable
                }
                CommitError::Invalid(Invalid::TooLarge { .. }) => Code::InvalidArgument,
                CommitError::Invalid(_) => Code::Internal,
            },
            ApiError::Internal(_) => Code::Internal,
        }
    }
}

fn refusal_code(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::NoCertificate | Refusal::Expired { .. } | Refusal::RetiredAuthority(_) => {
            Code::Unauthenticated
        }
        Refusal::Unknown(_)
        | Refusal::Barred { .. }
        | Refusal::Revoked { .. }
        | Refusal::Replaced(_)
        | Refusal::NotForHosts(_)
        | Refusal::NotForPeople(_)
        | Refusal::Role { .. } => Code::PermissionDenied,
    }
}

fn enrollment_code(error: &EnrollmentError) -> Code {
    match error {
        EnrollmentError::UnknownToken | EnrollmentError::Expired(_) => Code::Unauthenticated,
        EnrollmentError::UsedUp
        | EnrollmentError::OtherSubject(_)
        | EnrollmentError::Barred { .. }
        | EnrollmentError::OtherKey
        | EnrollmentError::OtherId { .. }
        | EnrollmentError::SaysNothing => Code::PermissionDenied,
        EnrollmentError::NameTaken { .. } | EnrollmentError::OtherKind { .. } => {
            Code::AlreadyExists
        }
    }
}

fn content_code(error: &ContentError) -> Code {
    match error {
        ContentError::Mismatch { .. } | ContentError::TooLong { .. } => Code::InvalidArgument,
        ContentError::Missing(_) => Code::NotFound,
        ContentError::Full => Code::ResourceExhausted,
        ContentError::Io(_) => Code::Internal,
    }
}

fn publication_code(error: &PublicationError) -> Code {
    match error {
        PublicationError::Content { cause, .. } => match content_code(cause) {
            // What a publication names has to be uploaded first.
            Code::NotFound => Code::FailedPrecondition,
            code => code,
        },
        PublicationError::Document { .. }
        | PublicationError::TooLong { .. }
        | PublicationError::OtherPath { .. }
        | PublicationError::Unknown { .. }
        | PublicationError::Feature { .. }
        | PublicationError::Ring(_)
        | PublicationError::Misfit(_) => Code::InvalidArgument,
        PublicationError::Closed(_)
        | PublicationError::Unapproved { .. }
        | PublicationError::Plan { .. }
        | PublicationError::NotPublished { .. } => Code::FailedPrecondition,
    }
}

fn change_code(error: &changes::Refused) -> Code {
    match error {
        changes::Refused::Change(_) => Code::InvalidArgument,
        changes::Refused::NotOnNewest { .. } => Code::Aborted,
        changes::Refused::NotFounded => Code::FailedPrecondition,
        changes::Refused::AlreadyOpen { .. } => Code::AlreadyExists,
        changes::Refused::NoneOpen { .. } => Code::NotFound,
    }
}

fn trust_code(error: &Refused) -> Code {
    match error {
        Refused::Conflict { .. } => Code::Aborted,
        Refused::Sign(_) => Code::Internal,
        Refused::BundleSpan => Code::InvalidArgument,
        Refused::Reused { .. } => Code::AlreadyExists,
        Refused::Trust(_)
        | Refused::NotPushed { .. }
        | Refused::TooManyFiles
        | Refused::NotFounded { .. }
        | Refused::FreshnessKeyNotNamed { .. }
        | Refused::FreshnessKeyToo { .. }
        | Refused::Unreachable { .. }
        | Refused::Arrangement { .. }
        | Refused::Orphaned { .. }
        | Refused::Inconsistent { .. } => Code::FailedPrecondition,
    }
}

fn reports_code(error: &reports::ReportError) -> Code {
    match error {
        reports::ReportError::TooMany(_) | reports::ReportError::OtherHost(_) => {
            Code::InvalidArgument
        }
        reports::ReportError::Envelope(_) | reports::ReportError::Key => Code::PermissionDenied,
        reports::ReportError::Gap { .. } | reports::ReportError::Fork { .. } => {
            Code::FailedPrecondition
        }
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Status {
        let code = error.code();
        let mut status = match error {
            ApiError::Stale { message, conflict: Some(conflict) } => {
                Status::with_details(code, message, conflict.encode_to_vec().into())
            }
            _ if code == Code::Unavailable => Status::unavailable(
                "the server can't use its store now\nhelp: try again; the server's log names the cause",
            ),
            _ if code == Code::Internal => Status::internal(
                "the server has a fault of its own\nhelp: the server's log names the cause",
            ),
            error => Status::new(code, error.to_string()),
        };
        if matches!(code, Code::Unavailable | Code::ResourceExhausted) {
            // A disk that is full or fails does not mend in a second, and hosts spread what comes after.
            status.metadata_mut().insert("retry-after", MetadataValue::from_static(RETRY_AFTER));
        }
        status
    }
}
