//! Bringing foreign images into the store: directories, tar archives, OCI layouts and archives of them.

use std::fs::File;

use insula_model::{ImageConfig, ImageId, MountPlan};
use jiff::Timestamp;

use super::incoming::{BeginError, PublishError, Published};
use super::{Store, StoreFileError};
use crate::convert::{Conversion, ConversionOrder, Convert, ConvertError, Converted, InProcess};
use crate::draft::TreeLimits;
use crate::mount_target::{MountPlanError, MountTargetProblem, check_mount_plan, mount_target_problems};
use crate::progress::{Cancelled, Watch};

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
    /// Who reads it.
    pub converter: Box<dyn Convert>,
}

impl ImportRequest {
    /// What the source says, within the standard limits, read by this process.
    #[must_use]
    pub fn of(source: File) -> Self {
        let limits = TreeLimits::standard();
        Self { source, limits, config: None, mount_plan: None, reference: None, converter: Box::new(InProcess) }
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
    /// The source is at fault, the disk is full, or whoever converts it failed.
    #[error(transparent)]
    Convert(#[from] ConvertError),
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
        let order =
            ConversionOrder { limits: request.limits, mount_plan: request.mount_plan, reference: request.reference };
        let conversion = Conversion {
            id: id.clone(),
            source: request.source,
            image: incoming.create_image_file()?,
            spool: incoming.create_work_file("archive.tar")?,
            hand_over: incoming.create_work_file("manifest.cbor")?,
            order,
        };
        let Converted { mut image, dropped_attributes } = request.converter.convert(conversion, watch)?;
        if let Some(config) = request.config {
            image.manifest.config = config;
        }
        let problems = mount_target_problems(&image.manifest.tree, &image.manifest.mount_plan);
        let published = self.publish(incoming, image, now, watch)?;
        Ok(Imported { published, problems, dropped_attributes })
    }
}
