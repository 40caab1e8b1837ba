//! The kinds of steps that a way back is made of. Each is safe to repeat, also after a power cut in the
//! middle of it.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use refit_proto::names::Digest;

use crate::host::files::Time;

/// One step, and when it is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UndoStep {
    /// What to do.
    pub undoing: Undoing,
    /// Left out where this path exists: what prepares a folder must not be done again once the folder
    /// was swapped in.
    pub unless: Option<PathBuf>,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undoing {
    /// Makes `path` a symbolic link to `target`, in one move, over a link or file that is there.
    Link {
        /// The link.
        path: PathBuf,
        /// Where it leads, as it was.
        target: PathBuf,
    },
    /// Removes the symbolic link at `path`, if there is one.
    RemoveLink {
        /// The link.
        path: PathBuf,
    },
    /// Makes a folder, if there is none, and gives it this mode and owner.
    Folder {
        /// The folder.
        path: PathBuf,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// Puts the file `from` at `path`, in one move, if its bytes are what was sealed.
    File {
        /// Where it goes.
        path: PathBuf,
        /// Where it was saved.
        from: PathBuf,
        /// SHA-256 of its bytes.
        digest: Digest,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// Removes a file, a link or a folder with all that is in it, if it is there.
    Remove {
        /// What to remove.
        path: PathBuf,
    },
    /// Sets aside what is at `path`, then moves `from` there. All three are on one file system.
    Swap {
        /// The folder to bring back.
        path: PathBuf,
        /// What was prepared beside it.
        from: PathBuf,
        /// Where what is there now is kept; an empty folder if nothing is.
        aside: PathBuf,
    },
    /// Sets an extended attribute of a file or folder; access control lists and capabilities are such.
    Attribute {
        /// Of what.
        path: PathBuf,
        /// Its name, with its namespace.
        name: OsString,
        /// Its value.
        value: Vec<u8>,
    },
    /// Sets owner and group of a link, file or folder.
    Owner {
        /// Of what.
        path: PathBuf,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// Sets the permission bits of a file or folder.
    Mode {
        /// Of what.
        path: PathBuf,
        /// Permission bits.
        mode: u32,
    },
    /// Sets when the content of a file, folder or link last changed.
    Modified {
        /// Of what.
        path: PathBuf,
        /// When.
        time: Time,
    },
    /// Gives a file a second name, in one move, over a file that is there.
    HardLink {
        /// The second name.
        path: PathBuf,
        /// The first.
        from: PathBuf,
    },
    /// Stops a service, if it runs.
    StopUnit {
        /// Its unit: `payments.service`.
        unit: String,
    },
    /// Makes the service manager read its units again.
    ReloadUnits,
    /// Starts a service, if it does not run.
    StartUnit {
        /// Its unit.
        unit: String,
    },
    /// Runs a saved command; exit code 0 is success.
    Run {
        /// Program and arguments.
        command: Vec<String>,
        /// Longer than this is a failure.
        timeout_seconds: u32,
    },
}

impl Undoing {
    /// The word in the file.
    pub fn kind(&self) -> &'static str {
        match self {
            Undoing::Link { .. } => "link",
            Undoing::RemoveLink { .. } => "remove-link",
            Undoing::Folder { .. } => "folder",
            Undoing::File { .. } => "file",
            Undoing::Remove { .. } => "remove",
            Undoing::Swap { .. } => "swap",
            Undoing::Attribute { .. } => "attribute",
            Undoing::Owner { .. } => "owner",
            Undoing::Mode { .. } => "mode",
            Undoing::Modified { .. } => "modified",
            Undoing::HardLink { .. } => "hard-link",
            Undoing::StopUnit { .. } => "stop-unit",
            Undoing::ReloadUnits => "reload-units",
            Undoing::StartUnit { .. } => "start-unit",
            Undoing::Run { .. } => "run",
        }
    }

    /// What it is about, for errors and logs.
    pub fn subject(&self) -> String {
        let path = |path: &Path| path.display().to_string();
        match self {
            Undoing::Link { path: at, .. }
            | Undoing::RemoveLink { path: at }
            | Undoing::Folder { path: at, .. }
            | Undoing::File { path: at, .. }
            | Undoing::Remove { path: at }
            | Undoing::Swap { path: at, .. }
            | Undoing::Attribute { path: at, .. }
            | Undoing::Owner { path: at, .. }
            | Undoing::Mode { path: at, .. }
            | Undoing::Modified { path: at, .. }
            | Undoing::HardLink { path: at, .. } => path(at),
            Undoing::StopUnit { unit } | Undoing::StartUnit { unit } => unit.clone(),
            Undoing::ReloadUnits => "units".into(),
            Undoing::Run { command, .. } => command.join(" "),
        }
    }
}

impl From<Undoing> for UndoStep {
    fn from(undoing: Undoing) -> UndoStep {
        UndoStep { undoing, unless: None }
    }
}
