//! Where a version stands on its way to production, and the rules of that way.
//!
//! ```text
//!  published ──▶ testing ──── test passed, same digest ────▶ production
//!                  ▲ │
//!                  └─┘ test failed: stays, and may be tested again
//! ```
//!
//! The record lies beside the image and names the image's digest, so a record that was copied from elsewhere
//! vouches for nothing. Promotion changes the record alone. On disk it is CBOR with integer keys:
//! `docs/formats/store.md`.

use insula_model::{PublicKey, Sha256Digest, Stage};
use jiff::Timestamp;
use minicbor::{Decoder, Encoder};

use crate::signature::ImageSignature;

/// Stage of an image version with what led there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageRecord {
    /// Digest of the image that this record is about.
    pub digest: Sha256Digest,
    /// Where it stands.
    pub stage: Stage,
    /// When it was published into this store.
    pub published: Timestamp,
    /// When it was promoted, if it was.
    pub promoted: Option<Timestamp>,
    /// The last test.
    pub test: Option<TestReport>,
    /// Who vouches for it, at which stage.
    pub signatures: Vec<ImageSignature>,
}

/// What `image test` found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestReport {
    /// Whether all was well.
    pub outcome: TestOutcome,
    /// When the test ended.
    pub finished: Timestamp,
    /// Each check of the image, in order, up to the first that failed to run.
    pub checks: Vec<CheckResult>,
    /// What else there is to say, such as why the container did not start; empty for nothing.
    pub note: String,
}

/// Whether a test passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TestOutcome {
    /// It booted and every check exited 0.
    Passed,
    /// It did not.
    Failed,
}

/// One check of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckResult {
    /// Command line.
    pub command: Vec<String>,
    /// Exit code; `None` when it never ended by itself.
    pub exit_code: Option<i32>,
    /// Milliseconds it took.
    pub duration_ms: u64,
}

/// Why an image cannot be promoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PromoteRefusal {
    /// Nobody tested it.
    #[error("it was never tested; run `insula image test` first")]
    Untested,
    /// The last test failed.
    #[error("its last test failed; mend it as a new version, or run `insula image test` again")]
    TestFailed,
    /// It is there already.
    #[error("it is in production already")]
    AlreadyProduction,
    /// The record is of another image.
    #[error("its stage record is of an image with another digest; import the image again")]
    OtherImage,
}

impl StageRecord {
    /// The record of an image that was just published.
    #[must_use]
    pub fn published(digest: Sha256Digest, now: Timestamp) -> Self {
        Self { digest, stage: Stage::Testing, published: now, promoted: None, test: None, signatures: Vec::new() }
    }

    /// The record after a test. The stage stays: an image in production that fails a later test is for people to
    /// judge, not for a program to withdraw.
    #[must_use]
    pub fn tested(self, report: TestReport) -> Self {
        Self { test: Some(report), ..self }
    }

    /// The record after promotion of the image with `digest`.
    ///
    /// # Errors
    ///
    /// Only a version whose last test passed, and which still is in testing, can be promoted.
    pub fn promoted(self, digest: Sha256Digest, now: Timestamp) -> Result<Self, PromoteRefusal> {
        if self.digest != digest {
            return Err(PromoteRefusal::OtherImage);
        }
        if self.stage == Stage::Production {
            return Err(PromoteRefusal::AlreadyProduction);
        }
        match self.test.as_ref().map(|test| test.outcome) {
            None => Err(PromoteRefusal::Untested),
            Some(TestOutcome::Failed) => Err(PromoteRefusal::TestFailed),
            Some(TestOutcome::Passed) => Ok(Self { stage: Stage::Production, promoted: Some(now), ..self }),
        }
    }
}

/// Number of the format.
const FORMAT: u32 = 1;
/// Most signatures in a record.
const SIGNATURES_MAX: u64 = 64;
/// Most bytes of a record, checks included.
pub(super) const RECORD_BYTES_MAX: usize = 1 << 20;

/// Bytes that are no stage record.
#[derive(Debug, thiserror::Error)]
pub enum DecodeStageError {
    /// A newer program wrote it.
    #[error("stage record has format {format}; this version reads format {FORMAT}")]
    Format {
        /// The number found.
        format: u32,
    },
    /// Not CBOR, or something else than a record has at that place.
    #[error("stage record is damaged")]
    Cbor(#[from] minicbor::decode::Error),
    /// CBOR of the right kinds, with a value that no record has.
    #[error("stage record is damaged: {what}")]
    Damaged {
        /// What is there.
        what: &'static str,
    },
}

fn damaged(what: &'static str) -> DecodeStageError {
    DecodeStageError::Damaged { what }
}

impl StageRecord {
    /// The record's bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new());
        self.encode_to(&mut encoder).expect("a vector takes every byte");
        encoder.into_writer()
    }

