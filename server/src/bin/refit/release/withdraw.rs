//! `refit release withdraw`: takes a release out of the release role's file. Where it runs it is neither
//! stopped nor removed; it is offered to nobody any more, and its version is never used again.

use anyhow::Context as _;
use refit_proto::{
    names::{Product, Version},
    trust::{Role, TrustedSet, promotion},
};

use crate::{
    Context, confirm,
    conflict::Situation,
    connect::Connection,
    publish::{Change, base, carry_out},
    signing,
};

/// Options of `refit release withdraw`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Of which product.
    product: Product,
    /// Which release.
    #[arg(value_name = "VERSION")]
    label: Version,
    /// A release key of the product; else those kept here.
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

pub(super) async fn run(
    context: &Context,
    connection: &Connection,
    args: Args,
) -> anyhow::Result<()> {
    let set = base(context, connection, &args).await?;
    let Args { product, label, .. } = &args;
    set.release(product, label).with_context(|| {
        format!(
            "{product} {label} is not published\nhelp: `refit release list {product}` shows what is"
        )
    })?;
    let question = format!("withdraw {product} {label}? No host gets it any more.");
    confirm::ask_if_somebody_is_there(&question, args.yes)?;
    let carried = carry_out(context, connection, &args, set).await?;
    carried.tell(&format!("withdrew {product} {label}"))
}

impl Change for Args {
    fn role(&self) -> Role {
        Role::Release(self.product.clone())
    }

    fn act(&self) -> String {
        format!("withdraw {} {}", self.product, self.label)
    }

    fn file(&self, context: &Context, set: &TrustedSet, _: u32) -> anyhow::Result<Vec<u8>> {
        let mut draft = signing::draft(context, set, self.role())?;
        draft.remove_release(&self.label)?;
        signing::signed(context, set, &draft, &self.keys)
    }

    fn situation(&self, base: &TrustedSet, newest: &TrustedSet) -> Situation {
        let path = promotion::release_path(&self.product, &self.label);
        let (before, now) = (base.target(&self.role(), &path), newest.target(&self.role(), &path));
        Situation { there: now.is_none(), touched: before != now }
    }
}
