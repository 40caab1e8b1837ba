//! `refit-server init`: the data folder with settings, keys, an empty store, and the first
//! administrator's token. Built beside its place and moved there whole, so that a folder is either one
//! that works, or none.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use jiff::{SignedDuration, Timestamp};
use refit_durable::{
    Options, SledStore,
    file::{self, Access, FileError},
};
use refit_proto::{
    names::PersonName,
    token::{Subject, Token},
};

use crate::{
    audit::{self, Deed},
    fleet::{Actor, TokenRecord, TokenSubject},
    identity::{PersonKind, Role},
    keys::{KeysError, ServerKeys},
    settings,
    store::{Commit, CommitError, Embedded, StoreFault},
};

/// The folder of keys in a data folder.
pub const KEYS: &str = "keys";
/// The folder of the store in a data folder.
pub const STORE: &str = "store";

/// How long the first administrator's token is good for.
const TOKEN_LIFE: SignedDuration = SignedDuration::from_hours(24);

/// What to make.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where.
    pub data: PathBuf,
    /// The first administrator.
    pub admin: PersonName,
    /// By what clients reach the server; the first stands in the token.
    pub addresses: Vec<String>,
    /// Where the server will listen.
    pub listen: SocketAddr,
}

/// What was made.
pub struct Made {
    /// The first administrator's token.
    pub token: Token,
    /// The keys, for their public halves.
    pub keys: ServerKeys,
}

/// What came of it.
pub enum Outcome {
    /// A new data folder.
    Made(Box<Made>),
    /// There was one already; it is as it was.
    AlreadyThere,
}

