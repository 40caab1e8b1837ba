//! What a package says of the data that it works on: where it lies, and what the release does with it.
//! Configuration is not data: it is named under [`Backup`](super::Backup) and brought back.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{gathered::Gathered as _, names::PackageName};

/// A package's data, and what its release does with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// What the release does with all of it.
    #[serde(rename = "use", default, skip_serializing_if = "DataUse::is_kept")]
    pub used: DataUse,
    /// Files and folders, absolute; host variables are expanded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// Databases, each saved and tested by its own tools.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub databases: Vec<Database>,
}

/// What a release does with the data of its package.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataUse {
    /// Nothing: it is not saved, and hooks may only read it.
    Untouched,
    /// It writes data that the release before can read too: saved, and left as it is by going back.
    #[default]
    Kept,
    /// It makes of the data what the release before can't read: saved at rest, and brought back by going
    /// back, which sets aside what the release has made of it.
    Converted,
}

impl DataUse {
    fn is_kept(&self) -> bool {
        *self == DataUse::Kept
    }
}

/// A database, and how it is dumped, loaded and checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Database {
    /// One database of a PostgreSQL server: `pg_dump`, `pg_restore`, `psql`.
    Postgresql(Postgresql),
    /// One database of a MySQL or MariaDB server: `mariadb-dump` and `mariadb`, or `mysqldump` and `mysql`.
    Mysql(Mysql),
    /// One file of SQLite: `sqlite3`.
    Sqlite(Sqlite),
    /// Anything else, by commands.
    Command(ByCommand),
}

/// A database of a PostgreSQL server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Postgresql {
    /// In errors, reports and names of files.
    pub name: PackageName,
    /// The database.
    pub database: String,
    /// The user of the host that the tools run as; the server must let it in without a password.
    #[serde(default = "postgres")]
    pub user: String,
    /// The role, where it is named otherwise than the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// A folder of sockets or a host name; by default the one that was built in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// By default 5432.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The folder of the tools; by default the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub programs: Option<String>,
    /// The longest that dumping or loading may take.
    #[serde(default = "hour")]
    pub timeout_seconds: u32,
}

/// A database of a MySQL or MariaDB server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mysql {
    /// In errors, reports and names of files.
    pub name: PackageName,
    /// The database.
    pub database: String,
    /// The user of the host that the tools run as.
    #[serde(default = "root")]
    pub user: String,
    /// The server's socket; by default the one that was built in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    /// A file of options with user and password, as `/etc/mysql/debian.cnf`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<String>,
    /// The longest that dumping or loading may take.
    #[serde(default = "hour")]
    pub timeout_seconds: u32,
}

/// A database in a file of SQLite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sqlite {
    /// In errors, reports and names of files.
    pub name: PackageName,
    /// The file.
    pub path: String,
    /// The longest that copying or checking may take.
    #[serde(default = "hour")]
    pub timeout_seconds: u32,
}

/// A database that only commands of the publisher's know. They run as they are, without a shell, and not
/// in the package's folder, since they must work for the release before too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ByCommand {
    /// In errors, reports and names of files.
    pub name: PackageName,
    /// Writes a dump to its output.
    pub dump: Vec<String>,
    /// Reads a dump and loads it into a scratch place of its own, or checks it in another way; exit code 0
    /// says that it could be brought back. It must leave nothing.
    pub check: Vec<String>,
    /// Reads a dump and puts it in the place of what is there; safe to repeat. Needed by who converts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restore: Vec<String>,
    /// Writes how many bytes a dump may take; without it no room is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub size: Vec<String>,
    /// The user of the host that they run as.
    #[serde(default = "root")]
    pub user: String,
    /// The longest that each may take.
    #[serde(default = "hour")]
    pub timeout_seconds: u32,
}

fn postgres() -> String {
    "postgres".into()
}

fn root() -> String {
    "root".into()
}

fn hour() -> u32 {
    3600
}

impl Database {
    /// Its name, which is unique in a package.
    pub fn name(&self) -> &PackageName {
        match self {
            Database::Postgresql(Postgresql { name, .. })
            | Database::Mysql(Mysql { name, .. })
            | Database::Sqlite(Sqlite { name, .. })
            | Database::Command(ByCommand { name, .. }) => name,
        }
    }

