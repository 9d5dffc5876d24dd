//! What a build takes out of a root because it depends on the host or the hour, or is rubbish.
//!
//! | taken out | why |
//! |---|---|
//! | `/etc/resolv.conf`, `/etc/hostname` | copied from the build host |
//! | content of `/etc/machine-id`, `/var/lib/dbus/machine-id` | identity is a container's |
//! | host keys of ssh, random seeds | secrets are a container's |
//! | what is in `/dev` | every container has its own |
//! | apt's lists and caches, logs, ldconfig's cache, `__pycache__`, `passwd-` and such, dpkg's `*-old` | rubbish with times in it |
//!
//! Times above the recipe's epoch become the epoch.

use crate::archive::{EntryFilter, Verdict};
use crate::attributes::Mtime;
use crate::draft::{NewEntry, NewKind};
use crate::path::ImagePath;

/// Takes entries out and clamps times.
#[derive(Debug, Clone, Copy)]
pub(super) struct Normaliser {
    pub(super) epoch: Mtime,
}

impl EntryFilter for Normaliser {
    fn decide(&mut self, path: &ImagePath, entry: &mut NewEntry) -> Verdict {
        entry.attributes.mtime = entry.attributes.mtime.min(self.epoch);
        let is_directory = entry.kind == NewKind::Directory;
        if path.as_bytes() == b"etc/machine-id" && !is_directory {
            return Verdict::Replace(Vec::new());
        }
        if is_rubbish(path.as_bytes(), is_directory) { Verdict::LeaveOut } else { Verdict::Keep }
    }
}

/// Files that are taken out by their whole path.
const FILES: [&[u8]; 13] = [
    b"etc/.pwd.lock",
    b"etc/group-",
    b"etc/gshadow-",
    b"etc/hostname",
    b"etc/passwd-",
    b"etc/resolv.conf",
    b"etc/shadow-",
    b"etc/subgid-",
    b"etc/subuid-",
    b"var/cache/ldconfig/aux-cache",
    b"var/lib/dbus/machine-id",
    b"var/lib/systemd/random-seed",
    b"var/lib/urandom/random-seed",
];

/// Directories that lose everything but the directories in them.
const EMPTIED: [&[u8]; 3] = [b"var/cache/apt/", b"var/lib/apt/lists/", b"var/log/"];

fn is_rubbish(path: &[u8], is_directory: bool) -> bool {
    if path.starts_with(b"dev/") {
        return true;
    }
    if path.split(|byte| *byte == b'/').any(|component| component == b"__pycache__") {
        return true;
    }
    if is_directory {
        return false;
    }
    let host_key = path
        .strip_prefix(b"etc/ssh/ssh_host_")
        .is_some_and(|rest| rest.ends_with(b"_key") || rest.ends_with(b"_key.pub"));
    let old_book = path.strip_prefix(b"var/lib/dpkg/").is_some_and(|rest| rest.ends_with(b"-old"));
    host_key || old_book || FILES.contains(&path) || EMPTIED.iter().any(|directory| path.starts_with(directory))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::Attributes;

    fn decide(path: &str, kind: NewKind) -> (Verdict, i64) {
        let mtime = Mtime { seconds: 2_000, nanoseconds: 5 };
        let mut entry = NewEntry { kind, attributes: Attributes { mtime, ..Attributes::of_root(0o644) } };
        let mut normaliser = Normaliser { epoch: Mtime { seconds: 1_000, nanoseconds: 0 } };
        let verdict = normaliser.decide(&ImagePath::parse(path).unwrap(), &mut entry);
        (verdict, entry.attributes.mtime.seconds)
    }

    #[test]
    fn what_depends_on_the_host_is_taken_out() {
        let file = || NewKind::File { size: 3 };
        for path in [
            "etc/resolv.conf",
            "etc/hostname",
            "etc/ssh/ssh_host_rsa_key",
            "etc/ssh/ssh_host_ed25519_key.pub",
            "var/log/apt/history.log",
            "var/cache/apt/pkgcache.bin",
            "var/lib/apt/lists/deb_InRelease",
            "var/lib/dpkg/status-old",
            "usr/lib/python3/__pycache__/x.pyc",
            "dev/null",
        ] {
            assert_eq!(decide(path, file()).0, Verdict::LeaveOut, "{path}");
        }
        for path in ["etc/passwd", "etc/ssh/sshd_config", "var/lib/dpkg/status", "usr/bin/log", "device/x"] {
            assert_eq!(decide(path, file()), (Verdict::Keep, 1_000), "{path}");
        }
        for path in ["var/log/apt", "var/cache/apt/archives", "dev"] {
            assert_eq!(decide(path, NewKind::Directory).0, Verdict::Keep, "{path}");
        }
        assert_eq!(decide("etc/machine-id", file()).0, Verdict::Replace(Vec::new()));
    }
}
