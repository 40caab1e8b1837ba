//! `refit release check`: whether a built release is whole, and whether it says of itself what the policy of
//! its product asks for: before it is signed, since a release never changes.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use refit_proto::{
    names::{Digest, Product, Version},
    package::{FileRef, PlanField, PlanRules, Release, Urgency, WayBack},
    printable::printable,
};
use serde::Serialize;

use super::folder::ReleaseFolder;
use crate::{apply, connect::Connection, output::Output};

/// Options of `refit release check`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The folder of a built release.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Take the rules from this fleet file, and ask no server: for a build that has none.
    #[arg(long, value_name = "FILE")]
    pub(super) fleet: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// A release and what it lacks.
#[derive(Debug, Serialize)]
struct Found {
    product: Product,
    version: Version,
    digest: Digest,
    urgency: Urgency,
    way_back: WayBack,
    /// Every part of the plan, in order.
    plan: Vec<Part>,
    /// What is asked for and not said.
    missing: Vec<PlanField>,
}

/// One part of the plan.
#[derive(Debug, Serialize)]
struct Part {
    field: PlanField,
    said: Option<String>,
    /// Whether the policy asks for it.
    asked: bool,
}

/// By the server's policy.
pub(super) async fn run(connection: &Connection, args: Args) -> anyhow::Result<()> {
    let release = read(&args.folder)?;
    let rules = apply::plan_rules(connection, &release.product).await?;
    tell(&release, &rules, args.output)
}

/// By the policy in a file.
pub(super) fn offline(args: &Args) -> anyhow::Result<()> {
    let release = read(&args.folder)?;
    let fleet = args.fleet.as_deref().context("a fleet file is needed")?;
    let rules = apply::plan_rules_of_file(fleet, &release.product)?;
    tell(&release, &rules, args.output)
}

fn read(folder: &Path) -> anyhow::Result<Release> {
    Ok(ReleaseFolder::at(folder)
        .check()
        .with_context(|| format!("{} is not a whole release", folder.display()))?
        .release)
}

fn tell(release: &Release, rules: &PlanRules, output: Output) -> anyhow::Result<()> {
    let found = found(release, rules);
    output.print(&found, in_words)?;
    let missing: Vec<&str> = found.missing.iter().map(|field| field.as_str()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "the change plan of {} {} lacks {}, which the policy of {} asks of {} releases\n\
         help: a release never changes: say it in refit.toml and build another version",
        release.product,
        release.version,
        missing.join(", "),
        release.product,
        release.plan.urgency.as_str()
    )
}

fn found(release: &Release, rules: &PlanRules) -> Found {
    let asked: Vec<PlanField> = rules.asked(release.plan.urgency).collect();
    let part =
        |field: PlanField| Part { field, said: field.said(release), asked: asked.contains(&field) };
    Found {
        product: release.product.clone(),
        version: release.version.clone(),
        digest: FileRef::to(&release.to_bytes()).sha256,
        urgency: release.plan.urgency,
        way_back: release.plan.way_back,
        plan: PlanField::ALL.map(part).into(),
        missing: rules.missing(release),
    }
}

fn in_words(found: &Found) -> String {
    let mut lines = vec![
        format!("{} {}, digest {}", found.product, found.version, found.digest),
        format!("  {:<10} {}", "urgency", found.urgency.as_str()),
        format!("  {:<10} {}", "way back", way_back(found.way_back)),
    ];
    for Part { field, said, asked } in &found.plan {
        let text = match (said, asked) {
            (Some(text), _) => printable(text.lines().next().unwrap_or_default()),
            (None, true) => "MISSING".to_owned(),
            (None, false) => "-".to_owned(),
        };
        lines.push(format!("  {:<10} {text}", field.as_str()));
    }
    lines.join("\n")
}

fn way_back(way_back: WayBack) -> &'static str {
    match way_back {
        WayBack::Automatic => "automatic",
        WayBack::None => "none: a failed probation needs people",
    }
}
