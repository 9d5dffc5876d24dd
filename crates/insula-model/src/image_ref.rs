//! How images are named: `name@version`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{ImageName, ImageVersion, NameError};

/// One immutable version of an image, `name@version`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageId {
    /// The image.
    pub name: ImageName,
    /// Which of its versions.
    pub version: ImageVersion,
}

/// What a user asks for: a version, or whatever version is the image's default.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageRef {
    /// The image.
    pub name: ImageName,
    /// The version asked for; `None` is the default version.
    pub version: Option<ImageVersion>,
}

/// Text that names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseImageRefError {
    /// One of the two names is outside the contract.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A version was needed.
    #[error("image `{given}` names no version; write {given}@VERSION")]
    NoVersion {
        /// What was given.
        given: String,
    },
}

impl FromStr for ImageRef {
    type Err = ParseImageRefError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let (name, version) = match given.split_once('@') {
            Some((name, version)) => (name, Some(ImageVersion::new(version)?)),
            None => (given, None),
        };
        Ok(Self { name: ImageName::new(name)?, version })
    }
}

impl FromStr for ImageId {
    type Err = ParseImageRefError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let ImageRef { name, version } = given.parse()?;
        let version = version.ok_or_else(|| ParseImageRefError::NoVersion { given: given.to_owned() })?;
        Ok(Self { name, version })
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}@{}", self.name, self.version))
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Some(version) => f.pad(&format!("{}@{version}", self.name)),
            None => self.name.fmt(f),
        }
    }
}

impl From<ImageId> for ImageRef {
    fn from(id: ImageId) -> Self {
        Self { name: id.name, version: Some(id.version) }
    }
}

macro_rules! as_text {
    ($type:ident) => {
        impl TryFrom<String> for $type {
            type Error = ParseImageRefError;

            fn try_from(given: String) -> Result<Self, Self::Error> {
                given.parse()
            }
        }

        impl From<$type> for String {
            fn from(image: $type) -> Self {
                image.to_string()
            }
        }
    };
}

as_text!(ImageId);
as_text!(ImageRef);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_has_a_name_and_perhaps_a_version() {
        let debian: ImageRef = "debian".parse().unwrap();
        assert_eq!((debian.name.as_str(), debian.version), ("debian", None));
        let twelve: ImageId = "debian@12.5".parse().unwrap();
        assert_eq!(twelve.to_string(), "debian@12.5");
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for bad in ["", "@", "debian@", "@12", "debian@12@13", "debian:12", "a/b"] {
            assert!(bad.parse::<ImageRef>().is_err(), "{bad}");
        }
        assert!(matches!("debian".parse::<ImageId>(), Err(ParseImageRefError::NoVersion { .. })));
    }
}
