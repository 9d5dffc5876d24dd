//! What the name service knows: a table that the daemon writes and the service reads, in a file in memory.
//!
//! ```text
//!   0     generation, length, checksum of slot 0     each 8 bytes, little-endian
//!   24    generation, length, checksum of slot 1
//!   4096  slot 0: the table in CBOR, TABLE_BYTES_MAX at most
//!   4096 + TABLE_BYTES_MAX  slot 1
//! ```
//!
//! The naive way is a message to the service for each change; then the service must be there, its socket must not be
//! full, and one that replaces a dead one knows nothing. Here the file is the state. The daemon writes the slot that is
//! older, then its entry; whoever reads takes the entry with the greatest generation whose checksum is right, so a
//! daemon that dies while it writes leaves the table before. A change counts from the moment it was written, without a
//! word to anybody. The file is kept by the keeper; the service has it for reading only.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use minicbor::{Decode, Encode};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::io::Errno;

use super::channel;

/// Longest table, in bytes: some 40,000 containers.
pub const TABLE_BYTES_MAX: usize = 4 << 20;

/// Where the first slot begins.
const SLOTS_AT: u64 = 4096;
/// Bytes of one entry.
const ENTRY_BYTES: usize = 24;

/// Name under which the keeper holds the table's file, open for writing.
pub const TABLE_NAME: &str = "guest/names";
/// Names of what the service is given: the table open for reading, then its sockets. Those that are there, in order.
pub const GIVEN_NAMES: [&str; 5] =
    ["guest/names-read", "guest/names-udp4", "guest/names-tcp4", "guest/names-udp6", "guest/names-tcp6"];

/// A container, as far as its name is concerned.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct NamedContainer {
    /// Its name, then other names it answers to; lower case. None for one that asks and is not found.
    #[n(0)]
    pub names: Vec<String>,
    /// Its addresses while it is up; none while it is not.
    #[n(1)]
    pub addresses: Vec<IpAddr>,
}

/// Everything the name service knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct NamesTable {
    /// The node's own addresses.
    #[n(0)]
    pub node: Vec<IpAddr>,
    /// The node's subnets, as first address and bits: all names of addresses in them are ours to tell.
    #[n(1)]
    pub subnets: Vec<(IpAddr, u8)>,
    /// Name servers of the host, to be asked about everything else.
    #[n(2)]
    pub upstreams: Vec<IpAddr>,
    /// The containers, shared with whoever makes the next table: of thousands one changes at a time.
    #[n(3)]
    #[cbor(with = "shared")]
    pub containers: Vec<Arc<NamedContainer>>,
}

impl NamesTable {
    /// Whether the address is in one of the node's subnets.
    #[must_use]
    pub fn is_in_subnets(&self, address: IpAddr) -> bool {
        self.subnets.iter().any(|&(first, bits)| match (first, address) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                let masked = |address: Ipv4Addr| u64::from(address.to_bits()) >> (32 - u32::from(bits.min(32)));
                masked(first) == masked(address)
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                let masked = |address: Ipv6Addr| address.to_bits().checked_shr(128 - u32::from(bits.min(128)));
                masked(first) == masked(address)
            }
            _ => false,
        })
    }

    /// Position of the container that has each address.
    #[must_use]
    pub fn by_address(&self) -> BTreeMap<IpAddr, usize> {
        let each = self.containers.iter().enumerate();
        each.flat_map(|(position, container)| container.addresses.iter().map(move |&address| (address, position)))
            .collect()
    }
}

/// What is shared is encoded as if it were not.
mod shared {
    use super::{Arc, Decode, Encode};
    use minicbor::decode::Error as DecodeError;
    use minicbor::encode::{Error as EncodeError, Write};
    use minicbor::{Decoder, Encoder};

    pub(super) fn encode<T: Encode<C>, C, W: Write>(
        shared: &[Arc<T>],
        encoder: &mut Encoder<W>,
        context: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        encoder.array(u64::try_from(shared.len()).expect("memory is smaller than 2^64"))?;
        shared.iter().try_for_each(|one| one.encode(encoder, context))
    }

    pub(super) fn decode<'b, T: Decode<'b, C>, C>(
        decoder: &mut Decoder<'b>,
        context: &mut C,
    ) -> Result<Vec<Arc<T>>, DecodeError> {
        decoder.array_iter_with(context)?.map(|one| one.map(Arc::new)).collect()
    }
}

