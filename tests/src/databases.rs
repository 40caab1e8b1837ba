//! Real database servers of Debian, each in a folder of its own, on a socket there and nowhere else.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use refit_durable::testing::not_run;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{
    process::{Process, Ran},
    wait::until,
};

/// A PostgreSQL server.
#[derive(Debug)]
pub struct Postgresql {
    // Ended before its folder goes.
    server: Option<Process>,
    folder: TempDir,
    owner: Owner,
}

/// A MariaDB server.
#[derive(Debug)]
pub struct MariaDb {
    // Ended before its folder goes.
    server: Option<Process>,
    folder: TempDir,
    owner: Owner,
}

/// Who runs a server: never root.
#[derive(Debug, Clone)]
struct Owner {
    name: String,
    ids: Option<(u32, u32)>,
}

/// Where Debian keeps the programs of PostgreSQL 15.
const POSTGRESQL: &str = "/usr/lib/postgresql/15/bin";

impl Owner {
    /// This user of the system if we are root, else whoever we are.
    fn of(name: &str) -> Result<Option<Owner>> {
        let own = rustix::process::geteuid().as_raw();
        let list = fs::read_to_string("/etc/passwd")?;
        let wanted = |fields: &[&str]| match own {
            0 => fields.first() == Some(&name),
            own => fields.get(2).is_some_and(|uid| *uid == own.to_string()),
        };
        let lines = list.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let Some(found) = lines.into_iter().find(|fields| wanted(fields)) else { return Ok(None) };
        let [name, _, uid, gid, ..] = found.as_slice() else { bail!("/etc/passwd: {found:?}") };
        let ids = (own == 0).then_some((uid.parse()?, gid.parse()?));
        Ok(Some(Owner { name: (*name).to_owned(), ids }))
    }

    /// A folder of its own, which others may look into.
    fn folder(&self) -> Result<TempDir> {
        let folder = tempfile::Builder::new().prefix("refit-db-").tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        if let Some((uid, gid)) = self.ids {
            std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid))?;
        }
        Ok(folder)
    }

    fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.current_dir("/").env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        if let Some((uid, gid)) = self.ids {
            command.uid(uid).gid(gid);
        }
        command
    }
}

impl Postgresql {
    /// A new server that answers; `None`, and said so, where PostgreSQL 15 is not installed.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(claim: &str) -> Result<Option<Postgresql>> {
        let owner = Owner::of("postgres")?;
        let Some(owner) = owner.filter(|_| Path::new(POSTGRESQL).join("postgres").is_file()) else {
            not_run(claim, "sudo apt-get install postgresql");
            return Ok(None);
        };
        let folder = owner.folder()?;
        let mut initdb = owner.command(Path::new(POSTGRESQL).join("initdb"));
        initdb.args([
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "-N",
            "-D",
        ]);
        Ran::of(initdb.arg(folder.path().join("data")))?.good().context("initdb")?;
        let mut server = Postgresql { server: None, folder, owner };
        server.start_again()?;
        Ok(Some(server))
    }

    /// Starts it where it was stopped.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start_again(&mut self) -> Result<()> {
        let mut run = self.owner.command(Path::new(POSTGRESQL).join("postgres"));
        run.arg("-D").arg(self.folder.path().join("data"));
        run.args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=20", "-k"]);
        self.server = Some(Process::start(run.arg(self.folder.path()), &self.log())?);
        until("PostgreSQL answers", || Ok(self.ask("postgres", "SELECT 1").is_ok().then_some(())))
    }

    /// Stops it at once.
    pub fn stop(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        let told = i32::try_from(server.id()).ok().and_then(Pid::from_raw);
        if told.is_some_and(|pid| kill_process(pid, Signal::INT).is_ok()) {
            // One that does not end is killed when it is dropped.
            let _ended = server.ended();
        }
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// What `psql` says to this, a line for each row.
    ///
    /// # Errors
    /// If it says no.
    pub fn ask(&self, database: &str, query: &str) -> Result<String> {
        let mut psql = Command::new("/usr/bin/psql");
        psql.args(["-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1", "-U", "postgres"]);
        psql.args(["-h", &self.socket(), "-d", database, "-c", query]).current_dir("/");
        Ok(Ran::of(&mut psql)?.good()?.trim().to_owned())
    }

    /// Its databases but its own.
    ///
    /// # Errors
    /// If it says no.
    pub fn databases(&self) -> Result<Vec<String>> {
        let names = "SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres' ORDER BY 1";
        Ok(self.ask("postgres", names)?.lines().map(str::to_owned).collect())
    }

    /// The folder of its socket.
    pub fn socket(&self) -> String {
        self.folder.path().display().to_string()
    }

    /// How a manifest names one of its databases.
    pub fn recipe(&self, name: &str, database: &str) -> String {
        format!(
            "\n[[data.databases]]\nname = \"{name}\"\nkind = \"postgresql\"\ndatabase = \"{database}\"\n\
             user = \"{}\"\nrole = \"postgres\"\nhost = \"{}\"\n",
            self.owner.name,
            self.socket()
        )
    }
}

