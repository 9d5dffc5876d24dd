//! A machine made of network namespaces, and small servers and clients in them.
//!
//! ```text
//!   outside 192.0.2.2 ───── 192.0.2.1 host ───── containers
//!           2001:db8::2     2001:db8::1
//! ```

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use insula_network::{ContainerAddresses, ContainerNetwork, Inbound, NetworkConfig, NodeNetwork, Subnets};
use insula_plan::link::Presence;

/// Longest wait for anything that has to happen.
const WAIT: Duration = Duration::from_secs(5);
/// How long before a packet that may have been lost is sent again.
const RESEND: Duration = Duration::from_millis(200);

pub(crate) const HOST4: &str = "192.0.2.1";
pub(crate) const HOST6: &str = "2001:db8::1";
pub(crate) const OUTSIDE4: &str = "192.0.2.2";
pub(crate) const OUTSIDE6: &str = "2001:db8::2";

/// A network namespace that ends with its value.
pub(crate) struct Netns(String);

impl Netns {
    fn new(world: &str, name: &str) -> Self {
        let name = format!("insula-net-{}-{world}-{name}", std::process::id());
        run(&["ip", "netns", "add", &name]);
        let netns = Self(name);
        netns.run(&["ip", "link", "set", "lo", "up"]);
        netns
    }

    pub(crate) fn open(&self) -> File {
        File::open(format!("/run/netns/{}", self.0)).unwrap()
    }

    /// Calls `work` on a thread inside.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let netns = self.open();
        let inside = move || {
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(netns.as_fd(), kind).expect("live tests need root");
            work()
        };
        std::thread::scope(|scope| scope.spawn(inside).join().unwrap())
    }

    /// Runs a program inside and returns what it prints.
    pub(crate) fn run(&self, args: &[&str]) -> String {
        self.enter(|| run(args))
    }

    /// Serves TCP at this port of every address: tells each client its address, as the server sees it.
    pub(crate) fn serve_tcp(&self, port: u16) {
        let listener = self.enter(|| TcpListener::bind(("::", port)).unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { break };
                let peer = stream.peer_addr().map(|peer| peer.ip().to_canonical().to_string());
                let _ = stream.write_all(peer.unwrap_or_default().as_bytes());
            }
        });
    }

    /// What a TCP server there says, or why not.
    pub(crate) fn ask_tcp(&self, address: &str, port: u16) -> Result<String, std::io::Error> {
        let server = SocketAddr::new(address.parse().unwrap(), port);
        self.enter(move || {
            let mut stream = TcpStream::connect_timeout(&server, WAIT)?;
            stream.set_read_timeout(Some(WAIT))?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })
    }

    /// Serves UDP at this port: answers each packet with the sender's address.
    pub(crate) fn serve_udp(&self, port: u16) {
        for family in ["0.0.0.0", "::"] {
            let socket = self.enter(|| {
                let address: IpAddr = family.parse().unwrap();
                bind_udp(SocketAddr::new(address, port))
            });
            std::thread::spawn(move || {
                let mut packet = [0; 64];
                while let Ok((_, peer)) = socket.recv_from(&mut packet) {
                    let _ = socket.send_to(peer.ip().to_string().as_bytes(), peer);
                }
            });
        }
    }

    /// What a UDP server there says.
    pub(crate) fn ask_udp(&self, address: &str, port: u16) -> Result<String, std::io::Error> {
        let server = SocketAddr::new(address.parse().unwrap(), port);
        self.enter(move || {
            let socket = self::bind_udp(any_port(server));
            socket.set_read_timeout(Some(RESEND))?;
            socket.connect(server)?;
            let deadline = Instant::now() + WAIT;
            let mut answer = [0; 64];
            loop {
                socket.send(b"?")?;
                match socket.recv(&mut answer) {
                    Ok(length) => return Ok(String::from_utf8_lossy(&answer[..length]).into_owned()),
                    Err(error) if Instant::now() > deadline => return Err(error),
                    Err(_) => {}
                }
            }
        })
    }

    /// A client that goes on with one flow.
    pub(crate) fn udp_client(&self, address: &str, port: u16) -> UdpSocket {
        let server = SocketAddr::new(address.parse().unwrap(), port);
        self.enter(move || {
            let socket = bind_udp(any_port(server));
            socket.set_read_timeout(Some(WAIT)).unwrap();
            socket.connect(server).unwrap();
            socket
        })
    }

    /// Sends one packet from this source address, which need not be one that others believe.
    pub(crate) fn send_udp(&self, from: &str, to: &str, port: u16, text: &str) {
        let from = SocketAddr::new(from.parse().unwrap(), 0);
        let to = SocketAddr::new(to.parse().unwrap(), port);
        self.enter(move || {
            let _ = bind_udp(from).send_to(text.as_bytes(), to);
        });
    }

    /// A receiver at this address and port.
    pub(crate) fn receiver(&self, address: &str, port: u16) -> Receiver {
        let address = SocketAddr::new(address.parse().unwrap(), port);
        Receiver(self.enter(move || bind_udp(address)))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// IPv6 sockets take no IPv4 packets, so that both families can be served side by side.
fn bind_udp(address: SocketAddr) -> UdpSocket {
    use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt};
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = socket(family, SocketType::DGRAM, None).unwrap();
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, true).unwrap();
    }
    bind(&fd, &address).unwrap();
    UdpSocket::from(fd)
}

