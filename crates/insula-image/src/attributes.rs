//! What every inode of an image has beside its content: mode, owner, time, extended attributes.

use std::collections::BTreeMap;

use crate::path::escape_start;

/// Mode, owner, modification time and extended attributes of an inode.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Permission, set-id and sticky bits: the low 12 bits of `st_mode`.
    pub mode: u16,
    /// Owner, in the image's own numbering.
    pub uid: u32,
    /// Group, in the image's own numbering.
    pub gid: u32,
    /// Last modification.
    pub mtime: Mtime,
    /// Extended attributes and ACLs.
    pub xattrs: Xattrs,
}

impl Attributes {
    /// The bits of `st_mode` that [`Attributes::mode`] holds.
    pub const MODE_BITS: u16 = 0o7777;

    /// Owned by root, of the beginning of time: what is made because nobody brought it.
    #[must_use]
    pub fn of_root(mode: u16) -> Self {
        Self { mode, ..Self::default() }
    }
}

/// Time of a modification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mtime {
    /// Seconds since 1970, UTC; negative before.
    pub seconds: i64,
    /// Nanoseconds after that second, below 10^9.
    pub nanoseconds: u32,
}

/// Number of a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    major: u32,
    minor: u32,
}

/// A device number that Linux cannot encode in 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("device number {major}:{minor} is above 4095:1048575")]
pub struct DeviceError {
    major: u32,
    minor: u32,
}

impl Device {
    /// Checks the ranges of Linux: 12 bits of major, 20 of minor.
    ///
    /// # Errors
    ///
    /// When either is larger.
    pub fn new(major: u32, minor: u32) -> Result<Self, DeviceError> {
        if major >= 1 << 12 || minor >= 1 << 20 {
            return Err(DeviceError { major, minor });
        }
        Ok(Self { major, minor })
    }

    /// Major number, below 4096.
    #[must_use]
    pub fn major(self) -> u32 {
        self.major
    }

    /// Minor number, below 2^20.
    #[must_use]
    pub fn minor(self) -> u32 {
        self.minor
    }

    /// As file systems store it: the kernel's `new_encode_dev`.
    pub(crate) fn encode(self) -> u32 {
        (self.minor & 0xff) | (self.major << 8) | ((self.minor & !0xff) << 12)
    }

    /// The reverse of [`Device::encode`]: `new_decode_dev`.
    pub(crate) fn decode(encoded: u32) -> Self {
        Self { major: (encoded >> 8) & 0xfff, minor: (encoded & 0xff) | ((encoded >> 12) & 0xfff00) }
    }
}

/// Extended attributes by their full name, such as `security.capability`. Most inodes have none, so none is one
/// empty pointer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Xattrs(Option<Box<XattrMap>>);

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct XattrMap {
    by_name: BTreeMap<Box<[u8]>, Box<[u8]>>,
    bytes: usize,
}

/// An extended attribute that an image cannot or must not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum XattrError {
    /// `trusted.overlay.*` or `user.overlay.*`: it would steer an overlay mounted over the image.
    #[error("extended attribute `{name}` would steer overlay mounts")]
    Overlay {
        /// Name, escaped.
        name: String,
    },
    /// Not in a name space that the image format can hold. Callers may drop such an attribute.
    #[error("extended attribute `{name}` is of no name space that an image can hold")]
    NameSpace {
        /// Name, escaped.
        name: String,
    },
    /// Name empty, above 255 bytes or with a NUL.
    #[error("extended attribute `{name}` has no usable name")]
    Name {
        /// Beginning of the name, escaped.
        name: String,
    },
    /// Value above 65,535 bytes.
    #[error("extended attribute `{name}` has {length} bytes; the most is 65535")]
    LongValue {
        /// Name, escaped.
        name: String,
        /// Bytes of the value.
        length: usize,
    },
    /// All of an inode's attributes together are above 128 KiB.
    #[error("extended attributes with `{name}` are above 131072 bytes in all")]
    TooMany {
        /// Name of the one that was too much, escaped.
        name: String,
    },
    /// An ACL whose bytes Linux would refuse to read.
    #[error("extended attribute `{name}` is not an ACL of version 2")]
    DamagedAcl {
        /// Name, escaped.
        name: String,
    },
}

/// The name spaces of the image format: prefix, EROFS index. The ACLs' names are whole.
pub(crate) const XATTR_NAME_SPACES: [(&[u8], u8); 5] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
];

