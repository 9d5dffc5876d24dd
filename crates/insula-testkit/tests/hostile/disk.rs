//! A small disk.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use insula_testkit::Node;
use rustix::mount::{UnmountFlags, unmount};

/// A file system of its own for a node's state; gone when dropped.
pub(crate) struct SmallDisk {
    directory: PathBuf,
}

impl SmallDisk {
    /// Starts the daemon of `node` again with an empty state directory that has `mib` MiB.
    pub(crate) fn under(node: &mut Node, mib: u32) -> Self {
        node.stop_daemon();
        let directory = node.state_dir();
        let image = directory.with_extension("ext4");
        File::create(&image).unwrap().set_len(u64::from(mib) << 20).unwrap();
        // No blocks are kept for the superuser or a journal: what is free is free for everybody.
        tool("mkfs.ext4", [OsStr::new("-q"), OsStr::new("-m0"), OsStr::new("-O^has_journal"), image.as_os_str()]);
        let options = OsStr::new("loop,nodev,nosuid");
        tool("mount", [OsStr::new("-o"), options, image.as_os_str(), directory.as_os_str()]);
        std::fs::set_permissions(&directory, Permissions::from_mode(0o711)).unwrap();
        let disk = Self { directory };
        node.start_daemon();
        disk
    }

    /// Bytes that are free.
    pub(crate) fn free(&self) -> u64 {
        let now = rustix::fs::statvfs(&self.directory).unwrap();
        now.f_bavail * now.f_frsize
    }

    /// Fills it but for `keep` bytes, until the file that is returned is removed.
    pub(crate) fn fill(&self, keep: u64) -> Filler {
        let path = self.directory.join("filler");
        let mut file = File::create(&path).unwrap();
        let zeros = vec![0; 64 << 10];
        while let missing @ 1.. = self.free().saturating_sub(keep) {
            let length = usize::try_from(missing).unwrap().min(zeros.len());
            if file.write_all(&zeros[..length]).is_err() {
                break;
            }
        }
        Filler(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Whoever still has files on it keeps them; nobody finds it by name any more.
        let _ = unmount(&self.directory, UnmountFlags::DETACH);
    }
}

fn tool<const N: usize>(program: &str, arguments: [&OsStr; N]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What fills a disk; gone when dropped.
pub(crate) struct Filler(PathBuf);

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(Path::new(&self.0));
    }
}
