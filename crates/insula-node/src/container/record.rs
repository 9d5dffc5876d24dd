//! Intent: what the store keeps of a container.

use insula_model::{ContainerId, ContainerName, ContainerSpec, IdRange, ImageId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::words::Wanted;
use crate::machine::Traces;

/// What a container is to be, and what it was given for life. JSON in the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    /// Its id.
    pub(crate) id: ContainerId,
    /// Its name.
    pub(crate) name: ContainerName,
    /// Its configuration.
    pub(crate) spec: ContainerSpec,
    /// The version that proved good last; at first the one resolved when it was created.
    pub(crate) image: ImageId,
    /// The good version before that.
    #[serde(default)]
    pub(crate) previous_image: Option<ImageId>,
    /// A version that was set and has not proved good yet.
    #[serde(default)]
    pub(crate) next_image: Option<ImageId>,
    /// Why the last change of image was taken back.
    #[serde(default)]
    pub(crate) rolled_back: Option<String>,
    /// Host ids.
    pub(crate) ids: IdRange,
    /// Addresses.
    #[serde(default)]
    pub(crate) addresses: Addresses,
    /// When it was created.
    pub(crate) created: Timestamp,
    /// What its owner last asked for.
    pub(crate) wanted: Wanted,
    /// Whether it is deleted when it ends; such a record is in the run directory only.
    #[serde(default)]
    pub(crate) remove: bool,
}

impl ContainerRecord {
    /// The version that the next start runs.
    pub(crate) fn wanted_image(&self) -> &ImageId {
        self.next_image.as_ref().unwrap_or(&self.image)
    }

    /// What the container leaves on the host's network.
    pub(crate) fn traces(&self) -> Traces {
        Traces { addresses: self.addresses, ports: self.spec.ports.clone() }
    }
}

/// Addresses of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Addresses {
    /// IPv4.
    pub(crate) v4: Option<std::net::Ipv4Addr>,
    /// IPv6.
    pub(crate) v6: Option<std::net::Ipv6Addr>,
}
