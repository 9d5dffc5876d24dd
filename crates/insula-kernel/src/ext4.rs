//! ext4: how large the file system in a file is.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

/// Where the superblock begins, and the offsets of its fields (fs/ext4/ext4.h).
const SUPERBLOCK: u64 = 1_024;
const MAGIC: (usize, [u8; 2]) = (56, [0x53, 0xEF]);
const BLOCKS_LOW: usize = 4;
const LOG_BLOCK_SIZE: usize = 24;
const BLOCKS_HIGH: usize = 336;

/// How large a file system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ext4Size {
    /// Blocks.
    pub blocks: u64,
    /// Bytes of a block, a power of two.
    pub block_bytes: u64,
}

impl Ext4Size {
    /// Reads the superblock of the file system in `file`; `None` when there is none.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn read(file: BorrowedFd<'_>) -> Result<Option<Self>, Errno> {
        let mut bytes = [0; 1_024];
        let read = rustix::io::pread(file, &mut bytes[..], SUPERBLOCK)?;
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let shift = word(LOG_BLOCK_SIZE);
        if read < bytes.len() || bytes[MAGIC.0..MAGIC.0 + 2] != MAGIC.1 || shift > 6 {
            return Ok(None);
        }
        let blocks = u64::from(word(BLOCKS_LOW)) | u64::from(word(BLOCKS_HIGH)) << 32;
        Ok(Some(Self { blocks, block_bytes: 1_024 << shift }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;

    #[test]
    fn the_size_is_read_from_the_superblock_and_nothing_else_is_one() {
        let mut file = tempfile::tempfile().unwrap();
        assert_eq!(Ext4Size::read(file.as_fd()), Ok(None));
        let mut bytes = vec![0; 4_096];
        file.write_all(&bytes).unwrap();
        assert_eq!(Ext4Size::read(file.as_fd()), Ok(None));
        bytes[1_024 + 56..1_024 + 58].copy_from_slice(&[0x53, 0xEF]);
        bytes[1_024 + 4..1_024 + 8].copy_from_slice(&7_u32.to_le_bytes());
        bytes[1_024 + 24] = 2;
        bytes[1_024 + 336] = 1;
        rustix::io::pwrite(&file, &bytes, 0).unwrap();
        let size = Ext4Size { blocks: (1 << 32) + 7, block_bytes: 4_096 };
        assert_eq!(Ext4Size::read(file.as_fd()), Ok(Some(size)));
    }
}
