//! Files on their way to and from the disk: written so that a crash leaves the old or the new, read past the cache.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use insula_kernel::fs_verity;
use insula_model::Sha256Digest;
use rustix::fs::{Advice, IFlags, fadvise, ioctl_getflags, ioctl_setflags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::progress::{Phase, Watch};

/// A file or directory of the store could not be used.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}", path.display())]
pub struct StoreFileError {
    /// What was attempted.
    pub action: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why not.
    #[source]
    pub source: io::Error,
}

impl StoreFileError {
    /// For `map_err`: names the attempt and its object.
    pub(crate) fn on(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { action, path, source }
    }
}

/// How often a file that somebody has open for writing is tried again, and how long after the last time.
const BUSY_TRIES: u32 = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;

/// SHA-256 of the first `bytes` bytes of a file as its disk holds them: what the cache holds is dropped first and
/// nothing stays there.
pub(super) fn digest_from_medium(file: &File, bytes: u64, watch: Watch<'_>) -> io::Result<Sha256Digest> {
    drop_cache(file)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut offset = 0;
    while offset < bytes {
        watch.report(Phase::Verify, offset, Some(bytes)).map_err(io::Error::other)?;
        let length = usize::try_from(bytes - offset).unwrap_or(usize::MAX).min(buffer.len());
        file.read_exact_at(&mut buffer[..length], offset)?;
        hash.update(&buffer[..length]);
        let length = u64::try_from(length).map_err(io::Error::other)?;
        fadvise(file, offset, NonZeroU64::new(length), Advice::DontNeed)?;
        offset += length;
    }
    Ok(Sha256Digest(hash.finalize().into()))
}

/// What was read, or nothing where the disk does not give it back: it reports an error, or the kernel found other bytes
/// than those that were published (fs-verity). Both are damage, like other bytes.
pub(super) fn if_readable<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::IO) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Drops the whole file's clean pages from the cache. Dirty ones stay: flush first.
pub(super) fn drop_cache(file: &File) -> io::Result<()> {
    fadvise(file, 0, None, Advice::DontNeed).map_err(io::Error::from)
}

/// Replaces a small file: a crash leaves the old content or the new one.
pub(super) fn replace_file(dir: &Path, name: &str, content: &[u8]) -> Result<(), StoreFileError> {
    let temporary = dir.join(format!(".new-{name}"));
    let target = dir.join(name);
    write_file(&temporary, content).map_err(StoreFileError::on("write", &temporary))?;
    std::fs::rename(&temporary, &target).map_err(StoreFileError::on("replace", &target))?;
    sync_dir(dir)
}

/// Writes a file anew and flushes it.
pub(super) fn write_file(path: &Path, content: &[u8]) -> io::Result<()> {
    write_unflushed(path, content)?.sync_all()
}

/// Writes a file anew; a crash may take it.
pub(super) fn write_unflushed(path: &Path, content: &[u8]) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    Ok(file)
}

/// Flushes a directory's entries.
pub(super) fn sync_dir(dir: &Path) -> Result<(), StoreFileError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(StoreFileError::on("flush directory", dir))
}

/// Reads a file of at most `max` bytes.
pub(super) fn read_bounded(path: &Path, max: usize) -> io::Result<Vec<u8>> {
    let size = std::fs::metadata(path)?.len();
    if size > u64::try_from(max).map_err(io::Error::other)? {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{size} bytes, the most is {max}")));
    }
    std::fs::read(path)
}

/// Whether a file can be changed by root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Immutability {
    /// Not even by root, until the flag is cleared.
    Immutable,
    /// The file system or our privileges do not have that flag.
    Unavailable,
}

/// Sets `FS_IMMUTABLE_FL`. Without it root could write to an image while it is mounted.
pub(super) fn make_immutable(file: &File) -> io::Result<Immutability> {
    let flags = match ioctl_getflags(file) {
        Ok(flags) => flags,
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL) => return Ok(Immutability::Unavailable),
        Err(error) => return Err(error.into()),
    };
    match ioctl_setflags(file, flags | IFlags::IMMUTABLE) {
        Ok(()) => Ok(Immutability::Immutable),
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL | Errno::PERM) => Ok(Immutability::Unavailable),
        Err(error) => Err(error.into()),
    }
}

/// Has the kernel check every page of the file whenever it is read (fs-verity), where the file system takes that. To be
/// called before the file is made immutable. Nothing of the file stays in the cache.
pub(super) fn have_checked(file: &File) -> io::Result<()> {
    for _ in 1..BUSY_TRIES {
        match fs_verity::enable(file) {
            // A program that is only just being started still has what this process had open.
            Err(Errno::TXTBSY) => std::thread::sleep(BUSY_PAUSE),
            Ok(()) => return drop_cache(file),
            Err(Errno::NOTTY | Errno::OPNOTSUPP) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Err(Errno::TXTBSY.into())
}

/// Clears `FS_IMMUTABLE_FL`, so that the file can be removed.
pub(super) fn make_mutable(path: &Path) -> io::Result<()> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    match ioctl_getflags(&file) {
        Ok(flags) if flags.contains(IFlags::IMMUTABLE) => Ok(ioctl_setflags(&file, flags - IFlags::IMMUTABLE)?),
        Ok(_) | Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What shows cheaply that a file is the one that was checked: any write, truncation or replacement changes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileState {
    pub(super) bytes: u64,
    pub(super) inode: u64,
    pub(super) changed_s: i64,
    pub(super) changed_ns: i64,
    pub(super) immutable: bool,
}

impl FileState {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let stat = file.metadata()?;
        let immutable = ioctl_getflags(file).is_ok_and(|flags| flags.contains(IFlags::IMMUTABLE));
        Ok(Self {
            bytes: stat.len(),
            inode: stat.ino(),
            changed_s: stat.ctime(),
            changed_ns: stat.ctime_nsec(),
            immutable,
        })
    }
}

/// Removes a directory with everything in it, immutable files of ours included. Nothing there is well.
pub(super) fn remove_tree(dir: &Path) -> Result<(), StoreFileError> {
    let image_files = [dir.join(super::IMAGE_FILE), dir.join(super::incoming::IMAGE_DIR).join(super::IMAGE_FILE)];
    for file in image_files {
        make_mutable(&file).map_err(StoreFileError::on("clear the immutable flag of", &file))?;
    }
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreFileError::on("remove", dir)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_has_the_new_content_and_no_leftover() {
        let dir = tempfile::tempdir().unwrap();
        replace_file(dir.path(), "stage", b"old").unwrap();
        replace_file(dir.path(), "stage", b"new").unwrap();
        assert_eq!(std::fs::read(dir.path().join("stage")).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn digest_from_the_medium_is_the_digest_of_the_bytes() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[3; 3_000_000]).unwrap();
        file.sync_all().unwrap();
        let digest = digest_from_medium(&file, 3_000_000, Watch::nobody()).unwrap();
        assert_eq!(digest, Sha256Digest(Sha256::digest(vec![3; 3_000_000]).into()));
    }
}
