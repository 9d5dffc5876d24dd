//! Manifests: what an image version is, to the byte. The SHA-256 of a manifest is the image's digest.
//!
//! A manifest is canonical CBOR (RFC 8949, section 4.2): integer keys in ascending order, definite lengths, shortest
//! integers, so one image has one manifest. [`Manifest::decode`] refuses any other encoding, hence the digest of what
//! was read is always the digest of what it would write.
//!
//! ```text
//!  {0: 1,                     format
//!   1: "debian", 2: "12",     name, version
//!   3: bytes of root.erofs,   4: its SHA-256
//!   5: metadata offset,       6: SHA-256 of block 0 and the metadata region
//!   7: tree digest
//!   8: {1: archive SHA-256, 2: recipe SHA-256, 3: SOURCE_DATE_EPOCH, 4: [[name, version, architecture, SHA-256 or
//!       null]...]}            provenance; what is not known is left out
//!   9: configuration,        10: mount plan: canonical JSON in a byte string
//!  11: [entries]}             the tree, see `tree_codec`
//! ```
//!
//! Configuration and mount plan are the JSON of their types in `insula-model`, because those own their names and
//! grow with them: fields in declaration order, empty ones left out, maps sorted. A field added there must be left
//! out when empty, else old manifests no longer encode as they were; a test pins that.

#[cfg(test)]
mod tests;
mod tree_codec;

use std::convert::Infallible;

use insula_model::{ImageConfig, ImageId, ImageName, ImageVersion, MountPlan, Sha256Digest};
use minicbor::{Decoder, Encoder};
use sha2::{Digest, Sha256};

use crate::erofs::ContentsSum;
use crate::tree::{ImageTree, TreeError};
use tree_codec::{ContentDetail, decode_digest, decode_tree, encode_tree};

/// What an image version is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its name and version.
    pub id: ImageId,
    /// The image file.
    pub file: ImageFile,
    /// Where it comes from.
    pub provenance: Provenance,
    /// How to run it.
    pub config: ImageConfig,
    /// Which of its places are writable.
    pub mount_plan: MountPlan,
    /// What is in it.
    pub tree: ImageTree,
}

/// What an image will be whose file is written: the digests of its bytes come when it is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnpublishedImage {
    /// What is known, with [`UNREAD`](crate::tree::UNREAD) for the digests of the file and of its contents.
    pub manifest: Manifest,
    /// What the contents are, for whoever reads them back.
    pub contents: ContentsSum,
}

/// An image's file: [`crate::erofs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageFile {
    /// Bytes of the file.
    pub bytes: u64,
    /// SHA-256 of the file; [`UNREAD`](crate::tree::UNREAD) until it is published.
    pub sha256: Sha256Digest,
    /// Where the metadata region begins, in bytes; it ends with the file.
    pub metadata_offset: u64,
    /// SHA-256 of the file's first block and, behind it, the metadata region.
    pub metadata_sha256: Sha256Digest,
}

/// Where an image comes from. What is not known is left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Provenance {
    /// Digest of the archive it was imported from, as it was handed in (compressed or not).
    pub archive: Option<Sha256Digest>,
    /// Digest of the recipe it was built from.
    pub recipe: Option<Sha256Digest>,
    /// Seconds since 1970 that no time in the image is above.
    pub source_date_epoch: Option<u64>,
    /// Packages in it, sorted by name, then architecture.
    pub packages: Vec<Package>,
}

/// A package of an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// Name.
    pub name: String,
    /// Its version, as the distribution writes it.
    pub version: String,
    /// Its architecture, as the distribution writes it.
    pub architecture: String,
    /// Digest of the package file, when it was known.
    pub sha256: Option<Sha256Digest>,
}

/// Bytes that are not the manifest of an image.
#[derive(Debug, thiserror::Error)]
pub enum DecodeManifestError {
    /// The format number is not one that this version reads.
    #[error("manifest has format {format}; this version reads format {FORMAT}")]
    Format {
        /// The number.
        format: u32,
    },
    /// More bytes than any manifest has.
    #[error("manifest has {bytes} bytes; the most is {MANIFEST_BYTES_MAX}")]
    TooLarge {
        /// The bytes.
        bytes: usize,
    },
    /// More entries than the limit.
    #[error("manifest has more than {max} entries")]
    TooManyEntries {
        /// The limit.
        max: u32,
    },
    /// Not CBOR, or something else than a manifest has at that place.
    #[error("manifest is damaged")]
    Cbor(#[from] minicbor::decode::Error),
    /// CBOR of the right kinds, with a value that no manifest has.
    #[error("manifest is damaged: {what}")]
    Damaged {
        /// What is there.
        what: &'static str,
    },
    /// The entries are not those of an image.
    #[error("manifest is damaged")]
    Tree(#[from] TreeError),
    /// Configuration or mount plan do not say what such things say.
    #[error("manifest is damaged: {field}")]
    Json {
        /// Which of the two.
        field: &'static str,
        /// Why.
        #[source]
        error: serde_json::Error,
    },
    /// It says what a manifest says, but in other bytes than a manifest would.
    #[error("manifest is not in canonical form")]
    NotCanonical,
}

fn damaged(what: &'static str) -> DecodeManifestError {
    DecodeManifestError::Damaged { what }
}

/// The format that this version writes and reads.
const FORMAT: u32 = 1;
/// Most bytes of a manifest: a million entries with names of 255 bytes.
const MANIFEST_BYTES_MAX: usize = 512 << 20;
/// Most entries of a manifest that is read.
const ENTRIES_MAX: u32 = 4_000_000;

impl Manifest {
    /// The image's digest: SHA-256 of [`Manifest::encode`].
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        digest_of(&self.encode())
    }

    /// The canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new());
        self.encode_to(&mut encoder).expect("a vector takes every byte");
        encoder.into_writer()
    }

