//! Mounts that no container of ours can need: the launcher's mount namespace does without them, because every container
//! begins with a copy of it.
//!
//! What may be a volume's source stays. What goes is of the kernel's own making or another engine's.

use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, unmount};

/// File systems that show the kernel's workings, or hold no files at all.
const NEEDLESS_KINDS: [&str; 14] = [
    "autofs",
    "binfmt_misc",
    "bpf",
    "configfs",
    "debugfs",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nsfs",
    "pstore",
    "rpc_pipefs",
    "securityfs",
    "tracefs",
];

/// Below these other engines and package systems mount what is theirs.
const NEEDLESS_PLACES: [&str; 6] = [
    "/snap",
    "/run/docker",
    "/run/credentials",
    "/var/lib/docker",
    "/var/lib/containers/storage",
    "/var/lib/containerd",
];

/// Unmounts them here; on the host they stay. What cannot be unmounted costs a little time per start, no more.
pub(crate) fn prune(keep: &Path) {
    let Ok(mountinfo) = std::fs::read_to_string("/proc/self/mountinfo") else { return };
    for place in needless(&mountinfo, keep) {
        unmount(&place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).unwrap_or_default();
    }
}

/// Mount points that can go, the innermost first. `keep` is not below any of them.
fn needless(mountinfo: &str, keep: &Path) -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = mountinfo.lines().filter_map(needless_place).collect();
    places.retain(|place| !keep.starts_with(place));
    places.reverse();
    places
}

/// The mount point of a line, if it is needless. Points whose names are escaped (with spaces and the like) stay.
fn needless_place(line: &str) -> Option<PathBuf> {
    let (place, rest) = line.split_once(" - ")?;
    let place = place.split(' ').nth(4).filter(|place| !place.contains('\\')).map(Path::new)?;
    let kind = rest.split(' ').next()?;
    let foreign = NEEDLESS_PLACES.iter().any(|prefix| place.starts_with(prefix) && place != Path::new(prefix));
    (foreign || NEEDLESS_KINDS.contains(&kind)).then(|| place.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_no_container_can_need_goes_the_innermost_first() {
        let mountinfo = "\
22 1 0:21 / / rw - ext4 /dev/vda rw
23 22 0:5 / /proc rw - proc proc rw
24 23 0:6 / /proc/sys/fs/binfmt_misc rw - autofs systemd-1 rw
25 24 0:7 / /proc/sys/fs/binfmt_misc rw - binfmt_misc binfmt_misc rw
26 22 0:8 / /sys/kernel/debug rw - debugfs debugfs rw
27 22 0:9 / /mnt/disk rw shared:7 - xfs /dev/sdb rw
28 22 0:10 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw
29 22 0:11 / /var/lib/docker rw - ext4 /dev/sdc rw
30 22 0:12 / /snap/core/1 ro - squashfs /dev/loop1 ro
31 22 0:13 / /snap\\040crackle ro - nsfs x ro
32 22 0:14 / /var/lib/containerd/run/insula rw - tmpfs tmpfs rw
";
        let expected = [
            "/snap/core/1",
            "/var/lib/docker/overlay2/x/merged",
            "/sys/kernel/debug",
            "/proc/sys/fs/binfmt_misc",
            "/proc/sys/fs/binfmt_misc",
        ];
        let found = needless(mountinfo, Path::new("/var/lib/containerd/run/insula/node"));
        assert_eq!(found, expected.map(PathBuf::from));
    }
}
