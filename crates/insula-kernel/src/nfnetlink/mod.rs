//! Elements of nftables sets and maps, and tracked connections, over `NETLINK_NETFILTER`, without helper programs.
//!
//! Not for: tables, chains and rules; whoever makes those does it once, with `nft`. Changes travel in a batch that the
//! kernel does as a whole or not at all:
//!
//! ```text
//!   batch begin │ NEWSETELEM set a: elements │ NEWSETELEM set b: elements │ batch end
//! ```
//!
//! A key or a value made of several fields (`inet_proto . inet_service`) is their bytes one after another, each field
//! padded to four bytes.

mod connection;
mod element;
mod socket;

pub use connection::Connections;
pub use element::{Element, Field, SetElements};
pub use socket::FilterSocket;
