//! `refit trust merge`: collects signatures that came back, and says who is still missing.

use std::path::PathBuf;

use anyhow::Context as _;
use refit_proto::trust::change::{ChangeFile, SignatureLine};

use super::{
    ceremony::{self, Meant},
    open,
    paper::{self, Paper},
};
use crate::{Context, output};

/// Options of `refit trust merge`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The change, or the role whose open change on the server is meant.
    #[arg(value_name = "FILE|ROLE")]
    change: String,
    /// What came back: signatures, or copies of the change with signatures.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(super) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    match Meant::of(&args.change)? {
        Meant::File(path) => {
            let mut change = paper::change(&path)?;
            ceremony::judge(context, &change)?;
            collect(context, &mut change, &args.files)?;
            paper::write(&path, &change)?;
            let judged = ceremony::judge(context, &change)?;
            output::line(&judged.standing().join("\n"))?;
            if judged.is_complete() {
                ceremony::keep(context, &change)?;
                output::line(
                    "signed by everybody\nnext: refit trust verify, then refit trust push",
                )?;
            }
            Ok(())
        }
        Meant::Open(role) => {
            let connection = ceremony::connect(context).await?;
            let mut change = open::fetch(&connection, &role).await?;
            ceremony::judge(context, &change)?;
            let lines = collect(context, &mut change, &args.files)?;
            let signed = open::sign(&connection, &role, &lines).await?;
            let judged = ceremony::judge(context, &signed)?;
            output::line(&judged.standing().join("\n"))?;
            if judged.is_complete() {
                return open::publish(&connection, &signed).await;
            }
            Ok(())
        }
    }
}

/// Adds what the files hold; nothing is kept of it unless all of it is good.
fn collect(
    context: &Context,
    change: &mut ChangeFile,
    files: &[PathBuf],
) -> anyhow::Result<Vec<SignatureLine>> {
    let mut all = Vec::new();
    for path in files {
        let named = || path.display().to_string();
        match paper::read(path)? {
            Paper::Signatures(lines) => {
                for line in lines {
                    change.add(&line, context.now).with_context(named)?;
                    all.push(line);
                }
            }
            Paper::Change(other) => {
                change.join(&other, context.now).with_context(named)?;
                all.extend(other.lines(context.now)?);
            }
        }
    }
    Ok(all)
}
