//! Ports of the host that are published: a bound socket keeps everybody else from them.
//!
//! The socket never listens; packets are led to the container before they would reach it. Whoever keeps it keeps the
//! port.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;

use insula_model::{PublishedPort, Transport};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};

/// Lines read of each table of sockets, when a port's holder is looked for.
const SOCKETS_MAX: usize = 100_000;
/// Processes looked through for a port's holder.
const PROCESSES_MAX: usize = 20_000;
/// Open files looked through in each.
const FILES_MAX: usize = 4096;

/// A process that holds a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortHolder {
    /// Its number, as this process sees it.
    pub pid: u32,
    /// Its command name, at most 15 bytes, as it chose it.
    pub command: String,
}

/// A port could not be reserved.
#[derive(Debug, thiserror::Error)]
pub enum ReserveError {
    /// Somebody has it.
    #[error("port {port} is in use{}", holder.as_ref().map(|holder| format!(" by {holder}")).unwrap_or_default())]
    InUse {
        /// The port.
        port: PublishedPort,
        /// Who, if that can be told.
        holder: Option<PortHolder>,
    },
    /// The host does not have the address.
    #[error("port {port}: the host does not have this address")]
    AddressNotHere {
        /// The port.
        port: PublishedPort,
    },
    /// The address is `::1`, from which the kernel cannot lead into a container.
    #[error("port {port}: ::1 cannot lead to a container; publish on 127.0.0.1")]
    LoopbackOfIpv6 {
        /// The port.
        port: PublishedPort,
    },
    /// The kernel refused.
    #[error("port {port}: {call}")]
    Kernel {
        /// The port.
        port: PublishedPort,
        /// The call.
        call: &'static str,
        /// Why.
        #[source]
        errno: Errno,
    },
}

impl fmt::Display for PortHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.command.escape_debug(), self.pid)
    }
}

/// Binds a socket to the port, in the calling thread's network namespace. A port on every address is bound in both
/// families at once.
///
/// # Errors
///
/// Somebody has the port, the host does not have the address, or it is one from which nothing can be led away.
pub fn reserve(port: &PublishedPort) -> Result<OwnedFd, ReserveError> {
    match port.address {
        Some(IpAddr::V6(address)) if address.is_loopback() => Err(ReserveError::LoopbackOfIpv6 { port: *port }),
        Some(address) => bind(port, address, Families::One),
        None => match bind(port, Ipv6Addr::UNSPECIFIED.into(), Families::Both) {
            // A kernel without IPv6, or with all of it disabled.
            Err(ReserveError::Kernel { errno: Errno::AFNOSUPPORT, .. } | ReserveError::AddressNotHere { .. }) => {
                bind(port, Ipv4Addr::UNSPECIFIED.into(), Families::One)
            }
            done => done,
        },
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Families {
    One,
    Both,
}

fn bind(port: &PublishedPort, address: IpAddr, families: Families) -> Result<OwnedFd, ReserveError> {
    let failed = |call| move |errno| ReserveError::Kernel { port: *port, call, errno };
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let kind = match port.transport {
        Transport::Tcp => SocketType::STREAM,
        Transport::Udp => SocketType::DGRAM,
    };
    let socket = net::socket_with(family, kind, SocketFlags::CLOEXEC, None).map_err(failed("socket"))?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, families == Families::One).map_err(failed("setsockopt(IPV6_V6ONLY)"))?;
    }
    // What reaches the socket itself, while nobody is published, is not worth keeping.
    sockopt::set_socket_recv_buffer_size(&socket, 0).map_err(failed("setsockopt(SO_RCVBUF)"))?;
    match net::bind(&socket, &SocketAddr::new(address, port.host)) {
        Ok(()) => Ok(socket),
        Err(Errno::ADDRINUSE) => Err(ReserveError::InUse { port: *port, holder: holder_of(port) }),
        Err(Errno::ADDRNOTAVAIL) => Err(ReserveError::AddressNotHere { port: *port }),
        Err(errno) => Err(failed("bind")(errno)),
    }
}

