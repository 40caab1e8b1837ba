//! What an update does with the data of its packages.

use refit_proto::package::DataUse;

use crate::{
    host::documents::Documents,
    update::{Cause, Failure},
};

/// Whether this agent can do with the data of a release what it says.
pub(super) fn can_follow(release: &Documents) -> Result<(), Failure> {
    for package in &release.packages {
        let data = &package.manifest.data;
        if !data.is_default() && data.used != DataUse::Untouched {
            let text = format!("{} works on data, which this agent cannot save yet", package.name);
            return Err(Failure::new(Cause::Unsupported, text));
        }
    }
    Ok(())
}
