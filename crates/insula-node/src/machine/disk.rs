//! A container's data in a file system of its own, when it has a `data.size`: a sparse file with ext4 in it.
//!
//! ```text
//!   containers/ID/disk        the file; in it data/ and layer/
//!   containers/ID/disk.from/  what was in the directories before; while the file is made, and after a crash then
//!   containers/ID/disk.new    the file while it is made
//! ```
//!
//! Every prefix of the making is undone or finished by the next start. A file that is there is used, whatever the
//! configuration says, and only grows. Mounting is the launcher's; here a file is made, which programs of e2fsprogs
//! fill and grow while nobody runs. (Growing a mounted one needs `CAP_SYS_RESOURCE`, which a node may lack.)

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use insula_kernel::ext4::Ext4Size;
use insula_model::Bytes;
use insula_plan::disk::lock_disk;

/// Bytes of a block.
const BLOCK_BYTES: u64 = 4_096;
/// Most of what mkfs.ext4 says that is passed on.
const SAID_CHARS_MAX: usize = 300;

/// The disk of a container cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiskError {
    /// A file or directory.
    #[error("{action} {path}")]
    File {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The program is not there.
    #[error("{program} is not installed, which data.size needs; run `apt-get install e2fsprogs`")]
    NoProgram {
        /// Which.
        program: &'static str,
    },
    /// It could not do it: what there is does not fit, or the node's disk is full.
    #[error("{program} ended with {status}; does what is in /data fit into data.size? {said}")]
    Program {
        /// Which.
        program: &'static str,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it said.
        said: String,
    },
}

/// Where the parts of a container's storage are.
#[derive(Debug, Clone)]
pub(super) struct DiskPaths {
    /// Directory of the container.
    base: PathBuf,
    /// Its directories, when it has no disk.
    parts: [(&'static str, PathBuf); 2],
}

impl DiskPaths {
    /// Those of the container with these directories.
    pub(super) fn new(base: PathBuf, data: PathBuf) -> Self {
        let layer = base.join("layer");
        Self { base, parts: [("data", data), ("layer", layer)] }
    }

    /// The file.
    pub(super) fn disk(&self) -> PathBuf {
        self.base.join("disk")
    }

    /// Whether a crash left the container between directories and disk.
    pub(super) fn is_interrupted(&self) -> bool {
        self.base.join("disk.from").exists()
    }

    /// Opens the disk of a container that does not run: made if it has none and `size` says so, grown to `size` if it
    /// is smaller. `None`: it has directories. Takes about 20 ms when it is made or grown, else less than 0.1.
    ///
    /// # Errors
    ///
    /// See [`DiskError`]; what the container has is where it was.
    pub(super) fn open(&self, size: Option<Bytes>) -> Result<Option<OwnedFd>, DiskError> {
        let disk = self.disk();
        if !disk.exists() {
            let Some(size) = size else {
                self.put_back()?;
                return Ok(None);
            };
            self.make(size).inspect_err(|_| {
                // What cannot be put back now is by the next start.
                self.put_back().ok();
            })?;
        }
        let options = || File::options().read(true).write(true).custom_flags(libc_nofollow()).open(&disk);
        let file = options().map_err(wrong("open", &disk))?;
        let errno = |errno: rustix::io::Errno| wrong("look at", &disk)(errno.into());
        let now = Ext4Size::read(file.as_fd()).map_err(errno)?.map_or(0, |size| size.blocks * size.block_bytes);
        if let Some(size) = size.map(blocks_of).filter(|size| *size > now) {
            lock_disk(file.as_fd()).map_err(|errno| wrong("lock", &disk)(errno.into()))?;
            file.set_len(size).map_err(wrong("grow", &disk))?;
            // What the last run left in the journal comes first; 1 is "corrected".
            run("e2fsck", &["-f", "-p"], &[&disk], 0..=1)?;
            run("resize2fs", &[], &[&disk], 0..=0)?;
        }
        Ok(Some(file.into()))
    }

    /// Moves the directories into a file system.
    fn make(&self, size: Bytes) -> Result<(), DiskError> {
        let (from, new) = (self.base.join("disk.from"), self.base.join("disk.new"));
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true);
        builder.mode(0o700).create(&from).map_err(wrong("make", &from))?;
        for (name, path) in &self.parts {
            let place = from.join(name);
            if path.exists() && !place.exists() {
                std::fs::rename(path, &place).map_err(wrong("move", path))?;
            }
            builder.mode(0o755).create(&place).map_err(wrong("make", &place))?;
        }
        let options = || {
            File::options().write(true).create(true).truncate(true).mode(0o600).custom_flags(libc_nofollow()).open(&new)
        };
        let file = options().map_err(wrong("make", &new))?;
        file.set_len(blocks_of(size)).map_err(wrong("make", &new))?;
        make_file_system(&from, &new)?;
        file.sync_all().map_err(wrong("write", &new))?;
        let disk = self.disk();
        std::fs::rename(&new, &disk).map_err(wrong("make", &disk))?;
        sync_directory(&self.base).map_err(wrong("write", &self.base))?;
        std::fs::remove_dir_all(&from).map_err(wrong("remove", &from))
    }

    /// Undoes what a crash or a failure left of [`Self::make`].
    fn put_back(&self) -> Result<(), DiskError> {
        let from = self.base.join("disk.from");
        if !from.exists() {
            return Ok(());
        }
        for (name, path) in &self.parts {
            let place = from.join(name);
            if place.exists() && !path.exists() {
                std::fs::rename(&place, path).map_err(wrong("move", &place))?;
            }
        }
        std::fs::remove_dir_all(&from).map_err(wrong("remove", &from))?;
        match std::fs::remove_file(self.base.join("disk.new")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(wrong("remove", &self.base)(error)),
            _ => Ok(()),
        }
    }
}

/// Whole blocks.
fn blocks_of(size: Bytes) -> u64 {
    size.0.div_ceil(BLOCK_BYTES).saturating_mul(BLOCK_BYTES)
}

fn libc_nofollow() -> i32 {
    i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default()
}

fn wrong(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError + use<> {
    let path = path.to_owned();
    move |source| DiskError::File { action, path, source }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes a file system of what is in `from`.
fn make_file_system(from: &Path, file: &Path) -> Result<(), DiskError> {
    let extended = "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0";
    run("mkfs.ext4", &["-q", "-F", "-b", "4096", "-m", "0", "-E", extended, "-d"], &[from, file], 0..=0)
}

/// Runs a program of e2fsprogs with nothing of the caller's surroundings.
fn run(
    program: &'static str,
    options: &[&str],
    paths: &[&Path],
    good: std::ops::RangeInclusive<i32>,
) -> Result<(), DiskError> {
    let mut command = Command::new(program);
    command.args(options).args(paths).env_clear().env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").stdin(Stdio::null());
    let output = command.output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => DiskError::NoProgram { program },
        _ => DiskError::File { action: "run", path: program.into(), source: error },
    })?;
    if output.status.code().is_some_and(|code| good.contains(&code)) {
        return Ok(());
    }
    let said = [output.stderr, output.stdout].concat();
    let said = String::from_utf8_lossy(&said);
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SAID_CHARS_MAX).collect();
    Err(DiskError::Program { program, status: output.status, said })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container() -> (tempfile::TempDir, DiskPaths) {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("c");
        std::fs::create_dir_all(&base).unwrap();
        let data = dir.path().join("v");
        std::fs::create_dir_all(data.join("service")).unwrap();
        std::fs::write(data.join("kept"), "words").unwrap();
        (dir, DiskPaths::new(base, data))
    }

