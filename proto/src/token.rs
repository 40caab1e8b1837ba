//! The one-time token with which a host, person or CI job gets its first certificate. It is made on the
//! administrator's side and carries what must not be taken from the network: the labels, the hash of the
//! administrator's own root, and the certificate authority.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::names::{Digest, Labels, PersonName};

/// Says what the text is, and which format follows.
pub(crate) const PREFIX: &str = "refit1-";

/// Longer is not read: a token with 30 labels has about 3,000 characters.
const LONGEST: usize = 16_384;

/// An enrollment or login token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Names the token on the server; not secret.
    pub id: String,
    /// Proves the token; the server keeps its hash only. Hex.
    secret: String,
    /// Where the server is: `host:port`.
    pub server: String,
    /// The certificate authority, DER in base64url.
    ca: String,
    /// For whom it is.
    pub subject: Subject,
    /// Not valid from this moment on.
    pub expires: Timestamp,
}

/// For whom a token is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "for", rename_all = "kebab-case")]
pub enum Subject {
    /// A host.
    Host {
        /// The host's labels; the server cannot give it others.
        labels: Labels,
        /// SHA-256 of the administrator's own copy of `1.root.json`: the host's first trust.
        root: Digest,
    },
    /// A person.
    Person {
        /// As the audit log will name them.
        name: PersonName,
    },
    /// A CI job.
    Ci {
        /// As the audit log will name it.
        name: PersonName,
    },
}

/// Why a text is not a token.
#[derive(Debug, thiserror::Error)]
#[error(
    "this is not a Refit token: {problem}\n\
     help: copy it whole, from `refit1-` to its end; `refit token create` makes a new one"
)]
pub struct TokenError {
    problem: &'static str,
}

impl Token {
    /// A new token with a random id and secret.
    ///
    /// # Errors
    /// If the operating system gives no random bytes.
    pub fn new(
        subject: Subject,
        server: String,
        ca_der: &[u8],
        expires: Timestamp,
    ) -> Result<Token, getrandom::Error> {
        let mut random = [0; 48];
        getrandom::fill(&mut random)?;
        Ok(Token {
            id: hex(&random[..16]),
            secret: hex(&random[16..]),
            server,
            ca: URL_SAFE_NO_PAD.encode(ca_der),
            subject,
            expires,
        })
    }

    /// Reads a token as a person pasted it: blanks and line breaks around and inside are left out.
    ///
    /// # Errors
    /// A text that is not a token, or not a whole one.
    pub fn parse(text: &str) -> Result<Token, TokenError> {
        let problem = |problem| TokenError { problem };
        if text.len() > LONGEST {
            return Err(problem("it is too long"));
        }
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let body =
            text.strip_prefix(PREFIX).ok_or_else(|| problem("it does not begin with refit1-"))?;
        let (body, check) = body.rsplit_once('.').ok_or_else(|| problem("its end is missing"))?;
        if check != checksum(body) {
            return Err(problem("a part of it is missing or changed"));
        }
        let json = URL_SAFE_NO_PAD.decode(body).map_err(|_| problem("it is damaged"))?;
        let token: Token = serde_json::from_slice(&json)
            .map_err(|_| problem("it was made by another version of refit"))?;
        if token.ca_der().is_empty() {
            return Err(problem("it names no certificate authority"));
        }
        Ok(token)
    }

    /// The token as people hand it on.
    pub fn to_text(&self) -> String {
        // Map keys are strings: this cannot fail.
        let body = URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default());
        let check = checksum(&body);
        format!("{PREFIX}{body}.{check}")
    }

    /// The certificate authority's certificate, DER. Empty if the token does not hold one.
    pub fn ca_der(&self) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(&self.ca).unwrap_or_default()
    }

    /// What proves the token to the server.
    pub fn secret(&self) -> &[u8] {
        self.secret.as_bytes()
    }

    /// What the server keeps of the secret.
    pub fn secret_sha256(&self) -> Digest {
        Digest::of(self.secret())
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("id", &self.id).field("subject", &self.subject).finish()
    }
}

/// Tells a mangled paste from a wrong token; protects nothing.
pub(crate) fn checksum(body: &str) -> String {
    Digest::of(body.as_bytes()).to_string()[..8].to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        let subject = Subject::Host {
            labels: [("region".parse().unwrap(), "eu".parse().unwrap())].into(),
            root: Digest::of(b"root"),
        };
        Token::new(
            subject,
            "refit.example:7700".into(),
            b"ca",
            "2030-01-01T00:00:00Z".parse().unwrap(),
        )
        .unwrap()
    }

    #[test]
    fn a_token_survives_being_pasted_with_line_breaks() {
        let token = token();
        let mut text = token.to_text();
        text.insert_str(40, "\n   ");
        assert_eq!(Token::parse(&format!("  {text}\n")).unwrap(), token);
        assert_eq!(token.ca_der(), b"ca");
    }

    #[test]
    fn a_token_that_lost_or_changed_a_character_is_noticed() {
        let text = token().to_text();
        for at in 0..text.len() {
            assert!(Token::parse(&text[..at]).is_err(), "cut at {at}");
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert!(Token::parse(&String::from_utf8(changed).unwrap()).is_err(), "changed at {at}");
        }
    }

    #[test]
    fn a_token_never_shows_its_secret_in_a_log() {
        let token = token();
        assert!(!format!("{token:?}").contains(std::str::from_utf8(token.secret()).unwrap()));
    }
}
