//! How much the commands of a build have written.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use insula_model::Bytes;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat};
use rustix::io::Errno;

/// Deepest directories that are looked into: an image holds none that are deeper.
const DEPTH_MAX: usize = 512;
/// Bytes that `st_blocks` counts in.
const BLOCK_BYTES: u64 = 512;
const FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Bytes that the files of a layer take on the disk. Commands may run in it meanwhile: what comes and goes is counted or
/// not, and no link leads out. Takes about a second for a million files.
///
/// # Errors
///
/// A directory cannot be read.
pub fn layer_bytes(layer: &Path) -> io::Result<Bytes> {
    let top = openat(CWD, layer, FLAGS, Mode::empty())?;
    let (mut blocks, mut linked) = (0_u64, HashSet::new());
    let mut open = vec![(Dir::read_from(&top)?, top)];
    loop {
        let depth = open.len();
        let Some((entries, directory)) = open.last_mut() else { break };
        let Some(entry) = entries.next() else {
            open.pop();
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = match statat(directory.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            stat => stat?,
        };
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_directory || stat.st_nlink < 2 || linked.insert(stat.st_ino) {
            blocks = blocks.saturating_add(u64::try_from(stat.st_blocks).unwrap_or_default());
        }
        if is_directory && depth < DEPTH_MAX {
            match below(directory.as_fd(), name) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                opened => open.push(opened?),
            }
        }
    }
    Ok(Bytes(blocks.saturating_mul(BLOCK_BYTES)))
}

fn below(directory: impl AsFd, name: &std::ffi::CStr) -> Result<(Dir, OwnedFd), Errno> {
    let opened = openat(directory, name, FLAGS, Mode::empty())?;
    Ok((Dir::read_from(&opened)?, opened))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn files_count_once_holes_and_what_links_point_to_do_not() {
        let (layer, outside) = (tempfile::tempdir_in("/var/tmp").unwrap(), tempfile::tempdir_in("/var/tmp").unwrap());
        let (at, mib) = (|name: &str| layer.path().join(name), 1 << 20);
        let before = layer_bytes(layer.path()).unwrap().0;
        std::fs::write(outside.path().join("large"), vec![1; 8 * mib]).unwrap();
        std::fs::create_dir_all(at("a/b")).unwrap();
        std::fs::write(at("a/b/file"), vec![1; 2 * mib]).unwrap();
        std::fs::hard_link(at("a/b/file"), at("again")).unwrap();
        symlink(outside.path(), at("way-out")).unwrap();
        std::fs::File::create(at("holes")).unwrap().set_len(64 << 20).unwrap();
        // The disk decides about files that are not written back yet.
        rustix::fs::syncfs(std::fs::File::open(layer.path()).unwrap()).unwrap();
        let grown = layer_bytes(layer.path()).unwrap().0 - before;
        assert!((2 << 20..3 << 20).contains(&grown), "{grown}");
    }
}
