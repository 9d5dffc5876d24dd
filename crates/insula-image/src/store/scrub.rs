//! Reading a version's bytes again while it is in use: slowly, past every cache, so that damage of the disk is found
//! before a container reads it.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use insula_model::{Bytes, ImageId, Sha256Digest};
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::medium::{FileState, StoreFileError, if_readable};
use super::{CHECKED_FILE, IMAGE_FILE, Store, VerifyError, VerifyReport};
use crate::direct::{PageBuffer, UncachedReader};
use crate::progress::{Cancelled, Phase, Watch};

/// What reading a version again found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scrubbed {
    /// All bytes are right.
    Intact,
    /// They were wrong, and right when they were read once more: a fault on the way from the disk.
    Misread,
    /// They are wrong: the version is marked.
    Damaged(VerifyReport),
}

/// Bytes read at once; a multiple of every block size that direct reading may want.
const READ_BYTES: usize = 1 << 20;
/// Longest sleep between two looks at whether it is to stop.
const SLEEP_MAX: Duration = Duration::from_millis(100);

impl Store {
    /// Of these versions the sound one whose bytes were compared the longest time ago.
    #[must_use]
    pub fn least_recently_checked(&self, among: impl IntoIterator<Item = ImageId>) -> Option<ImageId> {
        let sound = |id: &ImageId| self.show(id).is_ok_and(|summary| summary.damage.is_none());
        let checked = |id: &ImageId| {
            let record = std::fs::metadata(self.layout.version(id).join(CHECKED_FILE));
            record.and_then(|record| record.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
        };
        among.into_iter().filter(sound).min_by_key(|id| (checked(id), id.clone()))
    }

    /// Reads every byte of a version's file past the caches, at most `rate` a second, and compares. What differs is
    /// read once more as [`Store::verify`] does, which names and marks it.
    ///
    /// # Errors
    ///
    /// When the version is not there or its file cannot be read. Damage is no error.
    pub fn scrub(&self, id: &ImageId, rate: Bytes, now: Timestamp, watch: Watch<'_>) -> Result<Scrubbed, VerifyError> {
        let hold = self.hold(id)?;
        let expected = hold.info().file;
        let dir = self.layout.version(id);
        let path = dir.join(IMAGE_FILE);
        let failed = |action: &'static str| {
            let path = path.clone();
            move |source: io::Error| match source.get_ref().and_then(|inner| inner.downcast_ref()) {
                Some(&source @ Cancelled) => VerifyError::Cancelled { id: id.clone(), source },
                None => VerifyError::File { id: id.clone(), source: StoreFileError { action, path, source } },
            }
        };
        let state = File::open(&path).and_then(|file| FileState::of(&file)).map_err(failed("open"))?;
        if state.bytes == expected.bytes
            && if_readable(digest_slowly(&path, state.bytes, rate, watch)).map_err(failed("read"))?
                == Some(expected.sha256)
        {
            let recorded = self.record_check(&dir, state);
            recorded.map_err(|source| VerifyError::File { id: id.clone(), source })?;
            return Ok(Scrubbed::Intact);
        }
        let report = self.verify(id, now, watch)?;
        Ok(if report.damage.is_empty() { Scrubbed::Misread } else { Scrubbed::Damaged(report) })
    }
}

fn digest_slowly(path: &Path, bytes: u64, rate: Bytes, watch: Watch<'_>) -> io::Result<Sha256Digest> {
    let mut file = UncachedReader::open(path)?;
    let mut buffer = PageBuffer::new(READ_BYTES)?;
    let began = Instant::now();
    let mut hash = Sha256::new();
    let mut offset = 0;
    while offset < bytes {
        watch.report(Phase::Verify, offset, Some(bytes)).map_err(io::Error::other)?;
        let got = match file.read_at(&mut buffer, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            got => got,
        };
        let wanted = usize::try_from(bytes - offset).unwrap_or(usize::MAX).min(got);
        hash.update(&buffer[..wanted]);
        offset += u64::try_from(wanted).map_err(io::Error::other)?;
        pace(began, offset, rate, watch)?;
    }
    Ok(Sha256Digest(hash.finalize().into()))
}

