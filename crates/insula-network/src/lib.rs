//! The network of one node: links, addresses, routes and filters of its containers.
//!
//! Routed, without a bridge: each container has a pair of virtual Ethernet devices, a `/32` and a `/128` of the node's
//! subnets, a link-local gateway and permanent neighbours at both ends, so that there is nothing to ask, answer or
//! forge on the link. One filter table per node is made once; a start adds the link and a few elements to its maps.
//!
//! Not for: addresses of a fleet, answering for names, and doing the steps, which is `insula-plan`'s.
//!
//! Reading order: `subnet` and `claim` (whose addresses), `pool` (which container), `node` (the steps), `table` (the
//! rules), `forwarding` (the host's switches), then what goes beside: ports, files, findings.

mod claim;
mod container;
mod doctor;
mod files;
mod forwarding;
mod links;
mod name_service;
mod node;
mod pool;
mod ports;
mod subnet;
mod table;

pub use claim::{Claim, ClaimError, ClaimRequest, foreign_networks};
pub use container::{ContainerAddresses, ContainerNetwork};
pub use doctor::{FilterOwner, Finding, FindingKind, HostFacts, Severity, findings};
pub use files::{DnsOrigin, HostsFile, ResolvConf, ResolverFiles, resolv_conf};
pub use forwarding::{
    EnableError, ensure_forwarding, ensure_node_addresses, has_node_addresses, remove_node_addresses,
};
pub use links::{OwnLink, mend_links, own_links};
pub use name_service::{BindNamesError, NameSockets, bind_name_sockets, is_name_socket, probe_name_service, upstreams};
pub use node::{Inbound, LinkSteps, NETNS_SYSCTLS, NetworkConfig, NodeNetwork};
pub use pool::{AddressPool, PoolFull, TakeAddressError};
pub use ports::{PortHolder, ReserveError, reserve};
pub use subnet::{BlockError, Ipv4Block, Ipv6Block, Subnets};
pub use table::{TableError, TableName};
