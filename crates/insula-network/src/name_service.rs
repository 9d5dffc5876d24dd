//! What the node's name service needs from the host: its sockets, and the name servers it passes questions on to.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::sockopt;

use crate::{Ipv4Block, Ipv6Block, NodeNetwork};

/// Where containers ask.
const PORT: u16 = 53;
/// Room for questions that wait, per family: what arrives while a dead service is replaced is answered by the next.
const QUEUE_BYTES: usize = 4 << 20;
/// Name servers that are asked at most.
const UPSTREAMS_MAX: usize = 3;
/// How long a look at whether the service answers may take.
const PROBE_TIME: Duration = Duration::from_secs(1);

/// The sockets of one family.
#[derive(Debug)]
pub struct NameSockets {
    /// For packets.
    pub udp: OwnedFd,
    /// For connections; it listens.
    pub tcp: OwnedFd,
}

/// The service's sockets could not be made.
#[derive(Debug, thiserror::Error)]
#[error("listen for names at {address}")]
pub struct BindNamesError {
    /// Where.
    pub address: SocketAddr,
    /// Why: somebody has it, or the host does not have the address.
    #[source]
    pub cause: io::Error,
}

impl NodeNetwork {
    /// The node's own addresses, IPv4 first: there its containers ask for names.
    #[must_use]
    pub fn own_addresses(&self) -> Vec<IpAddr> {
        let ipv6 = self.subnets.node_ipv6().map(IpAddr::from);
        std::iter::once(self.subnets.node_ipv4().into()).chain(ipv6).collect()
    }

    /// The node's subnets as first address and bits.
    #[must_use]
    pub fn own_subnets(&self) -> Vec<(IpAddr, u8)> {
        let ipv4 = |block: Ipv4Block| (block.network().into(), block.bits());
        let ipv6 = |block: Ipv6Block| (block.network().into(), block.bits());
        std::iter::once(ipv4(self.subnets.ipv4)).chain(self.subnets.ipv6.map(ipv6)).collect()
    }
}

/// Binds the service's sockets at `address`, which the host must have.
///
/// # Errors
///
/// Another name server listens at all addresses of the host, or the address is not there.
pub fn bind_name_sockets(address: IpAddr) -> Result<NameSockets, BindNamesError> {
    let address = SocketAddr::new(address, PORT);
    let wrap = |cause| BindNamesError { address, cause };
    let udp = UdpSocket::bind(address).map_err(wrap)?;
    udp.set_nonblocking(true).map_err(wrap)?;
    // Without the right to, it has the room that everybody has.
    sockopt::set_socket_recv_buffer_size_force(&udp, QUEUE_BYTES).unwrap_or_default();
    let tcp = TcpListener::bind(address).map_err(wrap)?;
    tcp.set_nonblocking(true).map_err(wrap)?;
    Ok(NameSockets { udp: udp.into(), tcp: tcp.into() })
}

/// Whether a kept socket is bound where the service is to listen.
#[must_use]
pub fn is_name_socket(socket: &OwnedFd, address: IpAddr) -> bool {
    let bound = rustix::net::getsockname(socket).ok().and_then(|bound| SocketAddr::try_from(bound).ok());
    bound == Some(SocketAddr::new(address, PORT))
}

/// Name servers for what the node does not know: `configured` ones, else those of the host's `resolv_conf` (also on its
/// loopback, where the service is), else `fallback`. Addresses of `own` are left out: they lead back here.
#[must_use]
pub fn upstreams(configured: &[IpAddr], resolv_conf: &str, fallback: &[IpAddr], own: &[IpAddr]) -> Vec<IpAddr> {
    let server = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        // One that is on a link of the host only has its link's name behind it, and is left out with that.
        let address: IpAddr = (words.next()? == "nameserver").then(|| words.next())??.parse().ok()?;
        let usable = !address.is_unspecified() && !own.contains(&address);
        usable.then_some(address)
    };
    let found: Vec<IpAddr> = resolv_conf.lines().filter_map(server).collect();
    let chosen = [configured, &found, fallback].into_iter().find(|servers| !servers.is_empty());
    chosen.unwrap_or_default().iter().copied().take(UPSTREAMS_MAX).collect()
}

/// Asks the service at `address` for the node's own domain. Blocks for a second at most.
///
/// # Errors
///
/// Nothing came back, or no answer to this.
pub fn probe_name_service(address: IpAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(SocketAddr::new(address, 0))?;
    socket.connect(SocketAddr::new(address, PORT))?;
    socket.set_read_timeout(Some(PROBE_TIME))?;
    // Id 0x6973, recursion desired, one question: insula., type SOA, class IN.
    const QUESTION: &[u8] = b"is\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06insula\x00\x00\x06\x00\x01";
    socket.send(QUESTION)?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    // An answer without an error.
    let is_answer = length >= 12 && answer[..2] == *b"is" && answer[2] & 0x80 != 0 && answer[3] & 0x0f == 0;
    if is_answer { Ok(()) } else { Err(io::Error::other("what came back is no answer")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_hosts_servers_are_asked_also_on_its_loopback() {
        let file = "search lan\nnameserver 127.0.0.53\nnameserver fe80::1%eth0\nnameserver 192.0.2.1\n";
        let found = upstreams(&[], file, &addresses(&["9.9.9.9"]), &[]);
        assert_eq!(found, addresses(&["127.0.0.53", "192.0.2.1"]));
    }

    #[test]
    fn configured_servers_go_first_and_the_fallback_last() {
        let (file, nine) = ("nameserver 192.0.2.1\n", addresses(&["9.9.9.9"]));
        assert_eq!(upstreams(&addresses(&["192.0.2.9"]), file, &nine, &[]), addresses(&["192.0.2.9"]));
        assert_eq!(upstreams(&[], "", &nine, &[]), nine);
    }

    #[test]
    fn the_service_never_asks_itself() {
        let own = addresses(&["10.87.0.1"]);
        assert_eq!(upstreams(&[], "nameserver 10.87.0.1\n", &[], &own), Vec::<IpAddr>::new());
    }
}
