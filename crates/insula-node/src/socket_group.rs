//! Which group may use the node's sockets, beside root. Not who is in it: that is the machine's.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use insula_api::{Finding, FindingLevel};
use rustix::fs::Gid;

/// The group whose members may use the sockets when the configuration names none.
const BUILT_IN: &str = "insula";
/// Where the machine's groups are. This program is linked statically, so no other source of groups is asked.
const GROUPS: &str = "/etc/group";

/// The group of the node's sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketGroup {
    /// The built-in one. A machine need not have it: then root alone uses the sockets.
    BuiltIn,
    /// One that the configuration names. Where it is missing the node does not start, or those who were meant to use it
    /// would be refused without a word why.
    Named {
        /// Its name.
        group: String,
        /// The file that names it.
        file: PathBuf,
    },
}

/// The configuration names a group that this machine does not have.
#[derive(Debug, thiserror::Error)]
#[error(
    "configuration {file}: `socket_group`: there is no group `{}` in {GROUPS}; make it (groupadd --system NAME), name \
     another one (root is root alone), or take the line out",
    group.escape_debug()
)]
pub struct MissingGroupError {
    /// The group.
    pub group: String,
    /// The file that names it.
    pub file: PathBuf,
}

impl SocketGroup {
    /// What the configuration at `file` says, if it says anything.
    pub(crate) fn of(given: Option<String>, file: &Path) -> Self {
        given.map_or(Self::BuiltIn, |group| Self::Named { group, file: file.to_owned() })
    }

    fn name(&self) -> &str {
        match self {
            Self::BuiltIn => BUILT_IN,
            Self::Named { group, .. } => group,
        }
    }

    /// Its number on this machine; `None` when the machine need not have it and does not.
    ///
    /// # Errors
    ///
    /// It is named by the configuration and missing.
    pub(crate) fn id(&self) -> Result<Option<Gid>, MissingGroupError> {
        match (self, group_id(&groups(), self.name())) {
            (Self::Named { group, file }, None) => Err(MissingGroupError { group: group.clone(), file: file.clone() }),
            (_, id) => Ok(id),
        }
    }

    /// Who can use the socket at `path`, as a finding of the doctor.
    pub(crate) fn finding(&self, path: &Path) -> Finding {
        let socket = std::fs::metadata(path).ok().map(|found| Gid::from_raw(found.gid()));
        self.judged(group_id(&groups(), self.name()), socket)
    }

    /// The finding where the group has the number `id`, and the socket belongs to the group `socket`.
    fn judged(&self, id: Option<Gid>, socket: Option<Gid>) -> Finding {
        let name = self.name().escape_debug();
        let (level, detail, remedy) = match (self, id) {
            (_, Some(id)) if socket == Some(id) => {
                (FindingLevel::Good, format!("root and the members of group {name} can use it"), None)
            }
            (_, Some(_)) => (
                FindingLevel::Warning,
                format!("group {name} cannot use it: the group was made or changed after the socket"),
                Some("restart the daemon; containers go on".to_owned()),
            ),
            (Self::BuiltIn, None) => (
                FindingLevel::Good,
                format!(
                    "root alone can use it: there is no group {name}, which is optional; `groupadd --system {name}` and \
                     a restart of the daemon let its members, too"
                ),
                None,
            ),
            (Self::Named { file, .. }, None) => (
                FindingLevel::Warning,
                format!("there is no group {name} any more, and the daemon will not start again without"),
                Some(format!("make the group, or change socket_group in {}", file.display())),
            ),
        };
        Finding { subject: "socket".to_owned(), level, detail, remedy }
    }
}

fn groups() -> String {
    std::fs::read_to_string(GROUPS).unwrap_or_default()
}

/// The number of `group` in the lines of `/etc/group`.
fn group_id(groups: &str, group: &str) -> Option<Gid> {
    let line = groups.lines().find(|line| line.split(':').next() == Some(group))?;
    line.split(':').nth(2)?.parse().ok().map(Gid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(group: &str) -> SocketGroup {
        SocketGroup::of(Some(group.to_owned()), Path::new("/etc/insula/node.toml"))
    }

    #[test]
    fn a_group_is_found_by_its_whole_name() {
        let groups = "root:x:0:\nwheel2:x:7:\nwheel:x:10:a,b\nbroken\n";
        assert_eq!(group_id(groups, "wheel"), Some(Gid::from_raw(10)));
        for missing in ["whee", "", "broken", "x"] {
            assert_eq!(group_id(groups, missing), None, "{missing}");
        }
    }

    #[test]
    fn a_missing_group_is_refused_only_when_the_configuration_names_it() {
        assert_eq!(named("root").id().unwrap(), Some(Gid::ROOT));
        for name in ["", "no such group"] {
            let refused = named(name).id().unwrap_err().to_string();
            for part in ["/etc/insula/node.toml", "`socket_group`", &format!("`{name}`"), "groupadd"] {
                assert!(refused.contains(part), "{refused}");
            }
        }
        assert!(SocketGroup::of(None, Path::new("x")).id().is_ok());
    }

    #[test]
    fn the_doctor_says_who_can_use_the_socket() {
        let [seven, root] = [7, 0].map(|id| Some(Gid::from_raw(id)));
        let built_in = SocketGroup::BuiltIn.judged(None, root);
        assert_eq!((built_in.level, built_in.remedy), (FindingLevel::Good, None));
        assert!(built_in.detail.contains("no group insula, which is optional"), "{}", built_in.detail);
        assert_eq!(named("wheel").judged(seven, seven).level, FindingLevel::Good);
        for (id, socket, part) in [(seven, root, "restart the daemon"), (None, seven, "/etc/insula/node.toml")] {
            let finding = named("wheel").judged(id, socket);
            assert_eq!(finding.level, FindingLevel::Warning);
            assert!(finding.remedy.unwrap().contains(part), "{part}");
        }
    }
}
