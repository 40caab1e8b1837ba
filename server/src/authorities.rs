//! The certificate authority that issues, the one that it replaces, and those that were retired, as files
//! in the folder of keys. Decides whose certificates mean what: of the one that is replaced everything is
//! good; a certificate of a retired one may only renew itself, with the key that is on record.
//!
//! `ca.pem` and `ca.crt` are the one that issues, `ca.old.*` the one that it replaces, `ca.retired-*.crt`
//! the certificates of former ones; `ca.new.*` is there while a replacement is under way, and a
//! replacement that was cut goes on where it was when it is asked for again.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use refit_durable::file::{self, Access, FileError};
use refit_proto::names::Digest;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use crate::{
    ca::{Authority, CaError, authority_name},
    keys::{CA_CERTIFICATE, CA_KEY, KeysError, load_authority, load_certificate},
};

const NEW_KEY: &str = "ca.new.pem";
const NEW_CERTIFICATE: &str = "ca.new.crt";
const OLD_KEY: &str = "ca.old.pem";
const OLD_CERTIFICATE: &str = "ca.old.crt";
const RETIRED: &str = "ca.retired-";
const STOLEN: &str = "ca.retired-stolen-";

/// All of them.
pub struct Authorities {
    issuing: Authority,
    replaced: Option<Authority>,
    retired: Vec<Retired>,
}

/// An authority of which only the certificate is here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Retired {
    certificate: CertificateDer<'static>,
    /// Its key is in wrong hands: it vouches for nobody who is not on record.
    stolen: bool,
}

/// Why hosts of an authority can't be readmitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotFormer {
    /// Never heard of.
    #[error(
        "this server does not know the authority {0}\nhelp: `refit-server ca accept FILE` on the server, restart it, and give the same certificate here"
    )]
    Unknown(Digest),
    /// It issues here, or did until a moment ago.
    #[error(
        "the authority {0} is this server's own\nhelp: its hosts are on record, and renew by themselves; a host that is not is enrolled with a token"
    )]
    Own(Digest),
    /// Whoever has its key would come in, too.
    #[error(
        "the authority {0} was retired because its key was stolen\nhelp: enroll these hosts again, each with a token: whoever has the key could make certificates for hosts of their own"
    )]
    Stolen(Digest),
}

/// Why an authority was not replaced or retired.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    /// Two at a time are enough.
    #[error(
        "the authority before is still accepted\nhelp: retire it first with `refit-server ca retire`, once no host uses it"
    )]
    UnderWay,
    /// There is none to retire.
    #[error("no authority is being replaced\nhelp: `refit-server ca replace` begins a replacement")]
    NothingToRetire,
    /// It issues here.
    #[error("this is the authority that issues here\nhelp: name the certificate of a former one")]
    Issuing,
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A key.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// No new one.
    #[error(transparent)]
    Ca(#[from] CaError),
}

impl Authorities {
    /// Reads them.
    ///
    /// # Errors
    /// If one is missing, damaged, or not secret any more.
    pub fn load(folder: &Path) -> Result<Authorities, KeysError> {
        let issuing = load_authority(&folder.join(CA_CERTIFICATE), &folder.join(CA_KEY))?;
        let replaced = match folder.join(OLD_CERTIFICATE).exists() {
            true => Some(load_authority(&folder.join(OLD_CERTIFICATE), &folder.join(OLD_KEY))?),
            false => None,
        };
        let mut retired = Vec::<Retired>::new();
        for path in retired_files(folder) {
            let (certificate, stolen) = (load_certificate(&path)?, is_stolen(&path));
            // Taken once more as a former one, a stolen one stays stolen.
            match retired.iter_mut().find(|known| known.certificate == certificate) {
                Some(known) => known.stolen |= stolen,
                None => retired.push(Retired { certificate, stolen }),
            }
        }
        Ok(Authorities { issuing, replaced, retired })
    }

    /// The one whose certificates everybody gets who renews.
    pub fn issuing(&self) -> &Authority {
        &self.issuing
    }

    /// The one by which the server proves itself, and which those get a certificate of who know no
    /// other yet: while one replaces the other, the one that is replaced.
    pub fn shown(&self) -> &Authority {
        self.replaced.as_ref().unwrap_or(&self.issuing)
    }

