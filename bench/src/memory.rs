//! What containers of one image share, and what an idle one costs.

use std::path::Path;
use std::process::Stdio;

use crate::figure::Figure;
use crate::stage::{self, Stage};

/// Containers of one image.
const CONTAINERS: u32 = 50;

/// Containers that the floor program holds beside them.
const FLOOR_CONTAINERS: u32 = 20;

/// Disk that a container may take, in KiB.
const DISK_PROMISE_KIB: f64 = 100.0;

/// A small process 1 and its program, as ours are.
const FLOOR_COMMAND: [&str; 3] = ["/bin/sh", "-c", "sleep 86400; true"];

/// A figure's measure failed.
#[derive(Debug, thiserror::Error)]
enum MeasureError {
    #[error("{file} has no `{key}`")]
    Field { file: String, key: String },
    #[error("nobody maps {program}")]
    NotMapped { program: &'static str },
}

pub(crate) fn run(stage: &Stage) -> Result<Vec<Figure>, Box<dyn std::error::Error>> {
    let before = disk_kib(stage)?;
    let mut made = 0;
    let outcome = measure(stage, before, &mut made);
    for number in 0..made {
        stage.insula_output(&["delete", "--force", &format!("memory-{number}")])?;
    }
    outcome
}

fn measure(stage: &Stage, before: f64, made: &mut u32) -> Result<Vec<Figure>, Box<dyn std::error::Error>> {
    let mut groups = Vec::new();
    while *made < CONTAINERS {
        let name = format!("memory-{made}");
        stage.insula_output(&["run", "-d", "--name", &name, "bench@1", "sleep", "86400"])?;
        *made += 1;
        let shown: serde_json::Value =
            serde_json::from_str(&stage.insula_output(&["show", "--format", "json", &name])?)?;
        groups.push(shown["id"].as_str().unwrap_or_default().to_owned());
    }
    let disk = (disk_kib(stage)? - before) / f64::from(CONTAINERS);
    let (copies, one) = text_copies(stage, "/bin/busybox")?;
    let charged = mean(groups.iter().map(|id| charged_kib(id)).collect::<Result<_, _>>()?);
    let floor = floor_charge(stage)?;
    let figure = |name: &str, ours, reference, reference_name: &str, goal| Figure {
        name: name.to_owned(),
        unit: "KiB",
        ours,
        reference,
        reference_name: reference_name.to_owned(),
        goal,
    };
    Ok(vec![
        figure("text_of_50_containers", copies, one, "one copy", 1.1),
        figure("idle_container_charge", charged, floor, "floor, shell as init", 1.3),
        figure("disk_per_container", disk, DISK_PROMISE_KIB, "promise", 1.0),
    ])
}

fn mean(values: Vec<f64>) -> f64 {
    let count = values.len().max(1);
    values.into_iter().sum::<f64>() / f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Blocks that the node's state takes.
fn disk_kib(stage: &Stage) -> Result<f64, Box<dyn std::error::Error>> {
    let output = std::process::Command::new("du").args(["-s", "-k"]).arg(stage.state()).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.split_whitespace().next().unwrap_or_default().parse()?)
}

/// Proportional sizes of all executable mappings of `program` inside containers, summed; and the size of one copy.
fn text_copies(stage: &Stage, program: &'static str) -> Result<(f64, f64), Box<dyn std::error::Error>> {
    let wanted = stage.groups();
    let (mut sum, mut one) = (0.0, 0.0_f64);
    for entry in std::fs::read_dir("/proc")?.filter_map(Result::ok) {
        let path = entry.path();
        // Processes that end meanwhile, and what is no process, have nothing to say.
        let is_inside = std::fs::read_to_string(path.join("cgroup")).is_ok_and(|groups| groups.contains(&wanted));
        let Ok(maps) = std::fs::read_to_string(path.join("smaps")) else { continue };
        if !is_inside {
            continue;
        }
        let mut counts = false;
        for line in maps.lines() {
            if let Some((_, mapping)) = line.split_once(" r-xp ") {
                counts = mapping.ends_with(program);
            } else if line.split_whitespace().next().is_some_and(|first| first.contains('-')) {
                counts = false;
            } else if counts {
                sum += kib(line, "Pss:").unwrap_or_default();
                one = one.max(kib(line, "Rss:").unwrap_or_default());
            }
        }
    }
    if one > 0.0 { Ok((sum, one)) } else { Err(MeasureError::NotMapped { program }.into()) }
}

fn kib(line: &str, key: &str) -> Option<f64> {
    line.strip_prefix(key)?.split_whitespace().next()?.parse().ok()
}

/// What a group is charged for, without page cache: memory of processes, files in memory, the kernel's own.
fn charged_kib(group: &str) -> Result<f64, Box<dyn std::error::Error>> {
    let root = Path::new("/sys/fs/cgroup");
    let (memory, keys) = if root.join("cgroup.controllers").exists() {
        (root.to_owned(), ["anon", "shmem", "kernel"].as_slice())
    } else {
        (root.join("memory"), ["rss", "shmem"].as_slice())
    };
    let folder = find(&memory.join("insula.slice"), group).ok_or_else(|| field(group, "memory"))?;
    let stat = std::fs::read_to_string(folder.join("memory.stat"))?;
    let mut bytes = 0.0;
    for key in keys {
        let line = stat.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        bytes += line.ok_or_else(|| field("memory.stat", key))?.trim().parse::<f64>()?;
    }
    // Version 1 counts the kernel's part in a file of its own.
    if let Ok(kernel) = std::fs::read_to_string(folder.join("memory.kmem.usage_in_bytes")) {
        bytes += kernel.trim().parse::<f64>()?;
    }
    Ok(bytes / 1024.0)
}

fn field(file: &str, key: &str) -> MeasureError {
    MeasureError::Field { file: file.to_owned(), key: key.to_owned() }
}

/// The group of this name below `folder`.
fn find(folder: &Path, name: &str) -> Option<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?;
    let folders = entries.filter_map(Result::ok).filter(|entry| entry.path().is_dir());
    folders.map(|entry| entry.path()).find_map(|path| if path.ends_with(name) { Some(path) } else { find(&path, name) })
}

fn floor_charge(stage: &Stage) -> Result<f64, Box<dyn std::error::Error>> {
    use std::io::BufRead;
    let mut command = stage.floor();
    command.arg("hold").arg(stage.path("image")).arg(FLOOR_CONTAINERS.to_string()).args(FLOOR_COMMAND);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        std::io::BufReader::new(output).read_line(&mut line)?;
    }
    let numbers = 0..FLOOR_CONTAINERS;
    let charges = numbers.map(|number| charged_kib(&format!("floor/{number}"))).collect::<Result<Vec<_>, _>>();
    drop(child.stdin.take());
    let ended = child.wait()?;
    if !ended.success() {
        return Err(stage::StageError::Helper { program: "floor hold".to_owned(), outcome: ended.to_string() }.into());
    }
    Ok(mean(charges?))
}
