//! `refit trust sign`: shows in words what a change does, asks, and signs it. For a change that was handed
//! over it needs no network: out comes one short line of text.

use refit_proto::names::Digest;

use super::{
    ceremony::{self, Meant},
    open, paper,
};
use crate::{Context, confirm, output};

/// Options of `refit trust sign`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// A change that was handed over, or the role whose open change on the server is meant.
    #[arg(value_name = "FILE|ROLE")]
    change: String,
    /// A key to sign with; else those kept here that the change waits for.
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
    /// Do not ask: sign the change with this SHA-256, as it was shown before, and no other.
    #[arg(long, value_name = "SHA256", value_parser = Digest::parse)]
    yes: Option<Digest>,
}

pub(super) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    match Meant::of(&args.change)? {
        Meant::File(path) => {
            let mut change = paper::change(&path)?;
            for (key, lines) in ask_and_sign(context, &args, &mut change)? {
                let written = paper::write_signatures(&path, key, &lines)?;
                output::line(&format!(
                    "wrote {}\nnext: hand it to whoever collects them: `refit trust merge {} {}`",
                    written.display(),
                    path.display(),
                    written.display()
                ))?;
            }
            Ok(())
        }
        Meant::Open(role) => {
            let connection = ceremony::connect(context).await?;
            let mut change = open::fetch(&connection, &role).await?;
            let lines = ask_and_sign(context, &args, &mut change)?;
            let lines: Vec<_> = lines.into_iter().flat_map(|(_, lines)| lines).collect();
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

type Signed = Vec<(refit_proto::trust::KeyId, Vec<refit_proto::trust::change::SignatureLine>)>;

fn ask_and_sign(
    context: &Context,
    args: &Args,
    change: &mut refit_proto::trust::change::ChangeFile,
) -> anyhow::Result<Signed> {
    let judged = ceremony::judge(context, change)?;
    ceremony::show(context, change, &judged)?;
    let keys = ceremony::keys(context, change, &judged, &args.keys)?;
    anyhow::ensure!(
        !keys.is_empty(),
        "no key that this change waits for is kept here\n\
         help: name a key with --key; the change shows for whom it waits"
    );
    if let Some(meant) = args.yes {
        anyhow::ensure!(
            meant == judged.id,
            "this change has the SHA-256 {}, not {meant}; nothing was signed\n\
             help: read what it does, and name its SHA-256 if you agree",
            judged.id
        );
    }
    confirm::ask("sign this?", args.yes.is_some())?;
    ceremony::sign(context, change, &keys)
}
