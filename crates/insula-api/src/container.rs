//! Containers on the wire.

use std::collections::BTreeMap;

use insula_model::{
    ContainerId, ContainerName, ContainerSpec, ContainerState, Health, IdRange, ImageId, ImageRef, ResourceSpec, Signal,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::AttachToken;

/// `POST /v1/containers`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateContainer {
    /// Name; the daemon makes one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<ContainerName>,
    /// What it is to be.
    pub spec: ContainerSpec,
    /// Refuse an unknown image version instead of falling back to the default version.
    #[serde(default)]
    pub strict: bool,
    /// Delete it when it ends. Such a container is never written to the store.
    #[serde(default)]
    pub remove: bool,
    /// Answer with a token for the attach socket; attaching starts the container.
    #[serde(default)]
    pub attach: bool,
    /// Start it at once (without attachment).
    #[serde(default)]
    pub start: bool,
}

/// Answer to [`CreateContainer`].
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CreatedContainer {
    /// Its id.
    #[schema(value_type = String)]
    pub id: ContainerId,
    /// Its name.
    pub name: ContainerName,
    /// The image version it will run.
    pub image: ImageId,
    /// What the user should know, such as a fall-back to the default version.
    pub warnings: Vec<String>,
    /// Present when `attach` was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach_token: Option<AttachToken>,
}

/// `GET /v1/containers`
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    /// Only those that match every `key=value`: `state`, `name` (prefix), `image`, `label` (as `label=KEY:VALUE`);
    /// several are separated by commas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
}

/// One container in `list`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ContainerSummary {
    /// Name.
    pub name: ContainerName,
    /// Id.
    pub id: ContainerId,
    /// State.
    pub state: ContainerState,
    /// What runs or ran last.
    pub image: ImageId,
    /// What ran before the last successful change of image.
    pub previous_image: Option<ImageId>,
    /// What the next start runs, when that differs from `image`.
    pub next_image: Option<ImageRef>,
    /// Host process id of its process 1.
    pub pid: Option<u32>,
    /// IPv4 address without prefix length.
    pub address: Option<String>,
    /// IPv6 address without prefix length.
    pub address6: Option<String>,
    /// Exit code of the last run; 128+n for signal n.
    pub exit_code: Option<i32>,
    /// Why the exit code is unknown, or why it failed.
    pub reason: Option<String>,
    /// When it was created.
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
    /// When it was last started.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started: Option<Timestamp>,
    /// When it last ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished: Option<Timestamp>,
    /// Host id of its root user.
    pub uid_base: u32,
    /// Its control group, relative to each hierarchy's mount.
    pub cgroup: String,
    /// Published ports.
    pub ports: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Starts in a row by the restart policy.
    pub restarts: u32,
    /// What its health check says of it while it runs; absent without a check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
}

/// `GET /v1/containers/{name}`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ContainerView {
    /// What `list` says of it.
    #[serde(flatten)]
    pub summary: ContainerSummary,
    /// Its configuration.
    pub spec: ContainerSpec,
    /// What it may use, its template and the node's defaults applied.
    pub effective_resources: ResourceSpec,
    /// By the key of each value's setting, where it came from: `container`, `template NAME` or `node`.
    pub resource_origins: BTreeMap<String, String>,
    /// Host ids.
    pub ids: IdRange,
    /// Persistent data directory on the host.
    pub data_path: String,
    /// Command line that runs, image configuration applied.
    pub effective_command: Vec<String>,
    /// Current use of resources while it runs.
    pub usage: Option<ResourceUsage>,
}

/// What a container holds now (`stats`).
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct ResourceUsage {
    /// Bytes charged to its memory control group.
    pub memory_bytes: u64,
    /// Greatest such amount since the start.
    pub memory_peak_bytes: Option<u64>,
    /// Its limit; absent when there is none.
    pub memory_limit_bytes: Option<u64>,
    /// Times the limit was hit.
    pub memory_fail_count: Option<u64>,
    /// Processor time used, in microseconds.
    pub cpu_usec: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Most processes and threads.
    pub pids_limit: Option<u64>,
}

/// `POST /v1/containers/{name}/start`
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StartRequest {
    /// Answer with a token for the attach socket; attaching starts it.
    pub attach: bool,
}

