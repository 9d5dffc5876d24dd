//! Signatures of images as the API shows them.

use insula_api::{Finding, FindingLevel, ImageKeyView, ImageKeys, ImageView, Problem, SignatureState, SignatureView};
use insula_image::progress::Watch;
use insula_image::signature::{Requirement, SignatureStatus};
use insula_image::store::{ImageSummary, Store};
use insula_model::{ImageId, Stage};
use jiff::Timestamp;

use crate::images::{Images, change_problem};

/// A status as it is shown.
pub(crate) fn signature_view(store: &Store, (id, stage): (&ImageId, Stage), status: SignatureStatus) -> SignatureView {
    let key = status.key();
    SignatureView {
        state: match status {
            SignatureStatus::Valid(_) => SignatureState::Valid,
            SignatureStatus::Missing => SignatureState::Missing,
            SignatureStatus::Untrusted(_) => SignatureState::Untrusted,
            SignatureStatus::Wrong(_) => SignatureState::Wrong,
        },
        key,
        own: store.trusted_keys().iter().any(|own| own.is_own && own.stage == stage && Some(own.key) == key),
        accepted: status.accept(store.signature_requirement(), id, stage).is_ok(),
    }
}

fn refused(store: &Store, summary: &ImageSummary) -> Option<Finding> {
    let refusal = summary.signature.accept(store.signature_requirement(), &summary.info.id, summary.stage.stage);
    refusal.err().map(|refusal| Finding {
        subject: "images".to_owned(),
        level: FindingLevel::Warning,
        detail: format!("{refusal}"),
        remedy: Some(format!("insula image sign {}", summary.info.id)),
    })
}

fn damaged(summary: &ImageSummary) -> Option<Finding> {
    let id = &summary.info.id;
    summary.damage.as_ref().map(|damage| Finding {
        subject: "images".to_owned(),
        level: FindingLevel::Failure,
        detail: format!("image {id} is damaged, no container starts from it: {}", damage.what),
        remedy: Some(format!("check the disk; insula image verify {id}, or remove the image and import it again")),
    })
}

impl Images {
    /// Vouches for a version with this node's key. Blocks: its bytes are compared first.
    ///
    /// # Errors
    ///
    /// It is not there or damaged.
    pub(crate) fn sign(&self, image: &ImageId) -> Result<ImageView, Problem> {
        let store = self.store();
        store.sign(image, Timestamp::now(), Watch::nobody()).map_err(|error| change_problem(&error))?;
        self.event(image, "signed");
        self.show(image)
    }

    /// Whose signatures count.
    pub(crate) fn keys(&self) -> ImageKeys {
        let store = self.store();
        let keys = store.trusted_keys().into_iter();
        ImageKeys {
            required: store.signature_requirement() == Requirement::Required,
            keys: keys.map(|key| ImageKeyView { stage: key.stage, key: key.key, own: key.is_own }).collect(),
        }
    }

    /// Versions that start no containers although they are here.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        let store = self.store();
        let of = |summary: &ImageSummary| damaged(summary).or_else(|| refused(&store, summary));
        store.list().iter().filter_map(of).collect()
    }
}
