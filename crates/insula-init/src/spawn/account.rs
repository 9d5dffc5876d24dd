//! Users and groups as `/etc/passwd` and `/etc/group` of the container say.
//!
//! The files are the container's own and worth as much as it: a wrong line is skipped, a missing file is empty, a
//! file that is no regular file or longer than 4 MiB is treated as missing.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use insula_plan::protocol::process::{NameOrId, SpawnFailure, UserSpec};
use rustix::fs::{FileType, Mode, OFlags};

/// Longest account file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Most supplementary groups (the kernel's `NGROUPS_MAX`).
const GROUPS_MAX: usize = 65_536;

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    /// Home directory; `None` when the user is not in the file.
    pub(super) home: Option<Vec<u8>>,
}

/// Resolves `spec` with the files beneath `/etc` of this process's root.
pub(super) fn resolve(spec: &UserSpec, more_groups: &[u32]) -> Result<Account, SpawnFailure> {
    // Numbers need the files too: for the home directory, the primary and the supplementary groups.
    let passwd = read_file(Path::new("/etc/passwd"));
    let group = read_file(Path::new("/etc/group"));
    resolve_in(spec, more_groups, &passwd, &group)
}

fn resolve_in(spec: &UserSpec, more_groups: &[u32], passwd: &[u8], group: &[u8]) -> Result<Account, SpawnFailure> {
    let entry = users(passwd).find(|entry| match &spec.user {
        NameOrId::Name(name) => entry.name == name.as_bytes(),
        NameOrId::Id(id) => entry.uid == *id,
    });
    let uid = match (&spec.user, &entry) {
        (NameOrId::Id(id), _) => *id,
        (NameOrId::Name(_), Some(entry)) => entry.uid,
        (NameOrId::Name(name), None) => return Err(SpawnFailure::UserUnknown { user: name.clone() }),
    };
    let gid = match &spec.group {
        Some(NameOrId::Id(id)) => *id,
        Some(NameOrId::Name(name)) => groups(group)
            .find(|entry| entry.name == name.as_bytes())
            .map(|entry| entry.gid)
            .ok_or_else(|| SpawnFailure::GroupUnknown { group: name.clone() })?,
        None => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    let mut all: BTreeSet<u32> = more_groups.iter().copied().collect();
    if let (None, Some(user)) = (&spec.group, &entry) {
        all.extend(groups(group).filter(|entry| entry.has(user.name)).map(|entry| entry.gid));
    }
    all.insert(gid);
    let groups = all.into_iter().take(GROUPS_MAX).collect();
    Ok(Account { uid, gid, groups, home: entry.map(|entry| entry.home.to_vec()) })
}

struct User<'text> {
    name: &'text [u8],
    uid: u32,
    gid: u32,
    home: &'text [u8],
}

struct Group<'text> {
    name: &'text [u8],
    gid: u32,
    members: &'text [u8],
}

impl Group<'_> {
    fn has(&self, user: &[u8]) -> bool {
        self.members.split(|&byte| byte == b',').any(|member| member == user)
    }
}

/// `name:password:uid:gid:comment:home:shell` per line.
fn users(text: &[u8]) -> impl Iterator<Item = User<'_>> {
    lines(text).filter_map(|line| {
        let mut fields = line.split(|&byte| byte == b':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = number(fields.nth(1)?)?;
        let gid = number(fields.next()?)?;
        let home = fields.nth(1)?;
        Some(User { name, uid, gid, home })
    })
}

/// `name:password:gid:member,member…` per line.
fn groups(text: &[u8]) -> impl Iterator<Item = Group<'_>> {
    lines(text).filter_map(|line| {
        let mut fields = line.split(|&byte| byte == b':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = number(fields.nth(1)?)?;
        let members = fields.next().unwrap_or_default();
        Some(Group { name, gid, members })
    })
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii)
}

fn number(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok().filter(|&id| id != u32::MAX)
}

fn read_file(path: &Path) -> Vec<u8> {
    // Not blocking: a FIFO there must not hold the start up.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let Ok(file) = rustix::fs::open(path, flags, Mode::empty()) else { return Vec::new() };
    let regular =
        rustix::fs::fstat(&file).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    let mut text = Vec::new();
    let read = regular.then(|| std::fs::File::from(file).take(FILE_BYTES_MAX + 1).read_to_end(&mut text));
    match read {
        Some(Ok(_)) if u64::try_from(text.len()).is_ok_and(|length| length <= FILE_BYTES_MAX) => text,
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nbroken\n:x:1:1::/:\nweb:x:33:33:w:/var/www:/bin/false\n\
        nouid:x:abc:1::/:\nweb2:x:34:99::/home/web2:/bin/sh";
    const GROUP: &[u8] = b"root:x:0:\nadm:x:4:web,other\nwww:x:33:\naudio:x:29:web2,web\nwebby:x:50:webx\n";

    fn account(user: &str) -> Result<Account, SpawnFailure> {
        resolve_in(&user.parse().unwrap(), &[7], PASSWD, GROUP)
    }

    #[test]
    fn a_name_gives_ids_home_and_all_its_groups() {
        let expected = Account { uid: 33, gid: 33, groups: vec![4, 7, 29, 33], home: Some(b"/var/www".to_vec()) };
        assert_eq!(account("web").unwrap(), expected);
        assert_eq!(account("33").unwrap(), expected);
    }

    #[test]
    fn a_given_group_replaces_those_of_the_file() {
        let account = account("web:adm").unwrap();
        assert_eq!((account.uid, account.gid, account.groups), (33, 4, vec![4, 7]));
    }

    #[test]
    fn a_number_need_not_be_known_but_a_name_must() {
        let expected = Account { uid: 1000, gid: 0, groups: vec![0, 7], home: None };
        assert_eq!(account("1000").unwrap(), expected);
        assert_eq!(account("1000:2000").unwrap().gid, 2000);
        assert_eq!(account("nobody"), Err(SpawnFailure::UserUnknown { user: "nobody".into() }));
        assert_eq!(account("nouid"), Err(SpawnFailure::UserUnknown { user: "nouid".into() }));
        assert_eq!(account("web:none"), Err(SpawnFailure::GroupUnknown { group: "none".into() }));
    }

    #[test]
    fn a_fifo_or_a_directory_in_place_of_the_file_is_an_empty_file() {
        let scratch = tempfile::tempdir().unwrap();
        let fifo = scratch.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(read_file(&fifo).is_empty());
        assert!(read_file(scratch.path()).is_empty());
        assert!(read_file(&scratch.path().join("absent")).is_empty());
    }

    proptest! {
        #[test]
        fn no_file_makes_the_reader_panic(passwd in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = resolve_in(&UserSpec::ROOT, &[], &passwd, &passwd);
        }
    }
}
