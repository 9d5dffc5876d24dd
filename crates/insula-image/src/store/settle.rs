//! The last reading of a new image file: its bytes are flushed, read back from the disk, compared and hashed.
//!
//! ```text
//!  disk ──▶ read past the cache ──▶ digest of the file (thread) ──▶ compare (thread)
//!                   ▲                                                    │
//!                   └────────────────── emptied pieces ──────────────────┘
//! ```
//!
//! Nothing that was written is held against what comes back, for it was never kept: the tree has the digest of each
//! content, made of the memory that was written, and the metadata is a function of the tree. So what comes back is compared with
//! those digests, while the file's own digest is made of the same bytes. That one is thereby of what the disk holds.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use insula_model::Sha256Digest;
use sha2::{Digest, Sha256};

use super::medium::drop_cache;
use crate::direct::{AlignedBuffer, UncachedReader};
use crate::erofs::StreamCheck;
use crate::manifest::Manifest;
use crate::progress::{Cancelled, Phase, Watch};

/// Bytes of a piece.
const PIECE_BYTES: usize = 1 << 20;
/// Pieces in use: one that is read, one in each thread, one between them.
const PIECES: usize = 4;
/// How often somebody who waits for a piece looks whether to go on.
const CANCEL_LOOK: Duration = Duration::from_millis(200);

/// Bytes that came from the disk.
struct Piece {
    memory: AlignedBuffer,
    length: usize,
}

