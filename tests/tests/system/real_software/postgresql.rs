//! PostgreSQL of Debian: its minor update with a client that writes all the time, then a configuration with
//! which it does not start. Every row that it has acknowledged is there at the end.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context as _, Result};
use refit_tests::{
    lab::{Client, software},
    wait::until,
};
use tokio::{runtime::Runtime, time::timeout};
use tokio_postgres::{NoTls, SimpleQueryMessage};

use super::{HEALTH, Product, tell};

const PROGRAM: &str = "usr/lib/postgresql/15/bin/postgres";

/// What it needs beside a minimal Debian.
const LIBRARIES: [&str; 10] = [
    "libpq5",
    "libicu72",
    "libldap-2.5-0",
    "libxml2",
    "libgssapi-krb5-2",
    "libkrb5-3",
    "libk5crypto3",
    "libkrb5support0",
    "libkeyutils1",
    "libsasl2-2",
];

const START: &str = "#!/bin/sh
set -e
export LD_LIBRARY_PATH=\"$PWD/lib\"
data=/var/lib/postgresql/refit
if [ ! -e $data/PG_VERSION ]; then
    usr/lib/postgresql/15/bin/initdb -D $data -U postgres -A trust -E UTF8 --locale=C.UTF-8
fi
exec usr/lib/postgresql/15/bin/postgres -D $data \\
    -c config_file=\"$PWD/etc/postgresql.conf\" -c hba_file=\"$PWD/etc/pg_hba.conf\"
";

/// Debian's own stops it by SIGINT too: SIGTERM would wait until the last client has left.
const UNIT: &str = "[Unit]
Description=PostgreSQL 15
[Service]
Type=exec
User=postgres
WorkingDirectory=/opt/refit/postgresql/current/postgresql
ExecStart=/opt/refit/postgresql/current/postgresql/bin/start
KillSignal=SIGINT
KillMode=mixed
Restart=on-failure
RestartSec=1
[Install]
WantedBy=multi-user.target
";

const CONFIGURATION: &str = "
listen_addresses = '*'
unix_socket_directories = '/tmp'
shared_buffers = 32MB
jit = off
timezone = 'UTC'
";

fn fill(tree: &Path, version: &str, more: &str) -> Result<String> {
    let server = software::unpacked("postgresql-15", Some(version))?;
    for part in ["usr/lib/postgresql/15/bin", "usr/lib/postgresql/15/lib"] {
        software::copy_into(&server.join(part), &tree.join(part))?;
    }
    let shared = "usr/share/postgresql/15";
    software::copy_into(&server.join(shared), &tree.join(shared))?;
    // For the compiler that is switched off: half of the package.
    fs::remove_dir_all(tree.join("usr/lib/postgresql/15/lib/bitcode"))?;
    for library in LIBRARIES {
        let unpacked = software::unpacked(library, None)?;
        for folder in ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"] {
            let from = unpacked.join(folder);
            if from.is_dir() {
                software::copy_into(&from, &tree.join("lib"))?;
            }
        }
    }
    let put = |path: &str, text: &str, mode: u32| -> Result<()> {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().context("no folder")?)?;
        fs::write(&path, text)?;
        Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
    };
    put("bin/start", START, 0o755)?;
    put("etc/postgresql.conf", &format!("{CONFIGURATION}{more}"), 0o644)?;
    put("etc/pg_hba.conf", "host all all 10.77.0.0/16 trust\n", 0o644)?;
    put("etc/postgresql.service", UNIT, 0o644)?;
    Ok(format!(
        "[[services]]\nname = \"postgresql\"\ncommand = [\"bin/start\"]\nuser = \"postgres\"\n\
         unit_file = \"etc/postgresql.service\"\n{HEALTH}\n\
         [[health.checked.checks]]\nname = \"listens\"\nkind = \"tcp\"\n\
         address = \"127.0.0.1:5432\"\ntimeout_seconds = 2\n"
    ))
}

/// A client that keeps its connection, and makes a new one when that is lost.
struct Connection {
    address: SocketAddr,
    runtime: Runtime,
    client: Option<tokio_postgres::Client>,
}

