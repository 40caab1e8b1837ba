//! `refit trust`: the offline roles (root and targets), who may sign what, and the own copy of the
//! metadata by which everything that comes from a server is judged.

mod adopt;
mod ceremony;
mod change;
mod delegate;
mod drill;
mod give_back;
mod init;
mod merge;
mod open;
mod own;
mod paper;
mod push;
mod refresh;
mod renew;
mod restore;
mod rotate;
mod shift;
mod sign;
mod status;
mod verify;

use std::collections::BTreeMap;

use anyhow::ensure;
use refit_proto::trust::Role;

#[cfg(test)]
pub(crate) use self::push::all as push_all;
pub(crate) use self::{
    ceremony::{Proposed, is_missing_signatures, propose},
    own::{OwnCopy, own_root_digest},
    refresh::{authority, kept, load, load_everything, newest, refresh},
};
use crate::{Context, release};

/// Options of `refit trust`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Make the first root and the first targets, from keys made here.
    #[command(after_help = "Examples:
  refit trust init --root-key alice --targets-key alice --from-server
  refit trust init --root-key alice --root-key bob.pub.json --threshold root=2 \\
      --targets-key alice --server-keys server-keys.json")]
    Init(init::Args),
    /// Take the first root that somebody handed over, instead of making one.
    #[command(after_help = "Examples:
  refit trust adopt 1.root.json
  refit trust adopt 3f0a...   (the SHA-256 that `refit trust status` shows to whoever has it)")]
    Adopt(adopt::Args),
    /// Say whose keys sign the releases, rings and policy of a product.
    #[command(after_help = "Example:
  refit trust delegate --product payments --release-key build.pub.json \\
      --ring pilot=alice --ring early=alice --ring broad=alice,bob \\
      --threshold ring.payments.broad=2 --policy-key alice")]
    Delegate(delegate::Args),
    /// Sign a role's file again, as it is, before it expires.
    #[command(after_help = "Example:\n  refit trust renew targets")]
    Renew(renew::Args),
    /// Send what was made here and the server lacks.
    #[command(after_help = "Example:\n  refit trust push")]
    Push(push::Args),
    /// Sign a change that somebody proposed: it is shown in words first.
    #[command(after_help = "Examples:
  refit trust sign root-3.change          (needs no network)
  refit trust sign root                   (the open change on the server)
  refit trust sign root-3.change --yes 3f0a...")]
    Sign(sign::Args),
    /// Collect the signatures that came back, and say who is missing.
    #[command(after_help = "Examples:
  refit trust merge root-3.change root-3.1a2b3c4d5e6f.sig
  refit trust merge root root-3.1a2b3c4d5e6f.sig")]
    Merge(merge::Args),
    /// Changes that wait on the server for signatures.
    Change(change::Args),
    /// Other keys for a role, or for the server itself.
    #[command(after_help = "Examples:
  refit trust rotate root --remove bob --add dave.pub.json
  refit trust rotate release.payments --remove build --add build2.pub.json --compromised
  refit trust rotate freshness")]
    Rotate(rotate::Args),
    /// Give a server that was set up anew, after its disk was lost, what is kept here: under a new root that
    /// names its new keys.
    #[command(after_help = "Example, on the machine of whoever has the newest copy:
  refit login TOKEN --new-server
  refit trust restore                    (roots and targets)
  refit apply fleet.toml                 (policy, with the new authority under [servers])
  refit trust restore release-1.0 release-1.1   (releases with their content, then rings)")]
    Restore(restore::Args),
    /// Offer a release to nobody any more. Where it runs, it goes on running.
    #[command(after_help = "Example:\n  refit trust withdraw payments 2.4.0")]
    Withdraw(release::WithdrawArgs),
    /// Walk what is published, and what is made here, as a host would that knows the first root alone.
    #[command(after_help = "Example:\n  refit trust verify")]
    Verify(verify::Args),
    /// Rehearse lost and stolen keys in a folder of its own.
    #[command(after_help = "Example:\n  refit trust drill --keep")]
    Drill(drill::Args),
    /// Every role: version, expiry, keys, and what to do next.
    #[command(after_help = "Example:\n  refit trust status --output json")]
    Status(status::Args),
}

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    match args.verb {
        Verb::Init(args) => init::run(context, args).await,
        Verb::Adopt(args) => adopt::run(context, args).await,
        Verb::Delegate(args) => delegate::run(context, args).await,
        Verb::Renew(args) => renew::run(context, args).await,
        Verb::Push(args) => push::run(context, args).await,
        Verb::Sign(args) => sign::run(context, args).await,
        Verb::Merge(args) => merge::run(context, args).await,
        Verb::Change(args) => change::run(context, args).await,
        Verb::Rotate(args) => rotate::run(context, args).await,
        Verb::Restore(args) => restore::run(context, args).await,
        Verb::Withdraw(args) => release::withdraw(context, args).await,
        Verb::Verify(args) => verify::run(context, args).await,
        Verb::Drill(args) => drill::run(context, args),
        Verb::Status(args) => status::run(context, args).await,
    }
}

/// Thresholds that were given; a role without one has threshold 1.
#[derive(Debug, Default)]
struct Thresholds(BTreeMap<Role, u64>);

impl Thresholds {
    /// Collects what stood on the command line.
    fn new(given: &[(Role, u64)]) -> anyhow::Result<Thresholds> {
        let mut thresholds = BTreeMap::new();
        for (role, threshold) in given {
            let before = thresholds.insert(role.clone(), *threshold);
            ensure!(before.is_none(), "the threshold of {role} is given twice");
        }
        Ok(Thresholds(thresholds))
    }

    fn take(&mut self, role: &Role) -> u64 {
        self.0.remove(role).unwrap_or(1)
    }

    /// Refuses thresholds that were not for any role of this command.
    fn finish(self) -> anyhow::Result<()> {
        let left: Vec<_> = self.0.keys().map(ToString::to_string).collect();
        ensure!(
            left.is_empty(),
            "a threshold is given for {}, which this command does not touch",
            left.join(", ")
        );
        Ok(())
    }
}

/// `ROLE=N`.
fn threshold(text: &str) -> Result<(Role, u64), String> {
    let (role, number) = text.split_once('=').ok_or("write it as ROLE=N, for example root=2")?;
    let role = Role::parse(role).map_err(|e| e.to_string())?;
    let number = number.parse().map_err(|_| format!("{number:?} is not a number"))?;
    Ok((role, number))
}
