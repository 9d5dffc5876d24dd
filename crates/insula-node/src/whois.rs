//! Which container something on the host belongs to.
//!
//! By process: its control group is named after the container. By address: the container's own addresses, or a
//! published port of the host. By group or user id: the block of ids. By path: the container's folders, else the
//! owner of the file.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;

use insula_api::{Problem, ProblemCode, WhoisAnswer, WhoisQuery};
use insula_model::ContainerId;

use crate::config::data_dirs;
use crate::container::snapshot::Snapshot;
use crate::context::Context;

/// Answers a query with exactly one field.
///
/// # Errors
///
/// Invalid when it has not exactly one field, not found when it is no container's.
pub(crate) fn answer(context: &Context, query: &WhoisQuery) -> Result<WhoisAnswer, Problem> {
    let snapshots = || context.directory.snapshots().into_iter();
    let (found, what) = match query {
        WhoisQuery { pid: Some(pid), address: None, path: None, gid: None } => {
            let id = container_of_process(*pid)?;
            let found = id.and_then(|id| context.directory.get(id)).map(|handle| handle.snapshot());
            (found, format!("control group of process {pid}"))
        }
        WhoisQuery { pid: None, address: Some(address), path: None, gid: None } => {
            let found = by_address(address, snapshots())?;
            (found, format!("address {address}"))
        }
        WhoisQuery { pid: None, address: None, path: Some(path), gid: None } => by_path(context, path, snapshots())?,
        WhoisQuery { pid: None, address: None, path: None, gid: Some(gid) } => {
            let found = snapshots().find(|snapshot| snapshot.record.ids.contains(*gid));
            (found, format!("group {gid} of its block of ids"))
        }
        _ => return Err(Problem::new(ProblemCode::Invalid, "whois takes exactly one of pid, address, path and gid")),
    };
    match found {
        Some(snapshot) => Ok(WhoisAnswer { name: snapshot.record.name.clone(), id: snapshot.record.id, by: what }),
        None => Err(Problem::new(ProblemCode::NotFound, format!("{what}: belongs to no container of this node"))),
    }
}

/// The container whose id is a part of one of the process's control groups.
fn container_of_process(pid: u32) -> Result<Option<ContainerId>, Problem> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
        .map_err(|_| Problem::new(ProblemCode::NotFound, format!("process {pid} does not exist")))?;
    Ok(container_in_cgroups(&text))
}

fn container_in_cgroups(text: &str) -> Option<ContainerId> {
    text.lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .flat_map(|path| path.split('/'))
        .filter_map(|part| part.get(part.len().checked_sub(36)?..)?.parse().ok())
        .next()
}

fn by_address(given: &str, snapshots: impl Iterator<Item = Arc<Snapshot>>) -> Result<Option<Arc<Snapshot>>, Problem> {
    let (address, port) = match (given.parse::<SocketAddr>(), given.parse::<IpAddr>()) {
        (Ok(socket), _) => (socket.ip(), Some(socket.port())),
        (_, Ok(address)) => (address, None),
        _ => {
            let detail = format!(
                "`{}` is no address (IP, IP:PORT or [IP6]:PORT), process id or absolute path",
                given.escape_debug()
            );
            return Err(Problem::new(ProblemCode::Invalid, detail));
        }
    };
    let snapshots: Vec<_> = snapshots.collect();
    let own = |snapshot: &Snapshot| match address {
        IpAddr::V4(address) => snapshot.record.addresses.v4 == Some(address),
        IpAddr::V6(address) => snapshot.record.addresses.v6 == Some(address),
    };
    if let Some(found) = snapshots.iter().find(|snapshot| own(snapshot)) {
        return Ok(Some(found.clone()));
    }
    let published = |snapshot: &Snapshot| {
        let leads = |on: Option<IpAddr>| on.is_none_or(|on| on.is_unspecified() || on == address);
        snapshot.is_up()
            && snapshot.spec.ports.iter().any(|port_of| Some(port_of.host) == port && leads(port_of.address))
    };
    let found = snapshots.into_iter().find(|snapshot| published(snapshot));
    Ok(found.filter(|_| is_of_this_host(address)))
}

/// Whether packets to `address` end on this host: a published port is one of its own addresses, not of any.
fn is_of_this_host(address: IpAddr) -> bool {
    address.is_unspecified() || UdpSocket::bind((address, 0)).is_ok()
}

fn by_path(
    context: &Context,
    given: &str,
    mut snapshots: impl Iterator<Item = Arc<Snapshot>>,
) -> Result<(Option<Arc<Snapshot>>, String), Problem> {
    let path = std::fs::canonicalize(given)
        .map_err(|error| Problem::new(ProblemCode::NotFound, format!("path {}: {error}", given.escape_debug())))?;
    let (state, run) = (&context.config.state_dir, &context.config.run_dir);
    let folders = [data_dirs(state), state.join("containers"), run.join("containers")];
    let in_folder = |folder: &std::path::PathBuf| -> Option<ContainerId> {
        let rest = path.strip_prefix(std::fs::canonicalize(folder).ok()?).ok()?;
        rest.iter().next()?.to_str()?.parse().ok()
    };
    if let Some(id) = folders.iter().find_map(in_folder) {
        let found = context.directory.get(id).map(|handle| handle.snapshot());
        return Ok((found, format!("folder of {}", path.display())));
    }
    if let Some(found) = snapshots.find(|snapshot| owns_volume(snapshot, &path)) {
        return Ok((Some(found), format!("volume of {}", path.display())));
    }
    let uid = std::os::unix::fs::MetadataExt::uid(
        &std::fs::symlink_metadata(&path)
            .map_err(|error| Problem::new(ProblemCode::NotFound, format!("path {}: {error}", path.display())))?,
    );
    let owner = context.directory.snapshots().into_iter();
    let mut owner = owner.filter(|snapshot| snapshot.record.ids.contains(uid));
    Ok((owner.next(), format!("owner {uid} of {}", path.display())))
}

/// `path` is without links; a volume's source may be behind one.
fn owns_volume(snapshot: &Snapshot, path: &Path) -> bool {
    let real = |source: &str| std::fs::canonicalize(source).is_ok_and(|source| path.starts_with(source));
    snapshot.spec.volumes.iter().any(|volume| real(&volume.source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_found_in_any_of_the_control_group_lines() {
        let id = "0b7ad0a1-3a5a-4c7f-9a55-6a6d4c1f8f10";
        for line in [format!("0::/insula.slice/n/{id}\n"), format!("3:pids:/\n1:name=systemd:/insula-n/c-{id}/sub\n")] {
            assert_eq!(container_in_cgroups(&line).map(|id| id.to_string()).as_deref(), Some(id), "{line}");
        }
        assert_eq!(container_in_cgroups("0::/init.scope\n"), None);
    }
}
