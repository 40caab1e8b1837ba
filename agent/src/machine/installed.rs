//! What is installed here, as the file system tells.

use std::collections::BTreeMap;

use refit_proto::names::Product;

use crate::{
    host::{
        deb::Debs,
        drift::{Drift, Kind, LookError, Reader, Stopped},
        files::Files,
        placed::Placed,
        tree::Tree,
    },
    report::{InstalledRelease, Inventory},
};

/// What another hand has changed of the current releases, by product; of one alone, if one is named. Every byte
/// is read, as slowly as `pace` says; `None` if it was stopped.
pub(super) fn drifts(
    (tree, placed, debs): (&Tree<'_>, &Placed<'_>, &Debs<'_>),
    files: &dyn Files,
    only: Option<&Product>,
    pace: &mut dyn FnMut(usize) -> Result<(), Stopped>,
) -> Option<BTreeMap<Product, Drift>> {
    let products = tree.products().unwrap_or_default().into_iter();
    let mut drifts = BTreeMap::new();
    for product in products.filter(|product| only.is_none_or(|only| only == product)) {
        let Ok(Some(documents)) = tree.installed(&product) else { continue };
        let mut drift = Drift::default();
        let mut reader = Reader { files, pace: &mut *pace };
        let folder = tree.folder(&product, &documents.id.digest);
        let looked = tree
            .differences(&documents, &mut reader, &mut drift)
            .and_then(|()| placed.differences(&documents, &mut reader, &mut drift))
            .and_then(|()| debs.differences(&documents, &folder, &mut drift));
        match looked {
            Ok(()) => {}
            Err(LookError::Stopped) => return None,
            Err(LookError::Install(error)) => {
                let text = error.to_string();
                let why = text.split("\nhelp:").next().unwrap_or_default();
                drift.add(&folder, Kind::Unreadable, why);
            }
        }
        if drift.has_news() {
            drifts.insert(product, drift);
        }
    }
    Some(drifts)
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
                inventory.insert(
                    product,
                    InstalledRelease { id: documents.id, counter, drift: Drift::default() },
                );
            }
            Ok(None) => {}
            Err(error) => tracing::error!(%product, "what is installed can't be told: {error}"),
        }
    }
    inventory
}