impl Drop for Postgresql {
    fn drop(&mut self) {
        self.stop();
    }
}

impl MariaDb {
    /// A new server that answers; `None`, and said so, where MariaDB is not installed or we are not root.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(claim: &str) -> Result<Option<MariaDb>> {
        let owner = Owner::of("mysql")?.filter(|owner| owner.ids.is_some());
        let Some(owner) = owner.filter(|_| Path::new("/usr/sbin/mariadbd").is_file()) else {
            not_run(claim, "sudo apt-get install mariadb-server, and run the tests as root");
            return Ok(None);
        };
        let folder = owner.folder()?;
        let mut install = owner.command("/usr/bin/mariadb-install-db");
        install.args([
            "--no-defaults",
            "--skip-test-db",
            "--auth-root-authentication-method=normal",
        ]);
        let data = folder.path().join("data");
        Ran::of(install.arg(format!("--datadir={}", data.display())))?.good().context("install")?;
        let mut server = MariaDb { server: None, folder, owner };
        let mut run = server.owner.command("/usr/sbin/mariadbd");
        run.args(["--no-defaults", "--skip-networking", "--innodb-flush-log-at-trx-commit=0"]);
        run.arg(format!("--datadir={}", data.display()));
        run.arg(format!("--socket={}", server.socket()));
        run.arg(format!("--pid-file={}", server.folder.path().join("pid").display()));
        let log = server.folder.path().join("log");
        server.server = Some(Process::start(&mut run, &log)?);
        until("MariaDB answers", || Ok(server.ask("", "SELECT 1").is_ok().then_some(())))?;
        Ok(Some(server))
    }

    /// What `mariadb` says to this, a line for each row.
    ///
    /// # Errors
    /// If it says no.
    pub fn ask(&self, database: &str, query: &str) -> Result<String> {
        let mut client = Command::new("/usr/bin/mariadb");
        client.arg("--no-defaults").arg(format!("--socket={}", self.socket())).current_dir("/");
        client.args(["--batch", "--skip-column-names", "-e", query]);
        client.args(Some(database).filter(|name| !name.is_empty()));
        Ok(Ran::of(&mut client)?.good()?.trim().to_owned())
    }

    /// Its databases but its own.
    ///
    /// # Errors
    /// If it says no.
    pub fn databases(&self) -> Result<Vec<String>> {
        let own = ["information_schema", "mysql", "performance_schema", "sys"];
        let names = self.ask("", "SHOW DATABASES")?;
        Ok(names.lines().filter(|name| !own.contains(name)).map(str::to_owned).collect())
    }

    /// Its socket.
    pub fn socket(&self) -> String {
        self.folder.path().join("socket").display().to_string()
    }

    /// How a manifest names one of its databases.
    pub fn recipe(&self, name: &str, database: &str) -> String {
        format!(
            "\n[[data.databases]]\nname = \"{name}\"\nkind = \"mysql\"\ndatabase = \"{database}\"\n\
             socket = \"{}\"\n",
            self.socket()
        )
    }
}

/// What `sqlite3` says to this.
///
/// # Errors
/// If it says no.
pub fn sqlite(file: &Path, query: &str) -> Result<String> {
    let mut sqlite = Command::new("/usr/bin/sqlite3");
    sqlite.args(["-init", "/dev/null", "-batch", "-bail"]).arg(file);
    Ok(Ran::of(sqlite.args([".timeout 10000", query]))?.good()?.trim().to_owned())
}

/// Whether `sqlite3` is here; says so where it is not.
pub fn has_sqlite(claim: &str) -> bool {
    let there = Path::new("/usr/bin/sqlite3").is_file();
    if !there {
        not_run(claim, "sudo apt-get install sqlite3");
    }
    there
}
