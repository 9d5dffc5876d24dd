//! What containers of one image share, and what an idle one costs.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use insula_plan::protocol::channel;
use insula_plan::protocol::init::InitConfig;
use insula_plan::protocol::process::{CapabilityMask, CapabilityRule, ProcessSpec};

use crate::density;
use crate::figure::Figure;
use crate::stage::{self, IDLER, Stage};

/// Containers of one image.
const CONTAINERS: usize = 50;

/// Containers for the machine's own memory, whose counters others move too.
const MANY_CONTAINERS: usize = 500;

/// Containers that the floor program holds beside them.
const FLOOR_CONTAINERS: u32 = 20;

/// Disk that a container may take, in KiB.
const DISK_PROMISE_KIB: f64 = 100.0;

/// Memory of the machine that a container may take beyond its processes', in KiB.
const MACHINE_PROMISE_KIB: f64 = 1_500.0;

/// The library whose text is counted.
const LIBRARY: &str = "libc.so.6";

/// The field's fourteen capabilities, as both ours and the floor keep them.
const CAPABILITIES: u64 = 0xa804_25fb;

/// What a reader has to know about the reference.
const NOTES: &str = "\
The floor holds containers with the same namespaces and mounts, Insula's own process 1 and the same idle program. What a
container is charged is the sum of its group's anonymous memory, files in memory and the kernel's own.
Disk is what the containers' own directories take; the node's store is one file for all of them, which its database
makes larger and smaller in steps, and is told beside it.
The machine's memory is the growth of SUnreclaim, KernelStack, PageTables and Percpu from none to 500 containers; what
else runs on the machine moves it too.
";

/// A figure's measure failed.
#[derive(Debug, thiserror::Error)]
enum MeasureError {
    #[error("{file} has no `{key}`")]
    Field { file: String, key: String },
    #[error("nobody maps {program}")]
    NotMapped { program: &'static str },
}

pub(crate) fn run(stage: &Stage) -> Result<Vec<Figure>, Box<dyn std::error::Error>> {
    println!("{NOTES}");
    density::with_population(stage, measure)
}

fn measure(stage: &Stage, names: &mut Vec<String>) -> Result<Vec<Figure>, Box<dyn std::error::Error>> {
    let (disk_before, store_before, machine_before) = (directories_kib(stage)?, store_kib(stage)?, machine_kib()?);
    start_until(stage, names, CONTAINERS)?;
    let disk = (directories_kib(stage)? - disk_before) / CONTAINERS as f64;
    let (copies, one) = text_copies(stage, LIBRARY)?;
    let charged = mean(ids(stage)?.iter().map(|id| charged_kib(id)).collect::<Result<_, _>>()?);
    let floor = floor_charge(stage)?;
    start_until(stage, names, MANY_CONTAINERS)?;
    let machine = (machine_kib()? - machine_before) / MANY_CONTAINERS as f64;
    let store = store_kib(stage)?;
    println!("the node's store: {store_before:.0} KiB with no container, {store:.0} KiB with {MANY_CONTAINERS}\n");
    let figure = |name: &str, ours, reference, reference_name: &str, goal| Figure {
        name: name.to_owned(),
        unit: "KiB",
        ours,
        reference,
        reference_name: reference_name.to_owned(),
        goal,
    };
    Ok(vec![
        figure("libc_text_of_50_containers", copies, one, "one copy in full", 1.1),
        figure("idle_container_charge", charged, floor, "floor, the same init", 1.3),
        figure("disk_per_container", disk, DISK_PROMISE_KIB, "promise", 1.0),
        figure("machine_memory_of_500", machine, MACHINE_PROMISE_KIB, "promise, each", 1.0),
    ])
}

/// Starts idle containers until there are as many as wanted.
fn start_until(stage: &Stage, names: &mut Vec<String>, wanted: usize) -> Result<(), stage::StageError> {
    while names.len() < wanted {
        let name = format!("memory-{}", names.len());
        stage.insula_output(&["run", "-d", "--name", &name, "bench@1", IDLER, "86400"])?;
        names.push(name);
    }
    Ok(())
}

/// Ids of all containers.
fn ids(stage: &Stage) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let listed: serde_json::Value = serde_json::from_str(&stage.insula_output(&["list", "--format", "json"])?)?;
    let containers = listed.as_array().into_iter().flatten();
    Ok(containers.filter_map(|container| container["id"].as_str()).map(str::to_owned).collect())
}

/// What the kernel keeps for its own use, beside what belongs to files and processes.
fn machine_kib() -> Result<f64, Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let mut sum = 0.0;
    for key in ["SUnreclaim:", "KernelStack:", "PageTables:", "Percpu:"] {
        sum += text.lines().find_map(|line| kib(line, key)).ok_or_else(|| field("/proc/meminfo", key))?;
    }
    Ok(sum)
}

fn mean(values: Vec<f64>) -> f64 {
    let count = values.len().max(1);
    values.into_iter().sum::<f64>() / f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Blocks that the containers' own directories take: what the node keeps of them, and their data.
fn directories_kib(stage: &Stage) -> Result<f64, Box<dyn std::error::Error>> {
    ["containers", "v"].iter().map(|name| disk_kib(&stage.state().join(name))).sum()
}

/// Blocks of the file with what the node records of all containers.
fn store_kib(stage: &Stage) -> Result<f64, Box<dyn std::error::Error>> {
    disk_kib(&stage.state().join("node.redb"))
}

fn disk_kib(path: &Path) -> Result<f64, Box<dyn std::error::Error>> {
    if !path.exists() {
        return Ok(0.0);
    }
    let output = std::process::Command::new("du").args(["-s", "-k"]).arg(path).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.split_whitespace().next().ok_or_else(|| field(&path.to_string_lossy(), "size"))?.parse()?)
}

/// Proportional sizes of all executable mappings of `program` inside containers, summed; and the size of one copy, if
/// all of it were in memory.
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
                one = one.max(kib(line, "Size:").unwrap_or_default());
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

/// What Insula's process 1 is told to run in the floor's containers, as a file.
fn init_config(stage: &Stage) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let argv = [format!("/bin/{IDLER}"), "86400".to_owned()].map(CString::new).into_iter().collect::<Result<_, _>>()?;
    let rights = CapabilityRule { bounding: CapabilityMask(CAPABILITIES), ambient: CapabilityMask(0) };
    let file = stage.path("init-config");
    std::fs::write(&file, channel::encode(&InitConfig::new(Some(ProcessSpec::new(argv, rights)))))?;
    Ok(file)
}

fn floor_charge(stage: &Stage) -> Result<f64, Box<dyn std::error::Error>> {
    use std::io::BufRead;
    let mut command = stage.floor();
    command.arg("hold").arg(stage.path("image")).arg(FLOOR_CONTAINERS.to_string());
    command.arg("@init").arg(stage.programs().join("insula-init")).arg(init_config(stage)?);
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
