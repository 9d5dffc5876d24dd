//! The host's own switches and addresses that a node needs: forwarding, and an address to speak to containers from.

use std::fs;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;

use insula_kernel::netlink::{InterfaceAddress, LinkIndex, RequestError, RouteRequest, RouteSocket};
use rustix::io::Errno;

use crate::NodeNetwork;
use crate::claim::fnv1a;

/// Letters of address labels: RFC 4648 base 32, in lower case.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const IPV4_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
const IPV6_CONF: &str = "/proc/sys/net/ipv6/conf";

/// The host could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum EnableError {
    /// A kernel setting could not be read or written.
    #[error("{call}")]
    Setting {
        /// What was attempted, on which file.
        call: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No socket to the kernel.
    #[error("socket(NETLINK_ROUTE)")]
    Socket(#[source] Errno),
    /// The kernel refused the node's address.
    #[error("address of the node on the loopback")]
    Address(#[source] RequestError),
}

/// Lets the host forward packets, of IPv6 only if the node has a subnet of it. Idempotent; never switched off again,
/// since others may rely on it by then.
///
/// A host that forwards IPv6 stops to believe router advertisements, from which it may have its own way out. Links
/// that believed them until now go on to do so (`accept_ra=2`).
///
/// # Errors
///
/// `/proc/sys` is read-only or not there.
pub fn ensure_forwarding(network: &NodeNetwork) -> Result<(), EnableError> {
    ensure_setting(Path::new(IPV4_FORWARD), "1")?;
    let all = Path::new(IPV6_CONF).join("all/forwarding");
    if network.subnets.ipv6.is_none() || read(&all)? == "1" {
        return Ok(());
    }
    let listed = fs::read_dir(IPV6_CONF).map_err(failed("readdir", Path::new(IPV6_CONF)))?;
    for entry in listed {
        let path = entry.map_err(failed("readdir", Path::new(IPV6_CONF)))?.path();
        let advertisements = path.join("accept_ra");
        // A link that goes away meanwhile needs nothing.
        if path.file_name().is_some_and(|name| name != "all") && read(&advertisements).is_ok_and(|value| value == "1") {
            ensure_setting(&advertisements, "2")?;
        }
    }
    ensure_setting(&all, "1")
}

/// Gives the loopback the node's own addresses, from which the host speaks to containers. Idempotent.
///
/// On the loopback, because an address has to be somewhere and a device of its own would be one more thing to sweep;
/// the IPv4 one has a label (`lo:insula…`), the IPv6 one lies in the range of all nodes. One that a node of before left
/// behind, which is seen by its label, becomes this node's: whoever cleans up after that node leaves it alone.
///
/// # Errors
///
/// The kernel refused.
pub fn ensure_node_addresses(network: &NodeNetwork) -> Result<(), EnableError> {
    let mut socket = RouteSocket::open().map_err(EnableError::Socket)?;
    let there = socket.addresses(LinkIndex::LOOPBACK).map_err(EnableError::Address)?;
    for wanted in addresses(network) {
        let same =
            |found: &&InterfaceAddress| found.address == wanted.address && found.prefix_bits == wanted.prefix_bits;
        let found = there.iter().find(same);
        if found.is_some_and(|found| wanted.label.is_none() || found.label == wanted.label) {
            continue;
        }
        if let Some(left) = found {
            perform(&mut socket, RouteRequest::RemoveAddress(left.clone()), Errno::ADDRNOTAVAIL)?;
        }
        perform(&mut socket, RouteRequest::AddAddress(wanted), Errno::EXIST)?;
    }
    Ok(())
}

/// Whether the host has the node's own addresses, without which no container's network can be made: cheap, for each start.
#[must_use]
pub fn has_node_addresses(network: &NodeNetwork) -> bool {
    // A socket at an address of somebody else is refused, if the host does not allow it for all (`ip_nonlocal_bind`).
    network.own_addresses().into_iter().all(|address| UdpSocket::bind((address, 0)).is_ok())
}

/// Takes them away. Idempotent.
///
/// # Errors
///
/// The kernel refused.
pub fn remove_node_addresses(network: &NodeNetwork) -> Result<(), EnableError> {
    let mut socket = RouteSocket::open().map_err(EnableError::Socket)?;
    addresses(network)
        .try_for_each(|address| perform(&mut socket, RouteRequest::RemoveAddress(address), Errno::ADDRNOTAVAIL))
}

fn addresses(network: &NodeNetwork) -> impl Iterator<Item = InterfaceAddress> {
    let own = |address: IpAddr, prefix_bits, label| InterfaceAddress {
        link: LinkIndex::LOOPBACK,
        address,
        prefix_bits,
        label,
    };
    let ipv4 = own(network.subnets.node_ipv4().into(), 32, Some(label(network.node.as_str())));
    let ipv6 = network.subnets.node_ipv6().map(|address| own(address.into(), 128, None));
    std::iter::once(ipv4).chain(ipv6)
}

fn perform(socket: &mut RouteSocket, request: RouteRequest<'_>, done_already: Errno) -> Result<(), EnableError> {
    match socket.perform(&[request]) {
        Err(error) if error.errno == done_already => Ok(()),
        done => done.map_err(EnableError::Address),
    }
}

/// `lo:insula` and six letters (30 bits) of the node's name, 15 bytes in all, which is the longest label there is.
fn label(node: &str) -> String {
    let hash = fnv1a(node);
    let letter = |index: u32| char::from(BASE32[usize::try_from((hash >> (5 * index)) & 31).unwrap_or_default()]);
    "lo:insula".chars().chain((0..6).map(letter)).collect()
}

fn failed<'a>(call: &'a str, path: &'a Path) -> impl Fn(io::Error) -> EnableError + 'a {
    move |source| EnableError::Setting { call: format!("{call}({})", path.display()), source }
}

fn read(path: &Path) -> Result<String, EnableError> {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).map_err(failed("read", path))
}

/// Writes only what is different: others may have made the file read-only for good.
fn ensure_setting(path: &Path, value: &str) -> Result<(), EnableError> {
    if read(path)? == value { Ok(()) } else { fs::write(path, value).map_err(failed("write", path)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_fit_and_differ_by_node() {
        assert_eq!(label("default").len(), 15);
        assert!(label("default").starts_with("lo:insula"));
        assert_ne!(label("a"), label("b"));
    }
}
