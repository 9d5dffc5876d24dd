//! A Debian root with real programs, made once by `mmdebstrap` from the mirror of the host's apt.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::finished::run_bounded;

/// Longest that making the archive may take.
const BUILD_PATIENCE: Duration = Duration::from_secs(230);

const PACKAGES: &str = "nginx-light,redis-server,python3,procps,iproute2,systemd-sysv,dbus,openssh-server,postgresql";

/// The root as a tar archive, kept beside the programs; made by the first who asks.
///
/// # Panics
///
/// It could not be made.
#[must_use]
pub fn debian_archive() -> PathBuf {
    // Tests run in `deps/` of a build folder; the archive is for all builds.
    let target = std::env::current_exe().unwrap().ancestors().nth(4).unwrap().join("test-images");
    std::fs::create_dir_all(&target).unwrap();
    let lock = std::fs::File::create(target.join("lock")).unwrap();
    lock.lock().unwrap();
    let archive = target.join("debian.tar");
    if !archive.exists() {
        let unfinished = target.join("unfinished.tar");
        let mut command = Command::new("mmdebstrap");
        command.args(["--variant=minbase", "--include", PACKAGES, "bookworm"]).arg(&unfinished);
        let _ = run_bounded(command, b"", BUILD_PATIENCE).ok();
        std::fs::rename(&unfinished, &archive).unwrap();
    }
    archive
}
