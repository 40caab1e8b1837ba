//! Where `refit` keeps what is its own: the server's address and certificate authority, the caller's
//! identity, keys, and the own copy of the trust metadata. Nobody but the owner can read it.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    rc::Rc,
};

use anyhow::Context as _;
use refit_durable::file::{self, Access};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::key::Secrets;

/// The folder, which may not exist yet, and the secrets that open what is kept there.
pub(crate) struct Home {
    folder: PathBuf,
    secrets: Rc<Secrets>,
}

/// `server.json`: whom the caller talks to, and as whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Server {
    /// `host:port`.
    pub(crate) address: String,
    /// The caller's name, as the audit log shows it.
    pub(crate) name: String,
    /// What the caller may do.
    pub(crate) roles: Vec<String>,
}

/// More than any of the small files here holds; a larger one is not ours.
const LONGEST: u64 = 1_000_000;

impl Home {
    /// The folder that was named, or the default one.
    pub(crate) fn open(named: Option<PathBuf>) -> anyhow::Result<Home> {
        let from = |variable: &str| {
            std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
        };
        let folder = named
            .or_else(|| from("XDG_CONFIG_HOME").map(|folder| folder.join("refit")))
            .or_else(|| from("HOME").map(|folder| folder.join(".config/refit")))
            .context("there is no home folder\nhelp: say where to keep files with --home DIR")?;
        Ok(Home { folder, secrets: Rc::default() })
    }

    /// With these secrets; without them, only the terminal is asked.
    pub(crate) fn with_secrets(self, secrets: Secrets) -> Home {
        Home { secrets: Rc::new(secrets), ..self }
    }

    /// What opens the keys.
    pub(crate) fn secrets(&self) -> &Rc<Secrets> {
        &self.secrets
    }

    /// Where key files are kept.
    pub(crate) fn keys(&self) -> PathBuf {
        self.folder.join("keys")
    }

    /// Where the own copy of the trust metadata is kept.
    pub(crate) fn trust(&self) -> PathBuf {
        self.folder.join("trust")
    }

    /// The caller's certificates and key, in one file, so that they are replaced as one.
    pub(crate) fn identity(&self) -> PathBuf {
        self.folder.join("identity.pem")
    }

    /// The key of a login that has not been answered yet.
    pub(crate) fn login_key(&self, token_id: &str) -> PathBuf {
        self.folder.join(format!("login-{token_id}.key"))
    }

    /// The certificate authority that signs the server's certificate, DER.
    pub(crate) fn authority(&self) -> PathBuf {
        self.folder.join("ca.der")
    }

    /// The public halves of the server's keys, as they were when they were first trusted.
    pub(crate) fn server_keys(&self) -> PathBuf {
        self.folder.join("server-keys.json")
    }

    /// The newest checkpoint of the audit log that was verified.
    pub(crate) fn checkpoint(&self) -> PathBuf {
        self.folder.join("audit-checkpoint.json")
    }

    /// Whom the caller talks to.
    pub(crate) fn server(&self) -> anyhow::Result<Server> {
        let path = self.folder.join("server.json");
        read_json(&path)?.with_context(|| {
            format!("{} is missing\nhelp: log in first: `refit login TOKEN`", path.display())
        })
    }

    /// Notes whom the caller talks to.
    pub(crate) fn save_server(&self, server: &Server) -> anyhow::Result<()> {
        self.write(&self.folder.join("server.json"), &serde_json::to_vec_pretty(server)?)
    }

    /// Writes a file of the home folder, whole or not at all.
    pub(crate) fn write(&self, path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
        self.make_folder(path)?;
        Ok(file::write(path, bytes, Access::Private)?)
    }

    /// Writes a file that must not be there yet, and says whether it was not.
    pub(crate) fn write_new(&self, path: &Path, bytes: &[u8]) -> anyhow::Result<bool> {
        self.make_folder(path)?;
        Ok(file::write_new(path, bytes, Access::Private)?)
    }

    fn make_folder(&self, path: &Path) -> anyhow::Result<()> {
        let Some(folder) = path.parent().filter(|folder| folder.starts_with(&self.folder)) else {
            return Ok(());
        };
        if !folder.is_dir() {
            let above = self.folder.parent().unwrap_or(&self.folder);
            fs::create_dir_all(above)
                .with_context(|| format!("cannot make {}", above.display()))?;
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok(())
    }
}

/// A small file, or `None` where there is none.
pub(crate) fn read(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    Ok(file::read_if_there(path, LONGEST)?)
}

/// A small JSON file, or `None` where there is none.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    let Some(bytes) = read(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).with_context(|| {
        format!(
            "{} is damaged\nhelp: move it away; what has to be there is asked for anew, \
                 as by `refit login TOKEN`",
            path.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_damaged_file_is_named_with_a_remedy() {
        let above = tempfile::tempdir().unwrap();
        let home = Home::open(Some(above.path().join("refit"))).unwrap();
        home.write(&above.path().join("refit/server.json"), b"x").unwrap();
        let error = home.server().unwrap_err().to_string();
        assert!(error.contains("server.json is damaged") && error.contains("\nhelp: "), "{error}");
    }

    #[test]
    fn what_is_kept_can_be_read_by_its_owner_alone() {
        let above = tempfile::tempdir().unwrap();
        let home = Home::open(Some(above.path().join("refit"))).unwrap();
        let server = Server {
            address: "refit:7700".into(),
            name: "alice".into(),
            roles: vec!["viewer".into()],
        };
        assert!(home.server().unwrap_err().to_string().contains("refit login"));
        home.save_server(&server).unwrap();
        home.write(&home.keys().join("x.pem"), b"x").unwrap();
        assert_eq!(home.server().unwrap(), server);
        for (path, mode) in [
            ("refit", 0o700),
            ("refit/keys", 0o700),
            ("refit/server.json", 0o600),
            ("refit/keys/x.pem", 0o600),
        ] {
            let found = fs::metadata(above.path().join(path)).unwrap().permissions().mode();
            assert_eq!(found & 0o777, mode, "{path}");
        }
    }
}
