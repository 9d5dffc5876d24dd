//! Whether an image has a time zone.
//!
//! Only an image with zones of its own can lack one: in others, programs that bring their zones along (Go, Python's
//! `tzdata`) still read the variable `TZ`.

use insula_model::near;

use crate::tree::{ImageTree, InodeKind};

/// Where zones lie, one file each.
const ZONES: &str = "usr/share/zoneinfo/";

/// An image's zones do not have the one that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "time zone `{}` is none of those in /usr/share/zoneinfo of the image{}",
    given.escape_debug(),
    nearest.as_ref().map_or_else(String::new, |nearest| format!("; did you mean `{nearest}`?"))
)]
pub struct UnknownTimeZoneError {
    /// What was asked for.
    pub given: String,
    /// The one that is spelt most alike.
    pub nearest: Option<String>,
}

/// Looks for the zone of that name.
///
/// # Errors
///
/// The image has zones, and this is none of them.
pub fn expect_time_zone(tree: &ImageTree, given: &str) -> Result<(), UnknownTimeZoneError> {
    let is_zone = |kind: &InodeKind| !matches!(kind, InodeKind::Directory);
    let zones = || {
        tree.iter()
            .filter(|item| is_zone(&item.inode.kind))
            .filter_map(|item| std::str::from_utf8(item.path.as_bytes()).ok()?.strip_prefix(ZONES))
    };
    if zones().next().is_none() || zones().any(|zone| zone == given) {
        return Ok(());
    }
    Err(UnknownTimeZoneError { given: given.to_owned(), nearest: near(given, zones()).map(str::to_owned) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::Attributes;
    use crate::path::ImagePath;
    use crate::tree::{Inode, InodeIndex, TreeEntry};

    fn tree(paths: &[&str]) -> ImageTree {
        let kind = |path: &str| match path.rsplit('/').next() {
            Some("Rome" | "UTC") => InodeKind::Fifo,
            _ => InodeKind::Directory,
        };
        let inode = |path: &&str| Inode { attributes: Attributes::of_root(0o755), kind: kind(path) };
        let entry =
            |(index, path): (u32, &&str)| TreeEntry { path: ImagePath::parse(path).unwrap(), inode: InodeIndex(index) };
        let entries = (0..).zip(paths).map(entry).collect();
        ImageTree::from_parts(entries, paths.iter().map(inode).collect()).unwrap()
    }

    #[test]
    fn only_an_image_with_zones_can_lack_one() {
        expect_time_zone(&tree(&["", "usr", "usr/share"]), "Mars/Olympus").unwrap();
        let above = ["", "usr", "usr/share", "usr/share/zoneinfo", "usr/share/zoneinfo/Europe"];
        expect_time_zone(&tree(&above), "Mars/Olympus").unwrap();
        let zones = [&above[..], &["usr/share/zoneinfo/Europe/Rome", "usr/share/zoneinfo/UTC"]].concat();
        for known in ["Europe/Rome", "UTC"] {
            expect_time_zone(&tree(&zones), known).unwrap();
        }
        let refusal = |given| expect_time_zone(&tree(&zones), given).unwrap_err();
        assert_eq!(refusal("Europe/Roma").nearest.as_deref(), Some("Europe/Rome"));
        assert_eq!(refusal("Europe").nearest, None, "a directory is no zone");
    }
}
