//! Debian packages that building and testing need.

use std::process::{Command, Stdio};

use crate::step::{self, StepError};

/// Package, and the program or file that shows it is there.
const PACKAGES: [(&str, &str); 12] = [
    ("attr", "/usr/bin/getfattr"),
    ("build-essential", "/usr/bin/cc"),
    ("busybox-static", "/bin/busybox"),
    ("erofs-utils", "/usr/bin/fsck.erofs"),
    ("iproute2", "/usr/sbin/ip"),
    ("iputils-ping", "/usr/bin/ping"),
    ("mmdebstrap", "/usr/bin/mmdebstrap"),
    ("nftables", "/usr/sbin/nft"),
    ("qemu-system-x86", "/usr/bin/qemu-system-x86_64"),
    ("skopeo", "/usr/bin/skopeo"),
    ("util-linux", "/usr/bin/nsenter"),
    ("zstd", "/usr/bin/zstd"),
];

/// Installs those that are missing; does nothing when all are there.
pub(crate) fn install() -> Result<(), Box<dyn std::error::Error>> {
    let missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|(_, shows)| !std::path::Path::new(shows).exists())
        .map(|&(package, _)| package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("── installing {}", missing.join(" "));
    update_lists()?;
    let mut arguments = vec!["install", "--yes", "--quiet", "--no-install-recommends"];
    arguments.extend(&missing);
    Ok(step::run("packages", "apt-get", &arguments)?)
}

/// `apt-get update`: a list that cannot be fetched does not matter when the others have what is needed.
fn update_lists() -> Result<(), StepError> {
    let status = Command::new("apt-get").args(["update", "--quiet"]).stdout(Stdio::null()).status();
    status.map(drop).map_err(|source| StepError::Start {
        title: "packages".to_owned(),
        program: "apt-get".to_owned(),
        source,
    })
}
