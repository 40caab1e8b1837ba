//! Where secrets come from that never stand on a command line: passphrases from the terminal or a file,
//! and the key that a CI job has in its environment.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    rc::Rc,
};

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use refit_proto::trust::LocalKey;
use zeroize::Zeroizing;

use super::pem::{Encrypted, KeyFile};
use crate::home;

/// The variable with a CI job's private key.
pub(crate) const SIGNING_KEY: &str = "REFIT_SIGNING_KEY";
/// The variable with the name of a file that holds the passphrase.
pub(crate) const PASSPHRASE_FILE: &str = "REFIT_PASSPHRASE_FILE";

/// Shorter passphrases are refused: a stolen file can be tried for as long as the thief likes.
const SHORTEST: usize = 12;
/// How often somebody at the terminal may mistype.
const TRIES: usize = 3;

/// The secrets that this process was given, and the keys that it has opened with them.
#[derive(Default)]
pub(crate) struct Secrets {
    passphrase_file: Option<PathBuf>,
    /// The value of [`SIGNING_KEY`]; `Err` if it is no text.
    signing_key: Option<Result<Zeroizing<String>, ()>>,
    /// Opened once, so that nobody is asked twice.
    opened: RefCell<BTreeMap<PathBuf, Rc<LocalKey>>>,
}

impl Secrets {
    /// Those of this process.
    pub(crate) fn of_process(passphrase_file: Option<PathBuf>) -> Secrets {
        let value = env::var_os(SIGNING_KEY).filter(|value| !value.is_empty());
        let signing_key = value.map(|value| value.into_string().map(Zeroizing::new).map_err(drop));
        Secrets { passphrase_file, signing_key, opened: RefCell::default() }
    }

    /// The key in a file, opened.
    pub(crate) fn open(&self, path: &Path) -> anyhow::Result<Rc<LocalKey>> {
        if let Some(key) = self.opened.borrow().get(path) {
            return Ok(key.clone());
        }
        let key = match read(path)? {
            KeyFile::Plain(key) => *key,
            KeyFile::Encrypted(sealed) => self
                .unlock(&sealed, &path.display().to_string())
                .with_context(|| path.display().to_string())?,
        };
        let key = Rc::new(key);
        self.opened.borrow_mut().insert(path.to_owned(), key.clone());
        Ok(key)
    }

    /// The key of the environment, if there is one.
    pub(crate) fn environment(&self) -> anyhow::Result<Option<LocalKey>> {
        let Some(value) = &self.signing_key else { return Ok(None) };
        let unfit = || {
            format!(
                "{SIGNING_KEY} is set, but holds no ed25519 private key\n\
                 help: give it the text of a key file as `refit key generate` makes it, or that file in \
                 base64; or unset it"
            )
        };
        let text = value.as_ref().ok().with_context(unfit)?;
        let file = KeyFile::parse(&pem_in(text)).ok().with_context(unfit)?;
        match file {
            KeyFile::Plain(key) => Ok(Some(*key)),
            KeyFile::Encrypted(sealed) => {
                let key = self.unlock(&sealed, SIGNING_KEY);
                key.context(SIGNING_KEY).map(Some)
            }
        }
    }

    fn unlock(&self, sealed: &Encrypted, name: &str) -> anyhow::Result<LocalKey> {
        if let Some(file) = &self.passphrase_file {
            let opened = sealed.open(&passphrase_in(file)?)?;
            return opened.with_context(|| {
                format!(
                    "the passphrase in {} does not open this key\n\
                     help: leave {PASSPHRASE_FILE} and --passphrase-file out to be asked",
                    file.display()
                )
            });
        }
        for _ in 0..TRIES {
            if let Some(key) = sealed.open(&asked(&format!("Passphrase of {name}: "))?)? {
                return Ok(key);
            }
            eprintln!("This passphrase does not open the key.");
        }
        bail!(
            "no passphrase opened this key\nhelp: without its passphrase, the key is lost; replace it"
        )
    }

    /// A passphrase for a new key: from the file that was named, or asked twice.
    pub(crate) fn new_passphrase(&self) -> anyhow::Result<Zeroizing<String>> {
        let passphrase = match &self.passphrase_file {
            Some(file) => passphrase_in(file)?,
            None => {
                let first = asked("Passphrase for the new key: ")?;
                long_enough(&first)?;
                let second = asked("The same passphrase again: ")?;
                ensure!(first == second, "the two passphrases differ; no key was made");
                first
            }
        };
        long_enough(&passphrase)?;
        Ok(passphrase)
    }

    #[cfg(test)]
    pub(super) fn of_test(passphrase_file: Option<PathBuf>, signing_key: Option<&str>) -> Secrets {
        let signing_key = signing_key.map(|text| Ok(Zeroizing::new(text.to_owned())));
        Secrets { passphrase_file, signing_key, opened: RefCell::default() }
    }
}

/// Reads a key file.
pub(super) fn read(path: &Path) -> anyhow::Result<KeyFile> {
    let bytes = home::read(path)?.with_context(|| format!("{} is missing", path.display()))?;
    let bytes = Zeroizing::new(bytes);
    KeyFile::parse(&bytes).with_context(|| path.display().to_string())
}

