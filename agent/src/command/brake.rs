//! `refit-agent brake forgive`: a person on the host lets a product be tried again that failed here too often.

use std::process::ExitCode;

use anyhow::{Result, bail};
use refit_agent::status;
use refit_proto::names::Product;

use super::{
    Common,
    line::{Arg, Command, Does, Given},
    reach::{Reached, reach},
};

const PRODUCT: Arg = Arg::word("PRODUCT", "Which product");

pub(super) const COMMAND: Command = Command {
    name: "brake",
    about: "Let a product be tried again that failed on this host too often",
    does: Does::OneOf(&[Command {
        name: "forgive",
        about: "Let releases of a product come again that failed on this host too often; those in quarantine \
                stay there",
        args: &[PRODUCT],
        does: Does::This(forgive),
        ..Command::NONE
    }]),
    ..Command::NONE
};

fn forgive(given: &Given) -> Result<ExitCode> {
    let product: Product = given.must(&PRODUCT, given.parsed(&PRODUCT)?)?;
    let settings = Common::of(given)?.settings()?;
    let question = status::Question::Forgive { product: product.clone() };
    let forgiven = match reach(&settings, &question)? {
        Reached::Agent(answer) => {
            if let Some(error) = answer["error"].as_str() {
                bail!("{error}");
            }
            answer["forgiven"] == true
        }
        Reached::Folder(offline) => offline.journal().forgive(&product)?,
    };
    if !forgiven {
        bail!(
            "no failure of {product} counts on this host\n\
             help: `refit-agent status` shows what holds it"
        );
    }
    println!("the failures of {product} on this host count no more; new releases may come");
    Ok(ExitCode::SUCCESS)
}
