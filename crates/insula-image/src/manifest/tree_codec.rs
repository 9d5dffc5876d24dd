//! Trees as canonical CBOR: one map with integer keys for each entry, in the tree's order.
//!
//! ```text
//!  0 path (bytes)                    always; the root's is empty
//!  1 kind                            0 directory 1 file 2 symlink 3 character 4 block device 5 pipe 6 socket
//!  2 inode index                     instead of 1 and all below: a further path of an earlier inode
//!  3 mode   4 uid   5 gid            uid and gid left out when 0
//!  6 mtime  7 its nanoseconds        nanoseconds left out when 0
//!  8 xattrs {name: value} (bytes)    left out when there are none
//!  9 size  10 SHA-256                files
//! 11 first block                     files; not in the tree digest
//! 12 [chunk bits, [start, count]...] files with holes; not in the tree digest
//! 13 (kept for a list of content-defined chunks)
//! 14 target (bytes)                  symlinks
//! 15 major 16 minor                  devices
//! ```

use std::io;

use insula_model::Sha256Digest;
use minicbor::data::Type;
use minicbor::encode::Write;
use minicbor::{Decoder, Encoder};
use sha2::{Digest, Sha256};

use super::{DecodeManifestError, damaged};
use crate::attributes::{Attributes, Device, Mtime, Xattrs};
use crate::path::ImagePath;
use crate::tree::{
    ChunkMap, ChunkRun, FileContent, ImageTree, Inode, InodeIndex, InodeKind, Placement, TreeEntry, TreeItem,
};

/// How much is said of a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ContentDetail {
    /// Its size.
    Size,
    /// What it is, not where it lies.
    SizeAndDigest,
    /// Everything.
    All,
}

impl ImageTree {
    /// The tree digest: of everything but where contents lie, so equal for equal trees whatever order they came in.
    ///
    /// SHA-256 of the CBOR array of `"insula-tree"`, 1, and the array of entries.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        self.digest_with("insula-tree", ContentDetail::SizeAndDigest)
    }

    /// The digest of what is known of a tree before its contents have been read back: as the tree digest, of
    /// `"insula-shape"` and without the contents' digests.
    pub(crate) fn shape_digest(&self) -> Sha256Digest {
        self.digest_with("insula-shape", ContentDetail::Size)
    }

    fn digest_with(&self, name: &str, detail: ContentDetail) -> Sha256Digest {
        let mut encoder = Encoder::new(minicbor::encode::write::Writer::new(HashWriter(Sha256::new())));
        let written = (|| {
            encoder.array(3)?.str(name)?.u8(1)?;
            encode_tree(&mut encoder, self, detail)
        })();
        written.expect("a hash takes every byte");
        Sha256Digest(encoder.into_writer().into_inner().0.finalize().into())
    }
}

/// A hash to write to.
struct HashWriter(Sha256);

impl io::Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type Encoded<W> = Result<(), minicbor::encode::Error<<W as Write>::Error>>;

/// Writes the array of all entries.
pub(super) fn encode_tree<W: Write>(encoder: &mut Encoder<W>, tree: &ImageTree, detail: ContentDetail) -> Encoded<W> {
    encoder.array(count(tree.entries().len()))?;
    for item in tree.iter() {
        encode_entry(encoder, &item, detail)?;
    }
    Ok(())
}

