//! Steps on a container's link: what a start and a sweep do on the host, and what a container does inside its own
//! network namespace.
//!
//! ```text
//!   host                                              container
//!   ┌──────────────────────────┐                      ┌──────────────────────────────┐
//!   │ insulaxxxxxxxxx          │◄── Connect ─────────►│ eth0                         │
//!   │   route  address/32      │                      │   address/32   (Configure)   │
//!   │   neighbour address→mac  │                      │   neighbour gateway→mac      │
//!   │ maps of the filter table │ Publish, Unpublish   │   default route via gateway  │
//!   └──────────────────────────┘                      └──────────────────────────────┘
//! ```
//!
//! Steps are plain data. Those that make something fail if it is there; those that remove something may be done
//! again.

use std::fmt;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use insula_kernel::netlink::{
    Inet4Settings, InterfaceAddress, LinkIndex, LinkName, LinkNameError, LinkSettings, MacAddress, Neighbour,
    RequestError, Route, RouteRequest, RouteSocket, VethEnd, VethPair,
};
use insula_kernel::nfnetlink::{Connections, Element, Field, FilterSocket, SetElements};
use minicbor::{Decode, Encode};
use rustix::io::Errno;

/// Requests of one send to the tracker of connections.
const CONNECTIONS_PER_SEND: usize = 32;

/// One step on a link.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum LinkStep {
    /// On the host: makes the pair, one end in the container's network namespace, and the way to its addresses.
    #[n(0)]
    Connect {
        /// Both ends and the way.
        #[n(0)]
        link: HostLink,
    },
    /// Inside: gives the container's end its addresses and the way out, and the loopback its state.
    #[n(1)]
    Configure {
        /// The container's end.
        #[n(0)]
        link: InnerLink,
    },
    /// Inside: sets the loopback up, and nothing else.
    #[n(2)]
    LoopbackUp,
    /// On the host: adds elements to sets and maps of a filter table, all or none.
    #[n(3)]
    Publish {
        /// The table, of family `inet`.
        #[n(0)]
        table: String,
        /// What to add.
        #[n(1)]
        elements: Vec<FilterElement>,
    },
    /// On the host: removes those elements that are there and still lead where these do. Idempotent.
    #[n(4)]
    Unpublish {
        /// The table, of family `inet`.
        #[n(0)]
        table: String,
        /// What to remove.
        #[n(1)]
        elements: Vec<FilterElement>,
    },
    /// On the host: removes a link, and with it the other end, routes and neighbours. Idempotent.
    #[n(5)]
    DeleteLink {
        /// The host's end.
        #[n(0)]
        name: String,
    },
    /// On the host: forgets tracked connections, so that those who go on sending are led where the table says now.
    /// A kernel that tracks no connections has none to forget.
    #[n(6)]
    ForgetConnections {
        /// Connections answered by these addresses.
        #[n(0)]
        answered_by: Vec<IpAddr>,
        /// UDP flows to these ports.
        #[n(1)]
        udp_to: Vec<u16>,
    },
}

/// The host's end of a pair, and what the host has to know about the other.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct HostLink {
    /// Name of the host's end.
    #[n(0)]
    pub name: String,
    /// Its description, by which its owner finds it again.
    #[n(1)]
    pub alias: String,
    /// Its hardware address.
    #[n(2)]
    pub mac: [u8; 6],
    /// Name of the container's end.
    #[n(3)]
    pub inner_name: String,
    /// Its hardware address.
    #[n(4)]
    pub inner_mac: [u8; 6],
    /// Largest packet in bytes.
    #[n(5)]
    pub mtu: u32,
    /// The container's addresses.
    #[n(6)]
    pub addresses: Vec<HostRoute>,
    /// Whether the kernel has IPv6 at all, so that its automatic addresses have to be taken away.
    #[n(7)]
    pub ipv6: Presence,
    /// Whether 127.0.0.1 of the host may lead here.
    #[n(8)]
    pub loopback_publishing: Presence,
}

