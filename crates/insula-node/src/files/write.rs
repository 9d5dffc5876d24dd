//! Into a container: the entries of a tar archive below a directory, or the one at its top under another name.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, chownat, fchmod, futimens, linkat, mkdirat, symlinkat,
    unlinkat,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use tar::EntryType;

use super::{ContainerFiles, CopyError, DEPTH_MAX, as_root_of, inside, open_as_itself, open_name, stat};

/// Where entries go.
struct Target {
    directory: OwnedFd,
    /// Its path in the container, without a slash at its end.
    path: String,
    /// What the entry at the top is called instead of its own name.
    new_name: Option<String>,
    /// The own name of that entry, when it was met.
    top: Option<String>,
}

impl Target {
    /// Plain names of an entry's path, the first one replaced; empty for the archive's own `.`.
    fn parts_of(&mut self, path: &Path) -> Result<Vec<String>, CopyError> {
        let mut parts = plain_parts(path)?;
        if let (Some(first), Some(new_name)) = (parts.first_mut(), &self.new_name) {
            if self.top.get_or_insert_with(|| first.clone()) != first {
                return Err(CopyError::Several { path: format!("{}/{new_name}", self.path) });
            }
            new_name.clone_into(first);
        }
        Ok(parts)
    }
}

impl ContainerFiles {
    /// Unpacks `archive` into the directory `path`; when there is none, as `path` in the directory above.
    ///
    /// # Errors
    ///
    /// The directory above is not there, an entry leads out or is of another kind; what came before stays.
    pub(crate) fn write_archive(&self, path: &str, archive: &mut dyn Read) -> Result<(), CopyError> {
        let _as_root = as_root_of(self.ids).map_err(inside(path))?;
        let mut target = self.target(path)?;
        self.expect_kept(target.directory.as_fd(), path)?;
        let mut archive = tar::Archive::new(archive);
        for entry in archive.entries().map_err(CopyError::Archive)? {
            let mut entry = entry.map_err(CopyError::Archive)?;
            let parts = target.parts_of(&entry.path().map_err(CopyError::Archive)?)?;
            let Some((name, above)) = parts.split_last() else { continue };
            let shown = format!("{}/{}", target.path, parts.join("/"));
            let directory = descend(target.directory.as_fd(), above, &shown)?;
            self.expect_kept(directory.as_fd(), &shown)?;
            match entry.header().entry_type() {
                EntryType::Link => link(&entry, &mut target, directory.as_fd(), (name, &shown))?,
                _ => self.unpack(&mut entry, directory.as_fd(), (name, &shown))?,
            }
        }
        Ok(())
    }

    fn target(&self, path: &str) -> Result<Target, CopyError> {
        match self.open(path, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(directory) => {
                return Ok(Target {
                    directory,
                    path: path.trim_end_matches('/').to_owned(),
                    new_name: None,
                    top: None,
                });
            }
            Err(CopyError::Inside { errno: Errno::NOENT | Errno::NOTDIR, .. }) if !path.ends_with('/') => {}
            Err(error) => return Err(error),
        }
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        if name.is_empty() || name == "." || name == ".." {
            return Err(CopyError::Inside { path: path.to_owned(), errno: Errno::NOENT });
        }
        let directory = self.open(if above.is_empty() { "/" } else { above }, OFlags::PATH | OFlags::DIRECTORY)?;
        Ok(Target { directory, path: above.to_owned(), new_name: Some(name.to_owned()), top: None })
    }

    fn unpack(
        &self,
        entry: &mut tar::Entry<'_, &mut dyn Read>,
        directory: BorrowedFd<'_>,
        (name, shown): (&str, &str),
    ) -> Result<(), CopyError> {
        let wrong = || inside(shown);
        let mode = Mode::from_raw_mode(entry.header().mode().map_err(CopyError::Archive)? & 0o7777);
        match entry.header().entry_type() {
            EntryType::Directory => {
                match mkdirat(directory, name, Mode::from_raw_mode(0o700)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(wrong()(errno)),
                }
                let made =
                    open_name(directory, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).map_err(wrong())?;
                self.finish(entry, &made, (mode, shown))
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                remove_file(directory, name).map_err(wrong())?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
                let made = open_name(directory, name, flags, Mode::from_raw_mode(0o600)).map_err(wrong())?;
                let mut file = File::from(made);
                std::io::copy(entry, &mut file).map_err(CopyError::Archive)?;
                self.finish(entry, &file.into(), (mode, shown))
            }
            EntryType::Symlink => {
                remove_file(directory, name).map_err(wrong())?;
                let target = entry.link_name().map_err(CopyError::Archive)?;
                let target = target.ok_or_else(|| CopyError::Entry { path: shown.to_owned() })?;
                symlinkat(&*target, directory, name).map_err(wrong())?;
                let (uid, gid) = self.owner(entry)?;
                chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(wrong())
            }
            // Extensions that the reader has taken into account already.
            EntryType::XGlobalHeader | EntryType::XHeader => Ok(()),
            _ => Err(CopyError::Kind { path: shown.to_owned() }),
        }
    }

