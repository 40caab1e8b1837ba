//! Which hosts a list asks for. One rule for every store; lists are for people, so it may read more
//! than it shows.

use refit_proto::names::{HostId, HostName, LabelName, LabelValue, Product, RingName};

use super::Rev;
use crate::fleet::{Host, HostState, Placement};

/// Which hosts. What is not named does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostQuery {
    /// With a placement of this product.
    pub product: Option<Product>,
    /// With a placement in this ring, of the product if one is named.
    pub ring: Option<RingName>,
    /// Of this name.
    pub name: Option<HostName>,
    /// In this state.
    pub state: Option<HostState>,
    /// With this label.
    pub label: Option<(LabelName, LabelValue)>,
}

impl HostQuery {
    /// Whether this host is asked for.
    pub fn selects<'a>(
        &self,
        host: &Host,
        placements: impl IntoIterator<Item = &'a Placement>,
    ) -> bool {
        let placed = |placement: &Placement| {
            self.product.as_ref().is_none_or(|product| placement.product == *product)
                && self.ring.as_ref().is_none_or(|ring| placement.ring.as_ref() == Some(ring))
        };
        self.name.as_ref().is_none_or(|name| host.name == *name)
            && self.state.is_none_or(|state| host.state == state)
            && self.label.as_ref().is_none_or(|(name, value)| host.labels.get(name) == Some(value))
            && ((self.product.is_none() && self.ring.is_none())
                || placements.into_iter().any(placed))
    }
}

/// A host with its placements, by name of the product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRow {
    /// Who it is.
    pub host: Rev<Host>,
    /// What it runs.
    pub placements: Vec<Rev<Placement>>,
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// By the hosts' ids.
    pub rows: Vec<HostRow>,
    /// Where to go on; `None`: that was all.
    pub next: Option<HostId>,
}
