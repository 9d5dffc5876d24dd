//! Changes of a container's configuration by key: what is checked before the driver takes them.

use std::collections::BTreeMap;

use insula_api::{Problem, ProblemCode, SetResult};
use insula_model::{
    ContainerSpec, Effect, HealthCheck, ImageConfig, ImageId, ImageRef, InitKind, ResourceSpec, RestartPolicy,
    effect_of,
};

use crate::catalog::Strictness;
use crate::container::record::ContainerRecord;
use crate::container::snapshot::Snapshot;
use crate::context::Context;

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
            record.trial_health.clone_from(&self.trial_health);
            record.upgrade_grace = None;
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
    context: &Context,
    snapshot: &Snapshot,
    settings: &BTreeMap<String, String>,
) -> Result<(Change, SetResult), Problem> {
    let mut change = Change::default();
    let mut result = SetResult { live: Vec::new(), at_next_start: Vec::new() };
    let mut spec = snapshot.record.spec.clone();
    for (key, value) in settings {
        let effect = spec.apply(key, value).map_err(|error| Problem::from_chain(ProblemCode::Invalid, &error))?;
        if key == "image" {
            let asked = spec.image.clone();
            change.image = Some((context.catalog.resolve(&asked, Strictness::Strict)?.image, asked));
        }
        match effect {
            Effect::Live => result.live.push(key.clone()),
            Effect::NextStart => result.at_next_start.push(key.clone()),
        }
    }
    spec.check().map_err(|error| Problem::from_chain(ProblemCode::Invalid, &error))?;
    let resolved = context.config.resolve(&spec)?.resources;
    if settings.contains_key("template") {
        note_template(&snapshot.spec.resources, &resolved, &mut result);
    }
    if snapshot.record.remove && spec.restart != RestartPolicy::No {
        let detail = "a container that is deleted when it ends cannot have a restart policy";
        return Err(Problem::new(ProblemCode::Invalid, detail));
    }
    change.spec = Some(spec);
    Ok((change, result))
}

/// Says of each limit that another template changes when it counts.
fn note_template(old: &ResourceSpec, new: &ResourceSpec, result: &mut SetResult) {
    let (old, new) = (old.values(), new.values());
    let gone = old.iter().filter(|(key, _)| new.iter().all(|(other, _)| other != key));
    for (key, _) in new.iter().filter(|value| !old.contains(value)).chain(gone) {
        let list = match effect_of(key) {
            Ok(Effect::Live) => &mut result.live,
            _ => &mut result.at_next_start,
        };
        if !list.contains(key) {
            list.push(key.clone());
        }
    }
}

/// The command line that runs: the container's own words before the image's.
pub(crate) fn effective_command(spec: &ContainerSpec, config: &ImageConfig) -> Vec<String> {
    let full_init = match spec.init {
        Some(kind) => kind == InitKind::Image,
        None => config.init.is_some() && spec.command.is_empty() && spec.entrypoint.is_none(),
    };
    if full_init {
        return std::iter::once(config.init_program().to_owned()).chain(spec.command.iter().cloned()).collect();
    }
    let entrypoint = spec.entrypoint.as_ref().unwrap_or(&config.entrypoint);
    let rest = match (&spec.entrypoint, spec.command.is_empty()) {
        (None, true) => &config.cmd,
        _ => &spec.command,
    };
    entrypoint.iter().chain(rest).cloned().collect()
}
