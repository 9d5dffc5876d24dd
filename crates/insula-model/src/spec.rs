//! What a container is asked to be.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{
    DeviceSpec, HealthCheck, HostEntry, ImageConfig, ImageRef, NetworkMode, PublishedPort, ResourceSpec, RestartPolicy,
    Signal, TemplateName, TmpfsMount, VolumeMount,
};

/// A container's configuration as its owner gave it. Fields that are absent fall to the image's configuration.
///
/// Paths, names and addresses in it are checked by their types; whether they exist is asked at each start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ContainerSpec {
    /// Image and perhaps version.
    pub image: ImageRef,
    /// Command line after the entrypoint; empty falls to the image's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Replaces the image's entrypoint, and with it its default command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Environment variables; they go before the image's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// `user`, `uid`, `user:group` or `uid:gid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Host name; the container's name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Time zone such as `Europe/Rome`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// Who is process 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<InitKind>,
    /// Whether `/` is writable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<RootAccess>,
    /// Directories and files of the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeMount>,
    /// Further file systems in memory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tmpfs: Vec<TmpfsMount>,
    /// Device nodes of the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceSpec>,
    /// Network stack.
    #[serde(default)]
    pub network: NetworkMode,
    /// Published ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PublishedPort>,
    /// Name servers; the node's when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schema(value_type = Vec<String>))]
    pub dns: Vec<IpAddr>,
    /// Further lines of `/etc/hosts`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostEntry>,
    /// What to do when it ends by itself.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// Signal that asks it to stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<Signal>,
    /// Milliseconds from the stop signal to the kill; 10,000 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_timeout_ms: Option<u64>,
    /// Capabilities beside the default ones, such as `NET_ADMIN`; `ALL` is all of its user namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cap_add: Vec<String>,
    /// Capabilities taken away; `ALL` is every one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cap_drop: Vec<String>,
    /// All capabilities of its user namespace and no system call filter, but never the host's ids.
    #[serde(default)]
    pub privileged: bool,
    /// Whether set-user-id programs have their effect taken away.
    #[serde(default)]
    pub no_new_privileges: bool,
    /// Kernel settings of its own namespaces, such as `net.ipv4.ip_forward`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    /// Where limits come from that it does not name itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<TemplateName>,
    /// Limits.
    #[serde(default)]
    pub resources: ResourceSpec,
    /// How to tell that it is healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
    /// Whether its output is kept.
    #[serde(default)]
    pub log: LogMode,
    /// Whether its main process has a terminal.
    #[serde(default)]
    pub tty: bool,
    /// Its standard input when no client brings one.
    #[serde(default)]
    pub stdin: StdinMode,
    /// Free text by key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Who is process 1 of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum InitKind {
    /// Insula's own small init, with the command as its child.
    Insula,
    /// The image's init system.
    Image,
}

/// Whether a container may write to `/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RootAccess {
    /// The image itself; only the places of its mount plan are writable.
    ReadOnly,
    /// A persistent layer over the image.
    Writable,
}

/// Whether what a container writes to its standard output and error is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum LogMode {
    /// In bounded, rotated segments.
    #[default]
    Kept,
    /// Not at all.
    Discarded,
}

/// Standard input of a container that is started without a client's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum StdinMode {
    /// At its end from the beginning.
    #[default]
    Closed,
    /// A pipe for clients that attach later; it has no end while the container runs.
    Open,
}

impl ContainerSpec {
    /// A container of `image` with nothing else asked for.
    #[must_use]
    pub fn new(image: ImageRef) -> Self {
        Self {
            image,
            command: Vec::new(),
            entrypoint: None,
            env: BTreeMap::new(),
            workdir: None,
            user: None,
            hostname: None,
            timezone: None,
            init: None,
            root: None,
            volumes: Vec::new(),
            tmpfs: Vec::new(),
            devices: Vec::new(),
            network: NetworkMode::Default,
            ports: Vec::new(),
            dns: Vec::new(),
            hosts: Vec::new(),
            restart: RestartPolicy::No,
            stop_signal: None,
            stop_timeout_ms: None,
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            privileged: false,
            no_new_privileges: false,
            sysctls: BTreeMap::new(),
            template: None,
            resources: ResourceSpec::default(),
            health: None,
            log: LogMode::Kept,
            tty: false,
            stdin: StdinMode::Closed,
            labels: BTreeMap::new(),
        }
    }

    /// Who is process 1 of a container of an image with this configuration. One that names a command runs it, whatever
    /// init its image has, as in the field.
    #[must_use]
    pub fn init_kind(&self, image: &ImageConfig) -> InitKind {
        let names_command = !self.command.is_empty() || self.entrypoint.is_some();
        self.init.unwrap_or(match &image.init {
            Some(_) if !names_command => InitKind::Image,
            _ => InitKind::Insula,
        })
    }

    /// Whether its root is writable: its own word goes before its image's.
    #[must_use]
    pub fn root_access(&self, image: &ImageConfig) -> RootAccess {
        self.root.or(image.root).unwrap_or(RootAccess::ReadOnly)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_process_1_is_said_by_the_container_then_by_its_command_then_by_its_image() {
        let (with, without) =
            (ImageConfig { init: Some("/sbin/init".to_owned()), ..ImageConfig::default() }, ImageConfig::default());
        let plain = ContainerSpec::new("web".parse().unwrap());
        let commanded = ContainerSpec { command: vec!["true".to_owned()], ..plain.clone() };
        let entered = ContainerSpec { entrypoint: Some(vec!["true".to_owned()]), ..plain.clone() };
        let told = |spec: &ContainerSpec, init| ContainerSpec { init: Some(init), ..spec.clone() };
        for (spec, image, expected) in [
            (&plain, &with, InitKind::Image),
            (&plain, &without, InitKind::Insula),
            (&commanded, &with, InitKind::Insula),
            (&entered, &with, InitKind::Insula),
            (&told(&commanded, InitKind::Image), &with, InitKind::Image),
            (&told(&plain, InitKind::Insula), &with, InitKind::Insula),
        ] {
            assert_eq!(spec.init_kind(image), expected, "{spec:?} {image:?}");
        }
    }

    #[test]
    fn a_root_is_writable_if_the_container_or_else_its_image_says_so() {
        let image = |root| ImageConfig { root, ..ImageConfig::default() };
        let container = |root| ContainerSpec { root, ..ContainerSpec::new("web".parse().unwrap()) };
        let (writable, read_only) = (Some(RootAccess::Writable), Some(RootAccess::ReadOnly));
        assert_eq!(container(None).root_access(&image(None)), RootAccess::ReadOnly);
        assert_eq!(container(None).root_access(&image(writable)), RootAccess::Writable);
        assert_eq!(container(read_only).root_access(&image(writable)), RootAccess::ReadOnly);
        assert_eq!(container(writable).root_access(&image(read_only)), RootAccess::Writable);
    }
}
