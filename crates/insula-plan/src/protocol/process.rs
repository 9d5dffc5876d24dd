//! What to run: a program, as whom, where, and with which rights. Used for a container's main process and for each
//! process that is run in it later.

use std::ffi::CString;
use std::str::FromStr;

use minicbor::{Decode, Encode};

/// A process to start inside a container.
///
/// Names in it (user, groups, program, directory) are resolved inside, by the new process itself.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ProcessSpec {
    /// Program and its arguments; never empty. A program without `/` is searched in `PATH`.
    #[n(0)]
    pub argv: Vec<CString>,
    /// `NAME=value`, in order; the last of one name wins. `HOME` is added from `/etc/passwd` when absent.
    #[n(1)]
    pub env: Vec<CString>,
    /// Working directory, absolute; made when missing, if the root can be written.
    #[n(2)]
    pub cwd: CString,
    /// As whom.
    #[n(3)]
    pub user: UserSpec,
    /// Supplementary groups beside those that `/etc/group` gives the user.
    #[n(4)]
    pub groups: Vec<u32>,
    /// Rights.
    #[n(5)]
    pub capabilities: CapabilityRule,
    /// Resource limits; those that are absent stay as process 1 has them.
    #[n(6)]
    pub rlimits: Vec<Rlimit>,
    /// Whether set-user-id programs have their effect.
    #[n(7)]
    pub new_privileges: NewPrivileges,
    /// Standard input, output and error.
    #[n(8)]
    pub stdio: Stdio,
    /// Mode bits that new files do not get; 0o022 when absent.
    #[n(9)]
    pub umask: Option<u32>,
}

impl ProcessSpec {
    /// `argv` as root of the container in `/`, with the given rights and nothing else.
    #[must_use]
    pub fn new(argv: Vec<CString>, capabilities: CapabilityRule) -> Self {
        Self {
            argv,
            env: Vec::new(),
            cwd: c"/".to_owned(),
            user: UserSpec::ROOT,
            groups: Vec::new(),
            capabilities,
            rlimits: Vec::new(),
            new_privileges: NewPrivileges::Allowed,
            stdio: Stdio::Given,
            umask: None,
        }
    }
}

/// Which user and group, by name or number: `user`, `uid`, `user:group`, `uid:gid`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct UserSpec {
    /// The user.
    #[n(0)]
    pub user: NameOrId,
    /// The group; the user's own when absent, and then with the supplementary groups of `/etc/group`.
    #[n(1)]
    pub group: Option<NameOrId>,
}

/// A user or group by name or number.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum NameOrId {
    /// Looked up inside.
    #[n(0)]
    Name(#[n(0)] String),
    /// Taken as it is; need not be known inside.
    #[n(1)]
    Id(#[n(0)] u32),
}

/// Text that names no user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("user `{}` is none; use NAME, UID, NAME:GROUP or UID:GID", given.escape_debug())]
pub struct ParseUserError {
    given: String,
}

impl UserSpec {
    /// Root of the container.
    pub const ROOT: Self = Self { user: NameOrId::Id(0), group: None };
}

impl FromStr for UserSpec {
    type Err = ParseUserError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseUserError { given: given.to_owned() };
        let part = |text: &str| {
            if text.is_empty() || text.contains([':', '\n', '\0']) || text.len() > 256 {
                return None;
            }
            if text.bytes().all(|byte| byte.is_ascii_digit()) {
                // u32::MAX means "no change" in the kernel's calls and is nobody's id.
                return text.parse().ok().filter(|&id| id != u32::MAX).map(NameOrId::Id);
            }
            Some(NameOrId::Name(text.to_owned()))
        };
        match given.split_once(':') {
            None => Ok(Self { user: part(given).ok_or_else(wrong)?, group: None }),
            Some((user, group)) => {
                Ok(Self { user: part(user).ok_or_else(wrong)?, group: Some(part(group).ok_or_else(wrong)?) })
            }
        }
    }
}

/// Capabilities as a bit mask by their kernel numbers (bit 0 is `CAP_CHOWN`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct CapabilityMask(#[n(0)] pub u64);

/// Which rights a process may have.
///
/// As in the field: root has `bounding` as its permitted and effective set, another user has only `ambient`. The
/// inheritable set holds no more than `ambient`, so that no file capability of an image gives back what was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CapabilityRule {
    /// What it and its descendants may ever have.
    #[n(0)]
    pub bounding: CapabilityMask,
    /// What a user that is not root keeps across exec; part of `bounding`.
    #[n(1)]
    pub ambient: CapabilityMask,
}

/// Whether executing a set-user-id program or one with file capabilities may give rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum NewPrivileges {
    /// As usual.
    #[n(0)]
    Allowed,
    /// Never (`no_new_privs`).
    #[n(1)]
    Forbidden,
}