/// A variable can't always hold line breaks: they may be written as `\n`, or the whole file in base64.
fn pem_in(text: &str) -> Zeroizing<Vec<u8>> {
    let text = text.trim();
    if text.starts_with("-----BEGIN") {
        return Zeroizing::new(text.replace("\\n", "\n").into_bytes());
    }
    Zeroizing::new(base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default())
}

/// The one line of a passphrase file.
fn passphrase_in(file: &Path) -> anyhow::Result<Zeroizing<String>> {
    let bytes = home::read(file)?.with_context(|| {
        format!("{} is missing\nhelp: it has to hold the passphrase, in one line", file.display())
    })?;
    let bytes = Zeroizing::new(bytes);
    let line = std::str::from_utf8(&bytes).ok().map(|text| text.trim_end_matches(['\n', '\r']));
    let line = line.filter(|line| !line.is_empty() && !line.contains('\n')).with_context(|| {
        format!(
            "{} does not hold one line of text\nhelp: write the passphrase into it",
            file.display()
        )
    })?;
    Ok(Zeroizing::new(line.to_owned()))
}

fn long_enough(passphrase: &str) -> anyhow::Result<()> {
    ensure!(
        passphrase.chars().count() >= SHORTEST,
        "the passphrase is shorter than {SHORTEST} characters; no key was made\n\
         help: four or five words that nobody would put together are easy to keep and hard to guess"
    );
    Ok(())
}

/// Asks on the terminal, whatever standard input and output are, and shows nothing of the answer.
fn asked(question: &str) -> anyhow::Result<Zeroizing<String>> {
    let answer = rpassword::prompt_password(question).with_context(|| {
        format!(
            "nobody is here to type a passphrase\n\
             help: run it in a terminal, or name a file that holds the passphrase: {PASSPHRASE_FILE}"
        )
    });
    answer.map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use refit_proto::trust::Signer as _;

    use super::*;
    use crate::key::pem;

    const PASSPHRASE: &str = "four words nobody knows";

    #[test]
    fn a_key_of_the_environment_is_taken_in_each_form_that_ci_can_hold() {
        let key = LocalKey::generate().unwrap();
        let pem = key.to_pem().unwrap();
        let one_line = pem.replace('\n', "\\n");
        let base64 = base64::engine::general_purpose::STANDARD.encode(pem.as_bytes());
        for text in [pem.as_str(), &one_line, &base64, &format!("\n{base64}\n")] {
            let found = Secrets::of_test(None, Some(text)).environment().unwrap().unwrap();
            assert_eq!(found.public(), key.public());
        }
        assert!(Secrets::default().environment().unwrap().is_none());
    }

    #[test]
    fn a_wrong_key_of_the_environment_is_refused_without_being_shown() {
        let pem = LocalKey::generate().unwrap().to_pem().unwrap();
        let broken = pem.replace("MF", "MG");
        for text in ["secretsecret", "c2VjcmV0", &broken, &pem[..60]] {
            let error = Secrets::of_test(None, Some(text)).environment().unwrap_err();
            let error = format!("{error:#}");
            assert!(error.contains(SIGNING_KEY) && error.contains("help: "), "{error}");
            assert!(!error.contains(text), "{error}");
        }
        let no_text = Secrets { signing_key: Some(Err(())), ..Secrets::default() };
        assert!(no_text.environment().is_err());
    }

    #[test]
    fn an_encrypted_key_is_opened_with_the_passphrase_of_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let key = LocalKey::generate().unwrap();
        let sealed = pem::encrypt(&key, PASSPHRASE).unwrap();
        let (path, passphrase) = (folder.path().join("k.pem"), folder.path().join("passphrase"));
        fs::write(&path, sealed.as_bytes()).unwrap();
        fs::write(&passphrase, format!("{PASSPHRASE}\n")).unwrap();
        let secrets = Secrets::of_test(Some(passphrase.clone()), Some(&sealed));
        assert_eq!(secrets.open(&path).unwrap().public(), key.public());
        assert_eq!(secrets.environment().unwrap().unwrap().public(), key.public());
        // Opened once; what the file says by now does not matter.
        fs::write(&passphrase, "another one").unwrap();
        assert_eq!(secrets.open(&path).unwrap().public(), key.public());
        for wrong in ["another one", "", "\n", "two\nlines\n"] {
            fs::write(&passphrase, wrong).unwrap();
            let error = Secrets::of_test(Some(passphrase.clone()), None).open(&path).unwrap_err();
            let error = format!("{error:#}");
            assert!(error.contains("k.pem") && error.contains("help: "), "{error}");
        }
    }

    #[test]
    fn a_passphrase_for_a_new_key_is_never_short() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("passphrase");
        let secrets = Secrets::of_test(Some(file.clone()), None);
        for short in ["x", "elevenchars"] {
            fs::write(&file, short).unwrap();
            assert!(secrets.new_passphrase().is_err(), "{short}");
        }
        fs::write(&file, "twelve chars\r\n").unwrap();
        assert_eq!(*secrets.new_passphrase().unwrap(), "twelve chars");
    }
}
