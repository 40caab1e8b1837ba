//! `refit release list` and `show`: what the release keys signed, verified from the own root. Who
//! published it, and when, is the server's word and shown as such.

use anyhow::{Context as _, ensure};
use refit_proto::{
    names::{Digest, Product, Version},
    package::Release,
    trust::{Role, TrustedSet},
    wire::ReleaseStatus,
};
use serde::Serialize;

use crate::{
    Context, connect::Connection, content, output, output::Output, status, trust, trust::authority,
};

/// Options of `refit release list`.
#[derive(clap::Args)]
pub(super) struct List {
    /// Only this product.
    product: Option<Product>,
    #[command(flatten)]
    output: Output,
}

/// Options of `refit release show`.
#[derive(clap::Args)]
pub(super) struct Show {
    /// Of which product.
    product: Product,
    /// Which one.
    #[arg(value_name = "VERSION")]
    label: Version,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Serialize)]
struct Row {
    product: Product,
    version: Version,
    digest: Digest,
    counter: Option<u64>,
    published_by: String,
    published_at: String,
}

pub(super) async fn list(
    context: &Context,
    connection: &Connection,
    args: List,
) -> anyhow::Result<()> {
    let (set, products) = match &args.product {
        Some(product) => {
            let role = Role::Release(product.clone());
            let set = trust::newest(context, connection, std::slice::from_ref(&role)).await?;
            authority(&set, &role)?;
            (set, vec![product.clone()])
        }
        None => every_product(context, connection).await?,
    };
    let named = args.product.as_ref().map(ToString::to_string).unwrap_or_default();
    let told = status::fleet(connection, &named).await?.products;
    let mut rows = Vec::new();
    for product in &products {
        let told = told.iter().filter(|found| found.product == product.as_str());
        let told: Vec<&ReleaseStatus> = told.flat_map(|found| &found.releases).collect();
        let signed = set.releases(product);
        let mut mine: Vec<Row> = signed
            .filter_map(|(version, file)| Some(row(product, version, file.digest()?, &told)))
            .collect();
        mine.sort_by_key(|row| std::cmp::Reverse(row.counter));
        rows.extend(mine);
    }
    args.output.print(&rows, |rows| {
        output::table(
            ["product", "version", "counter", "digest", "published by", "at"],
            rows.iter().map(|row| {
                [
                    row.product.to_string(),
                    row.version.to_string(),
                    row.counter.map(|counter| counter.to_string()).unwrap_or_default(),
                    row.digest.short(),
                    row.published_by.clone(),
                    output::moment(&row.published_at),
                ]
            }),
        )
    })
}

/// Every product that the targets role has given release keys, by name.
async fn every_product(
    context: &Context,
    connection: &Connection,
) -> anyhow::Result<(TrustedSet, Vec<Product>)> {
    let set = trust::newest(context, connection, &[]).await?;
    let delegations = set.targets().delegations.iter();
    let mut products: Vec<Product> = delegations
        .filter_map(|one| match &one.role {
            Role::Release(product) => Some(product.clone()),
            Role::Root
            | Role::Targets
            | Role::Snapshot
            | Role::Timestamp
            | Role::Policy
            | Role::Ring(..)
            | Role::Other(_) => None,
        })
        .collect();
    products.sort();
    let roles: Vec<Role> = products.iter().cloned().map(Role::Release).collect();
    let set = trust::newest(context, connection, &roles).await?;
    for role in &roles {
        authority(&set, role)?;
    }
    Ok((set, products))
}

fn row(product: &Product, version: Version, digest: Digest, told: &[&ReleaseStatus]) -> Row {
    let told = told.iter().find(|one| one.digest == digest.to_string());
    Row {
        product: product.clone(),
        version,
        digest,
        counter: told.map(|one| one.counter),
        published_by: told.map(|one| one.published_by.clone()).unwrap_or_default(),
        published_at: told.map(|one| one.published_at.clone()).unwrap_or_default(),
    }
}

pub(super) async fn show(
    context: &Context,
    connection: &Connection,
    args: Show,
) -> anyhow::Result<()> {
    let role = Role::Release(args.product.clone());
    let set = trust::newest(context, connection, &[role]).await?;
    let (release, digest) = document(connection, &set, &args.product, &args.label).await?;
    args.output.print(&release, |release| in_words(release, &digest))
}

/// The release document, if it is the one that the release keys signed.
pub(super) async fn document(
    connection: &Connection,
    set: &TrustedSet,
    product: &Product,
    version: &Version,
) -> anyhow::Result<(Release, Digest)> {
    authority(set, &Role::Release(product.clone()))?;
    let file = set.release(product, version).with_context(|| {
        format!(
            "{product} {version} is not published\n\
             help: `refit release list {product}` shows what is"
        )
    })?;
    let digest = file.digest().context("the release is signed without a SHA-256")?;
    let bytes = content::fetch(connection, digest, file.length, Release::MAX_LENGTH).await?;
    ensure!(file.fits(&bytes), "the server sent other bytes than were signed");
    let release = Release::parse(&bytes)?;
    ensure!(
        release.product == *product && release.version == *version,
        "the document of {product} {version} says that it is {} {}",
        release.product,
        release.version
    );
    Ok((release, digest))
}

fn in_words(release: &Release, digest: &Digest) -> String {
    let plan = &release.plan;
    let mut lines = vec![
        format!("{} {} (counter {})", release.product, release.version, release.counter),
        format!("digest    {digest}"),
    ];
    for (what, text) in [("goal    ", &plan.goal), ("owner   ", &plan.owner)] {
        if !text.is_empty() {
            lines.push(format!("{what}  {text}"));
        }
    }
    lines.extend(release.links.iter().map(|link| format!("link      {link}")));
    for (platform, packages) in &release.platforms {
        for package in packages {
            lines.push(format!(
                "package   {} on {platform}, manifest {}",
                package.name,
                package.manifest.sha256.short()
            ));
        }
    }
    if !release.notes.is_empty() {
        lines.push(format!("\n{}", release.notes.trim_end()));
    }
    lines.join("\n")
}
