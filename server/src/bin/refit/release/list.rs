//! `refit release list`: what the release keys signed, verified from the own root. Who
//! published it, and when, is the server's word and shown as such.

use refit_proto::{
    names::{Digest, Product, Version},
    trust::{Role, TrustedSet},
    wire::ReleaseStatus,
};
use serde::Serialize;

use crate::{
    Context, connect::Connection, output, output::Output, status, trust, trust::authority,
};

/// Options of `refit release list`.
#[derive(clap::Args)]
pub(super) struct List {
    /// Only this product.
    product: Option<Product>,
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
