//! Links, addresses, routes and neighbours over a blocking `NETLINK_ROUTE` socket.
//!
//! Not for: deciding which links there are, or keeping them. A caller hands over several requests at once; they go to
//! the kernel in one `send`, which does all of them before it returns, and the answers are read in order:
//!
//! ```text
//!   perform([a, b, c])      send ──► a, b, c done in the kernel ──► queue: ack a │ ack b │ error c
//!                                                                          └──────────┴────► RequestError { request: 2 }
//! ```
//!
//! Requests are independent in the kernel: one that fails does not stop those after it in the same `send`.

mod address;
mod attributes;
mod link;
mod name;
mod route_socket;
mod socket;

pub use address::{InterfaceAddress, Neighbour, Route};
pub use link::{Inet4Settings, LinkEntry, LinkSettings, VethEnd, VethPair};
pub use name::{LinkIndex, LinkName, LinkNameError, MacAddress, ParseMacError};
pub use route_socket::{RouteRequest, RouteSocket};
pub use socket::RequestError;

pub(crate) use attributes::Attributes;
pub(crate) use socket::{Frame, NetlinkSocket, Reply};
