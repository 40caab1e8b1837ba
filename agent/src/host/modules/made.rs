//! What stands on the host only because of a product's update modules: of the paths that its packages name,
//! those where nothing was before. The protocol knows no removal, so this is what a removal takes away; what
//! was there before the product is the host's owner's and stays.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use refit_proto::gathered::Gathered as _;

use super::super::files::{self, FileError, Files};

/// The list's name in the product's folder: one path a line.
const MADE: &str = "made-by-modules";
const LONGEST: u64 = 16 << 20;

/// What was noted for a product.
///
/// # Errors
/// If it can't be read.
pub fn made(files: &dyn Files, product: &Path) -> Result<BTreeSet<PathBuf>, FileError> {
    let list = product.join(MADE);
    if !files::exists(files, &list)? {
        return Ok(BTreeSet::new());
    }
    let bytes = files::read_file(files, &list, LONGEST)?;
    // Paths of a manifest are text.
    Ok(String::from_utf8_lossy(&bytes).lines().map(PathBuf::from).gathered())
}

/// Notes those of these paths where nothing stands. Before a module is called, so that a cut forgets none.
///
/// # Errors
/// If it can't be written.
pub fn note(files: &dyn Files, product: &Path, named: &[PathBuf]) -> Result<(), FileError> {
    let before = made(files, product)?;
    let mut noted = before.clone();
    for path in named {
        if !files::exists(files, path)? {
            noted.insert(path.clone());
        }
    }
    if noted == before { Ok(()) } else { write(files, product, &noted) }
}

/// At the end of an update: forgets what is not there any more.
///
/// # Errors
/// If it can't be written.
pub fn tidy(files: &dyn Files, product: &Path) -> Result<(), FileError> {
    let before = made(files, product)?;
    let mut left = BTreeSet::new();
    for path in &before {
        if files::exists(files, path)? {
            left.insert(path.clone());
        }
    }
    if left == before { Ok(()) } else { write(files, product, &left) }
}

fn write(files: &dyn Files, product: &Path, paths: &BTreeSet<PathBuf>) -> Result<(), FileError> {
    let list = product.join(MADE);
    if paths.is_empty() {
        return files::remove_tree(files, &list).map(drop);
    }
    let lines = paths.iter().map(|path| format!("{}\n", path.display()));
    files::write_file(files, &list, lines.collect::<String>().as_bytes(), 0o644)
}
