//! The last reading of a new image file: its bytes are flushed, read back from the disk, compared and hashed.
//!
//! ```text
//!  disk ─┬▶ every other piece, past the cache (thread) ─┬▶ digest of the file (thread) ──▶ of the contents (thread)
//!        └▶ the pieces between (thread) ────────────────┘                                     │
//!                  ▲                                                                          │
//!                  └───────────────────────────── emptied pieces ─────────────────────────────┘
//! ```
//!
//! Two readers keep the disk busy: it would stand still while one of them hands a piece on.
//!
//! Nothing that was written is held against what comes back, for it was never kept: whoever wrote it made a sum of it, and
//! the metadata is a function of the tree. So what comes back is compared with these, and every digest is of what the
//! disk holds, made by this process: whoever wrote the image is not asked for any.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use insula_model::Sha256Digest;
use sha2::{Digest, Sha256};

use super::medium::drop_cache;
use crate::direct::{PageBuffer, UncachedReader};
use crate::erofs::{ContentDigest, StreamDigests};
use crate::manifest::UnpublishedImage;
use crate::progress::{Phase, Watch};

/// Bytes of a piece, and how far the next one of the same reader is from its beginning.
const PIECE_BYTES: usize = 2 << 20;
const STEP: u64 = 4 << 20;
/// Pieces of each reader: one that is read, one in a thread, one between.
const PIECES: usize = 3;
/// How often somebody who waits for a piece looks whether to go on.
const CANCEL_LOOK: Duration = Duration::from_millis(200);

/// Digests of what a disk holds.
#[derive(Debug)]
pub(super) struct Settled {
    /// Of the file.
    pub(super) sha256: Sha256Digest,
    /// Of each content in it.
    pub(super) contents: Vec<ContentDigest>,
}

/// Bytes that came from the disk.
struct Piece {
    memory: PageBuffer,
    length: usize,
    /// Where it goes when it is emptied: to its reader.
    home: SyncSender<Piece>,
}

/// Flushes an image file, and gives the digests of what the disk then holds when it is what was written; none when it
/// is not. Nothing of the file stays in the cache.
pub(super) fn settle(
    path: &Path,
    file: &File,
    image: &UnpublishedImage,
    watch: Watch<'_>,
) -> io::Result<Option<Settled>> {
    file.sync_all()?;
    // Whoever wrote it may have left other bytes there than on the disk.
    drop_cache(file)?;
    let given_up = AtomicBool::new(false);
    let manifest = &image.manifest;
    let bytes = manifest.file.bytes;
    let mut digests = StreamDigests::new(&manifest.tree, &manifest.file, image.contents, &given_up);
    let (to_digester, hashed) = sync_channel(2 * PIECES);
    let ((own, first), (other, second)) = (Reader::new(0)?, Reader::new(STEP / 2)?);
    let (came, sha256) = std::thread::scope(|scope| {
        let hashing = scope.spawn(move || hash_pieces(&[first, second], &to_digester));
        let digesting = scope.spawn(|| digest_pieces(&mut digests, hashed));
        let reading = scope.spawn(|| other.read(path, bytes, &given_up, &|_| Ok(())));
        let report = |offset| watch.report(Phase::Verify, offset, Some(bytes)).map_err(io::Error::other);
        let came = own.read(path, bytes, &given_up, &report);
        match (reading.join(), digesting.join(), hashing.join()) {
            (Ok(between), Ok(()), Ok(sha256)) => (came.and(between), sha256),
            (Err(panic), ..) | (_, Err(panic), _) | (.., Err(panic)) => std::panic::resume_unwind(panic),
        }
    });
    came?;
    Ok(digests.finish().map(|contents| Settled { sha256, contents }))
}

/// Reads every other piece of a file.
struct Reader {
    /// Of the first of them.
    offset: u64,
    free: Receiver<Piece>,
    to_hasher: SyncSender<Piece>,
}

impl Reader {
    /// One whose first piece lies at `offset`, and where its pieces arrive.
    fn new(offset: u64) -> io::Result<(Self, Receiver<Piece>)> {
        let (to_hasher, read) = sync_channel(PIECES);
        let (home, free) = sync_channel(PIECES);
        for _ in 0..PIECES {
            // There is room for all of them.
            let _ = home.try_send(Piece { memory: PageBuffer::new(PIECE_BYTES)?, length: 0, home: home.clone() });
        }
        Ok((Self { offset, free, to_hasher }, read))
    }