    /// The longest that one of its tools may take, seconds.
    pub fn timeout_seconds(&self) -> u32 {
        match self {
            Database::Postgresql(Postgresql { timeout_seconds, .. })
            | Database::Mysql(Mysql { timeout_seconds, .. })
            | Database::Sqlite(Sqlite { timeout_seconds, .. })
            | Database::Command(ByCommand { timeout_seconds, .. }) => *timeout_seconds,
        }
    }

    /// Whether its texts can be handed to the tools: names that are no option and need no quoting, absolute
    /// paths, commands that name a program. Asked again when a host's variables are in their places.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check(&self) -> Result<(), String> {
        let of = |what: &str| format!("{what} of the database {}", self.name());
        let absolute = |what: &str, path: &str| match super::manifest::is_absolute(path) {
            true => Ok(()),
            false => Err(format!("{path:?}, {}, is not an absolute path", of(what))),
        };
        if self.timeout_seconds() == 0 {
            return Err(format!("the database {} has no time", self.name()));
        }
        match self {
            Database::Postgresql(it) => {
                plain(&of("the database"), &it.database)?;
                plain(&of("the user"), &it.user)?;
                it.role.iter().try_for_each(|role| plain(&of("the role"), role))?;
                it.programs.iter().try_for_each(|path| absolute("the programs", path))?;
                match it.host.as_deref() {
                    None => Ok(()),
                    Some(path) if path.starts_with('/') => absolute("the host", path),
                    Some(name) => plain(&of("the host"), name),
                }
            }
            Database::Mysql(it) => {
                plain(&of("the database"), &it.database)?;
                plain(&of("the user"), &it.user)?;
                it.socket.iter().try_for_each(|path| absolute("the socket", path))?;
                it.options.iter().try_for_each(|path| absolute("the options", path))
            }
            Database::Sqlite(it) => absolute("the file", &it.path),
            Database::Command(it) => {
                plain(&of("the user"), &it.user)?;
                let named = |what, words: &[String]| match words.first() {
                    Some(program) => absolute(what, program),
                    None => Err(format!("there is no command for {}", of(what))),
                };
                named("dump", &it.dump)?;
                named("check", &it.check)?;
                let more = [("restore", &it.restore), ("size", &it.size)];
                more.iter()
                    .filter(|(_, words)| !words.is_empty())
                    .try_for_each(|(what, words)| named(what, words))
            }
        }
    }
}

/// Longest name of a database, user or host: PostgreSQL takes 63 bytes, and what is set aside gets more.
const LONGEST: usize = 40;

/// A name that is no option, no path, and needs no quoting anywhere.
fn plain(what: &str, name: &str) -> Result<(), String> {
    let variables_aside = name.replace("${", "").replace('}', "");
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    let good = !name.is_empty()
        && variables_aside.len() <= LONGEST
        && !name.starts_with(['-', '.'])
        && variables_aside.bytes().all(is_plain);
    match good {
        true => Ok(()),
        false => Err(format!("{what} is {name:?}; letters, digits, _, - and . make a name")),
    }
}

impl Data {
    /// Whether a package says nothing about data.
    pub fn is_default(&self) -> bool {
        *self == Data::default()
    }

    /// Every path at which data is declared, with variables unexpanded: files, folders, and the files of
    /// SQLite with those that it keeps beside them. What a release with [`DataUse::Untouched`] may only read.
    pub fn declared_paths(&self) -> Vec<String> {
        let files = self.databases.iter().filter_map(|database| match database {
            Database::Sqlite(Sqlite { path, .. }) => Some(path),
            Database::Postgresql(_) | Database::Mysql(_) | Database::Command(_) => None,
        });
        let files = files.flat_map(|path| Sqlite::files(path));
        self.paths.iter().cloned().chain(files).collect()
    }

