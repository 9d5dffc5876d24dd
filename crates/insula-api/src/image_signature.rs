//! Signatures of images on the wire.

use insula_model::{PublicKey, Stage};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What the signatures of an image for its stage come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SignatureView {
    /// Whether there is one, and what it is worth.
    pub state: SignatureState,
    /// Whose it is; absent when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PublicKey>,
    /// Whether that key is this node's own.
    pub own: bool,
    /// Whether containers start from the image as far as its signature goes.
    pub accepted: bool,
}

/// What a signature is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SignatureState {
    /// Right, and by a key that counts here.
    Valid,
    /// There is none for this stage.
    Missing,
    /// By a key that does not count here.
    Untrusted,
    /// By a key that counts, and not over this image.
    Wrong,
}

/// `GET /v1/images/keys`: whose signatures count on this node.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ImageKeys {
    /// Whether images need a signature by one of them.
    pub required: bool,
    /// By stage, the node's own first.
    pub keys: Vec<ImageKeyView>,
}

/// A key whose signatures count.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ImageKeyView {
    /// For images of this stage.
    pub stage: Stage,
    /// The public key.
    pub key: PublicKey,
    /// Whether it is this node's own.
    pub own: bool,
}
