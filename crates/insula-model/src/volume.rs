//! Files and devices of the host that a container is given.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Bytes;

/// Whether something may be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Read and write.
    #[default]
    ReadWrite,
    /// Read only.
    ReadOnly,
}

/// A directory or file of the host inside the container; as text `SRC:DST[:ro]`.
///
/// It is idmapped: the container's root acts as the owner of the source. Set-user-id bits and devices have no
/// effect in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeMount {
    /// Absolute path on the host.
    pub source: String,
    /// Absolute path in the container.
    pub target: String,
    /// Whether the container may write to it.
    pub access: Access,
}

/// Text that is no volume.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseVolumeError {
    /// Not of the form.
    #[error("volume `{}` is not SRC:DST or SRC:DST:ro", given.escape_debug())]
    Form {
        /// What was given.
        given: String,
    },
    /// A whole root.
    #[error("volume `{}`: `/` as a whole is neither given nor taken; name something below it", given.escape_debug())]
    Root {
        /// What was given.
        given: String,
    },
    /// A path that is relative, or has `..`, `.`, an empty part or a NUL byte.
    #[error("volume `{}`: `{}` is not an absolute path without `.` and `..`", given.escape_debug(), path.escape_debug())]
    Path {
        /// What was given.
        given: String,
        /// The offending path.
        path: String,
    },
}

/// Whether `path` begins with `/` and has only plain parts. `/` itself is not.
fn is_plain_absolute(path: &str) -> bool {
    path.strip_prefix('/').is_some_and(|rest| {
        !path.contains('\0') && rest.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
    })
}

impl FromStr for VolumeMount {
    type Err = ParseVolumeError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let (paths, access) = match given.strip_suffix(":ro") {
            Some(paths) => (paths, Access::ReadOnly),
            None => (given.strip_suffix(":rw").unwrap_or(given), Access::ReadWrite),
        };
        let (source, target) = match paths.split_once(':') {
            Some((source, target)) if !source.is_empty() && !target.is_empty() && !target.contains(':') => {
                (source, target)
            }
            _ => return Err(ParseVolumeError::Form { given: given.to_owned() }),
        };
        // As a shell completes directories.
        let [source, target] = [source, target].map(|path| match path.trim_end_matches('/') {
            "" => "/",
            trimmed => trimmed,
        });
        if [source, target].contains(&"/") {
            return Err(ParseVolumeError::Root { given: given.to_owned() });
        }
        match [source, target].into_iter().find(|path| !is_plain_absolute(path)) {
            Some(path) => Err(ParseVolumeError::Path { given: given.to_owned(), path: path.to_owned() }),
            None => Ok(Self { source: source.to_owned(), target: target.to_owned(), access }),
        }
    }
}

impl fmt::Display for VolumeMount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.target)?;
        match self.access {
            Access::ReadWrite => Ok(()),
            Access::ReadOnly => f.write_str(":ro"),
        }
    }
}

impl TryFrom<String> for VolumeMount {
    type Error = ParseVolumeError;

    fn try_from(given: String) -> Result<Self, Self::Error> {
        given.parse()
    }
}

impl From<VolumeMount> for String {
    fn from(volume: VolumeMount) -> Self {
        volume.to_string()
    }
}

/// A file system in memory at a path of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TmpfsMount {
    /// Absolute path in the container.
    pub target: String,
    /// Most bytes it holds.
    pub size: Bytes,
    /// Permission bits of its root, such as 0o1777.
    pub mode: u32,
}

/// A device node of the host inside the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct DeviceSpec {
    /// Absolute path on the host.
    pub source: String,
    /// Absolute path in the container, below `/dev`.
    pub target: String,
    /// Any of `r`, `w`, `m`.
    pub access: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_read_back_from_their_text() {
        for text in ["/srv:/www", "/srv/a:/www/b:ro"] {
            assert_eq!(text.parse::<VolumeMount>().unwrap().to_string(), text);
        }
        assert_eq!("/srv/a/:/www/:ro".parse::<VolumeMount>().unwrap().to_string(), "/srv/a:/www:ro");
        assert_eq!("/a:/b:rw".parse::<VolumeMount>().unwrap().access, Access::ReadWrite);
    }

    #[test]
    fn paths_that_climb_or_are_relative_are_refused() {
        for bad in ["", "/a", "a:/b", "/a:b", "/a/../b:/c", "/a:/../b", "/a:/b:/c", "/a:/", "/a//b:/c", "/a:/b\0"] {
            assert!(bad.parse::<VolumeMount>().is_err(), "{bad}");
        }
        for root in ["/a:/", "/:/a:ro", "//:/a"] {
            let error = root.parse::<VolumeMount>().unwrap_err().to_string();
            assert!(error.contains("`/` as a whole"), "{error}");
        }
    }
}
