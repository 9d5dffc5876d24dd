//! What a container's configuration must hold to, beyond what its types say.
//!
//! Every value that ends up in a file, a path, a kernel setting or an argument list is looked at here, once, before it
//! is stored. What depends on the image or the host (whether a user or a path exists) is asked at each start.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::{Bytes, ContainerSpec, NetworkMode, PublishedPort, ResourceSpec};

/// Most failures in a row that a health check may forgive.
const HEALTH_RETRIES_MAX: u64 = 1_000;

/// Longest host name that the kernel keeps, in bytes.
const HOSTNAME_BYTES_MAX: usize = 64;
/// Longest single argument or environment variable that execve takes, in bytes, its end included.
const ARGUMENT_BYTES_MAX: usize = 131_072;
/// Most bytes of arguments and environment together; a third of what execve takes with the usual stack limit.
const ARGUMENTS_BYTES_MAX: usize = 700_000;
/// Most name servers that resolvers ask.
const NAME_SERVERS_MAX: usize = 3;
/// Longest key of a label, in bytes.
const LABEL_KEY_BYTES_MAX: usize = 128;
/// Longest value of a label or a kernel setting, in bytes.
const TEXT_BYTES_MAX: usize = 4_096;
/// Least memory in which a container can start.
const MEMORY_MIN: Bytes = Bytes::mib(4);
/// Least size of a file system for a container's data: smaller ones have no room for a journal.
const DATA_MIN: Bytes = Bytes::mib(8);
/// A day in milliseconds, the longest time-out.
const DAY_MS: u64 = 86_400_000;

/// Fewest open files of a process: with less, process 1 cannot start a program.
pub const FILES_MIN: u64 = 32;

/// Names of resource limits, as setrlimit(2) has them without `RLIMIT_`, in lower case.
const RESOURCE_LIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// Kernel settings that belong to the container's own IPC namespace. Those of its network namespace all begin with
/// `net.`, those of its message queues with `fs.mqueue.`.
const IPC_SYSCTLS: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// What every container has in its own `/dev`.
const OWN_DEVICES: [&str; 15] = [
    "console", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
    "urandom", "zero",
];

/// Which text of a configuration is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// The command's words.
    Command,
    /// The entrypoint's words.
    Entrypoint,
    /// The health check's words.
    HealthCommand,
    /// An environment variable.
    Env(String),
    /// A label.
    Label(String),
    /// A kernel setting.
    Sysctl(String),
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command => f.write_str("command"),
            Self::Entrypoint => f.write_str("entrypoint"),
            Self::HealthCommand => f.write_str("health command"),
            Self::Env(name) => write!(f, "environment variable `{}`", name.escape_debug()),
            Self::Label(key) => write!(f, "label `{}`", key.escape_debug()),
            Self::Sysctl(name) => write!(f, "kernel setting `{}`", name.escape_debug()),
        }
    }
}

