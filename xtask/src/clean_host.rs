//! Removes what a crashed test may have left on this machine, and nothing else.
//!
//! Everything that Insula makes on a host is named `insula…`; that is how it is found. While the daemon of any node
//! runs, nothing is touched: its containers are in use, not left over.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A node is in use.
#[derive(Debug, thiserror::Error)]
#[error("a node's daemon runs as process {0}; stop it first, then clean the host")]
struct NodeRunsError(u32);

/// Removes processes, mounts, network namespaces, links, tables and control groups named `insula…`.
pub(crate) fn run() -> Result<(), Box<dyn std::error::Error>> {
    if let Some(pid) = running_node() {
        return Err(NodeRunsError(pid).into());
    }
    kill_processes();
    unmount();
    delete_namespaces();
    delete_links()?;
    delete_tables();
    remove_cgroups();
    Ok(())
}

/// All processes: id and folder in `/proc`.
fn processes() -> impl Iterator<Item = (u32, PathBuf)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
}

fn read(folder: &Path, file: &str) -> String {
    fs::read(folder.join(file)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// The daemon of some node, if one runs.
fn running_node() -> Option<u32> {
    let is_node = |folder: &Path| {
        let command = read(folder, "cmdline");
        let words: Vec<&str> = command.split('\0').collect();
        words.first().is_some_and(|program| program.ends_with("insula")) && words.get(1..3) == Some(&["node", "run"])
    };
    processes().find(|(_, folder)| is_node(folder)).map(|(pid, _)| pid)
}

/// Process ids in control groups below `insula.slice`, and of our own programs.
fn our_processes() -> BTreeSet<u32> {
    let programs = ["insula-guest", "insula-launcher", "insula-keeper", "insula-init"];
    // The kernel keeps 15 bytes of a name.
    let is_program = |name: &str| programs.iter().any(|program| program.get(..15).unwrap_or(program) == name);
    let in_cgroup = |text: &str| text.lines().any(|line| line.contains(":/insula.slice/"));
    processes()
        .filter(|(_, folder)| is_program(read(folder, "comm").trim_end()) || in_cgroup(&read(folder, "cgroup")))
        .map(|(pid, _)| pid)
        .collect()
}

fn kill_processes() {
    for pid in our_processes() {
        println!("clean-host: ending process {pid}");
        let killed = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
        if !killed.is_ok_and(|status| status.success()) {
            println!("clean-host: process {pid} was gone already");
        }
    }
}

fn unmount() {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let targets = mounts.lines().rev().filter_map(|line| line.split(' ').nth(4));
    let ours =
        |target: &&str| ["/run/insula", "/tmp/insula", "/var/lib/insula"].iter().any(|at| target.starts_with(at));
    for target in targets.filter(ours) {
        println!("clean-host: unmounting {target}");
        let unmounted = Command::new("umount").args(["--lazy", target]).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            println!("clean-host: {target} stays mounted");
        }
    }
}

fn delete_namespaces() {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("insula") {
            println!("clean-host: deleting network namespace {name}");
            let deleted = Command::new("ip").args(["netns", "delete", &name]).status();
            if !deleted.is_ok_and(|status| status.success()) {
                println!("clean-host: network namespace {name} stays");
            }
        }
    }
}

fn delete_links() -> Result<(), std::io::Error> {
    for entry in fs::read_dir("/sys/class/net")?.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("insula") {
            println!("clean-host: deleting link {name}");
            Command::new("ip").args(["link", "delete", &name]).status()?;
        }
    }
    Ok(())
}

fn delete_tables() {
    let Ok(listed) = Command::new("nft").args(["list", "tables"]).output() else { return };
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    for line in listed.lines() {
        if let ["table", family, name] = line.split(' ').collect::<Vec<_>>()[..]
            && name.starts_with("insula")
        {
            println!("clean-host: deleting table {family} {name}");
            let deleted = Command::new("nft").args(["delete", "table", family, name]).status();
            if !deleted.is_ok_and(|status| status.success()) {
                println!("clean-host: table {family} {name} stays");
            }
        }
    }
}

/// `insula.slice` of every hierarchy, from the leaves up.
fn remove_cgroups() {
    let mut roots = vec![PathBuf::from("/sys/fs/cgroup/insula.slice")];
    let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().filter_map(Result::ok);
    roots.extend(hierarchies.map(|entry| entry.path().join("insula.slice")));
    for root in roots.iter().filter(|root| root.is_dir()) {
        remove_cgroup(root);
    }
}

fn remove_cgroup(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().filter_map(Result::ok) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    match fs::remove_dir(cgroup) {
        Ok(()) => println!("clean-host: removed {}", cgroup.display()),
        Err(error) => println!("clean-host: {}: {error}", cgroup.display()),
    }
}
