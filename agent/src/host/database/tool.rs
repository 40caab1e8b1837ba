//! The tools of a database: where they stand, and as which user they run.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use refit_proto::{gathered::Gathered as _, package::Database};

use super::{
    super::{
        files::{self, Files},
        piped::Piped,
        process::{Program, system_program},
    },
    DatabaseError,
};

/// The tools of one database.
pub(super) struct Tools {
    database: Database,
    user: Option<(u32, u32)>,
    home: Option<String>,
    mark: String,
}

/// Longest list of users that is read.
const LONGEST: u64 = 16 << 20;

impl Tools {
    /// Those that run as this user; an empty name is the agent's own.
    ///
    /// # Errors
    /// A user that the host does not know, or that the agent may not become.
    pub(super) fn of(
        files: &dyn Files,
        database: &Database,
        user: &str,
        data: &Path,
    ) -> Result<Tools, DatabaseError> {
        let database = database.clone();
        // What a killed agent has left running is found by it.
        let mark = format!("refit-database {} {}", data.display(), database.name());
        if user.is_empty() {
            return Ok(Tools { database, user: None, home: None, mark });
        }
        let unfit = |why| DatabaseError::Unfit { database: database.name().to_string(), why };
        let list = files::read_file(files, Path::new("/etc/passwd"), LONGEST)?;
        let list = String::from_utf8_lossy(&list);
        let Some((uid, gid, home)) = list.lines().find_map(|line| passwd(line, user)) else {
            return Err(unfit(format!("this host has no user {user}")));
        };
        let own = rustix::process::geteuid().as_raw();
        if own != 0 && own != uid {
            return Err(unfit(format!("the agent is not root, and may not become {user}")));
        }
        let user = (own != uid).then_some((uid, gid));
        Ok(Tools { database, user, home: Some(home), mark })
    }

    /// The numbers of their user and its group.
    pub(super) fn numbers(&self) -> (u32, u32) {
        let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        self.user.unwrap_or(own)
    }

    pub(super) fn database(&self) -> &Database {
        &self.database
    }

    /// The longest that dumping or loading may take.
    pub(super) fn longest(&self) -> Duration {
        Duration::from_secs(self.database.timeout_seconds().into())
    }

    /// Where the first of these tools stands that is there.
    ///
    /// # Errors
    /// If none is.
    pub(super) fn find(
        &self,
        folder: Option<&str>,
        names: &[&str],
    ) -> Result<PathBuf, DatabaseError> {
        let find = |name: &&str| match folder {
            Some(folder) => Some(Path::new(folder).join(name)).filter(|path| path.is_file()),
            None => system_program(name),
        };
        names.iter().find_map(find).ok_or_else(|| DatabaseError::Missing {
            database: self.database.name().to_string(),
            program: names.first().copied().unwrap_or_default().to_owned(),
        })
    }

    /// One of them, with a mark of its own.
    pub(super) fn run(&self, program: &Path, arguments: &[String], timeout: Duration) -> Piped {
        let mut environment: BTreeMap<_, _> = [
            ("PGAPPNAME".to_owned(), "refit-agent".to_owned()),
            ("PGCONNECT_TIMEOUT".to_owned(), "30".to_owned()),
        ]
        .into_iter()
        .gathered();
        environment.extend(self.home.clone().map(|home| ("HOME".to_owned(), home)));
        let program = Program {
            program: program.into(),
            arguments: arguments.to_vec(),
            folder: "/".into(),
            environment,
            mark: self.mark.clone(),
        };
        Piped { program, user: self.user, timeout }
    }
}

/// Number, group and home of this user, if the line is its.
fn passwd(line: &str, user: &str) -> Option<(u32, u32, String)> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, ..] = fields.as_slice() else { return None };
    (*name == user).then_some(())?;
    Some((uid.parse().ok()?, gid.parse().ok()?, (*home).to_owned()))
}
