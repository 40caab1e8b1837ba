//! Key files: PKCS#8 PEM, as they are or encrypted with a passphrase. Both are standard, so that
//! `openssl pkey` reads them too, in ten years and without this program.

use anyhow::{Context as _, bail, ensure};
use pkcs8::{
    EncryptedPrivateKeyInfoRef, LineEnding, PrivateKeyInfoRef, SecretDocument,
    der::pem::PemLabel as _,
    pkcs5::{
        pbes2::{Kdf, Parameters},
        scrypt,
    },
};
use refit_proto::trust::LocalKey;
use zeroize::Zeroizing;

/// scrypt's cost: 16 MiB and five rounds of them, which is as strong as one of 128 MiB, and which OpenSSL
/// takes as it comes.
const LOG_N: u8 = 14;
const R: u32 = 8;
const P: u32 = 5;

/// The most memory that a key file from elsewhere may ask for, and the most rounds.
const MOST_MEMORY: u64 = 1 << 30;
const MOST_ROUNDS: u64 = 64;
const MOST_ITERATIONS: u32 = 50_000_000;

/// What a key file holds.
pub(crate) enum KeyFile {
    /// Whoever reads it has the key.
    Plain(Box<LocalKey>),
    /// Without the passphrase, not even the public half can be told.
    Encrypted(Encrypted),
}

/// A private key that a passphrase opens.
pub(crate) struct Encrypted(SecretDocument);

impl KeyFile {
    /// Reads a key file.
    pub(crate) fn parse(bytes: &[u8]) -> anyhow::Result<KeyFile> {
        let text = std::str::from_utf8(bytes).ok().context("it is not PEM")?;
        if !text.contains(EncryptedPrivateKeyInfoRef::PEM_LABEL) {
            return Ok(KeyFile::Plain(Box::new(LocalKey::from_pem(text)?)));
        }
        let (label, document) = SecretDocument::from_pem(text).map_err(|_| damaged())?;
        ensure!(label == EncryptedPrivateKeyInfoRef::PEM_LABEL, damaged());
        let info = EncryptedPrivateKeyInfoRef::try_from(document.as_bytes());
        bounded(&info.map_err(|_| damaged())?)?;
        Ok(KeyFile::Encrypted(Encrypted(document)))
    }
}

fn damaged() -> anyhow::Error {
    anyhow::anyhow!("it is no encrypted private key in PKCS#8 PEM\nhelp: take its copy")
}

/// Refuses what would exhaust this machine before the first passphrase is tried.
fn bounded(info: &EncryptedPrivateKeyInfoRef<'_>) -> anyhow::Result<()> {
    let small = match info.encryption_algorithm.pbes2().map(|scheme| &scheme.kdf) {
        Some(Kdf::Scrypt(cost)) => {
            let block = 128 * u64::from(cost.block_size);
            cost.cost_parameter.checked_mul(block).is_some_and(|memory| memory <= MOST_MEMORY)
                && u64::from(cost.parallelization) <= MOST_ROUNDS
        }
        Some(Kdf::Pbkdf2(cost)) => cost.iteration_count <= MOST_ITERATIONS,
        Some(_) | None => false,
    };
    ensure!(
        small,
        "it is encrypted in a way that is unknown here, or far too costly to open\n\
         help: `openssl pkcs8 -topk8 -scrypt -in OLD -out NEW` encrypts it anew"
    );
    Ok(())
}

impl Encrypted {
    /// Opens it; `None` if the passphrase is another one.
    pub(crate) fn open(&self, passphrase: &str) -> anyhow::Result<Option<LocalKey>> {
        let info =
            EncryptedPrivateKeyInfoRef::try_from(self.0.as_bytes()).map_err(|_| damaged())?;
        let Ok(document) = info.decrypt(passphrase) else { return Ok(None) };
        // A wrong passphrase can leave a whole padding, one time in 256: then it is no key.
        if PrivateKeyInfoRef::try_from(document.as_bytes()).is_err() {
            return Ok(None);
        }
        let Ok(pem) = document.to_pem(PrivateKeyInfoRef::PEM_LABEL, LineEnding::LF) else {
            bail!(damaged())
        };
        Ok(Some(LocalKey::from_pem(&pem)?))
    }
}

/// The file of a key that a passphrase opens.
pub(crate) fn encrypt(key: &LocalKey, passphrase: &str) -> anyhow::Result<Zeroizing<String>> {
    let failed = |_| anyhow::anyhow!("the key could not be encrypted");
    let plain = key.to_pem()?;
    let (_, document) =
        SecretDocument::from_pem(&plain).map_err(|_| anyhow::anyhow!("no PEM was made"))?;
    let info = PrivateKeyInfoRef::try_from(document.as_bytes()).map_err(failed)?;
    let (mut salt, mut iv) = ([0; 16], [0; 16]);
    for random in [&mut salt, &mut iv] {
        getrandom::fill(random).context("the system gives no random bytes")?;
    }
    let cost = scrypt::Params::new(LOG_N, R, P).context("scrypt refuses its cost")?;
    let scheme = Parameters::generate_scrypt_aes256cbc(cost, &salt, iv)
        .map_err(|_| anyhow::anyhow!("scrypt refuses its cost"))?;
    let sealed = info.encrypt_with_params(scheme, passphrase).map_err(failed)?;
    sealed
        .to_pem(EncryptedPrivateKeyInfoRef::PEM_LABEL, LineEnding::LF)
        .map_err(|_| anyhow::anyhow!("the key could not be written as PEM"))
}

