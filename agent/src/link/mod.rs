//! Everything that talks to the server: enrolling, renewing the certificate, handing over reports and
//! taking orders, metadata, content, leases. Decides what a failed call means (weather, or a refusal) and
//! when the next one comes; what an order leads to is decided in [`crate::trusted`] and
//! [`crate::update`]. Nothing that comes from here is trusted because it came from here.

mod call;
mod cap;
mod content;
mod dial;
mod enroll;
mod frames;
pub mod halves;
mod leave;
mod mirrors;
mod orders;
mod pace;
mod patience;
mod proxy;
mod reach;
mod refused;
mod renew;
mod rest;
mod retry;
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
pub use orders::{Offer, Order, Orders, ToVerify, Wanted};
pub(crate) use pace::chance;
pub use pace::{Pace, Turn};
pub use patience::Patience;
pub use proxy::{
    Exceptions, Login, NotAnException, Proxies, Proxy, ProxyAddressError, ProxyError, Why,
};
pub use reach::reach;
pub use renew::{RenewError, is_due, renew};
pub use rest::Rests;
pub use server::Server;
pub use stops::stop;
pub use stranger::Stranger;
pub use sync::{Calls, Sync};

#[cfg(test)]
mod slow_tests;
#[cfg(test)]
mod spread_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
