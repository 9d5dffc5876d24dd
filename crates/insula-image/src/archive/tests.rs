//! Archives of every format, and a corpus of hostile ones.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use tar::{EntryType, Header};

use super::*;
use crate::attributes::{Attributes, Device, Mtime};
use crate::draft::DraftError;
use crate::erofs::{AddEntryCause, ContentReader};
use crate::property_cases::cases;
use crate::tree::{ImageTree, InodeKind};

fn bytes_of(image: &WrittenImage) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(image.bytes).unwrap()];
    image.file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn import(archive: &[u8]) -> Result<ImportedArchive, ImportError> {
    import_tar(archive, tempfile::tempfile().unwrap(), &TreeLimits::standard(), &mut KeepAll)
}

fn walk(directory: &Path) -> Result<WrittenImage, WalkError> {
    let mut writer = ImageWriter::new(tempfile::tempfile().unwrap(), TreeLimits::standard()).unwrap();
    walk_directory(File::open(directory).unwrap().as_fd(), &mut writer, &mut KeepAll)?;
    Ok(writer.finish().unwrap())
}

fn path(text: &str) -> ImagePath {
    ImagePath::parse(text).unwrap()
}

fn text_of(image: &WrittenImage, name: &str) -> String {
    match &image.tree.find(&path(name)).unwrap().kind {
        InodeKind::File(content) => std::io::read_to_string(ContentReader::new(&image.file, content)).unwrap(),
        kind => panic!("{kind:?}"),
    }
}

/// A header block, its checksum right.
fn header(name: &[u8], entry_type: EntryType, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(entry_type);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    header
}

