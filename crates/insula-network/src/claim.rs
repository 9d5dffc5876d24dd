//! Which subnets a node has, so that several nodes on one machine never have the same.
//!
//! ```text
//!   /run/insula-claims/lock            held while somebody looks and chooses
//!   /run/insula-claims/network.NODE    "ipv4 10.87.16.0/20\nipv6 fd49:6e73:756c:1::/64\n"
//!                                      locked as long as the claim lives
//! ```
//!
//! A claim lives as long as somebody holds its open file: the daemon, and with it whoever keeps a duplicate while
//! containers outlive the daemon. A claim nobody holds is free for others; its node gets it back if it comes first. Who
//! looks removes the files of claims that nobody holds, so that there are never more than nodes.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use insula_model::NodeName;
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use crate::{Ipv4Block, Ipv6Block, NetworkConfig, Subnets};

/// A claim is two short lines.
const CLAIM_BYTES_MAX: u64 = 256;
/// Nodes on one machine that find an IPv6 subnet each.
const CLAIMS_MAX: u32 = 1024;
/// Bits of each node's IPv6 subnet, as the whole IPv6 world has it.
const IPV6_BITS: u8 = 64;

/// What a node asks for.
#[derive(Debug, Clone, Copy)]
pub struct ClaimRequest<'a> {
    /// Where claims are, `/run/insula-claims`; made if it is not there.
    pub dir: &'a Path,
    /// Who asks.
    pub node: &'a NodeName,
    /// From which ranges.
    pub config: &'a NetworkConfig,
    /// What the node had before, say before the machine was started anew; taken if it is free.
    pub preferred: Option<Subnets>,
    /// Networks of this machine's other software, from [`foreign_networks`]; avoided.
    pub foreign: &'a [Ipv4Block],
}

/// Subnets that are this node's as long as it exists.
#[derive(Debug)]
pub struct Claim {
    subnets: Subnets,
    file: File,
    path: PathBuf,
}

/// Subnets could not be claimed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another process is this node, or keeps its containers: adopt its claim instead.
    #[error("the subnets of node {node} are held by another process")]
    Held {
        /// The node.
        node: NodeName,
    },
    /// Other nodes have all of them.
    #[error("no free /{bits} is left in {range}")]
    Exhausted {
        /// The configured range.
        range: Ipv4Block,
        /// Bits of each node's part.
        bits: u8,
    },
    /// A claim that somebody holds does not say what it claims.
    #[error("claim {} is held and cannot be read", path.display())]
    Unreadable {
        /// Its file.
        path: PathBuf,
    },
    /// The claim handed over is not this node's.
    #[error("the file handed over is not {}", path.display())]
    NotTheClaim {
        /// The node's file.
        path: PathBuf,
    },
    /// A file could not be made, read or locked.
    #[error("{call}")]
    File {
        /// What was attempted, on which path.
        call: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Claim {
    /// Claims subnets for a node: those of its own older claim, else the preferred ones, else the first free ones
    /// from a place that its name decides, so that they are mostly the same after a new start of the machine.
    ///
    /// # Errors
    ///
    /// See [`ClaimError`]. Waits while another process chooses, which takes it less than a millisecond.
    pub fn acquire(request: &ClaimRequest<'_>) -> Result<Self, ClaimError> {
        let made = fs::DirBuilder::new().mode(0o700).recursive(true).create(request.dir);
        made.map_err(failed("mkdir", request.dir))?;
        let _lock = lock_all(request.dir)?;
        let path = path_of(request.dir, request.node);
        let mut file = open(&path)?;
        if !try_lock(&file, &path)? {
            return Err(ClaimError::Held { node: request.node.clone() });
        }
        let own = read(&mut file, &path)?;
        let others = held_by_others(request.dir, &path)?;
        let subnets = choose(request, own, &others)?;
        write(&mut file, &path, &subnets)?;
        Ok(Self { subnets, file, path })
    }

    /// Takes over a claim whose open file somebody kept.
    ///
    /// # Errors
    ///
    /// The file is not this node's claim, or says nothing.
    pub fn adopt(dir: &Path, node: &NodeName, kept: OwnedFd) -> Result<Self, ClaimError> {
        let path = path_of(dir, node);
        let mut file = File::from(kept);
        let ours = file.metadata().map_err(failed("fstat", &path))?;
        let there = fs::symlink_metadata(&path).map_err(failed("stat", &path))?;
        let same = (ours.dev(), ours.ino()) == (there.dev(), there.ino());
        if !same || !try_lock(&file, &path)? {
            return Err(ClaimError::NotTheClaim { path });
        }
        let subnets = read(&mut file, &path)?.ok_or_else(|| ClaimError::Unreadable { path: path.clone() })?;
        Ok(Self { subnets, file, path })
    }

    /// The node's subnets.
    #[must_use]
    pub fn subnets(&self) -> Subnets {
        self.subnets
    }

    /// Gives the claim up for ever, as soon as nobody holds its file open. A claim that is only dropped leaves its
    /// file, and is found again by its node.
    ///
    /// # Errors
    ///
    /// The file could not be removed.
    pub fn release(&self) -> Result<(), ClaimError> {
        // Whoever claims at this moment has either seen the file as held, or sees none.
        let _lock = self.path.parent().map(lock_all).transpose()?;
        fs::remove_file(&self.path).map_err(failed("unlink", &self.path))
    }
}

impl AsFd for Claim {
    /// The open file that keeps the claim: a duplicate in another process keeps it as well.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Keeps everybody else from looking and choosing.
fn lock_all(dir: &Path) -> Result<File, ClaimError> {
    let path = dir.join("lock");
    let lock = open(&path)?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|errno| failed("flock", &path)(errno.into()))?;
    Ok(lock)
}

fn path_of(dir: &Path, node: &NodeName) -> PathBuf {
    dir.join(format!("network.{node}"))
}

fn failed<'a>(call: &'a str, path: &'a Path) -> impl Fn(io::Error) -> ClaimError + 'a {
    move |source| ClaimError::File { call: format!("{call}({})", path.display()), source }
}

fn open(path: &Path) -> Result<File, ClaimError> {
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::CLOEXEC).bits()).expect("flags of open are small numbers");
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
    options.open(path).map_err(failed("open", path))
}

