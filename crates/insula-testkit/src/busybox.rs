//! A small image: busybox, its applets, the probe, the files that programs expect.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tar::{Builder, EntryType, Header};

use crate::programs::program;

/// Name and version of the image that [`crate::Node::import_busybox`] makes.
pub const BUSYBOX: &str = "busybox@1";

const DIRECTORIES: [&str; 16] = [
    "bin", "data", "dev", "etc", "home", "proc", "root", "run", "sbin", "srv", "sw", "sys", "tmp", "usr", "usr/bin",
    "var",
];

const FILES: [(&str, &str); 6] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/srv:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    ),
    ("etc/group", "root:x:0:\nweb:x:33:\nstaff:x:50:web\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1 localhost\n"),
    ("etc/hostname", "image\n"),
    ("etc/resolv.conf", ""),
    ("etc/os-release", "ID=busybox\nVERSION_ID=1\n"),
];

/// The image as a tar archive; made once.
///
/// # Panics
///
/// There is no busybox on this machine, or the probe is not built.
pub fn archive() -> &'static [u8] {
    static ARCHIVE: OnceLock<Vec<u8>> = OnceLock::new();
    ARCHIVE.get_or_init(|| build(&busybox(), &program("insula-probe"), None))
}

/// The image with an init of its own: a shell script.
pub(crate) fn archive_with_init(script: &str) -> Vec<u8> {
    build(&busybox(), &program("insula-probe"), Some(script))
}

fn busybox() -> PathBuf {
    let places = ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from);
    places.into_iter().find(|path| path.is_file()).expect("busybox is missing; run: apt-get install busybox-static")
}

fn build(busybox: &Path, probe: &Path, init: Option<&str>) -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    for directory in DIRECTORIES {
        let mode = if directory == "tmp" { 0o1777 } else { 0o755 };
        archive.append_data(&mut header(EntryType::Directory, 0, mode), directory, std::io::empty()).unwrap();
    }
    let mut file = |path: &str, content: &[u8], mode: u32| {
        let size = u64::try_from(content.len()).unwrap();
        archive.append_data(&mut header(EntryType::Regular, size, mode), path, content).unwrap();
    };
    file("bin/busybox", &std::fs::read(busybox).unwrap(), 0o755);
    file("bin/insula-probe", &std::fs::read(probe).unwrap(), 0o755);
    if let Some(script) = init {
        file("sbin/init", format!("#!/bin/sh\n{script}\n").as_bytes(), 0o755);
    }
    FILES.iter().for_each(|(path, content)| file(path, content.as_bytes(), 0o644));
    for applet in applets(busybox) {
        archive.append_link(&mut header(EntryType::Symlink, 0, 0o777), format!("bin/{applet}"), "busybox").unwrap();
    }
    archive.into_inner().unwrap()
}

fn applets(busybox: &Path) -> Vec<String> {
    let listed = Command::new(busybox).arg("--list").output().unwrap();
    let names = String::from_utf8(listed.stdout).unwrap();
    names.lines().filter(|name| *name != "busybox").map(str::to_owned).collect()
}

fn header(kind: EntryType, size: u64, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_has_a_shell_and_a_user() {
        // Any file does as a probe here.
        let archive = build(&busybox(), Path::new("/etc/hostname"), Some("true"));
        let names: Vec<String> = tar::Archive::new(&archive[..])
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().to_string_lossy().into_owned())
            .collect();
        for name in ["bin/sh", "bin/busybox", "etc/passwd", "bin/insula-probe", "sbin/init"] {
            assert!(names.iter().any(|found| found == name), "{name}");
        }
    }
}