    fn encode_to(&self, encoder: &mut Encoder<Vec<u8>>) -> Encoded {
        let signed = !self.signatures.is_empty();
        let count = 4 + u64::from(self.promoted.is_some()) + u64::from(self.test.is_some()) + u64::from(signed);
        encoder.map(count)?.u8(0)?.u32(FORMAT)?.u8(1)?.bytes(&self.digest.0)?;
        encoder.u8(2)?.u8(stage_number(self.stage))?;
        encoder.u8(3)?.i64(self.published.as_millisecond())?;
        if let Some(promoted) = self.promoted {
            encoder.u8(4)?.i64(promoted.as_millisecond())?;
        }
        if let Some(test) = &self.test {
            encode_test(encoder.u8(5)?, test)?;
        }
        if signed {
            encoder.u8(6)?.array(length(self.signatures.len()))?;
        }
        for signature in &self.signatures {
            encoder.array(3)?.u8(stage_number(signature.stage))?;
            encoder.bytes(&signature.key.0)?.bytes(&signature.bytes)?;
        }
        Ok(())
    }

    /// Reads a record.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeStageError> {
        let mut decoder = Decoder::new(bytes);
        let fields = decoder.map()?.ok_or_else(|| damaged("map of unknown length"))?;
        if decoder.u8()? != 0 {
            return Err(damaged("no format"));
        }
        let format = decoder.u32()?;
        if format != FORMAT {
            return Err(DecodeStageError::Format { format });
        }
        let (mut digest, mut stage, mut published, mut promoted, mut test) = (None, None, None, None, None);
        let mut signatures = Vec::new();
        for _ in 1..fields {
            match decoder.u8()? {
                1 => digest = Some(decoder.bytes()?.try_into().map_err(|_| damaged("digest of another length"))?),
                2 => stage = Some(decode_stage(&mut decoder)?),
                3 => published = Some(timestamp(&mut decoder)?),
                4 => promoted = Some(timestamp(&mut decoder)?),
                5 => test = Some(decode_test(&mut decoder)?),
                6 => signatures = decode_signatures(&mut decoder)?,
                _ => return Err(damaged("unknown field")),
            }
        }
        match (digest, stage, published) {
            (Some(digest), Some(stage), Some(published)) => {
                Ok(Self { digest: Sha256Digest(digest), stage, published, promoted, test, signatures })
            }
            _ => Err(damaged("field missing")),
        }
    }
}

fn stage_number(stage: Stage) -> u8 {
    match stage {
        Stage::Testing => 0,
        Stage::Production => 1,
    }
}

fn decode_stage(decoder: &mut Decoder<'_>) -> Result<Stage, DecodeStageError> {
    match decoder.u8()? {
        0 => Ok(Stage::Testing),
        1 => Ok(Stage::Production),
        _ => Err(damaged("unknown stage")),
    }
}

fn decode_signatures(decoder: &mut Decoder<'_>) -> Result<Vec<ImageSignature>, DecodeStageError> {
    let count = decoder.array()?.filter(|count| *count <= SIGNATURES_MAX);
    let mut signatures = Vec::new();
    for _ in 0..count.ok_or_else(|| damaged("signatures without number, or too many"))? {
        if decoder.array()? != Some(3) {
            return Err(damaged("signature that has not three parts"));
        }
        let stage = decode_stage(decoder)?;
        let key = decoder.bytes()?.try_into().map_err(|_| damaged("key of another length"))?;
        let bytes = decoder.bytes()?.try_into().map_err(|_| damaged("signature of another length"))?;
        signatures.push(ImageSignature { stage, key: PublicKey(key), bytes });
    }
    Ok(signatures)
}

type Encoded = Result<(), minicbor::encode::Error<std::convert::Infallible>>;

fn encode_test(encoder: &mut Encoder<Vec<u8>>, test: &TestReport) -> Encoded {
    encoder.array(4)?.bool(test.outcome == TestOutcome::Passed)?;
    encoder.i64(test.finished.as_millisecond())?.str(&test.note)?;
    encoder.array(length(test.checks.len()))?;
    for check in &test.checks {
        encoder.array(3)?.array(length(check.command.len()))?;
        for word in &check.command {
            encoder.str(word)?;
        }
        match check.exit_code {
            Some(code) => encoder.i32(code)?,
            None => encoder.null()?,
        };
        encoder.u64(check.duration_ms)?;
    }
    Ok(())
}