/// A configuration that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckSpecError {
    /// A NUL byte ends every text in the kernel.
    #[error("{field} has a NUL byte")]
    Nul {
        /// Where.
        field: Field,
    },
    /// Longer than the kernel or a table takes.
    #[error("{field} has {length} bytes; {max} is the most")]
    TooLong {
        /// Where.
        field: Field,
        /// How long it is.
        length: usize,
        /// How long it may be.
        max: usize,
    },
    /// Nothing to run.
    #[error("{field} is empty; name a program")]
    Empty {
        /// Where.
        field: Field,
    },
    /// Not a name that programs can look up.
    #[error("environment variable `{}` is no name; use letters, digits, _ . -, beginning with a letter or _", name.escape_debug())]
    EnvName {
        /// What was given.
        name: String,
    },
    /// A key of a label that tables cannot show.
    #[error("label `{}` is no key; use 1 to {LABEL_KEY_BYTES_MAX} printable characters without blanks and `=`", key.escape_debug())]
    LabelKey {
        /// What was given.
        key: String,
    },
    /// Not a host name.
    #[error(
        "host name `{}` is none; use 1 to {HOSTNAME_BYTES_MAX} of letters, digits and -, in parts joined by dots that neither begin nor end with -",
        given.escape_debug()
    )]
    Hostname {
        /// What was given.
        given: String,
    },
    /// Not a name of a zone.
    #[error("time zone `{}` is none; use a name such as Europe/Rome", given.escape_debug())]
    Timezone {
        /// What was given.
        given: String,
    },
    /// Neither names nor ids.
    #[error("user `{}` is none; use NAME, UID, NAME:GROUP or UID:GID with ids from 0 to 65535", given.escape_debug())]
    User {
        /// What was given.
        given: String,
    },
    /// Not a path that means one place.
    #[error("{what} `{}` is not an absolute path without `.`, `..` and control characters", given.escape_debug())]
    Path {
        /// Which path.
        what: &'static str,
        /// What was given.
        given: String,
    },
    /// A place that Insula fills itself.
    #[error("{what} `{}` lies in a place that the container's own /proc, /sys and /dev take", given.escape_debug())]
    ReservedTarget {
        /// Which path.
        what: &'static str,
        /// What was given.
        given: String,
    },
    /// Two things at one path.
    #[error("`{}` is the target of two mounts or devices", target.escape_debug())]
    DuplicateTarget {
        /// The path.
        target: String,
    },
    /// A device outside `/dev`, or an access that is none.
    #[error("device `{}` is not HOST:CONTAINER below /dev with an access of r, w, m", given.escape_debug())]
    Device {
        /// What was given.
        given: String,
    },
    /// A device at a place of `/dev` that every container has.
    #[error(
        "device target `{}` is in every container's own /dev; leave it out, or name another: {}:/dev/NAME",
        target.escape_debug(),
        source_path.escape_debug()
    )]
    OwnDevice {
        /// The device on the host.
        source_path: String,
        /// Where it was to be.
        target: String,
    },
    /// A tmpfs of no size, or with bits that are no permissions.
    #[error("tmpfs `{}` needs a size above 0 and a mode of at most 7777 octal", target.escape_debug())]
    Tmpfs {
        /// The path.
        target: String,
    },
    /// One host port leads to two places.
    #[error("port {port} is published twice on the same address")]
    DuplicatePort {
        /// The second one.
        port: PublishedPort,
    },
    /// Ports without a network of the container's own.
    #[error(
        "ports can be published only with network=default; with network=none nothing arrives, with host there is nothing to publish"
    )]
    PortsWithoutNetwork,
    /// The kernel cannot lead from `::1` into a container.
    #[error("port {port}: ::1 cannot lead to a container; publish on 127.0.0.1")]
    PortOfIpv6Loopback {
        /// The port.
        port: PublishedPort,
    },
    /// A setting that belongs to the whole machine, or to a namespace that the container does not own.
    #[error("kernel setting `{}` is not the container's own; those of net., fs.mqueue. and System V IPC are, unless its network is the host's", name.escape_debug())]
    Sysctl {
        /// What was given.
        name: String,
    },
    /// No such limit.
    #[error("resource limit `{}` is unknown; use one of {}", name.escape_debug(), RESOURCE_LIMITS.join(", "))]
    UlimitName {
        /// What was given.
        name: String,
    },
    /// A soft limit above the hard one, or a limit given twice.
    #[error("resource limit `{name}` is given twice, or its soft value is above the hard one")]
    Ulimit {
        /// Which.
        name: String,
    },
    /// Outside the range of a number.
    #[error("{what} {value} is outside {min} to {max}")]
    OutOfRange {
        /// Which number, with its unit.
        what: &'static str,
        /// What was given.
        value: u64,
        /// Least.
        min: u64,
        /// Most.
        max: u64,
    },
    /// Outside the range of an amount of memory or storage.
    #[error("{what} {size} is outside {min} to {max}")]
    SizeOutOfRange {
        /// Which setting.
        what: &'static str,
        /// What was given.
        size: Bytes,
        /// Least.
        min: Bytes,
        /// Most.
        max: Bytes,
    },
    /// More is promised than may be used.
    #[error("memory.guarantee {guarantee} is above memory.limit {limit}")]
    GuaranteeAboveLimit {
        /// What is promised.
        guarantee: Bytes,
        /// What may be used.
        limit: Bytes,
    },
    /// Not the form of a capability's name.
    #[error("capability `{}` is no name such as NET_ADMIN", given.escape_debug())]
    Capability {
        /// What was given.
        given: String,
    },
}

