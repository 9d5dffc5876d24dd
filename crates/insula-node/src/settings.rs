//! Changes of a container's configuration by key: what is checked before the driver takes them.

use std::collections::BTreeMap;

use insula_api::{Problem, ProblemCode, SetResult};
use insula_model::{ContainerSpec, HealthCheck, ImageConfig, ImageId, ImageRef, InitKind};

use crate::catalog::{Catalog, Strictness};
use crate::container::record::ContainerRecord;
use crate::container::snapshot::Snapshot;

/// A checked change; all of it is taken.
#[derive(Debug, Clone, Default)]
pub(crate) struct Change {
    /// Another version, resolved, and as it was written.
    pub(crate) image: Option<(ImageId, ImageRef)>,
    /// The whole new configuration (with the image as it was).
    pub(crate) spec: Option<ContainerSpec>,
    /// How the changed image proves good, when the request says; for this change only.
    pub(crate) trial_health: Option<HealthCheck>,
}

impl Change {
    /// Changes `record`.
    pub(crate) fn apply(&self, record: &mut ContainerRecord) {
        if let Some(spec) = &self.spec {
            let image = record.spec.image.clone();
            record.spec = spec.clone();
            record.spec.image = image;
        }
        if let Some((image, asked)) = &self.image {
            record.spec.image = asked.clone();
            record.next_image = (record.image != *image).then(|| image.clone());
            record.rolled_back = None;
        }
    }
}

/// Checks `settings` against the container and the images there are.
///
/// # Errors
///
/// Names the setting that is unknown or wrong; nothing is changed then.
pub(crate) fn check(
    catalog: &Catalog,
    snapshot: &Snapshot,
    settings: &BTreeMap<String, String>,
) -> Result<(Change, SetResult), Problem> {
    let mut change = Change::default();
    let mut result = SetResult { live: Vec::new(), at_next_start: Vec::new() };
    for (key, value) in settings {
        let invalid = |why: String| Problem::new(ProblemCode::Invalid, format!("setting {key}: {why}"));
        match key.as_str() {
            "image" => {
                let asked: ImageRef = value.parse().map_err(|error: insula_model::ParseImageRefError| {
                    let mut problem = Problem::from_chain(ProblemCode::Invalid, &error);
                    problem.detail = format!("setting {key}: {}", problem.detail);
                    problem
                })?;
                change.image = Some((catalog.resolve(&asked, Strictness::Strict)?.image, asked));
                result.at_next_start.push(key.clone());
            }
            "restart" => {
                let spec = change.spec.get_or_insert_with(|| (*snapshot.spec).clone());
                spec.restart =
                    value.parse().map_err(|error: insula_model::ParseRestartPolicyError| invalid(error.to_string()))?;
                result.live.push(key.clone());
            }
            _ => return Err(invalid("there is no such setting".to_owned())),
        }
    }
    Ok((change, result))
}

/// The command line that runs: the container's own words before the image's.
pub(crate) fn effective_command(spec: &ContainerSpec, config: &ImageConfig) -> Vec<String> {
    let full_init = match spec.init {
        Some(kind) => kind == InitKind::Image,
        None => config.init.is_some() && spec.command.is_empty() && spec.entrypoint.is_none(),
    };
    if full_init {
        return config.init.iter().cloned().chain(spec.command.iter().cloned()).collect();
    }
    let entrypoint = spec.entrypoint.as_ref().unwrap_or(&config.entrypoint);
    let rest = match (&spec.entrypoint, spec.command.is_empty()) {
        (None, true) => &config.cmd,
        _ => &spec.command,
    };
    entrypoint.iter().chain(rest).cloned().collect()
}
