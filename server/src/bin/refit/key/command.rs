//! A signer that is a program of its own, in front of an HSM, a key service or a smart card:
//! docs/SIGNERS.md has the protocol. Its answer is held to the public half that was noted when the key was
//! added, before anything is made of it.

use std::{
    io::{Read as _, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use refit_proto::trust::PublicKey;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::secrets;

/// The version of the protocol.
const VERSION: u64 = 1;
/// No answer is longer.
const LONGEST: u64 = 64 * 1024;
/// Of what a signer says about itself, so much is shown.
const LONGEST_TEXT: usize = 500;

/// How to start the signer: `NAME.signer.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignerCommand {
    /// The program and its arguments; no shell sees them.
    pub(crate) command: Vec<String>,
    /// How long it may take, with the person who has to touch or type something.
    #[serde(default = "default_timeout")]
    pub(crate) timeout_seconds: u64,
}

pub(crate) fn default_timeout() -> u64 {
    120
}

/// Why a signer gave nothing that can be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignerError {
    #[error(
        "signer {program:?} can't be started: {cause}\nhelp: see that it is installed, or add the key anew with its path"
    )]
    NotStarted { program: String, cause: std::io::Error },
    #[error(
        "signer {program:?} has not answered within {seconds} s, and was ended\nhelp: see that its device is connected; `--timeout-seconds` of `refit key add` gives it longer"
    )]
    Late { program: String, seconds: u64 },
    #[error(
        "signer {program:?} answers without end; no answer is longer than {LONGEST} bytes\nhelp: it is not a signer of this protocol (docs/SIGNERS.md)"
    )]
    Endless { program: String },
    #[error("signer {program:?} failed: {status}\nhelp: it has said why above")]
    Failed { program: String, status: ExitStatus },
    #[error("signer {program:?} refuses: {text}")]
    Refused { program: String, text: String },
    #[error(
        "signer {program:?} does not answer as it should: {cause}\nhelp: it is not a signer of this protocol, or of another version of it (docs/SIGNERS.md)"
    )]
    Garbage { program: String, cause: String },
    #[error(
        "signer {program:?} has signed with key {found}, not with {wanted}\nhelp: another token is connected, or it was made anew: `refit key add` takes the new key"
    )]
    OtherKey { program: String, wanted: String, found: String },
    #[error(
        "the signature of signer {program:?} is none of what it was given\nhelp: it has to sign the bytes themselves (ed25519, not pre-hashed)"
    )]
    WrongSignature { program: String },
}

#[derive(Deserialize)]
struct Answer {
    version: u64,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    public: Option<String>,
    #[serde(default)]
    signature: Option<String>,
}

impl SignerCommand {
    /// The public half of the signer's key.
    pub(crate) fn public(&self) -> Result<PublicKey, SignerError> {
        let answer = self.ask(&json!({ "version": VERSION, "request": "public" }))?;
        self.key_in(&answer)
    }

    /// A signature that this key made of these bytes; verified.
    pub(crate) fn sign(&self, public: &PublicKey, message: &[u8]) -> Result<[u8; 64], SignerError> {
        let answer = self.ask(&json!({
            "version": VERSION,
            "request": "sign",
            "public": public.to_value()["keyval"]["public"],
            "message": STANDARD.encode(message),
        }))?;
        let found = self.key_in(&answer)?;
        if found != *public {
            let (wanted, found) = (public.id().short(), found.id().short());
            return Err(SignerError::OtherKey { program: self.program(), wanted, found });
        }
        let signature = answer.signature.as_deref().and_then(unhex);
        let signature: [u8; 64] =
            signature.ok_or_else(|| self.garbage("no signature of 64 bytes in hex"))?;
        if !public.verify(message, &signature) {
            return Err(SignerError::WrongSignature { program: self.program() });
        }
        Ok(signature)
    }

    /// What it is called in messages.
    pub(crate) fn program(&self) -> String {
        self.command.first().cloned().unwrap_or_default()
    }

    fn key_in(&self, answer: &Answer) -> Result<PublicKey, SignerError> {
        let bytes: Option<[u8; 32]> = answer.public.as_deref().and_then(unhex);
        let key = bytes.and_then(|bytes| PublicKey::ed25519(&bytes).ok());
        key.ok_or_else(|| self.garbage("no ed25519 public key of 32 bytes in hex"))
    }

    fn garbage(&self, cause: impl Into<String>) -> SignerError {
        SignerError::Garbage { program: self.program(), cause: cause.into() }
    }

    /// Starts it, gives it one line, and takes one line.
    fn ask(&self, request: &serde_json::Value) -> Result<Answer, SignerError> {
        let (answer, status) = self.run(format!("{request}\n").into_bytes())?;
        let parsed: Result<Answer, _> = serde_json::from_slice(&answer);
        if let Ok(Answer { error: Some(text), .. }) = &parsed {
            let text = printable(text);
            return Err(SignerError::Refused { program: self.program(), text });
        }
        if !status.success() {
            return Err(SignerError::Failed { program: self.program(), status });
        }
        let answer = parsed.map_err(|error| self.garbage(error.to_string()))?;
        if answer.version != VERSION {
            let cause = format!("its version is {}, ours is {VERSION}", answer.version);
            return Err(self.garbage(cause));
        }
        Ok(answer)
    }

