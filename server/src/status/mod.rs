//! The one status model: gRPC, JSON, metrics and the page show what is built here, and nothing else.
//! Whatever does not move carries a hold. Pure; who may see it is decided elsewhere.

mod fleet;
mod host;
#[cfg(test)]
mod tests;

use refit_proto::{names::Product, wire};

pub use fleet::{FleetView, ProductPart, fleet};
pub use host::{HostView, PlacementView, host, placement};

/// Where the status comes from: the page, metrics and API ask here, and tests answer.
#[tonic::async_trait]
pub trait StatusSource: Send + Sync + 'static {
    /// The fleet as it stands now; of one product, or of all.
    async fn fleet(&self, product: Option<&Product>) -> Result<wire::FleetStatus, StatusError>;

    /// One page of hosts, by host id.
    async fn hosts(
        &self,
        query: wire::ListHostsRequest,
    ) -> Result<wire::ListHostsReply, StatusError>;

    /// Whether the server can do its work: the store answers, its keys are there.
    async fn ready(&self) -> Result<(), StatusError>;
}

/// Why there is no status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatusError {
    /// The question makes no sense.
    #[error("{0}")]
    BadQuestion(String),
    /// The server can't answer now. The cause is logged where it arose, and not sent.
    #[error("the server cannot read its store")]
    Unavailable,
}
