//! Ranges of user and group ids on the host.

use serde::{Deserialize, Serialize};

/// The block of host uids and gids that belongs to one container: inside it they are 0 to `size - 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct IdRange {
    /// Host id of the container's root.
    pub base: u32,
    /// Number of ids; 65,536 for every container.
    pub size: u32,
}

impl IdRange {
    /// Ids that every container has.
    pub const SIZE: u32 = 65_536;

    /// The host id of `inside`, or `None` when it is not in the range.
    #[must_use]
    pub fn host_id(self, inside: u32) -> Option<u32> {
        (inside < self.size).then(|| self.base.checked_add(inside)).flatten()
    }

    /// Whether the host id `id` lies in the range.
    #[must_use]
    pub fn contains(self, id: u32) -> bool {
        id.checked_sub(self.base).is_some_and(|inside| inside < self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_map_only_inside_the_range() {
        let range = IdRange { base: 1 << 20, size: IdRange::SIZE };
        assert_eq!(range.host_id(0), Some(1 << 20));
        assert_eq!(range.host_id(65_536), None);
        assert!(range.contains((1 << 20) + 65_535));
        assert!(!range.contains((1 << 20) + 65_536));
        assert!(!range.contains(0));
    }
}
