//! Container ids: a UUID, and the names of host objects that are derived from it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Letters of link names: RFC 4648 base 32, in lower case.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// A container's id, for ever: never given to another container, on any node.
///
/// Every object that a container has on its host is named after it, so that one sweep by name finds all of them,
/// whatever crashed before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContainerId(Uuid);

/// Text that is not a UUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("container id `{}` is not a UUID", given.escape_debug())]
pub struct ParseContainerIdError {
    given: String,
}

impl ContainerId {
    /// The id with these 16 bytes; the caller draws them at random (UUID version 4).
    #[must_use]
    pub fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The UUID itself.
    #[must_use]
    pub fn as_uuid(self) -> Uuid {
        self.0
    }

    /// First 12 hexadecimal digits, for people.
    #[must_use]
    pub fn short(self) -> String {
        let mut text = self.0.simple().to_string();
        text.truncate(12);
        text
    }

    /// Name of the container's link on the host: `insula` and 9 letters (45 bits) of the id, 15 bytes in all,
    /// which is the longest name the kernel allows.
    #[must_use]
    pub fn link_name(self) -> String {
        let bits = self.0.as_u128() >> (128 - 45);
        let letters = (0..9).rev().map(|index| {
            let digit = usize::try_from((bits >> (5 * index)) & 31).unwrap_or_default();
            char::from(BASE32[digit])
        });
        std::iter::once("insula".to_owned()).chain(letters.map(String::from)).collect()
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for ContainerId {
    type Err = ParseContainerIdError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        Uuid::try_parse(given).map(Self).map_err(|_| ParseContainerIdError { given: given.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_name_has_fifteen_bytes_and_depends_on_the_first_forty_five_bits() {
        let id = ContainerId::from_uuid(Uuid::from_u128(0xffff_ffff_ffff_ffff_ffff_ffff_ffff_ffff));
        assert_eq!(id.link_name(), "insula777777777");
        let id = ContainerId::from_uuid(Uuid::from_u128(1 << 83));
        assert_eq!(id.link_name(), "insulaaaaaaaaab");
        assert_eq!(id.link_name().len(), 15);
    }

    #[test]
    fn text_form_round_trips() {
        let id = ContainerId::from_uuid(Uuid::from_u128(0x1234));
        assert_eq!(id.to_string().parse::<ContainerId>().unwrap(), id);
        assert!("web".parse::<ContainerId>().is_err());
    }
}