fn any_port(like: SocketAddr) -> SocketAddr {
    let address: IpAddr = if like.is_ipv4() { "0.0.0.0" } else { "::" }.parse().unwrap();
    SocketAddr::new(address, 0)
}

/// Receives packets.
pub(crate) struct Receiver(UdpSocket);

impl Receiver {
    /// Everything that arrives up to and with the packet `last`, which `send` sends after all others: again and again,
    /// because the kernel lets packets onto a fresh link a moment after it is up.
    pub(crate) fn until(&self, last: &str, send: impl Fn()) -> Vec<String> {
        self.0.set_read_timeout(Some(RESEND)).unwrap();
        let deadline = Instant::now() + WAIT;
        let mut texts = Vec::new();
        let mut packet = [0; 64];
        send();
        while texts.last().is_none_or(|text| text != last) {
            match self.0.recv(&mut packet) {
                Ok(length) => texts.push(String::from_utf8_lossy(&packet[..length]).into_owned()),
                Err(error) => {
                    assert!(Instant::now() < deadline, "the last packet has to arrive: {error}");
                    send();
                }
            }
        }
        texts
    }
}

/// Runs a program in the calling thread's network namespace and returns what it prints.
fn run(args: &[&str]) -> String {
    let output = Command::new(args[0]).args(&args[1..]).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A host and the world outside.
pub(crate) struct World {
    name: &'static str,
    pub(crate) host: Netns,
    pub(crate) outside: Netns,
}

impl World {
    pub(crate) fn new(name: &'static str) -> Self {
        let (host, outside) = (Netns::new(name, "host"), Netns::new(name, "outside"));
        host.run(&["ip", "link", "add", "up0", "type", "veth", "peer", "name", "up0", "netns", &outside.0]);
        for (netns, addresses) in [(&host, [HOST4, HOST6]), (&outside, [OUTSIDE4, OUTSIDE6])] {
            netns.run(&["ip", "link", "set", "up0", "up"]);
            netns.run(&["ip", "address", "add", &format!("{}/24", addresses[0]), "dev", "up0"]);
            netns.run(&["ip", "address", "add", &format!("{}/64", addresses[1]), "dev", "up0", "nodad"]);
        }
        Self { name, host, outside }
    }

    /// A node on the host, with the `index`th subnets.
    pub(crate) fn node(&self, node: &str, index: u32, inbound: Inbound) -> NodeNetwork {
        let config = NetworkConfig { inbound, ..NetworkConfig::standard() };
        let subnets = Subnets {
            ipv4: config.ipv4_range.part(config.ipv4_bits, index).unwrap(),
            ipv6: config.ipv6_range.unwrap().part(64, index),
        };
        let network = NodeNetwork::new(node.parse().unwrap(), &config, subnets, Presence::Present);
        self.host.enter(|| {
            insula_network::ensure_forwarding(&network).unwrap();
            insula_network::ensure_node_addresses(&network).unwrap();
            network.install_table(&[]).unwrap();
        });
        network
    }

    /// Starts a container's network with the number `number` in its subnets.
    pub(crate) fn container(&self, network: &NodeNetwork, number: u32, ports: &[&str]) -> Container {
        let description = ContainerNetwork {
            id: format!("{number:08x}-{:04x}-4000-8000-000000000000", network.subnets.ipv4.network().octets()[2])
                .parse()
                .unwrap(),
            addresses: ContainerAddresses {
                ipv4: network.subnets.ipv4.address(number).unwrap(),
                ipv6: network.subnets.ipv6.and_then(|block| block.address(number)),
            },
            ports: ports.iter().map(|port| port.parse().unwrap()).collect(),
        };
        let netns = Netns::new(self.name, &format!("{}-{number}", network.node));
        let steps = network.start_steps(&description);
        let inside = netns.open();
        self.host.enter(|| {
            for step in &steps.outside {
                step.perform(Some(inside.as_fd())).unwrap();
            }
        });
        netns.enter(|| {
            for step in &steps.inside {
                step.perform(None).unwrap();
            }
        });
        Container { description, netns }
    }

    /// Sweeps a container's network.
    pub(crate) fn sweep(&self, network: &NodeNetwork, container: &Container) {
        self.host.enter(|| {
            for step in network.sweep_steps(&container.description) {
                step.perform(None).unwrap();
            }
        });
    }
}

/// A container's network, without a container.
pub(crate) struct Container {
    pub(crate) description: ContainerNetwork,
    pub(crate) netns: Netns,
}

impl Container {
    pub(crate) fn ipv4(&self) -> String {
        self.description.addresses.ipv4.to_string()
    }

    pub(crate) fn ipv6(&self) -> String {
        self.description.addresses.ipv6.unwrap().to_string()
    }

    /// IPv4 and IPv6.
    pub(crate) fn both(&self) -> [String; 2] {
        [self.ipv4(), self.ipv6()]
    }
}
