//! Writes an image as a tar archive: the same bytes for the same tree, always.
//!
//! Headers are ustar, with a PAX header before them where ustar cannot say it: long or non-ASCII names, large
//! numbers, fractions of seconds, extended attributes. Owners go by number only. Holes are written as zeros.

use std::fs::File;
use std::io::{self, Read, Write};

use tar::{EntryType, Header};

use super::numbers::format_time;
use crate::attributes::{Attributes, Device};
use crate::erofs::ContentReader;
use crate::path::ImagePath;
use crate::tree::{FileContent, ImageTree, InodeKind, TreeItem};

/// What an archive does not hold of its image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TarReport {
    /// Sockets: tar has no type for them.
    pub sockets_left_out: u64,
}

/// An image could not be written as an archive.
#[derive(Debug, thiserror::Error)]
pub enum WriteTarError {
    /// A file's content could not be read from the image.
    #[error("read {path} of the image")]
    Content {
        /// The file.
        path: ImagePath,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// The output failed.
    #[error("write the archive")]
    Write(#[source] io::Error),
}

const BLOCK: u64 = 512;
/// Largest number of an octal field of 12 bytes, for sizes and times: 8 GiB less one.
const OCTAL_12_MAX: u64 = 0o77_777_777_777;
/// Largest number of an octal field of 8 bytes, for owners.
const OCTAL_8_MAX: u32 = 0o7_777_777;
/// Bytes of a name or link target in a header.
const NAME_BYTES: usize = 100;
const COPY_BUFFER_BYTES: usize = 256 << 10;

/// Writes all entries of `tree`, contents from `image`, to `out` in the tree's order, and an end marker. Hard links
/// come after the entry they link to.
///
/// # Errors
///
/// See [`WriteTarError`].
pub fn write_tar(image: &File, tree: &ImageTree, out: &mut dyn Write) -> Result<TarReport, WriteTarError> {
    let mut report = TarReport::default();
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    for item in tree.iter() {
        if item.inode.kind == InodeKind::Socket {
            report.sockets_left_out += 1;
            continue;
        }
        out.write_all(&header_of(&item)).map_err(WriteTarError::Write)?;
        if let (InodeKind::File(content), None) = (&item.inode.kind, item.linked_to) {
            copy_content(image, content, out, &mut buffer).map_err(|error| match error {
                CopyError::Read(error) => WriteTarError::Content { path: item.path.clone(), error },
                CopyError::Write(error) => WriteTarError::Write(error),
            })?;
        }
    }
    out.write_all(&[0; 1024]).map_err(WriteTarError::Write)?;
    out.flush().map_err(WriteTarError::Write)?;
    Ok(report)
}

enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

fn copy_content(image: &File, content: &FileContent, out: &mut dyn Write, buffer: &mut [u8]) -> Result<(), CopyError> {
    let mut reader = ContentReader::new(image, content);
    loop {
        match reader.read(buffer).map_err(CopyError::Read)? {
            0 => break,
            count => out.write_all(&buffer[..count]).map_err(CopyError::Write)?,
        }
    }
    let padding = usize::try_from(content.size.next_multiple_of(BLOCK) - content.size).expect("below 512");
    out.write_all(&buffer_of_zeros()[..padding]).map_err(CopyError::Write)
}

const fn buffer_of_zeros() -> [u8; 512] {
    [0; 512]
}

/// Header block of an entry, with its PAX header before it when it needs one.
fn header_of(item: &TreeItem<'_>) -> Vec<u8> {
    let attributes = &item.inode.attributes;
    let mut name = item.path.as_bytes().to_vec();
    if item.path.is_root() {
        name.push(b'.');
    }
    if item.inode.kind == InodeKind::Directory {
        name.push(b'/');
    }
    let (entry_type, size, link) = match (&item.inode.kind, item.linked_to) {
        (_, Some(first)) => (EntryType::Link, 0, first.as_bytes()),
        (InodeKind::File(content), None) => (EntryType::Regular, content.size, &[][..]),
        (InodeKind::Symlink(target), None) => (EntryType::Symlink, 0, &**target),
        (InodeKind::Directory, None) => (EntryType::Directory, 0, &[][..]),
        (InodeKind::CharDevice(_), None) => (EntryType::Char, 0, &[][..]),
        (InodeKind::BlockDevice(_), None) => (EntryType::Block, 0, &[][..]),
        (InodeKind::Fifo | InodeKind::Socket, None) => (EntryType::Fifo, 0, &[][..]),
    };
    let mut records = Vec::new();
    let mut header = Header::new_ustar();
    header.set_entry_type(entry_type);
    put_name(&mut header.as_old_mut().name, &name, "path", &mut records);
    put_name(&mut header.as_old_mut().linkname, link, "linkpath", &mut records);
    header.set_size(if size <= OCTAL_12_MAX { size } else { 0 });
    if size > OCTAL_12_MAX {
        push_record(&mut records, b"size", size.to_string().as_bytes());
    }
    put_attributes(&mut header, attributes, &mut records);
    if let InodeKind::CharDevice(device) | InodeKind::BlockDevice(device) = &item.inode.kind {
        put_device(&mut header, *device);
    }
    header.set_cksum();
    let mut bytes = Vec::new();
    if !records.is_empty() {
        push_pax_header(&mut bytes, &records);
    }
    bytes.extend_from_slice(header.as_bytes());
    bytes
}

/// Puts a name into a field, or into a record when the field cannot hold it.
fn put_name(field: &mut [u8; NAME_BYTES], name: &[u8], key: &str, records: &mut Vec<u8>) {
    let length = name.len().min(NAME_BYTES);
    field[..length].copy_from_slice(&name[..length]);
    if name.len() > NAME_BYTES || !name.is_ascii() {
        push_record(records, key.as_bytes(), name);
    }
}

fn put_attributes(header: &mut Header, attributes: &Attributes, records: &mut Vec<u8>) {
    header.set_mode(u32::from(attributes.mode));
    for (id, key) in [(attributes.uid, "uid"), (attributes.gid, "gid")] {
        let shown = if id <= OCTAL_8_MAX { id } else { 0 };
        if key == "uid" {
            header.set_uid(u64::from(shown))
        } else {
            header.set_gid(u64::from(shown))
        }
        if id > OCTAL_8_MAX {
            push_record(records, key.as_bytes(), id.to_string().as_bytes());
        }
    }
    let seconds = u64::try_from(attributes.mtime.seconds).ok().filter(|seconds| *seconds <= OCTAL_12_MAX);
    header.set_mtime(seconds.unwrap_or(0));
    if seconds.is_none() || attributes.mtime.nanoseconds != 0 {
        push_record(records, b"mtime", format_time(attributes.mtime).as_bytes());
    }
    for (name, value) in attributes.xattrs.iter() {
        push_record(records, &[b"SCHILY.xattr.", name].concat(), value);
    }
}

fn put_device(header: &mut Header, device: Device) {
    let set = header.set_device_major(device.major()).and_then(|()| header.set_device_minor(device.minor()));
    set.expect("a ustar header has device fields");
}

/// `LENGTH KEY=VALUE\n`, where LENGTH counts itself.
pub(super) fn push_record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn push_pax_header(bytes: &mut Vec<u8>, records: &[u8]) {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::XHeader);
    header.as_old_mut().name[..9].copy_from_slice(b"PaxHeader");
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(u64::try_from(records.len()).expect("attributes are bounded"));
    header.set_cksum();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(records);
    let block = usize::try_from(BLOCK).expect("512");
    bytes.resize(bytes.len().next_multiple_of(block), 0);
}
