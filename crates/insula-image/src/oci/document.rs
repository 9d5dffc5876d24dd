//! The JSON documents of OCI images, as far as an import reads them. Unknown fields are passed over: later versions
//! and other programs add some.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::machine;

/// `index.json`, or a nested index.
#[derive(Debug, Deserialize)]
pub(super) struct Index {
    #[serde(default)]
    pub(super) manifests: Vec<Descriptor>,
}

/// A reference to a blob. The digest is text until it is used: its check names it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    #[serde(default)]
    pub(super) platform: Option<Platform>,
    #[serde(default)]
    pub(super) annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Platform {
    #[serde(default)]
    pub(super) architecture: String,
    #[serde(default)]
    pub(super) os: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Manifest {
    pub(super) config: Descriptor,
    #[serde(default)]
    pub(super) layers: Vec<Descriptor>,
    #[serde(default)]
    pub(super) annotations: Option<BTreeMap<String, String>>,
}

/// An image's configuration.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    /// Of its programs; what says nothing may be for any machine.
    #[serde(default)]
    pub(super) architecture: Option<String>,
    #[serde(default)]
    pub(super) os: Option<String>,
    #[serde(default)]
    pub(super) config: Option<RunConfig>,
    #[serde(default)]
    pub(super) rootfs: RootFs,
}

impl Config {
    /// Which machine it is for, if for another than this. An index with one image often names no platform; then this
    /// alone tells.
    pub(super) fn foreign_platform(&self) -> Option<String> {
        let named = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
        let os = named(&self.os).unwrap_or_else(|| "linux".to_owned());
        let architecture = named(&self.architecture).unwrap_or_else(|| machine().to_owned());
        (os != "linux" || architecture != machine()).then(|| format!("{os}/{architecture}"))
    }
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct RootFs {
    #[serde(default)]
    pub(super) diff_ids: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct RunConfig {
    pub(super) user: Option<String>,
    pub(super) exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    pub(super) env: Option<Vec<String>>,
    pub(super) entrypoint: Option<Vec<String>>,
    pub(super) cmd: Option<Vec<String>>,
    pub(super) working_dir: Option<String>,
    pub(super) labels: Option<BTreeMap<String, String>>,
    pub(super) stop_signal: Option<String>,
    pub(super) healthcheck: Option<Healthcheck>,
}

/// Docker's addition. Times are nanoseconds, zero means "the default".
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Healthcheck {
    pub(super) test: Option<Vec<String>>,
    pub(super) interval: Option<u64>,
    pub(super) timeout: Option<u64>,
    pub(super) start_period: Option<u64>,
    pub(super) retries: Option<u64>,
}

/// One image of `manifest.json` of what `docker save` writes.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DockerImage {
    pub(super) config: String,
    #[serde(default)]
    pub(super) repo_tags: Option<Vec<String>>,
    pub(super) layers: Vec<String>,
}
