//! What daemon and import worker say to each other: packets of CBOR, one order, then words until one is the last.
//!
//! The order comes with four descriptors: source, image file, spool, hand-over file. What the worker says is as foreign
//! as what it reads: bounded, and free of control characters before anybody sees it.

use insula_image::TreeLimits;
use insula_image::convert::{Conversion, ConversionOrder, Refusal};
use insula_image::progress::{Phase, Progress};
use insula_model::{Bytes, ImageId, MountPlan};
use minicbor::{Decode, Encode};

/// What a worker is to do.
#[derive(Debug, Encode, Decode)]
pub(super) struct Order {
    /// User and group id to take.
    #[n(0)]
    pub(super) own_id: u32,
    /// `name@version`.
    #[n(1)]
    image: String,
    #[n(2)]
    entries_max: u32,
    #[n(3)]
    content_bytes_max: u64,
    #[n(4)]
    metadata_bytes_max: u64,
    /// JSON.
    #[n(5)]
    mount_plan: Option<String>,
    #[n(6)]
    reference: Option<String>,
}

/// An order that no daemon of this build gives.
#[derive(Debug, thiserror::Error)]
#[error("the order cannot be understood")]
pub(super) struct ReadOrderError;

impl Order {
    pub(super) fn of(conversion: &Conversion, own_id: u32) -> Self {
        let ConversionOrder { limits, mount_plan, reference } = &conversion.order;
        let json = |plan| serde_json::to_string(plan).expect("plain data with text keys");
        Self {
            own_id,
            image: conversion.id.to_string(),
            entries_max: limits.entries_max,
            content_bytes_max: limits.content_bytes_max,
            metadata_bytes_max: limits.metadata_bytes_max,
            mount_plan: mount_plan.as_ref().map(json),
            reference: reference.clone(),
        }
    }

    /// Bounds on the source.
    pub(super) fn limits(&self) -> TreeLimits {
        TreeLimits {
            entries_max: self.entries_max,
            content_bytes_max: self.content_bytes_max,
            metadata_bytes_max: self.metadata_bytes_max,
        }
    }

    /// Which image, and how its source is read.
    ///
    /// # Errors
    ///
    /// The name or the mount plan is none.
    pub(super) fn read(self) -> Result<(ImageId, ConversionOrder), ReadOrderError> {
        let limits = self.limits();
        let id = self.image.parse().map_err(|_| ReadOrderError)?;
        let parse = |plan: String| serde_json::from_str::<MountPlan>(&plan).map_err(|_| ReadOrderError);
        let mount_plan = self.mount_plan.map(parse).transpose()?;
        Ok((id, ConversionOrder { limits, mount_plan, reference: self.reference }))
    }
}

/// What a worker says. All but progress is its last word.
#[derive(Debug, Encode, Decode)]
pub(super) enum Word {
    /// How far it is.
    #[n(0)]
    Progress(#[n(0)] Report),
    /// The image is written, and its manifest is in the hand-over file.
    #[n(1)]
    Done {
        /// Attributes that an image cannot hold.
        #[n(0)]
        dropped_attributes: u64,
        /// Sum of the image's contents.
        #[n(1)]
        contents: u64,
    },
    /// It came to nothing.
    #[n(2)]
    Refused {
        /// Who has to do something about it.
        #[n(0)]
        fault: Fault,
        /// The error's message and those of its causes, the outermost first.
        #[n(1)]
        messages: Vec<String>,
    },
}

/// Who has to do something about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(super) enum Fault {
    /// Who made the source.
    #[n(0)]
    Source,
    /// Who looks after the disk.
    #[n(1)]
    DiskFull,
    /// Who looks after the machine.
    #[n(2)]
    Machine,
    /// Who wrote this program.
    #[n(3)]
    Defect,
}

/// How far a worker is.
#[derive(Debug, Clone, Copy, Encode, Decode)]
pub(super) struct Report {
    #[n(0)]
    done: u64,
    #[n(1)]
    total: Option<u64>,
}

impl From<Progress> for Report {
    fn from(progress: Progress) -> Self {
        Self { done: progress.done.0, total: progress.total.map(|total| total.0) }
    }
}

impl From<Report> for Progress {
    fn from(report: Report) -> Self {
        Self { phase: Phase::Import, done: Bytes(report.done), total: report.total.map(Bytes) }
    }
}

/// Most causes of an error that are passed on.
const MESSAGES_MAX: usize = 16;
/// Most characters of a message that are passed on.
const MESSAGE_CHARS_MAX: usize = 1_000;

/// An error's message and those of its causes. A path in them has at most 4,095 bytes.
pub(super) fn messages_of(error: &dyn std::error::Error) -> Vec<String> {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .map(bounded)
        .take(MESSAGES_MAX)
        .collect()
}

fn bounded(message: String) -> String {
    let printable = |letter: char| if letter.is_control() { '?' } else { letter };
    message.chars().map(printable).take(MESSAGE_CHARS_MAX).collect()
}

/// The error that a worker told of.
pub(super) fn refusal(messages: Vec<String>) -> Refusal {
    let messages = messages.into_iter().take(MESSAGES_MAX).map(bounded).collect();
    Refusal::of(messages).unwrap_or_else(|| Refusal::of(vec!["no reason was given".to_owned()]).expect("one message"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn an_error_crosses_with_its_causes_and_without_control_characters() {
        let error = Outer(std::io::Error::other("in\u{1b}[2Jner"));
        let messages = messages_of(&error);
        assert_eq!(messages, ["outer", "in?[2Jner"]);
        let refusal = refusal(vec!["x".repeat(100_000), "\u{7}bell".to_owned()]);
        assert_eq!(refusal.to_string().len(), MESSAGE_CHARS_MAX);
        assert_eq!(std::error::Error::source(&refusal).unwrap().to_string(), "?bell");
        assert_eq!(super::refusal(Vec::new()).to_string(), "no reason was given");
    }
}