    /// Those whose certificates pass a handshake.
    pub fn accepted(&self) -> Vec<CertificateDer<'static>> {
        let live = [Some(&self.issuing), self.replaced.as_ref()].into_iter().flatten();
        live.map(|it| it.certificate().clone())
            .chain(self.retired.iter().map(|it| it.certificate.clone()))
            .collect()
    }

    /// The names of those whose certificates may only renew themselves.
    pub fn retired_names(&self) -> Vec<Digest> {
        self.retired.iter().filter_map(|it| authority_name(&it.certificate)).collect()
    }

    /// The name of the former authority with this digest, whose hosts may be readmitted.
    ///
    /// # Errors
    /// If it is not known, is in use here, or was stolen.
    pub fn former(&self, sha256: &Digest) -> Result<Digest, NotFormer> {
        let own = [Some(&self.issuing), self.replaced.as_ref()].into_iter().flatten();
        if own.into_iter().any(|it| Digest::of(it.certificate()) == *sha256) {
            return Err(NotFormer::Own(*sha256));
        }
        let known = self.retired.iter().find(|it| Digest::of(&it.certificate) == *sha256);
        let known = known.ok_or(NotFormer::Unknown(*sha256))?;
        if known.stolen {
            return Err(NotFormer::Stolen(*sha256));
        }
        authority_name(&known.certificate).ok_or(NotFormer::Unknown(*sha256))
    }

    /// Each with its certificate's digest, in the order in which they matter.
    pub fn standings(&self) -> Vec<(Digest, Standing)> {
        let issuing = (self.issuing.certificate(), Standing::Issues);
        let replaced = self.replaced.as_ref().map(|it| (it.certificate(), Standing::Replaced));
        let retired = self.retired.iter().map(|it| (&it.certificate, Standing::Retired));
        let all = std::iter::once(issuing).chain(replaced).chain(retired);
        all.map(|(certificate, standing)| (Digest::of(certificate), standing)).collect()
    }
}

/// What the certificates of an authority are good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// New ones are from it.
    Issues,
    /// Accepted, and replaced by new ones when they are renewed.
    Replaced,
    /// Good for a renewal and nothing else.
    Retired,
}

impl Standing {
    /// The word of the wire and of tables.
    pub fn word(self) -> &'static str {
        match self {
            Standing::Issues => "issues",
            Standing::Replaced => "replaced",
            Standing::Retired => "retired",
        }
    }
}

/// Puts a new authority in the place of the one that issues. `stolen`: the one before is retired at once
/// and its key removed, else it stays accepted until [`retire`].
///
/// # Errors
/// If one is being replaced already, or a file can't be written; asked for again, it goes on.
pub fn replace(folder: &Path, stolen: bool, now: Timestamp) -> Result<(), ReplaceError> {
    let at = |name: &str| folder.join(name);
    let under_way = at(NEW_CERTIFICATE).exists();
    if !under_way {
        if at(OLD_CERTIFICATE).exists() && !stolen {
            return Err(ReplaceError::UnderWay);
        }
        let made = Authority::generate(now)?;
        file::write(&at(NEW_KEY), made.key.as_bytes(), Access::Private)?;
        file::write(&at(NEW_CERTIFICATE), made.certificate.as_bytes(), Access::Private)?;
    }
    // With the new key still in its first place, the other files are those of the one before.
    if at(NEW_KEY).exists() {
        if stolen {
            retire_file(folder, CA_CERTIFICATE, STOLEN)?;
            file::remove(&at(CA_KEY))?;
        } else {
            rename_if_there(&at(CA_KEY), &at(OLD_KEY))?;
            rename_if_there(&at(CA_CERTIFICATE), &at(OLD_CERTIFICATE))?;
        }
        file::rename(&at(NEW_KEY), &at(CA_KEY))?;
    }
    Ok(file::rename(&at(NEW_CERTIFICATE), &at(CA_CERTIFICATE))?)
}

