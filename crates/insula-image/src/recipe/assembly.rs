//! Putting a root together: what the base brings, normalised, and what the recipe adds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::accounts::{ACCOUNT_FILE_BYTES_MAX, ACCOUNT_FILES, Accounts};
use super::archive_lists::{ArchivePackages, is_package_list};
use super::build::BuildCause;
use super::normalise::Normaliser;
use super::packages::{DPKG_STATUS, DPKG_STATUS_BYTES_MAX, parse_dpkg_status};
use super::parse::{FileContent, FileEntry, Recipe};
use super::systemd::{self, Addition, Content};
use crate::archive::{EntryFilter, add_filtered, walk_directory};
use crate::attributes::{Attributes, Mtime};
use crate::draft::{NewEntry, NewKind};
use crate::erofs::ImageWriter;
use crate::manifest::Package;
use crate::path::ImagePath;

/// A root in the making.
pub(super) struct Assembly {
    writer: ImageWriter,
    normaliser: Normaliser,
    /// Paths that the recipe replaces.
    replaced: BTreeSet<ImagePath>,
    /// Account files that came, when the recipe adds users: attributes and content.
    accounts: BTreeMap<usize, (Attributes, Vec<u8>)>,
    takes_accounts: bool,
    dpkg_status: Vec<u8>,
    archive: ArchivePackages,
    has_systemd: bool,
}

/// What the recipe's own work needs to be known of an entry.
enum Interest {
    None,
    Replaced,
    Account(usize),
    DpkgStatus,
    PackageList,
}

impl Assembly {
    /// Begins a root that a recipe's files and users go into.
    pub(super) fn new(writer: ImageWriter, recipe: &Recipe) -> Self {
        let replaced = recipe.files.iter().filter(|file| file.content != FileContent::Directory);
        let replaced = replaced.filter_map(|file| ImagePath::parse(&file.path).ok()).collect();
        Self { replaced, takes_accounts: !recipe.users.is_empty(), ..Self::plain(writer, recipe.source_date_epoch) }
    }

    /// Begins a root that is only normalised.
    pub(super) fn plain(writer: ImageWriter, epoch: u64) -> Self {
        let seconds = i64::try_from(epoch).unwrap_or(i64::MAX);
        Self {
            writer,
            normaliser: Normaliser { epoch: Mtime { seconds, nanoseconds: 0 } },
            replaced: BTreeSet::new(),
            accounts: BTreeMap::new(),
            takes_accounts: false,
            dpkg_status: Vec::new(),
            archive: ArchivePackages::default(),
            has_systemd: false,
        }
    }

    fn interest(&mut self, path: &ImagePath, entry: &NewEntry) -> Interest {
        self.has_systemd |= systemd::is_program(path.as_bytes());
        let is_file = matches!(entry.kind, NewKind::File { .. });
        let account = ACCOUNT_FILES.iter().position(|file| file.as_bytes() == path.as_bytes());
        match account {
            _ if self.replaced.contains(path) && entry.kind != NewKind::Directory => Interest::Replaced,
            Some(index) if self.takes_accounts && is_file => Interest::Account(index),
            _ if is_file && path.as_bytes() == DPKG_STATUS.as_bytes() => Interest::DpkgStatus,
            _ if is_file && is_package_list(path) => Interest::PackageList,
            _ => Interest::None,
        }
    }

    /// Adds an entry of the base that comes with its content.
    pub(super) fn add(&mut self, path: ImagePath, entry: NewEntry, content: &mut dyn Read) -> Result<(), BuildCause> {
        match self.interest(&path, &entry) {
            Interest::Replaced => {}
            Interest::Account(index) => {
                let content = read_bounded(content, ACCOUNT_FILE_BYTES_MAX, ACCOUNT_FILES[index])?;
                self.accounts.insert(index, (entry.attributes, content));
            }
            Interest::DpkgStatus => {
                self.dpkg_status = read_bounded(content, DPKG_STATUS_BYTES_MAX, DPKG_STATUS)?;
                add_filtered(&mut self.writer, &mut self.normaliser, path, entry, &mut self.dpkg_status.as_slice())?;
            }
            // The normaliser would leave it out.
            Interest::PackageList => {
                let name = || String::from_utf8_lossy(path.as_bytes()).into_owned();
                self.archive.read_list(content).map_err(|error| unreadable(&name(), error))?;
            }
            Interest::None => {
                add_filtered(&mut self.writer, &mut self.normaliser, path, entry, content)?;
            }
        }
        Ok(())
    }

