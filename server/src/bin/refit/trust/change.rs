//! `refit trust change`: the changes that wait on the server for signatures.

use std::path::PathBuf;

use refit_proto::{trust::Role, wire::ChangeStatus};

use super::{ceremony, open, paper};
use crate::{Context, connect::Connection, output, output::Output, status};

/// Options of `refit trust change`.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// The open changes, with who proposed them and who is missing.
    #[command(after_help = "Example:\n  refit trust change list")]
    List(Output),
    /// What an open change does, in words.
    #[command(after_help = "Example:\n  refit trust change show root")]
    Show {
        /// The role whose open change is meant.
        #[arg(value_parser = Role::parse)]
        role: Role,
    },
    /// Write an open change to a file, for a machine without network.
    #[command(after_help = "Example:\n  refit trust change fetch root --out root.change")]
    Fetch {
        /// The role whose open change is meant.
        #[arg(value_parser = Role::parse)]
        role: Role,
        /// Where to. [default: ROLE-VERSION.change]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Publish a change that everybody has signed.
    #[command(after_help = "Example:\n  refit trust change publish ring.payments.broad")]
    Publish {
        /// The role whose open change is meant.
        #[arg(value_parser = Role::parse)]
        role: Role,
    },
    /// Take an open change back: whoever proposed it, or an administrator.
    #[command(after_help = "Example:\n  refit trust change withdraw root --reason 'the wrong key'")]
    Withdraw {
        /// The role whose open change is meant.
        #[arg(value_parser = Role::parse)]
        role: Role,
        /// Why, for the audit log.
        #[arg(long, default_value = "")]
        reason: String,
    },
}

pub(super) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let connection = Connection::open(context).await?;
    match args.verb {
        Verb::List(output) => {
            let changes = status::fleet(&connection, "").await?.changes;
            output.print(&changes, |changes| table(changes))
        }
        Verb::Show { role } => {
            let change = open::fetch(&connection, &role).await?;
            ceremony::show(context, &change, &ceremony::judge(context, &change)?)
        }
        Verb::Fetch { role, out } => {
            let change = open::fetch(&connection, &role).await?;
            let judged = ceremony::judge(context, &change)?;
            let version = judged.steps.first().map_or(0, |step| step.version);
            let path = out.unwrap_or_else(|| paper::name(&change, version));
            paper::write(&path, &change)?;
            output::line(&format!(
                "wrote {path}\nnext: `refit trust sign {path}` there, and \
                 `refit trust merge {role} SIGNATURES` here",
                path = path.display()
            ))
        }
        Verb::Publish { role } => {
            let change = open::fetch(&connection, &role).await?;
            let judged = ceremony::judge(context, &change)?;
            anyhow::ensure!(
                judged.is_complete(),
                "signatures are missing: {}\nhelp: `refit trust sign {role}`",
                judged.standing().join("; ")
            );
            open::publish(&connection, &change).await
        }
        Verb::Withdraw { role, reason } => {
            let change = open::withdraw(&connection, &role, &reason).await?;
            output::line(&format!("withdrew the change of {role} that {} proposed", change.owner))
        }
    }
}

/// One line for each open change.
pub(super) fn table(changes: &[ChangeStatus]) -> String {
    if changes.is_empty() {
        return "no change waits for signatures".to_owned();
    }
    output::table(
        ["change of", "version", "by", "since", "until", "missing", "waits for"],
        changes.iter().map(|change| {
            [
                change.roles.join(" "),
                change.version.to_string(),
                change.owner.clone(),
                output::moment(&change.opened),
                output::moment(&change.lapses),
                change.signatures_missing.to_string(),
                change.missing.join(" or "),
            ]
        }),
    )
}
