//! Turning foreign bytes into an image file and its manifest: the part of an import that parses.
//!
//! It is apart from the store because it needs nothing of it but three open files, so a process without privileges can
//! do it ([`Convert`]); what such a process hands back is believed only after [`check_converted`].
//!
//! ```text
//!  source ──▶ Convert ──▶ image file (written) + Manifest ──▶ check_converted ──▶ published by the store
//! ```

use std::fmt::Debug;
use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::AsFd;

use insula_model::{ImageConfig, ImageId, MountPlan};

use crate::archive::{DecodedStream, KeepAll, ReadArchiveError, TarEntry, TarReader, WalkError, walk_directory};
use crate::attributes::Attributes;
use crate::draft::{NewEntry, NewKind, PresentKind, TreeLimits};
use crate::erofs::{
    AddEntryError, BLOCK_BYTES, ImageWriter, WriteImageError, WriteMetadataError, WrittenImage, contents_in_order,
    write_metadata,
};
use crate::manifest::{DecodeManifestError, ImageFile, Manifest, Provenance, UnpublishedImage};
use crate::mount_target::{MountPlanError, check_mount_plan, self_and_above};
use crate::oci::{ConvertConfigError, OciImage, OciImportError, OciSource, refuse_nul};
use crate::path::ImagePath;
use crate::progress::{Cancelled, Phase, Watch};
use crate::store::metadata_digest;

/// What is to be converted, and into what.
#[derive(Debug)]
pub struct Conversion {
    /// Name of the image in the making.
    pub id: ImageId,
    /// An open directory, regular file or pipe; see [`crate::store::ImportRequest::source`].
    pub source: File,
    /// Empty, open for reading and writing: becomes the image file.
    pub image: File,
    /// Empty, open for reading and writing: for what must be decompressed before it can be read.
    pub spool: File,
    /// Empty, open for reading and writing: for whoever hands the manifest from process to process.
    pub hand_over: File,
    /// What to look for and how much of it.
    pub order: ConversionOrder,
}

/// How a source is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversionOrder {
    /// Bounds on what comes.
    pub limits: TreeLimits,
    /// Mount plan instead of what the source says.
    pub mount_plan: Option<MountPlan>,
    /// Which image of an OCI layout that holds several, by its reference name.
    pub reference: Option<String>,
}

/// An image that was made of a source; its file is written.
#[derive(Debug)]
pub struct Converted {
    /// What it is.
    pub image: UnpublishedImage,
    /// Extended attributes of name spaces that an image cannot hold: they are not in it.
    pub dropped_attributes: u64,
}

/// Who converts: this process, or one without its privileges.
pub trait Convert: Debug + Send + Sync {
    /// Converts a source. What was written is no image when it fails.
    ///
    /// # Errors
    ///
    /// Names what is at fault.
    fn convert(&self, conversion: Conversion, watch: Watch<'_>) -> Result<Converted, ConvertError>;
}

/// Converts in the calling process: for trusted sources, and for the process that was made for it.
#[derive(Debug, Clone, Copy)]
pub struct InProcess;

/// A source could not be converted.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The source could not be read.
    #[error("read the source")]
    Source(#[source] io::Error),
    /// The source is neither a directory nor a file nor a pipe.
    #[error("the source is neither a directory nor a file nor a pipe")]
    SourceKind,
    /// A single image of several was asked for, of a source that is none of several.
    #[error("it is no OCI layout, and holds no image named `{}`; leave --reference out", reference.escape_debug())]
    NoLayout {
        /// What was asked for.
        reference: String,
    },
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
    /// Another process converted, and says that the source is at fault.
    #[error(transparent)]
    Refused(Refusal),
    /// Another process converted, and something of this machine kept it from doing so.
    #[error(transparent)]
    Worker(Box<dyn std::error::Error + Send + Sync>),
    /// It was asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl ConvertError {
    /// Whether the source is at fault, and not the machine or whoever asked to stop.
    #[must_use]
    pub(crate) fn is_of_the_source(&self) -> bool {
        !matches!(self, Self::Worker(_) | Self::Cancelled(_) | Self::Source(_))
    }
}

/// What another process said about a source: the messages of its error and of each cause below it.
#[derive(Debug)]
pub struct Refusal {
    message: String,
    cause: Option<Box<Refusal>>,
}

impl Refusal {
    /// The error with these messages, the outermost first; none for no messages.
    #[must_use]
    pub fn of(messages: Vec<String>) -> Option<Self> {
        let wrap = |cause: Option<Self>, message| Some(Self { message, cause: cause.map(Box::new) });
        messages.into_iter().rev().fold(None, wrap)
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as &dyn std::error::Error)
    }
}

