//! Reading past the page cache, where the file system can.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

/// What reading past the cache wants of addresses and offsets; no disk has larger blocks.
const ALIGNMENT: usize = 4096;

/// Opens a file so; none where the file system has no such reading.
pub(super) fn open_direct(path: &Path) -> io::Result<Option<File>> {
    let direct = i32::try_from(OFlags::DIRECT.bits()).map_err(io::Error::other)?;
    match OpenOptions::new().read(true).custom_flags(direct).open(path) {
        Err(error) if is_not_direct(&error) => Ok(None),
        opened => opened.map(Some),
    }
}

/// Whether the file system has no such reading: some say so only when it is tried, or at a file's odd end.
pub(super) fn is_not_direct(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::INVAL)
}

/// Memory that begins at a multiple of [`ALIGNMENT`].
pub(super) struct AlignedBuffer {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl AlignedBuffer {
    pub(super) fn new(length: usize) -> Self {
        let memory = vec![0; length + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Self { memory, start, length }
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}