/// Locks if nobody else has.
fn try_lock(file: &File, path: &Path) -> Result<bool, ClaimError> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(failed("flock", path)(errno.into())),
    }
}

fn read(file: &mut File, path: &Path) -> Result<Option<Subnets>, ClaimError> {
    let mut text = String::new();
    // A claim that was handed over shares its place in the file with whoever read it before.
    file.rewind().map_err(failed("seek", path))?;
    file.take(CLAIM_BYTES_MAX).read_to_string(&mut text).map_err(failed("read", path))?;
    Ok(parse(&text))
}

fn parse(text: &str) -> Option<Subnets> {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
    let ipv6 = match value("ipv6 ") {
        None => None,
        Some(block) => Some(block.parse().ok()?),
    };
    Some(Subnets { ipv4: value("ipv4 ")?.parse().ok()?, ipv6 })
}

fn write(file: &mut File, path: &Path, subnets: &Subnets) -> Result<(), ClaimError> {
    let mut text = format!("ipv4 {}\n", subnets.ipv4);
    if let Some(ipv6) = subnets.ipv6 {
        text.push_str(&format!("ipv6 {ipv6}\n"));
    }
    file.set_len(0).map_err(failed("truncate", path))?;
    file.write_all_at(text.as_bytes(), 0).map_err(failed("write", path))?;
    file.flush().map_err(failed("write", path))
}

/// Claims that other processes hold, all of them: one that is not seen is given to two nodes. Those nobody holds are
/// removed; their nodes remember what they had. To be called with everybody else locked out.
fn held_by_others(dir: &Path, own: &Path) -> Result<Vec<Subnets>, ClaimError> {
    let mut held = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed("readdir", dir))? {
        let path = entry.map_err(failed("readdir", dir))?.path();
        let claim = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"network."));
        if !claim || path == own {
            continue;
        }
        let mut file = open(&path)?;
        if try_lock(&file, &path)? {
            fs::remove_file(&path).map_err(failed("unlink", &path))?;
        } else {
            held.push(read(&mut file, &path)?.ok_or(ClaimError::Unreadable { path })?);
        }
    }
    Ok(held)
}

