//! A small disk.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use insula_testkit::Node;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// A file system of its own for a node's state; gone when dropped.
pub(crate) struct SmallDisk {
    directory: PathBuf,
}

impl SmallDisk {
    /// Starts the daemon of `node` again with an empty state directory that has `mib` MiB.
    pub(crate) fn under(node: &mut Node, mib: u32) -> Self {
        node.stop_daemon();
        let directory = node.state_dir();
        let options = std::ffi::CString::new(format!("size={mib}m,mode=0711")).unwrap();
        mount("insula-small", &directory, "tmpfs", MountFlags::NODEV | MountFlags::NOSUID, options.as_c_str()).unwrap();
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

/// What fills a disk; gone when dropped.
pub(crate) struct Filler(PathBuf);

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(Path::new(&self.0));
    }
}
