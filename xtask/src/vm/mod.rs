//! `cargo xtask vm-test`: the live tests on kernels and cgroup layouts that this machine does not have.
//!
//! Users' machines mostly have cgroup version 2 alone. A virtual machine boots a Debian cloud kernel under qemu with
//! plain emulation (no KVM needed, about six seconds), unpacks a small Debian root into memory, and runs the live test
//! programs of the workspace there: they are linked statically, so they are the very files built here. Or it hands the
//! machine to systemd, with Insula installed as users install it, and checks what the unit files promise.
//!
//! ```text
//! target/vm/root.tar            Debian with the tools that tests call, once
//! target/vm/6.1, 6.12           kernel and modules, once per kernel
//! target/vm/6.1/initramfs.cpio  busybox + root.tar + modules + programs + tests, each time
//! ```

mod fetch;
mod initramfs;
mod machine;

use std::path::{Path, PathBuf};

use crate::workspace;

/// A kernel that users have, by the suite it comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kernel {
    /// As asked for on the command line.
    name: &'static str,
    /// Suite of the package `linux-image-cloud-amd64`.
    suite: &'static str,
}

const KERNELS: [Kernel; 2] =
    [Kernel { name: "6.1", suite: "bookworm" }, Kernel { name: "6.12", suite: "bookworm-backports" }];

/// What the machine does once its root is there.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Task<'a> {
    /// The live tests whose names contain this.
    Tests(&'a str),
    /// Boots systemd and checks an installed Insula.
    Systemd,
}

/// Something went wrong around the machine, not in a test.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VmError {
    /// The command line names no kernel of ours.
    #[error("kernel `{0}` is not one of 6.1, 6.12")]
    UnknownKernel(String),
    /// A package brought no kernel or no modules.
    #[error("{} holds no {what}", folder.display())]
    Incomplete { folder: PathBuf, what: &'static str },
    /// Cargo did not build what goes into the machine; its own output says why.
    #[error("cargo {arguments} failed")]
    NotBuilt { arguments: String },
    /// The machine ended without the line that says how the tests went.
    #[error("the machine ended without a result; its console is in {}", console.display())]
    NoResult { console: PathBuf },
    /// Some tests failed in it.
    #[error("tests failed in the machine with kernel {kernel}; its console is in {}", console.display())]
    TestsFailed { kernel: &'static str, console: PathBuf },
}

/// Does `task` on the kernels named (all when none is).
pub(crate) fn run(kernels: &[&str], task: Task<'_>) -> Result<(), Box<dyn std::error::Error>> {
    let unknown = kernels.iter().find(|name| !KERNELS.iter().any(|kernel| kernel.name == **name));
    if let Some(name) = unknown {
        return Err(VmError::UnknownKernel((*name).to_owned()).into());
    }
    let root = fetch::root(&folder())?;
    for kernel in KERNELS.iter().filter(|kernel| kernels.is_empty() || kernels.contains(&kernel.name)) {
        let boot = fetch::kernel(&folder(), *kernel)?;
        let initramfs = initramfs::pack(&boot, &root, task)?;
        machine::run(*kernel, &boot, &initramfs, task)?;
    }
    Ok(())
}

fn folder() -> PathBuf {
    workspace::root().join("target/vm")
}

/// Kernel image and modules of one kernel.
#[derive(Debug)]
pub(crate) struct Boot {
    /// Folder of this kernel.
    folder: PathBuf,
    /// Its release, as `uname -r` says.
    release: String,
}

impl Boot {
    fn image(&self) -> PathBuf {
        self.folder.join("packages/boot").join(format!("vmlinuz-{}", self.release))
    }

    fn modules(&self) -> PathBuf {
        let packages = self.folder.join("packages");
        let under = |top: &str| packages.join(top).join(&self.release);
        if under("usr/lib/modules").is_dir() { under("usr/lib/modules") } else { under("lib/modules") }
    }
}

/// The release of the kernel unpacked below `folder`.
fn release(folder: &Path) -> Result<String, VmError> {
    let incomplete = || VmError::Incomplete { folder: folder.to_owned(), what: "kernel" };
    let entries = std::fs::read_dir(folder.join("packages/boot")).map_err(|_| incomplete())?;
    entries
        .filter_map(Result::ok)
        .find_map(|entry| entry.file_name().to_str()?.strip_prefix("vmlinuz-").map(str::to_owned))
        .ok_or_else(incomplete)
}