/// Answer to `start` and `restart`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct StartedContainer {
    /// The container now.
    #[serde(flatten)]
    pub container: ContainerSummary,
    /// Present when `attach` was asked for; it is started by attaching.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach_token: Option<AttachToken>,
    /// What the user should know, such as that a changed image failed and the last good one runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// `POST /v1/containers/{name}/stop` and `/restart`
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StopRequest {
    /// Milliseconds from the stop signal to the kill; the container's own when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// `POST /v1/containers/{name}/kill`
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KillRequest {
    /// `SIGKILL` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<Signal>,
}

/// `POST /v1/containers/{name}/rename`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenameRequest {
    /// The new name.
    pub name: ContainerName,
}

/// `DELETE /v1/containers/{name}`
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
pub struct DeleteQuery {
    /// Kill it first if it runs.
    pub force: bool,
}

/// `PATCH /v1/containers/{name}`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetRequest {
    /// Settings by key, such as `image` or `memory.limit`; all are taken or none.
    pub settings: BTreeMap<String, String>,
}

/// Answer to [`SetRequest`].
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SetResult {
    /// Keys that act at once.
    pub live: Vec<String>,
    /// Keys that act at the next start.
    pub at_next_start: Vec<String>,
}

/// `POST /v1/containers/{name}/upgrade` and `/rollback` (without image: the previous one): 202 with an operation
/// whose result is an [`UpgradeResult`].
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpgradeRequest {
    /// The image to change to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageRef>,
    /// Command that must exit 0 in the upgraded container; the container's or image's own check when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Vec<String>>,
    /// Milliseconds until it must be healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
}

/// Result of the operation that an [`UpgradeRequest`] began.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct UpgradeResult {
    /// What runs now, or ran last.
    pub image: ImageId,
    /// What ran before.
    pub previous_image: Option<ImageId>,
    /// What a container that does not run will start with, when it is another.
    #[serde(default)]
    pub next_image: Option<ImageId>,
    /// Why the change was taken back, if it was.
    pub rolled_back: Option<String>,
}

/// What `wait` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WaitCondition {
    /// It is not running.
    #[default]
    Stopped,
    /// It runs.
    Running,
    /// It runs and its health check passed.
    Healthy,
    /// It is gone.
    Deleted,
}

/// `GET /v1/containers/{name}/wait`
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
pub struct WaitQuery {
    /// Condition.
    pub condition: WaitCondition,
    /// Most milliseconds to wait; without end when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// Answer to [`WaitQuery`].
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct WaitResult {
    /// State at the end of the wait.
    pub state: Option<ContainerState>,
    /// Exit code, when it ended.
    pub exit_code: Option<i32>,
}

/// `GET /v1/containers/{name}/logs`: [`LogLine`]s as JSON lines.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
pub struct LogsQuery {
    /// Go on with what comes.
    pub follow: bool,
    /// Only what is younger: RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Only the last so many lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tail: Option<u64>,
}

/// `GET` and `PUT /v1/containers/{name}/archive`: files as a tar stream.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ArchiveQuery {
    /// Absolute path in the container.
    pub path: String,
}

/// Which stream a line of the log came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A piece of the log; bytes that are not UTF-8 arrive as U+FFFD.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// When it was read from the container.
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// Its stream.
    pub stream: LogStream,
    /// Text, with its line end if it had one.
    pub text: String,
    /// Bytes lost just before this piece because the container wrote too fast.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_bytes: Option<u64>,
}

/// A process in `top`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ProcessRow {
    /// Host process id.
    pub pid: u32,
    /// Process id inside.
    pub inner_pid: u32,
    /// Host process id of its parent.
    pub parent: u32,
    /// User id inside.
    pub uid: u32,
    /// State letter as in `/proc/PID/stat`.
    pub state: String,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// Processor time used, in milliseconds.
    pub cpu_ms: u64,
    /// Command line.
    pub command: String,
}

/// `GET /v1/whois`: exactly one field.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
pub struct WhoisQuery {
    /// A host process id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// `IP` or `IP:PORT` or `[IP6]:PORT`; a container's own, or a published port of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// A host path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// A host group id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

/// Answer to [`WhoisQuery`].
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct WhoisAnswer {
    /// Container.
    pub name: ContainerName,
    /// Its id.
    pub id: ContainerId,
    /// How it was found, such as `control group of process 4711`.
    pub by: String,
}
