//! PostgreSQL by its own tools: `pg_dump` in its own format, `pg_restore` into a scratch database of the
//! same server, and `psql`, whose variables are quoted by it and never put into a command here.

use std::{io, path::PathBuf};

use refit_proto::package::Postgresql;

use super::{
    super::piped::{Piped, Take},
    ASKING, DatabaseError, Size,
    compare::{Contents, pairs},
    failed,
    tool::Tools,
};

pub(super) struct Recipe {
    it: Postgresql,
    tools: Tools,
    psql: PathBuf,
    pg_dump: PathBuf,
    pg_restore: PathBuf,
}

/// Where databases are made, renamed and removed from.
const MAINTENANCE: &str = "postgres";

const SIZE: &str = "SELECT pg_database_size(datname),
    (SELECT setting FROM pg_settings WHERE name = 'data_directory')
FROM pg_database WHERE datname = :'name';";

const CREATE: &str =
    "SELECT format('CREATE DATABASE %I TEMPLATE template0 ENCODING %L LC_COLLATE %L LC_CTYPE %L',
    :'scratch', pg_encoding_to_char(encoding), datcollate, datctype)
FROM pg_database WHERE datname = :'name' \\gexec";

const DROP: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :'scratch' \\g /dev/null
SET client_min_messages = error;
DROP DATABASE IF EXISTS :\"scratch\";";

const LOOK: &str = include_str!("sql/postgresql-look.sql");

impl Recipe {
    pub(super) fn new(it: &Postgresql, tools: Tools) -> Result<Recipe, DatabaseError> {
        let folder = it.programs.as_deref();
        let find = |name| tools.find(folder, &[name]);
        let (psql, pg_dump, pg_restore) = (find("psql")?, find("pg_dump")?, find("pg_restore")?);
        Ok(Recipe { it: it.clone(), psql, pg_dump, pg_restore, tools })
    }

    fn server(&self) -> Vec<String> {
        server(&self.it)
    }

    fn psql(&self, database: &str, scratch: &str) -> Piped {
        let variables = [format!("name={}", self.it.database), format!("scratch={scratch}")];
        let mut words: Vec<String> = ["-X", "-q", "-A", "-t", "-z", "-0"].map(Into::into).into();
        words.extend(["-v".into(), "ON_ERROR_STOP=1".into()]);
        words.extend(variables.into_iter().flat_map(|variable| ["-v".into(), variable]));
        words.extend(self.server());
        words.extend(["-d".into(), database.to_owned()]);
        let time = if scratch.is_empty() { ASKING } else { self.tools.longest() };
        self.tools.run(&self.psql, &words, time.max(ASKING))
    }

    fn look_at(&self, database: &str) -> Result<Contents, DatabaseError> {
        let mut asked = self.psql(database, "");
        asked.timeout = self.tools.longest();
        let answer = asked.ask(LOOK).map_err(failed(self.tools.database(), "looked at"))?;
        Ok(pairs(&answer))
    }
}

/// The words by which each tool finds the server.
pub(in super::super) fn server(it: &Postgresql) -> Vec<String> {
    let mut words = vec!["-w".to_owned()];
    let role = it.role.as_ref().unwrap_or(&it.user);
    words.extend(["-U".into(), role.clone()]);
    words.extend(it.host.iter().flat_map(|host| ["-h".to_owned(), host.clone()]));
    words.extend(it.port.iter().flat_map(|port| ["-p".to_owned(), port.to_string()]));
    words
}

impl super::Recipe for Recipe {
    fn size(&self) -> Result<Option<Size>, DatabaseError> {
        let asked = self.psql(MAINTENANCE, "").ask(SIZE);
        let answer = asked.map_err(failed(self.tools.database(), "asked for its size"))?;
        let answer = pairs(&answer);
        let Some((bytes, folder)) = answer.first_key_value() else { return Ok(None) };
        let bytes = bytes.parse().unwrap_or(u64::MAX);
        // That of a server elsewhere, or of one that doesn't say, is not ours to look after.
        let local = self.it.host.as_ref().is_none_or(|host| host.starts_with('/'));
        let at = (local && folder.starts_with('/')).then(|| (PathBuf::from(folder), bytes));
        Ok(Some(Size { dump: bytes, at }))
    }

    fn look(&self) -> Result<Contents, DatabaseError> {
        self.look_at(&self.it.database)
    }

    fn dump(&self, _: &str, take: Take<'_>) -> Result<Option<u64>, DatabaseError> {
        let mut words = self.server();
        // A change of its schema under way is waited for, but not for ever.
        let more = ["--format=custom", "--compress=1", "--lock-wait-timeout=60000", "-d"];
        words.extend(more.map(Into::into));
        words.push(self.it.database.clone());
        let dumped = self.tools.run(&self.pg_dump, &words, self.tools.longest()).run(None, take);
        dumped.map_err(failed(self.tools.database(), "dumped"))?;
        Ok(None)
    }

    fn load(
        &self,
        scratch: &str,
        dump: Box<dyn io::Read + Send>,
    ) -> Result<Option<Contents>, DatabaseError> {
        let action = "restored into a scratch database";
        let made = self.psql(MAINTENANCE, scratch).ask(CREATE);
        made.map_err(failed(self.tools.database(), action))?;
        let mut words = self.server();
        // Those of the scratch would be seen by other servers.
        let more = ["--exit-on-error", "--no-publications", "--no-subscriptions", "-d", scratch];
        words.extend(more.map(Into::into));
        let restore = self.tools.run(&self.pg_restore, &words, self.tools.longest());
        restore.run(Some(dump), &mut |_| Ok(())).map_err(failed(self.tools.database(), action))?;
        Ok(Some(self.look_at(scratch)?))
    }

    fn clear(&self, scratch: &str) -> Result<(), DatabaseError> {
        let dropped = self.psql(MAINTENANCE, scratch).ask(DROP);
        dropped.map(drop).map_err(failed(self.tools.database(), "cleared of a scratch database"))
    }
}
