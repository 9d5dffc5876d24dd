//! Signatures over images: who vouches for a digest under a name at a stage, and whose word counts.
//!
//! ```text
//!  digest, NAME@VERSION, stage ──▶ signed bytes ──▶ Ed25519 by the key of that stage
//! ```
//!
//! What is signed is text, so that it can be checked with other programs. Each line but the first is of a closed
//! alphabet without line breaks, so no two images have the same text:
//!
//! ```text
//!  insula image signature 1
//!  testing
//!  debian@12.1
//!  sha256:e3b0c442…
//! ```
//!
//! A stage has keys of its own, so that who may build may not therefore promote. Where keys and signatures lie is not
//! known here.

use std::collections::BTreeSet;
use std::fmt;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use insula_model::{ImageId, PublicKey, Sha256Digest, Stage};

/// A signature over an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSignature {
    /// For which stage.
    pub stage: Stage,
    /// Whose.
    pub key: PublicKey,
    /// The signature itself.
    pub bytes: [u8; 64],
}

/// Name of a stage in what is signed, in messages and in the configuration.
#[must_use]
pub(crate) fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Testing => "testing",
        Stage::Production => "production",
    }
}

fn signed_text(stage: Stage, id: &ImageId, digest: Sha256Digest) -> Vec<u8> {
    format!("insula image signature 1\n{}\n{id}\n{digest}\n", stage_name(stage)).into_bytes()
}

impl ImageSignature {
    fn is_of(&self, id: &ImageId, digest: Sha256Digest) -> bool {
        let signature = Signature::from_bytes(&self.bytes);
        VerifyingKey::from_bytes(&self.key.0)
            .is_ok_and(|key| key.verify_strict(&signed_text(self.stage, id, digest), &signature).is_ok())
    }
}

/// A secret key of one stage; forgotten from memory when dropped.
pub struct StageKey {
    stage: Stage,
    secret: SigningKey,
}

impl StageKey {
    /// The key that these secret bytes are.
    #[must_use]
    pub fn new(stage: Stage, secret: &[u8; 32]) -> Self {
        Self { stage, secret: SigningKey::from_bytes(secret) }
    }

    /// Its public part.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.secret.verifying_key().to_bytes())
    }

    /// Vouches for an image at this key's stage.
    #[must_use]
    pub fn sign(&self, id: &ImageId, digest: Sha256Digest) -> ImageSignature {
        let bytes = self.secret.sign(&signed_text(self.stage, id, digest)).to_bytes();
        ImageSignature { stage: self.stage, key: self.public(), bytes }
    }
}

impl fmt::Debug for StageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StageKey").field("stage", &self.stage).field("public", &self.public()).finish_non_exhaustive()
    }
}

/// Whether an image may be used that nobody trusted has signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requirement {
    /// It may not.
    Required,
    /// It may. One whose signature by a trusted key is wrong may not in any case.
    Optional,
}

/// Whose signatures count, beside those of the node itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignaturePolicy {
    /// Whether there has to be one.
    pub requirement: Requirement,
    /// Keys that vouch for images in testing.
    pub testing: BTreeSet<PublicKey>,
    /// Keys that vouch for images in production.
    pub production: BTreeSet<PublicKey>,
}

impl SignaturePolicy {
    /// Keys that count for a stage.
    #[must_use]
    pub fn trusted(&self, stage: Stage) -> &BTreeSet<PublicKey> {
        match stage {
            Stage::Testing => &self.testing,
            Stage::Production => &self.production,
        }
    }
}

/// What the signatures of an image for its stage come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureStatus {
    /// There is none.
    Missing,
    /// All are by keys that do not count; this is the first.
    Untrusted(PublicKey),
    /// One by a key that counts is not over this image.
    Wrong(PublicKey),
    /// One by a key that counts is right.
    Valid(PublicKey),
}

impl SignatureStatus {
    /// Judges `signatures` of the image for `stage`, when these keys count.
    #[must_use]
    pub fn of(
        signatures: &[ImageSignature],
        (stage, id, digest): (Stage, &ImageId, Sha256Digest),
        counts: impl Fn(PublicKey) -> bool,
    ) -> Self {
        let mut status = Self::Missing;
        for signature in signatures.iter().filter(|signature| signature.stage == stage) {
            match status {
                _ if !counts(signature.key) => {
                    if status == Self::Missing {
                        status = Self::Untrusted(signature.key);
                    }
                }
                _ if signature.is_of(id, digest) => return Self::Valid(signature.key),
                _ => status = Self::Wrong(signature.key),
            }
        }
        status
    }

    /// The key that it speaks of.
    #[must_use]
    pub fn key(self) -> Option<PublicKey> {
        match self {
            Self::Missing => None,
            Self::Untrusted(key) | Self::Wrong(key) | Self::Valid(key) => Some(key),
        }
    }

    /// Whether an image of this status can be used.
    ///
    /// # Errors
    ///
    /// Says what is wrong with its signature and what can be done.
    pub fn accept(self, requirement: Requirement, id: &ImageId, stage: Stage) -> Result<(), SignatureRefusal> {
        let id = id.clone();
        match (self, requirement) {
            (Self::Valid(_), _) | (Self::Missing | Self::Untrusted(_), Requirement::Optional) => Ok(()),
            (Self::Missing, Requirement::Required) => Err(SignatureRefusal::Missing { id, stage }),
            (Self::Untrusted(key), Requirement::Required) => Err(SignatureRefusal::Untrusted { id, stage, key }),
            (Self::Wrong(key), _) => Err(SignatureRefusal::Wrong { id, stage, key }),
        }
    }
}

