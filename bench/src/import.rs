//! Import of a large tar archive against the kernel's own packer and one pass of SHA-256, against podman, and against
//! what no import that keeps its bytes can go below.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use sha2::{Digest, Sha256};

use crate::figure::Figure;
use crate::peak::Peak;
use crate::peers;
use crate::rounds;
use crate::stage::{self, Stage, StageError};
use crate::world::{Layout, World};

/// Rounds that count; the one before fills caches and does not.
const ROUNDS: u32 = 5;

/// Where the peers see the archive's folder.
const FOLDER: &str = "/tmp/import";

/// Bytes that the floor moves at once.
const PIECE_BYTES: usize = 1 << 20;

/// Most that an import may cost, in times of the packer's.
const PACKER_PROMISE: f64 = 2.0;

/// Most that an import may cost, in times of podman's.
const PODMAN_PROMISE: f64 = 1.0 / 8.0;

/// Memory that an import may take, in MiB, and for each entry of the archive.
const MEMORY_PROMISE_MIB: f64 = 64.0;
const MEMORY_PER_ENTRY_MIB: f64 = 200.0 / 1_048_576.0;

/// What a reader has to know about the references.
const NOTES: &str = "\
mkfs.erofs: the newest, --tar=f, into a file on the same disk, then one pass of SHA-256 over the archive, by the code that
ours hashes with.
podman: the newest, overlay store on the same disk, emptied between rounds; import takes the same archive, load what
`podman save` makes of it (one layer, not compressed). It is as its package sets it up: it syncs its tables and no file
that it unpacks, so what it has answered for may not be on the disk yet. Before each of all these everything is synced.
Ours answers when the image is published, synced, and compared with what the disk gives back.
The floor reads the archive, writes its bytes to a file on the same disk and syncs them, while one pass of SHA-256 goes
over them: it is for comparison and no promise.
";

pub(crate) fn run(stage: &Stage) -> Result<Vec<Figure>, Box<dyn std::error::Error>> {
    let folder = tempfile::Builder::new().prefix("insula-bench-").tempdir_in("/var/tmp")?;
    let tar = archive(folder.path())?;
    let entries = entries(&tar)?;
    let world = World::make(stage, Layout::Version2, &[(folder.path(), FOLDER)])?;
    println!("{NOTES}");
    let [mut ours, mut packer, mut import, mut load, mut floor] = [const { Vec::new() }; 5];
    // The first import, which no time is taken of, shows it: looking takes processor time.
    let mut peak_mib = 0.0_f64;
    for round in 0..=rounds::at_most(ROUNDS) {
        let packed = timed(|| pack_and_hash(&world, &tar))?;
        let kept = timed(|| write_and_hash(&tar))?;
        let image = format!("import-bench@{}", round + 1);
        let imported = if round == 0 {
            let peak = Peak::watch(stage)?;
            let imported = timed(|| stage.import(&image, &tar))?;
            peak_mib = peak.mib()?;
            imported
        } else {
            timed(|| stage.import(&image, &tar))?
        };
        let (podman_import, podman_load) = podman(&world, folder.path())?;
        if round > 0 {
            ours.push(imported);
            packer.push(packed);
            floor.push(kept);
            import.push(podman_import);
            load.push(podman_load);
        }
    }
    let ours = rounds::median(ours);
    let floor = rounds::median(floor);
    println!("floor (write, sync, SHA-256 of the same bytes): {floor:.0} ms; ours: {:.2} times that\n", ours / floor);
    let figure = |name: &str, reference, reference_name: &str, goal| {
        Figure::milliseconds(name, ours, (reference_name, reference), goal)
    };
    Ok(vec![
        figure("import_300_mb_tar", rounds::median(packer), "mkfs.erofs + SHA-256", PACKER_PROMISE),
        figure("import_over_podman_import", rounds::median(import), "podman import", PODMAN_PROMISE),
        figure("import_over_podman_load", rounds::median(load), "podman load", PODMAN_PROMISE),
        Figure {
            name: format!("import_memory_{entries}_entries"),
            unit: "MiB",
            ours: peak_mib,
            reference: MEMORY_PER_ENTRY_MIB.mul_add(f64::from(entries), MEMORY_PROMISE_MIB),
            reference_name: "promise".to_owned(),
            goal: 1.0,
        },
    ])
}

