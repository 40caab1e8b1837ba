//! What is installed here, as the file system tells.

use crate::{
    host::tree::Tree,
    report::{InstalledRelease, Inventory},
};

/// The current release of each product. One whose documents can't be read is left out, with a line in the
/// log: nobody can say what it is.
pub fn inventory(tree: &Tree<'_>) -> Inventory {
    let products = match tree.products() {
        Ok(products) => products,
        Err(error) => {
            tracing::debug!("nothing is installed: {error}");
            Vec::new()
        }
    };
    let mut inventory = Inventory::new();
    for product in products {
        match tree.installed(&product) {
            Ok(Some(documents)) => {
                let counter = documents.release.counter;
                inventory.insert(product, InstalledRelease { id: documents.id, counter });
            }
            Ok(None) => {}
            Err(error) => tracing::error!(%product, "what is installed can't be told: {error}"),
        }
    }
    inventory
}
