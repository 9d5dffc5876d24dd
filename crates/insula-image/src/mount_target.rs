//! Mount plans against rules and trees: whether every writable place can be one.

use insula_model::{Bytes, MountPlan};

use crate::path::ImagePath;
use crate::tree::{ImageTree, InodeKind};

/// A mount plan that no container could be started with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MountPlanError {
    /// Not an absolute, normalised path below the root.
    #[error("writable place `{}` is not an absolute path without `.`, `..` and extra slashes", path.escape_debug())]
    Path {
        /// What was given.
        path: String,
    },
    /// A path that every container has for something else.
    #[error("writable place {path} is taken: /data, /dev, /proc, /sw and /sys are there in every container")]
    Taken {
        /// The place.
        path: String,
    },
    /// Outside of 5 to 200 MiB.
    #[error(
        "writable place {path} has size {size}; use {} to {}",
        MountPlan::PLACE_SIZE_MIN,
        MountPlan::PLACE_SIZE_MAX
    )]
    Size {
        /// The place.
        path: String,
        /// The size.
        size: Bytes,
    },
    /// No files at all, or more than memory of that size could hold.
    #[error("writable place {path} is for {inodes} files; use 16 to 1048576")]
    Inodes {
        /// The place.
        path: String,
        /// The number.
        inodes: u32,
    },
    /// One place lies in another, or is it.
    #[error("writable place {inner} lies in writable place {outer}")]
    Nested {
        /// The inner one.
        inner: String,
        /// The outer one.
        outer: String,
    },
    /// More than [`PLACES_MAX`] places.
    #[error("mount plan has {count} writable places; the most is {PLACES_MAX}")]
    TooMany {
        /// How many.
        count: usize,
    },
}

/// Most places of a plan: each costs every start of a container a mount or two.
pub const PLACES_MAX: usize = 32;

/// Paths that are something else in every container.
const TAKEN: [&str; 5] = ["/data", "/dev", "/proc", "/sw", "/sys"];

/// Whether `inner` is `outer` or lies in it.
fn lies_in(inner: &str, outer: &str) -> bool {
    inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Checks a plan by itself, without an image.
///
/// # Errors
///
/// Names the place; see the variants of [`MountPlanError`].
pub fn check_mount_plan(plan: &MountPlan) -> Result<(), MountPlanError> {
    if plan.places.len() > PLACES_MAX {
        return Err(MountPlanError::TooMany { count: plan.places.len() });
    }
    for (index, place) in plan.places.iter().enumerate() {
        let path = || place.path.clone();
        let normal = ImagePath::parse(&place.path).is_ok_and(|parsed| {
            !parsed.is_root() && place.path.as_bytes().strip_prefix(b"/") == Some(parsed.as_bytes())
        });
        if !normal {
            return Err(MountPlanError::Path { path: path() });
        }
        if TAKEN.iter().any(|taken| lies_in(&place.path, taken)) {
            return Err(MountPlanError::Taken { path: path() });
        }
        if place.size < MountPlan::PLACE_SIZE_MIN || place.size > MountPlan::PLACE_SIZE_MAX {
            return Err(MountPlanError::Size { path: path(), size: place.size });
        }
        if !(16..=1 << 20).contains(&place.inodes) {
            return Err(MountPlanError::Inodes { path: path(), inodes: place.inodes });
        }
        for other in &plan.places[..index] {
            for (inner, outer) in [(place, other), (other, place)] {
                if lies_in(&inner.path, &outer.path) {
                    return Err(MountPlanError::Nested { inner: inner.path.clone(), outer: outer.path.clone() });
                }
            }
        }
    }
    Ok(())
}

/// A place that is no directory of an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MountTargetProblem {
    /// Nothing is there.
    #[error("mount target {path} is missing in the image")]
    Missing {
        /// The place.
        path: String,
    },
    /// It, or something above it, is a symbolic link or anything else but a directory.
    #[error("mount target {path} is not a directory of the image: {component} is something else")]
    NotDirectory {
        /// The place.
        path: String,
        /// The path that is in the way.
        component: String,
    },
}

/// Compares a plan's places, and those that every container has, with an image's tree. No link is followed. A start
/// refuses what is listed here.
#[must_use]
pub fn mount_target_problems(tree: &ImageTree, plan: &MountPlan) -> Vec<MountTargetProblem> {
    let places = plan.places.iter().map(|place| place.path.as_str());
    places.chain(TAKEN).filter_map(|path| mount_target_problem(tree, path)).collect()
}

fn mount_target_problem(tree: &ImageTree, path: &str) -> Option<MountTargetProblem> {
    let Ok(target) = ImagePath::parse(path) else {
        return Some(MountTargetProblem::Missing { path: path.to_owned() });
    };
    for component in self_and_above(&target).into_iter().rev() {
        match tree.find(&component).map(|inode| &inode.kind) {
            Some(InodeKind::Directory) => {}
            Some(_) => {
                let component = component.to_string();
                return Some(MountTargetProblem::NotDirectory { path: path.to_owned(), component });
            }
            None => return Some(MountTargetProblem::Missing { path: path.to_owned() }),
        }
    }
    None
}

/// A path and the directories above it, the root last.
pub(crate) fn self_and_above(path: &ImagePath) -> Vec<ImagePath> {
    std::iter::successors(Some(path.clone()), ImagePath::parent).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use insula_model::{Place, PlaceContent};

    fn plan(places: &[(&str, u64)]) -> MountPlan {
        let place = |&(path, mib): &(&str, u64)| Place {
            path: path.to_owned(),
            content: PlaceContent::Empty,
            size: Bytes::mib(mib),
            inodes: 1024,
        };
        MountPlan { places: places.iter().map(place).collect() }
    }

    #[test]
    fn the_default_plan_is_a_plan() {
        check_mount_plan(&MountPlan::default_plan()).unwrap();
    }

    #[test]
    fn plans_outside_the_rules_are_refused_by_name() {
        let refusal = |places: &[(&str, u64)]| check_mount_plan(&plan(places)).unwrap_err();
        for path in ["", "/", "etc", "/etc/", "//etc", "/etc/../var", "/./etc", "/a\0b"] {
            assert!(matches!(refusal(&[(path, 5)]), MountPlanError::Path { .. }), "{path:?}");
        }
        for path in ["/data", "/data/x", "/proc", "/sys/fs", "/dev", "/sw"] {
            assert!(matches!(refusal(&[(path, 5)]), MountPlanError::Taken { .. }), "{path}");
        }
        for size in [0, 4, 201] {
            assert!(matches!(refusal(&[("/etc", size)]), MountPlanError::Size { .. }), "{size}");
        }
        for places in [[("/var", 5), ("/var", 5)], [("/var", 5), ("/var/lib", 5)], [("/var/lib", 5), ("/var", 5)]] {
            assert!(matches!(refusal(&places), MountPlanError::Nested { .. }), "{places:?}");
        }
        check_mount_plan(&plan(&[("/var", 5), ("/variable", 200)])).unwrap();
    }
}
