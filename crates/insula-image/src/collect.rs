//! Which versions may go: the pure part of collecting garbage.
//!
//! ```text
//!  live = named by containers, templates, checkpoints, pins (the caller knows these)
//!       + the default version of each name
//!       + held by operations in flight
//!  garbage = present - live
//! ```

use std::collections::BTreeSet;

use insula_model::ImageId;

/// What the store itself keeps, beside what the caller names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreRoots {
    /// The default version of each name.
    pub defaults: BTreeSet<ImageId>,
    /// Versions that operations hold.
    pub held: BTreeSet<ImageId>,
}

/// The versions of `present` that nobody needs.
#[must_use]
pub fn garbage(present: &BTreeSet<ImageId>, live: &BTreeSet<ImageId>, roots: &StoreRoots) -> BTreeSet<ImageId> {
    let needed = |id: &ImageId| live.contains(id) || roots.defaults.contains(id) || roots.held.contains(id);
    present.iter().filter(|id| !needed(id)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ids() -> impl Strategy<Value = BTreeSet<ImageId>> {
        prop::collection::btree_set(
            (0..4, 0..4).prop_map(|(name, version)| {
                let id = format!("n{name}@{version}");
                id.parse().expect("in the alphabet")
            }),
            0..10,
        )
    }

    proptest! {
        #[test]
        fn garbage_and_what_is_needed_are_what_is_present(
            present in ids(), live in ids(), defaults in ids(), held in ids(),
        ) {
            let roots = StoreRoots { defaults, held };
            let gone = garbage(&present, &live, &roots);
            prop_assert!(gone.is_subset(&present));
            let kept: BTreeSet<_> = present.difference(&gone).collect();
            for id in &present {
                let needed = live.contains(id) || roots.defaults.contains(id) || roots.held.contains(id);
                prop_assert_eq!(kept.contains(id), needed);
            }
        }
    }
}