/// Sleeps until `done` bytes are no more than `rate` a second since `began`.
fn pace(began: Instant, done: u64, rate: Bytes, watch: Watch<'_>) -> io::Result<()> {
    let millis = u128::from(done) * 1_000 / u128::from(rate.0.max(1));
    let due = Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX));
    loop {
        let early = due.saturating_sub(began.elapsed());
        if early.is_zero() {
            return Ok(());
        }
        watch.report(Phase::Verify, done, None).map_err(io::Error::other)?;
        std::thread::sleep(early.min(SLEEP_MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{TestStore, at, flip, id};
    use super::*;
    use crate::progress::Progress;

    const FAST: Bytes = Bytes(u64::MAX);

    #[test]
    fn a_flipped_bit_is_found_past_the_cache_and_marked() {
        let store = TestStore::new();
        let version = id("web@1");
        // More than one read, and an end that is no multiple of one.
        store.import("web@1", &[("bin/sh", &vec![7; 3 * READ_BYTES + 12_345])]);
        let image = store.version_dir("web@1").join("root.erofs");
        assert_eq!(store.scrub(&version, FAST, at(1), Watch::nobody()).unwrap(), Scrubbed::Intact);
        flip(&image, 2_000_000);
        let Scrubbed::Damaged(report) = store.scrub(&version, FAST, at(1), Watch::nobody()).unwrap() else {
            panic!("not found")
        };
        assert!(report.damage[0].to_string().contains("bin/sh"), "{:?}", report.damage);
        assert!(store.show(&version).unwrap().damage.is_some());
        assert_eq!(store.least_recently_checked([version]), None, "what is known to be damaged is not read again");
    }

    #[test]
    fn reading_slowly_gives_the_same_digest_and_leaves_nothing_in_memory() {
        let store = TestStore::new();
        store.import("web@1", &[("a", &vec![5; READ_BYTES + 777])]);
        let expected = store.show(&id("web@1")).unwrap().info.file;
        let image = store.version_dir("web@1").join("root.erofs");
        let digest = digest_slowly(&image, expected.bytes, FAST, Watch::nobody()).unwrap();
        assert_eq!(digest, expected.sha256);
        if let Ok(cached) = insula_kernel::page_cache::cached_bytes(File::open(&image).unwrap()) {
            assert!(cached < 64 << 10, "{cached}");
        }
    }

    #[test]
    fn the_rate_is_kept_and_a_stop_is_heard() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4 << 20).unwrap();
        let began = Instant::now();
        digest_slowly(file.path(), 4 << 20, Bytes(16 << 20), Watch::nobody()).unwrap();
        assert!(began.elapsed() >= Duration::from_millis(250), "{:?}", began.elapsed());
        let reports = std::cell::Cell::new(0);
        let progress = |_: Progress| reports.set(reports.get() + 1);
        let cancelled = || reports.get() > 2;
        let watch = Watch { progress: &progress, cancelled: &cancelled };
        // At this rate it would take hours.
        let error = digest_slowly(file.path(), 4 << 20, Bytes(256), watch).unwrap_err();
        assert!(error.get_ref().is_some_and(|inner| inner.is::<Cancelled>()), "{error}");
    }

    #[test]
    fn versions_take_turns() {
        let store = TestStore::new();
        for version in ["web@1", "web@2", "web@3"] {
            store.import(version, &[("a", b"1")]);
        }
        let all = || ["web@1", "web@2", "web@3"].map(id);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..3 {
            let next = store.least_recently_checked(all()).unwrap();
            store.scrub(&next, FAST, at(1), Watch::nobody()).unwrap();
            seen.insert(next);
        }
        assert_eq!(seen.len(), 3);
    }
}
