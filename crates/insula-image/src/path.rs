//! Paths of entries inside an image.
//!
//! A path is kept relative to the image's root, normalised, as bytes: no leading slash, no empty, `.` or `..`
//! component, no NUL. The root itself is the empty path. It is data: nothing here ever resolves it on the host.

use std::fmt;

/// Path of an entry of an image. Ordered by its bytes, which is the order of every tree and manifest.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImagePath(Box<[u8]>);

/// A name that cannot be a path of an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImagePathError {
    /// A component is `..`.
    #[error("name `{given}` has a `..` component")]
    ParentComponent {
        /// The name, escaped.
        given: String,
    },
    /// A NUL byte, which no file name of Linux can hold.
    #[error("name `{given}` has a NUL byte")]
    Nul {
        /// The name, escaped.
        given: String,
    },
    /// A component of more than 255 bytes.
    #[error("name `{given}` has a component of {length} bytes; the most is 255")]
    LongComponent {
        /// The beginning of the name, escaped.
        given: String,
        /// Bytes of the component.
        length: usize,
    },
    /// More than 4095 bytes.
    #[error("name `{given}` has {length} bytes; the most is 4095")]
    Long {
        /// The beginning of the name, escaped.
        given: String,
        /// Bytes of the name.
        length: usize,
    },
    /// More components than [`ImagePath::DEPTH_MAX`].
    #[error("name `{given}` is {depth} directories deep; the most is 512")]
    Deep {
        /// The beginning of the name, escaped.
        given: String,
        /// Number of components.
        depth: usize,
    },
}

impl ImagePath {
    /// Most components of a path.
    pub const DEPTH_MAX: usize = 512;
    /// Most bytes of one component.
    pub const COMPONENT_BYTES_MAX: usize = 255;
    /// Most bytes of a path, counted with its leading slash: one less than Linux's `PATH_MAX`.
    pub const BYTES_MAX: usize = 4095;

    /// The image's root, the empty path.
    #[must_use]
    pub fn root() -> Self {
        Self(Box::default())
    }

    /// Reads a path as archives and people write it: leading, repeated and trailing slashes and `.` components
    /// are dropped.
    ///
    /// # Errors
    ///
    /// See the variants of [`ImagePathError`].
    pub fn parse(given: impl AsRef<[u8]>) -> Result<Self, ImagePathError> {
        let given = given.as_ref();
        if given.contains(&0) {
            return Err(ImagePathError::Nul { given: escape_start(given) });
        }
        let mut path = Vec::with_capacity(given.len());
        let mut depth = 0;
        for component in given.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return Err(ImagePathError::ParentComponent { given: escape_start(given) }),
                _ => {}
            }
            if component.len() > Self::COMPONENT_BYTES_MAX {
                return Err(ImagePathError::LongComponent { given: escape_start(given), length: component.len() });
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(component);
            depth += 1;
        }
        if path.len() >= Self::BYTES_MAX {
            return Err(ImagePathError::Long { given: escape_start(given), length: path.len() + 1 });
        }
        if depth > Self::DEPTH_MAX {
            return Err(ImagePathError::Deep { given: escape_start(given), depth });
        }
        Ok(Self(path.into()))
    }

    /// The path's bytes, without a leading slash; empty for the root.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the image's root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes of the directory that holds this entry; none for the root.
    #[must_use]
    pub fn parent_bytes(&self) -> Option<&[u8]> {
        if self.is_root() {
            return None;
        }
        Some(self.0.iter().rposition(|byte| *byte == b'/').map_or(&[], |slash| &self.0[..slash]))
    }

    /// The directory that holds this entry; none for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        self.parent_bytes().map(|parent| Self(parent.into()))
    }

    /// The last component; empty for the root.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        let start = self.0.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        &self.0[start..]
    }

    /// The entry called `name` in this directory.
    ///
    /// # Errors
    ///
    /// As [`ImagePath::parse`] of the whole.
    pub fn join(&self, name: &[u8]) -> Result<Self, ImagePathError> {
        Self::parse([&self.0, &b"/"[..], name].concat())
    }

    /// Whether this path is `directory` or lies beneath it.
    #[must_use]
    pub fn is_within(&self, directory: &Self) -> bool {
        directory.is_root()
            || self.0.strip_prefix(&*directory.0).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    }
}

impl fmt::Display for ImagePath {
    /// As an absolute path, bytes that are not printable ASCII escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("/{}", self.0.escape_ascii()))
    }
}

impl fmt::Debug for ImagePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The first 120 bytes, escaped: a name from an archive can be a megabyte.
pub(crate) fn escape_start(given: &[u8]) -> String {
    const SHOWN_BYTES: usize = 120;
    if given.len() <= SHOWN_BYTES {
        given.escape_ascii().to_string()
    } else {
        format!("{}...", given[..SHOWN_BYTES].escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_and_dots_are_normalised() {
        for (given, path) in
            [("/a//b/", "a/b"), ("./a/./b", "a/b"), (".", ""), ("./", ""), ("", ""), ("///", ""), ("a/.b..", "a/.b..")]
        {
            assert_eq!(ImagePath::parse(given).unwrap().as_bytes(), path.as_bytes(), "{given}");
        }
    }

    #[test]
    fn hostile_names_are_refused_each_by_its_reason() {
        let refusal = |given: &[u8]| ImagePath::parse(given).unwrap_err().to_string();
        assert!(refusal(b"a/../b").contains("`..`"));
        assert!(refusal(b"..").contains("`..`"));
        assert!(refusal(b"a\0b").contains("NUL"));
        assert!(refusal(&[b'a'; 256]).contains("256 bytes"));
        assert!(refusal(&b"abcdefg/".repeat(512)).contains("4096 bytes"));
        assert!(refusal(&b"a/".repeat(513)).contains("513 directories"));
        assert_eq!(ImagePath::parse(b"a/".repeat(512)).unwrap().as_bytes().len(), 1023);
    }

    #[test]
    fn parent_and_name_split_at_the_last_slash() {
        let path = ImagePath::parse("a/b/c").unwrap();
        assert_eq!(path.parent().unwrap().as_bytes(), b"a/b");
        assert_eq!(path.name(), b"c");
        assert_eq!(ImagePath::parse("a").unwrap().parent().unwrap(), ImagePath::root());
        assert_eq!(ImagePath::root().parent(), None);
        assert!(path.is_within(&ImagePath::parse("a").unwrap()));
        assert!(!ImagePath::parse("ab").unwrap().is_within(&ImagePath::parse("a").unwrap()));
    }
}
