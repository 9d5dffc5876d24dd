//! Which image versions there are, as the node's requests need it: in memory, replaced when the store changes.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use insula_api::{ImageView, Problem, ProblemCode};
use insula_model::{ContainerSpec, HealthCheck, ImageConfig, ImageId, ImageName, ImageRef, InitKind, Signal, near};

/// Whether an unknown version may fall back to the default one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strictness {
    /// It may, with a warning.
    FallBack,
    /// It is refused.
    Strict,
}

/// What a reference came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// The version.
    pub(crate) image: ImageId,
    /// Set when it is not the one asked for.
    pub(crate) warning: Option<String>,
}

#[derive(Debug, Default)]
struct Index {
    images: BTreeMap<ImageId, Arc<ImageView>>,
    defaults: HashMap<ImageName, ImageId>,
}

/// The image versions of this node.
#[derive(Debug, Default)]
pub(crate) struct Catalog(RwLock<Arc<Index>>);

impl Catalog {
    fn index(&self) -> Arc<Index> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces everything by what the store says now.
    pub(crate) fn replace(&self, images: Vec<ImageView>) {
        let defaults =
            images.iter().filter(|view| view.default).map(|view| (view.name.clone(), view.image.clone())).collect();
        let images = images.into_iter().map(|view| (view.image.clone(), Arc::new(view))).collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Index { images, defaults });
    }

    /// All versions, by name and version.
    pub(crate) fn all(&self) -> Vec<Arc<ImageView>> {
        self.index().images.values().cloned().collect()
    }

    /// One version.
    ///
    /// # Errors
    ///
    /// Not found.
    pub(crate) fn get(&self, image: &ImageId) -> Result<Arc<ImageView>, Problem> {
        self.index().images.get(image).cloned().ok_or_else(|| self.unknown(&image.clone().into()))
    }

    /// The version that a bare name means, damaged or not: who looks at it wants to know.
    ///
    /// # Errors
    ///
    /// Not found.
    pub(crate) fn default_of(&self, name: &ImageName) -> Result<Arc<ImageView>, Problem> {
        let index = self.index();
        let view = index.defaults.get(name).and_then(|image| index.images.get(image));
        view.cloned().ok_or_else(|| self.unknown(&ImageRef { name: name.clone(), version: None }))
    }

    /// The version that `asked` means, if containers may start from it.
    ///
    /// # Errors
    ///
    /// Not found: no such image, no such version and no default to fall back to (or `Strict`).
    pub(crate) fn resolve(&self, asked: &ImageRef, strictness: Strictness) -> Result<Resolved, Problem> {
        let index = self.index();
        let default = index.defaults.get(&asked.name);
        let Some(version) = &asked.version else {
            let image = default.cloned().ok_or_else(|| self.unknown(asked))?;
            return self.refuse_damaged(&index, Resolved { image, warning: None });
        };
        let image = ImageId { name: asked.name.clone(), version: version.clone() };
        if index.images.contains_key(&image) {
            return self.refuse_damaged(&index, Resolved { image, warning: None });
        }
        match (strictness, default) {
            (Strictness::FallBack, Some(default)) => {
                let warning = format!("image {image} does not exist; the default version {default} is used");
                self.refuse_damaged(&index, Resolved { image: default.clone(), warning: Some(warning) })
            }
            _ => Err(self.unknown(asked)),
        }
    }

    fn refuse_damaged(&self, index: &Index, resolved: Resolved) -> Result<Resolved, Problem> {
        match index.images.get(&resolved.image).and_then(|view| view.damaged.as_ref()) {
            None => Ok(resolved),
            Some(damage) => {
                let detail = format!("image {} is damaged: {damage}", resolved.image);
                Err(Problem::new(ProblemCode::Conflict, detail).with_remedy("import it again, or use another version"))
            }
        }
    }

    fn unknown(&self, asked: &ImageRef) -> Problem {
        let index = self.index();
        let versions: Vec<String> = index
            .images
            .keys()
            .filter(|image| image.name == asked.name)
            .map(|image| image.version.to_string())
            .collect();
        let problem = Problem::new(ProblemCode::NotFound, format!("image {asked} does not exist"));
        if versions.is_empty() {
            let meant = near(asked.name.as_str(), index.images.keys().map(|image| image.name.as_str()));
            let meant = meant.map(|name| format!("did you mean `{name}`? ")).unwrap_or_default();
            problem.with_remedy(format!("{meant}`insula image list` shows what exists; `insula image import` adds one"))
        } else {
            problem.with_remedy(format!("versions of {} here: {}", asked.name, versions.join(", ")))
        }
    }

    fn config(&self, image: &ImageId) -> Option<ImageConfig> {
        self.index().images.get(image).map(|view| view.config.clone())
    }

    /// The signal that asks a container of `image` to stop.
    pub(crate) fn stop_signal(&self, image: Option<&ImageId>, spec: &ContainerSpec) -> Signal {
        let config = image.and_then(|image| self.config(image)).unwrap_or_default();
        let full_init = match spec.init {
            Some(kind) => kind == InitKind::Image,
            None => config.init.is_some(),
        };
        let default = if full_init { Signal::SYSTEMD_HALT } else { Signal::TERM };
        spec.stop_signal.or(config.stop_signal).unwrap_or(default)
    }

    /// How to tell that a container of `image` is healthy.
    pub(crate) fn health(&self, image: &ImageId, spec: &ContainerSpec) -> Option<HealthCheck> {
        let check = spec.health.clone().or_else(|| self.config(image)?.health);
        check.filter(|check| !check.command.is_empty())
    }
}
