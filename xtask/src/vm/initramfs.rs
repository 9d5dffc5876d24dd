//! What the machine boots into: busybox, the root archive, modules, our programs and the live tests.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{Boot, VmError};
use crate::{step, workspace};

/// First program of the machine.
const FIRST_INIT: &str = include_str!("first-init.sh");
/// Its init once the root is unpacked.
const GUEST_INIT: &str = include_str!("guest-init.sh");

/// Module folders that tests need, below `kernel/`.
const MODULES: [&str; 8] =
    ["fs/erofs", "fs/overlayfs", "fs/btrfs", "net", "drivers/net", "drivers/block", "lib", "crypto"];

/// Writes the archive for one kernel and returns its path.
///
/// Test programs come along that have tests whose names contain `filter`.
pub(super) fn pack(boot: &Boot, root: &Path, filter: &str) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let tree = boot.folder.join("initramfs");
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    let guest = tree.join("guest");
    let modules = guest.join("usr/lib/modules").join(&boot.release);
    fs::create_dir_all(tree.join("bin"))?;
    fs::create_dir_all(&modules)?;
    fs::copy("/bin/busybox", tree.join("bin/busybox"))?;
    fs::hard_link(root, tree.join("root.tar"))?;
    write_program(&tree.join("init"), FIRST_INIT)?;
    write_program(&guest.join("guest-init"), GUEST_INIT)?;
    copy_modules(boot, &modules)?;
    copy_programs(&guest, filter)?;
    let archive = boot.folder.join("initramfs.cpio");
    write_archive(&tree, &archive)?;
    Ok(archive)
}

fn write_program(path: &Path, text: &str) -> Result<(), std::io::Error> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

fn copy_modules(boot: &Boot, target: &Path) -> Result<(), Box<dyn std::error::Error>> {
    for subject in MODULES {
        let source = boot.modules().join("kernel").join(subject);
        if !source.is_dir() {
            continue;
        }
        let parent = target.join("kernel").join(subject);
        let parent = parent.parent().unwrap_or(target);
        fs::create_dir_all(parent)?;
        let copied = Command::new("cp").arg("-a").arg(&source).arg(parent).status()?;
        if !copied.success() {
            return Err(VmError::Incomplete { folder: source, what: "readable modules" }.into());
        }
    }
    for list in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
        fs::copy(boot.modules().join(list), target.join(list))?;
    }
    Ok(())
}

/// Programs beside each other in `guest/insula/`, test programs in `guest/insula/tests/`, all without debug sections.
fn copy_programs(guest: &Path, filter: &str) -> Result<(), Box<dyn std::error::Error>> {
    let programs = guest.join("insula");
    let tests = programs.join("tests");
    fs::create_dir_all(&tests)?;
    step::cargo("programs", &["build", "--locked", "--workspace", "--bins"])?;
    let output = Command::new(env!("CARGO"))
        .args(["test", "--locked", "--workspace", "--exclude=xtask", "--no-run", "--message-format=json"])
        .current_dir(workspace::root())
        .stderr(Stdio::inherit())
        .output()?;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(message) = serde_json::from_str::<Value>(line) else { continue };
        let Some(executable) = message.get("executable").and_then(Value::as_str) else { continue };
        let is_test = message.pointer("/profile/test").and_then(Value::as_bool).unwrap_or(false);
        if !is_test && message.pointer("/target/kind/0").and_then(Value::as_str) != Some("bin") {
            continue;
        }
        if is_test && !has_tests(executable, filter)? {
            continue;
        }
        let executable = Path::new(executable);
        let Some(name) = executable.file_name() else { continue };
        let target = if is_test { tests.join(name) } else { programs.join(name) };
        if let Some(folder) = executable.parent().filter(|_| !is_test) {
            link_build_folder(guest, folder)?;
        }
        let stripped = Command::new("objcopy").arg("--strip-debug").arg(executable).arg(&target).status()?.success();
        if !stripped {
            fs::copy(executable, &target)?;
        }
    }
    Ok(())
}

fn has_tests(program: &str, filter: &str) -> Result<bool, std::io::Error> {
    let listed = Command::new(program).args(["--list", "--format", "terse", filter]).output()?;
    Ok(listed.stdout.split(|byte| *byte == b'\n').any(|line| line.ends_with(b": test")))
}

/// A program's own tests name it by where it was built: there it is found in the machine as well.
fn link_build_folder(guest: &Path, folder: &Path) -> Result<(), std::io::Error> {
    let link = guest.join(folder.strip_prefix("/").unwrap_or(folder));
    if link.is_symlink() {
        return Ok(());
    }
    fs::create_dir_all(link.parent().unwrap_or(guest))?;
    std::os::unix::fs::symlink("/insula", link)
}

fn write_archive(tree: &Path, archive: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let mut find = Command::new("find").arg(".").current_dir(tree).stdout(Stdio::piped()).spawn()?;
    let names = find.stdout.take().map_or_else(Stdio::null, Stdio::from);
    let packed = Command::new("busybox")
        .args(["cpio", "-o", "-H", "newc"])
        .current_dir(tree)
        .stdin(names)
        .stdout(fs::File::create(archive)?)
        .stderr(Stdio::null())
        .status()?;
    find.wait()?;
    if packed.success() { Ok(()) } else { Err(VmError::Incomplete { folder: tree.to_owned(), what: "archive" }.into()) }
}
