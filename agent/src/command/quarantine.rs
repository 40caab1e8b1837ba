//! `refit-agent quarantine lift`: a person on the host names a release that may be tried again.

use std::process::ExitCode;

use anyhow::{Result, bail};
use refit_agent::status;
use refit_proto::names::{Digest, Product};

use super::{
    Common,
    line::{Arg, Command, Does, Given},
    reach::{Reached, reach},
};

const PRODUCT: Arg = Arg::word("PRODUCT", "Of which product");
const DIGEST: Arg = Arg::word("DIGEST", "The release's digest, whole");

pub(super) const COMMAND: Command = Command {
    name: "quarantine",
    about: "Let a release that failed here be tried again",
    does: Does::OneOf(&[Command {
        name: "lift",
        about: "Let a release that failed here be tried again; `refit-agent status` shows its digest",
        args: &[PRODUCT, DIGEST],
        does: Does::This(lift),
        ..Command::NONE
    }]),
    ..Command::NONE
};

fn lift(given: &Given) -> Result<ExitCode> {
    let product: Product = given.must(&PRODUCT, given.parsed(&PRODUCT)?)?;
    let digest: Digest = given.must(&DIGEST, given.parsed(&DIGEST)?)?;
    let settings = Common::of(given)?.settings()?;
    let question = status::Question::LiftQuarantine { product: product.clone(), digest };
    let lifted = match reach(&settings, &question)? {
        Reached::Agent(answer) => {
            if let Some(error) = answer["error"].as_str() {
                bail!("{error}");
            }
            answer["lifted"] == true
        }
        Reached::Folder(offline) => status::lift(&offline.journal(), &product, &digest)?,
    };
    if !lifted {
        bail!(
            "release {digest} of {product} is not in quarantine here\n\
             help: `refit-agent status` shows what is"
        );
    }
    println!("release {digest} of {product} may be tried again when the server offers it");
    Ok(ExitCode::SUCCESS)
}