/// Flushes an image file, and gives the SHA-256 of what the disk then holds when it is what `manifest` says; none when
/// it is not. The manifest's own digest of the file counts for nothing. Nothing of the file stays in the cache.
pub(super) fn settle(
    path: &Path,
    file: &File,
    manifest: &Manifest,
    watch: Watch<'_>,
) -> io::Result<Option<Sha256Digest>> {
    file.sync_all()?;
    // Whoever wrote it may have left other bytes there than on the disk.
    drop_cache(file)?;
    let given_up = AtomicBool::new(false);
    let mut check = StreamCheck::new(&manifest.tree, &manifest.file, &given_up);
    let (to_hasher, read) = sync_channel(PIECES);
    let (to_checker, hashed) = sync_channel(PIECES);
    let (emptied, free) = sync_channel(PIECES);
    for _ in 0..PIECES {
        // There is room for all of them.
        let _ = emptied.try_send(AlignedBuffer::new(PIECE_BYTES));
    }
    let (came, digest) = std::thread::scope(|scope| {
        let hashing = scope.spawn(move || hash_pieces(&read, &to_checker));
        let checking = scope.spawn(|| check_pieces(&mut check, hashed, emptied));
        let came = read_pieces(path, manifest.file.bytes, &free, to_hasher, watch);
        given_up.store(came.is_err(), Ordering::Relaxed);
        let joined = checking.join().and_then(|()| hashing.join());
        (came, joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    came?;
    Ok(check.agrees().then_some(digest))
}

/// Reads the first `bytes` bytes of a file, piece by piece.
fn read_pieces(
    path: &Path,
    bytes: u64,
    free: &Receiver<AlignedBuffer>,
    to_hasher: SyncSender<Piece>,
    watch: Watch<'_>,
) -> io::Result<()> {
    let mut file = UncachedReader::open(path)?;
    let mut offset = 0;
    while offset < bytes {
        watch.report(Phase::Verify, offset, Some(bytes)).map_err(io::Error::other)?;
        let mut memory = match free.recv_timeout(CANCEL_LOOK) {
            Ok(memory) => memory,
            Err(RecvTimeoutError::Timeout) => continue,
            // A thread has ended before its time: by a panic, which whoever joins it passes on.
            Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other(Cancelled)),
        };
        let got = file.read_at(&mut memory, offset)?;
        let length = usize::try_from(bytes - offset).unwrap_or(usize::MAX).min(got);
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        offset += u64::try_from(length).map_err(io::Error::other)?;
        // The same.
        to_hasher.send(Piece { memory, length }).map_err(|_| io::Error::other(Cancelled))?;
    }
    Ok(())
}

fn hash_pieces(read: &Receiver<Piece>, to_checker: &SyncSender<Piece>) -> Sha256Digest {
    let mut hash = Sha256::new();
    for piece in read {
        hash.update(&piece.memory[..piece.length]);
        if to_checker.send(piece).is_err() {
            break;
        }
    }
    Sha256Digest(hash.finalize().into())
}

fn check_pieces(check: &mut StreamCheck<'_>, hashed: Receiver<Piece>, emptied: SyncSender<AlignedBuffer>) {
    for piece in hashed {
        check.update(&piece.memory[..piece.length]);
        // A reader that has ended needs no more.
        let _ = emptied.send(piece.memory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::manifest_of;
    use crate::draft::{NewEntry, NewKind, TreeLimits};
    use crate::erofs::ImageWriter;
    use crate::manifest::Provenance;
    use crate::path::ImagePath;
    use insula_model::{ImageConfig, MountPlan};
    use std::os::unix::fs::FileExt;

    const CONTENT_BYTES: u64 = 9 << 20;

    /// An image of one file with other bytes in each block, as it is before it is published.
    fn written_in(dir: &str) -> (tempfile::NamedTempFile, Manifest) {
        let file = tempfile::NamedTempFile::new_in(dir).unwrap();
        let mut writer = ImageWriter::new(file.reopen().unwrap(), TreeLimits::standard()).unwrap();
        let content: Vec<u8> = (0..9 << 20 >> 2u32).flat_map(u32::to_le_bytes).collect();
        let entry = NewEntry { kind: NewKind::File { size: CONTENT_BYTES }, attributes: Default::default() };
        writer.add(ImagePath::parse("file").unwrap(), entry, &mut content.as_slice()).unwrap();
        let (id, plan) = ("web@1".parse().unwrap(), MountPlan::default_plan());
        let image = writer.finish().unwrap();
        (file, manifest_of(id, image, Provenance::default(), ImageConfig::default(), plan))
    }

    fn settled(file: &tempfile::NamedTempFile, manifest: &Manifest) -> io::Result<Option<Sha256Digest>> {
        settle(file.path(), file.as_file(), manifest, Watch::nobody())
    }

    #[test]
    fn an_image_settles_with_the_digest_of_its_file() {
        // A file system on a disk, and one that has none.
        for dir in ["/var/tmp", "/dev/shm"] {
            let (file, manifest) = written_in(dir);
            let expected = Sha256Digest(Sha256::digest(std::fs::read(file.path()).unwrap()).into());
            assert_eq!(settled(&file, &manifest).unwrap(), Some(expected), "{dir}");
        }
    }

    #[test]
    fn an_image_that_is_not_in_the_cache_is_not_there_afterwards() {
        let (file, manifest) = written_in("/var/tmp");
        settled(&file, &manifest).unwrap().unwrap();
        match insula_kernel::page_cache::cached_bytes(file.as_file()) {
            Ok(bytes) => assert_eq!(bytes, 0),
            Err(error) => assert_eq!(error, rustix::io::Errno::NOSYS),
        }
    }

    #[test]
    fn a_disk_that_holds_other_bytes_is_found_out() {
        let (file, manifest) = written_in("/var/tmp");
        for offset in [1024, 4096, CONTENT_BYTES, manifest.file.bytes - 1] {
            let mut byte = [0];
            file.as_file().read_exact_at(&mut byte, offset).unwrap();
            file.as_file().write_all_at(&[byte[0] ^ 1], offset).unwrap();
            assert_eq!(settled(&file, &manifest).unwrap(), None, "{offset}");
            file.as_file().write_all_at(&byte, offset).unwrap();
        }
        assert!(settled(&file, &manifest).unwrap().is_some());
    }

    #[test]
    fn a_file_that_is_too_short_is_an_error() {
        let (file, manifest) = written_in("/var/tmp");
        file.as_file().set_len(manifest.file.bytes - 4096).unwrap();
        assert_eq!(settled(&file, &manifest).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn settling_stops_when_asked() {
        let (file, manifest) = written_in("/var/tmp");
        let watch = Watch { progress: &|_| {}, cancelled: &|| true };
        let error = settle(file.path(), file.as_file(), &manifest, watch).unwrap_err();
        assert!(error.get_ref().is_some_and(|inner| inner.is::<Cancelled>()));
    }
}
