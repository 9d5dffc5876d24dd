//! What containers hold and run, read from control groups and `/proc`. Blocks; called on threads for that.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use insula_api::{Finding, FindingLevel, Problem, ProblemCode, ProcessRow, ResourceUsage};
use insula_model::{ContainerId, IdRange};
use insula_network::{HostFacts, Severity};
use insula_plan::protocol::facts;
use insula_plan::protocol::launcher::ImageKey;
use rustix::fs::{Mode, OFlags};

use super::Machine;
use crate::tune::HostLimit;

/// Processes shown of one container.
const PROCESSES_MAX: usize = 10_000;

impl Machine {
    pub(super) fn look_at_usage(&self, id: ContainerId) -> Result<ResourceUsage, Problem> {
        let usage = self.groups.usage(id).map_err(|error| Problem::from_chain(ProblemCode::Conflict, &error))?;
        Ok(ResourceUsage {
            memory_bytes: usage.memory.held,
            memory_peak_bytes: usage.memory.max_held,
            memory_limit_bytes: usage.memory.limit,
            memory_fail_count: Some(usage.memory.fail_count),
            cpu_usec: u64::try_from(usage.cpu_time.as_micros()).unwrap_or(u64::MAX),
            pids: usage.pids.held,
            pids_limit: usage.pids.limit,
        })
    }

    pub(super) fn look_at_processes(&self, id: ContainerId, ids: IdRange) -> Result<Vec<ProcessRow>, Problem> {
        let pids = self.groups.processes(id).map_err(|error| Problem::from_chain(ProblemCode::Conflict, &error))?;
        let ticks = rustix::param::clock_ticks_per_second().max(1);
        // A process that ended since the list was made is left out.
        let rows = pids.into_iter().take(PROCESSES_MAX);
        Ok(rows.filter_map(|pid| process_row(pid.as_raw_nonzero().get(), ids, ticks)).collect())
    }

    /// The root directory of a running container. Paths beneath it are resolved through its own mounts.
    pub(super) fn open_root_of(&self, id: ContainerId) -> Result<OwnedFd, Problem> {
        let ended = || Problem::new(ProblemCode::Conflict, "the container is ending");
        let pid = self.pid_of(id).ok_or_else(ended)?;
        let path = format!("/proc/{pid}/root");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&path, flags, Mode::empty()).map_err(|_| ended())?;
        // The process still lives, so the number was its own when the path was opened.
        self.send_signal(id, 0).map_err(|_| ended())?;
        Ok(root)
    }

    /// The root of an image's one mount, which only the launcher's mount namespace has.
    pub(super) fn open_image_root(&self, image: &ImageKey) -> Option<OwnedFd> {
        let launcher = self.link.launcher()?;
        let place = self.run.path().join("images").join(&image.0);
        let path = Path::new("/proc").join(launcher.to_string()).join("root").join(place.strip_prefix("/").ok()?);
        let root = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        // Where nothing is mounted, the folder is there all the same.
        self.is_mounted(image).then_some(root)
    }

    fn pid_of(&self, id: ContainerId) -> Option<u32> {
        let started = facts::read::<facts::StartedFact>(&self.run.started_fact(id)).ok().flatten()?;
        Some(started.process.pid)
    }

    pub(super) fn look_for_findings(&self) -> Vec<Finding> {
        let facts = HostFacts::read();
        let mut findings: Vec<Finding> = insula_network::findings(&self.network.node, &facts)
            .into_iter()
            .map(|finding| Finding {
                subject: "network".to_owned(),
                level: match finding.severity {
                    Severity::Note => FindingLevel::Good,
                    Severity::Warning => FindingLevel::Warning,
                    Severity::Error => FindingLevel::Failure,
                },
                detail: finding.summary,
                remedy: Some(finding.remedy.join("\n")).filter(|remedy| !remedy.is_empty()),
            })
            .collect();
        findings.push(self.look_at_names());
        findings.extend(self.host_limits.iter().filter_map(limit_finding));
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        findings.push(good("kernel", format!("Linux {release}")));
        findings.push(good("control groups", self.groups.layout().to_string()));
        findings.push(self.look_at_open_files());
        findings
    }

    /// Descriptors that the daemon and the launcher (and what it starts) may have: each holds some for every container.
    fn look_at_open_files(&self) -> Finding {
        let launcher = self
            .link
            .launcher()
            .and_then(|pid| open_files_of(&std::fs::read_to_string(format!("/proc/{pid}/limits")).ok()?));
        let now = launcher.unwrap_or(self.files_hard).min(self.files_hard);
        open_files_finding(now, self.files_wanted)
    }
}