/// Milliseconds of `action`, which begins when nothing is left to be written of what ran before it: most of them leave that
/// to the kernel.
fn timed(action: impl FnOnce() -> Result<(), StageError>) -> Result<f64, StageError> {
    stage::run(&mut Command::new("sync"))?;
    let begin = Instant::now();
    action()?;
    Ok(begin.elapsed().as_secs_f64() * 1_000.0)
}

/// A tar of the peers' own root: a real distribution with its many small files. Without the largest programs, it is
/// of about 300 MB.
fn archive(folder: &Path) -> Result<PathBuf, StageError> {
    let tar = folder.join("large.tar");
    let script = "cd \"$1\" && find . -xdev -path './dev/*' -prune -o -type f -size +16000k -prune -o -print0 \
                  | sort --zero-terminated | tar --create --file \"$2\" --null --no-recursion --files-from -";
    stage::run(Command::new("sh").args(["-c", script, "sh"]).arg(peers::root()?).arg(&tar))?;
    Ok(tar)
}

fn entries(tar: &Path) -> Result<u32, Box<dyn std::error::Error>> {
    let output = Command::new("tar").arg("--list").arg("--file").arg(tar).output()?;
    Ok(u32::try_from(String::from_utf8_lossy(&output.stdout).lines().count())?)
}

fn pack_and_hash(world: &World, tar: &Path) -> Result<(), StageError> {
    let (packed, inside) = (format!("{FOLDER}/large.erofs"), format!("{FOLDER}/large.tar"));
    stage::run(world.command("mkfs.erofs").args(["--quiet", "--tar=f", &packed, &inside]))?;
    hash(tar)
}

/// One pass of SHA-256 over a file.
fn hash(path: &Path) -> Result<(), StageError> {
    let digest = || -> std::io::Result<()> {
        let (mut file, mut sum, mut piece) = (File::open(path)?, Sha256::new(), vec![0; PIECE_BYTES]);
        loop {
            match file.read(&mut piece)? {
                0 => break,
                length => sum.update(&piece[..length]),
            }
        }
        std::hint::black_box(sum.finalize());
        Ok(())
    };
    digest().map_err(|source| StageError::File { what: "hash the archive", source })
}

/// Writes the archive's bytes to another file and syncs it, and hashes them meanwhile.
fn write_and_hash(tar: &Path) -> Result<(), StageError> {
    let copy = tar.with_extension("copy");
    let failed = |source| StageError::File { what: "copy the archive", source };
    let copied = std::thread::scope(|scope| {
        let hashing = scope.spawn(|| hash(tar));
        let copied = copy_and_sync(tar, &copy).map_err(failed);
        hashing.join().unwrap_or(Ok(())).and(copied)
    });
    copied.and(std::fs::remove_file(&copy).map_err(failed))
}

fn copy_and_sync(from: &Path, to: &Path) -> std::io::Result<()> {
    let (mut from, mut to) = (File::open(from)?, File::create(to)?);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match from.read(&mut piece)? {
            0 => return to.sync_all(),
            length => to.write_all(&piece[..length])?,
        }
    }
}

/// Milliseconds of `podman import` and of `podman load` into an empty store.
fn podman(world: &World, folder: &Path) -> Result<(f64, f64), StageError> {
    let podman = |arguments: &[&str]| stage::run(world.command("podman").args(arguments));
    let (tar, saved) = (format!("{FOLDER}/large.tar"), format!("{FOLDER}/saved.tar"));
    let imported = timed(|| podman(&["import", "--quiet", &tar, "large"]))?;
    if !folder.join("saved.tar").exists() {
        podman(&["save", "--quiet", "--output", &saved, "large"])?;
    }
    podman(&["rmi", "--force", "large"])?;
    let loaded = timed(|| podman(&["load", "--quiet", "--input", &saved]))?;
    podman(&["rmi", "--force", "large"])?;
    Ok((imported, loaded))
}
