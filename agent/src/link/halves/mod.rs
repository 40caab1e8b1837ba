//! The agent's two halves and what they say to each other. The **network half** talks to the server and to
//! mirrors, in this host's name and with no right on this host; the **root half** verifies, decides and
//! changes the host. They meet in [`Ask`] and [`Answer`] alone: in one process, or over a private socket
//! between two (docs/decisions/0036-two-halves.md). The root half asks; the network half answers, and
//! never speaks first. Whatever it answers is bytes to be verified: it can delay this host, as a server
//! that was taken over can, and make it run nothing.

mod access;
mod answering;
mod ask;
mod asking;
mod chunks;
mod message;
mod serving;

pub use access::Access;
pub use answering::NetworkHalf;
pub use ask::{Answer, Ask, Asked, Failed, Giver, Whom};
pub use asking::Link;
pub use chunks::Chunks;
pub use message::{LONGEST_HEAD, Message, MessageError};
pub use serving::serve;

/// The version of what the halves say to each other: both have the same, or one of them starts anew.
pub const INTERFACE: u32 = 1;

#[cfg(test)]
mod tests;