/// An archive by hand.
#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn new() -> Self {
        Self::default()
    }

    fn put(mut self, mut header: Header, content: &[u8]) -> Self {
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn entry(self, name: &str, entry_type: EntryType) -> Self {
        self.put(header(name.as_bytes(), entry_type, 0), b"")
    }

    fn file(self, name: &str, content: &[u8]) -> Self {
        self.put(header(name.as_bytes(), EntryType::Regular, content.len() as u64), content)
    }

    fn link(self, name: &str, entry_type: EntryType, target: &str) -> Self {
        let mut header = header(name.as_bytes(), entry_type, 0);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        self.put(header, b"")
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut bytes = Vec::new();
        for (key, value) in records {
            tar_writer::push_record(&mut bytes, key.as_bytes(), value);
        }
        self.put(header(b"pax", EntryType::XHeader, bytes.len() as u64), &bytes)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

/// The cause of a refusal, down to the archive's or the draft's.
fn refusal(archive: &[u8]) -> String {
    let error = import(archive).expect_err("must be refused");
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn refused(archive: Archive, expected: &str) {
    let text = refusal(&archive.end());
    assert!(text.contains(expected), "`{text}` does not say `{expected}`");
}

/// A directory with everything that needs no privilege, all times whole seconds.
fn sample_directory() -> tempfile::TempDir {
    let root = tempfile::Builder::new().prefix("insula-archive-").tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    fs::create_dir_all(at("usr/bin")).unwrap();
    fs::create_dir_all(at("a")).unwrap();
    fs::create_dir_all(at("a-b")).unwrap();
    fs::write(at("a/x"), "deep").unwrap();
    fs::write(at("usr/bin/tool"), vec![0x7f; 100_000]).unwrap();
    fs::set_permissions(at("usr/bin/tool"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::hard_link(at("usr/bin/tool"), at("usr/bin/alias")).unwrap();
    symlink("usr/bin", at("bin")).unwrap();
    let long = "n".repeat(120);
    fs::write(at(&long), "long name").unwrap();
    symlink("t".repeat(150), at("long-target")).unwrap();
    fs::hard_link(at(&long), at("short-of-long")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    fs::write(at("b\u{fc}cher"), "name outside ASCII").unwrap();
    for entry in
        ["usr/bin/tool", "usr/bin", "usr", "a/x", "a", "a-b", "bin", &long, "long-target", "pipe", "b\u{fc}cher", "."]
    {
        let touch = Command::new("touch").args(["-h", "-d", "@1600000000"]).arg(at(entry)).status().unwrap();
        assert!(touch.success());
    }
    root
}

fn gnu_tar(directory: &Path, options: &[&str]) -> Vec<u8> {
    let output = Command::new("tar").args(options).arg("-C").arg(directory).args(["-cf", "-", "."]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn archives_of_gnu_tar_give_the_tree_of_the_directory() {
    let directory = sample_directory();
    let walked = walk(directory.path()).unwrap();
    for options in [
        &["--format=gnu"][..],
        &["--format=posix"],
        &["--format=posix", "--sort=name"],
        &["--format=gnu", "--sort=name"],
    ] {
        let imported = import(&gnu_tar(directory.path(), options)).unwrap();
        assert_eq!(imported.image.hashed_tree().digest(), walked.hashed_tree().digest(), "{options:?}");
    }
}

#[test]
fn our_archive_of_an_image_gives_the_same_image() {
    let directory = sample_directory();
    let walked = walk(directory.path()).unwrap();
    let mut archive = Vec::new();
    let report = write_tar(&walked.file, &walked.tree, &mut archive).unwrap();
    assert_eq!(report.sockets_left_out, 0);
    let imported = import(&archive).unwrap();
    assert!(bytes_of(&imported.image) == bytes_of(&walked), "sorted contents lie in the same places");
    assert_eq!(imported.archive_sha256, crate::manifest::digest_of(&archive));
    let mut again = Vec::new();
    write_tar(&imported.image.file, &imported.image.tree, &mut again).unwrap();
    assert!(again == archive);
    let unpacked = tempfile::tempdir().unwrap();
    let mut tar = Command::new("tar")
        .args(["--exclude=./dev", "-xf", "-", "-C"])
        .arg(unpacked.path())
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    tar.stdin.take().unwrap().write_all(&archive).unwrap();
    assert!(tar.wait().unwrap().success());
    let unpacked = walk(unpacked.path()).unwrap();
    assert_eq!(unpacked.tree.find(&path("usr/bin/tool")), walked.tree.find(&path("usr/bin/tool")));
    assert_eq!(unpacked.tree.entries().len(), walked.tree.entries().len());
}

#[test]
fn extremes_of_attributes_survive_our_archive() {
    let mut writer = ImageWriter::new(tempfile::tempfile().unwrap(), TreeLimits::standard()).unwrap();
    let mut attributes = Attributes { mode: 0o7777, uid: u32::MAX - 1, gid: 3_000_000, ..Attributes::default() };
    attributes.xattrs.insert(b"user.binary", &(0..=255).collect::<Vec<u8>>()).unwrap();
    attributes.xattrs.insert(b"security.capability", b"12345678901234567890").unwrap();
    for (name, seconds, nanoseconds) in
        [("old", -5_000_000_000, 1), ("far", 99_999_999_999, 999_999_999), ("epoch", 0, 0)]
    {
        attributes.mtime = Mtime { seconds, nanoseconds };
        let entry = NewEntry { kind: NewKind::File { size: 1 }, attributes: attributes.clone() };
        writer.add(path(name), entry, &mut &b"x"[..]).unwrap();
    }
    let device = NewEntry { kind: NewKind::BlockDevice(Device::new(4095, 1_048_575).unwrap()), attributes };
    writer.add(path("device"), device, &mut std::io::empty()).unwrap();
    let image = writer.finish().unwrap();
    let mut archive = Vec::new();
    write_tar(&image.file, &image.tree, &mut archive).unwrap();
    assert_eq!(import(&archive).unwrap().image.hashed_tree().digest(), image.hashed_tree().digest());
}

#[test]
fn holes_come_back_from_every_sparse_format() {
    let directory = tempfile::tempdir().unwrap();
    let file = File::create(directory.path().join("sparse")).unwrap();
    file.set_len(40 << 20).unwrap();
    for index in 0..30 {
        std::os::unix::fs::FileExt::write_all_at(&file, b"data", index * (1 << 20) + 4096 * index).unwrap();
    }
    let wanted = walk(directory.path()).unwrap();
    for options in [
        &["--format=gnu"][..],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ] {
        let archive = gnu_tar(directory.path(), &[&["-S"][..], options].concat());
        assert!(archive.len() < 1 << 20, "tar stored {} bytes", archive.len());
        let imported = import(&archive).unwrap();
        assert_eq!(
            imported.image.hashed_tree().find(&path("sparse")).unwrap().kind,
            wanted.hashed_tree().find(&path("sparse")).unwrap().kind
        );
    }
}

#[test]
fn live_attributes_and_acls_come_through_gnu_tar() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "x").unwrap();
    let acl = super::acl::acl_from_text(b"user::rw-,user:1000:r--,group::r--,mask::r--,other::---").unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(&file, c"system.posix_acl_access", &acl, flags).unwrap();
    rustix::fs::setxattr(&file, c"trusted.note", b"kept", flags).expect("needs root");
    for entry in [&file, directory.path()] {
        let touch = Command::new("touch").args(["-d", "@1600000000"]).arg(entry).status().unwrap();
        assert!(touch.success());
    }
    let options = ["--format=posix", "--acls", "--numeric-owner", "--xattrs", "--xattrs-include=*"];
    let imported = import(&gnu_tar(directory.path(), &options)).unwrap();
    assert_eq!(imported.dropped_attributes, 0);
    assert_eq!(imported.image.hashed_tree().digest(), walk(directory.path()).unwrap().hashed_tree().digest());
}

#[test]
fn compression_is_told_apart_by_magic() {
    let plain = Archive::new().file("hello", b"world").end();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::encode_all(plain.as_slice(), 3).unwrap();
    let image = |archive: &[u8]| bytes_of(&import(archive).unwrap().image);
    assert!(image(&plain) == image(&gzip));
    assert!(image(&plain) == image(&zstd));
    assert_eq!(import(&gzip).unwrap().compression, Compression::Gzip);
    assert_eq!(import(&gzip).unwrap().archive_sha256, crate::manifest::digest_of(&gzip));
    for (archive, name) in [(&gzip, "Gzip"), (&zstd, "Zstd")] {
        for length in [archive.len() - 1, archive.len() - 6, archive.len() / 2, 12] {
            let text = refusal(&archive[..length]);
            assert!(text.contains(name) || text.contains("truncated"), "{length}: {text}");
        }
        let mut flipped = archive.clone();
        let middle = flipped.len() - 5;
        flipped[middle] ^= 0x10;
        import(&flipped).expect_err("a flipped bit");
    }
    assert!(refusal(b"\xfd7zXZ\0 and so on").contains("xz"));
    assert!(refusal(b"PK\x03\x04 and so on").contains("zip"));
}

#[test]
fn names_are_normalised_and_parents_made() {
    let archive = Archive::new()
        .file("/etc/passwd", b"one")
        .file("./usr//lib/./x", b"two")
        .entry("old-style-directory/", EntryType::Regular)
        .entry("contiguous", EntryType::Continuous)
        .end();
    let image = import(&archive).unwrap().image;
    assert_eq!((text_of(&image, "etc/passwd").as_str(), text_of(&image, "usr/lib/x").as_str()), ("one", "two"));
    assert_eq!(image.tree.find(&path("old-style-directory")).unwrap().kind, InodeKind::Directory);
    assert_eq!(image.tree.find(&path("usr")).unwrap().attributes, Attributes::of_root(0o755));
    for made in ["data", "dev", "proc", "run", "sw", "sys", "tmp"] {
        assert_eq!(image.tree.find(&path(made)).unwrap().kind, InodeKind::Directory);
    }
}

#[test]
fn t13_hostile_names_and_kinds_are_refused_by_name() {
    refused(Archive::new().file("a/../../etc/passwd", b""), "`a/../../etc/passwd` has a `..` component");
    refused(Archive::new().link("hard", EntryType::Link, "../../etc/shadow"), "`..`");
    refused(
        Archive::new().link("hard", EntryType::Link, "/etc/shadow"),
        "hard link to /etc/shadow, which is not there",
    );
    refused(Archive::new().pax(&[("path", b"a\0b")]).file("a", b""), "NUL");
    refused(Archive::new().pax(&[("path", &[b'c'; 256])]).file("a", b""), "component of 256 bytes");
    refused(Archive::new().pax(&[("path", &b"abcdefg/".repeat(600))]).file("a", b""), "4800 bytes; the most is 4095");
    refused(Archive::new().pax(&[("path", &b"d/".repeat(600))]).file("a", b""), "600 directories deep");
    refused(Archive::new().file("", b"x"), "the name is empty");
    refused(Archive::new().file("/", b"x"), "declares 1 bytes of content");
    refused(Archive::new().file(".", b"x"), "the root is not a directory");
    refused(Archive::new().link("./", EntryType::Symlink, "/"), "the root is not a directory");
    refused(Archive::new().entry("weird", EntryType::new(b'Q')), "unknown type 'Q'");
    refused(Archive::new().entry("multi-volume", EntryType::new(b'M')), "unknown type 'M'");
    refused(Archive::new().link("s", EntryType::Symlink, ""), "symbolic link has a target of 0 bytes");
    let mut whiteout = header(b"gone", EntryType::Char, 0);
    whiteout.set_device_major(0).unwrap();
    whiteout.set_device_minor(0).unwrap();
    refused(Archive::new().put(whiteout, b""), "character device 0:0");
    refused(Archive::new().put(header(b"d", EntryType::Directory, 512), &[0; 512]), "declares 512 bytes of content");
    refused(
        Archive::new().file("a", b"").link("b", EntryType::Link, "d").entry("d", EntryType::Directory),
        "/d, which is a directory",
    );
}

#[test]
fn t13_hostile_attributes_are_refused_and_unknown_ones_counted() {
    for name in ["trusted.overlay.opaque", "user.overlay.redirect", "trusted.overlay."] {
        refused(
            Archive::new().pax(&[(&format!("SCHILY.xattr.{name}"), b"y")]).file("a", b""),
            &format!("archive entry `a` at byte 1024: extended attribute `{name}` would steer overlay mounts"),
        );
    }
    refused(Archive::new().pax(&[("SCHILY.xattr.system.posix_acl_access", b"junk")]).file("a", b""), "not an ACL");
    refused(Archive::new().pax(&[("SCHILY.xattr.user.big", &[0; 65_536])]).file("a", b""), "65536 bytes");
    refused(Archive::new().put(header(b"pax", EntryType::XHeader, 2 << 20), b""), "extended header has 2097152 bytes");
    let unknown = Archive::new()
        .pax(&[("SCHILY.xattr.com.apple.provenance", b"1"), ("SCHILY.xattr.user.kept", b"1")])
        .file("a", b"")
        .end();
    let imported = import(&unknown).unwrap();
    assert_eq!(imported.dropped_attributes, 1);
    assert_eq!(imported.image.tree.find(&path("a")).unwrap().attributes.xattrs.len(), 1);
}

#[test]
fn t13_a_directory_that_turns_into_a_symlink_is_no_way_out() {
    let turned = Archive::new()
        .entry("rootfs", EntryType::Directory)
        .link("rootfs", EntryType::Symlink, "/")
        .file("rootfs/etc/passwd", b"owned");
    refused(turned, "/rootfs on the way is not a directory");
    let replaced = Archive::new().file("rootfs/etc/passwd", b"").link("rootfs", EntryType::Symlink, "/");
    refused(replaced, "a directory that has entries is replaced");
    let templates = Archive::new().link("templates", EntryType::Symlink, "/etc").file("templates/x", b"");
    refused(templates, "/templates on the way is not a directory");
}

#[test]
fn the_last_of_duplicate_entries_counts() {
    let archive = Archive::new().file("a", b"first").file("./a", b"second").file("/a", b"third").end();
    assert_eq!(text_of(&import(&archive).unwrap().image, "a"), "third");
}

#[test]
fn what_is_no_archive_is_refused() {
    assert!(refusal(b"").contains("it is empty"));
    assert!(refusal(&[0; 1024]).contains("holds no entries"));
    assert!(refusal(&[0; 512]).contains("holds no entries"));
    assert!(refusal(b"just some text").contains("truncated"));
    assert!(refusal(&[b'x'; 2048]).contains("not a tar archive"));
    let mut damaged = Archive::new().file("a", b"x").file("b", b"y").end();
    damaged[1024 + 5] ^= 1;
    assert!(refusal(&damaged).contains("archive at byte 1024: the header is damaged"));
    let mut size = header(b"a", EntryType::Regular, 0);
    size.as_old_mut().size = *b"99999999999\0";
    refused(Archive::new().put(size, b""), "field `size`");
}

#[test]
fn every_truncation_is_seen() {
    let archive = Archive::new()
        .pax(&[("mtime", b"1.5")])
        .file("a", &[b'a'; 700])
        .entry("d", EntryType::Directory)
        .file("b", b"")
        .end();
    import(&archive).unwrap();
    for length in (1..archive.len() - 1023).step_by(37).chain((512..=archive.len() - 1024).step_by(512)) {
        let text = refusal(&archive[..length]);
        assert!(text.contains("truncated"), "{length}: {text}");
    }
    // One zero block is an end marker to every reader.
    import(&archive[..archive.len() - 512]).unwrap();
}

#[test]
fn t13_bombs_go_off_early() {
    let declared = Archive::new().put(header(b"huge", EntryType::Regular, 0o77_777_777_777), b"");
    let limits = TreeLimits { content_bytes_max: 1 << 20, ..TreeLimits::standard() };
    let bytes = declared.end();
    let out = tempfile::tempfile().unwrap();
    let error = import_tar(bytes.as_slice(), out.try_clone().unwrap(), &limits, &mut KeepAll).unwrap_err();
    let ImportError::Entry(error) = error else { panic!("{error}") };
    assert!(matches!(error.cause, AddEntryCause::Refused(DraftError::TooMuchContent { .. })));
    assert_eq!(out.metadata().unwrap().len(), 0);

    let bomb = zstd::encode_all(std::io::repeat(0).take(3 << 30), 1).unwrap();
    let mut stream = DecodedStream::open(bomb.as_slice(), &TreeLimits::standard()).unwrap();
    let mut piece = vec![0; 1 << 20];
    let mut total = 0u64;
    let error = loop {
        match stream.read(&mut piece) {
            Ok(0) => panic!("the bomb went through"),
            Ok(count) => total += count as u64,
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("200 times"), "{error}");
    assert!(total < 2 << 30, "{total}");
}

#[test]
fn a_million_headers_stop_at_the_limit() {
    let limits = TreeLimits { entries_max: 1000, ..TreeLimits::standard() };
    let mut archive = Archive::new();
    for index in 0..2000 {
        archive = archive.entry(&format!("f{index}"), EntryType::Fifo);
    }
    let error = import_tar(archive.end().as_slice(), tempfile::tempfile().unwrap(), &limits, &mut KeepAll).unwrap_err();
    let ImportError::Entry(error) = error else { panic!("{error}") };
    assert!(matches!(error.cause, AddEntryCause::Refused(DraftError::TooManyEntries { max: 1000 })));
}

#[test]
fn filters_leave_out_replace_and_change() {
    let archive = Archive::new().file("etc/resolv.conf", b"leak").file("etc/machine-id", b"abc").file("x", b"y").end();
    let mut filter = |path: &ImagePath, entry: &mut NewEntry| {
        entry.attributes.mtime = Mtime { seconds: 7, nanoseconds: 0 };
        match path.as_bytes() {
            b"etc/resolv.conf" => Verdict::LeaveOut,
            b"etc/machine-id" => Verdict::Replace(Vec::new()),
            _ => Verdict::Keep,
        }
    };
    let out = tempfile::tempfile().unwrap();
    let image = import_tar(archive.as_slice(), out, &TreeLimits::standard(), &mut filter).unwrap().image;
    assert!(image.tree.find(&path("etc/resolv.conf")).is_none());
    assert_eq!((text_of(&image, "etc/machine-id").as_str(), text_of(&image, "x").as_str()), ("", "y"));
    assert_eq!(image.tree.find(&path("x")).unwrap().attributes.mtime.seconds, 7);
}

#[test]
fn a_walk_leaves_out_whole_directories_and_follows_nothing() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("cache/deep")).unwrap();
    fs::write(root.path().join("cache/deep/file"), "x").unwrap();
    symlink("/etc", root.path().join("link")).unwrap();
    let mut writer = ImageWriter::new(tempfile::tempfile().unwrap(), TreeLimits::standard()).unwrap();
    let mut filter = |path: &ImagePath, _: &mut NewEntry| {
        if path.as_bytes() == b"cache" { Verdict::LeaveOut } else { Verdict::Keep }
    };
    walk_directory(File::open(root.path()).unwrap().as_fd(), &mut writer, &mut filter).unwrap();
    let tree = writer.finish().unwrap().tree;
    assert!(tree.find(&path("cache")).is_none());
    assert_eq!(tree.find(&path("link")).unwrap().kind, InodeKind::Symlink(b"/etc"[..].into()));
}

#[test]
fn a_directory_swapped_for_a_symlink_while_walking_is_seen() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("victim")).unwrap();
    let mut writer = ImageWriter::new(tempfile::tempfile().unwrap(), TreeLimits::standard()).unwrap();
    let mut filter = |entry: &ImagePath, _: &mut NewEntry| {
        if entry.as_bytes() == b"victim" {
            fs::remove_dir(root.path().join("victim")).unwrap();
            symlink("/etc", root.path().join("victim")).unwrap();
        }
        Verdict::Keep
    };
    let error = walk_directory(File::open(root.path()).unwrap().as_fd(), &mut writer, &mut filter).unwrap_err();
    assert!(matches!(error.cause, WalkCause::Changed), "{error:?}");
    assert_eq!(error.path, path("victim"));
}

#[test]
fn a_mount_inside_the_directory_is_refused() {
    let mut writer = ImageWriter::new(tempfile::tempfile().unwrap(), TreeLimits::standard()).unwrap();
    let mut filter = |path: &ImagePath, _: &mut NewEntry| {
        if path.is_root() || path.as_bytes() == b"proc" { Verdict::Keep } else { Verdict::LeaveOut }
    };
    let error = walk_directory(File::open("/").unwrap().as_fd(), &mut writer, &mut filter).unwrap_err();
    assert!(matches!(error.cause, WalkCause::MountPoint), "{error:?}");
}

#[test]
fn live_a_walk_takes_devices_owners_and_attributes() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    fs::write(at("file"), "x").unwrap();
    rustix::fs::setxattr(at("file"), c"user.note", b"hi", rustix::fs::XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(at("file"), c"trusted.note", b"hi", rustix::fs::XattrFlags::empty()).unwrap();
    std::os::unix::fs::chown(at("file"), Some(1234), Some(70_000)).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    let device = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(rustix::fs::CWD, at("null"), rustix::fs::FileType::CharacterDevice, mode, device)
        .expect("needs root");
    symlink("x", at("link")).unwrap();
    rustix::fs::lsetxattr(at("link"), c"trusted.note", b"on a link", rustix::fs::XattrFlags::empty()).unwrap();
    let tree = walk(root.path()).unwrap().tree;
    let find = |name: &str| tree.find(&path(name)).unwrap();
    assert_eq!(find("null").kind, InodeKind::CharDevice(Device::new(1, 3).unwrap()));
    assert_eq!((find("file").attributes.uid, find("file").attributes.gid), (1234, 70_000));
    assert_eq!(find("file").attributes.xattrs.len(), 2);
    assert_eq!(find("link").attributes.xattrs.get(b"trusted.note"), Some(&b"on a link"[..]));
}

fn small_tree(archive: &[u8]) -> Option<ImageTree> {
    let limits = TreeLimits { entries_max: 1000, content_bytes_max: 1 << 20, metadata_bytes_max: 1 << 20 };
    let out = tempfile::tempfile().unwrap();
    Some(import_tar(archive, out, &limits, &mut KeepAll).ok()?.image.hashed_tree())
}

/// An archive with one of everything that is parsed.
fn seed() -> Vec<u8> {
    let mut sparse = header(b"sparse", EntryType::GNUSparse, 4);
    let mut gnu = Header::new_gnu();
    gnu.as_mut_bytes()[..257].copy_from_slice(&sparse.as_bytes()[..257]);
    sparse = gnu;
    let fields = sparse.as_gnu_mut().unwrap();
    fields.set_real_size(2000);
    fields.sparse[0].set_offset(1000);
    fields.sparse[0].set_length(4);
    Archive::new()
        .put(header(b"g", EntryType::XGlobalHeader, 14), b"14 comment=ab\n")
        .pax(&[("path", b"named/by/pax"), ("SCHILY.xattr.user.a", b"1"), ("mtime", b"-1.5")])
        .file("short", b"content")
        .put(header(b"././@LongLink", EntryType::GNULongName, 10), b"long/name\0")
        .file("short", b"more")
        .put(sparse, b"data")
        .pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"9")])
        .file("pax-sparse", &{
            let mut content = b"1\n5\n4\n".to_vec();
            content.resize(512, 0);
            content.extend_from_slice(b"tail");
            content
        })
        .link("hard", EntryType::Link, "named/by/pax")
        .end()
}

#[test]
fn the_seed_of_the_fuzzers_is_an_archive() {
    let image = import(&seed()).unwrap().image;
    assert_eq!(text_of(&image, "pax-sparse"), "\0\0\0\0\0tail");
    assert_eq!(text_of(&image, "sparse").len(), 2000);
    assert_eq!(text_of(&image, "long/name"), "more");
    assert_eq!(image.tree.find(&path("named/by/pax")).unwrap().attributes.mtime.seconds, -2);
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn no_damage_makes_the_reader_fall(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), mend in any::<bool>()) {
        let mut archive = seed();
        for (index, byte) in flips {
            let index = index.index(archive.len());
            archive[index] = byte;
        }
        if mend {
            // Right checksums, so that damage reaches what is behind them.
            for block in archive.chunks_exact_mut(512) {
                if block[257..262] == *b"ustar" {
                    let mut header = Header::from_byte_slice(block).clone();
                    header.set_cksum();
                    block.copy_from_slice(header.as_bytes());
                }
            }
        }
        small_tree(&archive);
    }

    #[test]
    fn no_bytes_make_the_reader_fall(bytes in prop::collection::vec(any::<u8>(), 0..4000)) {
        small_tree(&bytes);
    }
}