/// A table could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteNamesError {
    /// Too many containers.
    #[error("the table of names has {bytes} bytes; at most {TABLE_BYTES_MAX} are allowed")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// Memory is out.
    #[error("{call}")]
    Kernel {
        /// Which call.
        call: &'static str,
        /// Why.
        #[source]
        errno: Errno,
    },
}

/// One slot's line at the beginning of the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Entry {
    generation: u64,
    length: u64,
    checksum: u64,
}

impl Entry {
    fn of(generation: u64, content: &[u8]) -> Self {
        let length = u64::try_from(content.len()).unwrap_or(u64::MAX);
        Self { generation, length, checksum: checksum(generation, content) }
    }

    fn bytes(self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        for (part, number) in bytes.chunks_mut(8).zip([self.generation, self.length, self.checksum]) {
            part.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    fn read(bytes: &[u8]) -> Self {
        let number =
            |at: usize| bytes.get(at..at + 8).and_then(|part| part.try_into().ok()).map_or(0, u64::from_le_bytes);
        Self { generation: number(0), length: number(8), checksum: number(16) }
    }
}

/// FNV-1a of the generation and the content: it tells a torn write, not a forged one.
fn checksum(generation: u64, content: &[u8]) -> u64 {
    let bytes = generation.to_le_bytes().into_iter().chain(content.iter().copied());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn slot_at(slot: usize) -> u64 {
    SLOTS_AT + if slot == 0 { 0 } else { TABLE_BYTES_MAX as u64 }
}

fn entries(file: &OwnedFd) -> Result<[Entry; 2], Errno> {
    let mut bytes = [0; 2 * ENTRY_BYTES];
    // A file that was never written is shorter; what is missing reads as zeros.
    rustix::io::pread(file, &mut bytes, 0)?;
    let (first, second) = bytes.split_at(ENTRY_BYTES);
    Ok([Entry::read(first), Entry::read(second)])
}

/// The daemon's side.
#[derive(Debug)]
pub struct NamesWriter {
    file: OwnedFd,
    last: [Entry; 2],
}

impl NamesWriter {
    /// A new file with no table in it.
    ///
    /// # Errors
    ///
    /// No descriptor is left.
    pub fn create() -> Result<Self, Errno> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = match rustix::fs::memfd_create("insula-names", flags | MemfdFlags::NOEXEC_SEAL) {
            Err(Errno::INVAL) => rustix::fs::memfd_create("insula-names", flags)?,
            made => made?,
        };
        Ok(Self { file, last: [Entry::default(); 2] })
    }

    /// Goes on with the file that an earlier daemon wrote.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn adopt(file: OwnedFd) -> Result<Self, Errno> {
        let last = entries(&file)?;
        Ok(Self { file, last })
    }

    /// The file, for the keeper.
    #[must_use]
    pub fn file(&self) -> &OwnedFd {
        &self.file
    }

    /// The same file, open for reading only.
    ///
    /// # Errors
    ///
    /// `/proc` is not there.
    pub fn reader(&self) -> Result<OwnedFd, Errno> {
        let path = format!("/proc/self/fd/{}", self.file.as_fd().as_raw_fd());
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    }

    /// Puts `table` in the place of the one before; when this returns, the service answers by it.
    ///
    /// # Errors
    ///
    /// It is too large, or memory is out: then the table before stays.
    pub fn write(&mut self, table: &NamesTable) -> Result<(), WriteNamesError> {
        let content = channel::encode(table);
        if content.len() > TABLE_BYTES_MAX {
            return Err(WriteNamesError::TooLarge { bytes: content.len() });
        }
        let slot = usize::from(self.last[0].generation > self.last[1].generation);
        let entry = Entry::of(self.last[1 - slot].generation + 1, &content);
        self.put(slot_at(slot), &content)?;
        self.put(if slot == 0 { 0 } else { ENTRY_BYTES as u64 }, &entry.bytes())?;
        self.last[slot] = entry;
        Ok(())
    }

    fn put(&self, mut at: u64, mut bytes: &[u8]) -> Result<(), WriteNamesError> {
        while !bytes.is_empty() {
            let written = rustix::io::pwrite(&self.file, bytes, at)
                .map_err(|errno| WriteNamesError::Kernel { call: "pwrite(insula-names)", errno })?;
            at += u64::try_from(written).unwrap_or(0);
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }
}

/// The service's side.
#[derive(Debug)]
pub struct NamesReader {
    file: OwnedFd,
    generation: u64,
}

impl NamesReader {
    /// Reads from `file`; nothing was read yet.
    #[must_use]
    pub fn new(file: OwnedFd) -> Self {
        Self { file, generation: 0 }
    }

    /// The newest table, if it was not returned before. One that is being written, or is damaged, is passed over.
    pub fn newer(&mut self) -> Option<NamesTable> {
        let mut entries: Vec<(usize, Entry)> = entries(&self.file).ok()?.into_iter().enumerate().collect();
        entries.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.generation));
        let newer = entries.into_iter().filter(|(_, entry)| entry.generation > self.generation);
        let (generation, table) =
            newer.into_iter().find_map(|(slot, entry)| Some((entry.generation, self.read(slot, entry)?)))?;
        self.generation = generation;
        Some(table)
    }

