//! What `cargo xtask bench backup` measures: the agent's own backup of one folder, as an update makes it.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use refit_agent::{
    host::{
        backup::{About, Backups, Cover, Role},
        files::{RealFiles, create_dirs},
    },
    update::BackupId,
};
use refit_proto::names::Product;

fn main() -> Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [act, one, two] = words.as_slice() else {
        bail!("usage: backup-bench save|back-up FOLDER DATA, or bring-back DATA FOLDER");
    };
    let (one, two) = (PathBuf::from(one), PathBuf::from(two));
    let id = BackupId::parse("bench").context("a good id")?;
    let product = Product::parse("bench").context("a good name")?;
    let in_folder = |data: &PathBuf| Backups::new(&RealFiles, data.join("data"));
    let covers = [Cover { path: one.clone(), role: Role::Declared }];
    match act.as_str() {
        "save" => {
            create_dirs(&RealFiles, &two.join("data"), 0o700)?;
            in_folder(&two).save(&id, &covers)?;
        }
        "back-up" => {
            create_dirs(&RealFiles, &two.join("data"), 0o700)?;
            in_folder(&two).save(&id, &covers)?;
            let about = About { id, product, from: None, to: None, made: 0 };
            in_folder(&two).seal(&about, &covers)?;
        }
        "bring-back" => {
            let backups = in_folder(&one);
            let index = backups.index(&id)?;
            backups.restore_to(&index, &two)?;
        }
        other => bail!("`{other}` is nothing that is measured"),
    }
    Ok(ExitCode::SUCCESS)
}
