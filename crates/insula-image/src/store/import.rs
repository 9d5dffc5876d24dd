//! Bringing foreign images into the store: directories, tar archives, OCI layouts and archives of them.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;

use insula_model::{ImageConfig, ImageId, MountPlan};
use jiff::Timestamp;

use super::incoming::{BeginError, Incoming, PublishError, Published};
use super::{Store, StoreFileError};
use crate::archive::{DecodedStream, KeepAll, ReadArchiveError, TarEntry, TarReader, WalkError, walk_directory};
use crate::attributes::Attributes;
use crate::draft::{NewEntry, NewKind, PresentKind, TreeLimits};
use crate::erofs::{AddEntryError, ImageWriter, WriteImageError, WrittenImage};
use crate::manifest::{ImageFile, Manifest, Provenance};
use crate::mount_target::{
    MountPlanError, MountTargetProblem, check_mount_plan, mount_target_problems, self_and_above,
};
use crate::oci::{OciImage, OciImportError, OciSource};
use crate::path::ImagePath;
use crate::progress::{Cancelled, Phase, Watch, WatchedReader};

/// An image to be imported.
#[derive(Debug)]
pub struct ImportRequest {
    /// An open directory, regular file or pipe. What it holds is found out: a directory is an OCI layout when it
    /// says so, else a root; a file is an archive of an OCI layout, what `docker save` writes, or a tar archive of a
    /// root, each plain or under gzip or zstd; a pipe is a tar archive of a root.
    pub source: File,
    /// Bounds on what comes.
    pub limits: TreeLimits,
    /// Run configuration instead of what the source says.
    pub config: Option<ImageConfig>,
    /// Mount plan instead of what the source says.
    pub mount_plan: Option<MountPlan>,
    /// Which image of an OCI layout that holds several, by its reference name.
    pub reference: Option<String>,
}

impl ImportRequest {
    /// What the source says, within the standard limits.
    #[must_use]
    pub fn of(source: File) -> Self {
        Self { source, limits: TreeLimits::standard(), config: None, mount_plan: None, reference: None }
    }
}

/// An imported version.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The version.
    pub published: Published,
    /// Mount targets that are no directories of the image: containers of it cannot start as it is.
    pub problems: Vec<MountTargetProblem>,
    /// Extended attributes of name spaces that an image cannot hold: they are not in it.
    pub dropped_attributes: u64,
}

/// An image could not be imported; nothing of it is left.
#[derive(Debug, thiserror::Error)]
#[error("import image {id}")]
pub struct ImportError {
    /// The version.
    pub id: ImageId,
    /// Why not.
    #[source]
    pub cause: Box<ImportCause>,
}

