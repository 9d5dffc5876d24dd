//! The node's configuration: `/etc/insula/node.toml` and what the command line says over it.
//!
//! [`OPTIONS`] is the one list of options: unknown keys are refused with the nearest known one, and a test holds
//! `docs/configuration.md` and the sample file against it.

mod images;
mod network;

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use insula_model::{Bytes, FILES_MIN, NodeName, Templates, near};
use serde::Deserialize;

pub use images::ImagesConfig;

use crate::rights::{TemplateConfigError, read_templates};
use crate::socket_group::SocketGroup;

/// Where the configuration is read from when nothing else is said.
pub const CONFIG_PATH: &str = "/etc/insula/node.toml";

/// Largest configuration file, in bytes.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// Fewest segments of a log.
const LOG_SEGMENTS_MIN: u32 = 2;
/// Smallest segment of a log.
const LOG_SEGMENT_MIN: Bytes = Bytes(64 << 10);

/// Every option: its key, its default as TOML, and what it does.
pub const OPTIONS: &[(&str, &str, &str)] = &[
    ("name", "\"insula\"", "Name of the node. Nodes with different names run side by side on one machine."),
    ("state_dir", "\"/var/lib/insula\"", "Images, intent and persistent data; survives a reboot."),
    ("run_dir", "\"/run/insula\"", "Sockets and facts; must be a tmpfs."),
    ("socket", "\"<run_dir>/insula.sock\"", "The API's unix socket."),
    ("socket_group", "\"insula\"", "Group that may use the socket; must exist when named. Membership equals root."),
    ("claims_dir", "\"/run/insula-claims\"", "Where the nodes of one machine claim ids and subnets; the same for all."),
    ("log", "\"info\"", "What is logged: error, warn, info, debug or trace, or a filter such as insula_node=debug."),
    ("ids.first", "1879048192", "First host id that containers may be given; a multiple of 65536."),
    ("ids.last", "2147483647", "Last host id that containers may be given."),
    ("network.range4", "\"10.87.0.0/16\"", "IPv4 range from which the nodes of one machine claim their subnets."),
    ("network.bits4", "20", "Bits of each node's part of it; 20 is 4093 containers."),
    (
        "network.range6",
        "\"fd49:6e73:756c::/48\"",
        "IPv6 range; each node claims a /64 of it. Empty is a node without IPv6.",
    ),
    ("network.mtu", "1500", "Largest packet of a container's link, in bytes."),
    ("network.published_only", "false", "Whether only published ports are reached from outside the machine."),
    ("network.names", "true", "Whether the node answers its containers when they ask for names, each other's too."),
    (
        "network.resolvers",
        "[]",
        "Name servers that the node asks about names it does not know; those of the host when empty.",
    ),
    (
        "network.dns",
        "[\"9.9.9.9\", \"149.112.112.112\"]",
        "Name servers of containers when the host has none that they can reach.",
    ),
    ("capacity.containers", "4096", "Most containers, running or not."),
    ("capacity.running", "2048", "Most running containers."),
    ("capacity.memory", "\"\"", "Memory that running containers may be promised; the machine's when empty."),
    (
        "capacity.memory_overcommit_percent",
        "100",
        "How much of it is promised: 100 is never more than there is, 200 is twice as much.",
    ),
    ("capacity.pids", "1048576", "Most processes promised to running containers by their limits."),
    (
        "capacity.disk_reserve",
        "\"16MiB\"",
        "Free bytes of the state directory's file system below which nothing new is taken on.",
    ),
    ("defaults.memory_limit", "\"1GiB\"", "Most memory of a container that does not say."),
    (
        "defaults.memory_guarantee",
        "\"2MiB\"",
        "Memory promised to a container for which neither a guarantee nor a limit is named.",
    ),
    ("defaults.pids_limit", "512", "Most processes of a container that does not say."),
    (
        "defaults.files_limit",
        "1024",
        "Open files that a process may have at first in a container that does not say; up to the host's hard limit if it asks.",
    ),
    (
        "defaults.data_size",
        "\"\"",
        "Most bytes in /data of a container that does not say; the node's file system bounds it when empty.",
    ),
    (
        "defaults.stop_timeout_ms",
        "10000",
        "Milliseconds from the stop signal to the kill for a container that does not say.",
    ),
    ("defaults.trial_ms", "1000", "Milliseconds a new image version without health check must run to prove good."),
    ("logs.segment_size", "\"4MiB\"", "Size of one segment of a container's log."),
    ("logs.segments", "4", "Segments kept of a container's log."),
    ("logs.rate", "\"8MiB\"", "Most bytes a second that a container may log; the rest is counted as lost."),
    (
        "images.require_signature",
        "true",
        "Whether containers start only from images that a key of this node, or one trusted below, has signed.",
    ),
    (
        "images.trusted_testing",
        "[]",
        "Public keys whose signatures count for images in testing, beside the node's own.",
    ),
    (
        "images.trusted_production",
        "[]",
        "Public keys whose signatures count for images in production, beside the node's own.",
    ),
    (
        "images.scrub_interval_s",
        "3600",
        "Seconds from the check of one mounted image's bytes to that of the next; 0 checks none.",
    ),
    ("images.scrub_rate", "\"16MiB\"", "Bytes a second that such a check reads, with the least priority."),
    (
        "images.cache_drop_after_ms",
        "10000",
        "Milliseconds after a mount until the memory that holds an image's file a second time is given back.",
    ),
    ("images.cache_drop_interval_ms", "60000", "Milliseconds from then on until it is given back again; 0 never does."),
    ("audit.size", "\"16MiB\"", "Size at which the audit log is rotated."),
    ("audit.files", "8", "Rotated audit logs kept."),
];