/// The subnets for a node. Pure.
fn choose(request: &ClaimRequest<'_>, own: Option<Subnets>, others: &[Subnets]) -> Result<Subnets, ClaimError> {
    let config = request.config;
    let free4 = |block: &Ipv4Block| !others.iter().any(|other| other.ipv4.overlaps(*block));
    let free6 = |block: &Ipv6Block| !others.iter().filter_map(|other| other.ipv6).any(|other| other.overlaps(*block));
    for before in [own, request.preferred].into_iter().flatten() {
        let of_config = before.ipv4.bits() == config.ipv4_bits
            && config.ipv4_range.contains(before.ipv4.network())
            && before.ipv6.map(Ipv6Block::bits) == config.ipv6_range.map(|_| IPV6_BITS)
            && before.ipv6.zip(config.ipv6_range).is_none_or(|(block, range)| range.contains(block.network()));
        if of_config && free4(&before.ipv4) && before.ipv6.as_ref().is_none_or(free6) {
            return Ok(before);
        }
    }
    let count = config.ipv4_range.parts(config.ipv4_bits);
    let start = fnv1a(request.node.as_str()) % count.max(1);
    let indexes = || (0..count).map(move |step| (start + step) % count);
    let blocks = || indexes().filter_map(|index| Some((index, config.ipv4_range.part(config.ipv4_bits, index)?)));
    // Software that routes a wide network, such as a private 10.0.0.0/8, lives with a hole in it if it must.
    let untouched = |block: &Ipv4Block| !request.foreign.iter().any(|foreign| foreign.overlaps(*block));
    let inside = |block: &Ipv4Block| {
        !request.foreign.iter().any(|foreign| foreign.overlaps(*block) && foreign.bits() >= block.bits())
    };
    let (index, ipv4) = blocks()
        .find(|(_, block)| free4(block) && untouched(block))
        .or_else(|| blocks().find(|(_, block)| free4(block) && inside(block)))
        .ok_or(ClaimError::Exhausted { range: config.ipv4_range, bits: config.ipv4_bits })?;
    let ipv6 = config.ipv6_range.and_then(|range| {
        let places = (0..=CLAIMS_MAX).map(|step| index.wrapping_add(step));
        places.filter_map(|place| range.part(IPV6_BITS, place)).find(free6)
    });
    Ok(Subnets { ipv4, ipv6 })
}

/// A small hash that stays the same for ever (Fowler, Noll, Vo; 32 bits).
pub(crate) fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Networks that the machine routes already, without default routes and without links of ours, as seen from the
/// calling thread's network namespace.
///
/// # Errors
///
/// `/proc` cannot be read.
pub fn foreign_networks() -> io::Result<Vec<Ipv4Block>> {
    fs::read_to_string("/proc/thread-self/net/route").map(|table| parse_routes(&table))
}