/// Whether something is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Presence {
    /// It is not.
    #[n(0)]
    Absent,
    /// It is.
    #[n(1)]
    Present,
}

/// The way from the host to one address of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct HostRoute {
    /// The container's address.
    #[n(0)]
    pub address: IpAddr,
    /// The host's own address when it speaks to the container.
    #[n(1)]
    pub source: IpAddr,
}

/// The container's end of a pair.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct InnerLink {
    /// Its name.
    #[n(0)]
    pub name: String,
    /// Its addresses, each a network of its own, with the gateway of each.
    #[n(1)]
    pub addresses: Vec<InnerRoute>,
    /// Hardware address of every gateway.
    #[n(2)]
    pub gateway_mac: [u8; 6],
    /// Whether the kernel has IPv6 at all.
    #[n(3)]
    pub ipv6: Presence,
}

/// An address of a container, and its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct InnerRoute {
    /// The container's address.
    #[n(0)]
    pub address: IpAddr,
    /// Where everything else goes.
    #[n(1)]
    pub gateway: IpAddr,
}

/// An element of one set or map.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct FilterElement {
    /// The set or map.
    #[n(0)]
    pub set: String,
    /// Fields in the order of its type.
    #[n(1)]
    pub key: Vec<FilterField>,
    /// Fields in the order of its type; empty for a set.
    #[n(2)]
    pub value: Vec<FilterField>,
}

/// One field of a key or of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum FilterField {
    /// `ipv4_addr` or `ipv6_addr`.
    #[n(0)]
    Address(#[n(0)] IpAddr),
    /// `inet_proto`: 6 is TCP, 17 is UDP.
    #[n(1)]
    Protocol(#[n(0)] u8),
    /// `inet_service`: a port.
    #[n(2)]
    Port(#[n(0)] u16),
}

/// A step on a link failed.
#[derive(Debug, thiserror::Error)]
pub enum LinkStepError {
    /// No socket to the kernel.
    #[error("{call}")]
    Socket {
        /// The call: `socket(NETLINK_ROUTE)`.
        call: &'static str,
        /// Why.
        #[source]
        errno: Errno,
    },
    /// The kernel refused.
    #[error("{action}")]
    Refused {
        /// What was attempted, on which link or table: `connect insulaabcdefghi`.
        action: String,
        /// Which request, and why.
        #[source]
        cause: RequestError,
    },
    /// The plan names a link as the kernel names none.
    #[error("link of the plan")]
    Name(#[from] LinkNameError),
    /// The step stands before the container's process was made.
    #[error("no network namespace to connect {name} to")]
    NoNamespace {
        /// The host's end.
        name: String,
    },
}

/// Where a step has its effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkSide {
    /// The host's network namespace.
    Host,
    /// The container's.
    Container,
}

impl fmt::Display for LinkStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect { link } => write!(f, "connect {}", link.name),
            Self::Configure { link } => write!(f, "configure {}", link.name),
            Self::LoopbackUp => f.write_str("set loopback up"),
            Self::Publish { table, .. } => write!(f, "publish in table {table}"),
            Self::Unpublish { table, .. } => write!(f, "unpublish in table {table}"),
            Self::DeleteLink { name } => write!(f, "delete link {name}"),
            Self::ForgetConnections { .. } => f.write_str("forget connections"),
        }
    }
}

impl LinkStep {
    /// Which network namespace the calling thread has to be in.
    #[must_use]
    pub fn side(&self) -> LinkSide {
        match self {
            Self::Configure { .. } | Self::LoopbackUp => LinkSide::Container,
            _ => LinkSide::Host,
        }
    }

