//! What the probe says.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a process sees of itself and around it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProbeReport {
    /// Its process id where it is.
    pub pid: u32,
    /// Command line of process 1.
    pub init: String,
    /// Process ids it can see.
    pub processes: Vec<u32>,
    /// Real, effective, saved and file system user id.
    pub uid: Vec<u32>,
    /// The same for groups.
    pub gid: Vec<u32>,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Namespace by kind, as `net:[4026531840]`.
    pub namespaces: BTreeMap<String, String>,
    /// Mounts in the order of `/proc/self/mountinfo`.
    pub mounts: Vec<ProbeMount>,
    /// Capability sets by name (`CapEff` …) as bit masks.
    pub capabilities: BTreeMap<String, u64>,
    /// 0 without system call filter, 2 with.
    pub seccomp: u32,
    /// Whether set-user-id programs have no effect.
    pub no_new_privileges: bool,
    /// Open descriptors, its own folder of them left out, and what they are.
    pub fds: BTreeMap<u32, String>,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub cwd: String,
    /// Host name.
    pub hostname: String,
    /// Lines of `/proc/self/cgroup`.
    pub cgroups: Vec<String>,
    /// Lines of `/proc/self/uid_map`.
    pub uid_map: Vec<String>,
    /// Network interfaces.
    pub interfaces: Vec<String>,
    /// Entries of `/dev`.
    pub devices: Vec<String>,
    /// `/proc/self/limits` as soft and hard text by name.
    pub limits: BTreeMap<String, (String, String)>,
    /// `/proc/self/oom_score_adj`.
    pub oom_score_adj: i32,
}

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProbeMount {
    /// Path of the mounted directory in its file system.
    pub root: String,
    /// Where it is mounted.
    pub target: String,
    /// Options of the mount.
    pub options: Vec<String>,
    /// Kind of file system.
    pub kind: String,
    /// Source.
    pub source: String,
    /// Options of the file system.
    pub superblock: Vec<String>,
}

impl ProbeReport {
    /// The uppermost mount at `target`.
    #[must_use]
    pub fn mount_at(&self, target: &str) -> Option<&ProbeMount> {
        self.mounts.iter().rev().find(|mount| mount.target == target)
    }

    /// Looks at the calling process.
    ///
    /// # Panics
    ///
    /// `/proc` is not as Linux has it.
    #[must_use]
    pub fn of_this_process() -> Self {
        let status = Status::read();
        Self {
            pid: std::process::id(),
            init: read("/proc/1/cmdline").replace('\0', " ").trim_end().to_owned(),
            processes: names("/proc").iter().filter_map(|name| name.parse().ok()).collect(),
            uid: status.numbers("Uid"),
            gid: status.numbers("Gid"),
            groups: status.numbers("Groups"),
            namespaces: names("/proc/self/ns")
                .into_iter()
                .map(|kind| (kind.clone(), link(&format!("/proc/self/ns/{kind}"))))
                .collect(),
            mounts: read("/proc/self/mountinfo").lines().map(mount).collect(),
            capabilities: status.capabilities(),
            seccomp: status.numbers("Seccomp").first().copied().unwrap_or(0),
            no_new_privileges: status.numbers("NoNewPrivs") == [1],
            fds: fds(),
            env: std::env::vars().collect(),
            cwd: std::env::current_dir().map(|path| path.display().to_string()).unwrap_or_default(),
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            cgroups: read("/proc/self/cgroup").lines().map(str::to_owned).collect(),
            uid_map: read("/proc/self/uid_map").lines().map(|line| words(line).join(" ")).collect(),
            interfaces: read("/proc/net/dev")
                .lines()
                .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
                .collect(),
            devices: names("/dev"),
            limits: limits(),
            oom_score_adj: read("/proc/self/oom_score_adj").trim().parse().unwrap_or_default(),
        }
    }
}

fn read(path: &str) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn link(path: &str) -> String {
    std::fs::read_link(path).map(|target| target.to_string_lossy().into_owned()).unwrap_or_default()
}

fn names(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn words(line: &str) -> Vec<String> {
    line.split_ascii_whitespace().map(str::to_owned).collect()
}

/// `/proc/self/status` by key.
struct Status(BTreeMap<String, String>);

impl Status {
    fn read() -> Self {
        let pair = |line: &str| line.split_once(':').map(|(key, value)| (key.to_owned(), value.trim().to_owned()));
        Self(read("/proc/self/status").lines().filter_map(pair).collect())
    }

    fn numbers(&self, key: &str) -> Vec<u32> {
        self.0.get(key).map(|value| words(value)).into_iter().flatten().filter_map(|word| word.parse().ok()).collect()
    }

    fn capabilities(&self) -> BTreeMap<String, u64> {
        let sets = self.0.iter().filter(|(key, _)| key.starts_with("Cap"));
        sets.filter_map(|(key, mask)| Some((key.clone(), u64::from_str_radix(mask, 16).ok()?))).collect()
    }
}

fn mount(line: &str) -> ProbeMount {
    let words = words(line);
    // Between the options and the separator there are optional fields.
    let separator = words.iter().position(|word| word == "-").unwrap_or(words.len() - 1);
    let field = |index: usize| words.get(index).cloned().unwrap_or_default();
    let list = |index: usize| field(index).split(',').map(str::to_owned).collect();
    ProbeMount {
        root: field(3),
        target: field(4),
        options: list(5),
        kind: field(separator + 1),
        source: field(separator + 2),
        superblock: list(separator + 3),
    }
}

fn fds() -> BTreeMap<u32, String> {
    let all = names("/proc/self/fd").into_iter().filter_map(|name| {
        let target = link(&format!("/proc/self/fd/{name}"));
        Some((name.parse().ok()?, target))
    });
    // The folder that was read is closed again, and has no target any more.
    all.filter(|(_, target): &(u32, String)| !target.is_empty()).collect()
}

fn limits() -> BTreeMap<String, (String, String)> {
    let text = read("/proc/self/limits");
    let mut lines = text.lines();
    let Some(header) = lines.next() else { return BTreeMap::new() };
    let (Some(soft), Some(hard)) = (header.find("Soft"), header.find("Hard")) else { return BTreeMap::new() };
    let word = |line: &str, at: usize| {
        line.get(at..).and_then(|rest| rest.split_ascii_whitespace().next()).unwrap_or_default().to_owned()
    };
    lines
        .map(|line| (line.get(..soft).unwrap_or(line).trim().to_owned(), (word(line, soft), word(line, hard))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_this_machine_sees_itself() {
        let report = ProbeReport::of_this_process();
        assert_eq!(report.pid, std::process::id());
        assert!(report.processes.contains(&report.pid));
        assert!(report.mount_at("/proc").is_some_and(|mount| mount.kind == "proc"));
        assert!(report.namespaces["net"].starts_with("net:["));
        assert!(report.limits["Max open files"].0.parse::<u64>().is_ok());
        assert!(report.interfaces.iter().any(|name| name == "lo"));
        let text = serde_json::to_string(&report).unwrap();
        assert!(serde_json::from_str::<ProbeReport>(&text).is_ok());
    }
}