/// Retires the authority that was replaced: its certificates may only renew themselves from now on, and
/// its key is removed.
///
/// # Errors
/// If there is none, or a file can't be moved; asked for again, it goes on.
pub fn retire(folder: &Path) -> Result<(), ReplaceError> {
    let (certificate, key) = (folder.join(OLD_CERTIFICATE), folder.join(OLD_KEY));
    if !certificate.exists() && !key.exists() {
        return Err(ReplaceError::NothingToRetire);
    }
    if certificate.exists() {
        retire_file(folder, OLD_CERTIFICATE, RETIRED)?;
    }
    file::remove(&key)?;
    Ok(())
}

/// Takes the certificate of a former authority, of which no key is here: hosts with a certificate of it
/// may renew.
///
/// # Errors
/// If it is none, or the one that issues.
pub fn accept_former(folder: &Path, pem: &[u8]) -> Result<(), ReplaceError> {
    let path = folder.join("ca.former.crt");
    file::write(&path, pem, Access::Private)?;
    let read = load_certificate(&path).and_then(|former| {
        let issuing = load_certificate(&folder.join(CA_CERTIFICATE))?;
        Ok(former == issuing)
    });
    match read {
        Ok(false) => retire_file(folder, "ca.former.crt", RETIRED),
        Ok(true) => {
            file::remove(&path)?;
            Err(ReplaceError::Issuing)
        }
        Err(error) => {
            file::remove(&path)?;
            Err(error.into())
        }
    }
}

fn is_stolen(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with(STOLEN))
}

fn retire_file(folder: &Path, name: &str, as_what: &str) -> Result<(), ReplaceError> {
    let path = folder.join(name);
    if !path.exists() {
        return Ok(());
    }
    let digest = Digest::of(&load_certificate(&path)?).short();
    Ok(file::rename(&path, &folder.join(format!("{as_what}{digest}.crt")))?)
}

fn rename_if_there(from: &Path, to: &Path) -> Result<(), FileError> {
    if from.exists() { file::rename(from, to) } else { Ok(()) }
}

fn retired_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .filter(|entry| {
            let name = entry.file_name();
            name.to_str().is_some_and(|it| it.starts_with(RETIRED) && it.ends_with(".crt"))
        })
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files
}

