//! What is installed here, as the file system tells.

use std::collections::BTreeMap;

use refit_proto::names::Product;

use crate::{
    host::{
        deb::Debs,
        placed::Placed,
        tree::{Extras, Tree},
    },
    report::{InstalledRelease, Inventory},
};

/// What of the current releases is not as it was signed, by product: every byte is read.
pub(super) fn damages(
    tree: &Tree<'_>,
    placed: &Placed<'_>,
    debs: &Debs<'_>,
) -> BTreeMap<Product, String> {
    let products = tree.products().unwrap_or_default().into_iter();
    let damaged = products.filter_map(|product| {
        let documents = tree.installed(&product).ok()??;
        // What a release makes beside its own files is its own affair.
        let verified = tree.verify(&documents, Extras::Ignored);
        let folder = tree.folder(&product, &documents.id.digest);
        let verified = verified.and_then(|()| placed.verify(&documents));
        let error = verified.and_then(|()| debs.verify(&documents, &folder)).err()?;
        tracing::error!(%product, "what is installed was changed: {error}");
        let text = error.to_string();
        Some((product, text.split("\nhelp:").next().unwrap_or_default().to_owned()))
    });
    damaged.collect()
}

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
                inventory
                    .insert(product, InstalledRelease { id: documents.id, counter, damage: None });
            }
            Ok(None) => {}
            Err(error) => tracing::error!(%product, "what is installed can't be told: {error}"),
        }
    }
    inventory
}