/// Configuration of one node.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its name.
    pub name: NodeName,
    /// Images, intent and data.
    pub state_dir: PathBuf,
    /// Sockets and facts.
    pub run_dir: PathBuf,
    /// The API's socket.
    pub socket: PathBuf,
    /// Group of the socket.
    pub socket_group: SocketGroup,
    /// Where nodes of this machine claim things from each other.
    pub claims_dir: PathBuf,
    /// Log filter.
    pub log: String,
    /// Host ids.
    pub ids: IdsConfig,
    /// Addresses.
    pub network: NetworkConfig,
    /// How much the node takes on.
    pub capacity: CapacityConfig,
    /// For containers that do not say.
    pub defaults: DefaultsConfig,
    /// Containers' logs.
    pub logs: LogsConfig,
    /// Image versions.
    pub images: ImagesConfig,
    /// The audit log.
    pub audit: AuditConfig,
    /// Named sets of limits.
    pub templates: Templates,
}

/// Host ids that containers may be given.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct IdsConfig {
    /// First, a multiple of 65,536.
    pub first: u32,
    /// Last.
    pub last: u32,
}

/// Addresses of containers.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct NetworkConfig {
    /// IPv4 range of all nodes of the machine.
    pub range4: String,
    /// Bits of each node's part of it.
    pub bits4: u8,
    /// IPv6 range of all nodes; empty is none.
    pub range6: String,
    /// Largest packet of a container's link, in bytes.
    pub mtu: u32,
    /// Whether only published ports are reached from outside the machine.
    pub published_only: bool,
    /// Whether the node has a name service.
    pub names: bool,
    /// Name servers that it asks; those of the host when empty.
    pub resolvers: Vec<IpAddr>,
    /// Name servers when the host has none that containers can reach.
    pub dns: Vec<IpAddr>,
}

/// How much the node takes on.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct CapacityConfig {
    /// Most containers.
    pub containers: usize,
    /// Most running containers.
    pub running: usize,
    /// Memory that may be promised; `None` is the machine's.
    #[serde(deserialize_with = "empty_is_none")]
    pub memory: Option<Bytes>,
    /// How much of it is promised, in hundredths.
    pub memory_overcommit_percent: u32,
    /// Most processes promised.
    pub pids: u64,
    /// Free bytes on the disk that are kept for what runs.
    pub disk_reserve: Bytes,
}

/// For containers that do not say.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct DefaultsConfig {
    /// Most memory.
    pub memory_limit: Bytes,
    /// Memory promised where neither a guarantee nor a limit is named.
    pub memory_guarantee: Bytes,
    /// Most processes.
    pub pids_limit: u32,
    /// Soft limit of open files of a process.
    pub files_limit: u64,
    /// Most bytes in `/data`.
    #[serde(deserialize_with = "empty_is_none")]
    pub data_size: Option<Bytes>,
    /// Milliseconds from the stop signal to the kill.
    pub stop_timeout_ms: u64,
    /// Milliseconds that a new version without health check must run.
    pub trial_ms: u64,
}

/// Containers' logs.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct LogsConfig {
    /// Size of a segment.
    pub segment_size: Bytes,
    /// Segments kept.
    pub segments: u32,
    /// Bytes a second.
    pub rate: Bytes,
}