    /// Writes the canonical bytes without holding them all.
    ///
    /// # Errors
    ///
    /// When `out` does not take them.
    pub fn write_to(&self, out: impl std::io::Write) -> std::io::Result<()> {
        let mut buffered = std::io::BufWriter::new(out);
        let mut encoder = Encoder::new(minicbor::encode::write::Writer::new(&mut buffered));
        self.encode_to(&mut encoder).map_err(std::io::Error::other)?;
        std::io::Write::flush(&mut buffered)
    }

    fn encode_to<W: minicbor::encode::Write>(
        &self,
        encoder: &mut Encoder<W>,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        let json = |written: Result<Vec<u8>, serde_json::Error>| written.expect("plain data with text keys");
        let tree_digest = self.tree.digest();
        encoder.map(12)?.u8(0)?.u32(FORMAT)?;
        encoder.u8(1)?.str(self.id.name.as_str())?.u8(2)?.str(self.id.version.as_str())?;
        encoder.u8(3)?.u64(self.file.bytes)?.u8(4)?.bytes(&self.file.sha256.0)?;
        encoder.u8(5)?.u64(self.file.metadata_offset)?.u8(6)?.bytes(&self.file.metadata_sha256.0)?;
        encoder.u8(7)?.bytes(&tree_digest.0)?;
        encoder.u8(8)?;
        self.provenance.encode_to(encoder)?;
        encoder.u8(9)?.bytes(&json(serde_json::to_vec(&self.config)))?;
        encoder.u8(10)?.bytes(&json(serde_json::to_vec(&self.mount_plan)))?;
        encoder.u8(11)?;
        encode_tree(encoder, &self.tree, ContentDetail::All)
    }

    /// Reads a manifest.
    ///
    /// # Errors
    ///
    /// Refuses everything that [`Manifest::encode`] would not have written; see [`DecodeManifestError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeManifestError> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(DecodeManifestError::TooLarge { bytes: bytes.len() });
        }
        let mut decoder = Decoder::new(bytes);
        let fields = decoder.map()?;
        expect_key(&mut decoder, 0)?;
        match decoder.u32()? {
            FORMAT => {}
            format => return Err(DecodeManifestError::Format { format }),
        }
        if fields != Some(12) {
            return Err(damaged("fields missing or unknown"));
        }
        let manifest = decode_fields(&mut decoder)?;
        let mut comparison = Encoder::new(Comparison { rest: bytes, differs: false });
        manifest.encode_to(&mut comparison).expect("a comparison takes every byte");
        let comparison = comparison.into_writer();
        if comparison.differs || !comparison.rest.is_empty() {
            return Err(DecodeManifestError::NotCanonical);
        }
        Ok(manifest)
    }

    /// The manifest for people, without the tree: what `manifest.json` holds.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let packages: Vec<_> = self
            .provenance
            .packages
            .iter()
            .map(|package| {
                serde_json::json!({
                    "name": package.name, "version": package.version,
                    "architecture": package.architecture, "sha256": package.sha256,
                })
            })
            .collect();
        serde_json::json!({
            "format": FORMAT,
            "name": self.id.name,
            "version": self.id.version,
            "digest": self.digest(),
            "size": self.file.bytes,
            "sha256": self.file.sha256,
            "metadata_offset": self.file.metadata_offset,
            "metadata_sha256": self.file.metadata_sha256,
            "tree_digest": self.tree.digest(),
            "entries": self.tree.entries().len(),
            "content_size": self.tree.content_bytes(),
            "provenance": {
                "archive": self.provenance.archive,
                "recipe": self.provenance.recipe,
                "source_date_epoch": self.provenance.source_date_epoch,
                "packages": packages,
            },
            "config": self.config,
            "mount_plan": self.mount_plan,
        })
    }
}

/// The digest of an image whose manifest has these bytes.
#[must_use]
pub fn digest_of(manifest: &[u8]) -> Sha256Digest {
    Sha256Digest(Sha256::digest(manifest).into())
}

