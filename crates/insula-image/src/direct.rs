//! Reading and writing past the page cache, where the file system can.
//!
//! Large files that are written once and not read soon have no use of the cache: their bytes would be copied into fresh
//! pages, which the machine has to find first, and a reader that wants to know what the disk holds would meet them there.

use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use insula_kernel::fs_verity;
use memmap2::{Advice, MmapMut};
use rustix::fs::{OFlags, fadvise, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

/// Of the processors we know. It is a multiple of what going past the cache wants of addresses, at most 4096.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Whether the file system has no such access: some say so only when it is tried, or at a file's odd end.
fn is_not_direct(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::INVAL)
}

/// Changes the open file to go past the cache or not; all descriptors of that open file change.
fn set_direct(file: &File, direct: bool) -> io::Result<()> {
    let mut flags = fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, direct);
    Ok(fcntl_setfl(file, flags)?)
}

/// Memory for what goes past the cache: of its own pages, in huge ones where the kernel has them. Those are found,
/// pinned and named to the disk once for two megabytes, the others once for every four kilobytes.
pub(crate) struct PageBuffer {
    memory: MmapMut,
    start: usize,
    length: usize,
}

impl PageBuffer {
    /// Zeros. The machine gives memory for what is touched of them.
    pub(crate) fn new(length: usize) -> io::Result<Self> {
        let memory = MmapMut::map_anon(length.next_multiple_of(HUGE_PAGE_BYTES) + HUGE_PAGE_BYTES)?;
        match memory.advise(Advice::HugePage) {
            // A kernel without them.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {}
            advised => advised?,
        }
        let start = memory.as_ptr().align_offset(HUGE_PAGE_BYTES);
        Ok(Self { memory, start, length })
    }
}

impl std::ops::Deref for PageBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }
}

impl std::ops::DerefMut for PageBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

/// A file that is read so that nothing of it stays in the page cache: directly, or else what was read is dropped at once.
pub(crate) struct UncachedReader {
    file: File,
    is_direct: bool,
}

impl UncachedReader {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if fs_verity::is_enabled(&file)? {
            // Whose pages the kernel checks comes through the cache even if asked for directly.
            fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
            return Ok(Self { file, is_direct: false });
        }
        let direct = i32::try_from(OFlags::DIRECT.bits()).map_err(io::Error::other)?;
        match OpenOptions::new().read(true).custom_flags(direct).open(path) {
            Err(error) if is_not_direct(&error) => Ok(Self { file, is_direct: false }),
            opened => opened.map(|file| Self { file, is_direct: true }),
        }
    }

    /// Fills a [`PageBuffer`], whose length and `offset` are multiples of a block's, as far as the file reaches. How
    /// many bytes came.
    pub(crate) fn read_at(&mut self, buffer: &mut PageBuffer, offset: u64) -> io::Result<usize> {
        let mut got = 0;
        while got < buffer.len() {
            let next = offset + u64::try_from(got).map_err(io::Error::other)?;
            match self.read_once(&mut buffer[got..], next)? {
                0 => break,
                count => got += count,
            }
        }
        Ok(got)
    }

    fn read_once(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.is_direct {
            match self.file.read_at(buffer, offset) {
                Err(error) if is_not_direct(&error) => {
                    set_direct(&self.file, false)?;
                    self.is_direct = false;
                }
                read => return read,
            }
        }
        let got = self.file.read_at(buffer, offset)?;
        fadvise(&self.file, offset, NonZeroU64::new(u64::try_from(got).unwrap_or(0)), rustix::fs::Advice::DontNeed)?;
        Ok(got)
    }
}

/// A file to which whole blocks are written past the page cache, or into it where the file system cannot.
#[derive(Debug)]
pub(crate) struct UncachedWriter {
    file: File,
    is_direct: bool,
}

impl UncachedWriter {
    /// Until [`UncachedWriter::into_file`], every other descriptor of that open file goes past the cache too.
    pub(crate) fn new(file: File) -> Self {
        let is_direct = set_direct(&file, true).is_ok();
        Self { file, is_direct }
    }

    /// Writes the first `length` bytes of `buffer`; that and `offset` are multiples of a block's.
    pub(crate) fn write_at(&mut self, buffer: &PageBuffer, length: usize, offset: u64) -> io::Result<()> {
        match self.file.write_all_at(&buffer[..length], offset) {
            Err(error) if self.is_direct && is_not_direct(&error) => {
                set_direct(&self.file, false)?;
                self.is_direct = false;
                self.file.write_all_at(&buffer[..length], offset)
            }
            written => written,
        }
    }

    /// The file, as any other.
    pub(crate) fn into_file(self) -> io::Result<File> {
        if self.is_direct {
            set_direct(&self.file, false)?;
        }
        Ok(self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use insula_kernel::page_cache::cached_bytes;

    #[test]
    fn what_is_written_past_the_cache_is_read_past_it_and_does_not_stay_there() {
        // A file system on a disk, and one that has none.
        for dir in ["/var/tmp", "/dev/shm"] {
            let file = tempfile::NamedTempFile::new_in(dir).unwrap();
            let mut buffer = PageBuffer::new(1 << 20).unwrap();
            buffer.fill(7);
            let mut writer = UncachedWriter::new(file.reopen().unwrap());
            writer.write_at(&buffer, 1 << 20, 0).unwrap();
            writer.write_at(&buffer, 8192, 1 << 20).unwrap();
            let plain = writer.into_file().unwrap();
            plain.write_all_at(b"odd", (1 << 20) + 8192).unwrap();
            plain.sync_all().unwrap();
            let mut expected = vec![7; (1 << 20) + 8192];
            expected.extend_from_slice(b"odd");
            assert!(read_all(UncachedReader::open(file.path()).unwrap()) == expected, "{dir}");
            let indirect = UncachedReader { file: file.reopen().unwrap(), is_direct: false };
            assert!(read_all(indirect) == expected, "{dir}");
            if dir == "/var/tmp" {
                assert_eq!(cached_bytes(&file).unwrap_or(0), 0);
            }
        }
    }

    fn read_all(mut reader: UncachedReader) -> Vec<u8> {
        let (mut all, mut buffer) = (Vec::new(), PageBuffer::new(1 << 20).unwrap());
        loop {
            match reader.read_at(&mut buffer, u64::try_from(all.len()).unwrap()).unwrap() {
                0 => return all,
                got => all.extend_from_slice(&buffer[..got]),
            }
        }
    }

    #[test]
    fn only_what_was_written_otherwise_is_in_the_cache() {
        let file = tempfile::tempfile_in("/var/tmp").unwrap();
        let mut writer = UncachedWriter::new(file.try_clone().unwrap());
        assert!(writer.is_direct, "/var/tmp is on a disk");
        writer.write_at(&PageBuffer::new(1 << 20).unwrap(), 1 << 20, 0).unwrap();
        writer.into_file().unwrap().write_all_at(b"odd", 1 << 20).unwrap();
        match cached_bytes(&file) {
            Ok(bytes) => assert!((1..100_000).contains(&bytes), "{bytes}"),
            Err(error) => assert_eq!(error, Errno::NOSYS),
        }
    }
}
