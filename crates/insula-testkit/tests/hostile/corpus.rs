//! Archives by hand: no packer writes such entries.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use tar::{EntryType, Header};

/// An archive in the making.
pub(crate) struct Archive(Vec<u8>);

/// What it is, its bytes, and what the refusal says of it.
pub(crate) type Hostile = (&'static str, Vec<u8>, &'static str);

impl Archive {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    fn put(mut self, mut header: Header, content: &[u8]) -> Self {
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: &str, content: &[u8]) -> Self {
        self.put(header(name, EntryType::Regular, content.len() as u64), content)
    }

    fn directory(self, name: &str) -> Self {
        self.put(header(name, EntryType::Directory, 0), b"")
    }

    pub(crate) fn link(self, name: &str, kind: EntryType, target: &str) -> Self {
        let mut header = header(name, kind, 0);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        self.put(header, b"")
    }

    fn node(self, name: &str, kind: EntryType, major: u32, minor: u32) -> Self {
        let mut header = header(name, kind, 0);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.put(header, b"")
    }

    pub(crate) fn device(self, name: &str, major: u32, minor: u32) -> Self {
        self.node(name, EntryType::Block, major, minor)
    }

    pub(crate) fn extended(self, key: &str, value: &[u8]) -> Self {
        // The length counts itself.
        let rest = key.len() + value.len() + 3;
        let length = (rest..).find(|length| length.to_string().len() + rest == *length).unwrap();
        let record = [format!("{length} {key}=").as_bytes(), value, b"\n"].concat();
        self.put(header("pax", EntryType::XHeader, record.len() as u64), &record)
    }

    /// Changes the mode of the last entry, which has less than a block of content.
    pub(crate) fn mode(mut self, mode: u32) -> Self {
        let start = self.0.len() - 1024;
        let mut header = Header::new_ustar();
        header.as_mut_bytes().copy_from_slice(&self.0[start..start + 512]);
        header.set_mode(mode);
        header.set_cksum();
        self.0[start..start + 512].copy_from_slice(header.as_bytes());
        self
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

fn header(name: &str, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

/// The header of a file whose `bytes` bytes are to follow.
pub(crate) fn begun(name: &str, bytes: u64) -> Vec<u8> {
    Archive::new().put(header(name, EntryType::Regular, bytes), b"").0
}

/// Archives that are no images.
pub(crate) fn refused() -> Vec<Hostile> {
    let new = Archive::new;
    let whole = new().file("a", &[7; 5000]).end();
    let mut damaged = new().file("a", b"1").file("b", b"2").end();
    damaged[1024] = b'c';
    let deep = "d/".repeat(513);
    let endless = "d/".repeat(65_536);
    let holes = [("GNU.sparse.size", "107374182400"), ("GNU.sparse.map", "0,1")];
    let holes = holes.into_iter().fold(new(), |archive, (key, value)| archive.extended(key, value.as_bytes()));
    let huge = header("huge", EntryType::Regular, 100 << 30);
    let long_header = header("pax", EntryType::XHeader, 1 << 30);
    vec![
        ("a way up", new().file("../../etc/passwd", b"x").end(), "has a `..` component"),
        ("a way up in the middle", new().file("a/../../b", b"x").end(), "has a `..` component"),
        ("a link to nothing", new().link("a", EntryType::Link, "missing").end(), "/a: hard link to /missing"),
        ("a link upwards", new().link("a", EntryType::Link, "../../etc/shadow").end(), "has a `..` component"),
        (
            "an attribute of overlays",
            new().extended("SCHILY.xattr.trusted.overlay.opaque", b"y").directory("a/").end(),
            "`a/` at byte 1024: extended attribute `trusted.overlay.opaque` would steer overlay mounts",
        ),
        ("a root that is a link", new().link("./", EntryType::Symlink, "/").end(), "the root is not a directory"),
        (
            "a directory that becomes a link",
            new().directory("etc/").file("etc/a", b"1").link("etc", EntryType::Symlink, "/etc").end(),
            "/etc: a directory that has entries is replaced",
        ),
        (
            "a way through a link",
            new().link("etc", EntryType::Symlink, "/etc").file("etc/passwd", b"x").end(),
            "/etc on the way is not a directory",
        ),
        ("a whiteout of overlays", new().node("a", EntryType::Char, 0, 0).end(), "/a: character device 0:0"),
        ("a device out of range", new().device("a", 0o7_777_777, 1).end(), "is above 4095:1048575"),
        ("a name with a NUL", new().extended("path", b"a\0b").file("x", b"").end(), "has a NUL byte"),
        ("a deep name", new().extended("path", deep.as_bytes()).directory("x").end(), "directories deep"),
        ("64k components", new().extended("path", endless.as_bytes()).directory("x").end(), "the most is"),
        ("holes beyond measure", holes.file("holes", b"x").end(), "more than 68719476736 bytes of content"),
        ("more content than a node takes", new().put(huge, b"").end(), "more than 68719476736 bytes of content"),
        ("a long header", new().put(long_header, b"").end(), "its extended header has 1073741824 bytes"),
        ("half of an archive", whole[..2000].to_vec(), "entry /a: read content: it is truncated"),
        ("a damaged header", damaged, "its checksum is wrong"),
        ("an empty file", Vec::new(), "it is empty"),
        ("an archive of nothing", new().end(), "it holds no entries"),
        ("another format", b"\xfd7zXZ\0rest".to_vec(), "it is a xz file"),
        ("noise", (0..4096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect(), "not a tar archive"),
        ("half of a gzip stream", b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x4b".to_vec(), "compression is damaged or cut short"),
    ]
}

/// A tar archive without what lies at or beneath `path`, to be continued.
pub(crate) fn without(archive: &[u8], path: &str) -> Archive {
    let mut kept = Archive::new();
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().into_owned();
        if name.starts_with(path) {
            continue;
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        kept = kept.put(entry.header().clone(), &content);
    }
    kept
}

/// An entry of an exported archive.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) kind: EntryType,
    pub(crate) mode: u32,
    pub(crate) content: String,
}

/// What is in an archive, by name.
pub(crate) fn list(archive: &Path) -> BTreeMap<String, Listed> {
    let mut archive = tar::Archive::new(File::open(archive).unwrap());
    let listed = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut content = String::new();
        entry.read_to_string(&mut content).unwrap();
        let header = entry.header();
        let listed = Listed { kind: header.entry_type(), mode: header.mode().unwrap(), content };
        let name = entry.path().unwrap().to_string_lossy().into_owned();
        (name.trim_start_matches("./").trim_end_matches('/').to_owned(), listed)
    });
    listed.collect()
}
