//! PAX records: what an extended header says about the entry behind it.
//!
//! A record is `LENGTH KEY=VALUE\n`, LENGTH counting itself. Keys we do not know are skipped, as POSIX asks; a record
//! that is not one is refused, because where it ends decides what the next one says.

use super::acl::acl_from_text;
use super::numbers::{parse_decimal, parse_time};
use super::tar_reader::ReadArchiveCause;
use crate::attributes::{Mtime, XattrError, Xattrs};

/// What the extended headers before an entry say about it.
#[derive(Debug, Clone, Default)]
pub(super) struct PaxFields {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link_path: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Mtime>,
    pub(super) xattrs: Xattrs,
    pub(super) sparse: PaxSparse,
    /// ACLs as text: the attribute's name, its bytes when the text has any.
    acls: Vec<(&'static [u8], Option<Vec<u8>>)>,
    pub(super) dropped_attributes: u64,
    /// The first attribute that no image may have: told with the entry, which has its name behind the headers only.
    refused: Option<XattrError>,
}

/// GNU's records of files with holes, of its three versions.
#[derive(Debug, Clone, Default)]
pub(super) struct PaxSparse {
    /// Version 1.0: the map stands before the content.
    pub(super) map_in_content: bool,
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    /// Offsets and lengths, one after another.
    pub(super) map: Vec<u64>,
}

/// Most numbers in a map that stands in records.
const MAP_NUMBERS_MAX: usize = 2 * super::sparse::SEGMENTS_MAX;

impl PaxFields {
    /// Reads the records of one header over what earlier ones said.
    pub(super) fn read(&mut self, mut records: &[u8]) -> Result<(), ReadArchiveCause> {
        while !records.is_empty() {
            let (key, value, rest) = split_record(records).ok_or(ReadArchiveCause::PaxRecord)?;
            self.apply(key, value)?;
            records = rest;
        }
        Ok(())
    }

    fn apply(&mut self, key: &[u8], value: &[u8]) -> Result<(), ReadArchiveCause> {
        let number = || parse_decimal(value).ok_or_else(|| bad_value(key));
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link_path = Some(value.to_vec()),
            b"size" => self.size = Some(number()?),
            b"uid" => self.uid = Some(number()?),
            b"gid" => self.gid = Some(number()?),
            b"mtime" => self.mtime = Some(parse_time(value).ok_or_else(|| bad_value(key))?),
            b"GNU.sparse.major" => self.sparse.map_in_content = value == b"1",
            b"GNU.sparse.name" => self.sparse.name = Some(value.to_vec()),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse.real_size = Some(number()?),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.push_map(number()?)?,
            b"GNU.sparse.map" => {
                for text in value.split(|byte| *byte == b',') {
                    self.push_map(parse_decimal(text).ok_or_else(|| bad_value(key))?)?;
                }
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.add_xattr(name, value);
                    return Ok(());
                }
                let acl_name = match key {
                    b"SCHILY.acl.access" => &b"system.posix_acl_access"[..],
                    b"SCHILY.acl.default" => b"system.posix_acl_default",
                    _ => return Ok(()),
                };
                self.acls.retain(|(name, _)| *name != acl_name);
                self.acls.push((acl_name, acl_from_text(value)));
            }
        }
        Ok(())
    }

    /// Refuses attributes that no image may have, and makes attributes of the ACLs that came as text. GNU tar writes
    /// both, the text with names of the machine it ran on: the bytes count then. To be called once, when all headers
    /// of the entry are read.
    pub(super) fn settle_attributes(&mut self) -> Result<(), ReadArchiveCause> {
        for (name, acl) in std::mem::take(&mut self.acls) {
            match acl {
                _ if self.xattrs.get(name).is_some() => {}
                Some(acl) => self.add_xattr(name, &acl),
                None => self.dropped_attributes += 1,
            }
        }
        self.refused.take().map_or(Ok(()), |error| Err(error.into()))
    }

    fn push_map(&mut self, number: u64) -> Result<(), ReadArchiveCause> {
        if self.sparse.map.len() >= MAP_NUMBERS_MAX {
            return Err(ReadArchiveCause::SparseMap);
        }
        self.sparse.map.push(number);
        Ok(())
    }

    fn add_xattr(&mut self, name: &[u8], value: &[u8]) {
        match self.xattrs.insert(name, value) {
            Ok(()) => {}
            Err(XattrError::NameSpace { .. }) => self.dropped_attributes += 1,
            Err(error) => {
                self.refused.get_or_insert(error);
            }
        }
    }
}

fn bad_value(key: &[u8]) -> ReadArchiveCause {
    ReadArchiveCause::PaxValue { key: crate::path::escape_start(key) }
}

/// Key and value of the first record, and what is behind it.
fn split_record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(parse_decimal(&records[..space])?).ok()?;
    let record = records.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &records[length..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_by_their_lengths() {
        let mut fields = PaxFields::default();
        fields.read(b"12 path=a\nb\n12 uid=1000\n29 SCHILY.xattr.user.a=x=\x00\ny\n22 comment=not for us\n").unwrap();
        assert_eq!(fields.path.as_deref(), Some(&b"a\nb"[..]));
        assert_eq!(fields.uid, Some(1000));
        assert_eq!(fields.xattrs.get(b"user.a"), Some(&b"x=\x00\ny"[..]));
    }

    #[test]
    fn what_is_not_a_record_is_refused() {
        for bad in [&b"x"[..], b"5 a=b", b"99 path=a\n", b"3 \n", b"10 path\n", b"-7 a=b\n", b"9 uid=1x\n", b"6 a=bc\n"]
        {
            assert!(PaxFields::default().read(bad).is_err(), "{}", bad.escape_ascii());
        }
        let mut overlay = PaxFields::default();
        overlay.read(b"36 SCHILY.xattr.trusted.overlay.x=1\n").unwrap();
        let refused = overlay.settle_attributes();
        assert!(matches!(refused, Err(ReadArchiveCause::Attribute(XattrError::Overlay { .. }))), "{refused:?}");
    }
}
