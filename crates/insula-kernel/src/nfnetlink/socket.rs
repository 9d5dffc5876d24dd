//! The `NETLINK_NETFILTER` socket.

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP};
use rustix::io::Errno;
use rustix::net::netlink;

use super::connection::{self, Connections};
use super::element::{Element, SetElements, Values, generic_header, holds};
use crate::netlink::{Frame, NetlinkSocket, RequestError};

const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWSETELEM: u16 = NFNL_SUBSYS_NFTABLES << 8 | 12;
const NFT_MSG_GETSETELEM: u16 = NFNL_SUBSYS_NFTABLES << 8 | 13;
const NFT_MSG_DELSETELEM: u16 = NFNL_SUBSYS_NFTABLES << 8 | 14;
const IPCTNL_MSG_CT_GET: u16 = 1 << 8 | 1;
const IPCTNL_MSG_CT_DELETE: u16 = 1 << 8 | 2;
/// Elements in one message, which says its length in 16 bits.
const ELEMENTS_MAX: usize = 256;

/// A socket to the packet filter of the namespace in which it was opened.
#[derive(Debug)]
pub struct FilterSocket(NetlinkSocket);

impl FilterSocket {
    /// `socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER)`
    ///
    /// # Errors
    ///
    /// - `EPROTONOSUPPORT`: the kernel has no netfilter.
    ///
    /// Source: netlink(7).
    pub fn open() -> Result<Self, Errno> {
        NetlinkSocket::open(Some(netlink::NETFILTER)).map(Self)
    }

    /// Adds elements to sets and maps, all or none. An element that is there already with the same value is no failure.
    ///
    /// # Errors
    ///
    /// The request counts the sets from 1. `ENOENT`: no such table or set. `EBUSY` or, on newer
    /// kernels, `EEXIST`: the key leads elsewhere already.
    /// `EINVAL`: the fields are not the set's. `E2BIG`: more than 256 elements for one set.
    ///
    /// Source: `nf_tables_newsetelem` in net/netfilter/nf_tables_api.c.
    pub fn add(&mut self, sets: &[SetElements<'_>]) -> Result<(), RequestError> {
        self.batch(sets, NFT_MSG_NEWSETELEM, NLM_F_CREATE)
    }

    /// Removes those elements that are there with exactly these values. Idempotent: a table, set or element that is
    /// not there is no failure, and a key that leads elsewhere by now is left alone.
    ///
    /// # Errors
    ///
    /// `EPERM` without `CAP_NET_ADMIN` in the user namespace that owns this network namespace.
    ///
    /// Source: `nf_tables_delsetelem` in net/netfilter/nf_tables_api.c, which looks at keys only.
    pub fn ensure_absent(&mut self, sets: &[SetElements<'_>]) -> Result<(), RequestError> {
        for set in sets {
            for element in &set.elements {
                if !self.holds(set, element)? {
                    continue;
                }
                let one = SetElements { table: set.table, set: set.set, elements: vec![element.clone()] };
                match self.batch(&[one], NFT_MSG_DELSETELEM, 0) {
                    Err(error) if error.errno == Errno::NOENT => {}
                    done => done?,
                }
            }
        }
        Ok(())
    }

    /// Whether the set holds the element, with exactly this value. A table or set that is not there holds nothing.
    ///
    /// # Errors
    ///
    /// The kernel did not answer.
    pub fn holds(&mut self, set: &SetElements<'_>, element: &Element) -> Result<bool, RequestError> {
        let question = SetElements { table: set.table, set: set.set, elements: vec![element.clone()] };
        let payload = question.payload(Values::Left);
        match self.0.transact(&[Frame { kind: NFT_MSG_GETSETELEM, flags: NLM_F_ACK, payload }]) {
            Ok(replies) => {
                Ok(replies.iter().any(|reply| reply.kind == NFT_MSG_NEWSETELEM && holds(&reply.payload, element)))
            }
            Err(error) if error.errno == Errno::NOENT => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Forgets tracked connections, so that their next packets are led by the rules of now. Walks the whole table of
    /// connections for each.
    ///
    /// # Errors
    ///
    /// `EINVAL`: the kernel does not track connections.
    ///
    /// Source: `ctnetlink_del_conntrack` in net/netfilter/nf_conntrack_netlink.c.
    pub fn forget(&mut self, connections: &[Connections]) -> Result<(), RequestError> {
        let frame =
            |which: &Connections| Frame { kind: IPCTNL_MSG_CT_DELETE, flags: NLM_F_ACK, payload: which.payload() };
        match self.0.transact(&connections.iter().map(frame).collect::<Vec<_>>()) {
            // Before 6.18 or so only whole tuples name what to forget, but parts of them what to tell (from 5.8).
            Err(error) if error.errno == Errno::INVAL => {
                connections.iter().try_for_each(|which| self.forget_one_by_one(*which))
            }
            done => done.map(drop),
        }
    }

    fn forget_one_by_one(&mut self, which: Connections) -> Result<(), RequestError> {
        let question = Frame { kind: IPCTNL_MSG_CT_GET, flags: NLM_F_DUMP, payload: which.payload() };
        for told in self.0.transact(&[question])? {
            let Some(payload) = connection::this_one(&told.payload) else { continue };
            match self.0.transact(&[Frame { kind: IPCTNL_MSG_CT_DELETE, flags: NLM_F_ACK, payload }]) {
                Err(error) if error.errno == Errno::NOENT => {}
                done => done.map(drop)?,
            }
        }
        Ok(())
    }

    fn batch(&mut self, sets: &[SetElements<'_>], kind: u16, flags: u16) -> Result<(), RequestError> {
        if let Some(request) = sets.iter().position(|set| set.elements.len() > ELEMENTS_MAX) {
            return Err(RequestError {
                request: request + 1,
                requests: sets.len(),
                explanation: None,
                errno: Errno::TOOBIG,
            });
        }
        let edge =
            |kind| Frame { kind, flags: 0, payload: generic_header(libc::AF_UNSPEC, NFNL_SUBSYS_NFTABLES).to_vec() };
        let mut frames = vec![edge(NFNL_MSG_BATCH_BEGIN)];
        frames.extend(sets.iter().filter(|set| !set.elements.is_empty()).map(|set| Frame {
            kind,
            flags: flags | NLM_F_ACK,
            payload: set.payload(Values::Told),
        }));
        frames.push(edge(NFNL_MSG_BATCH_END));
        self.0.transact(&frames).map(drop)
    }
}