/// An image cannot be used because of its signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureRefusal {
    /// Nobody signed it.
    #[error(
        "image {id} has no signature for stage {}; `insula image sign {id}` compares its bytes and vouches for it, \
         `images.require_signature = false` lets every unsigned image start",
        stage_name(*stage)
    )]
    Missing {
        /// The version.
        id: ImageId,
        /// Its stage.
        stage: Stage,
    },
    /// Somebody did whose word does not count here.
    #[error(
        "image {id} is signed for stage {0} by {key}, which this node does not trust; add that key to \
         `images.trusted_{0}` in node.toml, or vouch for the image with `insula image sign {id}`",
        stage_name(*stage)
    )]
    Untrusted {
        /// The version.
        id: ImageId,
        /// Its stage.
        stage: Stage,
        /// Whose signature it is.
        key: PublicKey,
    },
    /// The signature is of something else.
    #[error(
        "the signature of image {id} for stage {} by {key} is wrong: the record was changed, or is of another image; \
         remove and import the image again, or vouch for what is there with `insula image sign {id}`",
        stage_name(*stage)
    )]
    Wrong {
        /// The version.
        id: ImageId,
        /// Its stage.
        stage: Stage,
        /// By whom it is said to be.
        key: PublicKey,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: Sha256Digest = Sha256Digest([7; 32]);

    fn id(text: &str) -> ImageId {
        text.parse().unwrap()
    }

    #[test]
    fn a_signature_is_of_one_image_name_and_stage() {
        let key = StageKey::new(Stage::Testing, &[1; 32]);
        let signature = key.sign(&id("web@1"), DIGEST);
        let judge = |signature: &ImageSignature, stage, name: &str, digest| {
            let signatures = std::slice::from_ref(signature);
            SignatureStatus::of(signatures, (stage, &id(name), digest), |other| other == key.public())
        };
        let (valid, wrong) = (SignatureStatus::Valid(key.public()), SignatureStatus::Wrong(key.public()));
        assert_eq!(judge(&signature, Stage::Testing, "web@1", DIGEST), valid);
        assert_eq!(judge(&signature, Stage::Testing, "web@2", DIGEST), wrong);
        assert_eq!(judge(&signature, Stage::Testing, "web@1", Sha256Digest([8; 32])), wrong);
        assert_eq!(judge(&signature, Stage::Production, "web@1", DIGEST), SignatureStatus::Missing);
        let lifted = ImageSignature { stage: Stage::Production, ..signature.clone() };
        assert_eq!(judge(&lifted, Stage::Production, "web@1", DIGEST), wrong, "not by renaming the stage");
        for bit in 0..512 {
            let mut flipped = signature.clone();
            flipped.bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(judge(&flipped, Stage::Testing, "web@1", DIGEST), wrong, "bit {bit}");
        }
    }

    #[test]
    fn a_right_signature_by_a_key_that_counts_is_enough() {
        let (own, foreign) = (StageKey::new(Stage::Testing, &[1; 32]), StageKey::new(Stage::Testing, &[2; 32]));
        let image = id("web@1");
        let (good, other) = (own.sign(&image, DIGEST), foreign.sign(&image, DIGEST));
        let bad = ImageSignature { bytes: other.bytes, ..good.clone() };
        let judge = |signatures: &[ImageSignature]| {
            SignatureStatus::of(signatures, (Stage::Testing, &image, DIGEST), |key| key == own.public())
        };
        assert_eq!(judge(&[]), SignatureStatus::Missing);
        assert_eq!(judge(std::slice::from_ref(&other)), SignatureStatus::Untrusted(foreign.public()));
        assert_eq!(judge(&[other.clone(), bad.clone()]), SignatureStatus::Wrong(own.public()));
        assert_eq!(judge(&[bad.clone(), other.clone()]), SignatureStatus::Wrong(own.public()));
        assert_eq!(judge(&[other, bad, good]), SignatureStatus::Valid(own.public()));
    }

    #[test]
    fn without_the_requirement_only_a_wrong_signature_refuses() {
        let key = PublicKey([3; 32]);
        let all = [
            SignatureStatus::Missing,
            SignatureStatus::Untrusted(key),
            SignatureStatus::Wrong(key),
            SignatureStatus::Valid(key),
        ];
        let accepted =
            |requirement| all.map(|status| status.accept(requirement, &id("web@1"), Stage::Production).is_ok());
        assert_eq!(accepted(Requirement::Required), [false, false, false, true]);
        assert_eq!(accepted(Requirement::Optional), [true, true, false, true]);
        let said = SignatureStatus::Untrusted(key).accept(Requirement::Required, &id("web@1"), Stage::Production);
        let said = said.unwrap_err().to_string();
        assert!(said.contains("web@1") && said.contains(&key.to_string()), "{said}");
        assert!(said.contains("images.trusted_production"), "{said}");
    }
}
