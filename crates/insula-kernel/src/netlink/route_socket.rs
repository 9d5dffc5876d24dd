//! The `NETLINK_ROUTE` socket and the requests it takes.

use netlink_packet_core::{Emitable, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::AddressMessage;
use rustix::io::Errno;

use super::link::{self, LinkEntry, LinkSettings, VethPair};
use super::{Frame, InterfaceAddress, LinkIndex, LinkName, Neighbour, NetlinkSocket, Reply, RequestError, Route};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_NEWNEIGH: u16 = 28;

/// One change of the network of a namespace. Makes fail with `EEXIST` if the object is there, unless said otherwise.
#[derive(Debug)]
pub enum RouteRequest<'a> {
    /// Makes both ends, down.
    CreateVeth(VethPair<'a>),
    /// Changes a link; `ENODEV` if there is none of this name.
    SetLink {
        /// Its name.
        name: &'a LinkName,
        /// What to change.
        settings: LinkSettings,
    },
    /// Gives a link another name; it must be down on kernels before 6.2.
    RenameLink {
        /// The link.
        link: LinkIndex,
        /// Its new name.
        name: &'a LinkName,
    },
    /// Removes a link and, of a pair, the other end; `ENODEV` if there is none of this name.
    DeleteLink(&'a LinkName),
    /// Gives a link an address.
    AddAddress(InterfaceAddress),
    /// Takes one away; `EADDRNOTAVAIL` if it is not there.
    RemoveAddress(InterfaceAddress),
    /// Adds a route.
    AddRoute(Route),
    /// Adds a route, or replaces the one to the same destination.
    SetRoute(Route),
    /// Takes one away; `ESRCH` if it is not there.
    RemoveRoute(Route),
    /// Adds or replaces a permanent neighbour.
    SetNeighbour(Neighbour),
}

impl RouteRequest<'_> {
    fn frame(&self) -> Frame {
        let make = NLM_F_CREATE | NLM_F_EXCL;
        match self {
            Self::CreateVeth(pair) => frame(RTM_NEWLINK, make, &pair.message()),
            Self::SetLink { name, settings } => frame(RTM_SETLINK, 0, &settings.message(name)),
            Self::RenameLink { link, name } => frame(RTM_SETLINK, 0, &link::rename(*link, name)),
            Self::DeleteLink(name) => frame(RTM_DELLINK, 0, &link::named(name)),
            Self::AddAddress(address) => frame(RTM_NEWADDR, make, &address.message()),
            Self::RemoveAddress(address) => frame(RTM_DELADDR, 0, &address.message()),
            Self::AddRoute(route) => frame(RTM_NEWROUTE, make, &route.message()),
            Self::SetRoute(route) => frame(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &route.message()),
            Self::RemoveRoute(route) => frame(RTM_DELROUTE, 0, &route.message()),
            Self::SetNeighbour(neighbour) => frame(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &neighbour.message()),
        }
    }
}

fn frame(kind: u16, flags: u16, message: &impl Emitable) -> Frame {
    let mut payload = vec![0; message.buffer_len()];
    message.emit(&mut payload);
    Frame { kind, flags: flags | NLM_F_ACK, payload }
}

/// A socket to the network of the namespace in which it was opened.
#[derive(Debug)]
pub struct RouteSocket(NetlinkSocket);

impl RouteSocket {
    /// `socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE)`
    ///
    /// # Errors
    ///
    /// - `EMFILE`, `ENOMEM`: no room for another file.
    ///
    /// Source: rtnetlink(7).
    pub fn open() -> Result<Self, Errno> {
        NetlinkSocket::open(None).map(Self)
    }

    /// Does all requests, 64 at most, in one `send`.
    ///
    /// # Errors
    ///
    /// The first request that the kernel refused; those after it may have been done. `EPERM` without
    /// `CAP_NET_ADMIN` in the user namespace that owns this network namespace.
    ///
    /// Source: rtnetlink(7).
    pub fn perform(&mut self, requests: &[RouteRequest<'_>]) -> Result<(), RequestError> {
        let frames: Vec<Frame> = requests.iter().map(RouteRequest::frame).collect();
        self.0.transact(&frames).map(drop)
    }

    /// As [`RouteSocket::perform`], then `ioctl(SIOCGIFINDEX)` for a link's index.
    ///
    /// Not by `RTM_GETLINK`: that first brings the link's queues into the state that its carrier asks for, and waits for
    /// a grace period when the other end of a pair is still down.
    ///
    /// # Errors
    ///
    /// As [`RouteSocket::perform`]; the question counts as the last request and answers `ENODEV` for no such link.
    ///
    /// Source: netdevice(7); net/core/rtnetlink.c, `rtnl_getlink`.
    pub fn perform_then_find(
        &mut self,
        requests: &[RouteRequest<'_>],
        name: &LinkName,
    ) -> Result<LinkIndex, RequestError> {
        self.perform(requests)?;
        let found = rustix::net::netdevice::name_to_index(&self.0, name.as_str());
        found.and_then(|index| LinkIndex::new(index).ok_or(Errno::NODEV)).map_err(|errno| RequestError {
            request: requests.len(),
            requests: requests.len() + 1,
            explanation: None,
            errno,
        })
    }

    /// Index of the link with this name, if there is one.
    ///
    /// # Errors
    ///
    /// The kernel did not answer.
    pub fn link_index(&mut self, name: &LinkName) -> Result<Option<LinkIndex>, RequestError> {
        match self.perform_then_find(&[], name) {
            Ok(index) => Ok(Some(index)),
            Err(error) if error.errno == Errno::NODEV => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes a link if it is there. Idempotent.
    ///
    /// # Errors
    ///
    /// As [`RouteSocket::perform`], without `ENODEV`.
    pub fn ensure_link_absent(&mut self, name: &LinkName) -> Result<(), RequestError> {
        match self.perform(&[RouteRequest::DeleteLink(name)]) {
            Err(error) if error.errno == Errno::NODEV => Ok(()),
            done => done,
        }
    }

    /// All addresses of a link, of both families. Reads the whole list.
    ///
    /// # Errors
    ///
    /// The kernel did not answer.
    ///
    /// Source: rtnetlink(7), `RTM_GETADDR`.
    pub fn addresses(&mut self, link: LinkIndex) -> Result<Vec<InterfaceAddress>, RequestError> {
        let mut question = frame(RTM_GETADDR, NLM_F_DUMP, &AddressMessage::default());
        question.flags = NLM_F_DUMP;
        let replies = self.0.transact(&[question])?.into_iter().filter(|reply| reply.kind == RTM_NEWADDR);
        let parsed = replies.filter_map(|reply| InterfaceAddress::parse(&reply.payload));
        Ok(parsed.filter(|address| address.link == link).collect())
    }

    /// All links whose names begin with `prefix`. Reads the whole list.
    ///
    /// # Errors
    ///
    /// The kernel did not answer.
    pub fn links_with_prefix(&mut self, prefix: &str) -> Result<Vec<LinkEntry>, RequestError> {
        let mut question = frame(RTM_GETLINK, NLM_F_DUMP, &link::query());
        question.flags = NLM_F_DUMP;
        let replies = self.0.transact(&[question])?;
        Ok(entries(replies).filter(|entry| entry.name.as_str().starts_with(prefix)).collect())
    }
}

fn entries(replies: Vec<Reply>) -> impl Iterator<Item = LinkEntry> {
    replies.into_iter().filter(|reply| reply.kind == RTM_NEWLINK).filter_map(|reply| LinkEntry::parse(&reply.payload))
}
