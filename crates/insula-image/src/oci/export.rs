//! Writing an image out as an OCI layout of one layer, the same bytes each time.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd};

use insula_model::Sha256Digest;
use jiff::Timestamp;
use rustix::fs::{Mode, OFlags, mkdirat, openat};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::config::to_oci;
use super::{
    ANNOTATION_CONFIG, ANNOTATION_MOUNT_PLAN, ANNOTATION_REFERENCE, INDEX_FILE, LAYOUT_FILE, MEDIA_CONFIG, MEDIA_INDEX,
    MEDIA_MANIFEST, machine,
};
use crate::archive::{WriteTarError, write_tar};
use crate::manifest::Manifest;
use crate::progress::{Cancelled, Phase, Watch};

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerCompression {
    /// What everything reads.
    Gzip,
    /// Smaller and several times as fast.
    Zstd,
}

/// Where a layout goes.
pub enum OciTarget<'target> {
    /// An empty directory.
    Directory(BorrowedFd<'target>),
    /// A tar archive.
    Archive(&'target mut dyn Write),
}

impl std::fmt::Debug for OciTarget<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Directory(_) => "Directory",
            Self::Archive(_) => "Archive",
        })
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OciExport {
    /// Digest of the OCI manifest, by which other programs name the image.
    pub manifest_sha256: Sha256Digest,
    /// Bytes of the compressed layer.
    pub layer_bytes: u64,
    /// Sockets: tar has no type for them.
    pub sockets_left_out: u64,
}

