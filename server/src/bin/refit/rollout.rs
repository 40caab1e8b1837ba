//! `refit rollout`: where rollouts stand, and the brake. Stopping needs nobody's signature.

use anyhow::ensure;
use refit_proto::{
    names::{Product, RingName},
    wire::{FleetStatus, GetFleetRequest, RolloutReply, RolloutRequest},
};

use crate::{
    Context, confirm,
    connect::Connection,
    failure::refused,
    output,
    output::{Format, Output},
    status,
};

/// Options of `refit rollout`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Where the rollouts of one or all products stand.
    #[command(after_help = "Example:\n  refit rollout status payments --watch")]
    Status(Shown),
    /// Begin nothing new on a ring. No host begins later than one lease from now.
    #[command(after_help = "Example:\n  refit rollout pause payments pilot --reason 'errors rise'")]
    Pause(Change),
    /// Go on after a pause or a halt, with a fresh count of failures.
    #[command(
        after_help = "Example:\n  refit rollout resume payments pilot --reason 'was the network'"
    )]
    Resume(Change),
    /// Halt and take the ring's hosts to the release before.
    #[command(
        after_help = "Example:\n  refit rollout rollback payments pilot --reason 'orders are lost'"
    )]
    Rollback(Rollback),
}

#[derive(clap::Args)]
struct Shown {
    /// Only this product.
    product: Option<Product>,
    /// Show it again after every change, until interrupted.
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(clap::Args)]
struct Change {
    /// Of which product.
    product: Product,
    /// On which ring.
    ring: RingName,
    /// Why; it goes into the audit log.
    #[arg(long, default_value = "")]
    reason: String,
    #[command(flatten)]
    output: Output,
}

#[derive(clap::Args)]
struct Rollback {
    #[command(flatten)]
    change: Change,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

impl Change {
    fn request(&self) -> RolloutRequest {
        RolloutRequest {
            product: self.product.to_string(),
            ring: self.ring.to_string(),
            reason: self.reason.clone(),
        }
    }

    fn what(&self, act: &str) -> String {
        format!("{act} {} on {}", self.product, self.ring)
    }

    fn done(&self, reply: &RolloutReply) -> anyhow::Result<()> {
        self.output.print(reply, |reply| {
            format!("{} on {}: {} ({})", self.product, self.ring, reply.state, reply.rollout_id)
        })
    }
}

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let connection = Connection::open(context).await?;
    let mut admin = connection.admin();
    match args.verb {
        Verb::Status(shown) => show(&connection, shown).await,
        Verb::Pause(change) => {
            let reply = admin.pause_rollout(change.request()).await;
            change.done(reply.map_err(refused(change.what("pause")))?.get_ref())
        }
        Verb::Resume(change) => {
            let reply = admin.resume_rollout(change.request()).await;
            change.done(reply.map_err(refused(change.what("resume")))?.get_ref())
        }
        Verb::Rollback(Rollback { change, yes }) => {
            ensure!(
                !change.reason.is_empty(),
                "a rollback needs a reason\nhelp: add --reason TEXT"
            );
            confirm::ask_if_somebody_is_there(&format!("{}?", change.what("roll back")), yes)?;
            let reply = admin.rollback_rollout(change.request()).await;
            change.done(reply.map_err(refused(change.what("roll back")))?.get_ref())
        }
    }
}

async fn show(connection: &Connection, shown: Shown) -> anyhow::Result<()> {
    let product = shown.product.as_ref().map(ToString::to_string).unwrap_or_default();
    if !shown.watch {
        let fleet = status::fleet(connection, &product).await?;
        if let Some(named) = &shown.product {
            let known = fleet.products.iter().any(|found| found.product == named.as_str());
            ensure!(known, "there is no product {named}\nhelp: `refit status` shows all");
        }
        return shown.output.print(&fleet, in_words);
    }
    let request = GetFleetRequest { product };
    let stream = connection.status().watch_fleet(request).await;
    let mut stream = stream.map_err(refused("watch the fleet"))?.into_inner();
    while let Some(fleet) = stream.message().await.map_err(refused("watch the fleet"))? {
        match shown.output.format {
            Format::Table => {
                output::line(&format!("{}\n{}", output::moment(&fleet.at), in_words(&fleet)))?
            }
            Format::Json => output::line(&serde_json::to_string(&fleet)?)?,
        }
    }
    Ok(())
}

fn in_words(fleet: &FleetStatus) -> String {
    let products = fleet.products.iter();
    products.map(|product| format!("{}\n{}\n", product.product, status::rings(product))).collect()
}
