//! A store on a file system with fs-verity: what its disk damages is never read, and found.
//!
//! The kernel must have it (`CONFIG_FS_VERITY`). Where it has not, the test says so and sees that images are published
//! all the same; in the machines of `cargo xtask vm-test` it must.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use insula_kernel::{fs_verity, page_cache};
use insula_model::Bytes;
use jiff::Timestamp;
use rustix::io::Errno;

use super::tests::{archive, id, open};
use super::{ImportRequest, OpenForMountError, Scrubbed};
use crate::progress::Watch;

/// Bytes of a block of both file systems.
const BLOCK: usize = 4096;

fn run(program: &str, words: &[&str]) {
    let output = Command::new(program).args(words).output().unwrap();
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A file system in a file that can check files, mounted; unmounted when dropped.
struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    fn make() -> Self {
        let disk = Self { folder: tempfile::tempdir().unwrap() };
        File::create(disk.backing()).unwrap().set_len(48 << 20).unwrap();
        let backing = disk.backing().display().to_string();
        run("mkfs.ext4", &["-q", "-F", "-b", "4096", "-O", "verity", &backing]);
        for place in [disk.root(), disk.image()] {
            std::fs::create_dir(place).unwrap();
        }
        run("mount", &["-o", "loop", &backing, &disk.root().display().to_string()]);
        disk
    }

    fn backing(&self) -> PathBuf {
        self.folder.path().join("backing")
    }

    /// Where it is mounted.
    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// Where an image of it may be mounted.
    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    /// Changes a byte of the block that begins with `beginning`, under the file system.
    fn flip(&self, beginning: &[u8]) {
        run("sync", &["--file-system", &self.root().display().to_string()]);
        let mut backing = File::options().read(true).write(true).open(self.backing()).unwrap();
        let mut block = [0; BLOCK];
        let found = std::iter::from_fn(|| backing.read_exact(&mut block).ok().map(|()| block.starts_with(beginning)));
        let number = u64::try_from(found.take_while(|found| !found).count()).unwrap();
        let at = number * 4096 + 1_000;
        let mut byte = [0];
        backing.read_exact_at(&mut byte, at).unwrap();
        backing.write_all_at(&[byte[0] ^ 1], at).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for place in [self.image(), self.root()] {
            let _ = Command::new("umount").arg("--lazy").arg(place).stderr(std::process::Stdio::null()).status();
        }
    }
}

/// Whether the kernel checks files of this directory's file system.
fn has_verity(directory: &Path) -> bool {
    let path = directory.join("probe");
    std::fs::write(&path, "x").unwrap();
    let enabled = fs_verity::enable(File::open(&path).unwrap());
    std::fs::remove_file(path).unwrap();
    assert!(matches!(enabled, Ok(()) | Err(Errno::NOTTY | Errno::OPNOTSUPP)), "{enabled:?}");
    enabled.is_ok()
}

#[test]
fn live_damaged_pages_of_a_checked_image_are_never_read_and_are_found() {
    let disk = Disk::make();
    let checks = has_verity(&disk.root());
    let root = disk.root().join("images");
    let (store, _) = open(&root).unwrap();
    let id = id("web@1");
    let beginning = b"where the damage will be";
    let damaged = [&beginning[..], &vec![7; 3 * BLOCK]].concat();
    let files: [(&str, &[u8]); 2] = [("damaged", &damaged), ("whole", b"whole")];
    store.import(&id, ImportRequest::of(archive(&files)), Timestamp::now(), Watch::nobody()).unwrap();
    let path = root.join("web/1/root.erofs");
    assert_eq!(fs_verity::is_enabled(File::open(&path).unwrap()), Ok(checks));
    let open = || store.open_for_mount(&id, Timestamp::now(), Watch::nobody());
    open().unwrap();
    if !checks {
        assert!(std::env::var_os("INSULA_VM").is_none(), "the machine's kernel has no fs-verity");
        println!("NOT TESTED: this kernel has no fs-verity; `cargo xtask vm-test` has one that does");
        return;
    }
    if let Ok(cached) = page_cache::cached_bytes(File::open(&path).unwrap()) {
        assert_eq!(cached, 0, "neither its bytes nor its tree stay in memory");
    }
    let scrub = || store.scrub(&id, Bytes(u64::MAX), Timestamp::now(), Watch::nobody()).unwrap();
    assert_eq!(scrub(), Scrubbed::Intact);

    disk.flip(beginning);
    run("mount", &["-t", "erofs", "-o", "ro,loop", &path.display().to_string(), &disk.image().display().to_string()]);
    let read = |name: &str| std::fs::read(disk.image().join(name));
    assert_eq!(Errno::from_io_error(&read("damaged").unwrap_err()), Some(Errno::IO));
    assert_eq!(read("whole").unwrap(), b"whole");
    let Scrubbed::Damaged(report) = scrub() else { panic!("not found") };
    let named: Vec<_> = report.damage.iter().map(ToString::to_string).collect();
    assert_eq!(named, ["file /damaged"]);
    assert!(matches!(open(), Err(OpenForMountError::Damaged { .. })));

    // A disk that gives the right bytes again is believed.
    disk.flip(beginning);
    assert!(store.verify(&id, Timestamp::now(), Watch::nobody()).unwrap().damage.is_empty());
    open().unwrap();
    assert_eq!(read("damaged").unwrap(), damaged);
}
