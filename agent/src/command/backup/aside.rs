//! What going back has set aside: shown, and released by a person.

use std::{process::ExitCode, sync::Arc};

use anyhow::{Context as _, Result, bail};
use refit_agent::{
    host::{
        backup::{Aside, Backups},
        database::Databases,
        files::RealFiles,
    },
    settings::Settings,
    update::InstallId,
    way_back::Place,
};

use super::Output;

pub(super) fn list(backups: &Backups<'_>, output: Output) -> Result<ExitCode> {
    let asides = backups.asides()?;
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&asides)?),
        Output::Text if asides.is_empty() => println!("nothing is set aside"),
        Output::Text => asides.iter().for_each(|aside| print!("{}", lines(aside))),
    }
    Ok(ExitCode::SUCCESS)
}

fn lines(aside: &Aside) -> String {
    let release = aside.release.as_ref().map_or("?", |release| release.version.as_str());
    let items = aside.items.iter().map(|item| format!("  {}\n", item.kept));
    format!("{}  {} {release} had written:\n{}", aside.id, aside.product, items.collect::<String>())
}

pub(super) fn release(settings: &Settings, backups: &Backups<'_>, id: &str) -> Result<ExitCode> {
    let help = "help: `refit-agent backup set-aside` shows them";
    let turn = InstallId::parse(id).ok();
    let turn = turn.with_context(|| format!("`{id}` is no id of something set aside\n{help}"))?;
    let Some(aside) = backups.noted_aside(&turn)? else {
        bail!("nothing is set aside under {id}\n{help}");
    };
    // Should its steps be done once more, they must find that it was done.
    if Place::in_folder(Arc::new(RealFiles), &settings.data).load()?.is_some() {
        bail!(
            "an update is under way\nhelp: try it again when `refit-agent status` says that it is over"
        );
    }
    let databases = Databases::new(&RealFiles, settings.data.clone());
    for item in &aside.items {
        if let (Some(database), Some(name)) = (&item.database, item.aside(&turn)) {
            databases.remove_aside(database, &name)?;
        }
    }
    backups.remove_aside(&turn)?;
    println!(
        "removed:\n{}",
        aside.items.iter().map(|item| format!("  {}\n", item.kept)).collect::<String>()
    );
    Ok(ExitCode::SUCCESS)
}