#[cfg(test)]
mod tests {
    use refit_proto::trust::Signer as _;

    use super::*;

    /// `openssl genpkey -algorithm ed25519 | openssl pkcs8 -topk8 -scrypt -passout pass:correct-horse`,
    /// OpenSSL 3.5.
    const OF_OPENSSL: &str = include_str!("testdata/openssl-scrypt.pem");
    /// Its raw public key.
    const OF_OPENSSL_PUBLIC: &str = include_str!("testdata/openssl-scrypt.public");
    /// As `refit key generate` wrote it before it could encrypt.
    const BEFORE: &str = include_str!("testdata/before-encryption.pem");
    const BEFORE_PUBLIC: &str = include_str!("testdata/before-encryption.pub.json");

    fn encrypted(text: &str) -> Encrypted {
        match KeyFile::parse(text.as_bytes()).unwrap() {
            KeyFile::Encrypted(encrypted) => encrypted,
            KeyFile::Plain(_) => panic!("it is not encrypted"),
        }
    }

    #[test]
    fn an_encrypted_key_opens_with_its_passphrase_alone() {
        let key = LocalKey::generate().unwrap();
        let file = encrypt(&key, "correct horse battery").unwrap();
        assert!(!file.contains("BEGIN PRIVATE KEY"));
        let sealed = encrypted(&file);
        let opened = sealed.open("correct horse battery").unwrap().unwrap();
        assert_eq!(opened.public(), key.public());
        for wrong in ["", "correct horse batter", "Correct horse battery", "correct horse battery "]
        {
            assert!(sealed.open(wrong).unwrap().is_none(), "{wrong:?}");
        }
        let again = encrypt(&key, "correct horse battery").unwrap();
        assert_ne!(*file, *again, "each file has its own salt");
    }

    #[test]
    fn a_key_that_openssl_encrypted_opens() {
        let key = encrypted(OF_OPENSSL).open("correct-horse").unwrap().unwrap();
        let json = String::from_utf8(key.public().to_json()).unwrap();
        assert!(json.contains(OF_OPENSSL_PUBLIC.trim()), "{json}");
    }

    #[test]
    fn a_key_of_the_version_before_still_signs() {
        let KeyFile::Plain(key) = KeyFile::parse(BEFORE.as_bytes()).unwrap() else {
            panic!("it is encrypted")
        };
        assert_eq!(key.public().to_json(), BEFORE_PUBLIC.as_bytes());
        let signature = key.sign(b"x").unwrap();
        assert!(key.public().verify(b"x", &signature));
    }

    #[test]
    fn what_is_no_key_file_or_too_costly_is_refused() {
        for bad in ["", "x", "-----BEGIN ENCRYPTED PRIVATE KEY-----", &OF_OPENSSL[..120]] {
            assert!(KeyFile::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(KeyFile::parse(&[0xff; 10]).is_err());
        // N = 2^23 with r = 8 asks for 8 GiB.
        let key = LocalKey::from_seed(&[1; 32]);
        let (_, plain) = SecretDocument::from_pem(&key.to_pem().unwrap()).unwrap();
        let plain = PrivateKeyInfoRef::try_from(plain.as_bytes()).unwrap();
        let cheap = Parameters::generate_scrypt_aes256cbc(
            scrypt::Params::new(4, 8, 1).unwrap(),
            &[0; 16],
            [0; 16],
        )
        .unwrap();
        let file = |document: SecretDocument| {
            document.to_pem(EncryptedPrivateKeyInfoRef::PEM_LABEL, LineEnding::LF).unwrap()
        };
        let cheap = plain.encrypt_with_params(cheap, "x").unwrap();
        assert!(KeyFile::parse(file(cheap.clone()).as_bytes()).is_ok());
        let costly = Parameters::generate_scrypt_aes256cbc(
            scrypt::Params::new(23, 8, 1).unwrap(),
            &[0; 16],
            [0; 16],
        )
        .unwrap();
        let info = EncryptedPrivateKeyInfoRef {
            encryption_algorithm: costly.into(),
            encrypted_data: EncryptedPrivateKeyInfoRef::try_from(cheap.as_bytes())
                .unwrap()
                .encrypted_data,
        };
        let costly = SecretDocument::try_from(info).unwrap();
        let error = KeyFile::parse(file(costly).as_bytes()).err().unwrap().to_string();
        assert!(error.contains("too costly"), "{error}");
    }
}