/// What a source says about its image, beside the entries that went into the writer.
#[derive(Debug, Default)]
struct SourceFacts {
    provenance: Provenance,
    config: Option<ImageConfig>,
    mount_plan: Option<MountPlan>,
    dropped_attributes: u64,
}

impl Convert for InProcess {
    fn convert(&self, conversion: Conversion, watch: Watch<'_>) -> Result<Converted, ConvertError> {
        let Conversion { id, source, image, spool, order, .. } = conversion;
        let mut writer = ImageWriter::new(image, order.limits.clone())?;
        let facts = read_source(&source, spool, &order, &mut writer, watch)?;
        let mount_plan = order.mount_plan.or(facts.mount_plan).unwrap_or_else(MountPlan::default_plan);
        check_mount_plan(&mount_plan)?;
        add_missing_places(&mut writer, &mount_plan)?;
        let image = writer.finish()?;
        let image = unpublished(id, image, facts.provenance, facts.config.unwrap_or_default(), mount_plan);
        Ok(Converted { image, dropped_attributes: facts.dropped_attributes })
    }
}

/// What a written image is, which lacks the digests that publishing finds.
pub(crate) fn unpublished(
    id: ImageId,
    image: WrittenImage,
    provenance: Provenance,
    config: ImageConfig,
    mount_plan: MountPlan,
) -> UnpublishedImage {
    let file = image.image_file();
    let manifest = Manifest { id, file, provenance, config, mount_plan, tree: image.tree };
    UnpublishedImage { manifest, contents: image.contents }
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
    mut source: &File,
    spool: File,
    order: &ConversionOrder,
    writer: &mut ImageWriter,
    watch: Watch<'_>,
) -> Result<SourceFacts, ConvertError> {
    let stat = source.metadata().map_err(ConvertError::Source)?;
    let kind = stat.file_type();
    if kind.is_dir() {
        return match OciSource::open_directory(source)? {
            Some(layout) => read_oci(&layout, writer, order, watch),
            None => {
                expect_no_reference(order)?;
                watch.report(Phase::Import, 0, None)?;
                let report = walk_directory(source.as_fd(), writer, &mut KeepAll)?;
                Ok(SourceFacts { dropped_attributes: report.dropped_attributes, ..SourceFacts::default() })
            }
        };
    }
    if kind.is_file() {
        if let Some(layout) = OciSource::open_archive(source, &order.limits, spool, watch)? {
            return read_oci(&layout, writer, order, watch);
        }
        source.rewind().map_err(ConvertError::Source)?;
        return read_tar(source, Some(stat.len()), writer, order, watch);
    }
    if std::os::unix::fs::FileTypeExt::is_fifo(&kind) || std::os::unix::fs::FileTypeExt::is_socket(&kind) {
        return read_tar(source, None, writer, order, watch);
    }
    Err(ConvertError::SourceKind)
}

fn expect_no_reference(order: &ConversionOrder) -> Result<(), ConvertError> {
    order.reference.clone().map_or(Ok(()), |reference| Err(ConvertError::NoLayout { reference }))
}