/// Why there is no data folder.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Something else lies there.
    #[error("{} is not empty and not a data folder of refit-server\nhelp: name another folder with --data", .0.display())]
    Occupied(PathBuf),
    /// An address that can't stand in a certificate.
    #[error("{0:?} is neither a DNS name nor an IP address\nhelp: give --address without a port")]
    Address(String),
    /// The file system.
    #[error("{}: {cause}", .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The file system.
    #[error(transparent)]
    File(#[from] FileError),
    /// The keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The store.
    #[error("the store could not be made: {0}")]
    Store(#[from] refit_durable::StoreError),
    /// The store.
    #[error("the store could not be made: {0}")]
    Fault(#[from] StoreFault),
    /// The store.
    #[error("the store could not be filled: {0}")]
    Commit(#[from] CommitError),
    /// No token.
    #[error("the system gives no random numbers: {0}")]
    Random(#[from] getrandom::Error),
}

/// Makes a data folder, unless there is one.
///
/// # Errors
/// Why not. Nothing is there then, or what was there before.
pub fn init(plan: &Plan, now: Timestamp) -> Result<Outcome, InitError> {
    let data = &plan.data;
    if data.join(settings::FILE).exists() {
        return Ok(Outcome::AlreadyThere);
    }
    if let Some(bad) = plan.addresses.iter().find(|address| !crate::ca::is_server_name(address)) {
        return Err(InitError::Address(bad.clone()));
    }
    let occupied = fs::read_dir(data).is_ok_and(|mut entries| entries.next().is_some());
    if occupied || data.is_file() {
        return Err(InitError::Occupied(data.clone()));
    }
    let half = beside(data);
    // What an init left that was killed: nobody has seen its keys or its token.
    file::remove_dir_all(&half)?;
    let at = |path: &Path| {
        let path = path.to_owned();
        move |cause| InitError::Io { path, cause }
    };
    if let Some(parent) = half.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        file::create_dir_all(parent)?;
    }
    let private = |path: &Path| fs::DirBuilder::new().mode(0o700).create(path).map_err(at(path));
    private(&half)?;
    private(&half.join(KEYS))?;
    ServerKeys::generate(&half.join(KEYS), now)?;
    let keys = ServerKeys::load(&half.join(KEYS))?;
    let token = first_token(plan, &keys, now)?;
    fill_store(&half.join(STORE), plan, &token, now)?;
    file::write(&half.join(settings::FILE), settings_text(plan).as_bytes(), Access::Private)?;
    file::sync_dir(&half.join(KEYS))?;
    file::sync_dir(&half)?;
    file::rename(&half, data)?;
    Ok(Outcome::Made(Box::new(Made { token, keys })))
}

/// Where a data folder grows before it is one.
fn beside(data: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(data.file_name().unwrap_or_default());
    name.push(".refit-init");
    data.with_file_name(name)
}

fn first_token(plan: &Plan, keys: &ServerKeys, now: Timestamp) -> Result<Token, InitError> {
    let address = plan.addresses.first().map_or("localhost", String::as_str);
    let port = plan.listen.port();
    let server = match address.contains(':') {
        true => format!("[{address}]:{port}"),
        false => format!("{address}:{port}"),
    };
    let subject = Subject::Person { name: plan.admin.clone() };
    let ends = now.checked_add(TOKEN_LIFE).unwrap_or(Timestamp::MAX);
    Ok(Token::new(subject, server, keys.authorities.shown().certificate(), ends)?)
}

/// The roles of the first administrator: everything that it takes to get started.
const FIRST_ROLES: [Role; 4] = [Role::Administrator, Role::Operator, Role::Publisher, Role::Viewer];

fn fill_store(folder: &Path, plan: &Plan, token: &Token, now: Timestamp) -> Result<(), InitError> {
    let store = Embedded::new(SledStore::open(Options::new(folder, now))?.store)?;
    let mut commit = Commit::new();
    commit.doc(
        0,
        TokenRecord {
            id: token.id.clone(),
            secret_sha256: token.secret_sha256(),
            subject: TokenSubject::Person {
                name: plan.admin.clone(),
                kind: PersonKind::Person,
                roles: FIRST_ROLES.to_vec(),
            },
            uses_left: 1,
            used_by: Vec::new(),
            expires: token.expires,
            created_by: Actor::Server.to_string(),
            created_at: now,
        },
    );
    let deed = Deed::done(Actor::Server, "server init", format!("administrator {}", plan.admin));
    audit::commit(&store, &commit, now, &[deed])?;
    Ok(())
}

fn settings_text(plan: &Plan) -> String {
    // Names and addresses that may stand in a certificate need no escapes.
    let addresses: Vec<_> = plan.addresses.iter().map(|name| format!("\"{name}\"")).collect();
    format!(
        "# Settings of refit-server. What is left out has its default.\n\
         # --listen and --status-listen, and REFIT_LISTEN and REFIT_STATUS_LISTEN, go over what stands here.\n\
         \n\
         # Where agents and refit call.\n\
         listen = \"{}\"\n\
         # The page, /metrics and the probes: loopback only.\n\
         status_listen = \"{}\"\n\
         # Names and IP addresses by which the server is reached; they stand in its certificate.\n\
         addresses = [{}]\n\
         \n\
         [certificates]\n\
         host_days = 30\n\
         person_days = 90\n",
        plan.listen,
        settings::DEFAULT_STATUS_LISTEN,
        addresses.join(", "),
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::{
        settings::{Overrides, Settings},
        store::{Reads as _, Store as _},
    };

    fn now() -> Timestamp {
        "2026-11-22T12:00:00Z".parse().unwrap()
    }

    fn plan(data: &Path) -> Plan {
        Plan {
            data: data.to_owned(),
            admin: "alice".parse().unwrap(),
            addresses: vec!["refit.example.org".into(), "127.0.0.1".into(), "::1".into()],
            listen: "0.0.0.0:7700".parse().unwrap(),
        }
    }

    fn made(outcome: Outcome) -> Made {
        match outcome {
            Outcome::Made(made) => *made,
            Outcome::AlreadyThere => panic!("there was one already"),
        }
    }

    #[test]
    fn a_new_folder_has_settings_that_load_keys_and_a_token_that_the_store_knows() {
        let place = tempfile::tempdir().unwrap();
        let data = place.path().join("below/data");
        let made = made(init(&plan(&data), now()).unwrap());
        assert_eq!(made.token.server, "refit.example.org:7700");
        assert_eq!(fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);

        let settings = Settings::load(&data, &Overrides::default()).unwrap();
        assert_eq!(settings.addresses, plan(&data).addresses);
        let keys = ServerKeys::load(&data.join(KEYS)).unwrap();
        assert_eq!(keys.authorities.issuing().certificate().to_vec(), made.token.ca_der());

        let opened = SledStore::open(Options::new(data.join(STORE), now())).unwrap();
        assert!(!opened.created);
        let store = Embedded::new(opened.store).unwrap();
        let token = store.read::<TokenRecord>(made.token.id.clone()).unwrap().unwrap().value;
        assert_eq!((token.secret_sha256, token.uses_left), (made.token.secret_sha256(), 1));
        assert_eq!(store.audit_head().unwrap().length, 1);
    }

    #[test]
    fn a_second_init_changes_nothing() {
        let place = tempfile::tempdir().unwrap();
        let data = place.path().join("data");
        init(&plan(&data), now()).unwrap();
        let before = fs::read(data.join(KEYS).join("audit.pem")).unwrap();
        assert!(matches!(init(&plan(&data), now()).unwrap(), Outcome::AlreadyThere));
        assert_eq!(fs::read(data.join(KEYS).join("audit.pem")).unwrap(), before);
    }

    #[test]
    fn what_a_killed_init_left_is_no_data_folder_and_is_made_anew() {
        let place = tempfile::tempdir().unwrap();
        let data = place.path().join("data");
        let half = beside(&data);
        fs::create_dir_all(half.join(KEYS)).unwrap();
        fs::write(half.join(settings::FILE), "half").unwrap();
        assert!(matches!(init(&plan(&data), now()).unwrap(), Outcome::Made(_)));
        assert!(!half.exists());
        Settings::load(&data, &Overrides::default()).unwrap();
    }

    #[test]
    fn a_folder_of_somebody_else_is_left_alone() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("thesis.txt"), "words").unwrap();
        assert!(matches!(init(&plan(place.path()), now()), Err(InitError::Occupied(_))));
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
        let mut wrong = plan(&place.path().join("data"));
        wrong.addresses.push("refit.example.org:7700".into());
        assert!(matches!(init(&wrong, now()), Err(InitError::Address(_))));
    }
}
