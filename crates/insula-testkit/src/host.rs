//! What a node has on its host, by name; and the way to remove it by force.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

/// By what a node's things are known.
#[derive(Debug, Clone)]
pub struct Owned {
    /// The node's name.
    pub name: String,
    /// A directory that holds all its directories; its path is in the command lines of the node's programs.
    pub directory: PathBuf,
}

impl Owned {
    /// Beginning of every path in its directory, which is no beginning of another node's.
    fn below(&self) -> String {
        format!("{}/", self.directory.display())
    }
}

/// What is there of a node. Empty is good when the node has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Process ids with their command lines.
    pub processes: BTreeSet<(i32, String)>,
    /// Mount points.
    pub mounts: Vec<String>,
    /// Control groups.
    pub cgroups: Vec<PathBuf>,
    /// Network interfaces.
    pub links: Vec<String>,
    /// nftables tables, as family and name.
    pub tables: Vec<(String, String)>,
    /// Files of claimed ids and subnets.
    pub claims: Vec<PathBuf>,
}

impl Leftovers {
    /// Looks for what is there of `owned`.
    #[must_use]
    pub fn of(owned: &Owned) -> Self {
        Self {
            processes: processes(owned),
            mounts: mounts(owned),
            cgroups: cgroups(owned),
            links: links(owned),
            tables: tables(owned),
            claims: claims(owned),
        }
    }

    /// Whether nothing is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Removes all of it, as far as it can be.
    pub fn remove(&self) {
        for (pid, _) in &self.processes {
            if let Some(pid) = Pid::from_raw(*pid) {
                // It may have ended this moment.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        for mount in self.mounts.iter().rev() {
            run_quietly("umount", &["--lazy", mount]);
        }
        for link in &self.links {
            run_quietly("ip", &["link", "delete", link]);
        }
        for (family, name) in &self.tables {
            run_quietly("nft", &["delete", "table", family, name]);
        }
        // From the leaves up; a group whose processes are only just ending needs another try.
        for cgroup in self.cgroups.iter().rev() {
            for _ in 0..200 {
                match std::fs::remove_dir(cgroup) {
                    Err(error) if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {
                        std::thread::sleep(std::time::Duration::from_millis(5));
                    }
                    _ => break,
                }
            }
        }
        for claim in &self.claims {
            let _ = std::fs::remove_file(claim);
        }
    }
}

impl fmt::Display for Leftovers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (pid, command) in &self.processes {
            writeln!(f, "process {pid}: {command}")?;
        }
        self.mounts.iter().try_for_each(|mount| writeln!(f, "mount {mount}"))?;
        self.cgroups.iter().try_for_each(|cgroup| writeln!(f, "control group {}", cgroup.display()))?;
        self.links.iter().try_for_each(|link| writeln!(f, "link {link}"))?;
        self.tables.iter().try_for_each(|(family, name)| writeln!(f, "table {family} {name}"))?;
        self.claims.iter().try_for_each(|claim| writeln!(f, "claim {}", claim.display()))
    }
}

/// What it is to remove may have gone by itself this moment; what stays is seen by the next look.
fn run_quietly(program: &str, words: &[&str]) {
    let _ = Command::new(program).args(words).stderr(std::process::Stdio::null()).status();
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn entries(folder: impl AsRef<Path>) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path())
}

/// In the node's control groups, with the node's directory in the command line, or with a socket that is bound in its
/// run directory. This process is never one, nor are its children that are only just being started and still hold its
/// descriptors: it binds nothing in a run directory.
fn processes(owned: &Owned) -> BTreeSet<(i32, String)> {
    let directory = owned.below();
    let sockets = sockets_below(&format!("{directory}run/"));
    let group = format!("/insula.slice/{}", owned.name);
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let of = |folder: &Path| {
        let pid: i32 = folder.file_name()?.to_str()?.parse().ok()?;
        let command = read(folder.join("cmdline")).replace('\0', " ");
        let in_group = read(folder.join("cgroup")).lines().any(|line| {
            line.split_once(group.as_str()).is_some_and(|(_, rest)| rest.is_empty() || rest.starts_with('/'))
        });
        // One that has ended and waits for its parent is no leftover: its parent is.
        let stat = read(folder.join("stat"));
        let mut words = stat.rsplit(')').next().into_iter().flat_map(str::split_ascii_whitespace);
        let (dead, parent) = (words.next() == Some("Z"), words.next().unwrap_or_default());
        if pid == own || dead || is_waiting_worker(folder, parent) {
            return None;
        }
        let is_own = in_group || command.contains(&directory) || holds_one_of(folder, &sockets);
        is_own.then_some((pid, command))
    };
    entries("/proc").filter_map(|folder| of(&folder)).collect()
}