/// An image could not be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportOciError {
    /// The layer could not be written.
    #[error("write the layer")]
    Layer(#[source] WriteTarError),
    /// A file of the layout could not be written.
    #[error("write {file}")]
    Write {
        /// Which.
        file: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The target directory has something of that name already.
    #[error("{file} exists in the target directory already; use an empty directory")]
    NotEmpty {
        /// Which.
        file: String,
    },
    /// It was asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Counts and hashes what goes by, and tells of it.
struct Measured<'watch, W> {
    out: W,
    hash: Sha256,
    bytes: u64,
    watched: Option<(Watch<'watch>, u64)>,
}

impl<'watch, W: Write> Measured<'watch, W> {
    fn new(out: W, watched: Option<(Watch<'watch>, u64)>) -> Self {
        Self { out, hash: Sha256::new(), bytes: 0, watched }
    }

    fn digest(self) -> (Sha256Digest, u64, W) {
        (Sha256Digest(self.hash.finalize().into()), self.bytes, self.out)
    }
}

impl<W: Write> Write for Measured<'_, W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.out.write(buffer)?;
        self.hash.update(&buffer[..written]);
        let before = self.bytes;
        self.bytes += u64::try_from(written).map_err(io::Error::other)?;
        if let Some((watch, total)) = &self.watched
            && before >> 20 != self.bytes >> 20
        {
            watch.report(Phase::Export, self.bytes, Some(*total)).map_err(io::Error::other)?;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

struct WrittenLayer {
    digest: Sha256Digest,
    bytes: u64,
    diff_id: Sha256Digest,
    sockets_left_out: u64,
}

/// gzip's and zstd's own defaults.
const GZIP_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;

fn write_layer(
    image: &File,
    manifest: &Manifest,
    compression: LayerCompression,
    out: &mut File,
    watch: Watch<'_>,
) -> Result<WrittenLayer, ExportOciError> {
    let failed = |source| ExportOciError::Write { file: "the layer".to_owned(), source };
    let watched = Some((watch, manifest.tree.content_bytes()));
    let compressed = Measured::new(io::BufWriter::with_capacity(256 << 10, out), None);
    let (report, diff_id, compressed) = match compression {
        LayerCompression::Gzip => {
            // No name and no time in its header.
            let encoder = flate2::GzBuilder::new().write(compressed, flate2::Compression::new(GZIP_LEVEL));
            let mut tar = Measured::new(encoder, watched);
            let report = write_tar(image, &manifest.tree, &mut tar).map_err(ExportOciError::Layer)?;
            let (diff_id, _, encoder) = tar.digest();
            (report, diff_id, encoder.finish().map_err(failed)?)
        }
        LayerCompression::Zstd => {
            let encoder = zstd::stream::write::Encoder::new(compressed, ZSTD_LEVEL).map_err(failed)?;
            let mut tar = Measured::new(encoder, watched);
            let report = write_tar(image, &manifest.tree, &mut tar).map_err(ExportOciError::Layer)?;
            let (diff_id, _, encoder) = tar.digest();
            (report, diff_id, encoder.finish().map_err(failed)?)
        }
    };
    let (digest, bytes, mut out) = compressed.digest();
    out.flush().map_err(failed)?;
    Ok(WrittenLayer { digest, bytes, diff_id, sockets_left_out: report.sockets_left_out })
}

/// A document and its name as a blob.
struct Document {
    bytes: Vec<u8>,
    digest: Sha256Digest,
}

impl Document {
    fn new(json: &Value) -> Self {
        let bytes = json.to_string().into_bytes();
        let digest = Sha256Digest(Sha256::digest(&bytes).into());
        Self { bytes, digest }
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": self.digest, "size": self.bytes.len()})
    }
}

fn config_document(manifest: &Manifest, layer: &WrittenLayer) -> Document {
    let epoch = manifest.provenance.source_date_epoch.unwrap_or(0);
    let created = i64::try_from(epoch).ok().and_then(|second| Timestamp::from_second(second).ok());
    let created = created.unwrap_or_default().to_string();
    Document::new(&json!({
        "created": created,
        "architecture": machine(),
        "os": "linux",
        "config": to_oci(&manifest.config),
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        "history": [{"created": created, "created_by": format!("insula image export {}", manifest.id)}],
    }))
}

fn manifest_document(manifest: &Manifest, config: &Document, layer: &WrittenLayer, kind: LayerCompression) -> Document {
    let suffix = match kind {
        LayerCompression::Gzip => "gzip",
        LayerCompression::Zstd => "zstd",
    };
    // Types of plain data with text keys always have a JSON form.
    let text = |json: Result<String, serde_json::Error>| json.unwrap_or_default();
    Document::new(&json!({
        "schemaVersion": 2,
        "mediaType": MEDIA_MANIFEST,
        "config": config.descriptor(MEDIA_CONFIG),
        "layers": [{
            "mediaType": format!("application/vnd.oci.image.layer.v1.tar+{suffix}"),
            "digest": layer.digest,
            "size": layer.bytes,
        }],
        "annotations": {
            ANNOTATION_CONFIG: text(serde_json::to_string(&manifest.config)),
            ANNOTATION_MOUNT_PLAN: text(serde_json::to_string(&manifest.mount_plan)),
        },
    }))
}

/// Writes an image as an OCI layout. `image` is the image's file, `scratch` an empty file for the layer.
///
/// # Errors
///
/// See the variants of [`ExportOciError`]. A target directory may hold files then.
pub fn export_oci(
    (image, manifest): (&File, &Manifest),
    compression: LayerCompression,
    scratch: &mut File,
    target: OciTarget<'_>,
    watch: Watch<'_>,
) -> Result<OciExport, ExportOciError> {
    let layer = write_layer(image, manifest, compression, scratch, watch)
        .map_err(|error| if watch.is_cancelled() { ExportOciError::Cancelled(Cancelled) } else { error })?;
    let config = config_document(manifest, &layer);
    let oci_manifest = manifest_document(manifest, &config, &layer, compression);
    let mut descriptor = oci_manifest.descriptor(MEDIA_MANIFEST);
    descriptor["platform"] = json!({"architecture": machine(), "os": "linux"});
    descriptor["annotations"] = json!({ANNOTATION_REFERENCE: manifest.id.version});
    let index = json!({"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": [descriptor]}).to_string();
    let layout = json!({"imageLayoutVersion": "1.0.0"}).to_string();

    let mut target = LayoutWriter::new(target)?;
    target.write(LAYOUT_FILE, layout.len(), &mut layout.as_bytes())?;
    for document in [&config, &oci_manifest] {
        target.write(&blob_name(document.digest), document.bytes.len(), &mut document.bytes.as_slice())?;
    }
    let failed = |source| ExportOciError::Write { file: "the layer".to_owned(), source };
    scratch.seek(SeekFrom::Start(0)).map_err(failed)?;
    let layer_bytes = usize::try_from(layer.bytes).map_err(|error| failed(io::Error::other(error)))?;
    target.write(&blob_name(layer.digest), layer_bytes, scratch)?;
    // Last: a layout with an index is whole.
    target.write(INDEX_FILE, index.len(), &mut index.as_bytes())?;
    target.finish()?;
    let sockets_left_out = layer.sockets_left_out;
    Ok(OciExport { manifest_sha256: oci_manifest.digest, layer_bytes: layer.bytes, sockets_left_out })
}

fn blob_name(digest: Sha256Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Puts files into a directory or an archive.
enum LayoutWriter<'target> {
    Directory(BorrowedFd<'target>),
    Archive(tar::Builder<&'target mut dyn Write>),
}

impl<'target> LayoutWriter<'target> {
    fn new(target: OciTarget<'target>) -> Result<Self, ExportOciError> {
        let mut writer = match target {
            OciTarget::Directory(directory) => Self::Directory(directory),
            OciTarget::Archive(out) => Self::Archive(tar::Builder::new(out)),
        };
        for directory in ["blobs", "blobs/sha256"] {
            writer.make_directory(directory)?;
        }
        Ok(writer)
    }

    fn make_directory(&mut self, name: &str) -> Result<(), ExportOciError> {
        match self {
            Self::Directory(root) => match mkdirat(*root, name, Mode::from_raw_mode(0o755)) {
                Ok(()) => Ok(()),
                Err(rustix::io::Errno::EXIST) => Err(ExportOciError::NotEmpty { file: name.to_owned() }),
                Err(error) => Err(ExportOciError::Write { file: name.to_owned(), source: error.into() }),
            },
            Self::Archive(archive) => {
                let mut header = header(tar::EntryType::Directory, 0o755, 0);
                let added = archive.append_data(&mut header, format!("{name}/"), io::empty());
                added.map_err(|source| ExportOciError::Write { file: name.to_owned(), source })
            }
        }
    }

    fn write(&mut self, name: &str, bytes: usize, content: &mut dyn Read) -> Result<(), ExportOciError> {
        let failed = |source| ExportOciError::Write { file: name.to_owned(), source };
        match self {
            Self::Directory(root) => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd = match openat(root.as_fd(), name, flags, Mode::from_raw_mode(0o644)) {
                    Ok(fd) => fd,
                    Err(rustix::io::Errno::EXIST) => return Err(ExportOciError::NotEmpty { file: name.to_owned() }),
                    Err(error) => return Err(failed(error.into())),
                };
                let mut file = File::from(fd);
                io::copy(content, &mut file).and_then(|_| file.sync_all()).map_err(failed)
            }
            Self::Archive(archive) => {
                let bytes = u64::try_from(bytes).map_err(|error| failed(io::Error::other(error)))?;
                let mut header = header(tar::EntryType::Regular, 0o644, bytes);
                archive.append_data(&mut header, name, content).map_err(failed)
            }
        }
    }

    fn finish(self) -> Result<(), ExportOciError> {
        let failed = |source| ExportOciError::Write { file: "the archive".to_owned(), source };
        match self {
            Self::Directory(_) => Ok(()),
            Self::Archive(archive) => archive.into_inner().and_then(Write::flush).map_err(failed),
        }
    }
}

fn header(kind: tar::EntryType, mode: u32, bytes: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(bytes);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}