    fn read(&self, slot: usize, entry: Entry) -> Option<NamesTable> {
        let length = usize::try_from(entry.length).ok().filter(|&length| length <= TABLE_BYTES_MAX)?;
        let mut content = vec![0; length];
        let mut done = 0;
        while done < length {
            let at = slot_at(slot) + u64::try_from(done).ok()?;
            match rustix::io::pread(&self.file, &mut content[done..], at) {
                Ok(0) | Err(_) => return None,
                Ok(read) => done += read,
            }
        }
        (Entry::of(entry.generation, &content) == entry).then(|| channel::decode(&content).ok()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(name: &str) -> NamesTable {
        let containers = vec![Arc::new(NamedContainer {
            names: vec![name.to_owned()],
            addresses: vec!["10.87.0.2".parse().unwrap(), "fd49::2".parse().unwrap()],
        })];
        let subnets = vec![("10.87.0.0".parse().unwrap(), 20), ("fd49::".parse().unwrap(), 64)];
        NamesTable { subnets, containers, ..NamesTable::default() }
    }

    fn pair() -> (NamesWriter, NamesReader) {
        let writer = NamesWriter::create().unwrap();
        let reader = NamesReader::new(writer.reader().unwrap());
        (writer, reader)
    }

    #[test]
    fn each_table_is_read_once_and_the_newest_wins() {
        let (mut writer, mut reader) = pair();
        assert_eq!(reader.newer(), None);
        for name in ["a", "b", "c"] {
            writer.write(&table(name)).unwrap();
            assert_eq!(reader.newer(), Some(table(name)));
            assert_eq!(reader.newer(), None);
        }
        writer.write(&table("d")).unwrap();
        writer.write(&table("e")).unwrap();
        assert_eq!(reader.newer(), Some(table("e")));
    }

    #[test]
    fn the_next_daemon_goes_on_where_the_last_one_was() {
        let (mut writer, mut reader) = pair();
        writer.write(&table("a")).unwrap();
        writer.write(&table("b")).unwrap();
        let mut next = NamesWriter::adopt(writer.file().try_clone().unwrap()).unwrap();
        assert_eq!(reader.newer(), Some(table("b")));
        next.write(&table("c")).unwrap();
        assert_eq!(reader.newer(), Some(table("c")));
    }

    #[test]
    fn a_write_that_was_cut_off_leaves_the_table_before() {
        let (mut writer, mut reader) = pair();
        writer.write(&table("a")).unwrap();
        // The second slot gets its content and half of its entry.
        let entry = Entry::of(2, &channel::encode(&table("b"))).bytes();
        writer.put(ENTRY_BYTES as u64, &entry[..12]).unwrap();
        assert_eq!(reader.newer(), Some(table("a")));
    }

    #[test]
    fn the_services_copy_cannot_be_written() {
        let (writer, _) = pair();
        assert_eq!(rustix::io::pwrite(writer.reader().unwrap(), b"x", 0), Err(Errno::BADF));
    }

    #[test]
    fn addresses_are_in_the_subnets_or_not() {
        let table = table("a");
        for (address, inside) in [("10.87.15.255", true), ("10.87.16.0", false), ("fd49::1", true), ("fd4a::1", false)]
        {
            assert_eq!(table.is_in_subnets(address.parse().unwrap()), inside, "{address}");
        }
    }

    proptest! {
        #[test]
        fn a_file_with_anything_in_it_does_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200), tail in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (writer, mut reader) = pair();
            writer.put(0, &bytes).unwrap();
            writer.put(SLOTS_AT, &tail).unwrap();
            let read = reader.newer();
            prop_assert!(read.is_none());
        }
    }
}