impl ContainerSpec {
    /// Looks at every value.
    ///
    /// # Errors
    ///
    /// The first one that cannot stand, by name.
    pub fn check(&self) -> Result<(), CheckSpecError> {
        self.check_words()?;
        self.check_names()?;
        self.check_targets()?;
        self.check_ports()?;
        self.check_sysctls()?;
        self.check_capabilities()?;
        self.resources.check()?;
        within("stop time-out in milliseconds", self.stop_timeout_ms, 0, DAY_MS)?;
        if let Some(health) = &self.health {
            within("health interval in milliseconds", Some(health.interval_ms), 100, DAY_MS)?;
            within("health deadline in milliseconds", Some(health.deadline_ms), 100, DAY_MS)?;
            within("health time-out in milliseconds", health.timeout_ms, 100, DAY_MS)?;
            within("health retries", health.retries.map(u64::from), 1, HEALTH_RETRIES_MAX)?;
        }
        Ok(())
    }

    fn check_words(&self) -> Result<(), CheckSpecError> {
        let health = self.health.as_ref().map_or(&[][..], |health| &health.command);
        let entrypoint = self.entrypoint.as_deref().unwrap_or_default();
        let mut total = 0;
        for (words, field) in
            [(&*self.command, Field::Command), (entrypoint, Field::Entrypoint), (health, Field::HealthCommand)]
        {
            for word in words {
                text(word, ARGUMENT_BYTES_MAX - 1, || field.clone())?;
                total += word.len() + 1;
            }
        }
        for (name, value) in &self.env {
            if !is_env_name(name) {
                return Err(CheckSpecError::EnvName { name: shortened(name) });
            }
            let field = || Field::Env(name.clone());
            // `NAME=VALUE` and its NUL are one string to the kernel.
            text(value, ARGUMENT_BYTES_MAX.saturating_sub(name.len() + 2), field)?;
            total += name.len() + value.len() + 2;
            if total > ARGUMENTS_BYTES_MAX {
                return Err(CheckSpecError::TooLong { field: field(), length: total, max: ARGUMENTS_BYTES_MAX });
            }
        }
        if total > ARGUMENTS_BYTES_MAX {
            return Err(CheckSpecError::TooLong { field: Field::Command, length: total, max: ARGUMENTS_BYTES_MAX });
        }
        Ok(())
    }

    fn check_names(&self) -> Result<(), CheckSpecError> {
        let hosts = self.hosts.iter().map(|host| &host.name);
        if let Some(given) = self.hostname.iter().chain(hosts).find(|name| !is_hostname(name)) {
            return Err(CheckSpecError::Hostname { given: shortened(given) });
        }
        if let Some(given) = self.timezone.iter().find(|zone| !is_timezone(zone)) {
            return Err(CheckSpecError::Timezone { given: shortened(given) });
        }
        if let Some(given) = self.user.iter().find(|user| !is_user(user)) {
            return Err(CheckSpecError::User { given: shortened(given) });
        }
        if let Some(given) = self.workdir.iter().find(|path| *path != "/" && !is_plain_path(path)) {
            return Err(CheckSpecError::Path { what: "working directory", given: shortened(given) });
        }
        for (key, value) in &self.labels {
            let printable = |c: char| !c.is_whitespace() && !c.is_control() && c != '=';
            if key.is_empty() || key.len() > LABEL_KEY_BYTES_MAX || !key.chars().all(printable) {
                return Err(CheckSpecError::LabelKey { key: shortened(key) });
            }
            text(value, TEXT_BYTES_MAX, || Field::Label(key.clone()))?;
        }
        Ok(())
    }

