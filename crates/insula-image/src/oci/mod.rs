//! OCI images: layouts in directories and archives come in, layouts go out.
//!
//! ```text
//!  index.json ─▶ (nested index) ─▶ manifest ─▶ config  ─▶ ImageConfig
//!                                      └─────▶ layers  ─▶ top one first ─▶ ImageWriter
//! ```
//!
//! Every blob is asked for by the digest that its referrer names, and its bytes are hashed while they are read. A
//! digest becomes part of a file name only after it was parsed as 64 hexadecimal digits. Layers are read top first,
//! so that what upper layers hide is never written. What `docker save` writes is read too.
//!
//! Registries are not known here.

mod config;
mod document;
mod export;
mod import;
mod layers;
mod source;
#[cfg(test)]
mod tests;

pub use config::ConvertConfigError;
pub(crate) use config::refuse_nul;
pub use export::{ExportOciError, LayerCompression, OciExport, OciTarget, export_oci};
pub use import::{LayerCause, OciImage, OciImportError};
pub use source::OciSource;

/// Names of the files of a layout.
const LAYOUT_FILE: &str = "oci-layout";
const INDEX_FILE: &str = "index.json";
/// Name of the table of contents of what `docker save` writes.
const DOCKER_MANIFEST_FILE: &str = "manifest.json";

/// Most bytes of an index, a manifest or a configuration.
const DOCUMENT_BYTES_MAX: u64 = 4 << 20;
/// Most layers of an image.
const LAYERS_MAX: usize = 512;
/// Deepest nesting of indexes.
const INDEX_DEPTH_MAX: usize = 4;

const MEDIA_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MEDIA_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const MEDIA_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MEDIA_DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const MEDIA_DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Annotations by which our own exports keep what OCI has no field for; JSON of the types of `insula-model`.
const ANNOTATION_CONFIG: &str = "insula.config";
const ANNOTATION_MOUNT_PLAN: &str = "insula.mount-plan";
/// Annotation of an index entry: the image's name in the layout.
const ANNOTATION_REFERENCE: &str = "org.opencontainers.image.ref.name";

/// This machine's architecture as OCI names it.
fn machine() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