/// The launcher's worker for the next start belongs to the launcher, is another one after each start, and goes with it:
/// a copy of its parent that holds its streams and one connection.
fn is_waiting_worker(process: &Path, parent: &str) -> bool {
    let command = |folder: &Path| std::fs::read(folder.join("cmdline")).ok().filter(|words| !words.is_empty());
    let own = command(process);
    own.is_some() && own == command(&Path::new("/proc").join(parent)) && entries(process.join("fd")).count() == 4
}

/// Descriptors' targets of the sockets that are bound below `directory`, as `socket:[4711]`.
fn sockets_below(directory: &str) -> BTreeSet<String> {
    let text = read("/proc/net/unix");
    let bound = text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let path = words.get(7).filter(|path| path.starts_with(directory));
        path.and(words.get(6)).map(|inode| format!("socket:[{inode}]"))
    });
    bound.collect()
}

fn holds_one_of(process: &Path, sockets: &BTreeSet<String>) -> bool {
    let target = |fd: PathBuf| std::fs::read_link(fd).ok().map(|target| target.to_string_lossy().into_owned());
    !sockets.is_empty() && entries(process.join("fd")).filter_map(target).any(|target| sockets.contains(&target))
}

fn mounts(owned: &Owned) -> Vec<String> {
    let directory = owned.below();
    let text = read("/proc/self/mountinfo");
    let targets = text.lines().filter_map(|line| line.split(' ').nth(4));
    targets.filter(|target| target.starts_with(&directory)).map(str::to_owned).collect()
}

fn cgroups(owned: &Owned) -> Vec<PathBuf> {
    let slice = Path::new("insula.slice").join(&owned.name);
    let roots = std::iter::once(PathBuf::from("/sys/fs/cgroup")).chain(entries("/sys/fs/cgroup"));
    let mut found = Vec::new();
    roots.map(|root| root.join(&slice)).filter(|group| group.is_dir()).for_each(|group| walk(group, &mut found));
    found
}

fn walk(group: PathBuf, found: &mut Vec<PathBuf>) {
    let inner: Vec<PathBuf> = entries(&group).filter(|path| path.is_dir()).collect();
    found.push(group);
    inner.into_iter().for_each(|group| walk(group, found));
}

fn links(owned: &Owned) -> Vec<String> {
    let prefix = format!("insula:{}:", owned.name);
    let own = |folder: &PathBuf| read(folder.join("ifalias")).starts_with(&prefix);
    entries("/sys/class/net").filter(own).filter_map(|folder| Some(folder.file_name()?.to_str()?.to_owned())).collect()
}

fn tables(owned: &Owned) -> Vec<(String, String)> {
    let Ok(listed) = Command::new("nft").args(["list", "tables"]).output() else { return Vec::new() };
    let own = format!("insula_{}", owned.name.replace(['-', '.'], "_"));
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let table = |line: &str| match line.split_ascii_whitespace().collect::<Vec<_>>()[..] {
        ["table", family, name] if name == own || name == format!("insula_{}", owned.name) => {
            Some((family.to_owned(), name.to_owned()))
        }
        _ => None,
    };
    text.lines().filter_map(table).collect()
}

/// Claims of ids hold the path of the claiming node's state directory, the claim of subnets bears its name.
fn claims(owned: &Owned) -> Vec<PathBuf> {
    let directory = owned.below();
    let subnets = PathBuf::from(format!("/run/insula-claims/network.{}", owned.name));
    let ids = entries("/run/insula-claims/ids").filter(|file| read(file).starts_with(&directory));
    ids.chain(Some(subnets).filter(|file| file.exists())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_by_the_directory_it_names_and_removed() {
        let directory = PathBuf::from(format!("/tmp/insula-owned-{}", std::process::id()));
        let owned = Owned { name: "insula-nobody".to_owned(), directory: directory.clone() };
        assert!(Leftovers::of(&owned).is_empty());
        let mut child = Command::new("sh")
            .args(["-c", "read x", "sh"])
            .arg(directory.join("run"))
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // The kernel shows a program's arguments a moment after its exec closed what was to be closed.
        let found = crate::eventually("the process is found", || {
            Some(Leftovers::of(&owned)).filter(|found| found.processes.len() == 1)
        });
        found.remove();
        child.wait().unwrap();
        assert!(Leftovers::of(&owned).is_empty());
    }
}
