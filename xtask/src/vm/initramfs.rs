//! What the machine boots into: busybox, the root archive, modules, our programs and the live tests.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{Boot, Task, VmError};
use crate::{step, workspace};

/// First program of the machine.
const FIRST_INIT: &str = include_str!("first-init.sh");
/// Its init once the root is unpacked, when it runs tests.
const TESTS_INIT: &str = include_str!("tests-init.sh");
/// The same when systemd is to take over.
const SYSTEMD_INIT: &str = include_str!("systemd-init.sh");
/// What systemd starts last.
const SYSTEMD_CHECK: &str = include_str!("systemd-check.sh");

/// Module folders that tests need, below `kernel/`.
const MODULES: [&str; 8] =
    ["fs/erofs", "fs/overlayfs", "fs/btrfs", "net", "drivers/net", "drivers/block", "lib", "crypto"];

/// Writes the archive for one kernel and returns its path.
///
/// Test programs come along that have tests whose names the task wants.
pub(super) fn pack(boot: &Boot, root: &Path, task: Task<'_>) -> Result<PathBuf, Box<dyn std::error::Error>> {
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
    copy_modules(boot, &modules)?;
    let programs = built(&["build", "--locked", "--workspace", "--bins"])?;
    match task {
        Task::Tests(filter) => {
            write_program(&guest.join("guest-init"), TESTS_INIT)?;
            copy_programs(&guest, &programs, filter)?;
        }
        Task::Systemd => {
            write_program(&guest.join("guest-init"), SYSTEMD_INIT)?;
            write_program(&guest.join("systemd-check"), SYSTEMD_CHECK)?;
            install_programs(&boot.folder.join("programs"), &programs, &guest)?;
        }
    }
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
fn copy_programs(guest: &Path, programs: &[PathBuf], filter: &str) -> Result<(), Box<dyn std::error::Error>> {
    let folder = guest.join("insula");
    let tests = folder.join("tests");
    fs::create_dir_all(&tests)?;
    for program in programs {
        link_build_folder(guest, program.parent().unwrap_or(program))?;
        copy_stripped(program, &folder)?;
    }
    for test in built(&["test", "--locked", "--workspace", "--exclude=xtask", "--no-run"])? {
        if has_tests(&test, filter)? {
            copy_stripped(&test, &tests)?;
        }
    }
    Ok(())
}

/// Installs as the README says, but what was built here, by way of `folder`.
fn install_programs(folder: &Path, programs: &[PathBuf], guest: &Path) -> Result<(), Box<dyn std::error::Error>> {
    fs::create_dir_all(folder)?;
    for program in programs {
        copy_stripped(program, folder)?;
    }
    let variables = [format!("DESTDIR={}", guest.display()), format!("PROGRAMS={}", folder.display())];
    Ok(step::run("install", "make", &["--silent", "install", &variables[0], &variables[1]])?)
}

/// What this `cargo` builds: programs, or test programs when it is `cargo test`.
fn built(arguments: &[&str]) -> Result<Vec<PathBuf>, Box<dyn std::error::Error>> {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .arg("--message-format=json")
        .current_dir(workspace::root())
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(VmError::NotBuilt { arguments: arguments.join(" ") }.into());
    }
    let wants_tests = arguments.first() == Some(&"test");
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let programs = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_test = message.pointer("/profile/test")?.as_bool()?;
        (is_test == wants_tests).then(|| message.get("executable")?.as_str().map(PathBuf::from))?
    });
    Ok(programs.collect())
}

/// Copies a program into `folder`, without its debug sections.
fn copy_stripped(program: &Path, folder: &Path) -> Result<(), std::io::Error> {
    let target = folder.join(program.file_name().unwrap_or_default());
    let stripped = Command::new("objcopy").arg("--strip-debug").arg(program).arg(&target).status()?.success();
    if stripped { Ok(()) } else { fs::copy(program, &target).map(drop) }
}

fn has_tests(program: &Path, filter: &str) -> Result<bool, std::io::Error> {
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