fn encode_entry<W: Write>(encoder: &mut Encoder<W>, item: &TreeItem<'_>, detail: ContentDetail) -> Encoded<W> {
    if item.linked_to.is_some() {
        encoder.map(2)?.u8(0)?.bytes(item.path.as_bytes())?.u8(2)?.u32(item.index.0)?;
        return Ok(());
    }
    let Inode { attributes, kind } = item.inode;
    let optional =
        [attributes.uid != 0, attributes.gid != 0, attributes.mtime.nanoseconds != 0, !attributes.xattrs.is_empty()];
    let fields = 4 + count(optional.iter().filter(|there| **there).count()) + kind_fields(kind, detail);
    encoder.map(fields)?.u8(0)?.bytes(item.path.as_bytes())?.u8(1)?.u8(kind_number(kind))?;
    encode_attributes(encoder, attributes)?;
    match kind {
        InodeKind::Directory | InodeKind::Fifo | InodeKind::Socket => {}
        InodeKind::File(content) => encode_content(encoder, content, detail)?,
        InodeKind::Symlink(target) => {
            encoder.u8(14)?.bytes(target)?;
        }
        InodeKind::CharDevice(device) | InodeKind::BlockDevice(device) => {
            encoder.u8(15)?.u32(device.major())?.u8(16)?.u32(device.minor())?;
        }
    }
    Ok(())
}

fn kind_number(kind: &InodeKind) -> u8 {
    match kind {
        InodeKind::Directory => 0,
        InodeKind::File(_) => 1,
        InodeKind::Symlink(_) => 2,
        InodeKind::CharDevice(_) => 3,
        InodeKind::BlockDevice(_) => 4,
        InodeKind::Fifo => 5,
        InodeKind::Socket => 6,
    }
}

/// Number of map entries that a kind adds.
fn kind_fields(kind: &InodeKind, detail: ContentDetail) -> u64 {
    match (kind, detail) {
        (InodeKind::File(content), ContentDetail::All) => match content.placement {
            Placement::Blocks { .. } => 3,
            Placement::Chunks(_) => 4,
        },
        (InodeKind::File(_), ContentDetail::SizeAndDigest)
        | (InodeKind::CharDevice(_) | InodeKind::BlockDevice(_), _) => 2,
        (InodeKind::File(_), ContentDetail::Size) | (InodeKind::Symlink(_), _) => 1,
        (InodeKind::Directory | InodeKind::Fifo | InodeKind::Socket, _) => 0,
    }
}

fn encode_attributes<W: Write>(encoder: &mut Encoder<W>, attributes: &Attributes) -> Encoded<W> {
    encoder.u8(3)?.u16(attributes.mode)?;
    if attributes.uid != 0 {
        encoder.u8(4)?.u32(attributes.uid)?;
    }
    if attributes.gid != 0 {
        encoder.u8(5)?.u32(attributes.gid)?;
    }
    encoder.u8(6)?.i64(attributes.mtime.seconds)?;
    if attributes.mtime.nanoseconds != 0 {
        encoder.u8(7)?.u32(attributes.mtime.nanoseconds)?;
    }
    if !attributes.xattrs.is_empty() {
        encoder.u8(8)?.map(count(attributes.xattrs.len()))?;
        for (name, value) in attributes.xattrs.iter() {
            encoder.bytes(name)?.bytes(value)?;
        }
    }
    Ok(())
}

fn encode_content<W: Write>(encoder: &mut Encoder<W>, content: &FileContent, detail: ContentDetail) -> Encoded<W> {
    encoder.u8(9)?.u64(content.size)?;
    if detail == ContentDetail::Size {
        return Ok(());
    }
    encoder.u8(10)?.bytes(&content.sha256.0)?;
    if detail == ContentDetail::SizeAndDigest {
        return Ok(());
    }
    match &content.placement {
        Placement::Blocks { first } => {
            encoder.u8(11)?.u32(*first)?;
        }
        Placement::Chunks(map) => {
            encoder.u8(11)?.u32(map.first)?.u8(12)?.array(1 + count(map.stored.len()))?.u8(map.chunk_bits)?;
            for run in &map.stored {
                encoder.array(2)?.u32(run.start)?.u32(run.count)?;
            }
        }
    }
    Ok(())
}

fn count(length: usize) -> u64 {
    u64::try_from(length).expect("usize has at most 64 bits")
}