    /// Does the step in the calling thread's network namespace. `container` is the other one, an open
    /// `/proc/PID/ns/net`, which only [`LinkStep::Connect`] needs.
    ///
    /// # Errors
    ///
    /// The first call that failed; a failed [`LinkStep::Connect`] may leave the link, for the sweep to delete.
    pub fn perform(&self, container: Option<BorrowedFd<'_>>) -> Result<(), LinkStepError> {
        match self {
            Self::Connect { link } => {
                let netns = container.ok_or_else(|| LinkStepError::NoNamespace { name: link.name.clone() })?;
                link.connect(netns)
            }
            Self::Configure { link } => link.configure(),
            Self::LoopbackUp => self.refused(route_socket()?.perform(&[loopback_up(&loopback())])),
            Self::Publish { table, elements } => self.refused(filter_socket()?.add(&grouped(table, elements))),
            Self::Unpublish { table, elements } => {
                self.refused(filter_socket()?.ensure_absent(&grouped(table, elements)))
            }
            Self::DeleteLink { name } => {
                self.refused(route_socket()?.ensure_link_absent(&LinkName::new(name.as_str())?))
            }
            Self::ForgetConnections { answered_by, udp_to } => {
                let answered = answered_by.iter().copied().map(Connections::AnsweredBy);
                let flows = udp_to.iter().flat_map(|port| [Connections::Udp4To(*port), Connections::Udp6To(*port)]);
                let all: Vec<_> = answered.chain(flows).collect();
                let mut socket = filter_socket()?;
                for some in all.chunks(CONNECTIONS_PER_SEND) {
                    match socket.forget(some) {
                        Err(error) if matches!(error.errno, Errno::INVAL | Errno::NOENT | Errno::OPNOTSUPP) => {}
                        done => self.refused(done)?,
                    }
                }
                Ok(())
            }
        }
    }

    fn refused<T>(&self, done: Result<T, RequestError>) -> Result<T, LinkStepError> {
        done.map_err(|cause| LinkStepError::Refused { action: self.to_string(), cause })
    }
}

fn route_socket() -> Result<RouteSocket, LinkStepError> {
    RouteSocket::open().map_err(|errno| LinkStepError::Socket { call: "socket(NETLINK_ROUTE)", errno })
}

fn filter_socket() -> Result<FilterSocket, LinkStepError> {
    FilterSocket::open().map_err(|errno| LinkStepError::Socket { call: "socket(NETLINK_NETFILTER)", errno })
}

fn loopback() -> LinkName {
    LinkName::new("lo").expect("a valid name")
}

fn loopback_up(name: &LinkName) -> RouteRequest<'_> {
    RouteRequest::SetLink { name, settings: LinkSettings::up() }
}

/// Bits of an address that stands alone.
fn all_bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The destination of the default route of an address's family.
fn everything(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::from([0; 4]),
        IpAddr::V6(_) => IpAddr::from([0; 16]),
    }
}

impl HostLink {
    /// Two sends: the index of the new link has to be known before anything can lead to it.
    fn connect(&self, netns: BorrowedFd<'_>) -> Result<(), LinkStepError> {
        let refused = |cause| LinkStepError::Refused { action: format!("connect {}", self.name), cause };
        let name = LinkName::new(self.name.as_str())?;
        let pair = VethPair {
            here: VethEnd { name: name.clone(), mac: MacAddress(self.mac) },
            there: VethEnd { name: LinkName::new(self.inner_name.as_str())?, mac: MacAddress(self.inner_mac) },
            netns,
            mtu: self.mtu,
            tx_queue_packets: 1000,
        };
        let mut socket = route_socket()?;
        let make = [
            RouteRequest::CreateVeth(pair),
            RouteRequest::SetLink { name: &name, settings: self.closed() },
            RouteRequest::SetLink { name: &name, settings: LinkSettings::up() },
        ];
        let index = socket.perform_then_find(&make, &name).map_err(refused)?;
        let lead = self.addresses.iter().flat_map(|route| {
            [RouteRequest::SetNeighbour(self.neighbour(index, *route)), RouteRequest::AddRoute(way(index, *route))]
        });
        let lead: Vec<_> = lead.collect();
        socket.perform(&lead).map_err(refused)
    }