/// The certificate of the authority that issues here and of the one that it replaces, as PEM.
///
/// # Errors
/// If a file can't be read.
pub fn shown_certificates(folder: &Path) -> Result<Vec<(Standing, String)>, ReplaceError> {
    let files = [(Standing::Issues, CA_CERTIFICATE), (Standing::Replaced, OLD_CERTIFICATE)];
    let mut shown = Vec::new();
    for (standing, name) in files {
        if let Some(pem) = file::read_if_there(&folder.join(name), 64 * 1024)? {
            CertificateDer::from_pem_slice(&pem)
                .map_err(|_| CaError::Authority(rcgen::Error::CouldNotParseCertificate))?;
            shown.push((standing, String::from_utf8_lossy(&pem).into_owned()));
        }
    }
    Ok(shown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::ServerKeys;

    fn now() -> Timestamp {
        "2026-11-22T12:00:00Z".parse().unwrap()
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        ServerKeys::generate(folder.path(), now()).unwrap();
        folder
    }

    fn words(folder: &Path) -> Vec<&'static str> {
        let standings = Authorities::load(folder).unwrap().standings();
        standings.into_iter().map(|(_, standing)| standing.word()).collect()
    }

    #[test]
    fn an_authority_is_replaced_accepted_beside_the_new_one_and_retired() {
        let folder = folder();
        let first = Authorities::load(folder.path()).unwrap();
        assert!(matches!(retire(folder.path()), Err(ReplaceError::NothingToRetire)));
        replace(folder.path(), false, now()).unwrap();
        let both = Authorities::load(folder.path()).unwrap();
        assert_eq!(words(folder.path()), ["issues", "replaced"]);
        assert_eq!(both.shown().certificate(), first.issuing().certificate());
        assert_ne!(both.issuing().certificate(), first.issuing().certificate());
        assert!(matches!(replace(folder.path(), false, now()), Err(ReplaceError::UnderWay)));
        assert!(both.retired_names().is_empty());

        retire(folder.path()).unwrap();
        let after = Authorities::load(folder.path()).unwrap();
        assert_eq!(words(folder.path()), ["issues", "retired"]);
        assert_eq!(after.shown().certificate(), both.issuing().certificate());
        assert_eq!(after.retired_names().len(), 1);
        assert!(!folder.path().join(OLD_KEY).exists(), "nobody can issue with it any more");
    }

    #[test]
    fn hosts_are_readmitted_by_a_former_authority_that_was_not_stolen() {
        let folder = folder();
        let own = |folder: &Path| Authorities::load(folder).unwrap();
        let issuing = |folder: &Path| Digest::of(own(folder).issuing().certificate());
        let stolen = issuing(folder.path());
        let pem = std::fs::read(folder.path().join(CA_CERTIFICATE)).unwrap();
        assert_eq!(own(folder.path()).former(&stolen), Err(NotFormer::Own(stolen)));
        replace(folder.path(), true, now()).unwrap();
        // Taken as a former one once more, it stays stolen.
        accept_former(folder.path(), &pem).unwrap();
        assert_eq!(own(folder.path()).former(&stolen), Err(NotFormer::Stolen(stolen)));
        assert_eq!(words(folder.path()), ["issues", "retired"]);

        let lost = Authority::load(&Authority::generate(now()).unwrap()).unwrap();
        let digest = Digest::of(lost.certificate());
        assert_eq!(own(folder.path()).former(&digest), Err(NotFormer::Unknown(digest)));
        let elsewhere = self::folder();
        let pem = std::fs::read(elsewhere.path().join(CA_CERTIFICATE)).unwrap();
        accept_former(folder.path(), &pem).unwrap();
        let former = issuing(elsewhere.path());
        let name = authority_name(own(elsewhere.path()).issuing().certificate()).unwrap();
        assert_eq!(own(folder.path()).former(&former), Ok(name));
    }

    #[test]
    fn a_stolen_authority_is_retired_at_once_and_its_key_removed() {
        let folder = folder();
        let stolen = std::fs::read(folder.path().join(CA_KEY)).unwrap();
        replace(folder.path(), true, now()).unwrap();
        assert_eq!(words(folder.path()), ["issues", "retired"]);
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            assert_ne!(std::fs::read(entry.unwrap().path()).unwrap(), stolen);
        }
    }

    #[test]
    fn a_replacement_that_was_cut_goes_on_where_it_was() {
        // The files as they are after each step of a whole replacement, told by what is missing.
        for cut in 0..5 {
            let folder = folder();
            let at = |name: &str| folder.path().join(name);
            let made = Authority::generate(now()).unwrap();
            let steps: [&dyn Fn(); 5] = [
                &|| file::write(&at(NEW_KEY), made.key.as_bytes(), Access::Private).unwrap(),
                &|| {
                    let pem = made.certificate.as_bytes();
                    file::write(&at(NEW_CERTIFICATE), pem, Access::Private).unwrap();
                },
                &|| file::rename(&at(CA_KEY), &at(OLD_KEY)).unwrap(),
                &|| file::rename(&at(CA_CERTIFICATE), &at(OLD_CERTIFICATE)).unwrap(),
                &|| file::rename(&at(NEW_KEY), &at(CA_KEY)).unwrap(),
            ];
            steps[..=cut].iter().for_each(|step| step());
            replace(folder.path(), false, now()).unwrap();
            assert_eq!(words(folder.path()), ["issues", "replaced"], "cut after step {cut}");
        }
    }

    #[test]
    fn the_certificate_of_a_former_authority_is_taken_and_nothing_else_is() {
        let folder = folder();
        let former = Authority::generate(now()).unwrap();
        accept_former(folder.path(), former.certificate.as_bytes()).unwrap();
        accept_former(folder.path(), former.certificate.as_bytes()).unwrap();
        assert_eq!(words(folder.path()), ["issues", "retired"]);
        let own = std::fs::read(folder.path().join(CA_CERTIFICATE)).unwrap();
        assert!(matches!(accept_former(folder.path(), &own), Err(ReplaceError::Issuing)));
        assert!(accept_former(folder.path(), b"nothing").is_err());
        assert_eq!(words(folder.path()), ["issues", "retired"]);
    }
}