impl Connection {
    fn to(address: SocketAddr) -> Result<Connection> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Connection { address, runtime, client: None })
    }

    /// The first column of what a query brings.
    fn ask(&mut self, query: &str) -> Result<Vec<String>> {
        let (address, held) = (self.address, self.client.take());
        let asking = async {
            let client = match held {
                Some(client) => client,
                None => connected(address).await?,
            };
            let rows = client.simple_query(query).await?;
            anyhow::Ok((client, rows))
        };
        let patience = Duration::from_secs(2);
        let asked = self.runtime.block_on(async { timeout(patience, asking).await });
        let (client, rows) = asked??;
        self.client = Some(client);
        let first = |row| match row {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        };
        Ok(rows.into_iter().filter_map(first).collect())
    }
}

async fn connected(address: SocketAddr) -> Result<tokio_postgres::Client> {
    let stream = tokio::net::TcpStream::connect(address).await?;
    let mut config = tokio_postgres::Config::new();
    let (client, connection) =
        config.user("postgres").dbname("postgres").connect_raw(stream, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Rows that the database said it has.
type Acknowledged = Arc<Mutex<BTreeSet<String>>>;

fn writer(address: SocketAddr, acknowledged: &Acknowledged) -> Client {
    let acknowledged = acknowledged.clone();
    let mut connection = Connection::to(address).unwrap();
    Client::start(move || {
        let row = connection.ask("INSERT INTO ledger DEFAULT VALUES RETURNING id")?;
        acknowledged.lock().unwrap().extend(row);
        Ok(())
    })
}

#[test]
fn postgresql_of_debian_is_updated_and_brought_back_from_a_bad_configuration_with_every_row() {
    let claim = "PostgreSQL of Debian's archive, updated and brought back while it is written to";
    let Some(product) = Product::new("postgresql", "postgresql-15", &LIBRARIES, claim) else {
        return;
    };
    let host = &product.host;
    host.good(["useradd", "--system", "postgres"]).unwrap();
    host.good(["install", "-d", "-o", "postgres", "-m", "0700", "/var/lib/postgresql/refit"])
        .unwrap();
    let (old, new) = (product.old.clone(), product.new.clone());
    let address = host.at(5432);
    let mut asking = Connection::to(address).unwrap();
    let mut version_is = |version: &str| {
        let wanted = version.split('-').next().unwrap();
        until(&format!("PostgreSQL {wanted} answers"), || {
            Ok((asking.ask("SHOW server_version")?[0].starts_with(wanted)).then_some(()))
        })
        .unwrap();
    };

    product.release("1", |tree| fill(tree, &old, ""));
    product.until("1", "done");
    version_is(&old);
    let mut admin = Connection::to(address).unwrap();
    admin
        .ask("CREATE TABLE ledger (id bigserial PRIMARY KEY, at timestamptz DEFAULT now())")
        .unwrap();
    drop(admin);

    let acknowledged = Acknowledged::default();
    let users = writer(address, &acknowledged);
    product.release("2", |tree| fill(tree, &new, ""));
    product.until("2", "done");
    let update = users.stop().unwrap();
    tell(&format!("PostgreSQL {old} -> {new}"), &update);
    version_is(&new);
    product.runs_program_of(&software::unpacked("postgresql-15", Some(&new)).unwrap(), PROGRAM);

    let users = writer(address, &acknowledged);
    let misspelt = "shared_preload_libraries = 'pg_stat_statments'\n";
    product.release("3", |tree| fill(tree, &new, misspelt));
    product.until("3", "halted");
    version_is(&new);
    // It takes writes again, and those too are counted.
    let so_far = acknowledged.lock().unwrap().len();
    until("rows are written again", || {
        Ok((acknowledged.lock().unwrap().len() > so_far).then_some(()))
    })
    .unwrap();
    let back = users.stop().unwrap();
    tell("PostgreSQL, a configuration with which it does not start, and back", &back);
    product.went_back();

    let mut reader = Connection::to(address).unwrap();
    let there: BTreeSet<String> =
        reader.ask("SELECT id FROM ledger").unwrap().into_iter().collect();
    let acknowledged = acknowledged.lock().unwrap();
    println!("PostgreSQL: {} rows acknowledged, {} there", acknowledged.len(), there.len());
    assert!(acknowledged.is_subset(&there), "{:?}", acknowledged.difference(&there));
    for (traffic, longest) in [(update, 20), (back, 60)] {
        assert!(traffic.answered > 20, "the client was not there: {traffic}");
        assert!(traffic.longest_gap < Duration::from_secs(longest), "{traffic}");
    }
}
