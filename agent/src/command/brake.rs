//! `refit-agent brake forgive`: a person on the host lets a product be tried again that failed here too often.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Subcommand;
use refit_agent::{settings::Settings, status};
use refit_proto::names::Product;

use super::{
    Common,
    reach::{Reached, reach},
};

/// The host's own brake
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    act: Act,
}

#[derive(Subcommand)]
enum Act {
    /// Let releases of a product come again that failed on this host too often; those in quarantine stay there
    Forgive {
        /// Which product
        product: Product,
    },
}

pub(super) fn run(common: &Common, args: Args) -> Result<ExitCode> {
    let Act::Forgive { product } = args.act;
    let settings = Settings::load(&common.data, common.config.as_deref())?;
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
