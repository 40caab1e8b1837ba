//! `refit release promote`: the signed act that permits a release on a ring.

use anyhow::Context as _;
use refit_proto::{
    names::{Digest, Product, RingName, Version},
    package::Release,
    trust::{RingFile, Role, Standing, Terms, TrustedSet},
};

use super::list::document;
use crate::{
    Context,
    conflict::Situation,
    connect::Connection,
    output,
    publish::{Change, base, carry_out},
    signing, status, trust,
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
    /// What is current now did not prove itself on the ring, so it must not become the way back.
    over_unproven: bool,
}

pub(super) async fn run(
    context: &Context,
    connection: &Connection,
    args: Args,
) -> anyhow::Result<()> {
    let release = Role::Release(args.product.clone());
    let set = trust::newest(context, connection, &[release]).await?;
    let (release, digest) = document(connection, &set, &args.product, &args.label).await?;
    let mut wanted = Wanted { args: &args, release, digest, over_unproven: false };
    let set = base(context, connection, &wanted).await?;
    if wanted.is_promoted(&set) {
        return output::line(&format!("{} is promoted already", wanted.what("")));
    }
    if let Some(current) = wanted.unproven_current(&set, connection).await? {
        let ring = &args.ring;
        output::line(&format!("{current} did not prove itself on {ring}: it becomes no way back"))?;
        wanted.over_unproven = true;
    }
    let carried = carry_out(context, connection, &wanted, set).await?;
    carried.tell(&format!(
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

    /// Current already, and nothing new is said of it.
    fn is_promoted(&self, set: &TrustedSet) -> bool {
        let current = self.ring_file(set).and_then(|file| file.current.as_ref());
        current.is_some_and(|current| current.digest == self.digest)
            && !self.args.retry
            && self.args.floor.is_none()
    }

    /// The version that is current now, if its rollout has not come to a good end. Whether it has is
    /// the server's word; it only chooses between releases that were signed for this ring.
    async fn unproven_current(
        &self,
        set: &TrustedSet,
        connection: &Connection,
    ) -> anyhow::Result<Option<Version>> {
        let current = self.ring_file(set).and_then(|file| file.current.as_ref());
        let Some(current) = current.filter(|current| current.digest != self.digest) else {
            return Ok(None);
        };
        let status = status::fleet(connection, self.args.product.as_str()).await?;
        let rings = status.products.iter().flat_map(|product| &product.rings);
        let ring = rings.into_iter().find(|ring| ring.ring == self.args.ring.as_str());
        let proven = ring.and_then(|ring| ring.rollout.as_ref()).is_some_and(|rollout| {
            rollout.digest == current.digest.to_string() && rollout.state == "done"
        });
        Ok((!proven).then(|| current.version.clone()))
    }

    fn terms(&self) -> Terms {
        let retry = if self.args.retry { vec![self.digest] } else { Vec::new() };
        let min_release_counter = self.args.floor;
        Terms { retry, min_release_counter, ..Terms::new(Standing::Current) }
    }
}

impl Change for Wanted<'_> {
    fn role(&self) -> Role {
        Role::Ring(self.args.product.clone(), self.args.ring.clone())
    }

    fn also(&self) -> Vec<Role> {
        vec![Role::Release(self.args.product.clone())]
    }

    fn act(&self) -> String {
        self.what("promote")
    }

    fn file(&self, context: &Context, set: &TrustedSet, _: u32) -> anyhow::Result<Vec<u8>> {
        let releases = set
            .delegated(&Role::Release(self.args.product.clone()))
            .context("the product has no releases")?;
        let mut draft = signing::draft(context, set, self.role())?;
        let (version, counter) = (&self.release.version, self.release.counter);
        if self.over_unproven {
            draft.promote_over_unproven(releases, version, counter, self.terms())?;
        } else {
            draft.promote(releases, version, counter, self.terms())?;
        }
        signing::signed(context, set, &draft, &self.args.keys)
    }

    /// A ring is one decision: whatever it names, current, back or barrier, is ours as well.
    fn situation(&self, base: &TrustedSet, newest: &TrustedSet) -> Situation {
        let current = self.ring_file(newest).and_then(|file| file.current.as_ref());
        Situation {
            there: current.is_some_and(|current| {
                current.digest == self.digest && current.terms == self.terms()
            }),
            touched: self.ring_file(base) != self.ring_file(newest),
        }
    }
}
