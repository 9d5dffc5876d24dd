//! Reading an OCI image into an image of ours.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Read};

use insula_model::{ImageConfig, MountPlan, Sha256Digest};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::config::{ConvertConfigError, from_oci, refuse_nul};
use super::document::{Config, Descriptor, DockerImage, Index, Manifest};
use super::layers::{Fate, LayerStack, Shape};
use super::source::OciSource;
use super::{
    ANNOTATION_CONFIG, ANNOTATION_MOUNT_PLAN, ANNOTATION_REFERENCE, DOCKER_MANIFEST_FILE, DOCUMENT_BYTES_MAX,
    INDEX_DEPTH_MAX, INDEX_FILE, LAYERS_MAX, MEDIA_DOCKER_LIST, MEDIA_DOCKER_MANIFEST, MEDIA_INDEX, MEDIA_MANIFEST,
    machine,
};
use crate::archive::{DecodedStream, ReadArchiveCause, ReadArchiveError, TarEntry, TarReader};
use crate::draft::{NewEntry, NewKind, TreeLimits};
use crate::erofs::{AddEntryError, ImageWriter};
use crate::path::ImagePath;
use crate::progress::{Phase, Watch, WatchedReader};

/// What an OCI image says beside its entries, which went into the writer.
#[derive(Debug)]
pub struct OciImage {
    /// How to run it.
    pub config: ImageConfig,
    /// Its mount plan, when it was exported by us.
    pub mount_plan: Option<MountPlan>,
    /// Digest of its manifest; none for what `docker save` wrote, which has none.
    pub manifest_sha256: Option<Sha256Digest>,
    /// Extended attributes of name spaces that an image cannot hold.
    pub dropped_attributes: u64,
}

