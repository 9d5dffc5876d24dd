//! The store's keys, and the signatures in its versions' records.
//!
//! Keys lie outside of the store, so that a copy of the store takes none along. A node without keys makes them and
//! vouches for what it has by then: versions of the time before signatures stay usable, and a lost key is replaced by
//! removing its file. Once there is a key, nothing is signed but what the node itself publishes or promotes, and what
//! people tell it to sign.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use insula_model::{ImageId, PublicKey, Stage};
use jiff::Timestamp;

use super::index::ImageInfo;
use super::medium::{StoreFileError, read_bounded, replace_file};
use super::stage::{RECORD_BYTES_MAX, StageRecord};
use super::{ChangeImageError, STAGE_FILE, Store, StoreWarning};
use crate::progress::Watch;
use crate::signature::{Requirement, SignaturePolicy, SignatureRefusal, SignatureStatus, StageKey, stage_name};

/// What a store is to know about signatures.
#[derive(Debug, Clone)]
pub struct SigningConfig {
    /// Directory of the node's own keys; made if need be.
    pub keys: PathBuf,
    /// Whose signatures count beside those of the node's own keys.
    pub policy: SignaturePolicy,
}

impl SigningConfig {
    /// Nothing but the node's own keys counts.
    #[must_use]
    pub fn own_keys_only(keys: PathBuf) -> Self {
        let policy = SignaturePolicy {
            requirement: Requirement::Required,
            testing: BTreeSet::new(),
            production: BTreeSet::new(),
        };
        Self { keys, policy }
    }
}

/// A key that counts, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedKey {
    /// For images of this stage.
    pub stage: Stage,
    /// The key.
    pub key: PublicKey,
    /// Whether it is this node's own.
    pub is_own: bool,
}

/// The store's keys and whom it trusts.
#[derive(Debug)]
pub(super) struct Signing {
    testing: StageKey,
    production: StageKey,
    policy: SignaturePolicy,
}

/// Both stages, in order.
const STAGES: [Stage; 2] = [Stage::Testing, Stage::Production];

impl Signing {
    fn own(&self, stage: Stage) -> &StageKey {
        match stage {
            Stage::Testing => &self.testing,
            Stage::Production => &self.production,
        }
    }

    /// The record with this node's word for its stage.
    pub(super) fn vouch(&self, mut record: StageRecord, id: &ImageId) -> StageRecord {
        let signature = self.own(record.stage).sign(id, record.digest);
        // Of the stage only what others say rightly stays.
        let keep = |status| matches!(status, SignatureStatus::Untrusted(_) | SignatureStatus::Valid(_));
        let of_others: Vec<_> = record
            .signatures
            .drain(..)
            .filter(|other| other.key != signature.key || other.stage != signature.stage)
            .filter(|other| {
                let judged = (other.stage, id, record.digest);
                keep(SignatureStatus::of(std::slice::from_ref(other), judged, |key| self.counts(other.stage, key)))
            })
            .collect();
        record.signatures = of_others;
        record.signatures.push(signature);
        record
    }

    fn counts(&self, stage: Stage, key: PublicKey) -> bool {
        self.own(stage).public() == key || self.policy.trusted(stage).contains(&key)
    }

    /// What the signatures in a record come to for an image.
    pub(super) fn judge(&self, record: &StageRecord, info: &ImageInfo) -> SignatureStatus {
        let judged = (record.stage, &info.id, info.digest);
        SignatureStatus::of(&record.signatures, judged, |key| self.counts(record.stage, key))
    }
}

/// Keys that were made while the store is being opened, and are not on the disk yet.
pub(super) struct NewKeys {
    made: Vec<(Stage, [u8; 32])>,
    directory: PathBuf,
}

/// Bytes of a key's file that are read: 64 digits and a line end.
const KEY_FILE_BYTES_MAX: usize = 65;

fn key_file(stage: Stage) -> String {
    format!("image-{}.key", stage_name(stage))
}

/// Reads the node's keys, or thinks of new ones where there are none.
pub(super) fn open_keys(
    config: &SigningConfig,
    warnings: &mut Vec<StoreWarning>,
) -> Result<(Signing, NewKeys), StoreFileError> {
    let mut made = Vec::new();
    let mut open = |stage| {
        let path = config.keys.join(key_file(stage));
        let secret = match read_key(&path, warnings) {
            Ok(secret) => secret,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let secret = insula_kernel::random::random_bytes().map_err(io::Error::from);
                let secret = secret.map_err(StoreFileError::on("make key", &path))?;
                made.push((stage, secret));
                secret
            }
            Err(error) => return Err(StoreFileError::on("read key", &path)(error)),
        };
        Ok(StageKey::new(stage, &secret))
    };
    let [testing, production] = [open(Stage::Testing)?, open(Stage::Production)?];
    let signing = Signing { testing, production, policy: config.policy.clone() };
    Ok((signing, NewKeys { made, directory: config.keys.clone() }))
}