impl Provenance {
    fn encode_to<W: minicbor::encode::Write>(
        &self,
        encoder: &mut Encoder<W>,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        let known = [
            self.archive.is_some(),
            self.recipe.is_some(),
            self.source_date_epoch.is_some(),
            !self.packages.is_empty(),
        ];
        let count = known.into_iter().map(u64::from).sum();
        encoder.map(count)?;
        if let Some(archive) = &self.archive {
            encoder.u8(1)?.bytes(&archive.0)?;
        }
        if let Some(recipe) = &self.recipe {
            encoder.u8(2)?.bytes(&recipe.0)?;
        }
        if let Some(epoch) = self.source_date_epoch {
            encoder.u8(3)?.u64(epoch)?;
        }
        if !self.packages.is_empty() {
            encoder.u8(4)?.array(u64::try_from(self.packages.len()).expect("usize has at most 64 bits"))?;
        }
        for package in &self.packages {
            encoder.array(4)?.str(&package.name)?.str(&package.version)?.str(&package.architecture)?;
            match &package.sha256 {
                Some(sha256) => encoder.bytes(&sha256.0)?,
                None => encoder.null()?,
            };
        }
        Ok(())
    }
}

fn expect_key(decoder: &mut Decoder<'_>, key: u8) -> Result<(), DecodeManifestError> {
    if decoder.u8()? == key { Ok(()) } else { Err(damaged("fields out of order")) }
}

/// Everything behind the format, in its one order.
fn decode_fields(decoder: &mut Decoder<'_>) -> Result<Manifest, DecodeManifestError> {
    expect_key(decoder, 1)?;
    let name = ImageName::new(decoder.str()?).map_err(|_| damaged("name that no image can have"))?;
    expect_key(decoder, 2)?;
    let version = ImageVersion::new(decoder.str()?).map_err(|_| damaged("version that no image can have"))?;
    expect_key(decoder, 3)?;
    let bytes = decoder.u64()?;
    expect_key(decoder, 4)?;
    let sha256 = decode_digest(decoder)?;
    expect_key(decoder, 5)?;
    let metadata_offset = decoder.u64()?;
    expect_key(decoder, 6)?;
    let metadata_sha256 = decode_digest(decoder)?;
    expect_key(decoder, 7)?;
    // It follows from the tree; the comparison at the end compares it.
    decode_digest(decoder)?;
    expect_key(decoder, 8)?;
    let provenance = decode_provenance(decoder)?;
    expect_key(decoder, 9)?;
    let config = serde_json::from_slice(decoder.bytes()?)
        .map_err(|error| DecodeManifestError::Json { field: "configuration", error })?;
    expect_key(decoder, 10)?;
    let mount_plan = serde_json::from_slice(decoder.bytes()?)
        .map_err(|error| DecodeManifestError::Json { field: "mount plan", error })?;
    expect_key(decoder, 11)?;
    let tree = decode_tree(decoder, ENTRIES_MAX)?;
    let file = ImageFile { bytes, sha256, metadata_offset, metadata_sha256 };
    Ok(Manifest { id: ImageId { name, version }, file, provenance, config, mount_plan, tree })
}

fn decode_provenance(decoder: &mut Decoder<'_>) -> Result<Provenance, DecodeManifestError> {
    let mut provenance = Provenance::default();
    for _ in 0..decoder.map()?.ok_or_else(|| damaged("provenance of unknown length"))? {
        match decoder.u8()? {
            1 => provenance.archive = Some(decode_digest(decoder)?),
            2 => provenance.recipe = Some(decode_digest(decoder)?),
            3 => provenance.source_date_epoch = Some(decoder.u64()?),
            4 => {
                for _ in 0..decoder.array()?.ok_or_else(|| damaged("packages of unknown number"))? {
                    provenance.packages.push(decode_package(decoder)?);
                }
            }
            _ => return Err(damaged("provenance with an unknown field")),
        }
    }
    Ok(provenance)
}

fn decode_package(decoder: &mut Decoder<'_>) -> Result<Package, DecodeManifestError> {
    if decoder.array()? != Some(4) {
        return Err(damaged("package that has not four parts"));
    }
    let (name, version) = (decoder.str()?.to_owned(), decoder.str()?.to_owned());
    let architecture = decoder.str()?.to_owned();
    let sha256 = if decoder.datatype()? == minicbor::data::Type::Null {
        decoder.null()?;
        None
    } else {
        Some(decode_digest(decoder)?)
    };
    Ok(Package { name, version, architecture, sha256 })
}

/// Compares what is written with what was expected, without holding a second copy.
struct Comparison<'expected> {
    rest: &'expected [u8],
    differs: bool,
}

impl minicbor::encode::Write for Comparison<'_> {
    type Error = Infallible;

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Infallible> {
        match self.rest.strip_prefix(bytes) {
            Some(rest) => self.rest = rest,
            None => self.differs = true,
        }
        Ok(())
    }
}