    fn check_targets(&self) -> Result<(), CheckSpecError> {
        let mut taken = BTreeSet::new();
        let mut take = |target: &str| {
            let duplicate = || CheckSpecError::DuplicateTarget { target: shortened(target) };
            if taken.insert(target.to_owned()) { Ok(()) } else { Err(duplicate()) }
        };
        for volume in &self.volumes {
            check_path("volume source", &volume.source)?;
            check_mount_target("volume target", &volume.target)?;
            take(&volume.target)?;
        }
        for tmpfs in &self.tmpfs {
            check_mount_target("tmpfs target", &tmpfs.target)?;
            take(&tmpfs.target)?;
            if tmpfs.size.0 == 0 || tmpfs.mode > 0o7777 {
                return Err(CheckSpecError::Tmpfs { target: shortened(&tmpfs.target) });
            }
        }
        for device in &self.devices {
            let below_dev = |path: &str| is_plain_path(path) && path.starts_with("/dev/");
            let letters: BTreeSet<char> = device.access.chars().collect();
            let access = !letters.is_empty()
                && letters.len() == device.access.len()
                && letters.iter().all(|letter| "rwm".contains(*letter));
            if !below_dev(&device.source) || !below_dev(&device.target) || !access {
                let given = format!("{}:{}:{}", device.source, device.target, device.access);
                return Err(CheckSpecError::Device { given: shortened(&given) });
            }
            if device.target.split('/').nth(2).is_some_and(|name| OWN_DEVICES.contains(&name)) {
                let (source_path, target) = (shortened(&device.source), shortened(&device.target));
                return Err(CheckSpecError::OwnDevice { source_path, target });
            }
            take(&device.target)?;
        }
        Ok(())
    }

    fn check_ports(&self) -> Result<(), CheckSpecError> {
        if !self.ports.is_empty() && self.network != NetworkMode::Default {
            return Err(CheckSpecError::PortsWithoutNetwork);
        }
        for (index, port) in self.ports.iter().enumerate() {
            if port.address == Some(IpAddr::V6(Ipv6Addr::LOCALHOST)) {
                return Err(CheckSpecError::PortOfIpv6Loopback { port: *port });
            }
            if self.ports[..index].iter().any(|other| other.meets(port)) {
                return Err(CheckSpecError::DuplicatePort { port: *port });
            }
        }
        within("name servers, their number", u64::try_from(self.dns.len()).ok(), 0, NAME_SERVERS_MAX as u64)
    }

    fn check_sysctls(&self) -> Result<(), CheckSpecError> {
        for (name, value) in &self.sysctls {
            let network = name.starts_with("net.") && self.network != NetworkMode::Host;
            let own = network || name.starts_with("fs.mqueue.") || IPC_SYSCTLS.contains(&name.as_str());
            let plain = name.split('.').all(|part| {
                !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
            });
            if !own || !plain || name.len() > 128 {
                return Err(CheckSpecError::Sysctl { name: shortened(name) });
            }
            text(value, TEXT_BYTES_MAX, || Field::Sysctl(name.clone()))?;
        }
        Ok(())
    }

    fn check_capabilities(&self) -> Result<(), CheckSpecError> {
        let form = |name: &str| {
            (1..=32).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        };
        match self.cap_add.iter().chain(&self.cap_drop).find(|name| !form(name)) {
            None => Ok(()),
            Some(given) => Err(CheckSpecError::Capability { given: shortened(given) }),
        }
    }
}

impl ResourceSpec {
    /// Looks at every value, and whether they can stand together.
    ///
    /// # Errors
    ///
    /// The first one that cannot stand, by name.
    pub fn check(&self) -> Result<(), CheckSpecError> {
        sized("memory.limit", self.memory_limit, MEMORY_MIN, Bytes(1 << 50))?;
        sized("memory.guarantee", self.memory_guarantee, Bytes(1), Bytes(1 << 50))?;
        if let (Some(guarantee), Some(limit)) = (self.memory_guarantee, self.memory_limit)
            && guarantee > limit
        {
            return Err(CheckSpecError::GuaranteeAboveLimit { guarantee, limit });
        }
        within("cpu weight", self.cpu_weight.map(u64::from), 1, 10_000)?;
        within("pids limit", self.pids_limit.map(u64::from), 2, 4_194_304)?;
        within("open files limit", self.files_limit, FILES_MIN, 1 << 30)?;
        sized("data.size", self.data_size, DATA_MIN, Bytes(1 << 44))?;
        let mut names = BTreeSet::new();
        for limit in &self.ulimits {
            if !RESOURCE_LIMITS.contains(&limit.name.as_str()) {
                return Err(CheckSpecError::UlimitName { name: shortened(&limit.name) });
            }
            if limit.name == "nofile" {
                within("ulimit nofile", Some(limit.soft), FILES_MIN, 1 << 30)?;
            }
            if limit.soft > limit.hard || !names.insert(&limit.name) {
                return Err(CheckSpecError::Ulimit { name: limit.name.clone() });
            }
        }
        Ok(())
    }
}

