//! Import of a large tar archive against the kernel's own packer and one pass of SHA-256, and against podman.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::figure::Figure;
use crate::peak::Peak;
use crate::peers;
use crate::rounds;
use crate::stage::{self, Stage, StageError};
use crate::world::{Layout, World};

/// Rounds that count; the one before fills caches and does not.
const ROUNDS: u32 = 3;

/// Where the peers see the archive's folder.
const FOLDER: &str = "/tmp/import";

/// Most that an import may cost, in times of the packer's.
const PACKER_PROMISE: f64 = 2.0;

/// Most that an import may cost, in times of podman's.
const PODMAN_PROMISE: f64 = 1.0 / 8.0;

/// Memory that an import may take, in MiB, and for each entry of the archive.
const MEMORY_PROMISE_MIB: f64 = 64.0;
const MEMORY_PER_ENTRY_MIB: f64 = 200.0 / 1_048_576.0;

/// What a reader has to know about the references.
const NOTES: &str = "\
mkfs.erofs: the newest, --tar=f, into a file on the same disk, then sha256sum of the archive.
podman: the newest, overlay store on the same disk, emptied between rounds; import takes the same archive, load what
`podman save` makes of it (one layer, not compressed).
Ours answers when the image is published and synced.
";

pub(crate) fn run(stage: &Stage) -> Result<Vec<Figure>, Box<dyn std::error::Error>> {
    let folder = tempfile::Builder::new().prefix("insula-bench-").tempdir_in("/var/tmp")?;
    let tar = archive(folder.path())?;
    let entries = entries(&tar)?;
    let world = World::make(stage, Layout::Version2, &[(folder.path(), FOLDER)])?;
    println!("{NOTES}");
    let (mut ours, mut packer, mut import, mut load) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    // The first import shows it: later ones find the memory that the first one's process kept.
    let mut peak_mib = 0.0_f64;
    for round in 0..=rounds::at_most(ROUNDS) {
        let packed = timed(|| pack_and_hash(&world, &tar))?;
        let peak = Peak::watch(stage)?;
        let imported = timed(|| stage.import(&format!("import-bench@{}", round + 1), &tar))?;
        peak_mib = peak_mib.max(peak.mib()?);
        let (podman_import, podman_load) = podman(&world, folder.path())?;
        if round > 0 {
            ours.push(imported);
            packer.push(packed);
            import.push(podman_import);
            load.push(podman_load);
        }
    }
    let ours = rounds::median(ours);
    let figure = |name: &str, reference, reference_name: &str, goal| {
        Figure::milliseconds(name, ours, (reference_name, reference), goal)
    };
    Ok(vec![
        figure("import_300_mb_tar", rounds::median(packer), "mkfs.erofs + sha256sum", PACKER_PROMISE),
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

fn timed(action: impl FnOnce() -> Result<(), StageError>) -> Result<f64, StageError> {
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
    stage::run(Command::new("sha256sum").arg(tar))
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
