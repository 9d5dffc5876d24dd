//! Kernel packages and the machine's root, by `mmdebstrap` from the host's own apt sources; once, then kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Boot, Kernel, release};
use crate::step;

/// Packages of the machine's root beside Debian's smallest set: what live tests call, and systemd.
const ROOT_PACKAGES: &str =
    "nftables,netbase,iproute2,iputils-ping,busybox-static,erofs-utils,kmod,procps,attr,util-linux,e2fsprogs,systemd";

/// The root as a tar archive.
pub(super) fn root(folder: &Path) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let archive = folder.join("root.tar");
    let made_of = folder.join("root.packages");
    if archive.is_file() && fs::read_to_string(&made_of).is_ok_and(|packages| packages == ROOT_PACKAGES) {
        return Ok(archive);
    }
    fs::create_dir_all(folder)?;
    let partial = folder.join("root.partial.tar");
    let include = format!("--include={ROOT_PACKAGES}");
    let exclude = ["doc", "man", "locale", "info"].map(|share| format!("--dpkgopt=path-exclude=/usr/share/{share}/*"));
    let lists = "--customize-hook=rm -rf \"$1\"/var/lib/apt/lists/* \"$1\"/var/cache/apt/*";
    let partial_text = partial.to_string_lossy().into_owned();
    let mut arguments = vec!["--quiet", "--variant=minbase", &include, lists];
    arguments.extend(exclude.iter().map(String::as_str));
    arguments.extend(["bookworm", partial_text.as_str()]);
    step::run("root of the machine", "mmdebstrap", &arguments)?;
    fs::rename(&partial, &archive)?;
    fs::write(made_of, ROOT_PACKAGES)?;
    Ok(archive)
}

/// One kernel with its modules.
pub(super) fn kernel(folder: &Path, kernel: Kernel) -> Result<Boot, Box<dyn std::error::Error>> {
    let folder = folder.join(kernel.name);
    let packages = folder.join("packages");
    if !packages.is_dir() {
        fs::create_dir_all(&folder)?;
        let partial = folder.join("partial");
        if partial.exists() {
            fs::remove_dir_all(&partial)?;
        }
        let mirror = mirror()?;
        let include = format!("--include=linux-image-cloud-amd64/{}", kernel.suite);
        let target = partial.to_string_lossy().into_owned();
        let sources = ["bookworm", kernel.suite].map(|suite| format!("deb {mirror} {suite} main"));
        let mut arguments = vec!["--quiet", "--variant=extract", &include, "bookworm", &target];
        arguments.extend(sources.iter().map(String::as_str));
        step::run("kernel of the machine", "mmdebstrap", &arguments)?;
        fs::rename(&partial, &packages)?;
    }
    let release = release(&folder)?;
    Ok(Boot { folder, release })
}

/// Apt told no mirror for the suite.
#[derive(Debug, thiserror::Error)]
#[error("apt knows no source for bookworm; run apt-get update, or add one")]
struct NoMirrorError;

/// The mirror that this host's apt is set to.
fn mirror() -> Result<String, Box<dyn std::error::Error>> {
    let output = Command::new("apt-get").args(["indextargets", "--format", "$(REPO_URI) $(RELEASE)"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mirror = text.lines().find_map(|line| line.strip_suffix(" bookworm")).ok_or(NoMirrorError)?;
    Ok(mirror.to_owned())
}