/// The audit log.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct AuditConfig {
    /// Size at which it is rotated.
    pub size: Bytes,
    /// Rotated files kept.
    pub files: u32,
}

/// What the command line says; each goes before the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--name`
    pub name: Option<NodeName>,
    /// `--state-dir`
    pub state_dir: Option<PathBuf>,
    /// `--run-dir`
    pub run_dir: Option<PathBuf>,
    /// `--socket`
    pub socket: Option<PathBuf>,
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadConfigError {
    /// The file cannot be read.
    #[error("configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is larger than a configuration can be.
    #[error("configuration {path} is larger than {CONFIG_BYTES_MAX} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It is not TOML, or a value has the wrong form.
    #[error("configuration {path}")]
    Form {
        /// The file.
        path: PathBuf,
        /// Where and what.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// An option that does not exist.
    #[error("configuration {path}: unknown option `{key}`{}", suggestion(.nearest.as_deref()))]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The option.
        key: String,
        /// The option that was probably meant.
        nearest: Option<String>,
    },
    /// A template that cannot be used.
    #[error("configuration {path}")]
    Template {
        /// The file.
        path: PathBuf,
        /// Which, and why.
        #[source]
        source: Box<TemplateConfigError>,
    },
    /// A value that cannot work.
    #[error("configuration {path}: `{key}`: {why}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The option.
        key: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map(|nearest| format!("; did you mean `{nearest}`?")).unwrap_or_default()
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FileConfig {
    name: Option<NodeName>,
    state_dir: Option<PathBuf>,
    run_dir: Option<PathBuf>,
    socket: Option<PathBuf>,
    socket_group: Option<String>,
    claims_dir: Option<PathBuf>,
    log: Option<String>,
    ids: IdsConfig,
    network: NetworkConfig,
    capacity: CapacityConfig,
    defaults: DefaultsConfig,
    logs: LogsConfig,
    images: ImagesConfig,
    audit: AuditConfig,
}

impl Default for IdsConfig {
    fn default() -> Self {
        Self { first: 1_879_048_192, last: 2_147_483_647 }
    }
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            range4: "10.87.0.0/16".to_owned(),
            bits4: 20,
            range6: "fd49:6e73:756c::/48".to_owned(),
            mtu: 1_500,
            published_only: false,
            names: true,
            resolvers: Vec::new(),
            dns: vec![IpAddr::from([9, 9, 9, 9]), IpAddr::from([149, 112, 112, 112])],
        }
    }
}

impl Default for CapacityConfig {
    fn default() -> Self {
        Self {
            containers: 4_096,
            running: 2_048,
            memory: None,
            memory_overcommit_percent: 100,
            pids: 1 << 20,
            disk_reserve: Bytes::mib(16),
        }
    }
}

impl Default for DefaultsConfig {
    fn default() -> Self {
        Self {
            memory_limit: Bytes::mib(1_024),
            memory_guarantee: Bytes::mib(2),
            pids_limit: 512,
            files_limit: 1_024,
            data_size: None,
            stop_timeout_ms: 10_000,
            trial_ms: 1_000,
        }
    }
}

impl Default for LogsConfig {
    fn default() -> Self {
        Self { segment_size: Bytes::mib(4), segments: 4, rate: Bytes::mib(8) }
    }
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self { size: Bytes::mib(16), files: 8 }
    }
}

fn empty_is_none<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Bytes>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        Text(String),
        Number(u64),
    }
    match Given::deserialize(deserializer)? {
        Given::Text(text) if text.is_empty() => Ok(None),
        Given::Text(text) => text.parse().map(Some).map_err(serde::de::Error::custom),
        Given::Number(bytes) => Ok(Some(Bytes(bytes))),
    }
}

impl Config {
    /// Reads `path` (`None`: [`CONFIG_PATH`] if it exists) and applies `overrides`.
    ///
    /// # Errors
    ///
    /// Says which file, which option and what is wrong with it.
    pub fn load(path: Option<&Path>, overrides: Overrides) -> Result<Self, LoadConfigError> {
        let (path, must_exist) = match path {
            Some(path) => (path, true),
            None => (Path::new(CONFIG_PATH), false),
        };
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.len() > CONFIG_BYTES_MAX => {
                return Err(LoadConfigError::TooLarge { path: path.to_owned() });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => {
                return Self::parse("", path, overrides);
            }
            _ => {}
        }
        let text =
            std::fs::read_to_string(path).map_err(|source| LoadConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path, overrides)
    }

