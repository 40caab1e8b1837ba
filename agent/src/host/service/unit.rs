//! What a service is on this host: its unit's name, and its manifest's words with the host's variables
//! and the release's folder put in.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use refit_proto::package::{self, ExpandError, Variables, expand};
use serde::{Deserialize, Serialize};

use super::Container;

/// The name of a service's unit: `payments.service`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UnitName(String);

/// Why a text is no unit's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no name of a service's unit: letters, digits and `-_.@:`, then `.service`")]
pub struct UnitNameError(String);

impl UnitName {
    /// Parses a name.
    ///
    /// # Errors
    /// If it could be anything else than one file's name, or a program's option.
    pub fn parse(text: &str) -> Result<UnitName, UnitNameError> {
        let error = || UnitNameError(text.chars().take(80).collect());
        let name = text.strip_suffix(".service").ok_or_else(error)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@:".contains(&byte);
        let begins_well = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if begins_well && name.bytes().all(plain) && text.len() <= 200 {
            Ok(UnitName(text.to_owned()))
        } else {
            Err(error())
        }
    }

    /// The unit of a package's service.
    pub fn of(service: &package::Service) -> UnitName {
        // A package's name is stricter than a unit's.
        UnitName(format!("{}.service", service.name))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for UnitName {
    type Error = UnitNameError;
    fn try_from(text: String) -> Result<UnitName, UnitNameError> {
        UnitName::parse(&text)
    }
}

impl From<UnitName> for String {
    fn from(name: UnitName) -> String {
        name.0
    }
}

/// What has to stand where for a manager to know a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnitFile {
    /// A file, readable by everybody.
    File {
        /// Where.
        path: PathBuf,
        /// What is in it.
        bytes: Vec<u8>,
    },
    /// A symbolic link.
    Link {
        /// Where.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
}

impl UnitFile {
    /// Where it stands.
    pub fn path(&self) -> &Path {
        match self {
            UnitFile::File { path, .. } | UnitFile::Link { path, .. } => path,
        }
    }
}

/// A service of a release on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its unit.
    pub unit: UnitName,
    /// The program: a path, or a name that the system looks up.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its environment.
    pub environment: BTreeMap<String, String>,
    /// The folder of the package in which it runs.
    pub folder: PathBuf,
    /// The user it runs as, where systemd runs it.
    pub user: Option<String>,
    /// A unit file of the package's own, in place of a made one.
    pub own_unit: Option<PathBuf>,
    /// In which it runs: then `arguments` is what runs there, and nothing where its image says it.
    #[serde(skip)]
    pub container: Option<Container>,
}

/// Why a manifest's service cannot run here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// A host variable.
    #[error(transparent)]
    Expand(#[from] ExpandError),
    /// There is no program.
    #[error("a command of the manifest is empty")]
    Empty,
}

impl Service {
    /// A manifest's service, with the package's tree in `folder`.
    ///
    /// # Errors
    /// If it uses a variable that this host does not define.
    pub fn resolve(
        service: &package::Service,
        folder: &Path,
        variables: &Variables,
    ) -> Result<Service, ResolveError> {
        let (program, arguments) = resolve_command(&service.command, folder, variables)?;
        let mut environment = BTreeMap::new();
        for (name, value) in &service.environment {
            environment.insert(name.clone(), expand(value, variables)?);
        }
        Ok(Service {
            unit: UnitName::of(service),
            program,
            arguments,
            environment,
            folder: folder.to_owned(),
            user: service.user.clone(),
            own_unit: service.unit_file.as_ref().map(|path| folder.join(path.as_str())),
            container: None,
        })
    }

    /// The same of a service that runs in a container.
    ///
    /// # Errors
    /// If it uses a variable that this host does not define.
    pub fn contained(
        service: &package::Service,
        folder: &Path,
        variables: &Variables,
        container: Container,
    ) -> Result<Service, ResolveError> {
        let all = |words: &[String]| {
            words.iter().map(|word| expand(word, variables)).collect::<Result<Vec<_>, _>>()
        };
        let podman = [container.podman.display().to_string()];
        let by_podman = package::Service { command: podman.to_vec(), ..service.clone() };
        let mut resolved = Service::resolve(&by_podman, folder, variables)?;
        resolved.arguments = all(&service.command)?;
        resolved.container = Some(Container { options: all(&service.options)?, ..container });
        Ok(resolved)
    }
}

/// A manifest's command: program and arguments, variables expanded. A program with a `/` that does not
/// begin with one lies in the package.
///
/// # Errors
/// If it is empty, or uses a variable that this host does not define.
pub(crate) fn resolve_command(
    command: &[String],
    folder: &Path,
    variables: &Variables,
) -> Result<(String, Vec<String>), ResolveError> {
    let mut words = command.iter().map(|word| expand(word, variables));
    let program = words.next().ok_or(ResolveError::Empty)??;
    let arguments = words.collect::<Result<_, _>>()?;
    let in_package = program.contains('/') && !program.starts_with('/');
    let program = match in_package {
        true => folder.join(&program).to_string_lossy().into_owned(),
        false => program,
    };
    Ok((program, arguments))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_units_name_is_one_file_and_never_an_option() {
        for good in ["payments.service", "a@b.service", "a-b_c:d.1.service"] {
            assert!(UnitName::parse(good).is_ok(), "{good}");
        }
        for bad in
            ["payments", ".service", "-p.service", "../a.service", "a b.service", "a/b.service"]
        {
            assert!(UnitName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_program_with_a_slash_lies_in_the_package_unless_it_begins_with_one() {
        let variables = Variables::from([("PORT".into(), "80".into())]);
        let resolve = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
            resolve_command(&words, Path::new("/opt/p"), &variables)
        };
        let words = |program: &str, arguments: &[&str]| {
            Ok((program.to_owned(), arguments.iter().map(|word| (*word).to_owned()).collect()))
        };
        assert_eq!(resolve(&["bin/serve", "-p${PORT}"]), words("/opt/p/bin/serve", &["-p80"]));
        assert_eq!(resolve(&["/bin/sh", "a/b"]), words("/bin/sh", &["a/b"]));
        assert_eq!(resolve(&["python3"]), words("python3", &[]));
        assert!(resolve(&["x", "${HOST}"]).is_err());
        assert_eq!(resolve(&[]), Err(ResolveError::Empty));
    }
}
