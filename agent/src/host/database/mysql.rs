//! MySQL and MariaDB by their own tools. A dump begins with the database's character set and ends with its
//! events, which a test does not load: they would run in the scratch too.

use std::{
    io,
    path::{Path, PathBuf},
};

use refit_proto::{gathered::Gathered as _, package::Mysql};

use super::{
    super::piped::{Piped, Take},
    ASKING, DatabaseError, Size,
    compare::Contents,
    failed,
    tool::Tools,
};

pub(super) struct Recipe {
    it: Mysql,
    tools: Tools,
    client: PathBuf,
    dumper: PathBuf,
}

/// Of a dump without its events.
const WITHOUT_EVENTS: [&str; 8] = [
    "--single-transaction",
    "--quick",
    "--routines",
    "--triggers",
    "--skip-events",
    "--hex-blob",
    "--skip-dump-date",
    "--default-character-set=utf8mb4",
];

/// Of the events alone.
const EVENTS: [&str; 7] = [
    "--events",
    "--no-data",
    "--no-create-info",
    "--no-create-db",
    "--skip-triggers",
    "--skip-dump-date",
    "--default-character-set=utf8mb4",
];

/// The rows of each table, as questions of their own.
const TABLES: &str =
    "SELECT CONCAT('SELECT ', QUOTE(CONCAT('rows of ', table_name)), ', COUNT(*) FROM ',
    CHAR(96), REPLACE(table_name, CHAR(96), REPEAT(CHAR(96), 2)), CHAR(96), ';')
FROM information_schema.tables WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE';";

/// How many there are of the rest.
const REST: &str = "
SELECT CONCAT('view ', table_name), 'there' FROM information_schema.views WHERE table_schema = DATABASE();
SELECT 'triggers', COUNT(*) FROM information_schema.triggers WHERE trigger_schema = DATABASE();
SELECT 'routines', COUNT(*) FROM information_schema.routines WHERE routine_schema = DATABASE();
SELECT 'indexes', COUNT(*) FROM information_schema.statistics WHERE table_schema = DATABASE();
";

impl Recipe {
    pub(super) fn new(it: &Mysql, tools: Tools) -> Result<Recipe, DatabaseError> {
        let client = tools.find(None, &["mariadb", "mysql"])?;
        let dumper = tools.find(None, &["mariadb-dump", "mysqldump"])?;
        Ok(Recipe { it: it.clone(), client, dumper, tools })
    }

    fn tool(&self, program: &Path, more: &[&str]) -> Piped {
        let mut words = server(&self.it);
        words.extend(more.iter().map(|word| (*word).to_owned()));
        self.tools.run(program, &words, self.tools.longest())
    }

    fn ask(&self, database: &[&str], question: &str) -> Result<String, DatabaseError> {
        let words = [&["--batch", "--raw", "--skip-column-names"], database].concat();
        let mut asked = self.tool(&self.client, &words);
        asked.timeout = asked.timeout.max(ASKING);
        let answer = asked.ask(question).map_err(failed(self.tools.database(), "asked"))?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    fn look_at(&self, database: &str) -> Result<Contents, DatabaseError> {
        let tables = self.ask(&[database], TABLES)?;
        let lines = self.ask(&[database], &format!("{tables}{REST}"))?;
        let pairs = lines.lines().filter_map(|line| line.rsplit_once('\t'));
        Ok(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).gathered())
    }
}

/// The words by which each tool finds the server. A file of options has to come first.
pub(in super::super) fn server(it: &Mysql) -> Vec<String> {
    let options = it.options.iter().map(|path| format!("--defaults-extra-file={path}"));
    let socket = it.socket.iter().map(|path| format!("--socket={path}"));
    options.chain(socket).collect()
}

impl super::Recipe for Recipe {
    fn size(&self) -> Result<Option<Size>, DatabaseError> {
        // Its name is plain, so that it needs no quoting.
        let question = format!(
            "SELECT COALESCE(SUM(t.data_length + t.index_length), 0), @@datadir
             FROM information_schema.schemata s LEFT JOIN information_schema.tables t
             ON t.table_schema = s.schema_name WHERE s.schema_name = '{}' GROUP BY s.schema_name;",
            self.it.database
        );
        let answer = self.ask(&[], &question)?;
        let Some((bytes, folder)) = answer.trim_end().split_once('\t') else { return Ok(None) };
        // As text, bytes take up to twice their room.
        let bytes: u64 = bytes.parse().unwrap_or(u64::MAX);
        Ok(Some(Size { dump: bytes.saturating_mul(2), at: Some((folder.into(), bytes)) }))
    }

    fn look(&self) -> Result<Contents, DatabaseError> {
        self.look_at(&self.it.database)
    }

    fn dump(&self, _: &str, take: Take<'_>) -> Result<Option<u64>, DatabaseError> {
        let question = "SELECT CONCAT('ALTER DATABASE CHARACTER SET ', default_character_set_name,
            ' COLLATE ', default_collation_name, ';') FROM information_schema.schemata
            WHERE schema_name = DATABASE();";
        let first = self.ask(&[&self.it.database], question)?;
        let mut length = 0_u64;
        let mut counted = |bytes: &[u8]| {
            length += bytes.len() as u64;
            take(bytes)
        };
        let taken = |source| DatabaseError::Tool {
            database: self.it.name.to_string(),
            action: "dumped",
            why: format!("its dump cannot be kept: {source}"),
        };
        counted(first.as_bytes()).map_err(taken)?;
        let dumped = self
            .tool(&self.dumper, &[&WITHOUT_EVENTS[..], &[&self.it.database]].concat())
            .run(None, &mut counted);
        dumped.map_err(failed(self.tools.database(), "dumped"))?;
        let events =
            self.tool(&self.dumper, &[&EVENTS[..], &[&self.it.database]].concat()).run(None, take);
        events.map_err(failed(self.tools.database(), "dumped"))?;
        Ok(Some(length))
    }

    fn load(
        &self,
        scratch: &str,
        dump: Box<dyn io::Read + Send>,
    ) -> Result<Option<Contents>, DatabaseError> {
        self.ask(&[], &format!("CREATE DATABASE `{scratch}`;"))?;
        let loaded =
            self.tool(&self.client, &["--batch", scratch]).run(Some(dump), &mut |_| Ok(()));
        loaded.map_err(failed(self.tools.database(), "restored into a scratch database"))?;
        Ok(Some(self.look_at(scratch)?))
    }

    fn clear(&self, scratch: &str) -> Result<(), DatabaseError> {
        self.ask(&[], &format!("DROP DATABASE IF EXISTS `{scratch}`;")).map(drop)
    }
}