/// `[A-Za-z_][A-Za-z0-9_.-]*`: what shells can name, and the dots and dashes that some frameworks read.
pub(crate) fn is_env_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
        && name.len() <= 256
}

/// RFC 1123: parts of 1 to 63 letters, digits and `-`, neither first nor last.
fn is_hostname(name: &str) -> bool {
    let part = |part: &str| {
        (1..=63).contains(&part.len())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    name.len() <= HOSTNAME_BYTES_MAX && name.split('.').all(part)
}

/// Parts that cannot climb: a zone's name is a path beneath the image's zoneinfo.
fn is_timezone(zone: &str) -> bool {
    let part = |part: &str| {
        part.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+-".contains(&byte))
    };
    zone.len() <= 64 && zone.split('/').all(part)
}

fn is_user(user: &str) -> bool {
    let (name, group) = match user.split_once(':') {
        None => (user, None),
        Some((name, group)) => (name, Some(group)),
    };
    let either = |text: &str| {
        if text.bytes().next().is_some_and(|first| first.is_ascii_digit()) {
            return text.len() <= 5 && text.parse::<u16>().is_ok();
        }
        (1..=32).contains(&text.len())
            && text.bytes().next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
    };
    either(name) && group.is_none_or(either)
}

/// Absolute, and every part is a name.
fn is_plain_path(path: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part != "." && part != ".." && part.len() <= 255;
    path.len() < 4_096
        && !path.chars().any(char::is_control)
        && path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(part))
}

fn check_path(what: &'static str, path: &str) -> Result<(), CheckSpecError> {
    if is_plain_path(path) { Ok(()) } else { Err(CheckSpecError::Path { what, given: shortened(path) }) }
}

fn check_mount_target(what: &'static str, target: &str) -> Result<(), CheckSpecError> {
    check_path(what, target)?;
    let beneath = |place: &str| target.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if ["/proc", "/sys", "/dev"].into_iter().any(beneath) && !beneath("/dev/shm") {
        return Err(CheckSpecError::ReservedTarget { what, given: shortened(target) });
    }
    Ok(())
}

fn text(value: &str, max: usize, field: impl Fn() -> Field) -> Result<(), CheckSpecError> {
    if value.contains('\0') {
        return Err(CheckSpecError::Nul { field: field() });
    }
    if value.len() > max {
        return Err(CheckSpecError::TooLong { field: field(), length: value.len(), max });
    }
    Ok(())
}

fn within(what: &'static str, value: Option<u64>, min: u64, max: u64) -> Result<(), CheckSpecError> {
    match value {
        Some(value) if !(min..=max).contains(&value) => Err(CheckSpecError::OutOfRange { what, value, min, max }),
        _ => Ok(()),
    }
}

fn sized(what: &'static str, size: Option<Bytes>, min: Bytes, max: Bytes) -> Result<(), CheckSpecError> {
    match size {
        Some(size) if !(min.0..=max.0).contains(&size.0) => {
            Err(CheckSpecError::SizeOutOfRange { what, size, min, max })
        }
        _ => Ok(()),
    }
}

