//! `refit release promote`: the signed act that permits a release on a ring.

use anyhow::{Context as _, bail};
use refit_proto::{
    names::{Digest, Product, RingName, Version},
    package::Release,
    trust::{RingFile, Role, Standing, Terms, TrustedSet, edit::Draft},
    wire::MetadataFile,
};

use super::list::document;
use crate::{
    Context,
    connect::Connection,
    output,
    publish::{After, Pushed, Situation, after_conflict, push},
    signing,
    trust::{self, authority},
};

/// Options of `refit release promote`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Of which product.
    product: Product,
    /// Which release.
    #[arg(value_name = "VERSION")]
    label: Version,
    /// To which ring.
    #[arg(long = "to", value_name = "RING")]
    ring: RingName,
    /// A key of the ring; else those kept here.
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
    /// Let hosts try it again where it failed before.
    #[arg(long)]
    retry: bool,
    /// From now on, hosts that run this release take none with a smaller counter.
    #[arg(long, value_name = "COUNTER")]
    floor: Option<u64>,
}

/// What is promoted, and as what.
struct Wanted<'a> {
    args: &'a Args,
    release: Release,
    digest: Digest,
}

pub(super) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let connection = Connection::open(context).await?;
    let ring = Role::Ring(args.product.clone(), args.ring.clone());
    let roles = [Role::Release(args.product.clone()), ring.clone()];
    let mut set = trust::newest(context, &connection, &roles).await?;
    let (release, digest) = document(&connection, &set, &args.product, &args.label).await?;
    let wanted = Wanted { args: &args, release, digest };
    let act = wanted.what("promote");
    for round in 0.. {
        if wanted.is_promoted(&set) {
            return output::line(&format!("{} is promoted already", wanted.what("")));
        }
        let file = wanted.signed(context, &set, &ring)?;
        let files = vec![MetadataFile { role: ring.to_string(), file }];
        let Pushed::Conflict(told) = push(&connection, &act, files).await? else { break };
        let newest = trust::newest(context, &connection, &roles).await?;
        match wanted.after_conflict(&set, &newest, &ring, round)? {
            After::Nothing => break,
            After::SignAgain => output::line(&format!("{}; signing again on it", told.in_words()))?,
            After::Stop(why) => bail!("{}: {}", told.in_words(), why.in_words()),
        }
        set = newest;
    }
    let set = trust::newest(context, &connection, &roles).await?;
    if !wanted.is_current(&set) {
        bail!("the server took the promotion and does not show it\nhelp: give the command again");
    }
    output::line(&format!(
        "{}\nnext: refit rollout status {}",
        wanted.what("promoted"),
        args.product
    ))
}

impl Wanted<'_> {
    fn what(&self, act: &str) -> String {
        let Args { product, label, ring, .. } = self.args;
        format!("{act} {product} {label} to {ring}").trim_start().to_owned()
    }

    fn ring_file<'a>(&self, set: &'a TrustedSet) -> Option<&'a RingFile> {
        set.ring(&self.args.product, &self.args.ring)
    }

    fn is_current(&self, set: &TrustedSet) -> bool {
        let current = self.ring_file(set).and_then(|file| file.current.as_ref());
        current.is_some_and(|current| current.digest == self.digest)
    }

    /// Current already, and nothing new is said of it.
    fn is_promoted(&self, set: &TrustedSet) -> bool {
        self.is_current(set) && !self.args.retry && self.args.floor.is_none()
    }

    fn terms(&self) -> Terms {
        let retry = if self.args.retry { vec![self.digest] } else { Vec::new() };
        let min_release_counter = self.args.floor;
        Terms { retry, min_release_counter, ..Terms::new(Standing::Current) }
    }

    fn signed(&self, context: &Context, set: &TrustedSet, ring: &Role) -> anyhow::Result<Vec<u8>> {
        let (authority, held) = authority(set, ring)?;
        let releases = set
            .delegated(&Role::Release(self.args.product.clone()))
            .context("the product has no releases")?;
        let mut draft = match held {
            Some(held) => Draft::next(ring.clone(), held.bytes(), context.now)?,
            None => Draft::first(ring.clone(), context.now)?,
        };
        draft.promote(releases, &self.release.version, self.release.counter, self.terms())?;
        signing::show(&draft)?;
        let keys = signing::keys(context, ring, authority, &self.args.keys)?;
        signing::sign(&draft, &keys)
    }

    /// A ring is one decision: whatever it names, current, back or barrier, is ours as well.
    fn after_conflict(
        &self,
        base: &TrustedSet,
        newest: &TrustedSet,
        ring: &Role,
        round: u32,
    ) -> anyhow::Result<After> {
        let (authority, _) = authority(newest, ring)?;
        Ok(after_conflict(Situation {
            there: self.is_promoted(newest),
            touched: self.ring_file(base) != self.ring_file(newest),
            threshold: authority.threshold,
            round,
        }))
    }
}