/// An OCI image could not be read.
#[derive(Debug, thiserror::Error)]
pub enum OciImportError {
    /// A file of the layout could not be read.
    #[error("OCI layout: read {what}")]
    Read {
        /// Which.
        what: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The archive's compression is damaged.
    #[error("OCI archive")]
    Archive(#[source] ReadArchiveError),
    /// A file that must be there is not.
    #[error("OCI layout: {what} is missing; the layout is incomplete")]
    Missing {
        /// Which.
        what: String,
    },
    /// A digest that is not `sha256:` and 64 lower-case hexadecimal digits.
    #[error("OCI layout: digest `{}` is not sha256: and 64 hexadecimal digits", given.escape_debug())]
    BadDigest {
        /// What is there.
        given: String,
    },
    /// A blob's bytes are others than its digest says.
    #[error("OCI layout: blob {digest} has other bytes than its digest says; fetch the image again")]
    DigestMismatch {
        /// The digest asked for.
        digest: Sha256Digest,
    },
    /// A blob's size is another than its descriptor says.
    #[error("OCI layout: blob {digest} has {found} bytes, its descriptor says {declared}")]
    SizeMismatch {
        /// The digest asked for.
        digest: Sha256Digest,
        /// Bytes that are there.
        found: u64,
        /// Bytes that the descriptor says.
        declared: u64,
    },
    /// An index, a manifest or a configuration above the bound.
    #[error("OCI layout: {what} has {bytes} bytes; the most is {DOCUMENT_BYTES_MAX}")]
    TooLarge {
        /// Which.
        what: String,
        /// Its bytes.
        bytes: u64,
    },
    /// A document is not what it should be.
    #[error("OCI layout: {what} cannot be understood")]
    Json {
        /// Which.
        what: String,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// A media type that this program does not know.
    #[error("OCI layout: blob {digest} has the media type `{}`, which is not known here", media_type.escape_debug())]
    MediaType {
        /// The blob.
        digest: String,
        /// Its media type.
        media_type: String,
    },
    /// No image for this machine.
    #[error("OCI layout: no image for linux/{}; there is: {}", machine(), found.join(", "))]
    NoPlatform {
        /// The platforms that are there.
        found: Vec<String>,
    },
    /// More than one image could be meant.
    #[error("OCI layout: it holds several images; name one of: {}", names.join(", "))]
    Ambiguous {
        /// The names that are there.
        names: Vec<String>,
    },
    /// The image asked for is not there.
    #[error("OCI layout: it holds no image `{}`; there is: {}", reference.escape_debug(), names.join(", "))]
    NoReference {
        /// What was asked for.
        reference: String,
        /// The names that are there.
        names: Vec<String>,
    },
    /// Indexes in indexes without end.
    #[error("OCI layout: indexes are nested more than {INDEX_DEPTH_MAX} deep")]
    NestedTooDeep,
    /// More layers than the bound, or another number than the configuration says.
    #[error("OCI layout: the image has {found} layers, {expected} are possible")]
    LayerCount {
        /// How many there are.
        found: usize,
        /// How many there can be.
        expected: usize,
    },
    /// The configuration is one that no container could have.
    #[error("OCI layout: configuration")]
    Config(#[from] ConvertConfigError),
    /// A layer is at fault.
    #[error("OCI layout: layer {layer}")]
    Layer {
        /// Its digest, or its name in what `docker save` wrote.
        layer: String,
        /// Why.
        #[source]
        cause: Box<LayerCause>,
    },
}

/// Why a layer could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LayerCause {
    /// Its archive is at fault.
    #[error(transparent)]
    Archive(#[from] ReadArchiveError),
    /// An entry cannot be part of an image, or the disk is full.
    #[error(transparent)]
    Entry(#[from] AddEntryError),
    /// A whiteout that hides nothing that could be there.
    #[error("whiteout {path} names nothing")]
    Whiteout {
        /// The entry.
        path: ImagePath,
    },
    /// More entries in all layers, hidden ones counted, than four times the limit of an image.
    #[error("the layers have more than {max} entries")]
    TooManyEntries {
        /// The bound.
        max: u64,
    },
}

/// A layer: where its bytes are and what they must be.
#[derive(Debug)]
struct LayerBlob {
    /// File of the layout.
    file: String,
    digest: Sha256Digest,
    /// Bytes it must have; none when nobody said.
    bytes: Option<u64>,
}

/// An image of a layout, found but not read.
#[derive(Debug)]
struct FoundImage {
    config: Config,
    annotations: BTreeMap<String, String>,
    /// Bottom first.
    layers: Vec<LayerBlob>,
    manifest_sha256: Option<Sha256Digest>,
}

impl OciSource {
    /// Reads the image for this machine into a writer. `reference` chooses among several.
    ///
    /// # Errors
    ///
    /// Names the blob or entry at fault; see [`OciImportError`].
    pub fn import(
        &self,
        writer: &mut ImageWriter,
        limits: &TreeLimits,
        reference: Option<&str>,
        watch: Watch<'_>,
    ) -> Result<OciImage, OciImportError> {
        let image = match self.open_named(INDEX_FILE)? {
            Some(_) => self.find_image(reference)?,
            None => self.find_docker_image(reference)?,
        };
        if let Some(platform) = image.config.foreign_platform() {
            return Err(OciImportError::NoPlatform { found: vec![platform] });
        }
        let (config, mount_plan) = image_config(image.config, &image.annotations)?;
        let mut reader = LayerReader {
            source: self,
            limits,
            watch,
            total: image.layers.iter().map(|layer| layer.bytes).sum(),
            done: 0,
            entries: 0,
            dropped_attributes: 0,
            stack: LayerStack::default(),
        };
        for layer in image.layers.iter().rev() {
            reader.read_layer(layer, writer)?;
        }
        let dropped_attributes = reader.dropped_attributes;
        Ok(OciImage { config, mount_plan, manifest_sha256: image.manifest_sha256, dropped_attributes })
    }

    fn open_named(&self, what: &str) -> Result<Option<super::source::SourceFile<'_>>, OciImportError> {
        self.open(what).map_err(|source| OciImportError::Read { what: what.to_owned(), source })
    }

    fn open_existing(&self, what: &str) -> Result<super::source::SourceFile<'_>, OciImportError> {
        self.open_named(what)?.ok_or_else(|| OciImportError::Missing { what: what.to_owned() })
    }

    fn read_document(&self, what: &str) -> Result<Vec<u8>, OciImportError> {
        let file = self.open_existing(what)?;
        if file.bytes > DOCUMENT_BYTES_MAX {
            return Err(OciImportError::TooLarge { what: what.to_owned(), bytes: file.bytes });
        }
        let mut bytes = Vec::new();
        let read = file.take(DOCUMENT_BYTES_MAX + 1).read_to_end(&mut bytes);
        read.map_err(|source| OciImportError::Read { what: what.to_owned(), source })?;
        Ok(bytes)
    }

    /// A document by its descriptor, its size and digest checked.
    fn read_blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, OciImportError> {
        let digest = parse_digest(&descriptor.digest)?;
        let bytes = self.read_document(&blob_file(digest))?;
        check_size(digest, u64::try_from(bytes.len()).unwrap_or(u64::MAX), descriptor.size)?;
        if Sha256Digest(Sha256::digest(&bytes).into()) != digest {
            return Err(OciImportError::DigestMismatch { digest });
        }
        Ok(bytes)
    }

    fn find_image(&self, reference: Option<&str>) -> Result<FoundImage, OciImportError> {
        let index: Index = parse(INDEX_FILE, &self.read_document(INDEX_FILE)?)?;
        let mut descriptor = choose(index.manifests, reference)?;
        for _ in 0..INDEX_DEPTH_MAX {
            let bytes = self.read_blob(&descriptor)?;
            if is_index(&descriptor, &bytes) {
                let index: Index = parse(&descriptor.digest, &bytes)?;
                descriptor = choose(index.manifests, None)?;
                continue;
            }
            if ![MEDIA_MANIFEST, MEDIA_DOCKER_MANIFEST, ""].contains(&descriptor.media_type.as_str()) {
                let Descriptor { digest, media_type, .. } = descriptor;
                return Err(OciImportError::MediaType { digest, media_type });
            }
            return self.read_manifest(&descriptor, &bytes);
        }
        Err(OciImportError::NestedTooDeep)
    }

    fn read_manifest(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<FoundImage, OciImportError> {
        let manifest: Manifest = parse(&descriptor.digest, bytes)?;
        let config: Config = parse(&manifest.config.digest, &self.read_blob(&manifest.config)?)?;
        let mut layers = Vec::new();
        for layer in &manifest.layers {
            check_layer_media_type(layer)?;
            let digest = parse_digest(&layer.digest)?;
            layers.push(LayerBlob { file: blob_file(digest), digest, bytes: Some(layer.size) });
        }
        check_layer_count(layers.len(), config.rootfs.diff_ids.len())?;
        Ok(FoundImage {
            config,
            annotations: manifest.annotations.unwrap_or_default(),
            layers,
            manifest_sha256: Some(parse_digest(&descriptor.digest)?),
        })
    }

    /// What `docker save` wrote: its layers are not compressed, and their digests are in the configuration, whose own
    /// digest is its name.
    fn find_docker_image(&self, reference: Option<&str>) -> Result<FoundImage, OciImportError> {
        let images: Vec<DockerImage> = parse(DOCKER_MANIFEST_FILE, &self.read_document(DOCKER_MANIFEST_FILE)?)?;
        let names: Vec<String> = images.iter().flat_map(|image| image.repo_tags.clone().unwrap_or_default()).collect();
        let named = |image: &DockerImage| {
            reference.is_none_or(|wanted| image.repo_tags.iter().flatten().any(|tag| tag == wanted))
        };
        let mut images: Vec<DockerImage> = images.into_iter().filter(named).collect();
        let image = match (images.pop(), images.is_empty(), reference) {
            (Some(image), true, _) => image,
            (None, _, Some(reference)) => {
                return Err(OciImportError::NoReference { reference: reference.to_owned(), names });
            }
            (None, _, None) => return Err(OciImportError::Missing { what: "an image".to_owned() }),
            (Some(_), false, _) => return Err(OciImportError::Ambiguous { names }),
        };
        let hex = image.config.strip_prefix("blobs/sha256/").or_else(|| image.config.strip_suffix(".json"));
        let digest = parse_digest(&format!("sha256:{}", hex.unwrap_or(&image.config)))?;
        let bytes = self.read_document(&image.config)?;
        if Sha256Digest(Sha256::digest(&bytes).into()) != digest {
            return Err(OciImportError::DigestMismatch { digest });
        }
        let config: Config = parse(&image.config, &bytes)?;
        check_layer_count(image.layers.len(), config.rootfs.diff_ids.len())?;
        let mut layers = Vec::new();
        for (file, diff_id) in image.layers.into_iter().zip(&config.rootfs.diff_ids) {
            layers.push(LayerBlob { file, digest: parse_digest(diff_id)?, bytes: None });
        }
        Ok(FoundImage { config, annotations: BTreeMap::new(), layers, manifest_sha256: None })
    }
}

fn parse<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, OciImportError> {
    serde_json::from_slice(bytes).map_err(|source| OciImportError::Json { what: what.to_owned(), source })
}

fn parse_digest(given: &str) -> Result<Sha256Digest, OciImportError> {
    given.parse().map_err(|_| OciImportError::BadDigest { given: given.chars().take(160).collect() })
}

/// File of a blob: the digest was parsed, so it is 64 hexadecimal digits.
fn blob_file(digest: Sha256Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn check_size(digest: Sha256Digest, found: u64, declared: u64) -> Result<(), OciImportError> {
    if found == declared { Ok(()) } else { Err(OciImportError::SizeMismatch { digest, found, declared }) }
}

fn check_layer_count(found: usize, of_config: usize) -> Result<(), OciImportError> {
    let expected = of_config.min(LAYERS_MAX);
    if found == expected { Ok(()) } else { Err(OciImportError::LayerCount { found, expected }) }
}

/// Whether a blob is a nested index. Descriptors without a media type are told by what they hold.
fn is_index(descriptor: &Descriptor, bytes: &[u8]) -> bool {
    match descriptor.media_type.as_str() {
        MEDIA_INDEX | MEDIA_DOCKER_LIST => true,
        "" => serde_json::from_slice::<Manifest>(bytes).is_err(),
        _ => false,
    }
}

fn check_layer_media_type(layer: &Descriptor) -> Result<(), OciImportError> {
    let kind = layer.media_type.as_str();
    let oci = kind
        .strip_prefix("application/vnd.oci.image.layer.v1.tar")
        .or_else(|| kind.strip_prefix("application/vnd.oci.image.layer.nondistributable.v1.tar"));
    let docker = kind
        .strip_prefix("application/vnd.docker.image.rootfs.diff.tar")
        .or_else(|| kind.strip_prefix("application/vnd.docker.image.rootfs.foreign.diff.tar"));
    let known = oci.is_some_and(|rest| ["", "+gzip", "+zstd"].contains(&rest))
        || docker.is_some_and(|rest| ["", ".gzip", ".zstd"].contains(&rest));
    if known {
        return Ok(());
    }
    Err(OciImportError::MediaType { digest: layer.digest.clone(), media_type: layer.media_type.clone() })
}

/// The one descriptor that is meant: of that reference, for this machine.
fn choose(descriptors: Vec<Descriptor>, reference: Option<&str>) -> Result<Descriptor, OciImportError> {
    let name = |descriptor: &Descriptor| descriptor.annotations.as_ref()?.get(ANNOTATION_REFERENCE).cloned();
    let names: Vec<String> = descriptors.iter().filter_map(name).collect();
    let platforms = descriptors.iter().filter_map(|descriptor| descriptor.platform.as_ref());
    let found = platforms.map(|platform| format!("{}/{}", platform.os, platform.architecture)).collect();
    let fits = |descriptor: &Descriptor| {
        let platform = descriptor.platform.as_ref();
        platform.is_none_or(|platform| platform.os == "linux" && platform.architecture == machine())
    };
    let any = !descriptors.is_empty();
    let referenced =
        |descriptor: &Descriptor| reference.is_none_or(|wanted| name(descriptor).as_deref() == Some(wanted));
    let of_reference: Vec<_> = descriptors.into_iter().filter(referenced).collect();
    if let (Some(reference), true) = (reference, of_reference.is_empty()) {
        return Err(OciImportError::NoReference { reference: reference.to_owned(), names });
    }
    let mut fitting: Vec<_> = of_reference.into_iter().filter(fits).collect();
    match (fitting.pop(), fitting.is_empty()) {
        (Some(descriptor), true) => Ok(descriptor),
        // The same image under several names is one image.
        (Some(descriptor), false) if fitting.iter().all(|other| other.digest == descriptor.digest) => Ok(descriptor),
        (Some(_), false) => Err(OciImportError::Ambiguous { names }),
        (None, _) if any => Err(OciImportError::NoPlatform { found }),
        (None, _) => Err(OciImportError::Missing { what: "a manifest in the index".to_owned() }),
    }
}

/// Our configuration: from our own annotations when they are there, else from OCI's fields.
fn image_config(
    config: Config,
    annotations: &BTreeMap<String, String>,
) -> Result<(ImageConfig, Option<MountPlan>), OciImportError> {
    let json = |what: &'static str| move |source| OciImportError::Json { what: format!("annotation {what}"), source };
    let ours = annotations.get(ANNOTATION_CONFIG).map(|text| serde_json::from_str::<ImageConfig>(text));
    let config = match ours.transpose().map_err(json(ANNOTATION_CONFIG))? {
        Some(config) => {
            refuse_nul(&config)?;
            config
        }
        None => from_oci(config.config.unwrap_or_default())?,
    };
    let plan = annotations.get(ANNOTATION_MOUNT_PLAN).map(|text| serde_json::from_str(text)).transpose();
    Ok((config, plan.map_err(json(ANNOTATION_MOUNT_PLAN))?))
}

/// Reads layers one after another, top first.
struct LayerReader<'import> {
    source: &'import OciSource,
    limits: &'import TreeLimits,
    watch: Watch<'import>,
    total: Option<u64>,
    done: u64,
    entries: u64,
    dropped_attributes: u64,
    stack: LayerStack,
}

/// Hard links of one layer. They wait for its end: only then it is known what they point at.
#[derive(Debug, Default)]
struct LayerLinks {
    /// Every hard link of the layer and what it points at in the end.
    ends: HashMap<ImagePath, ImagePath>,
    /// Those that are to be seen: path and end.
    seen: Vec<(ImagePath, ImagePath)>,
    /// Files of this layer that upper layers hide. A link to one of them still has its content.
    hidden_files: HashSet<ImagePath>,
}

/// Links to a file that upper layers hide, by the file: the first gets its content, the others are links to that.
type Orphans = BTreeMap<ImagePath, Vec<ImagePath>>;

impl LayerReader<'_> {
    fn read_layer(&mut self, layer: &LayerBlob, writer: &mut ImageWriter) -> Result<(), OciImportError> {
        let mut links = LayerLinks::default();
        self.each_entry(layer, |reader, entry, content| reader.take_entry(entry, content, &mut links, writer))?;
        let orphans = self.add_links(links, writer).map_err(|cause| layer_error(layer, cause))?;
        if !orphans.is_empty() {
            self.each_entry(layer, |_, TarEntry { path, entry }, content| {
                let Some([first, rest @ ..]) = orphans.get(&path).map(Vec::as_slice) else { return Ok(()) };
                if !matches!(entry.kind, NewKind::File { .. }) {
                    return Ok(());
                }
                writer.add(first.clone(), entry, content)?;
                for link in rest {
                    writer.add(link.clone(), NewEntry::hard_link(first.clone()), &mut io::empty())?;
                }
                Ok(())
            })?;
        }
        self.stack.next_layer();
        Ok(())
    }

    /// Reads a layer's archive to its end and checks its size and digest.
    fn each_entry(
        &mut self,
        layer: &LayerBlob,
        mut take: impl FnMut(&mut Self, TarEntry, &mut dyn Read) -> Result<(), LayerCause>,
    ) -> Result<(), OciImportError> {
        let file = self.source.open_existing(&layer.file)?;
        let found = file.bytes;
        if let Some(declared) = layer.bytes {
            check_size(layer.digest, found, declared)?;
        }
        let input = WatchedReader::new(file, self.watch, Phase::Import, self.total).starting_at(self.done);
        let failed = |cause: LayerCause| layer_error(layer, cause);
        let stream = DecodedStream::open(input, self.limits).map_err(|error| failed(error.into()))?;
        let totals = stream.totals();
        let mut tar = TarReader::new(stream);
        let entries_max = u64::from(self.limits.entries_max) * 4;
        loop {
            let entry = match tar.next_entry() {
                Ok(Some(entry)) => entry,
                Ok(None) => break,
                // A layer may hold nothing: builders make one for steps that change no file.
                Err(ReadArchiveError { cause: ReadArchiveCause::NoEntries, .. }) => {
                    return self.check_blob(layer);
                }
                Err(error) => return Err(failed(error.into())),
            };
            self.entries += 1;
            if self.entries > entries_max {
                return Err(failed(LayerCause::TooManyEntries { max: entries_max }));
            }
            take(self, entry, &mut tar.content()).map_err(failed)?;
        }
        self.dropped_attributes += tar.dropped_attributes();
        self.done += found;
        check_size(layer.digest, totals.bytes(), found)?;
        if totals.sha256() != layer.digest {
            return Err(OciImportError::DigestMismatch { digest: layer.digest });
        }
        Ok(())
    }

    /// Compares a layer's bytes without looking at what they are.
    fn check_blob(&mut self, layer: &LayerBlob) -> Result<(), OciImportError> {
        let mut file = self.source.open_existing(&layer.file)?;
        self.done += file.bytes;
        let mut hash = Sha256::new();
        let mut buffer = [0; 4096];
        loop {
            let read = file.read(&mut buffer);
            match read.map_err(|source| OciImportError::Read { what: layer.file.clone(), source })? {
                0 => break,
                got => hash.update(&buffer[..got]),
            }
        }
        if Sha256Digest(hash.finalize().into()) != layer.digest {
            return Err(OciImportError::DigestMismatch { digest: layer.digest });
        }
        Ok(())
    }

    fn take_entry(
        &mut self,
        TarEntry { path, entry }: TarEntry,
        content: &mut dyn Read,
        links: &mut LayerLinks,
        writer: &mut ImageWriter,
    ) -> Result<(), LayerCause> {
        if let Some(name) = path.name().strip_prefix(b".wh.") {
            return self.take_whiteout(&path, name);
        }
        let shape = if entry.kind == NewKind::Directory { Shape::Directory } else { Shape::Other };
        let fate = self.stack.decide(&path, shape);
        match (&entry.kind, fate) {
            (NewKind::HardLink(target), fate) => {
                let end = links.ends.get(target).unwrap_or(target).clone();
                links.ends.insert(path.clone(), end.clone());
                if fate == Fate::Seen {
                    links.seen.push((path, end));
                }
            }
            (NewKind::File { .. }, Fate::Hidden) => {
                links.hidden_files.insert(path);
            }
            (_, Fate::Hidden) => {}
            (_, Fate::Seen) => writer.add(path, entry, content)?,
        }
        Ok(())
    }

    /// `.wh.NAME` hides NAME in the layers below, `.wh..wh..opq` all that is beside it; other names that begin so
    /// are the book-keeping of an old union file system.
    fn take_whiteout(&mut self, path: &ImagePath, name: &[u8]) -> Result<(), LayerCause> {
        let directory = path.parent().unwrap_or_else(ImagePath::root);
        match name {
            b".wh..opq" => self.stack.hide_beneath(directory),
            name if name.starts_with(b".wh.") => {}
            b"" | b"." | b".." => return Err(LayerCause::Whiteout { path: path.clone() }),
            name => {
                let mut hidden = directory.as_bytes().to_vec();
                hidden.push(b'/');
                hidden.extend_from_slice(name);
                let hidden = ImagePath::parse(hidden).map_err(|_| LayerCause::Whiteout { path: path.clone() })?;
                self.stack.hide(hidden);
            }
        }
        Ok(())
    }

    fn add_links(&self, links: LayerLinks, writer: &mut ImageWriter) -> Result<Orphans, LayerCause> {
        let mut orphans = Orphans::new();
        for (path, end) in links.seen {
            if !self.stack.is_from_this_layer(&end) && links.hidden_files.contains(&end) {
                orphans.entry(end).or_default().push(path);
            } else {
                writer.add(path, NewEntry::hard_link(end), &mut io::empty())?;
            }
        }
        Ok(orphans)
    }
}

fn layer_error(layer: &LayerBlob, cause: LayerCause) -> OciImportError {
    OciImportError::Layer { layer: layer.digest.to_string(), cause: Box::new(cause) }
}