/// Why an image could not be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportCause {
    /// Its name is taken.
    #[error(transparent)]
    Begin(#[from] BeginError),
    /// A file of the store could not be used.
    #[error(transparent)]
    File(#[from] StoreFileError),
    /// The source could not be read.
    #[error("read the source")]
    Source(#[source] io::Error),
    /// The source is neither a directory nor a file nor a pipe.
    #[error("the source is neither a directory nor a file nor a pipe")]
    SourceKind,
    /// The archive is at fault.
    #[error(transparent)]
    Archive(#[from] ReadArchiveError),
    /// The OCI image is at fault.
    #[error(transparent)]
    Oci(#[from] OciImportError),
    /// The directory cannot be an image.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// An entry cannot be part of an image, or the disk is full.
    #[error(transparent)]
    Entry(#[from] AddEntryError),
    /// The whole cannot be an image, or the disk is full.
    #[error(transparent)]
    Image(#[from] WriteImageError),
    /// The mount plan is none.
    #[error(transparent)]
    MountPlan(#[from] MountPlanError),
    /// It could not be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// It was asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// What a source says about its image, beside the entries that went into the writer.
#[derive(Debug, Default)]
struct SourceFacts {
    provenance: Provenance,
    config: Option<ImageConfig>,
    mount_plan: Option<MountPlan>,
    dropped_attributes: u64,
}

impl Store {
    /// Imports an image.
    ///
    /// # Errors
    ///
    /// Names what is at fault; see [`ImportCause`]. Nothing of the image is left then.
    pub fn import(
        &self,
        id: &ImageId,
        request: ImportRequest,
        now: Timestamp,
        watch: Watch<'_>,
    ) -> Result<Imported, ImportError> {
        self.import_inner(id, request, now, watch).map_err(|cause| {
            let cause = if watch.is_cancelled() { ImportCause::Cancelled(Cancelled) } else { cause };
            ImportError { id: id.clone(), cause: Box::new(cause) }
        })
    }

    fn import_inner(
        &self,
        id: &ImageId,
        request: ImportRequest,
        now: Timestamp,
        watch: Watch<'_>,
    ) -> Result<Imported, ImportCause> {
        if let Some(plan) = &request.mount_plan {
            check_mount_plan(plan)?;
        }
        let incoming = self.begin(id)?;
        let mut writer = ImageWriter::new(incoming.create_image_file()?, request.limits.clone())?;
        let facts = read_source(&incoming, &request, &mut writer, watch)?;
        let mount_plan = request.mount_plan.or(facts.mount_plan).unwrap_or_else(MountPlan::default_plan);
        check_mount_plan(&mount_plan)?;
        add_missing_places(&mut writer, &mount_plan)?;
        let image = writer.finish()?;
        let manifest = manifest_of(
            id.clone(),
            image,
            facts.provenance,
            request.config.or(facts.config).unwrap_or_default(),
            mount_plan,
        );
        let problems = mount_target_problems(&manifest.tree, &manifest.mount_plan);
        let published = self.publish(incoming, &manifest, now, watch)?;
        Ok(Imported { published, problems, dropped_attributes: facts.dropped_attributes })
    }
}

/// The manifest of a written image.
pub(crate) fn manifest_of(
    id: ImageId,
    image: WrittenImage,
    provenance: Provenance,
    config: ImageConfig,
    mount_plan: MountPlan,
) -> Manifest {
    let file = ImageFile {
        bytes: image.bytes,
        sha256: image.sha256,
        metadata_offset: image.metadata_offset,
        metadata_sha256: image.metadata_sha256,
    };
    Manifest { id, file, provenance, config, mount_plan, tree: image.tree }
}

/// Makes the plan's places that nobody brought: directories of root, `/root` closed to others. What is in the way of
/// one is left as it is and found by [`mount_target_problems`].
pub(crate) fn add_missing_places(writer: &mut ImageWriter, plan: &MountPlan) -> Result<(), AddEntryError> {
    for place in &plan.places {
        let Ok(path) = ImagePath::parse(&place.path) else { continue };
        let blocked = |above: &ImagePath| !matches!(writer.kind(above), None | Some(PresentKind::Directory));
        if writer.kind(&path).is_some() || self_and_above(&path).iter().any(blocked) {
            continue;
        }
        let mode = match place.path.as_str() {
            "/root" => 0o700,
            "/tmp" => 0o1777,
            _ => 0o755,
        };
        let entry = NewEntry { kind: NewKind::Directory, attributes: Attributes::of_root(mode) };
        writer.add(path, entry, &mut io::empty())?;
    }
    Ok(())
}

fn read_source(
    incoming: &Incoming,
    request: &ImportRequest,
    writer: &mut ImageWriter,
    watch: Watch<'_>,
) -> Result<SourceFacts, ImportCause> {
    let mut source = &request.source;
    let stat = source.metadata().map_err(ImportCause::Source)?;
    let kind = stat.file_type();
    if kind.is_dir() {
        return match OciSource::open_directory(source)? {
            Some(layout) => read_oci(&layout, writer, request, watch),
            None => {
                watch.report(Phase::Import, 0, None)?;
                let report = walk_directory(source.as_fd(), writer, &mut KeepAll)?;
                Ok(SourceFacts { dropped_attributes: report.dropped_attributes, ..SourceFacts::default() })
            }
        };
    }
    if kind.is_file() {
        let spool = || incoming.create_work_file("archive.tar");
        if let Some(layout) = OciSource::open_archive(source, &request.limits, spool, watch)? {
            return read_oci(&layout, writer, request, watch);
        }
        source.rewind().map_err(ImportCause::Source)?;
        return read_tar(source, Some(stat.len()), writer, request, watch);
    }
    if std::os::unix::fs::FileTypeExt::is_fifo(&kind) || std::os::unix::fs::FileTypeExt::is_socket(&kind) {
        return read_tar(source, None, writer, request, watch);
    }
    Err(ImportCause::SourceKind)
}

fn read_tar(
    source: impl Read,
    total: Option<u64>,
    writer: &mut ImageWriter,
    request: &ImportRequest,
    watch: Watch<'_>,
) -> Result<SourceFacts, ImportCause> {
    let stream = DecodedStream::open(WatchedReader::new(source, watch, Phase::Import, total), &request.limits)?;
    let totals = stream.totals();
    let mut tar = TarReader::new(stream);
    while let Some(TarEntry { path, entry }) = tar.next_entry()? {
        writer.add(path, entry, &mut tar.content())?;
    }
    let provenance = Provenance { archive: Some(totals.sha256()), ..Provenance::default() };
    Ok(SourceFacts { provenance, dropped_attributes: tar.dropped_attributes(), ..SourceFacts::default() })
}

fn read_oci(
    layout: &OciSource,
    writer: &mut ImageWriter,
    request: &ImportRequest,
    watch: Watch<'_>,
) -> Result<SourceFacts, ImportCause> {
    let OciImage { config, mount_plan, manifest_sha256, dropped_attributes } =
        layout.import(writer, &request.limits, request.reference.as_deref(), watch)?;
    let provenance = Provenance { archive: manifest_sha256, ..Provenance::default() };
    Ok(SourceFacts { provenance, config: Some(config), mount_plan, dropped_attributes })
}
