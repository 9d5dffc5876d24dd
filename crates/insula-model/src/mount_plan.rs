//! Which places of an image are writable in its containers.

use serde::{Deserialize, Serialize};

use crate::Bytes;

/// The writable places of an image's containers. Each is new at each start; `/data` (persistent) and `/sw`
/// (read-only software) are always there and not listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct MountPlan {
    /// In the order of mounting; no place lies inside another.
    pub places: Vec<Place>,
}

/// One writable place: memory of a bounded size over the image's directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Absolute path of a directory of the image, without `.`, `..`, repeated or trailing slashes.
    pub path: String,
    /// What it holds at a start.
    pub content: PlaceContent,
    /// Most bytes that can be written into it: 5 to 200 MiB.
    pub size: Bytes,
    /// Most files and directories that can be made in it.
    pub inodes: u32,
}

/// What a writable place holds when its container starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum PlaceContent {
    /// The image's files at that path: an overlay of memory over them.
    Defaults,
    /// Nothing: memory alone, with the image directory's mode and owner.
    Empty,
}

impl MountPlan {
    /// Smallest size of a place.
    pub const PLACE_SIZE_MIN: Bytes = Bytes::mib(5);
    /// Largest size of a place.
    pub const PLACE_SIZE_MAX: Bytes = Bytes::mib(200);

    /// The plan of an image that brings none: `/etc /var /root /home` with the image's defaults, `/tmp /run` empty.
    #[must_use]
    pub fn default_plan() -> Self {
        let place =
            |path: &str, content, mib, inodes| Place { path: path.to_owned(), content, size: Bytes::mib(mib), inodes };
        Self {
            places: vec![
                place("/etc", PlaceContent::Defaults, 20, 8_192),
                place("/var", PlaceContent::Defaults, 200, 32_768),
                place("/tmp", PlaceContent::Empty, 200, 32_768),
                place("/run", PlaceContent::Empty, 20, 8_192),
                place("/root", PlaceContent::Defaults, 20, 8_192),
                place("/home", PlaceContent::Defaults, 50, 16_384),
            ],
        }
    }
}