    /// Reads its pieces of the file's first `bytes` bytes. Before each `look` is asked whether to go on. When somebody
    /// else has ended early it ends too, and leaves saying why to them.
    fn read(
        self,
        path: &Path,
        bytes: u64,
        given_up: &AtomicBool,
        look: &dyn Fn(u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let read = self.read_pieces(path, bytes, look);
        given_up.fetch_or(read.is_err(), Ordering::Relaxed);
        read
    }

    fn read_pieces(self, path: &Path, bytes: u64, look: &dyn Fn(u64) -> io::Result<()>) -> io::Result<()> {
        let mut file = UncachedReader::open(path)?;
        let mut offset = self.offset;
        while offset < bytes {
            look(offset)?;
            let mut piece = match self.free.recv_timeout(CANCEL_LOOK) {
                Ok(piece) => piece,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            let wanted = usize::try_from(bytes - offset).unwrap_or(usize::MAX).min(PIECE_BYTES);
            if file.read_at(&mut piece.memory, offset)? < wanted {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            piece.length = wanted;
            if self.to_hasher.send(piece).is_err() {
                return Ok(());
            }
            offset += STEP;
        }
        Ok(())
    }
}

/// Takes the pieces of the readers in turn.
fn hash_pieces(readers: &[Receiver<Piece>; 2], to_digester: &SyncSender<Piece>) -> Sha256Digest {
    let mut hash = Sha256::new();
    for read in readers.iter().cycle() {
        let Ok(piece) = read.recv() else { break };
        hash.update(&piece.memory[..piece.length]);
        if to_digester.send(piece).is_err() {
            break;
        }
    }
    Sha256Digest(hash.finalize().into())
}

fn digest_pieces(digests: &mut StreamDigests<'_>, hashed: Receiver<Piece>) {
    for piece in hashed {
        digests.update(&piece.memory[..piece.length]);
        // A reader that has ended needs no more.
        let _ = piece.home.clone().send(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::unpublished;
    use crate::draft::{NewEntry, NewKind, TreeLimits};
    use crate::erofs::ImageWriter;
    use crate::manifest::{Provenance, digest_of};
    use crate::path::ImagePath;
    use crate::progress::Cancelled;
    use insula_model::{ImageConfig, MountPlan};
    use std::os::unix::fs::FileExt;

    const CONTENT_BYTES: u64 = 9 << 20;

    /// An image of one file with other bytes in each block, as it is before it is published.
    fn written_in(dir: &str) -> (tempfile::NamedTempFile, UnpublishedImage) {
        let file = tempfile::NamedTempFile::new_in(dir).unwrap();
        let mut writer = ImageWriter::new(file.reopen().unwrap(), TreeLimits::standard()).unwrap();
        let content: Vec<u8> = (0..9 << 20 >> 2u32).flat_map(u32::to_le_bytes).collect();
        let entry = NewEntry { kind: NewKind::File { size: CONTENT_BYTES }, attributes: Default::default() };
        writer.add(ImagePath::parse("file").unwrap(), entry, &mut content.as_slice()).unwrap();
        let (id, plan) = ("web@1".parse().unwrap(), MountPlan::default_plan());
        let image = writer.finish().unwrap();
        (file, unpublished(id, image, Provenance::default(), ImageConfig::default(), plan))
    }

    fn settled(file: &tempfile::NamedTempFile, image: &UnpublishedImage) -> io::Result<Option<Settled>> {
        settle(file.path(), file.as_file(), image, Watch::nobody())
    }

    #[test]
    fn an_image_settles_with_the_digests_of_its_file_and_of_what_is_in_it() {
        // A file system on a disk, and one that has none.
        for dir in ["/var/tmp", "/dev/shm"] {
            let (file, image) = written_in(dir);
            let bytes = std::fs::read(file.path()).unwrap();
            let settled = settled(&file, &image).unwrap().unwrap();
            assert_eq!(settled.sha256, digest_of(&bytes), "{dir}");
            let file = image.manifest.tree.iter().find(|item| item.path.as_bytes() == b"file").unwrap();
            let content = &bytes[4096..4096 + usize::try_from(CONTENT_BYTES).unwrap()];
            assert_eq!(settled.contents, [(file.index, digest_of(content))], "{dir}");
        }
    }

    #[test]
    fn an_image_that_is_not_in_the_cache_is_not_there_afterwards() {
        let (file, image) = written_in("/var/tmp");
        settled(&file, &image).unwrap().unwrap();
        match insula_kernel::page_cache::cached_bytes(file.as_file()) {
            Ok(bytes) => assert_eq!(bytes, 0),
            Err(error) => assert_eq!(error, rustix::io::Errno::NOSYS),
        }
    }

    #[test]
    fn a_disk_that_holds_other_bytes_is_found_out() {
        let (file, image) = written_in("/var/tmp");
        for offset in [1024, 4096, CONTENT_BYTES, image.manifest.file.bytes - 1] {
            let mut byte = [0];
            file.as_file().read_exact_at(&mut byte, offset).unwrap();
            file.as_file().write_all_at(&[byte[0] ^ 1], offset).unwrap();
            assert!(settled(&file, &image).unwrap().is_none(), "{offset}");
            file.as_file().write_all_at(&byte, offset).unwrap();
        }
        assert!(settled(&file, &image).unwrap().is_some());
    }

    #[test]
    fn a_file_that_is_too_short_is_an_error() {
        let (file, image) = written_in("/var/tmp");
        file.as_file().set_len(image.manifest.file.bytes - 4096).unwrap();
        assert_eq!(settled(&file, &image).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn settling_stops_when_asked() {
        let (file, image) = written_in("/var/tmp");
        let watch = Watch { progress: &|_| {}, cancelled: &|| true };
        let error = settle(file.path(), file.as_file(), &image, watch).unwrap_err();
        assert!(error.get_ref().is_some_and(|inner| inner.is::<Cancelled>()));
    }
}
