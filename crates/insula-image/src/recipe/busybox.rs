//! The base of `scratch`: one static busybox, a link for each of its applets, and the accounts of root.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::path::ImagePath;

/// A busybox that is no base.
#[derive(Debug, thiserror::Error)]
pub enum BusyboxError {
    /// It is not there.
    #[error("{} is missing; run `apt-get install busybox-static`", path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// It needs a dynamic linker, which an image of nothing else has not.
    #[error("{} is not a static 64-bit program; run `apt-get install busybox-static`", path.display())]
    NotStatic {
        /// Where it is.
        path: PathBuf,
    },
    /// It cannot be read, or did not list its applets.
    #[error("use {}", path.display())]
    Use {
        /// Where it is.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// A busybox: its bytes, and the paths of its applets.
#[derive(Debug)]
pub(super) struct Busybox {
    pub(super) program: Vec<u8>,
    /// Sorted; without busybox itself.
    pub(super) applets: Vec<ImagePath>,
}

/// Where it is in the image.
pub(super) const BUSYBOX_PATH: &str = "bin/busybox";
/// Most bytes of the program, and of its list of applets.
const PROGRAM_BYTES_MAX: u64 = 64 << 20;
const LIST_BYTES_MAX: u64 = 1 << 20;

impl Busybox {
    /// Reads the program and asks it for its applets (`--list-full`).
    pub(super) fn read(path: &Path) -> Result<Self, BusyboxError> {
        let used = |source| BusyboxError::Use { path: path.to_owned(), source };
        let file = File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => BusyboxError::Missing { path: path.to_owned() },
            _ => used(error),
        })?;
        let mut program = Vec::new();
        file.take(PROGRAM_BYTES_MAX).read_to_end(&mut program).map_err(used)?;
        if !is_static_program(&program) {
            return Err(BusyboxError::NotStatic { path: path.to_owned() });
        }
        let mut child = Command::new(path)
            .arg("--list-full")
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(used)?;
        let mut list = String::new();
        let read = child.stdout.take().map(|out| out.take(LIST_BYTES_MAX).read_to_string(&mut list));
        let status = child.wait().map_err(used)?;
        read.transpose().map_err(used)?;
        let mut applets: Vec<_> = list.lines().filter_map(|line| ImagePath::parse(line).ok()).collect();
        applets.retain(|applet| !applet.is_root() && applet.as_bytes() != BUSYBOX_PATH.as_bytes());
        applets.sort();
        applets.dedup();
        if !status.success() || applets.is_empty() {
            return Err(used(io::Error::other("it lists no applets")));
        }
        Ok(Self { program, applets })
    }

    /// Small files that programs expect, and their modes.
    pub(super) fn files() -> BTreeMap<&'static str, (&'static str, u16)> {
        BTreeMap::from([
            ("etc/group", ("root:x:0:\ntty:x:5:\nnogroup:x:65534:\n", 0o644)),
            (
                "etc/passwd",
                ("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n", 0o644),
            ),
            ("etc/nsswitch.conf", ("passwd: files\ngroup: files\nhosts: files dns\n", 0o644)),
        ])
    }
}

/// An ELF program of 64 bits, little end first, without a segment that names an interpreter.
fn is_static_program(program: &[u8]) -> bool {
    const PT_INTERP: [u8; 4] = 3u32.to_le_bytes();
    let number = |offset: usize, bytes: usize| {
        let field = program.get(offset..offset + bytes)?;
        field.iter().rev().try_fold(0usize, |number, byte| Some(number.checked_mul(256)? + usize::from(*byte)))
    };
    let headers = || Some((number(32, 8)?, number(54, 2)?, number(56, 2)?));
    let Some((start, size, count)) = program.starts_with(b"\x7fELF\x02\x01").then(headers).flatten() else {
        return false;
    };
    let header = |index: usize| program.get(start.checked_add(index * size)?..)?.get(..4);
    (0..count).all(|index| header(index).is_some_and(|kind| kind != PT_INTERP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_static_programs_are_taken() {
        let mut program = vec![0; 64 + 56];
        program[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (program[32], program[54], program[56]) = (64, 56, 1);
        program[64] = 1;
        assert!(is_static_program(&program));
        program[64] = 3;
        assert!(!is_static_program(&program));
        program[56] = 2;
        assert!(!is_static_program(&program), "a header beyond the end");
        assert!(!is_static_program(b"#!/bin/sh\n") && !is_static_program(b""));
    }

    #[test]
    fn a_missing_busybox_names_its_package() {
        let message = Busybox::read(Path::new("/nonexistent/busybox")).unwrap_err().to_string();
        assert!(message.contains("apt-get install busybox-static"), "{message}");
    }
}
