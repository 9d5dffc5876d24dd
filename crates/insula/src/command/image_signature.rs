//! Signatures of images: shown, made, and whose count.

use insula_api::{ImageKeys, SignatureState, SignatureView, paths};
use serde::de::IgnoredAny;

use super::Session;
use super::image::{print_image, stage, verb_path, view};
use crate::args::ImageIdArgs;
use crate::failure::Failure;
use crate::render::{Cell, Table};

/// A signature in words.
pub(super) fn words(signature: &SignatureView) -> String {
    let key = signature.key.map(|key| key.to_string()).unwrap_or_default();
    let state = match signature.state {
        SignatureState::Missing => "none".to_owned(),
        SignatureState::Valid if signature.own => format!("valid, by this node: {key}"),
        SignatureState::Valid => format!("valid, by {key}"),
        SignatureState::Untrusted => format!("by {key}, which this node does not trust"),
        SignatureState::Wrong => format!("wrong: said to be by {key}"),
    };
    if signature.accepted { state } else { format!("{state}; it starts no containers") }
}

pub(super) async fn sign(session: &mut Session, args: ImageIdArgs) -> Result<u8, Failure> {
    let _: IgnoredAny = session.client.post(&verb_path(&args.image, "sign"), &serde_json::json!({})).await?;
    let view = view(session, &args.image).await?;
    print_image(session, &view)
}

pub(super) async fn keys(session: &mut Session) -> Result<u8, Failure> {
    let keys: ImageKeys = session.client.get(paths::IMAGE_KEYS).await?;
    let mut table = Table::new(["STAGE", "KEY", "WHOSE"]);
    for key in &keys.keys {
        let whose = if key.own { "this node's" } else { "trusted" };
        table.push([Cell::from(stage(key.stage)), Cell::from(key.key.to_string()), Cell::from(whose)]);
    }
    session.printer.value(&keys, &table)?;
    Ok(0)
}
