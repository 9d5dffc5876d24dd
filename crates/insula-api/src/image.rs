//! Images on the wire.

use insula_model::{Bytes, ImageConfig, ImageId, ImageName, ImageVersion, MountPlan, Sha256Digest, Stage};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::image_signature::SignatureView;

/// One version of an image.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ImageView {
    /// `name@version`.
    pub image: ImageId,
    /// Name.
    pub name: ImageName,
    /// Version.
    pub version: ImageVersion,
    /// Whether it is what `name` alone means.
    pub default: bool,
    /// Where it stands.
    pub stage: Stage,
    /// SHA-256 of the canonical manifest.
    pub digest: Sha256Digest,
    /// SHA-256 of the tree without offsets: equal for equal content.
    pub tree_digest: Sha256Digest,
    /// Size of the image file.
    pub size: Bytes,
    /// Files, directories, links and devices in it.
    pub entries: u64,
    /// When it was published.
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
    /// Who vouches for it at this stage.
    pub signature: SignatureView,
    /// Set when a check found it damaged: it starts no containers.
    pub damaged: Option<String>,
    /// How to run it.
    pub config: ImageConfig,
    /// Its writable places.
    pub mount_plan: MountPlan,
    /// Last test.
    pub test: Option<TestReport>,
    /// Containers that name it.
    pub used_by: Vec<String>,
}

/// Result of `image test`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TestReport {
    /// Whether every check passed.
    pub passed: bool,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// One line per check.
    pub checks: Vec<String>,
}

/// `POST /v1/images/{name}/{version}/import`: 202 with an operation; the archive goes over the attach socket.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ImportImage {
    /// Absolute path on the node instead of a file of the client's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Which image of an OCI layout that holds several, by its reference name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Run configuration instead of what the source says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<ImageConfig>,
    /// Writable places instead of what the source says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount_plan: Option<MountPlan>,
}

/// Result of the operations that import and build.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NewImage {
    /// What is in the store now.
    pub image: ImageView,
    /// What the user should know, such as mount targets that are no directories.
    pub warnings: Vec<String>,
}

/// `GET /v1/images/{name}/{version}/diff`: from this version to the other.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct DiffQuery {
    /// The other version, as `name@version`.
    #[param(value_type = String)]
    pub to: ImageId,
}

/// Result of `image gc`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CollectedImages {
    /// Versions that are gone.
    pub removed: Vec<ImageId>,
    /// Versions that are still there.
    pub kept: Vec<ImageId>,
    /// Bytes of disk that came free.
    pub freed_bytes: u64,
}

/// `POST /v1/images/build`: 202 with an operation.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BuildImage {
    /// The recipe (TOML).
    pub recipe: String,
    /// Absolute directory on the node that relative paths of the recipe start from.
    pub directory: String,
    /// Whether exactly the packages of `NAME.lock` in that directory are wanted, where the recipe names no lock.
    #[serde(default)]
    pub locked: bool,
}

/// `GET /v1/images/{name}/{version}/lock`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ImageLock {
    /// Image.
    pub image: ImageId,
    /// The lock, as it belongs into a file beside the recipe.
    pub lock: String,
}

/// `POST /v1/images/{name}/{version}/export`: 202 with an operation.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportImage {
    /// What to write.
    pub format: ExportFormat,
    /// Absolute path on the node; the client's file over the attach socket when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// Forms of an exported image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ExportFormat {
    /// The tree as a tar archive.
    Tar,
    /// The same under gzip.
    TarGz,
    /// The same under zstd.
    TarZst,
    /// An OCI image layout directory.
    OciDirectory,
    /// An OCI image layout in a tar archive.
    OciArchive,
}

/// `PUT /v1/images/{name}/default`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DefaultImage {
    /// The version that `name` alone is to mean.
    pub version: ImageVersion,
}

/// Result of `image verify`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct VerifyReport {
    /// Image.
    pub image: ImageId,
    /// Whether every byte is as published.
    pub intact: bool,
    /// Bytes read.
    pub bytes: u64,
    /// Files whose content differs, or `metadata`, or `manifest`.
    pub damaged: Vec<String>,
    /// What its signature is worth.
    pub signature: SignatureView,
}

/// Result of `image diff`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ImageDiff {
    /// Older side.
    pub from: ImageId,
    /// Newer side.
    pub to: ImageId,
    /// In path order.
    pub changes: Vec<ChangedPath>,
    /// `name old -> new` for each package that differs.
    pub packages: Vec<String>,
    /// Differences of configuration and mount plan, one line each.
    pub config: Vec<String>,
}

/// A path that differs between two versions.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ChangedPath {
    /// Absolute path.
    pub path: String,
    /// How.
    pub change: PathChange,
}

/// Kinds of difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PathChange {
    /// Only on the newer side.
    Added,
    /// Only on the older side.
    Removed,
    /// Other content.
    Content,
    /// Same content, other owner, mode, time, type or attributes.
    Metadata,
}

/// Result of `image usage`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ImageUsage {
    /// Image.
    pub image: ImageId,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Bytes of the image file in the page cache, where the kernel tells: on top of those of the mount, and given back
    /// soon.
    pub cached_bytes: Option<u64>,
    /// Bytes of its files in the page cache of the one mount that all containers share; absent when it is not mounted
    /// or the kernel does not tell.
    pub mount_cached_bytes: Option<u64>,
    /// Containers that run it now.
    pub running: u64,
    /// Containers that name it.
    pub containers: Vec<String>,
}
