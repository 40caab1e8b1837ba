//! An example of a signer (docs/SIGNERS.md): an ed25519 key in anything that has a PKCS#11 module. It is
//! tested against SoftHSM, never shipped, and short enough to be changed for a device of one's own.

use std::{
    io::{self, BufRead as _, Read as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::Parser;
use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    mechanism::{
        Mechanism,
        eddsa::{EddsaParams, EddsaSignatureScheme},
    },
    object::{Attribute, AttributeType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    types::AuthPin,
};
use serde_json::{Value, json};

/// A signer for `refit key add`: an ed25519 key behind a PKCS#11 module.
#[derive(Parser)]
struct Arguments {
    /// The module of the device, as its vendor delivers it.
    #[arg(long, value_name = "FILE")]
    module: PathBuf,
    /// The label of the token.
    #[arg(long)]
    token: String,
    /// The label of the key.
    #[arg(long)]
    key: String,
    /// A file with the PIN in one line; else it is asked on the terminal.
    #[arg(long, value_name = "FILE")]
    pin_file: Option<PathBuf>,
}

/// No request is longer: the largest file of metadata, in base64.
const LONGEST: u64 = 16 << 20;

fn main() -> ExitCode {
    let answer = answer(&Arguments::parse());
    let failed = answer.is_err();
    let answer =
        answer.unwrap_or_else(|error| json!({ "version": 1, "error": format!("{error:#}") }));
    println!("{answer}");
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn answer(arguments: &Arguments) -> Result<Value> {
    let mut line = String::new();
    io::stdin().lock().take(LONGEST).read_line(&mut line).context("cannot read the request")?;
    let request: Value = serde_json::from_str(&line).context("the request is no JSON")?;
    ensure!(request["version"] == 1, "only version 1 of the protocol is spoken here");
    match request["request"].as_str() {
        Some("public") => {
            let public = Token::open(arguments)?.public()?;
            Ok(json!({ "version": 1, "public": hex(&public) }))
        }
        Some("sign") => {
            let message = STANDARD
                .decode(request["message"].as_str().context("there is no message")?)
                .context("the message is not base64")?;
            let token = Token::open(arguments)?;
            let public = hex(&token.public()?);
            let wanted = request["public"].as_str().unwrap_or(&public);
            ensure!(
                wanted == public,
                "key {:?} of this token is not the one that is wanted",
                arguments.key
            );
            Ok(json!({ "version": 1, "public": public, "signature": hex(&token.sign(&message)?) }))
        }
        other => bail!("request {other:?} is not known here"),
    }
}

/// A token that is logged in to.
struct Token {
    session: Session,
    key: String,
}

impl Token {
    fn open(arguments: &Arguments) -> Result<Token> {
        let module = Pkcs11::new(&arguments.module)
            .with_context(|| format!("cannot load {}", arguments.module.display()))?;
        module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
        let slots = module.get_slots_with_initialized_token().context("cannot list the tokens")?;
        let slot = slots.into_iter().find(|slot| {
            module.get_token_info(*slot).is_ok_and(|token| token.label() == arguments.token)
        });
        let slot = slot.with_context(|| format!("no token is called {:?}", arguments.token))?;
        let session = module.open_ro_session(slot).context("cannot open the token")?;
        let pin = AuthPin::new(pin(arguments)?.into());
        session.login(UserType::User, Some(&pin)).context("cannot log in to the token")?;
        Ok(Token { session, key: arguments.key.clone() })
    }

    fn object(&self, class: ObjectClass) -> Result<ObjectHandle> {
        let label = Attribute::Label(self.key.clone().into_bytes());
        let found = self.session.find_objects(&[Attribute::Class(class), label])?;
        match found.as_slice() {
            [one] => Ok(*one),
            _ => bail!("{} objects of the token are called {:?}, not one", found.len(), self.key),
        }
    }

    /// Some devices wrap the 32 bytes as an OCTET STRING, as PKCS#11 2.40 has it, some don't, as 3.0 has it.
    fn public(&self) -> Result<Vec<u8>> {
        let object = self.object(ObjectClass::PUBLIC_KEY)?;
        let found = self.session.get_attributes(object, &[AttributeType::EcPoint])?;
        match found.as_slice() {
            [Attribute::EcPoint(point)] => match point.as_slice() {
                [0x04, 0x20, bytes @ ..] if bytes.len() == 32 => Ok(bytes.to_vec()),
                bytes if bytes.len() == 32 => Ok(bytes.to_vec()),
                _ => bail!("key {:?} is no ed25519 key", self.key),
            },
            _ => bail!("key {:?} has no point", self.key),
        }
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        let mechanism = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519));
        let key = self.object(ObjectClass::PRIVATE_KEY)?;
        self.session.sign(&mechanism, key, message).context("the token does not sign")
    }
}

fn pin(arguments: &Arguments) -> Result<String> {
    match &arguments.pin_file {
        Some(file) => {
            let text = std::fs::read_to_string(file);
            let text = text.with_context(|| format!("cannot read {}", file.display()))?;
            Ok(text.trim_end().to_owned())
        }
        None => {
            let question = format!("PIN of token {}: ", arguments.token);
            rpassword::prompt_password(question).context("nobody is here to type the PIN")
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