    /// Adds everything in a directory; what a recipe would replace is not looked for. Gives the number of extended
    /// attributes that an image cannot hold.
    pub(super) fn add_directory(&mut self, root: BorrowedFd<'_>) -> Result<u64, BuildCause> {
        // The walk lends the writer and the filter at once; the rest of this is beside them meanwhile.
        let Self { writer, normaliser, has_systemd, .. } = self;
        let mut filter = |path: &ImagePath, entry: &mut NewEntry| {
            *has_systemd |= systemd::is_program(path.as_bytes());
            normaliser.decide(path, entry)
        };
        let report = walk_directory(root, writer, &mut filter)?;
        match read_beneath(root, DPKG_STATUS, DPKG_STATUS_BYTES_MAX) {
            Ok(status) => self.dpkg_status = status,
            Err(BuildCause::Source { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(report.dropped_attributes)
    }

    /// Puts in what the recipe adds: accounts, homes, files. `directory` is the recipe's.
    pub(super) fn add_recipe(&mut self, recipe: &Recipe, directory: BorrowedFd<'_>) -> Result<(), BuildCause> {
        if self.takes_accounts {
            self.add_users(recipe)?;
        }
        for file in &recipe.files {
            self.add_file(file, directory)?;
        }
        Ok(())
    }

    fn add_users(&mut self, recipe: &Recipe) -> Result<(), BuildCause> {
        let mut came = std::mem::take(&mut self.accounts);
        let mut attributes = [const { None }; 4];
        let mut contents = [const { None }; 4];
        for index in 0..ACCOUNT_FILES.len() {
            (attributes[index], contents[index]) = came.remove(&index).unzip();
        }
        let mut accounts = Accounts::parse(contents)?;
        for user in &recipe.users {
            let uid = accounts.add(user, recipe.source_date_epoch)?;
            let home = ImagePath::parse(&user.home).map_err(|source| bad_path(&user.home, source))?;
            if self.writer.kind(&home).is_none() {
                let attributes = self.attributes(0o755, (uid, uid));
                let entry = NewEntry { kind: NewKind::Directory, attributes };
                self.writer.add(home, entry, &mut io::empty())?;
            }
        }
        for ((content, attributes), file) in accounts.into_files().into_iter().zip(attributes).zip(ACCOUNT_FILES) {
            let Some(content) = content else { continue };
            let mut attributes = attributes.unwrap_or_else(|| self.attributes(0o644, (0, 0)));
            attributes.mtime = self.normaliser.epoch;
            self.add_bytes(file, attributes, &content)?;
        }
        Ok(())
    }

    fn attributes(&self, mode: u16, (uid, gid): (u32, u32)) -> Attributes {
        Attributes { uid, gid, mtime: self.normaliser.epoch, ..Attributes::of_root(mode) }
    }

    fn add_bytes(&mut self, path: &str, attributes: Attributes, content: &[u8]) -> Result<(), BuildCause> {
        let parsed = ImagePath::parse(path).map_err(|source| bad_path(path, source))?;
        let size = u64::try_from(content.len()).unwrap_or(u64::MAX);
        let entry = NewEntry { kind: NewKind::File { size }, attributes };
        Ok(self.writer.add(parsed, entry, &mut &*content)?)
    }

    fn add_file(&mut self, file: &FileEntry, directory: BorrowedFd<'_>) -> Result<(), BuildCause> {
        let path = ImagePath::parse(&file.path).map_err(|source| bad_path(&file.path, source))?;
        let attributes = self.attributes(file.mode, file.owner);
        match &file.content {
            FileContent::Text(text) => self.add_bytes(&file.path, attributes, text.as_bytes()),
            FileContent::Source(source) => {
                let mut opened = open_beneath(directory, source)?;
                let stat = opened.metadata().map_err(|error| unreadable(source, error))?;
                if !stat.is_file() {
                    return Err(unreadable(source, io::Error::other("it is no regular file")));
                }
                let entry = NewEntry { kind: NewKind::File { size: stat.len() }, attributes };
                Ok(self.writer.add(path, entry, &mut opened)?)
            }
            FileContent::Link(target) => {
                let kind = NewKind::Symlink(target.as_bytes().into());
                let entry = NewEntry { kind, attributes: Attributes { mode: 0o777, ..attributes } };
                Ok(self.writer.add(path, entry, &mut io::empty())?)
            }
            FileContent::Directory => {
                let entry = NewEntry { kind: NewKind::Directory, attributes };
                Ok(self.writer.add(path, entry, &mut io::empty())?)
            }
        }
    }

    /// Adds what systemd needs, if it is there.
    pub(super) fn suit_systemd(&mut self) -> Result<(), BuildCause> {
        let parse = |path| ImagePath::parse(path).expect("a short plain path");
        let additions = if self.has_systemd { &systemd::ADDITIONS[..] } else { &[] };
        for &Addition { path, content, needs } in additions {
            let is_wanted = needs.is_none_or(|needed| self.writer.kind(&parse(needed)).is_some());
            if !is_wanted || self.writer.kind(&parse(path)).is_some() {
                continue;
            }
            match content {
                Content::Text(text) => self.add_bytes(path, self.attributes(0o644, (0, 0)), text.as_bytes())?,
                Content::Masked => {
                    let kind = NewKind::Symlink(b"/dev/null".as_slice().into());
                    let entry = NewEntry { kind, attributes: self.attributes(0o777, (0, 0)) };
                    self.writer.add(parse(path), entry, &mut io::empty())?;
                }
            }
        }
        Ok(())
    }

    /// What the lists among the entries say of packages.
    pub(super) fn take_archive(&mut self) -> ArchivePackages {
        std::mem::take(&mut self.archive)
    }

    /// The writer, and the packages that are in what it has.
    pub(super) fn into_parts(self) -> (ImageWriter, Vec<Package>) {
        (self.writer, parse_dpkg_status(&self.dpkg_status))
    }
}

fn bad_path(given: &str, source: crate::path::ImagePathError) -> BuildCause {
    BuildCause::Path { given: given.to_owned(), source }
}

fn unreadable(name: &str, source: io::Error) -> BuildCause {
    BuildCause::Source { name: name.to_owned(), source }
}

/// Reads a small file of the base to its end.
fn read_bounded(content: &mut dyn Read, max: u64, name: &str) -> Result<Vec<u8>, BuildCause> {
    let mut bytes = Vec::new();
    content.take(max + 1).read_to_end(&mut bytes).map_err(|error| unreadable(name, error))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > max) {
        return Err(unreadable(name, io::Error::other(format!("it has more than {max} bytes"))));
    }
    Ok(bytes)
}

fn read_beneath(root: BorrowedFd<'_>, name: &str, max: u64) -> Result<Vec<u8>, BuildCause> {
    read_bounded(&mut open_beneath(root, name)?, max, name)
}

/// `openat2(directory, name, O_RDONLY, RESOLVE_BENEATH)`: links may be on the way as long as they stay beneath.
fn open_beneath(directory: BorrowedFd<'_>, name: &str) -> Result<File, BuildCause> {
    // NONBLOCK, so that a pipe in a file's place is refused for what it is and not waited for.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let opened = openat2(directory.as_fd(), name, flags, Mode::empty(), resolve);
    opened.map(File::from).map_err(|error| unreadable(name, error.into()))
}
