//! What is said to who gives a container a directory of the host.
//!
//! In a volume the container's root acts as the source's owner. Where that is the host's root, files that it leaves
//! there are root's, set-user-id bits included. Inside they have no effect; on the host they have, for everybody who
//! can reach them. That is the administrator's decision, so it is told and not refused.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use insula_model::{Access, VolumeMount};

/// Bit of a directory's mode that lets others pass through it.
const OTHERS_PASS: u32 = 0o001;

/// Warnings about volumes. Blocks: looks at every source. One that cannot be looked at is the start's concern.
pub(crate) fn warnings(volumes: &[VolumeMount]) -> Vec<String> {
    let dangerous = |volume: &&VolumeMount| {
        volume.access == Access::ReadWrite && is_dangerous(Path::new(&volume.source)).unwrap_or(false)
    };
    let told = volumes.iter().filter(dangerous).map(|volume| {
        format!(
            "volume {}: it belongs to the host's root and every user of the host can reach it, so root of the \
             container can leave set-user-id programs of root there; close a directory above it to others \
             (chmod o-x), or give one that an ordinary user owns",
            volume.source.escape_debug()
        )
    });
    told.collect()
}

/// Whether `source` is a directory of the host's root that others can enter.
fn is_dangerous(source: &Path) -> std::io::Result<bool> {
    let real = std::fs::canonicalize(source)?;
    let metadata = real.metadata()?;
    if !metadata.is_dir() || metadata.uid() != 0 {
        return Ok(false);
    }
    for directory in real.ancestors() {
        if directory.metadata()?.mode() & OTHERS_PASS == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn t08_a_directory_of_the_hosts_root_is_told_unless_a_parent_is_closed() {
        // Others enter `/usr`, and it is root's on every machine.
        let volume = |given: &str| given.parse::<VolumeMount>().unwrap();
        assert!(warnings(&[volume("/usr:/data/host")])[0].contains("set-user-id"));
        assert_eq!(warnings(&[volume("/usr:/data/host:ro"), volume("/nonexistent:/data/x")]), Vec::<String>::new());
        let closed = tempfile::tempdir().unwrap();
        std::fs::set_permissions(closed.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let inner = closed.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        assert_eq!(warnings(&[volume(&format!("{}:/data/x", inner.display()))]), Vec::<String>::new());
    }
}