    /// Makes the link's settings and the way to the addresses of a running container as [`LinkStep::Connect`] made them.
    /// Where there is no such link nothing is made: its container is gone, or about to be.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn mend(&self, socket: &mut RouteSocket) -> Result<(), LinkStepError> {
        let refused = |cause| LinkStepError::Refused { action: format!("mend {}", self.name), cause };
        let name = LinkName::new(self.name.as_str())?;
        let Some(index) = socket.link_index(&name).map_err(refused)? else { return Ok(()) };
        let mut requests = vec![
            RouteRequest::SetLink { name: &name, settings: self.closed() },
            RouteRequest::SetLink { name: &name, settings: LinkSettings::up() },
        ];
        for route in &self.addresses {
            requests.push(RouteRequest::SetNeighbour(self.neighbour(index, *route)));
            requests.push(RouteRequest::SetRoute(way(index, *route)));
        }
        match socket.perform(&requests) {
            Err(error) if error.errno == Errno::NODEV => Ok(()),
            done => done.map_err(refused),
        }
    }

    /// Before the link is up: nothing on it is asked, answered or believed. Whoever is behind it cannot fill the
    /// host's neighbour table, learn the host's addresses or send it elsewhere.
    fn closed(&self) -> LinkSettings {
        LinkSettings {
            up: None,
            arp: Some(false),
            alias: Some(self.alias.clone()),
            without_automatic_ipv6: self.ipv6 == Presence::Present,
            inet4: Inet4Settings {
                accept_redirects: Some(false),
                send_redirects: Some(false),
                route_localnet: (self.loopback_publishing == Presence::Present).then_some(true),
            },
        }
    }

    fn neighbour(&self, link: LinkIndex, route: HostRoute) -> Neighbour {
        Neighbour { link, address: route.address, mac: MacAddress(self.inner_mac) }
    }
}

/// The route to a container's address.
fn way(link: LinkIndex, HostRoute { address, source }: HostRoute) -> Route {
    Route { destination: address, prefix_bits: all_bits(address), link, gateway: None, source: Some(source) }
}

impl InnerLink {
    fn configure(&self) -> Result<(), LinkStepError> {
        let refused = |cause| LinkStepError::Refused { action: format!("configure {}", self.name), cause };
        let name = LinkName::new(self.name.as_str())?;
        let loopback = loopback();
        let mut socket = route_socket()?;
        let mut bring_up = vec![loopback_up(&loopback)];
        if self.ipv6 == Presence::Present {
            let settings = LinkSettings { without_automatic_ipv6: true, ..LinkSettings::default() };
            bring_up.push(RouteRequest::SetLink { name: &name, settings });
        }
        bring_up.push(RouteRequest::SetLink { name: &name, settings: LinkSettings::up() });
        let index = socket.perform_then_find(&bring_up, &name).map_err(refused)?;
        let lead: Vec<_> = self.addresses.iter().flat_map(|route| self.lead(index, *route)).collect();
        socket.perform(&lead).map_err(refused)
    }

    fn lead(&self, link: LinkIndex, route: InnerRoute) -> [RouteRequest<'_>; 3] {
        let InnerRoute { address, gateway } = route;
        [
            RouteRequest::AddAddress(InterfaceAddress { link, address, prefix_bits: all_bits(address), label: None }),
            RouteRequest::SetNeighbour(Neighbour { link, address: gateway, mac: MacAddress(self.gateway_mac) }),
            RouteRequest::AddRoute(Route {
                destination: everything(address),
                prefix_bits: 0,
                link,
                gateway: Some(gateway),
                source: None,
            }),
        ]
    }
}

impl From<FilterField> for Field {
    fn from(field: FilterField) -> Self {
        match field {
            FilterField::Address(IpAddr::V4(address)) => Self::Ipv4(address),
            FilterField::Address(IpAddr::V6(address)) => Self::Ipv6(address),
            FilterField::Protocol(number) => Self::Protocol(number),
            FilterField::Port(number) => Self::Port(number),
        }
    }
}