    /// Owner, mode and time of what was made; in this order, because a change of owner takes set-id bits away.
    fn finish(
        &self,
        entry: &tar::Entry<'_, &mut dyn Read>,
        made: &OwnedFd,
        (mode, shown): (Mode, &str),
    ) -> Result<(), CopyError> {
        let (uid, gid) = self.owner(entry)?;
        rustix::fs::fchown(made, Some(uid), Some(gid)).map_err(inside(shown))?;
        fchmod(made, mode).map_err(inside(shown))?;
        let seconds = entry.header().mtime().map_err(CopyError::Archive)?;
        let time = Timespec { tv_sec: i64::try_from(seconds).unwrap_or(0), tv_nsec: 0 };
        futimens(made, &Timestamps { last_access: time, last_modification: time }).map_err(inside(shown))
    }

    /// Owner of an entry in ids of the host; one that the container does not have becomes its root.
    fn owner(&self, entry: &tar::Entry<'_, &mut dyn Read>) -> Result<(Uid, Gid), CopyError> {
        let shift = |id: u64| u32::try_from(id).ok().and_then(|id| self.ids.host_id(id)).unwrap_or(self.ids.base);
        let uid = shift(entry.header().uid().map_err(CopyError::Archive)?);
        let gid = shift(entry.header().gid().map_err(CopyError::Archive)?);
        Ok((Uid::from_raw(uid), Gid::from_raw(gid)))
    }
}

/// Another name for a file that came before in the archive, or was there.
fn link(
    entry: &tar::Entry<'_, &mut dyn Read>,
    target: &mut Target,
    directory: BorrowedFd<'_>,
    (name, shown): (&str, &str),
) -> Result<(), CopyError> {
    let first = entry.link_name().map_err(CopyError::Archive)?;
    let parts = target.parts_of(&first.unwrap_or_default())?;
    let Some((first, above)) = parts.split_last() else { return Err(CopyError::Entry { path: shown.to_owned() }) };
    let mut from = target.directory.try_clone().map_err(CopyError::Archive)?;
    for name in above {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        from = open_name(from.as_fd(), name, flags, Mode::empty()).map_err(inside(shown))?;
    }
    remove_file(directory, name).map_err(inside(shown))?;
    linkat(from, first.as_str(), directory, name, AtFlags::empty()).map_err(inside(shown))
}

/// The names of a path that leads neither up nor elsewhere; none for `.`.
fn plain_parts(path: &Path) -> Result<Vec<String>, CopyError> {
    let refused = || CopyError::Entry { path: path.display().to_string() };
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::Normal(name) => parts.push(name.to_str().ok_or_else(refused)?.to_owned()),
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return Err(refused()),
        }
    }
    if parts.len() > DEPTH_MAX {
        return Err(CopyError::Depth { path: path.display().to_string() });
    }
    Ok(parts)
}

/// The directory `names` below `directory`, made where it is missing; no link is followed.
fn descend(directory: BorrowedFd<'_>, names: &[String], shown: &str) -> Result<OwnedFd, CopyError> {
    let mut here = directory.try_clone_to_owned().map_err(CopyError::Archive)?;
    for name in names {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        here = match open_name(here.as_fd(), name, flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                mkdirat(&here, name.as_str(), Mode::from_raw_mode(0o755)).map_err(inside(shown))?;
                open_name(here.as_fd(), name, flags, Mode::empty()).map_err(inside(shown))?
            }
            opened => opened.map_err(inside(shown))?,
        };
    }
    Ok(here)
}

/// Removes what would be in the way of a new file; a directory stays and is an error.
fn remove_file(directory: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    let found = match open_as_itself(directory, name) {
        Err(Errno::NOENT) => return Ok(()),
        found => found?,
    };
    let is_directory =
        stat(&found, name).is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Directory);
    if is_directory { Err(Errno::ISDIR) } else { unlinkat(directory, name, AtFlags::empty()) }
}
