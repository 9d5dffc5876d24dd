//! Reads a file ahead of whoever parses it, and hashes what it reads, each in a thread of its own.
//!
//! ```text
//!  file ──▶ read (thread) ──▶ hash (thread) ──▶ pieces of 256 KiB ──▶ whoever reads this
//!                ▲                                                      │
//!                └───────────────────── emptied pieces ─────────────────┘
//! ```
//!
//! A digest takes as long as reading, parsing and writing together; in a thread of its own it costs no time while there
//! is a second processor, and a source that is slow is waited for while what came before is written.

use std::fs::File;
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::progress::{Cancelled, Watch};

/// Bytes of a piece.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces in use: how far the threads may be ahead.
const PIECES: usize = 8;

/// How often somebody who waits for a silent source looks whether to go on.
const CANCEL_LOOK: Duration = Duration::from_millis(200);

/// A digest in the making, shared with whoever feeds it.
pub(super) type SharedHash = Arc<Mutex<Sha256>>;

/// Adds bytes to a shared digest.
pub(super) fn feed(hash: &SharedHash, bytes: &[u8]) {
    hash.lock().unwrap_or_else(PoisonError::into_inner).update(bytes);
}

/// Bytes that were read; all of the memory is kept for the next ones.
struct Piece {
    memory: Vec<u8>,
    length: usize,
}

/// A file that is read ahead. Dropped early, its threads end with the read that one is in.
pub(crate) struct ReadAhead<'caller> {
    watch: Watch<'caller>,
    read: Receiver<io::Result<Piece>>,
    emptied: SyncSender<Vec<u8>>,
    piece: Piece,
    position: usize,
    hash: SharedHash,
    ended: bool,
}

impl std::fmt::Debug for ReadAhead<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadAhead").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl<'caller> ReadAhead<'caller> {
    /// Begins to read at the file's cursor. Whoever waits for it asks `watch` whether to go on.
    ///
    /// # Errors
    ///
    /// When a thread cannot be started.
    pub(crate) fn start(file: File, watch: Watch<'caller>) -> io::Result<Self> {
        let (to_hasher, to_hash) = sync_channel(PIECES);
        let (hashed, read) = sync_channel(PIECES);
        let (emptied, free) = sync_channel(PIECES);
        for _ in 0..PIECES {
            // There is room for all of them.
            let _ = emptied.try_send(vec![0; PIECE_BYTES]);
        }
        let hash = SharedHash::default();
        let fed = hash.clone();
        let named = |name: &str| std::thread::Builder::new().name(name.to_owned());
        named("archive-reader").spawn(move || read_pieces(file, &free, &to_hasher))?;
        named("archive-hasher").spawn(move || hash_pieces(&to_hash, &fed, &hashed))?;
        let piece = Piece { memory: Vec::new(), length: 0 };
        Ok(Self { watch, read, emptied, piece, position: 0, hash, ended: false })
    }

    /// Digest of what was read so far: of the whole file, once this has ended.
    pub(super) fn hash(&self) -> SharedHash {
        self.hash.clone()
    }

    fn next_piece(&mut self) -> io::Result<()> {
        let emptied = std::mem::replace(&mut self.piece, Piece { memory: Vec::new(), length: 0 });
        if !emptied.memory.is_empty() {
            // A reader that has ended needs no more.
            let _ = self.emptied.send(emptied.memory);
        }
        self.position = 0;
        loop {
            match self.read.recv_timeout(CANCEL_LOOK) {
                Ok(read) => self.piece = read?,
                Err(RecvTimeoutError::Disconnected) => self.ended = true,
                Err(RecvTimeoutError::Timeout) if self.watch.is_cancelled() => {
                    return Err(io::Error::other(Cancelled));
                }
                Err(RecvTimeoutError::Timeout) => continue,
            }
            return Ok(());
        }
    }
}

/// The reader's thread: ends at the file's end, at an error, or when nobody reads any more.
fn read_pieces(mut file: File, free: &Receiver<Vec<u8>>, to_hasher: &SyncSender<io::Result<Piece>>) {
    for mut memory in free {
        let read = match file.read(&mut memory) {
            Ok(0) => return,
            Ok(length) => Ok(Piece { memory, length }),
            Err(error) => Err(error),
        };
        let is_last = read.is_err();
        if to_hasher.send(read).is_err() || is_last {
            return;
        }
    }
}

/// The hasher's thread: ends when the reader's does, or when nobody reads any more.
fn hash_pieces(to_hash: &Receiver<io::Result<Piece>>, hash: &SharedHash, hashed: &SyncSender<io::Result<Piece>>) {
    for read in to_hash {
        if let Ok(piece) = &read {
            feed(hash, &piece.memory[..piece.length]);
        }
        if hashed.send(read).is_err() {
            return;
        }
    }
}

impl Read for ReadAhead<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.position == self.piece.length && !self.ended {
            self.next_piece()?;
        }
        let rest = &self.piece.memory[self.position..self.piece.length];
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        self.position += length;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    #[test]
    fn what_is_read_ahead_are_the_files_bytes_and_their_digest() {
        for length in [0, 1, PIECE_BYTES, PIECE_BYTES * (PIECES + 3) + 17] {
            let bytes: Vec<u8> = (0..length).map(|index| u8::try_from(index % 251).unwrap()).collect();
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            file.rewind().unwrap();
            let mut ahead = ReadAhead::start(file, Watch::nobody()).unwrap();
            let mut came = Vec::new();
            ahead.read_to_end(&mut came).unwrap();
            assert!(came == bytes, "{length}");
            assert_eq!(ahead.read(&mut [0; 4]).unwrap(), 0, "an end stays one");
            let digest = ahead.hash().lock().unwrap().clone().finalize();
            assert_eq!(digest, Sha256::digest(&bytes));
        }
    }

    fn file_of(pipe: std::io::PipeReader) -> File {
        File::from(std::os::fd::OwnedFd::from(pipe))
    }

    #[test]
    fn a_source_that_is_silent_is_waited_for_until_somebody_asks_to_stop() {
        let (reader, _silent) = std::io::pipe().unwrap();
        let watch = Watch { progress: &|_| {}, cancelled: &|| true };
        let error = ReadAhead::start(file_of(reader), watch).unwrap().read(&mut [0; 4]).unwrap_err();
        assert!(error.get_ref().is_some_and(|inner| inner.is::<Cancelled>()));
    }

    #[test]
    fn an_error_comes_after_what_was_read_before_it() {
        let directory = File::open("/").unwrap();
        let mut ahead = ReadAhead::start(directory, Watch::nobody()).unwrap();
        assert_eq!(ahead.read(&mut [0; 4]).unwrap_err().kind(), io::ErrorKind::IsADirectory);
    }

    #[test]
    fn a_reader_that_is_dropped_early_ends_its_thread() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"begin").unwrap();
        let mut ahead = ReadAhead::start(file_of(reader), Watch::nobody()).unwrap();
        ahead.read_exact(&mut [0; 5]).unwrap();
        drop(ahead);
        // What the thread was waiting for; then nobody holds the pipe's other end any more.
        let _ = writer.write_all(b"more");
        while writer.write_all(b"more").is_ok() {}
    }
}
