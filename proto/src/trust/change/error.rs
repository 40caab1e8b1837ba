//! Why a change is not signed, not merged, or not taken.

use crate::{
    names::Digest,
    printable::printable,
    trust::{
        edit::EditError,
        error::TrustError,
        key::{KeyId, SignError},
        role::Role,
    },
};

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// A file in it can't be read or verified.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// A file in it must not be signed by anybody.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// The signer did not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// Something else.
    #[error("this is no change: {}\nhelp: give a file that `refit trust` wrote", printable(.flaw))]
    NotAChange {
        /// What is wrong.
        flaw: String,
    },
    /// Written by a newer program.
    #[error("the change has format {found}, which this program does not know\nhelp: update refit")]
    OtherFormat {
        /// Its format.
        found: u32,
    },
    /// Of another fleet, or from somebody who would like it to be ours.
    #[error(
        "the change is for the fleet whose first root is {found}, not for ours ({own})\n\
         help: sign nothing; ask whoever handed it over"
    )]
    OtherFleet {
        /// The first root in the change.
        found: String,
        /// The own one.
        own: Digest,
    },
    /// Nobody has been named who could sign it.
    #[error("nobody may sign for {role}\nhelp: name its keys first: `refit trust delegate`")]
    NobodySigns {
        /// Whose file.
        role: Role,
    },
    /// Not the version after the one before.
    #[error(
        "{role} in this change is version {found}, which does not follow version {before}\n\
         help: make the change again on the newest version"
    )]
    NotNext {
        /// Whose file.
        role: Role,
        /// The version before; 0 where there is none.
        before: u64,
        /// The version in the change.
        found: u64,
    },
    /// The key is named by none of the roles.
    #[error(
        "key {} is named by none of the roles in this change\n\
         help: sign with a key of one of its roles; for a new root, of the old or of the new one", .key.short()
    )]
    NotNamed {
        /// The key.
        key: KeyId,
    },
    /// One key counts once.
    #[error(
        "key {} has signed this change already\nhelp: hand it to the next holder; one key counts once", .key.short()
    )]
    AlreadySigned {
        /// The key.
        key: KeyId,
    },
    /// A signature of something else.
    #[error(
        "the signature of key {}{} fits nothing in this change\n\
         help: see that it was made for this very change; the change shows its SHA-256 before it is signed",
        .key.short(), .holder.as_ref().map(|holder| format!(" ({holder})")).unwrap_or_default()
    )]
    FitsNothing {
        /// Whose signature it says it is.
        key: KeyId,
        /// Who holds the key, where that is known.
        holder: Option<String>,
    },
    /// A file in it is not what was signed.
    #[error(
        "{role} in this change is not what key {}{} has signed: it was changed since\n\
         help: sign nothing; take the file again from who made it",
        .key.short(), .holder.as_ref().map(|holder| format!(" ({holder})")).unwrap_or_default()
    )]
    ChangedSince {
        /// Whose file.
        role: Role,
        /// Whose signature it still bears.
        key: KeyId,
        /// Who holds the key, where that is known.
        holder: Option<String>,
    },
    /// Two files that look alike.
    #[error("these are two changes, {this} and {other}\nhelp: merge copies of one change only")]
    AnotherChange {
        /// The change.
        this: Digest,
        /// The other one.
        other: Digest,
    },
    /// No signature line.
    #[error("{text:?} is no signature\nhelp: give the `.sig` file that `refit trust sign` wrote")]
    NotASignature {
        /// What stands there, shortened.
        text: String,
    },
}