/// `Iface Destination Gateway Flags RefCnt Use Metric Mask …`, addresses as hexadecimal numbers of this machine.
fn parse_routes(table: &str) -> Vec<Ipv4Block> {
    let route = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let link = fields.next()?;
        let address = |text: &str| u32::from_str_radix(text, 16).ok().map(u32::to_ne_bytes);
        let destination = address(fields.next()?)?;
        let mask = u32::from_be_bytes(address(fields.nth(5)?)?);
        let bits = u8::try_from(mask.count_ones()).ok()?;
        let block = Ipv4Block::new(destination.into(), bits).ok()?;
        (bits > 0 && !link.starts_with("insula")).then_some(block)
    };
    table.lines().skip(1).filter_map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config() -> NetworkConfig {
        NetworkConfig::standard()
    }

    fn node(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    fn acquire(dir: &Path, name: &str) -> Result<Claim, ClaimError> {
        let node = node(name);
        Claim::acquire(&ClaimRequest { dir, node: &node, config: &config(), preferred: None, foreign: &[] })
    }

    #[test]
    fn nodes_side_by_side_have_different_subnets_until_there_are_none_left() {
        let dir = tempfile::tempdir().unwrap();
        let claims: Vec<_> = (0..16).map(|index| acquire(dir.path(), &format!("node-{index}")).unwrap()).collect();
        for (index, one) in claims.iter().enumerate() {
            for other in &claims[..index] {
                assert!(!one.subnets().ipv4.overlaps(other.subnets().ipv4));
                assert!(!one.subnets().ipv6.unwrap().overlaps(other.subnets().ipv6.unwrap()));
            }
        }
        assert!(matches!(acquire(dir.path(), "one-more"), Err(ClaimError::Exhausted { .. })));
        drop(claims);
        acquire(dir.path(), "one-more").unwrap();
    }

    #[test]
    fn no_number_of_claims_left_behind_hides_one_that_is_held() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..1_500 {
            fs::write(dir.path().join(format!("network.left-{number}")), "ipv4 10.87.16.0/20\n").unwrap();
        }
        let claims: Vec<_> = (0..16).map(|index| acquire(dir.path(), &format!("node-{index}")).unwrap()).collect();
        let distinct: std::collections::BTreeSet<_> =
            claims.iter().map(|claim| claim.subnets().ipv4.network()).collect();
        assert_eq!(distinct.len(), claims.len());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), claims.len() + 1, "and the lock");
    }

    #[test]
    fn a_claim_belongs_to_one_process_and_comes_back_to_its_node() {
        let dir = tempfile::tempdir().unwrap();
        let claim = acquire(dir.path(), "a").unwrap();
        let subnets = claim.subnets();
        assert!(matches!(acquire(dir.path(), "a"), Err(ClaimError::Held { .. })));
        let kept = claim.as_fd().try_clone_to_owned().unwrap();
        drop(claim);
        assert!(matches!(acquire(dir.path(), "a"), Err(ClaimError::Held { .. })), "a duplicate keeps it");
        let adopted = Claim::adopt(dir.path(), &node("a"), kept).unwrap();
        assert_eq!(adopted.subnets(), subnets);
        let kept = adopted.as_fd().try_clone_to_owned().unwrap();
        drop(adopted);
        let adopted = Claim::adopt(dir.path(), &node("a"), kept).unwrap();
        assert_eq!(adopted.subnets(), subnets, "and again, although it was read before");
        drop(adopted);
        assert_eq!(acquire(dir.path(), "a").unwrap().subnets(), subnets);
    }

    #[test]
    fn a_released_claim_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        acquire(dir.path(), "a").unwrap().release().unwrap();
        assert!(!dir.path().join("network.a").exists());
    }

    #[test]
    fn a_foreign_file_is_no_claim() {
        let dir = tempfile::tempdir().unwrap();
        let _claim = acquire(dir.path(), "a").unwrap();
        let other = File::open("/dev/null").unwrap();
        let refused = Claim::adopt(dir.path(), &node("a"), other.into());
        assert!(matches!(refused, Err(ClaimError::NotTheClaim { .. })));
    }

    #[test]
    fn networks_of_other_software_are_avoided_and_wide_ones_only_if_possible() {
        let (config, node) = (config(), node("a"));
        let request =
            |foreign| ClaimRequest { dir: Path::new("/"), node: &node, config: &config, preferred: None, foreign };
        let free = choose(&request(&[]), None, &[]).unwrap();
        let narrow = [Ipv4Block::new(free.ipv4.address(256).unwrap(), 24).unwrap()];
        assert_ne!(choose(&request(&narrow), None, &[]).unwrap().ipv4, free.ipv4);
        let wide = ["10.0.0.0/8".parse().unwrap(), narrow[0]];
        assert_ne!(choose(&request(&wide), None, &[]).unwrap().ipv4, free.ipv4);
    }

    #[test]
    fn what_the_node_had_before_is_preferred_unless_another_has_it() {
        let (config, node) = (config(), node("a"));
        let before =
            Subnets { ipv4: "10.87.240.0/20".parse().unwrap(), ipv6: Some("fd49:6e73:756c:77::/64".parse().unwrap()) };
        let request =
            ClaimRequest { dir: Path::new("/"), node: &node, config: &config, preferred: Some(before), foreign: &[] };
        assert_eq!(choose(&request, None, &[]).unwrap(), before);
        assert_ne!(choose(&request, None, &[before]).unwrap(), before);
        let elsewhere = Subnets { ipv4: "10.99.0.0/20".parse().unwrap(), ..before };
        let request = ClaimRequest { preferred: Some(elsewhere), ..request };
        assert_ne!(choose(&request, None, &[]).unwrap().ipv4, elsewhere.ipv4, "not of the configured range");
    }

    #[test]
    fn routes_of_the_kernel_are_read_without_default_and_without_ours() {
        let network = u32::from_ne_bytes([192, 168, 7, 0]);
        let mask = u32::from_ne_bytes([255, 255, 255, 0]);
        let table = format!(
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
             eth0\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
             eth0\t{network:08X}\t00000000\t0001\t0\t0\t0\t{mask:08X}\t0\t0\t0\n\
             insulaabcdefghi\t{network:08X}\t00000000\t0001\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n"
        );
        assert_eq!(parse_routes(&table), ["192.168.7.0/24".parse().unwrap()]);
    }

    proptest! {
        #[test]
        fn what_is_no_claim_is_read_as_none(text in "(ipv[46] [0-9a-f:./]{0,12}\n?){0,3}") {
            if let Some(subnets) = parse(&text) {
                prop_assert!(subnets.ipv4.bits() <= 32);
            }
        }
    }
}