/// Enough of it to be recognised in a message.
fn shortened(given: &str) -> String {
    given.chars().take(128).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DeviceSpec, HealthCheck, TmpfsMount, Ulimit};

    fn spec() -> ContainerSpec {
        ContainerSpec::new("debian".parse().unwrap())
    }

    #[test]
    fn sizes_are_refused_in_the_units_of_people() {
        let resources = |memory| ResourceSpec { memory_limit: Some(memory), ..ResourceSpec::default() };
        let refused = ContainerSpec { resources: resources(Bytes::mib(2)), ..spec() }.check().unwrap_err().to_string();
        assert_eq!(refused, "memory.limit 2MiB is outside 4MiB to 1024TiB");
        assert_eq!(ContainerSpec { resources: resources(Bytes::mib(4)), ..spec() }.check(), Ok(()));
    }

    /// Whether a configuration with one change stands.
    fn stands(change: impl FnOnce(&mut ContainerSpec)) -> bool {
        let mut changed = spec();
        change(&mut changed);
        changed.check().is_ok()
    }

    #[test]
    fn a_configuration_with_nothing_asked_for_stands() {
        spec().check().unwrap();
    }

    #[test]
    fn host_names_are_those_of_rfc_1123() {
        let with = |name: &str| stands(|spec| spec.hostname = Some(name.to_owned()));
        for good in ["web", "web-1.example.org", "0", &"x".repeat(63)] {
            assert!(with(good), "{good}");
        }
        for bad in ["", "-web", "web-", "a..b", ".", "a_b", "we b", "web\n", "w\0", "\u{430}", &"x".repeat(64)] {
            assert!(!with(bad), "{bad:?}");
        }
        assert!(!with(&format!("{}.{}", "x".repeat(32), "y".repeat(32))));
    }

    #[test]
    fn users_are_names_or_ids_of_the_range() {
        let with = |user: &str| stands(|spec| spec.user = Some(user.to_owned()));
        for good in ["root", "0", "65535", "www-data:www-data", "1000:100", "_apt", "postgres:5432"] {
            assert!(with(good), "{good}");
        }
        for bad in
            ["", ":", "65536", "-1", "1000:", ":0", "a:b:c", "ro ot", "1000x", "-root", "a/b", "root\n", "\u{661}"]
        {
            assert!(!with(bad), "{bad:?}");
        }
    }

    #[test]
    fn zones_and_directories_cannot_climb() {
        let zone = |zone: &str| stands(|spec| spec.timezone = Some(zone.to_owned()));
        assert!(zone("Europe/Rome") && zone("UTC") && zone("Etc/GMT+3") && zone("America/Argentina/Buenos_Aires"));
        assert!(!zone("../../etc/shadow") && !zone("/etc/x") && !zone("") && !zone("Europe//Rome") && !zone("a\nb"));
        let workdir = |path: &str| stands(|spec| spec.workdir = Some(path.to_owned()));
        assert!(workdir("/") && workdir("/srv/app"));
        assert!(!workdir("srv") && !workdir("/srv/..") && !workdir("/srv/") && !workdir("/a\nb") && !workdir(""));
    }

    #[test]
    fn environment_names_are_names_and_values_have_no_nul() {
        let with = |name: &str, value: &str| stands(|spec| drop(spec.env.insert(name.to_owned(), value.to_owned())));
        assert!(with("PATH", "/bin") && with("_x1", "") && with("KEY", "two\nlines") && with("spring.data-x", "1"));
        for bad in ["", "1A", "A=B", "A B", "-A", "A\0", "\u{c4}"] {
            assert!(!with(bad, "x"), "{bad:?}");
        }
        assert!(!with("A", "x\0") && !with("A", &"x".repeat(131_072)));
    }

    #[test]
    fn arguments_fit_into_what_execve_takes() {
        assert!(stands(|spec| spec.command = vec!["x".repeat(131_071); 5]));
        assert!(!stands(|spec| spec.command = vec!["x".repeat(131_071); 6]));
        assert!(!stands(|spec| spec.command = vec!["x".repeat(131_072)]));
        assert!(!stands(|spec| spec.entrypoint = Some(vec!["a\0b".to_owned()])));
    }

    #[test]
    fn only_settings_of_the_containers_own_namespaces_can_be_set() {
        let with = |name: &str, network| {
            stands(|spec| {
                spec.network = network;
                spec.sysctls.insert(name.to_owned(), "1".to_owned());
            })
        };
        for good in ["net.ipv4.ip_forward", "kernel.shmmax", "fs.mqueue.msg_max", "net.ipv4.conf.eth0.rp_filter"] {
            assert!(with(good, NetworkMode::Default), "{good}");
        }
        for bad in [
            "kernel.core_pattern",
            "kernel.hostname",
            "vm.overcommit_memory",
            "net.",
            "net..x",
            "net.a/../b",
            "",
            "net.x\n",
        ] {
            assert!(!with(bad, NetworkMode::Default), "{bad}");
        }
        assert!(!with("net.ipv4.ip_forward", NetworkMode::Host));
        assert!(with("kernel.sem", NetworkMode::Host));
    }

    #[test]
    fn one_target_takes_one_thing_and_the_kernels_places_none() {
        let volume = |text: &str| text.parse().unwrap();
        assert!(stands(|spec| spec.volumes = vec![volume("/a:/x"), volume("/a:/y")]));
        assert!(!stands(|spec| spec.volumes = vec![volume("/a:/x"), volume("/b:/x")]));
        let tmpfs = |target: &str, size| TmpfsMount { target: target.to_owned(), size: Bytes(size), mode: 0o755 };
        assert!(stands(|spec| spec.tmpfs = vec![tmpfs("/cache", 1), tmpfs("/dev/shm", 1)]));
        for bad in ["/", "cache", "/proc", "/proc/self", "/sys/fs", "/dev", "/dev/null", "/x/../y"] {
            assert!(!stands(|spec| spec.tmpfs = vec![tmpfs(bad, 1)]), "{bad}");
        }
        assert!(!stands(|spec| spec.tmpfs = vec![tmpfs("/cache", 0)]));
        assert!(!stands(|spec| {
            spec.tmpfs = vec![tmpfs("/x", 1)];
            spec.volumes = vec![volume("/a:/x")];
        }));
    }

    #[test]
    fn devices_stay_below_dev_with_an_access_that_is_one() {
        let with = |source: &str, target: &str, access: &str| {
            let device = DeviceSpec { source: source.to_owned(), target: target.to_owned(), access: access.to_owned() };
            stands(|spec| spec.devices = vec![device])
        };
        assert!(with("/dev/fuse", "/dev/fuse", "rwm") && with("/dev/net/tun", "/dev/net/tun", "r"));
        assert!(!with("/etc/shadow", "/dev/x", "r") && !with("/dev/fuse", "/fuse", "r"));
        assert!(!with("/dev/../etc/x", "/dev/x", "r"));
        assert!(with("/dev/null", "/dev/nothing", "rw") && with("/dev/fuse", "/dev/mine/null", "rw"));
        for own in ["/dev/null", "/dev/console", "/dev/pts/0", "/dev/shm/x", "/dev/ptmx"] {
            assert!(!with("/dev/fuse", own, "rw"), "{own}");
        }
        for bad in ["", "x", "rr", "rw ", "rwmr"] {
            assert!(!with("/dev/fuse", "/dev/fuse", bad), "{bad:?}");
        }
    }

    #[test]
    fn a_host_port_leads_to_one_place() {
        let ports =
            |texts: &[&str]| stands(|spec| spec.ports = texts.iter().map(|text| text.parse().unwrap()).collect());
        assert!(ports(&["80:80", "80:80/udp", "81:80"]));
        assert!(ports(&["127.0.0.1:80:80", "127.0.0.2:80:80"]));
        assert!(ports(&["[fd00::1]:80:80"]) && !ports(&["[::1]:80:80"]));
        assert!(!ports(&["80:80", "80:81"]) && !ports(&["80:80", "127.0.0.1:80:81"]));
        for network in [NetworkMode::None, NetworkMode::Host] {
            assert!(!stands(|spec| {
                spec.network = network;
                spec.ports = vec!["80:80".parse().unwrap()];
            }));
        }
    }

    #[test]
    fn numbers_have_bounds() {
        assert!(!stands(|spec| spec.resources.memory_limit = Some(Bytes::mib(3))));
        assert!(!stands(|spec| spec.resources.cpu_weight = Some(0)));
        assert!(!stands(|spec| spec.resources.pids_limit = Some(1)));
        assert!(!stands(|spec| spec.stop_timeout_ms = Some(DAY_MS + 1)));
        let health = |command: &[&str], interval_ms| HealthCheck {
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            interval_ms,
            deadline_ms: 60_000,
            timeout_ms: None,
            retries: None,
        };
        assert!(stands(|spec| spec.health = Some(health(&["true"], 1_000))));
        assert!(stands(|spec| spec.health = Some(health(&[], 1_000))));
        assert!(!stands(|spec| spec.health = Some(HealthCheck { retries: Some(0), ..health(&["true"], 1_000) })));
        assert!(!stands(|spec| spec.health = Some(health(&["true"], 0))));
        let limit = |name: &str, soft, hard| Ulimit { name: name.to_owned(), soft, hard };
        assert!(stands(|spec| spec.resources.ulimits = vec![limit("core", 0, u64::MAX)]));
        assert!(!stands(|spec| spec.resources.ulimits = vec![limit("core", 2, 1)]));
        assert!(!stands(|spec| spec.resources.ulimits = vec![limit("cores", 0, 0)]));
        assert!(!stands(|spec| spec.resources.ulimits = vec![limit("core", 0, 0), limit("core", 0, 0)]));
    }
}
