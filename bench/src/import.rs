//! Import of a large tar archive against the kernel's own packer and one pass of SHA-256.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::figure::Figure;
use crate::rounds;
use crate::stage::{self, Stage};
use crate::world::{Layout, World};

/// Rounds that count; the first of all fills caches and does not.
const ROUNDS: u32 = 3;

/// Size of the archive, about, in MB.
const ARCHIVE_MB: u64 = 300;

/// Where the peers see the archive's folder.
const FOLDER: &str = "/tmp/import";

/// Most that an import may cost, in times of the reference.
const PROMISE: f64 = 2.0;

pub(crate) fn run(stage: &Stage) -> Result<Vec<Figure>, Box<dyn std::error::Error>> {
    let folder = tempfile::Builder::new().prefix("insula-bench-").tempdir_in("/var/tmp")?;
    let tar = archive(stage, folder.path())?;
    let world = World::make(stage, Layout::Version2, &[(folder.path(), FOLDER)])?;
    let (mut ours, mut reference) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let begin = Instant::now();
        pack_and_hash(&world, &tar)?;
        let packed = begin.elapsed().as_secs_f64() * 1_000.0;
        let image = format!("import-bench@{}", round + 1);
        let begin = Instant::now();
        stage::run(stage.insula().args(["image", "import", &image]).arg(&tar))?;
        let imported = begin.elapsed().as_secs_f64() * 1_000.0;
        if round > 0 {
            reference.push(packed);
            ours.push(imported);
        }
    }
    Ok(vec![Figure {
        name: "import_300_mb_tar".to_owned(),
        unit: "ms",
        ours: rounds::median(ours),
        reference: rounds::median(reference),
        reference_name: "mkfs.erofs 1.9 + sha256sum".to_owned(),
        goal: PROMISE,
    }])
}

/// A tar of this machine's own programs and libraries, up to the size.
fn archive(stage: &Stage, folder: &Path) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let (list, tar) = (folder.join("files"), folder.join("large.tar"));
    let script = format!(
        "find /usr/bin /usr/lib /usr/share -xdev -type f -size -40000k -printf '%s %p\\n' \
         | awk '{{ sum += $1; if (sum > {ARCHIVE_MB}000000) exit; sub(/^[0-9]+ /, \"\"); print }}' > \"$1\"; \
         tar --create --file \"$2\" --directory / --files-from \"$1\" 2>/dev/null; \
         tar --append --file \"$2\" --directory \"$3\" etc var home root tmp run data sw dev proc sys"
    );
    stage::run(Command::new("sh").args(["-c", &script, "sh"]).arg(&list).arg(&tar).arg(stage.path("root")))?;
    Ok(tar)
}

fn pack_and_hash(world: &World, tar: &Path) -> Result<(), stage::StageError> {
    let tar_inside = format!("{FOLDER}/large.tar");
    stage::run(world.command("mkfs.erofs").args([
        "--quiet",
        "--tar=f",
        &format!("{FOLDER}/large.erofs"),
        &tar_inside,
    ]))?;
    stage::run(Command::new("sha256sum").arg(tar))
}