    fn run(&self, request: Vec<u8>) -> Result<(Vec<u8>, ExitStatus), SignerError> {
        let until = Instant::now() + Duration::from_secs(self.timeout_seconds);
        let (mut child, stdin, stdout) = self.start()?;
        // Both on threads of their own: a program that neither reads nor writes blocks nobody. What it
        // did not read is no failure yet; its answer tells.
        thread::spawn(move || {
            let mut stdin = stdin;
            let _not_read = stdin.write_all(&request);
        });
        let (send, receive) = mpsc::channel();
        thread::spawn(move || {
            let mut answer = Vec::new();
            let read = stdout.take(LONGEST + 1).read_to_end(&mut answer);
            let _nobody_waits = send.send(read.map(|_| answer));
        });
        let answered = receive.recv_timeout(until.saturating_duration_since(Instant::now()));
        let answer = match answered {
            Ok(Ok(answer)) if answer.len() as u64 > LONGEST => {
                end(&mut child);
                return Err(SignerError::Endless { program: self.program() });
            }
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                end(&mut child);
                return Err(self.garbage(error.to_string()));
            }
            Err(_) => return Err(self.late(&mut child)),
        };
        match ended(&mut child, until) {
            Some(status) => Ok((answer, status)),
            None => Err(self.late(&mut child)),
        }
    }

    fn start(&self) -> Result<(Child, ChildStdin, ChildStdout), SignerError> {
        let not_started = |cause| SignerError::NotStarted { program: self.program(), cause };
        let mut command = Command::new(self.program());
        command.args(self.command.iter().skip(1));
        // What opens other keys is none of its business.
        command.env_remove(secrets::SIGNING_KEY).env_remove(secrets::PASSPHRASE_FILE);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(not_started)?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(stdin), Some(stdout)) => Ok((child, stdin, stdout)),
            _ => Err(not_started(std::io::Error::other("it has no pipes"))),
        }
    }

    fn late(&self, child: &mut Child) -> SignerError {
        end(child);
        SignerError::Late { program: self.program(), seconds: self.timeout_seconds }
    }
}