/// Who holds the port. Looks through all processes, so it is for error messages only.
fn holder_of(port: &PublishedPort) -> Option<PortHolder> {
    let tables = match port.transport {
        Transport::Tcp => ["tcp", "tcp6"],
        Transport::Udp => ["udp", "udp6"],
    };
    let inodes: Vec<u64> = tables
        .iter()
        .filter_map(|table| fs::read_to_string(format!("/proc/thread-self/net/{table}")).ok())
        .flat_map(|table| inodes_on_port(&table, port.host))
        .collect();
    let processes = fs::read_dir("/proc").ok()?.take(PROCESSES_MAX).filter_map(Result::ok);
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find_map(|pid: u32| {
        let dir = Path::new("/proc").join(pid.to_string());
        let command = || fs::read_to_string(dir.join("comm")).ok();
        holds(&dir, &inodes).ok()?.then(|| command().map(|text| PortHolder { pid, command: text.trim().to_owned() }))?
    })
}

/// `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …`; connections (`st` 01) are left out.
fn inodes_on_port(table: &str, port: u16) -> Vec<u64> {
    let inode = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let local = fields.nth(1)?.rsplit_once(':')?.1;
        let state = fields.nth(1)?;
        let inode: u64 = fields.nth(5)?.parse().ok()?;
        (u16::from_str_radix(local, 16).ok()? == port && state != "01" && inode != 0).then_some(inode)
    };
    table.lines().skip(1).take(SOCKETS_MAX).filter_map(inode).collect()
}

fn holds(process: &Path, inodes: &[u64]) -> io::Result<bool> {
    for entry in fs::read_dir(process.join("fd"))?.take(FILES_MAX) {
        let Ok(target) = fs::read_link(entry?.path()) else { continue };
        let socket = target.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
        if socket.is_some_and(|inode| inodes.contains(&inode)) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    fn port(address: Option<IpAddr>, host: u16, transport: Transport) -> PublishedPort {
        PublishedPort { address, host, container: 80, transport }
    }

    #[test]
    fn a_reserved_port_is_nobody_elses_in_either_family() {
        for transport in [Transport::Tcp, Transport::Udp] {
            let probe = TcpListener::bind("127.0.0.1:0").unwrap();
            let free = probe.local_addr().unwrap().port();
            drop(probe);
            let reserved = reserve(&port(None, free, transport)).unwrap();
            let again = reserve(&port(Some(Ipv4Addr::LOCALHOST.into()), free, transport)).unwrap_err();
            assert!(matches!(again, ReserveError::InUse { .. }), "{again}");
            let others = match transport {
                Transport::Tcp => TcpListener::bind(("127.0.0.1", free)).map(drop),
                Transport::Udp => UdpSocket::bind(("127.0.0.1", free)).map(drop),
            };
            assert!(others.is_err());
            drop(reserved);
            reserve(&port(None, free, transport)).unwrap();
        }
    }

    #[test]
    fn the_holder_of_a_port_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = port(Some(Ipv4Addr::LOCALHOST.into()), listener.local_addr().unwrap().port(), Transport::Tcp);
        let error = reserve(&taken).unwrap_err();
        let ReserveError::InUse { holder: Some(holder), .. } = &error else { panic!("{error}") };
        assert_eq!(holder.pid, std::process::id());
        assert!(error.to_string().contains("in use by"), "{error}");
    }

    #[test]
    fn addresses_from_which_nothing_can_be_led_are_refused() {
        let error = reserve(&port(Some("192.0.2.1".parse().unwrap()), 8080, Transport::Tcp)).unwrap_err();
        assert!(matches!(error, ReserveError::AddressNotHere { .. }), "{error}");
        let error = reserve(&port(Some(Ipv6Addr::LOCALHOST.into()), 8080, Transport::Tcp)).unwrap_err();
        assert!(matches!(error, ReserveError::LoopbackOfIpv6 { .. }), "{error}");
    }

    #[test]
    fn sockets_of_a_table_are_found_by_their_port() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n\
             1: 0100007F:1F90 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 20 4 30 10 -1\n\
             2: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0\n";
        assert_eq!(inodes_on_port(table, 8080), [4711]);
    }
}