fn read_tar(
    source: &File,
    total: Option<u64>,
    writer: &mut ImageWriter,
    order: &ConversionOrder,
    watch: Watch<'_>,
) -> Result<SourceFacts, ConvertError> {
    expect_no_reference(order)?;
    let source = source.try_clone().map_err(ConvertError::Source)?;
    let stream = DecodedStream::open_ahead(source, total, &order.limits, watch)?;
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
    order: &ConversionOrder,
    watch: Watch<'_>,
) -> Result<SourceFacts, ConvertError> {
    let OciImage { config, mount_plan, manifest_sha256, dropped_attributes } =
        layout.import(writer, &order.limits, order.reference.as_deref(), watch)?;
    let provenance = Provenance { archive: manifest_sha256, ..Provenance::default() };
    Ok(SourceFacts { provenance, config: Some(config), mount_plan, dropped_attributes })
}

/// What another process handed back is not what it should be: it failed, or was made to.
#[derive(Debug, thiserror::Error)]
pub enum CheckConvertedError {
    /// The manifest is none.
    #[error(transparent)]
    Manifest(#[from] DecodeManifestError),
    /// The configuration is one that no container could have.
    #[error(transparent)]
    Config(#[from] ConvertConfigError),
    /// The mount plan is none.
    #[error(transparent)]
    MountPlan(#[from] MountPlanError),
    /// The metadata cannot be made of the tree.
    #[error(transparent)]
    Metadata(#[from] WriteMetadataError),
    /// Files could not be read.
    #[error("read it back")]
    Read(#[source] io::Error),
    /// The files do not agree with each other or with what was asked for.
    #[error("{what}")]
    Differs {
        /// What does not agree.
        what: &'static str,
    },
}

/// Reads the manifest of `id` that another process made beside `image`, and makes sure that nothing of what it wrote
/// has to be trusted: the metadata that the kernel will parse is, byte for byte, what this process would write for the
/// manifest's tree, and contents lie between superblock and metadata, none on another's blocks. Digests of the
/// contents are found when the image is published; what the manifest says of them counts for nothing.
///
/// # Errors
///
/// See the variants of [`CheckConvertedError`].
pub fn check_converted(
    id: &ImageId,
    manifest: &[u8],
    image: &File,
    limits: &TreeLimits,
) -> Result<Manifest, CheckConvertedError> {
    let differs = |what| Err(CheckConvertedError::Differs { what });
    let manifest = Manifest::decode(manifest)?;
    if manifest.id != *id {
        return differs("it is of another image");
    }
    refuse_nul(&manifest.config)?;
    check_mount_plan(&manifest.mount_plan)?;
    let ImageFile { bytes, metadata_offset, metadata_sha256, .. } = manifest.file;
    if manifest.tree.entries().len() > usize::try_from(limits.entries_max).unwrap_or(usize::MAX) {
        return differs("it has more entries than were allowed");
    }
    if manifest.tree.content_bytes() > limits.content_bytes_max {
        return differs("it has more content than was allowed");
    }
    let written = write_metadata(&manifest.tree, metadata_offset, &mut io::sink())?;
    if contents_in_order(&manifest.tree, metadata_offset / BLOCK_BYTES).is_none() {
        return differs("a content lies outside the image's contents or on another one");
    }
    let length = image.metadata().map_err(CheckConvertedError::Read)?.len();
    if length != bytes || Some(bytes) != metadata_offset.checked_add(written.region_bytes) {
        return differs("the image file has another size");
    }
    let found = metadata_digest(image, &manifest.file).map_err(CheckConvertedError::Read)?;
    if written.digest != metadata_sha256 || found != Some(metadata_sha256) {
        return differs("the image's metadata is not that of its tree");
    }
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{InodeKind, Placement};
    use std::os::unix::fs::FileExt;

    /// An image of two files, converted in this process.
    fn converted() -> (Manifest, File) {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content) in [("a", [1; 5000]), ("b", [2; 5000])] {
            let mut header = tar::Header::new_ustar();
            header.set_size(5000);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, content.as_slice()).unwrap();
        }
        let mut source = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut source, &tar.into_inner().unwrap()).unwrap();
        source.rewind().unwrap();
        let empty = || tempfile::tempfile().unwrap();
        let image = empty();
        let order = ConversionOrder { limits: TreeLimits::standard(), mount_plan: None, reference: None };
        let (kept, id) = (image.try_clone().unwrap(), "web@1".parse().unwrap());
        let conversion = Conversion { id, source, image, spool: empty(), hand_over: empty(), order };
        (InProcess.convert(conversion, Watch::nobody()).unwrap().image.manifest, kept)
    }

    fn check(manifest: &Manifest, image: &File) -> Result<Manifest, CheckConvertedError> {
        check_converted(&"web@1".parse().unwrap(), &manifest.encode(), image, &TreeLimits::standard())
    }

    fn refused(manifest: &Manifest, image: &File, expected: &str) {
        let text = check(manifest, image).unwrap_err().to_string();
        assert!(text.contains(expected), "`{text}` does not say `{expected}`");
    }

    /// The tree with every file's content placed by `place`.
    fn replaced(tree: &crate::tree::ImageTree, place: impl Fn(u32) -> u32) -> crate::tree::ImageTree {
        let mut inodes = tree.inodes().to_vec();
        for inode in &mut inodes {
            if let InodeKind::File(content) = &mut inode.kind
                && let Placement::Blocks { first } = &mut content.placement
            {
                *first = place(*first);
            }
        }
        crate::tree::ImageTree::from_parts(tree.entries().to_vec(), inodes).unwrap()
    }

    #[test]
    fn an_honest_result_is_taken_as_it_is() {
        let (manifest, image) = converted();
        assert_eq!(check(&manifest, &image).unwrap(), manifest);
        let mut written = Vec::new();
        manifest.write_to(&mut written).unwrap();
        assert_eq!(written, manifest.encode());
    }

    #[test]
    fn a_result_that_was_tampered_with_is_refused() {
        let (manifest, image) = converted();
        let other = Manifest { id: "web@2".parse().unwrap(), ..manifest.clone() };
        refused(&other, &image, "of another image");
        let mut nul = manifest.clone();
        nul.config.cmd = vec!["a\0b".to_owned()];
        refused(&nul, &image, "NUL");
        let mut nested = manifest.clone();
        nested.mount_plan.places[0].path = "/proc/x".to_owned();
        assert!(check(&nested, &image).is_err());
        for (what, place) in
            [("superblock", 0), ("metadata", u32::try_from(manifest.file.metadata_offset / 4096).unwrap())]
        {
            let moved = Manifest { tree: replaced(&manifest.tree, |_| place), ..manifest.clone() };
            assert!(check(&moved, &image).unwrap_err().to_string().contains("outside"), "{what}");
        }
        let swapped =
            Manifest { tree: replaced(&manifest.tree, |first| if first == 1 { 3 } else { 1 }), ..manifest.clone() };
        refused(&swapped, &image, "not that of its tree");
        let shared = Manifest { tree: replaced(&manifest.tree, |_| 1), ..manifest.clone() };
        refused(&shared, &image, "on another one");
        let mut longer = manifest.clone();
        longer.file.bytes += 4096;
        refused(&longer, &image, "another size");
        let few = TreeLimits { entries_max: 3, ..TreeLimits::standard() };
        let little = TreeLimits { content_bytes_max: 9_000, ..TreeLimits::standard() };
        for limits in [few, little] {
            let checked = check_converted(&manifest.id, &manifest.encode(), &image, &limits);
            assert!(checked.unwrap_err().to_string().contains("more"));
        }
        // What the kernel would parse, changed on the disk: one bit of an inode, one of the superblock.
        for offset in [manifest.file.metadata_offset + 70, 1024 + 16] {
            let mut byte = [0];
            image.read_exact_at(&mut byte, offset).unwrap();
            image.write_all_at(&[byte[0] ^ 1], offset).unwrap();
            refused(&manifest, &image, "not that of its tree");
            image.write_all_at(&byte, offset).unwrap();
        }
        check(&manifest, &image).unwrap();
    }

    #[test]
    fn a_refusal_keeps_its_causes() {
        let refusal = Refusal::of(vec!["outer".to_owned(), "inner".to_owned()]).unwrap();
        assert_eq!(refusal.to_string(), "outer");
        assert_eq!(std::error::Error::source(&refusal).unwrap().to_string(), "inner");
        assert!(Refusal::of(Vec::new()).is_none());
    }
}
