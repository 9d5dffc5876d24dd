//! What travels between the node daemon and its clients.
//!
//! HTTP/JSON over a unix socket: [`paths`] says where, the types say what. Errors are RFC 9457 problem documents
//! ([`Problem`]) with a stable code. Standard streams do not go through HTTP: a client gets a one-time
//! [`AttachToken`] and hands its descriptors over on the attach socket ([`attach`]).
//!
//! Field names are snake_case, times RFC 3339 in UTC, sizes in bytes.

pub mod attach;
mod container;
mod event;
mod exec;
mod image;
mod image_signature;
mod node;
mod operation;
pub mod paths;
mod problem;

pub use attach::AttachToken;
pub use container::{
    ArchiveQuery, ContainerSummary, ContainerView, CreateContainer, CreatedContainer, DeleteQuery, KillRequest,
    ListQuery, LogLine, LogStream, LogsQuery, ProcessRow, RenameRequest, ResourceUsage, SetRequest, SetResult,
    StartRequest, StartedContainer, StopRequest, UpgradeRequest, UpgradeResult, WaitCondition, WaitQuery, WaitResult,
    WhoisAnswer, WhoisQuery,
};
pub use event::{Event, EventSubject};
pub use exec::{CreatedExec, ExecRequest};
pub use image::{
    BuildImage, ChangedPath, CollectedImages, DefaultImage, DiffQuery, ExportFormat, ExportImage, ImageDiff, ImageLock,
    ImageUsage, ImageView, ImportImage, NewImage, PathChange, TestReport, VerifyReport,
};
pub use image_signature::{ImageKeyView, ImageKeys, SignatureState, SignatureView};
pub use node::{Finding, FindingLevel, NodeBackup, NodeReport, TemplateView, VersionView};
pub use operation::{Operation, OperationKind, OperationOutput, OperationProgress, OperationState};
pub use problem::{Problem, ProblemCode};