/// The hard limit in a `/proc/PID/limits`.
fn open_files_of(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let hard = line.split_ascii_whitespace().nth(1)?;
    if hard == "unlimited" { Some(u64::MAX) } else { hard.parse().ok() }
}

fn open_files_finding(now: u64, wanted: u64) -> Finding {
    if now >= wanted {
        return good("open files", format!("{now} for each program of the node"));
    }
    Finding {
        subject: "open files".to_owned(),
        level: FindingLevel::Warning,
        detail: format!(
            "{now} for each program of the node: bounds running containers; {wanted} is enough for a full node"
        ),
        remedy: Some(format!(
            "give the node LimitNOFILE={wanted} in its systemd unit, or `ulimit -n {wanted}` in its shell, and start it again"
        )),
    }
}

fn good(subject: &str, detail: String) -> Finding {
    Finding { subject: subject.to_owned(), level: FindingLevel::Good, detail, remedy: None }
}

fn limit_finding(limit: &HostLimit) -> Option<Finding> {
    let now = limit.now()?;
    (now < limit.wanted).then(|| Finding {
        subject: limit.name.clone(),
        level: FindingLevel::Warning,
        detail: format!("{now}: bounds {}; {} is enough for a full node", limit.bounds, limit.wanted),
        remedy: Some(format!("insula node tune --apply, or sysctl -w {}={}", limit.name, limit.wanted)),
    })
}

fn process_row(pid: i32, ids: IdRange, ticks: u64) -> Option<ProcessRow> {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
    let (stat, status) = (read("stat")?, read("status")?);
    // The command name may hold anything, brackets and spaces too: fields begin behind its last bracket.
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().collect();
    let line = |key: &str| status.lines().find_map(|line| line.strip_prefix(key));
    let uid: u32 = line("Uid:")?.split_ascii_whitespace().next()?.parse().ok()?;
    let inner_pid = line("NSpid:")?.split_ascii_whitespace().last()?.parse().ok()?;
    let resident_kib: u64 =
        line("VmRSS:").and_then(|text| text.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0);
    let used_ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command).trim_end_matches('\0').replace('\0', " ");
    let name = || line("Name:").unwrap_or_default().trim().to_owned();
    Some(ProcessRow {
        pid: u32::try_from(pid).ok()?,
        inner_pid,
        parent: fields.get(1)?.parse().ok()?,
        uid: uid.checked_sub(ids.base).unwrap_or(uid),
        state: (*fields.first()?).to_owned(),
        resident_bytes: resident_kib.saturating_mul(1_024),
        cpu_ms: used_ticks.saturating_mul(1_000) / ticks,
        command: if command.is_empty() { format!("[{}]", name()) } else { command },
    })
}

/// Longest wait for processes to freeze or thaw.
pub(super) const FREEZE_TIME_MAX: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_shown_with_its_ids_and_command() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let row = process_row(pid, IdRange { base: 0, size: 65_536 }, 100).unwrap();
        assert_eq!(row.pid, std::process::id());
        assert!(row.command.contains("insula_node"), "{}", row.command);
        assert!(row.resident_bytes > 0);
    }

    #[test]
    fn a_low_limit_of_open_files_is_found_with_what_to_do() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max processes             96365                96365                processes\n\
                      Max open files            1024                 4096                 files\n";
        assert_eq!(open_files_of(limits), Some(4_096));
        assert_eq!(open_files_of(&limits.replace("4096 ", "unlimited ")), Some(u64::MAX));
        assert_eq!(open_files_of(""), None);
        let finding = open_files_finding(4_096, 32_768);
        assert_eq!(finding.level, FindingLevel::Warning);
        assert!(finding.remedy.unwrap().contains("LimitNOFILE=32768"));
        assert_eq!(open_files_finding(32_768, 32_768).level, FindingLevel::Good);
    }
}