fn read_key(path: &Path, warnings: &mut Vec<StoreWarning>) -> io::Result<[u8; 32]> {
    let text = read_bounded(path, KEY_FILE_BYTES_MAX)?;
    let mode = std::fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        warnings.push(StoreWarning::KeyExposed { path: path.to_owned() });
    }
    let no_key = || {
        let what = "it holds no key; put the right file back, or remove it: then this node makes a new key and signs \
                    what it has of that stage";
        io::Error::new(io::ErrorKind::InvalidData, what)
    };
    let text = String::from_utf8(text).map_err(|_| no_key())?;
    // The public key's text form has the same digits.
    let secret: PublicKey = format!("ed25519:{}", text.trim_end()).parse().map_err(|_| no_key())?;
    Ok(secret.0)
}

impl Store {
    /// Vouches for the versions that are there before their stage had a key, then keeps the new keys. In this order,
    /// so that a crash in between makes keys once more.
    pub(super) fn adopt(&self, new: &NewKeys, warnings: &mut Vec<StoreWarning>) -> Result<(), StoreFileError> {
        for (stage, secret) in &new.made {
            let versions: Vec<_> = self.index.read().versions.values().cloned().collect();
            for entry in versions.into_iter().filter(|entry| entry.stage.stage == *stage) {
                if matches!(entry.signature, SignatureStatus::Missing | SignatureStatus::Untrusted(_)) {
                    let id = entry.info.id.clone();
                    self.keep_stage(&id, self.signing.vouch(entry.stage, &id))?;
                    warnings.push(StoreWarning::Signed { id, stage: *stage });
                }
            }
            keep_key(&new.directory, *stage, secret)?;
        }
        Ok(())
    }

    /// Keys whose signatures count here: this node's own first.
    #[must_use]
    pub fn trusted_keys(&self) -> Vec<TrustedKey> {
        let of = |stage| {
            let own = TrustedKey { stage, key: self.signing.own(stage).public(), is_own: true };
            let others = self.signing.policy.trusted(stage).iter().filter(move |key| **key != own.key);
            let own = std::iter::once(own);
            own.chain(others.map(move |key| TrustedKey { stage, key: *key, is_own: false }))
        };
        STAGES.into_iter().flat_map(of).collect()
    }

    /// Whether images need a signature.
    #[must_use]
    pub fn signature_requirement(&self) -> Requirement {
        self.signing.policy.requirement
    }

    /// What the signatures of a version come to, read from its record on the disk.
    pub(super) fn signature_on_disk(&self, info: &ImageInfo) -> Result<(Stage, SignatureStatus), StoreFileError> {
        let path = self.layout.version(&info.id).join(STAGE_FILE);
        let bytes = read_bounded(&path, RECORD_BYTES_MAX);
        let record = bytes.and_then(|bytes| StageRecord::decode(&bytes).map_err(io::Error::other));
        let record = record.map_err(StoreFileError::on("read", &path))?;
        let status = self.signing.judge(&record, info);
        if let Some(entry) = self.index.write().versions.get_mut(&info.id) {
            entry.signature = status;
        }
        Ok((record.stage, status))
    }

    /// Refuses a version whose signature does not do.
    pub(super) fn accept_signature(
        &self,
        id: &ImageId,
        (stage, status): (Stage, SignatureStatus),
    ) -> Result<(), SignatureRefusal> {
        status.accept(self.signing.policy.requirement, id, stage)
    }

    /// Vouches for a version with this node's key for its stage, after all its bytes were compared with its manifest.
    /// Wrong signatures in its record go.
    ///
    /// # Errors
    ///
    /// When it is not there or damaged, or the record cannot be written.
    pub fn sign(&self, id: &ImageId, now: Timestamp, watch: Watch<'_>) -> Result<(), ChangeImageError> {
        self.verify_whole(id, now, watch)?;
        let _changing = self.changing();
        let record = self.show(id)?.stage;
        self.write_stage(id, self.signing.vouch(record, id))
    }
}

fn keep_key(keys: &Path, stage: Stage, secret: &[u8; 32]) -> Result<(), StoreFileError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(keys);
    made.map_err(StoreFileError::on("create directory", keys))?;
    let mut text = String::with_capacity(KEY_FILE_BYTES_MAX);
    for byte in secret {
        let _ = write!(text, "{byte:02x}");
    }
    text.push('\n');
    replace_file(keys, &key_file(stage), text.as_bytes())
}