/// Reads the array of all entries.
pub(super) fn decode_tree(decoder: &mut Decoder<'_>, entries_max: u32) -> Result<ImageTree, DecodeManifestError> {
    let length = decoder.array()?.ok_or_else(|| damaged("entries of unknown number"))?;
    if length > u64::from(entries_max) {
        return Err(DecodeManifestError::TooManyEntries { max: entries_max });
    }
    let mut entries = Vec::new();
    let mut inodes = Vec::new();
    for _ in 0..length {
        let fields = decode_fields(decoder)?;
        let path = fields.path.ok_or_else(|| damaged("entry without path"))?;
        let next = InodeIndex(u32::try_from(inodes.len()).map_err(|_| damaged("too many inodes"))?);
        let inode = match fields.link {
            Some(index) if index < next.0 => InodeIndex(index),
            Some(_) => return Err(damaged("hard link to a later entry")),
            None => {
                inodes.push(fields.content.into_inode(fields.attributes)?);
                next
            }
        };
        entries.push(TreeEntry { path, inode });
    }
    Ok(ImageTree::from_parts(entries, inodes)?)
}

/// The fields of one entry as they come.
#[derive(Default)]
struct EntryFields {
    path: Option<ImagePath>,
    link: Option<u32>,
    attributes: Attributes,
    content: ContentFields,
}

/// Those that only some kinds have.
#[derive(Default)]
struct ContentFields {
    kind: Option<u8>,
    size: Option<u64>,
    sha256: Option<Sha256Digest>,
    first: Option<u32>,
    chunks: Option<(u8, Vec<ChunkRun>)>,
    target: Option<Box<[u8]>>,
    device: (Option<u32>, Option<u32>),
}

fn decode_fields(decoder: &mut Decoder<'_>) -> Result<EntryFields, DecodeManifestError> {
    let length = decoder.map()?.ok_or_else(|| damaged("entry of unknown length"))?;
    let mut fields = EntryFields::default();
    for _ in 0..length {
        match decoder.u8()? {
            0 => fields.path = Some(decode_path(decoder)?),
            1 => fields.content.kind = Some(decoder.u8()?),
            2 => fields.link = Some(decoder.u32()?),
            3 => fields.attributes.mode = decoder.u16()? & Attributes::MODE_BITS,
            4 => fields.attributes.uid = decoder.u32()?,
            5 => fields.attributes.gid = decoder.u32()?,
            6 => fields.attributes.mtime.seconds = decoder.i64()?,
            7 => fields.attributes.mtime = decode_nanoseconds(decoder, fields.attributes.mtime)?,
            8 => fields.attributes.xattrs = decode_xattrs(decoder)?,
            9 => fields.content.size = Some(decoder.u64()?),
            10 => fields.content.sha256 = Some(decode_digest(decoder)?),
            11 => fields.content.first = Some(decoder.u32()?),
            12 => fields.content.chunks = Some(decode_chunks(decoder)?),
            14 => fields.content.target = Some(decoder.bytes()?.into()),
            15 => fields.content.device.0 = Some(decoder.u32()?),
            16 => fields.content.device.1 = Some(decoder.u32()?),
            _ => return Err(damaged("entry with an unknown field")),
        }
    }
    Ok(fields)
}

impl ContentFields {
    fn into_inode(self, attributes: Attributes) -> Result<Inode, DecodeManifestError> {
        let kind = match self.kind.ok_or_else(|| damaged("entry without kind"))? {
            0 => InodeKind::Directory,
            1 => InodeKind::File(self.into_content()?),
            2 => match self.target {
                Some(target) if (1..=4095).contains(&target.len()) && !target.contains(&0) => {
                    InodeKind::Symlink(target)
                }
                _ => return Err(damaged("symlink without target")),
            },
            kind @ (3 | 4) => {
                let (Some(major), Some(minor)) = self.device else { return Err(damaged("device without number")) };
                let device = Device::new(major, minor).map_err(|_| damaged("device number out of range"))?;
                if kind == 3 { InodeKind::CharDevice(device) } else { InodeKind::BlockDevice(device) }
            }
            5 => InodeKind::Fifo,
            6 => InodeKind::Socket,
            _ => return Err(damaged("entry of unknown kind")),
        };
        Ok(Inode { attributes, kind })
    }

