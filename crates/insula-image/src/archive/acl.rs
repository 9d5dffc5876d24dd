//! ACLs of PAX records, which are text, as the bytes that Linux keeps them in.
//!
//! Text: `user::rw-`, `user:1000:r--`, `group::r--`, `mask::r--`, `other::---`, divided by commas or newlines; star
//! adds the number behind a name, `user:lisa:r--:1000`. Bytes: version 2, then for each entry tag, permissions and
//! id, sorted by tag and id. Names without numbers mean nothing here: an image has its own users.

/// Tags of Linux: owner, user, group of the file, group, mask, others.
const TAG_USER_OBJ: u16 = 1;
const TAG_USER: u16 = 2;
const TAG_GROUP_OBJ: u16 = 4;
const TAG_GROUP: u16 = 8;
const TAG_MASK: u16 = 16;
const TAG_OTHER: u16 = 32;
const VERSION: u32 = 2;

/// The bytes of an ACL, or none when the text is no ACL or names users that it does not number.
pub(super) fn acl_from_text(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let mut entries = Vec::new();
    for line in text.split(['\n', ',']) {
        let entry = line.split('#').next().unwrap_or_default().trim();
        if !entry.is_empty() {
            entries.push(parse_entry(entry)?);
        }
    }
    entries.sort_unstable();
    let tags = |wanted| entries.iter().filter(|(tag, ..)| *tag == wanted).count();
    let once = [TAG_USER_OBJ, TAG_GROUP_OBJ, TAG_OTHER].into_iter().all(|tag| tags(tag) == 1);
    let has_named = tags(TAG_USER) + tags(TAG_GROUP) > 0;
    let is_repeated = entries.windows(2).any(|pair| (pair[0].0, pair[0].1) == (pair[1].0, pair[1].1));
    if !once || tags(TAG_MASK) > 1 || (has_named && tags(TAG_MASK) == 0) || is_repeated {
        return None;
    }
    let mut bytes = VERSION.to_le_bytes().to_vec();
    for (tag, id, permissions) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    Some(bytes)
}

/// Tag, id and permissions of one entry.
fn parse_entry(entry: &str) -> Option<(u16, u32, u16)> {
    let mut fields = entry.split(':');
    let (kind, qualifier, permissions) = (fields.next()?, fields.next()?, fields.next()?);
    let number = fields.next();
    let tag = match (kind, qualifier.is_empty()) {
        ("user" | "u", true) => TAG_USER_OBJ,
        ("user" | "u", false) => TAG_USER,
        ("group" | "g", true) => TAG_GROUP_OBJ,
        ("group" | "g", false) => TAG_GROUP,
        ("mask" | "m", true) => TAG_MASK,
        ("other" | "o", true) => TAG_OTHER,
        _ => return None,
    };
    let id = if qualifier.is_empty() { u32::MAX } else { number.unwrap_or(qualifier).parse().ok()? };
    let bits = permissions.bytes().zip(*b"rwx").zip([4, 2, 1]);
    let bits = bits.map(|((byte, letter), bit)| match byte {
        b'-' => Some(0),
        byte if byte == letter => Some(bit),
        _ => None,
    });
    let permissions = if permissions.len() == 3 { bits.sum::<Option<u16>>()? } else { return None };
    Some((tag, id, permissions))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_the_bytes_of_linux() {
        let text = b"other::---,user:1000:r--,mask::r--,user::rw-,group::r--,user:lisa:rwx:7";
        let expected = [
            &[2, 0, 0, 0][..],
            &[1, 0, 6, 0, 255, 255, 255, 255],
            &[2, 0, 7, 0, 7, 0, 0, 0],
            &[2, 0, 4, 0, 232, 3, 0, 0],
            &[4, 0, 4, 0, 255, 255, 255, 255],
            &[16, 0, 4, 0, 255, 255, 255, 255],
            &[32, 0, 0, 0, 255, 255, 255, 255],
        ];
        assert_eq!(acl_from_text(text), Some(expected.concat()));
        assert_eq!(acl_from_text(b"user::rwx\ngroup::r-x\nother::r-x\n").map(|bytes| bytes.len()), Some(28));
    }

    #[test]
    fn what_is_no_acl_or_names_without_numbers_gives_none() {
        for bad in [
            "",
            "user::rw-",
            "user::rw-,group::r--,other::---,user:lisa:r--,mask::r--",
            "user::rw-,group::r--,other::---,user:1:r--",
            "user::rw-,user::r--,group::r--,other::---",
            "user::rw-,group::r--,other::rw",
            "user::wr-,group::r--,other::---",
        ] {
            assert_eq!(acl_from_text(bad.as_bytes()), None, "{bad}");
        }
    }
}
