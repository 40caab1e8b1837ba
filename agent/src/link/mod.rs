//! Everything that talks to the server: enrolling, renewing the certificate, handing over reports and
//! taking orders, metadata, content, leases. Decides what a failed call means (weather, or a refusal) and
//! when the next one comes; what an order leads to is decided in [`crate::trusted`] and
//! [`crate::update`]. Nothing that comes from here is trusted because it came from here.

mod call;
mod cap;
mod content;
mod enroll;
mod frames;
pub mod halves;
mod leave;
mod mirrors;
mod orders;
mod pace;
mod patience;
mod renew;
mod server;
mod stops;
mod stranger;
mod sync;
pub mod tls;

pub use call::{CallError, Trouble};
pub use cap::{Bucket, Capped};
pub use content::Download;
pub use enroll::{EnrollError, enroll, fetch_first_root};
pub use frames::ServerFrames;
pub use halves::{Access, Link};
pub use leave::{ask_leave, ask_reboot};
pub use mirrors::MirroredFrames;
pub use orders::{Offer, Order, Orders, Wanted};
pub use pace::Pace;
pub(crate) use pace::chance;
pub use patience::Patience;
pub use renew::{RenewError, is_due, renew};
pub use server::Server;
pub use stops::stop;
pub use stranger::Stranger;
pub use sync::{Calls, Sync};

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