    #[test]
    fn a_disk_is_made_of_what_was_there_and_grows_and_stays() {
        let (_dir, paths) = container();
        assert!(paths.open(None).unwrap().is_none());
        let disk = paths.open(Some(Bytes::mib(8))).unwrap().unwrap();
        assert_eq!(Ext4Size::read(disk.as_fd()).unwrap().unwrap().blocks, 2_048);
        assert!(!paths.parts[0].1.exists() && !paths.base.join("disk.from").exists());
        paths.open(Some(Bytes::mib(4))).unwrap().unwrap();
        assert_eq!(paths.disk().metadata().unwrap().len(), 8 << 20);
        paths.open(Some(Bytes(9_000_001))).unwrap().unwrap();
        assert_eq!(paths.disk().metadata().unwrap().len() % BLOCK_BYTES, 0);
        assert!(paths.open(None).unwrap().is_some(), "without a size the disk is still where the data are");
    }

    #[test]
    fn what_does_not_fit_is_refused_and_stays_where_it_was() {
        let (_dir, paths) = container();
        std::fs::write(paths.parts[0].1.join("large"), vec![1; 16 << 20]).unwrap();
        let error = paths.open(Some(Bytes::mib(8))).unwrap_err();
        assert!(matches!(error, DiskError::Program { .. }), "{error}");
        assert_eq!(std::fs::read_to_string(paths.parts[0].1.join("kept")).unwrap(), "words");
        assert!(!paths.disk().exists() && !paths.base.join("disk.from").exists());
    }

    #[test]
    fn after_a_crash_at_any_point_nothing_is_lost() {
        for finish in [None, Some(Bytes::mib(8))] {
            for moved in 0..=2 {
                let (_dir, paths) = container();
                let from = paths.base.join("disk.from");
                std::fs::create_dir(&from).unwrap();
                std::fs::create_dir(&paths.parts[1].1).unwrap();
                for (name, path) in &paths.parts[..moved] {
                    std::fs::rename(path, from.join(name)).unwrap();
                }
                std::fs::write(paths.base.join("disk.new"), "half").unwrap();
                let disk = paths.open(finish).unwrap();
                assert!(!from.exists() && !paths.base.join("disk.new").exists());
                assert_eq!(disk.is_some(), finish.is_some());
                if finish.is_none() {
                    assert_eq!(std::fs::read_to_string(paths.parts[0].1.join("kept")).unwrap(), "words");
                }
            }
        }
    }
}