    fn into_content(self) -> Result<FileContent, DecodeManifestError> {
        let (Some(size), Some(sha256), Some(first)) = (self.size, self.sha256, self.first) else {
            return Err(damaged("file without size, digest or block"));
        };
        let placement = match self.chunks {
            None => Placement::Blocks { first },
            Some((chunk_bits, stored)) => {
                check_chunks(size, chunk_bits, &stored)?;
                Placement::Chunks(Box::new(ChunkMap { first, chunk_bits, stored }))
            }
        };
        let blocks = size.div_ceil(crate::erofs::BLOCK_BYTES);
        if u64::from(first).saturating_add(blocks) > u64::from(u32::MAX) {
            return Err(damaged("file outside the blocks that an image can have"));
        }
        Ok(FileContent { size, sha256, placement })
    }
}

fn check_chunks(size: u64, chunk_bits: u8, stored: &[ChunkRun]) -> Result<(), DecodeManifestError> {
    if !(16..=43).contains(&chunk_bits) {
        return Err(damaged("chunk size out of range"));
    }
    let mut end = 0;
    for run in stored {
        if run.count == 0 || u64::from(run.start) < end {
            return Err(damaged("chunks out of order"));
        }
        end = u64::from(run.start) + u64::from(run.count);
    }
    if end > size.div_ceil(1 << chunk_bits) {
        return Err(damaged("chunks beyond the end of their file"));
    }
    Ok(())
}

fn decode_path(decoder: &mut Decoder<'_>) -> Result<ImagePath, DecodeManifestError> {
    let given = decoder.bytes()?;
    let path = ImagePath::parse(given).map_err(|_| damaged("path that no image can have"))?;
    if path.as_bytes() != given {
        return Err(damaged("path that is not normalised"));
    }
    Ok(path)
}

fn decode_nanoseconds(decoder: &mut Decoder<'_>, mtime: Mtime) -> Result<Mtime, DecodeManifestError> {
    match decoder.u32()? {
        nanoseconds @ 0..1_000_000_000 => Ok(Mtime { nanoseconds, ..mtime }),
        _ => Err(damaged("nanoseconds above a second")),
    }
}

fn decode_xattrs(decoder: &mut Decoder<'_>) -> Result<Xattrs, DecodeManifestError> {
    let mut xattrs = Xattrs::default();
    for _ in 0..decoder.map()?.ok_or_else(|| damaged("attributes of unknown number"))? {
        let name = decoder.bytes()?;
        let value = decoder.bytes()?;
        xattrs.insert(name, value).map_err(|_| damaged("attribute that no image can have"))?;
    }
    Ok(xattrs)
}

/// Reads a SHA-256.
pub(super) fn decode_digest(decoder: &mut Decoder<'_>) -> Result<Sha256Digest, DecodeManifestError> {
    let bytes = decoder.bytes()?;
    Ok(Sha256Digest(bytes.try_into().map_err(|_| damaged("digest that has not 32 bytes"))?))
}

fn decode_chunks(decoder: &mut Decoder<'_>) -> Result<(u8, Vec<ChunkRun>), DecodeManifestError> {
    let length = decoder.array()?.filter(|length| *length >= 1).ok_or_else(|| damaged("chunk map without size"))?;
    let chunk_bits = decoder.u8()?;
    let mut stored = Vec::new();
    for _ in 1..length {
        if decoder.datatype()? != Type::Array || decoder.array()? != Some(2) {
            return Err(damaged("chunk run that is not a pair"));
        }
        stored.push(ChunkRun { start: decoder.u32()?, count: decoder.u32()? });
    }
    Ok((chunk_bits, stored))
}
