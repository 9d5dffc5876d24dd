//! Out of a container: a file or directory as a tar archive with one entry at its top.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags, fstatfs, open};
use tar::{EntryType, Header};

use super::{ContainerFiles, CopyError, DEPTH_MAX, inside, open_as_itself, open_name, stat};

/// File systems of the kernel's own making (statfs(2)): what is in them is no file of the container.
const KERNEL_FILE_SYSTEMS: [i64; 4] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x6367_7270, // cgroup2
    0x0027_e0eb, // cgroup
];

impl ContainerFiles {
    /// Writes `path` (a link: itself) to `out`.
    ///
    /// # Errors
    ///
    /// Nothing is there, it is of another kind, or `out` takes no more.
    pub(crate) fn read_archive(&self, path: &str, out: &mut dyn Write) -> Result<(), CopyError> {
        let mut builder = tar::Builder::new(out);
        let trimmed = path.trim_matches('/');
        let name = trimmed.rsplit('/').next().filter(|name| !name.is_empty() && *name != "." && *name != "..");
        let file = match name {
            Some(_) => self.open(path.trim_end_matches('/'), OFlags::PATH | OFlags::NOFOLLOW)?,
            None => self.open(path, OFlags::PATH)?,
        };
        self.append(&mut builder, &file, (path, name.unwrap_or("root")), 0)?;
        builder.finish().map_err(CopyError::Archive)
    }

    fn append(
        &self,
        builder: &mut tar::Builder<&mut dyn Write>,
        file: &OwnedFd,
        (path, name): (&str, &str),
        depth: usize,
    ) -> Result<(), CopyError> {
        if depth > DEPTH_MAX {
            return Err(CopyError::Depth { path: path.to_owned() });
        }
        let found = stat(file, path)?;
        let mut header = Header::new_gnu();
        header.set_mode(found.st_mode & 0o7777);
        header.set_uid(u64::from(found.st_uid.checked_sub(self.ids.base).unwrap_or(found.st_uid)));
        header.set_gid(u64::from(found.st_gid.checked_sub(self.ids.base).unwrap_or(found.st_gid)));
        let modified = Duration::from_secs(u64::try_from(found.st_mtime).unwrap_or(0));
        header.set_mtime(modified.as_secs());
        match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile => {
                let size = u64::try_from(found.st_size).unwrap_or(0);
                header.set_size(size);
                header.set_entry_type(EntryType::Regular);
                let content = reopen(file).map_err(inside(path))?;
                // A file that is changed meanwhile is cut, or filled with zeros, to the length that its header says.
                let content = content.take(size).chain(std::io::repeat(0)).take(size);
                builder.append_data(&mut header, name, content).map_err(CopyError::Archive)
            }
            FileType::Symlink => {
                header.set_size(0);
                header.set_entry_type(EntryType::Symlink);
                let target = rustix::fs::readlinkat(file, "", Vec::new()).map_err(inside(path))?;
                let target = target.to_string_lossy().into_owned();
                builder.append_link(&mut header, name, target).map_err(CopyError::Archive)
            }
            FileType::Directory => {
                header.set_size(0);
                header.set_entry_type(EntryType::Directory);
                builder.append_data(&mut header, name, std::io::empty()).map_err(CopyError::Archive)?;
                self.append_content(builder, file, (path, name), depth)
            }
            // Sockets, pipes and devices below a directory are left out; asked for by name they are refused.
            _ if depth > 0 => Ok(()),
            _ => Err(CopyError::Kind { path: path.to_owned() }),
        }
    }

    fn append_content(
        &self,
        builder: &mut tar::Builder<&mut dyn Write>,
        directory: &OwnedFd,
        (path, name): (&str, &str),
        depth: usize,
    ) -> Result<(), CopyError> {
        if is_kernels(directory.as_fd()) {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let readable = open_name(directory.as_fd(), ".", flags, Mode::empty()).map_err(inside(path))?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(readable).map_err(inside(path))? {
            let entry = entry.map_err(inside(path))?;
            match entry.file_name().to_str() {
                Ok("." | "..") => {}
                Ok(name) => names.push(name.to_owned()),
                Err(_) => {
                    return Err(CopyError::Kind { path: format!("{path}/{}", entry.file_name().to_string_lossy()) });
                }
            }
        }
        names.sort();
        for inner in names {
            let inner_path = format!("{}/{inner}", path.trim_end_matches('/'));
            let file = match open_as_itself(directory.as_fd(), &inner) {
                // It was removed since the directory was read.
                Err(rustix::io::Errno::NOENT) => continue,
                opened => opened.map_err(inside(&inner_path))?,
            };
            self.append(builder, &file, (&inner_path, &format!("{name}/{inner}")), depth + 1)?;
        }
        Ok(())
    }
}

/// Opens the very file that `file` names for reading; nothing waits for the other end of a pipe or a device.
fn reopen(file: &OwnedFd) -> Result<File, rustix::io::Errno> {
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    open(own, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).map(File::from)
}

fn is_kernels(directory: BorrowedFd<'_>) -> bool {
    fstatfs(directory).is_ok_and(|found| KERNEL_FILE_SYSTEMS.contains(&found.f_type))
}
