//! The nouns of Insula and the pure rules about them.
//!
//! Everything here is plain data: ids, names, units, what a container is asked to be, what an image says about
//! itself. Nothing here reads a file, asks a clock or knows a kernel call; every other crate may depend on it.

mod bytes;
mod check;
mod digest;
mod id;
mod id_range;
mod image_config;
mod image_ref;
mod mount_plan;
mod name;
mod network;
mod public_key;
mod resources;
mod restart;
#[cfg(feature = "schema")]
mod schema;
mod settings;
mod signal;
mod spec;
mod spelling;
mod state;
mod template;
mod volume;

pub use bytes::{Bytes, ParseBytesError};
pub use check::{CheckSpecError, FILES_MIN, Field};
pub use digest::{ParseDigestError, Sha256Digest};
pub use id::{ContainerId, ParseContainerIdError};
pub use id_range::IdRange;
pub use image_config::{HealthCheck, ImageConfig, Stage};
pub use image_ref::{ImageId, ImageRef, ParseImageRefError};
pub use mount_plan::{MountPlan, Place, PlaceContent};
pub use name::{ContainerName, ImageName, ImageVersion, NameError, NodeName, TemplateName};
pub use network::{HostEntry, NetworkMode, PORT_RANGE_MAX, ParsePortError, PublishedPort, Transport};
pub use public_key::{ParseKeyError, PublicKey};
pub use resources::{CpuLimit, ParseCpuLimitError, ResourceSpec, Ulimit};
pub use restart::{ParseRestartPolicyError, RestartPolicy};
pub use settings::{Effect, SETTINGS, Setting, SettingError, ValueError, effect_of};
pub use signal::{ParseSignalError, Signal};
pub use spec::{ContainerSpec, InitKind, LogMode, RootAccess, StdinMode};
pub use spelling::{near, nearest};
pub use state::{ContainerState, Health};
pub use template::{DefineTemplateError, Origin, Resolved, Template, Templates, UnknownTemplateError};
pub use volume::{Access, DeviceSpec, ParseVolumeError, TmpfsMount, VolumeMount};