/// How it ended; `None` if it runs longer.
fn ended(child: &mut Child, until: Instant) -> Option<ExitStatus> {
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if Instant::now() >= until {
            return None;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn end(child: &mut Child) {
    // It may have ended by itself meanwhile.
    let _gone = child.kill();
    let _gone = child.wait();
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// What a program says, without what would move the cursor.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(LONGEST_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

    use refit_proto::trust::{LocalKey, Signer as _};

    use super::*;

    const MESSAGE: &[u8] = b"message";

    fn key() -> LocalKey {
        LocalKey::from_seed(&[7; 32])
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn public(key: &LocalKey) -> String {
        key.public().to_value()["keyval"]["public"].as_str().unwrap().to_owned()
    }

    /// A signer that is these lines of shell; it has read the request into `$request`.
    fn signer(folder: &Path, lines: &str) -> SignerCommand {
        let path = folder.join("signer");
        fs::write(&path, format!("#!/bin/sh\nread -r request\n{lines}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let command = vec!["/bin/sh".to_owned(), path.display().to_string()];
        SignerCommand { command, timeout_seconds: 30 }
    }

    fn answer(public: &str, signature: &[u8]) -> String {
        let signature = hex(signature);
        format!(r#"{{"version":1,"public":"{public}","signature":"{signature}","more":[]}}"#)
    }

    /// What is made of a signer that prints this.
    fn printed(text: &str) -> Result<[u8; 64], SignerError> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("answer"), text).unwrap();
        let cat = format!("cat '{}'", folder.path().join("answer").display());
        signer(folder.path(), &cat).sign(key().public(), MESSAGE)
    }

    #[test]
    fn a_signer_that_signs_what_it_was_given_is_taken_at_its_word() {
        let signature = key().sign(MESSAGE).unwrap();
        assert_eq!(printed(&answer(&public(&key()), &signature)).unwrap(), signature);
        let folder = tempfile::tempdir().unwrap();
        let request = folder.path().join("request");
        let asked = signer(
            folder.path(),
            &format!(
                "printf '%s' \"$request\" > '{}'; echo '{{\"version\":1,\"public\":\"{}\"}}'",
                request.display(),
                public(&key())
            ),
        );
        assert_eq!(asked.public().unwrap(), *key().public());
        assert_eq!(fs::read_to_string(&request).unwrap(), r#"{"request":"public","version":1}"#);
        assert!(asked.sign(key().public(), MESSAGE).is_err());
        let sent: serde_json::Value = serde_json::from_slice(&fs::read(&request).unwrap()).unwrap();
        assert_eq!(sent["request"], "sign");
        assert_eq!(sent["message"], "bWVzc2FnZQ==");
        assert_eq!(sent["public"], public(&key()).as_str());
    }

    #[test]
    fn a_signature_of_another_key_or_other_bytes_is_refused() {
        let other = LocalKey::from_seed(&[8; 32]);
        let signature = other.sign(MESSAGE).unwrap();
        let error = printed(&answer(&public(&other), &signature)).unwrap_err();
        assert!(matches!(error, SignerError::OtherKey { .. }), "{error}");
        // The right key's name on the other key's signature.
        let error = printed(&answer(&public(&key()), &signature)).unwrap_err();
        assert!(matches!(error, SignerError::WrongSignature { .. }), "{error}");
        let signature = key().sign(b"massage").unwrap();
        let error = printed(&answer(&public(&key()), &signature)).unwrap_err();
        assert!(matches!(error, SignerError::WrongSignature { .. }), "{error}");
    }

    #[test]
    fn an_answer_that_is_none_is_refused() {
        let signature = key().sign(MESSAGE).unwrap();
        let good = answer(&public(&key()), &signature);
        for bad in [
            String::new(),
            "{}".to_owned(),
            "null".to_owned(),
            "signed!".to_owned(),
            good[..good.len() - 1].to_owned(),
            format!("{good}{good}"),
            good.replace(r#""version":1"#, r#""version":2"#),
            good.replace(r#""signature""#, r#""sig""#),
            good.replace(r#""public""#, r#""key""#),
            answer(&public(&key()), &signature[..63]),
            answer(&public(&key())[..62], &signature),
            answer(&"zz".repeat(32), &signature),
        ] {
            let error = printed(&bad).unwrap_err();
            assert!(matches!(error, SignerError::Garbage { .. }), "{bad}: {error}");
            assert!(error.to_string().contains("help: "), "{error}");
        }
    }

    #[test]
    fn a_signer_that_refuses_or_fails_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let asked = |lines: &str| signer(folder.path(), lines).sign(key().public(), MESSAGE);
        let refuse = r#"printf '{"version":1,"error":"no \\u001b[2Jtoken"}'; exit 3"#;
        let error = asked(refuse).unwrap_err();
        assert!(
            matches!(&error, SignerError::Refused { text, .. } if text == "no [2Jtoken"),
            "{error}"
        );
        let error = asked("exit 3").unwrap_err();
        assert!(matches!(&error, SignerError::Failed { status, .. } if status.code() == Some(3)));
        // A good answer of a program that fails is none.
        let good = answer(&public(&key()), &key().sign(MESSAGE).unwrap());
        let error = asked(&format!("echo '{good}'; exit 1")).unwrap_err();
        assert!(matches!(error, SignerError::Failed { .. }), "{error}");
        let nowhere = SignerCommand {
            command: vec![folder.path().join("nowhere").display().to_string()],
            timeout_seconds: 30,
        };
        let error = nowhere.public().unwrap_err();
        assert!(matches!(error, SignerError::NotStarted { .. }), "{error}");
    }

    #[test]
    fn a_signer_that_hangs_or_never_stops_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let late = |lines: &str| {
            let signer = SignerCommand { timeout_seconds: 1, ..signer(folder.path(), lines) };
            signer.sign(key().public(), MESSAGE).unwrap_err()
        };
        let pid = folder.path().join("pid");
        let hangs = format!("echo $$ > '{}'; exec sleep 600", pid.display());
        let error = late(&hangs);
        assert!(matches!(error, SignerError::Late { seconds: 1, .. }), "{error}");
        let pid = fs::read_to_string(&pid).unwrap();
        assert!(!Path::new(&format!("/proc/{}", pid.trim())).exists(), "it still runs");
        // Its answer is there, and it does not end.
        let good = answer(&public(&key()), &key().sign(MESSAGE).unwrap());
        let error = late(&format!("echo '{good}'; exec >&-; exec sleep 600"));
        assert!(matches!(error, SignerError::Late { .. }), "{error}");
        let endless = signer(folder.path(), "exec cat /dev/zero");
        let error = endless.sign(key().public(), MESSAGE).unwrap_err();
        assert!(matches!(error, SignerError::Endless { .. }), "{error}");
    }

    #[test]
    fn a_message_that_the_signer_does_not_read_blocks_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let message = vec![b'x'; 5_000_000];
        let good = answer(&public(&key()), &key().sign(&message).unwrap());
        let path = folder.path().join("signer");
        fs::write(&path, format!("echo '{good}'\n")).unwrap();
        let command = vec!["/bin/sh".to_owned(), path.display().to_string()];
        let signer = SignerCommand { command, timeout_seconds: 30 };
        signer.sign(key().public(), &message).unwrap();
    }
}