fn length(count: usize) -> u64 {
    u64::try_from(count).expect("usize has at most 64 bits")
}

fn timestamp(decoder: &mut Decoder<'_>) -> Result<Timestamp, DecodeStageError> {
    Timestamp::from_millisecond(decoder.i64()?).map_err(|_| damaged("time out of range"))
}

fn decode_test(decoder: &mut Decoder<'_>) -> Result<TestReport, DecodeStageError> {
    if decoder.array()? != Some(4) {
        return Err(damaged("test that has not four parts"));
    }
    let outcome = if decoder.bool()? { TestOutcome::Passed } else { TestOutcome::Failed };
    let finished = timestamp(decoder)?;
    let note = decoder.str()?.to_owned();
    let mut checks = Vec::new();
    for _ in 0..decoder.array()?.ok_or_else(|| damaged("checks of unknown number"))? {
        if decoder.array()? != Some(3) {
            return Err(damaged("check that has not three parts"));
        }
        let mut command = Vec::new();
        for _ in 0..decoder.array()?.ok_or_else(|| damaged("command of unknown length"))? {
            command.push(decoder.str()?.to_owned());
        }
        let exit_code = if decoder.datatype()? == minicbor::data::Type::Null {
            decoder.null()?;
            None
        } else {
            Some(decoder.i32()?)
        };
        checks.push(CheckResult { command, exit_code, duration_ms: decoder.u64()? });
    }
    Ok(TestReport { outcome, finished, checks, note })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::StageKey;
    use proptest::prelude::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn report(outcome: TestOutcome) -> TestReport {
        let check = CheckResult { command: vec!["true".to_owned()], exit_code: Some(0), duration_ms: 3 };
        TestReport { outcome, finished: at(2), checks: vec![check], note: String::new() }
    }

    const DIGEST: Sha256Digest = Sha256Digest([7; 32]);

    #[test]
    fn only_a_tested_image_is_promoted_and_only_once() {
        let fresh = StageRecord::published(DIGEST, at(1));
        assert_eq!(fresh.clone().promoted(DIGEST, at(3)), Err(PromoteRefusal::Untested));
        let failed = fresh.clone().tested(report(TestOutcome::Failed));
        assert_eq!(failed.clone().promoted(DIGEST, at(3)), Err(PromoteRefusal::TestFailed));
        let passed = failed.tested(report(TestOutcome::Passed));
        assert_eq!(passed.clone().promoted(Sha256Digest([8; 32]), at(3)), Err(PromoteRefusal::OtherImage));
        let promoted = passed.promoted(DIGEST, at(3)).unwrap();
        assert_eq!((promoted.stage, promoted.promoted), (Stage::Production, Some(at(3))));
        assert_eq!(promoted.promoted(DIGEST, at(4)), Err(PromoteRefusal::AlreadyProduction));
    }

    proptest! {
        #[test]
        fn a_record_is_in_production_only_after_a_passed_test_of_its_image(steps in prop::collection::vec(0..5, 0..12)) {
            let mut record = StageRecord::published(DIGEST, at(0));
            let mut passed = false;
            let key = StageKey::new(Stage::Testing, &[1; 32]);
            for step in steps {
                record = match step {
                    0 => { passed = true; record.tested(report(TestOutcome::Passed)) }
                    1 => {
                        passed &= record.stage == Stage::Production;
                        record.tested(report(TestOutcome::Failed))
                    }
                    2 => record.clone().promoted(DIGEST, at(9)).unwrap_or(record),
                    3 => { record.signatures.push(key.sign(&"web@1".parse().unwrap(), DIGEST)); record }
                    _ => record.clone().promoted(Sha256Digest([9; 32]), at(9)).unwrap_or(record),
                };
                prop_assert!(record.stage == Stage::Testing || passed);
                prop_assert_eq!(StageRecord::decode(&record.encode()).unwrap(), record.clone());
            }
        }

        #[test]
        fn damaged_records_are_refused_and_never_panic(flip in 0_usize..180, bit in 0_u32..8) {
            let mut record = StageRecord::published(DIGEST, at(1)).tested(report(TestOutcome::Passed));
            record.signatures.push(ImageSignature { stage: Stage::Testing, key: PublicKey([5; 32]), bytes: [6; 64] });
            let mut bytes = record.encode();
            let index = flip % bytes.len();
            bytes[index] ^= 1 << bit;
            if let Ok(other) = StageRecord::decode(&bytes) {
                prop_assert_ne!(other, record);
            }
        }
    }
}