/// Elements by set, in the order in which the sets first appear.
fn grouped<'a>(table: &'a str, elements: &'a [FilterElement]) -> Vec<SetElements<'a>> {
    let mut sets: Vec<SetElements<'a>> = Vec::new();
    let fields = |fields: &[FilterField]| fields.iter().copied().map(Field::from).collect();
    for element in elements {
        let one = Element { key: fields(&element.key), value: fields(&element.value) };
        match sets.iter_mut().find(|set| set.set == element.set) {
            Some(set) => set.elements.push(one),
            None => sets.push(SetElements { table, set: &element.set, elements: vec![one] }),
        }
    }
    sets
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::process::Command;

    use super::*;

    const INNER: &str = "10.87.255.2";
    const SOURCE: &str = "10.87.255.1";

    fn host_link() -> HostLink {
        HostLink {
            name: "insulatestlink".to_owned(),
            alias: "insula:test:1".to_owned(),
            mac: [6, 0, 0, 0, 0, 1],
            inner_name: "eth0".to_owned(),
            inner_mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            addresses: vec![
                HostRoute { address: INNER.parse().unwrap(), source: SOURCE.parse().unwrap() },
                HostRoute { address: "fd49::2".parse().unwrap(), source: "fd49::1".parse().unwrap() },
            ],
            ipv6: Presence::Present,
            loopback_publishing: Presence::Present,
        }
    }

    fn inner_link() -> InnerLink {
        InnerLink {
            name: "eth0".to_owned(),
            addresses: vec![
                InnerRoute { address: INNER.parse().unwrap(), gateway: "169.254.1.1".parse().unwrap() },
                InnerRoute { address: "fd49::2".parse().unwrap(), gateway: "fe80::1".parse().unwrap() },
            ],
            gateway_mac: [6, 0, 0, 0, 0, 1],
            ipv6: Presence::Present,
        }
    }

    fn publish() -> Vec<FilterElement> {
        vec![FilterElement {
            set: "ports".to_owned(),
            key: vec![FilterField::Protocol(6), FilterField::Port(8080)],
            value: vec![FilterField::Address(INNER.parse().unwrap()), FilterField::Port(80)],
        }]
    }

    #[test]
    fn every_step_reads_back_from_its_bytes() {
        let table = "insula_test".to_owned();
        let steps = vec![
            LinkStep::Connect { link: host_link() },
            LinkStep::Configure { link: inner_link() },
            LinkStep::LoopbackUp,
            LinkStep::Publish { table: table.clone(), elements: publish() },
            LinkStep::Unpublish { table, elements: publish() },
            LinkStep::DeleteLink { name: "insulatestlink".to_owned() },
            LinkStep::ForgetConnections { answered_by: vec![INNER.parse().unwrap()], udp_to: vec![53] },
        ];
        let bytes = minicbor::to_vec(&steps).unwrap();
        assert_eq!(minicbor::decode::<Vec<LinkStep>>(&bytes).unwrap(), steps);
    }

    #[test]
    fn a_link_without_a_process_and_a_name_of_none_are_refused_before_anything_is_done() {
        let error = LinkStep::Connect { link: host_link() }.perform(None).unwrap_err();
        assert!(matches!(error, LinkStepError::NoNamespace { .. }), "{error}");
        let error = LinkStep::DeleteLink { name: "eth%d".to_owned() }.perform(None).unwrap_err();
        assert!(matches!(error, LinkStepError::Name(_)), "{error}");
    }

    /// A network namespace that ends with the test.
    struct Netns(String);

    impl Netns {
        fn new(tag: &str) -> Self {
            let name = format!("insula-plan-{}-{tag}", std::process::id());
            run(&["ip", "netns", "add", &name]);
            Self(name)
        }

        fn open(&self) -> File {
            File::open(format!("/run/netns/{}", self.0)).unwrap()
        }

        fn enter(&self) {
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(self.open().as_fd(), kind).unwrap();
        }
    }

    impl Drop for Netns {
        fn drop(&mut self) {
            let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
        }
    }

    /// Runs a program in the calling thread's network namespace and returns what it prints.
    fn run(args: &[&str]) -> String {
        let output = Command::new(args[0]).args(&args[1..]).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn live_a_link_is_made_used_and_swept() {
        let (host, container) = (Netns::new("host"), Netns::new("inner"));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                host.enter();
                run(&["ip", "link", "set", "lo", "up"]);
                run(&["ip", "address", "add", "10.87.255.1/32", "dev", "lo"]);
                // Without a look for others of its kind it is there at once.
                run(&["ip", "address", "add", "fd49::1/128", "dev", "lo", "nodad"]);
                let netns = container.open();
                let connect = LinkStep::Connect { link: host_link() };
                let begin = std::time::Instant::now();
                connect.perform(Some(netns.as_fd())).unwrap();
                println!("connect: {:?}", begin.elapsed());
                let error = connect.perform(Some(netns.as_fd())).unwrap_err();
                let LinkStepError::Refused { cause, .. } = error else { panic!("{error}") };
                assert_eq!((cause.request, cause.errno), (0, Errno::EXIST));
            });
        });
        std::thread::scope(|scope| {
            scope.spawn(|| {
                container.enter();
                let begin = std::time::Instant::now();
                LinkStep::Configure { link: inner_link() }.perform(None).unwrap();
                println!("configure: {:?}", begin.elapsed());
                assert!(run(&["ip", "route"]).contains("default via 169.254.1.1 dev eth0 proto static onlink"));
                assert!(!run(&["ip", "-6", "address", "show", "dev", "eth0"]).contains("fe80"));
                let pinger = run(&["ip", "neighbour"]);
                assert!(pinger.contains("169.254.1.1 dev eth0 lladdr 06:00:00:00:00:01 PERMANENT"), "{pinger}");
            });
        });
        std::thread::scope(|scope| {
            scope.spawn(|| {
                host.enter();
                assert!(run(&["ip", "-d", "link", "show", "insulatestlink"]).contains("alias insula:test:1"));
                for address in [INNER, "fd49::2"] {
                    run(&["busybox", "ping", "-c", "1", "-W", "2", address]);
                }
                assert_eq!(RouteSocket::open().unwrap().links_with_prefix("insula").unwrap().len(), 1);
                let delete = LinkStep::DeleteLink { name: "insulatestlink".to_owned() };
                delete.perform(None).unwrap();
                delete.perform(None).unwrap();
                assert_eq!(run(&["ip", "route"]), "");
            });
        });
    }

    #[test]
    fn live_elements_are_published_once_and_removed_only_by_their_owner() {
        let host = Netns::new("filter");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                host.enter();
                let table = || "insula_test".to_owned();
                run(&["nft", "add table inet insula_test"]);
                run(&[
                    "nft",
                    "add map inet insula_test ports { type inet_proto . inet_service : ipv4_addr . inet_service; }",
                ]);
                let publish_step = LinkStep::Publish { table: table(), elements: publish() };
                publish_step.perform(None).unwrap();
                publish_step.perform(None).unwrap();
                let list = || run(&["nft", "list", "map", "inet", "insula_test", "ports"]);
                assert!(list().contains("tcp . 8080 : 10.87.255.2 . 80"), "{}", list());

                let mut others = publish();
                others[0].value[1] = FilterField::Port(81);
                let error = LinkStep::Publish { table: table(), elements: others.clone() }.perform(None).unwrap_err();
                let LinkStepError::Refused { cause, .. } = error else { panic!("{error}") };
                assert!(matches!(cause.errno, Errno::BUSY | Errno::EXIST), "{cause}");
                LinkStep::Unpublish { table: table(), elements: others }.perform(None).unwrap();
                assert!(list().contains("tcp . 8080"), "another's element must stay");

                let unpublish = LinkStep::Unpublish { table: table(), elements: publish() };
                unpublish.perform(None).unwrap();
                unpublish.perform(None).unwrap();
                assert!(!list().contains("tcp . 8080"), "{}", list());
                LinkStep::Unpublish { table: "insula_gone".to_owned(), elements: publish() }.perform(None).unwrap();
            });
        });
    }
}
