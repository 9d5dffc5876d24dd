//! Writing versions out: tar archives and OCI layouts.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;

use insula_model::{Bytes, ImageId};

use super::medium::{StoreFileError, remove_tree};
use super::{IMAGE_FILE, ReadManifestError, Store, UnknownImageError};
use crate::archive::{Compression, WriteTarError, write_tar};
use crate::oci::{ExportOciError, LayerCompression, OciTarget, export_oci};
use crate::progress::{Cancelled, Phase, Watch};

/// What an export writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportFormat {
    /// A tar archive of the root.
    Tar(Compression),
    /// An OCI layout of one layer: into a directory, or as a tar archive when the target is a file.
    Oci(LayerCompression),
}

/// An image could not be exported. The target may hold a part of it.
#[derive(Debug, thiserror::Error)]
#[error("export image {id}")]
pub struct ExportError {
    /// The version.
    pub id: ImageId,
    /// Why not.
    #[source]
    pub cause: ExportCause,
}

/// Why an image could not be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportCause {
    /// It is not there, or its manifest cannot be read.
    #[error(transparent)]
    Manifest(Box<ReadManifestError>),
    /// A file of the store could not be used.
    #[error(transparent)]
    File(#[from] StoreFileError),
    /// The archive could not be written.
    #[error(transparent)]
    Tar(#[from] WriteTarError),
    /// The layout could not be written.
    #[error(transparent)]
    Oci(#[from] ExportOciError),
    /// The target could not be written.
    #[error("write to the target")]
    Target(#[source] io::Error),
    /// A tar archive was to go into a directory.
    #[error("the target is a directory; a tar archive goes into a file")]
    TargetIsDirectory,
    /// It was asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl Store {
    /// Writes a version to `target`, an empty file or directory or a pipe; gives the bytes that went out.
    ///
    /// # Errors
    ///
    /// See the variants of [`ExportCause`].
    pub fn export(
        &self,
        id: &ImageId,
        format: ExportFormat,
        target: &File,
        watch: Watch<'_>,
    ) -> Result<Bytes, ExportError> {
        self.export_inner(id, format, target, watch).map_err(|cause| {
            let cause = if watch.is_cancelled() { ExportCause::Cancelled(Cancelled) } else { cause };
            ExportError { id: id.clone(), cause }
        })
    }

    fn export_inner(
        &self,
        id: &ImageId,
        format: ExportFormat,
        target: &File,
        watch: Watch<'_>,
    ) -> Result<Bytes, ExportCause> {
        let unknown = |error: UnknownImageError| ExportCause::Manifest(Box::new(error.into()));
        let _hold = self.hold(id).map_err(unknown)?;
        let manifest = self.manifest(id).map_err(|error| ExportCause::Manifest(Box::new(error)))?;
        let path = self.layout.version(id).join(IMAGE_FILE);
        let image = File::open(&path).map_err(StoreFileError::on("open", &path))?;
        let into_directory = target.metadata().map_err(ExportCause::Target)?.is_dir();
        let total = manifest.tree.content_bytes();
        match format {
            ExportFormat::Tar(_) if into_directory => Err(ExportCause::TargetIsDirectory),
            ExportFormat::Tar(compression) => {
                let mut out = Watched { out: BufWriter::with_capacity(256 << 10, target), bytes: 0, watch, total };
                write_compressed(compression, &mut out, |tar| write_tar(&image, &manifest.tree, tar).map(|_| ()))?;
                out.flush().map_err(ExportCause::Target)?;
                Ok(Bytes(out.bytes))
            }
            ExportFormat::Oci(compression) => {
                let (dir, mut scratch) = self.scratch_file()?;
                let mut out = BufWriter::with_capacity(256 << 10, target);
                let oci_target =
                    if into_directory { OciTarget::Directory(target.as_fd()) } else { OciTarget::Archive(&mut out) };
                let exported = export_oci((&image, &manifest), compression, &mut scratch, oci_target, watch);
                remove_tree(&dir)?;
                out.flush().map_err(ExportCause::Target)?;
                Ok(Bytes(exported?.layer_bytes))
            }
        }
    }
}

/// Runs `write` with a writer that compresses into `out`.
fn write_compressed(
    compression: Compression,
    out: &mut dyn Write,
    write: impl FnOnce(&mut dyn Write) -> Result<(), WriteTarError>,
) -> Result<(), ExportCause> {
    match compression {
        Compression::None => write(out)?,
        Compression::Gzip => {
            let mut encoder = flate2::GzBuilder::new().write(out, flate2::Compression::default());
            write(&mut encoder)?;
            encoder.finish().map_err(ExportCause::Target)?;
        }
        Compression::Zstd => {
            let mut encoder = zstd::stream::write::Encoder::new(out, 3).map_err(ExportCause::Target)?;
            write(&mut encoder)?;
            encoder.finish().map_err(ExportCause::Target)?;
        }
    }
    Ok(())
}

/// A writer whose progress is watched; once cancelled, it fails.
struct Watched<'export, W> {
    out: W,
    bytes: u64,
    watch: Watch<'export>,
    total: u64,
}

impl<W: Write> Write for Watched<'_, W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.out.write(buffer)?;
        let before = self.bytes;
        self.bytes += u64::try_from(written).map_err(io::Error::other)?;
        if before >> 20 != self.bytes >> 20 {
            self.watch.report(Phase::Export, self.bytes, Some(self.total)).map_err(io::Error::other)?;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