/// One resource limit by the kernel's number (`RLIMIT_NOFILE` is 7); `u64::MAX` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Rlimit {
    /// The kernel's number of the resource, 0 to 15.
    #[n(0)]
    pub resource: u8,
    /// What holds now.
    #[n(1)]
    pub soft: u64,
    /// Up to where the process may raise it.
    #[n(2)]
    pub hard: u64,
}

/// Where standard input, output and error come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Stdio {
    /// Three descriptors, in this order: process 1's own for the main process, those beside the message for others.
    #[n(0)]
    Given,
    /// A new terminal of the container's own devpts; its master goes back to who asked.
    #[n(1)]
    Terminal(#[n(0)] WindowSize),
}

/// Size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct WindowSize {
    /// Lines.
    #[n(0)]
    pub rows: u16,
    /// Characters per line.
    #[n(1)]
    pub columns: u16,
}

impl WindowSize {
    /// What terminals have when nobody says otherwise.
    pub const DEFAULT: Self = Self { rows: 24, columns: 80 };
}

/// Why a process did not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Encode, Decode)]
pub enum SpawnFailure {
    /// No such program inside.
    #[error("program `{program}` is not in the container{}", if *searched { " (searched in PATH)" } else { "" })]
    #[n(0)]
    NotFound {
        /// As given.
        #[n(0)]
        program: String,
        /// Whether `PATH` was searched.
        #[n(1)]
        searched: bool,
    },
    /// It is there but cannot be run.
    #[error("program `{program}` cannot be executed: {}", os_error(*errno))]
    #[n(1)]
    NotExecutable {
        /// As found.
        #[n(0)]
        program: String,
        /// `EACCES`, `ENOEXEC`, `EISDIR`…
        #[n(1)]
        errno: i32,
    },
    /// `/etc/passwd` inside does not name it.
    #[error("user `{user}` is unknown in the container")]
    #[n(2)]
    UserUnknown {
        /// As given.
        #[n(0)]
        user: String,
    },
    /// `/etc/group` inside does not name it.
    #[error("group `{group}` is unknown in the container")]
    #[n(3)]
    GroupUnknown {
        /// As given.
        #[n(0)]
        group: String,
    },
    /// It cannot be made or entered, or lies outside of the root.
    #[error("working directory `{path}`: {}", os_error(*errno))]
    #[n(4)]
    WorkingDirectory {
        /// As given.
        #[n(0)]
        path: String,
        /// The kernel's reason; `EXDEV` for a directory outside of the root.
        #[n(1)]
        errno: i32,
    },
    /// A kernel call on the way was refused.
    #[error("{call}: {}", os_error(*errno))]
    #[n(5)]
    Kernel {
        /// The call and its object.
        #[n(0)]
        call: String,
        /// Why.
        #[n(1)]
        errno: i32,
    },
    /// The request contradicts itself; nothing was tried.
    #[error("the request is not usable: {reason}")]
    #[n(6)]
    Unusable {
        /// What is wrong with it.
        #[n(0)]
        reason: String,
    },
    /// Process 1 already serves as many as it may; ask again later.
    #[error("{limit} processes were started by request and still run; no more are allowed")]
    #[n(7)]
    Busy {
        /// The bound.
        #[n(0)]
        limit: u32,
    },
    /// The container is ending.
    #[error("the container is ending")]
    #[n(8)]
    Ending,
}

impl SpawnFailure {
    /// The code of a foreground command: 127 not found, 126 there but not runnable, 125 everything that is ours.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound { .. } => 127,
            Self::NotExecutable { .. } | Self::WorkingDirectory { .. } => 126,
            _ => 125,
        }
    }
}

/// `errno` in words.
fn os_error(errno: i32) -> String {
    std::io::Error::from_raw_os_error(errno).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_read_as_in_the_field() {
        let name = |text: &str| NameOrId::Name(text.to_owned());
        for (text, user, group) in [
            ("web", name("web"), None),
            ("33", NameOrId::Id(33), None),
            ("web:adm", name("web"), Some(name("adm"))),
            ("33:4", NameOrId::Id(33), Some(NameOrId::Id(4))),
        ] {
            assert_eq!(text.parse::<UserSpec>().unwrap(), UserSpec { user, group }, "{text}");
        }
        for bad in ["", ":", "a:", ":b", "a:b:c", "4294967295", "99999999999", "a\nb"] {
            assert!(bad.parse::<UserSpec>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_missing_program_is_127_and_an_unusable_one_126() {
        let failure = SpawnFailure::NotFound { program: "x".into(), searched: true };
        assert_eq!(failure.exit_code(), 127);
        assert_eq!(failure.to_string(), "program `x` is not in the container (searched in PATH)");
        assert_eq!(SpawnFailure::NotExecutable { program: "/etc".into(), errno: 13 }.exit_code(), 126);
        assert_eq!(SpawnFailure::Ending.exit_code(), 125);
    }
}
