//! `refit-agent quarantine lift`: a person on the host names a release that may be tried again.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Subcommand;
use refit_agent::{settings::Settings, status};
use refit_proto::names::{Digest, Product};

use super::{
    Common,
    reach::{Reached, reach},
};

/// Releases that failed on this host
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    act: Act,
}

#[derive(Subcommand)]
enum Act {
    /// Let a release that failed here be tried again; `refit-agent status` shows its digest
    Lift {
        /// Of which product
        product: Product,
        /// The release's digest, whole
        digest: Digest,
    },
}

pub(super) fn run(common: &Common, args: Args) -> Result<ExitCode> {
    let Act::Lift { product, digest } = args.act;
    let settings = Settings::load(&common.data, common.config.as_deref())?;
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