    /// Like [`Config::load`] for a file at `path` with this `text`.
    ///
    /// # Errors
    ///
    /// As for [`Config::load`].
    pub fn parse(text: &str, path: &Path, overrides: Overrides) -> Result<Self, LoadConfigError> {
        let form = |source| LoadConfigError::Form { path: path.to_owned(), source: Box::new(source) };
        let mut table: toml::Table = text.parse().map_err(form)?;
        let templates = match table.remove("template") {
            Some(given) => read_templates(&given)
                .map_err(|source| LoadConfigError::Template { path: path.to_owned(), source: Box::new(source) })?,
            None => Templates::default(),
        };
        refuse_unknown(&table, path)?;
        let file: FileConfig = toml::from_str(text).map_err(form)?;
        let run_dir = overrides.run_dir.or(file.run_dir).unwrap_or_else(|| "/run/insula".into());
        let name = match overrides.name.or(file.name) {
            Some(name) => name,
            None => NodeName::new("insula").map_err(|_| LoadConfigError::Value {
                path: path.to_owned(),
                key: "name",
                why: "the default name is not usable",
            })?,
        };
        let config = Self {
            name,
            state_dir: overrides.state_dir.or(file.state_dir).unwrap_or_else(|| "/var/lib/insula".into()),
            socket: overrides.socket.or(file.socket).unwrap_or_else(|| run_dir.join("insula.sock")),
            run_dir,
            socket_group: SocketGroup::of(file.socket_group, path),
            claims_dir: file.claims_dir.unwrap_or_else(|| "/run/insula-claims".into()),
            log: file.log.unwrap_or_else(|| "info".to_owned()),
            ids: file.ids,
            network: file.network,
            capacity: file.capacity,
            defaults: file.defaults,
            logs: file.logs,
            images: file.images,
            audit: file.audit,
            templates,
        };
        config.check(path)?;
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<(), LoadConfigError> {
        let wrong = |key, why| Err(LoadConfigError::Value { path: path.to_owned(), key, why });
        let absolute = [
            ("state_dir", &self.state_dir),
            ("run_dir", &self.run_dir),
            ("socket", &self.socket),
            ("claims_dir", &self.claims_dir),
        ];
        if let Some((key, _)) = absolute.iter().find(|(_, path)| !path.is_absolute()) {
            return wrong(key, "must be an absolute path");
        }
        // A unix socket's path has 107 bytes at most; the attach socket lies in the run directory.
        if self.socket.as_os_str().len() > 107 || self.run_dir.as_os_str().len() > 70 {
            return wrong("run_dir", "is too long for the path of a unix socket");
        }
        if !self.ids.first.is_multiple_of(65_536) || self.ids.first == 0 {
            return wrong("ids.first", "must be a multiple of 65536 above 0");
        }
        if self.ids.last.saturating_sub(self.ids.first) < 65_535 {
            return wrong("ids.last", "leaves no room for a block of 65536 ids");
        }
        if self.capacity.memory_overcommit_percent == 0 {
            return wrong("capacity.memory_overcommit_percent", "must be 1 or more");
        }
        if self.default_resources().check().is_err() {
            return wrong(
                "defaults",
                "memory_limit is 4MiB or more and not below memory_guarantee, pids_limit 2 or more, data_size 8MiB or more",
            );
        }
        if let Some((key, why)) = self.images.wrong().or_else(|| self.network.wrong()) {
            return wrong(key, why);
        }
        if self.logs.segments < LOG_SEGMENTS_MIN {
            return wrong("logs.segments", "must be 2 or more: one is written while the other is removed");
        }
        if self.logs.segment_size < LOG_SEGMENT_MIN {
            return wrong("logs.segment_size", "must be 64KiB or more");
        }
        if tracing_subscriber::EnvFilter::try_new(&self.log).is_err() {
            return wrong("log", "is no filter; write error, warn, info, debug or trace, or PART=LEVEL,PART=LEVEL");
        }
        if self.defaults.files_limit < FILES_MIN {
            return wrong("defaults.files_limit", "must be 32 or more");
        }
        Ok(())
    }

    /// Persistent data directory of a container.
    #[must_use]
    pub(crate) fn data_path(&self, id: insula_model::ContainerId) -> PathBuf {
        data_dirs(&self.state_dir).join(id.to_string())
    }

    /// File with the file system of a container's data, when it has one.
    #[must_use]
    pub(crate) fn disk_path(&self, id: insula_model::ContainerId) -> PathBuf {
        self.state_dir.join("containers").join(id.to_string()).join("disk")
    }

    /// Path of the socket that takes clients' file descriptors.
    #[must_use]
    pub fn attach_socket(&self) -> PathBuf {
        self.run_dir.join("attach.sock")
    }
}

/// Where containers' persistent data is, below the node's state. The kernel shows the path inside as the root of the
/// mount at `/data`, so it tells nothing but the container's own id.
#[must_use]
pub(crate) fn data_dirs(state_dir: &Path) -> PathBuf {
    state_dir.join("v")
}

fn refuse_unknown(table: &toml::Table, path: &Path) -> Result<(), LoadConfigError> {
    let unknown = |key: &str| LoadConfigError::Unknown {
        path: path.to_owned(),
        key: key.to_owned(),
        nearest: near(key, OPTIONS.iter().map(|&(known, ..)| known)).map(str::to_owned),
    };
    for (key, value) in table {
        let section = format!("{key}.");
        let is_section = OPTIONS.iter().any(|&(known, ..)| known.starts_with(&section));
        match value {
            toml::Value::Table(inner) if is_section => {
                let keys = inner.keys().map(|inner| format!("{section}{inner}"));
                if let Some(bad) = keys.into_iter().find(|full| !OPTIONS.iter().any(|&(known, ..)| known == full)) {
                    return Err(unknown(&bad));
                }
            }
            _ if OPTIONS.iter().any(|&(known, ..)| known == key) => {}
            _ => return Err(unknown(key)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, LoadConfigError> {
        Config::parse(text, Path::new("node.toml"), Overrides::default())
    }

    #[test]
    fn an_empty_file_gives_the_defaults_of_the_contract() {
        let config = parse("").unwrap();
        assert_eq!(config.socket, Path::new("/run/insula/insula.sock"));
        assert_eq!(config.state_dir, Path::new("/var/lib/insula"));
        assert_eq!(config.name.as_str(), "insula");
    }

    #[test]
    fn the_command_line_goes_before_the_file() {
        let overrides = Overrides { run_dir: Some("/run/b".into()), ..Overrides::default() };
        let config = Config::parse("run_dir = '/run/a'", Path::new("x"), overrides).unwrap();
        assert_eq!(config.socket, Path::new("/run/b/insula.sock"));
    }

    #[test]
    fn an_unknown_option_is_refused_and_the_nearest_named() {
        let message = parse("stat_dir = '/x'").unwrap_err().to_string();
        assert!(message.contains("unknown option `stat_dir`; did you mean `state_dir`?"), "{message}");
        let message = parse("[capacity]\ncontainer = 3").unwrap_err().to_string();
        assert!(message.contains("did you mean `capacity.containers`?"), "{message}");
    }

    #[test]
    fn values_that_cannot_work_are_refused_by_name() {
        for (text, key) in [
            ("state_dir = 'x'", "state_dir"),
            ("[ids]\nfirst = 5", "ids.first"),
            ("[ids]\nlast = 5", "ids.last"),
            ("log = 'insula_node=loud'", "log"),
            ("[network]\nrange4 = '10.87.0.0/33'", "network.range4"),
            ("[network]\nrange4 = 'fd49::/48'", "network.range4"),
            ("[network]\nbits4 = 15", "network.bits4"),
            ("[network]\nbits4 = 30", "network.bits4"),
            ("[network]\nrange6 = 'fd49::/65'", "network.range6"),
            ("[network]\nmtu = 1000", "network.mtu"),
            ("[logs]\nsegments = 1", "logs.segments"),
            ("[logs]\nsegment_size = '1KiB'", "logs.segment_size"),
            ("[images]\nscrub_rate = 5", "images.scrub_rate"),
            ("[images]\ncache_drop_after_ms = 99999999999", "images.cache_drop_after_ms"),
        ] {
            assert!(parse(text).unwrap_err().to_string().contains(key), "{text}");
        }
    }

    #[test]
    fn every_option_is_documented_and_in_the_sample() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let manual = std::fs::read_to_string(root.join("docs/configuration.md")).unwrap();
        let sample = std::fs::read_to_string(root.join("packaging/node.toml")).unwrap();
        for (key, ..) in OPTIONS {
            assert!(manual.contains(&format!("`{key}`")), "docs/configuration.md lacks {key}");
            let last = key.rsplit('.').next().unwrap();
            assert!(sample.contains(&format!("#{last} = ")), "packaging/node.toml lacks {key}");
        }
        let uncommented: String = sample
            .lines()
            .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
            .flat_map(|line| [line, "\n"])
            .collect();
        let config = parse(&uncommented).unwrap();
        assert_eq!(config.capacity.containers, CapacityConfig::default().containers);
    }
}