    /// Whether it can be followed.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(super) fn check(&self) -> Result<(), String> {
        if let Some(path) = self.paths.iter().find(|path| !super::manifest::is_absolute(path)) {
            return Err(format!("{path:?} under data is not an absolute path"));
        }
        let names: BTreeSet<_> = self.databases.iter().map(Database::name).gathered();
        if names.len() != self.databases.len() {
            return Err("a database stands twice".into());
        }
        for database in &self.databases {
            database.check()?;
            if let (DataUse::Converted, Database::Command(it)) = (self.used, database)
                && it.restore.is_empty()
            {
                return Err(format!("the database {} is converted and has no restore", it.name));
            }
        }
        if self.used == DataUse::Converted && self.paths.is_empty() && self.databases.is_empty() {
            return Err("it converts data and names none".into());
        }
        Ok(())
    }
}

impl Sqlite {
    /// A file of SQLite, and what it keeps beside it until its last user has closed it.
    pub fn files(path: &str) -> [String; 4] {
        ["", "-wal", "-shm", "-journal"].map(|end| format!("{path}{end}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(text: &str) -> Result<(), String> {
        let data: Data = toml_of(text)?;
        data.check()
    }

    /// JSON with single quotes, as a manifest has it.
    fn toml_of(text: &str) -> Result<Data, String> {
        serde_json::from_str(&text.replace('\'', "\"")).map_err(|error| error.to_string())
    }

    #[test]
    fn the_usual_databases_are_named_in_a_line_each() {
        let all = "{'use':'converted','paths':['/var/lib/payments'],'databases':[
            {'kind':'postgresql','name':'ledger','database':'ledger'},
            {'kind':'mysql','name':'shop','database':'${DATABASE}'},
            {'kind':'sqlite','name':'cache','path':'${FOLDER}/cache.db'},
            {'kind':'command','name':'odd','dump':['/bin/d'],'check':['/bin/c'],'restore':['/bin/r']}]}";
        data(all).unwrap();
        let read = toml_of(all).unwrap();
        assert_eq!(read.databases[0].timeout_seconds(), 3600);
        let paths = read.declared_paths();
        assert_eq!(paths[0], "/var/lib/payments");
        assert_eq!(paths[2], "${FOLDER}/cache.db-wal");
        let again: Data = serde_json::from_slice(&serde_json::to_vec(&read).unwrap()).unwrap();
        assert_eq!(again, read);
    }

    #[test]
    fn what_a_tool_would_take_for_an_option_or_a_shell_for_more_than_a_name_is_refused() {
        for bad in [
            "{'use':'eaten'}",
            "{'path':['/x']}",
            "{'paths':['var']}",
            "{'paths':['/var/../etc']}",
            "{'use':'converted'}",
            "{'databases':[{'kind':'postgresql','name':'a','database':'-c'}]}",
            "{'databases':[{'kind':'postgresql','name':'a','database':'a b'}]}",
            "{'databases':[{'kind':'postgresql','name':'a','database':'dbname=x'}]}",
            "{'databases':[{'kind':'postgresql','name':'a','database':'a','user':'`id`'}]}",
            "{'databases':[{'kind':'postgresql','name':'a','database':'a','host':'a;b'}]}",
            "{'databases':[{'kind':'postgresql','name':'a','database':'a','hots':'a'}]}",
            "{'databases':[{'kind':'postgresql','name':'a','database':'a','timeout_seconds':0}]}",
            "{'databases':[{'kind':'mysql','name':'a','database':'a`'}]}",
            "{'databases':[{'kind':'mysql','name':'a','database':'a','socket':'run'}]}",
            "{'databases':[{'kind':'sqlite','name':'a','path':'a.db'}]}",
            "{'databases':[{'kind':'command','name':'a','dump':[],'check':['/c']}]}",
            "{'databases':[{'kind':'command','name':'a','dump':['d'],'check':['/c']}]}",
            "{'databases':[{'kind':'sqlite','name':'a','path':'/a'},{'kind':'sqlite','name':'a','path':'/b'}]}",
            "{'use':'converted','databases':[{'kind':'command','name':'a','dump':['/d'],'check':['/c']}]}",
        ] {
            assert!(data(bad).is_err(), "{bad}");
        }
    }
}