impl Xattrs {
    /// Most bytes of all names and values of an inode: its length field counts words of 4 bytes in 16 bits.
    const BYTES_MAX: usize = 128 << 10;

    /// Adds an attribute; a second one of the same name replaces the first.
    ///
    /// # Errors
    ///
    /// See the variants of [`XattrError`].
    pub fn insert(&mut self, name: &[u8], value: &[u8]) -> Result<(), XattrError> {
        let shown = || escape_start(name);
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            return Err(XattrError::Overlay { name: shown() });
        }
        let (index, suffix) = split_name(name).ok_or_else(|| XattrError::NameSpace { name: shown() })?;
        let is_acl = matches!(index, 2 | 3);
        if suffix.len() > 255 || name.len() > 255 || name.contains(&0) || (suffix.is_empty() && !is_acl) {
            return Err(XattrError::Name { name: shown() });
        }
        if value.len() > usize::from(u16::MAX) {
            return Err(XattrError::LongValue { name: shown(), length: value.len() });
        }
        if is_acl && (value.len() % 8 != 4 || !value.starts_with(&2u32.to_le_bytes())) {
            return Err(XattrError::DamagedAcl { name: shown() });
        }
        self.remove(name);
        if self.stored_bytes() + entry_bytes(name, value) > Self::BYTES_MAX {
            return Err(XattrError::TooMany { name: shown() });
        }
        let map = self.0.get_or_insert_default();
        map.bytes += entry_bytes(name, value);
        map.by_name.insert(name.into(), value.into());
        Ok(())
    }

    /// Value of an attribute.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.0.as_ref()?.by_name.get(name).map(|value| &**value)
    }

    /// Takes an attribute away; nothing happens when there is none.
    pub fn remove(&mut self, name: &[u8]) {
        let Some(map) = &mut self.0 else { return };
        if let Some(value) = map.by_name.remove(name) {
            map.bytes -= entry_bytes(name, &value);
        }
        if map.by_name.is_empty() {
            self.0 = None;
        }
    }

    /// Names and values in the order of the names' bytes.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().flat_map(|map| map.by_name.iter()).map(|(name, value)| (&**name, &**value))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Number of attributes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |map| map.by_name.len())
    }

    /// About the bytes that all names and values take in an image.
    pub(crate) fn stored_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |map| map.bytes)
    }
}

/// Name, value, and their header with its alignment.
fn entry_bytes(name: &[u8], value: &[u8]) -> usize {
    name.len() + value.len() + 8
}

/// EROFS index of a name's name space, and the rest of the name.
pub(crate) fn split_name(name: &[u8]) -> Option<(u8, &[u8])> {
    XATTR_NAME_SPACES.iter().find_map(|(prefix, index)| {
        let rest = name.strip_prefix(*prefix)?;
        (prefix.ends_with(b".") || rest.is_empty()).then_some((*index, rest))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_keep_all_their_bits() {
        for (major, minor) in [(0, 1), (1, 3), (8, 255), (4095, 1_048_575), (259, 70_000)] {
            let device = Device::new(major, minor).unwrap();
            assert_eq!(Device::decode(device.encode()), device);
        }
        assert!(Device::new(4096, 0).is_err());
        assert!(Device::new(0, 1 << 20).is_err());
    }

    #[test]
    fn attributes_that_steer_overlays_are_refused() {
        let mut xattrs = Xattrs::default();
        for name in [&b"trusted.overlay.opaque"[..], b"user.overlay.redirect"] {
            assert!(matches!(xattrs.insert(name, b"y"), Err(XattrError::Overlay { .. })));
        }
        assert!(matches!(xattrs.insert(b"com.apple.provenance", b""), Err(XattrError::NameSpace { .. })));
        assert!(matches!(xattrs.insert(b"system.nfs4_acl", b""), Err(XattrError::NameSpace { .. })));
        assert!(matches!(xattrs.insert(b"user.", b""), Err(XattrError::Name { .. })));
        assert!(matches!(xattrs.insert(b"system.posix_acl_access", b"junk"), Err(XattrError::DamagedAcl { .. })));
        assert!(xattrs.is_empty());
        xattrs.insert(b"user.overlays", b"1").unwrap();
        xattrs.insert(b"security.capability", b"2").unwrap();
        assert_eq!(
            xattrs.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            [&b"security.capability"[..], b"user.overlays"]
        );
    }
}
