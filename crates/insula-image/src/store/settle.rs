//! The last reading of a new image file: its bytes are flushed, compared with what the disk gives back, and hashed.
//!
//! ```text
//!  page cache ──▶ SHA-256 (thread) ─────────────────────────────▶ digest
//!      └────────────────────────────┐
//!  disk ── flush ──▶ read past it ──┴─▶ equal, or the disk is at fault
//! ```
//!
//! Hashing what was written and again what came back gives the same answer at the price of a second digest, which is
//! most of what publishing costs; comparing bytes costs a tenth, and goes on while the one digest is made. A file
//! system that reads only through its cache gets the old way: the cache is dropped, and what comes back is hashed too.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use insula_model::Sha256Digest;
use sha2::{Digest, Sha256};

use super::direct::{AlignedBuffer, is_not_direct, open_direct};
use super::medium::{digest_from_medium, drop_cache};
use crate::progress::{Cancelled, Phase, Watch};

/// Bytes compared at once: as much as a disk takes in one request.
const COMPARED_BYTES: usize = 4 << 20;
/// Bytes hashed at once: they stay in the processor's cache on their way.
const HASHED_BYTES: usize = 256 << 10;
/// Flushes a file of whole blocks, and gives the SHA-256 of its `bytes` bytes when the disk holds the same ones; none
/// when it does not. Nothing of the file stays in the cache.
pub(super) fn settle(path: &Path, file: &File, bytes: u64, watch: Watch<'_>) -> io::Result<Option<Sha256Digest>> {
    let given_up = AtomicBool::new(false);
    let (digest, compared) = std::thread::scope(|scope| {
        let hashing = scope.spawn(|| digest_of_cached(file, bytes, &given_up));
        let compared = file.sync_all().and_then(|()| compare_with_medium(path, file, bytes, watch));
        if !matches!(compared, Ok(Comparison::Equal | Comparison::Impossible)) {
            given_up.store(true, Ordering::Relaxed);
        }
        match hashing.join() {
            Ok(digest) => (digest, compared),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    let settled = match compared? {
        Comparison::Equal => Some(digest?),
        Comparison::Differs => None,
        Comparison::Impossible => {
            let digest = digest?;
            (digest_from_medium(file, bytes, watch)? == digest).then_some(digest)
        }
    };
    drop_cache(file)?;
    Ok(settled)
}

/// What comparing a file's bytes in memory with those on the disk came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    Differs,
    /// The file system does not read past its cache.
    Impossible,
}

fn compare_with_medium(path: &Path, file: &File, bytes: u64, watch: Watch<'_>) -> io::Result<Comparison> {
    let Some(direct) = open_direct(path)? else { return Ok(Comparison::Impossible) };
    let (mut on_disk, mut written) = (AlignedBuffer::new(COMPARED_BYTES), vec![0; COMPARED_BYTES]);
    let mut offset = 0;
    while offset < bytes {
        watch.report(Phase::Verify, offset, Some(bytes)).map_err(io::Error::other)?;
        let length = usize::try_from(bytes - offset).unwrap_or(usize::MAX).min(COMPARED_BYTES);
        let on_disk = &mut on_disk.bytes()[..length];
        match direct.read_exact_at(on_disk, offset) {
            Err(error) if is_not_direct(&error) => return Ok(Comparison::Impossible),
            read => read?,
        }
        let written = &mut written[..length];
        file.read_exact_at(written, offset)?;
        if on_disk != written {
            return Ok(Comparison::Differs);
        }
        offset += u64::try_from(length).map_err(io::Error::other)?;
    }
    Ok(Comparison::Equal)
}

/// Digest of what was written, out of the cache; ends early when `given_up`.
fn digest_of_cached(file: &File, bytes: u64, given_up: &AtomicBool) -> io::Result<Sha256Digest> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; HASHED_BYTES];
    let mut offset = 0;
    while offset < bytes {
        if given_up.load(Ordering::Relaxed) {
            return Err(io::Error::other(Cancelled));
        }
        let length = usize::try_from(bytes - offset).unwrap_or(usize::MAX).min(buffer.len());
        file.read_exact_at(&mut buffer[..length], offset)?;
        hash.update(&buffer[..length]);
        offset += u64::try_from(length).map_err(io::Error::other)?;
    }
    Ok(Sha256Digest(hash.finalize().into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::path::PathBuf;

    /// A file of whole blocks with other bytes in each, below `dir`.
    fn file_in(dir: &str) -> (tempfile::TempDir, PathBuf, Vec<u8>) {
        let dir = tempfile::tempdir_in(dir).unwrap();
        let path = dir.path().join("file");
        let bytes: Vec<u8> = (0..9 << 20 >> 2u32).flat_map(u32::to_le_bytes).collect();
        File::create(&path).unwrap().write_all(&bytes).unwrap();
        (dir, path, bytes)
    }

    fn settled(path: &Path, bytes: usize) -> io::Result<Option<Sha256Digest>> {
        settle(path, &File::open(path).unwrap(), u64::try_from(bytes).unwrap(), Watch::nobody())
    }

    #[test]
    fn a_written_file_settles_with_the_digest_of_its_bytes() {
        // A file system on a disk, and one that has none.
        for dir in ["/var/tmp", "/dev/shm"] {
            let (_dir, path, bytes) = file_in(dir);
            let expected = Sha256Digest(Sha256::digest(&bytes).into());
            assert_eq!(settled(&path, bytes.len()).unwrap(), Some(expected), "{dir}");
        }
    }

    #[test]
    fn a_disk_that_holds_other_bytes_is_found_out() {
        let (_dir, path, bytes) = file_in("/var/tmp");
        let (_other_dir, other, _) = file_in("/var/tmp");
        let changed = OpenOptions::new().write(true).open(&other).unwrap();
        changed.write_all_at(b"!", u64::try_from(bytes.len() - 5000).unwrap()).unwrap();
        // What is read past the cache comes from the file of that name, what was written from the descriptor.
        let written = File::open(&path).unwrap();
        let settled = settle(&other, &written, u64::try_from(bytes.len()).unwrap(), Watch::nobody());
        assert_eq!(settled.unwrap(), None);
    }

    #[test]
    fn a_file_that_is_too_short_is_an_error() {
        let (_dir, path, bytes) = file_in("/var/tmp");
        assert_eq!(settled(&path, bytes.len() + 4096).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn settling_stops_when_asked() {
        let (_dir, path, bytes) = file_in("/var/tmp");
        let watch = Watch { progress: &|_| {}, cancelled: &|| true };
        let error = settle(&path, &File::open(&path).unwrap(), u64::try_from(bytes.len()).unwrap(), watch).unwrap_err();
        assert!(error.get_ref().is_some_and(|inner| inner.is::<Cancelled>()));
    }
}
