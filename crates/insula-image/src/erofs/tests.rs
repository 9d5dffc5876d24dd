//! Images against their oracles: our reader, `fsck.erofs`, the kernel's mount.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use super::*;
use crate::archive::{KeepAll, walk_directory};
use crate::attributes::{Attributes, Device, Mtime, Xattrs};
use crate::draft::{DraftError, NewEntry, NewKind, TreeLimits};
use crate::manifest::digest_of;
use crate::path::ImagePath;
use crate::property_cases::cases;
use crate::recipe::run::mount_image;
use crate::tree::{ImageTree, InodeKind, Placement};

const ENTRIES_MAX: u32 = 200_000;

fn attributes(mode: u16) -> Attributes {
    Attributes {
        mode,
        uid: 1000,
        gid: 100,
        mtime: Mtime { seconds: 1_700_000_000, nanoseconds: 5 },
        ..Attributes::default()
    }
}

fn entry(kind: NewKind) -> NewEntry {
    NewEntry { kind, attributes: attributes(0o644) }
}

struct Scratch {
    writer: ImageWriter,
    path: tempfile::TempPath,
}

impl Scratch {
    fn new() -> Self {
        let (file, path) = tempfile::Builder::new().prefix("insula-image-").tempfile().unwrap().into_parts();
        Self { writer: ImageWriter::new(file, TreeLimits::standard()).unwrap(), path }
    }

    fn add(&mut self, path: &str, kind: NewKind) -> &mut Self {
        self.writer.add(ImagePath::parse(path).unwrap(), entry(kind), &mut std::io::empty()).unwrap();
        self
    }

    fn file(&mut self, path: &str, content: &[u8]) -> &mut Self {
        let size = content.len() as u64;
        let content = &mut &*content;
        self.writer.add(ImagePath::parse(path).unwrap(), entry(NewKind::File { size }), content).unwrap();
        self
    }

    fn finish(self) -> (WrittenImage, tempfile::TempPath) {
        (self.writer.finish().unwrap(), self.path)
    }
}

fn link(target: &str) -> NewKind {
    NewKind::HardLink(ImagePath::parse(target).unwrap())
}

fn bytes_of(image: &WrittenImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut file = image.file.try_clone().unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

/// The image's tree with the digests of these bytes, which come in pieces of so many blocks; none when they are not the
/// image's.
fn read_back(image: &WrittenImage, bytes: &[u8], blocks: usize) -> Option<ImageTree> {
    let (file, goes_on) = (image.image_file(), AtomicBool::new(false));
    let mut digests = StreamDigests::new(&image.tree, &file, image.contents, &goes_on);
    bytes.chunks(blocks * 4096).for_each(|piece| digests.update(piece));
    let mut tree = image.tree.clone();
    for (inode, digest) in digests.finish()? {
        tree.set_digest(inode, digest);
    }
    Some(tree)
}

fn assert_oracles_agree(image: &WrittenImage, path: &std::path::Path) {
    let reader = ErofsReader::open(image.file.try_clone().unwrap()).unwrap();
    assert_eq!((reader.bytes(), reader.metadata_offset()), (image.bytes, image.metadata_offset));
    assert_eq!(image.file.metadata().unwrap().len(), image.bytes);
    let bytes = bytes_of(image);
    assert_eq!(reader.tree(ENTRIES_MAX).unwrap(), read_back(image, &bytes, 100).unwrap());
    let offset = usize::try_from(image.metadata_offset).unwrap();
    let mut region = Vec::new();
    let made_anew = write_metadata(&image.tree, image.metadata_offset, &mut region).unwrap();
    assert_eq!(made_anew.first_block, bytes[..4096]);
    assert!(region == bytes[offset..], "metadata made anew differs");
    assert_eq!(made_anew.digest, image.metadata_sha256);
    let fsck = Command::new("fsck.erofs").arg(path).output().expect("install erofs-utils");
    assert!(fsck.status.success(), "fsck.erofs: {}", String::from_utf8_lossy(&fsck.stderr));
}

/// An entry of every kind, and every shape of content.
fn rich_tree() -> Scratch {
    let mut image = Scratch::new();
    let mut xattrs = Xattrs::default();
    xattrs.insert(b"user.note", b"hello").unwrap();
    xattrs.insert(b"trusted.secret", &[7; 5000]).unwrap();
    xattrs.insert(b"security.capability", &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    let acl: &[u8] = &[
        2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 232, 3, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255, 16, 0, 4,
        0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255,
    ];
    xattrs.insert(b"system.posix_acl_access", acl).unwrap();
    let with_xattrs =
        |kind, mode| NewEntry { kind, attributes: Attributes { xattrs: xattrs.clone(), ..attributes(mode) } };
    let mut add = |path: &str, entry, content: &[u8]| {
        image.writer.add(ImagePath::parse(path).unwrap(), entry, &mut &*content).unwrap();
    };
    add("etc/with-xattrs", with_xattrs(NewKind::File { size: 3 }, 0o664), b"abc");
    add("etc/dir-with-xattrs", with_xattrs(NewKind::Directory, 0o775), b"");
    let mut few = Xattrs::default();
    few.insert(b"trusted.a", b"1").unwrap();
    let small = NewEntry {
        kind: NewKind::Symlink(b"target"[..].into()),
        attributes: Attributes { xattrs: few, ..attributes(0o777) },
    };
    add("etc/link-with-xattr", small, b"");
    image.file("empty", b"").file("one", b"1").file("block", &[b'b'; 4096]).file("more", &[b'c'; 4097]);
    image.file("big", &(0..3_000_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
    let mut holes = vec![0u8; 700_001];
    holes[200_000] = 1;
    holes[500_000..510_000].fill(9);
    image.file("holes", &holes).file("all-hole", &[0; 200_000]).file("zeros-too-small", &[0; 65_536]);
    image.add("a/symlink", NewKind::Symlink(b"/etc/passwd"[..].into()));
    image.add("a/long-symlink", NewKind::Symlink([b'x'; 4095].into()));
    image.add("a/null", NewKind::CharDevice(Device::new(1, 3).unwrap()));
    image.add("a/disk", NewKind::BlockDevice(Device::new(259, 70_000).unwrap()));
    image.add("a/pipe", NewKind::Fifo).add("a/socket", NewKind::Socket).add("a-b", NewKind::Directory);
    image.add("z/first-link", link("big")).add("0-link-before", link("later")).file("later", b"late");
    image.add("!bang", NewKind::Fifo).add("-dash", NewKind::Directory);
    image
}

#[test]
fn every_kind_of_entry_survives_the_image() {
    let (image, path) = rich_tree().finish();
    assert_oracles_agree(&image, &path);
    let find = |path: &str| image.tree.find(&ImagePath::parse(path).unwrap()).unwrap();
    assert_eq!(find("z/first-link"), find("big"));
    assert_eq!(find("etc").attributes, Attributes::of_root(0o755));
    assert_eq!(find("tmp").attributes.mode, 0o1777);
    let InodeKind::File(holes) = &find("holes").kind else { panic!("not a file") };
    let Placement::Chunks(map) = &holes.placement else { panic!("no holes") };
    assert_eq!(map.stored.len(), 2);
    let InodeKind::File(small) = &find("zeros-too-small").kind else { panic!("not a file") };
    assert!(matches!(small.placement, Placement::Blocks { .. }));
}

#[test]
fn contents_read_back_by_their_placements() {
    let (image, _path) = rich_tree().finish();
    let InodeKind::File(holes) = &image.tree.find(&ImagePath::parse("holes").unwrap()).unwrap().kind else {
        panic!("not a file")
    };
    let mut bytes = Vec::new();
    ContentReader::new(&image.file, holes).read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), 700_001);
    assert_eq!((bytes[200_000], bytes[505_000], bytes.iter().filter(|byte| **byte != 0).count()), (1, 9, 10_001));
}

#[test]
fn a_gigabyte_of_hole_takes_no_room() {
    let mut image = Scratch::new();
    let size = 1u64 << 30;
    let mut content = std::io::repeat(0).take(size - 1).chain(&b"x"[..]);
    image.writer.add(ImagePath::parse("sparse").unwrap(), entry(NewKind::File { size }), &mut content).unwrap();
    let (image, path) = image.finish();
    assert!(image.bytes < 400_000, "{} bytes", image.bytes);
    let fsck = Command::new("fsck.erofs").arg(&path).status().expect("install erofs-utils");
    assert!(fsck.success());
}

#[test]
fn sixty_thousand_names_in_one_directory() {
    let mut image = Scratch::new();
    for index in 0..60_000u32 {
        // Scrambled, so that sorting has something to do.
        image.add(&format!("many/{:08x}-{index}", index.wrapping_mul(2_654_435_761)), NewKind::Fifo);
    }
    let (image, path) = image.finish();
    assert_oracles_agree(&image, &path);
}

#[test]
fn the_deepest_tree_is_an_image() {
    let mut image = Scratch::new();
    image.file(&"d/".repeat(ImagePath::DEPTH_MAX), b"x");
    let (image, path) = image.finish();
    assert_oracles_agree(&image, &path);
}

#[test]
fn every_byte_that_is_not_what_was_written_is_found_on_the_stream() {
    let mut scratch = Scratch::new();
    let sparse = [[0; 65_536].as_slice(), &[5; 9]].concat();
    scratch.file("a", b"replaced").file("b", &[1; 4096]).file("a", &[2; 5000]).file("sparse", &sparse);
    scratch.file("empty", b"");
    let (image, _path) = scratch.finish();
    let bytes = bytes_of(&image);
    let (content, end) = (|block: usize| block * 4096, usize::try_from(image.metadata_offset).unwrap());
    // Block 1 is of the entry that was replaced.
    for (what, at) in [
        ("the superblock", 1030),
        ("the block around it", 0),
        ("a block that is nobody's", content(1)),
        ("a content's first byte", content(2)),
        ("a content's last byte", content(3) + 4999),
        ("the padding behind it", content(3) + 5000),
        ("what is stored of a file with a hole", content(5) + 8),
        ("the padding behind that", content(5) + 9),
        ("the metadata's first byte", end),
        ("its last", bytes.len() - 1),
    ] {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert_eq!([1, 3].map(|blocks| read_back(&image, &changed, blocks)), [None, None], "{what}");
    }
    assert_eq!(read_back(&image, &bytes[..bytes.len() - 4096], 1), None, "the end is missing");
    assert_eq!(read_back(&image, &[bytes.as_slice(), &[0; 4096]].concat(), 1), None, "there is more");
}

#[test]
fn padding_is_zeros_and_digests_are_of_the_contents_whatever_the_writer_says() {
    let mut scratch = Scratch::new();
    scratch.file("a", b"content");
    let (mut image, _path) = scratch.finish();
    let honest = bytes_of(&image);
    let mut say = |at: usize| {
        let mut bytes = honest.clone();
        bytes[at] ^= 1;
        let mut summer = contents_sum::ContentsSummer::default();
        summer.update(&bytes[4096..usize::try_from(image.metadata_offset).unwrap()]);
        image.contents = summer.sum();
        read_back(&image, &bytes, 1)
    };
    assert_eq!(say(4096 + 7), None, "behind the content");
    let tree = say(4096).unwrap();
    let InodeKind::File(content) = &tree.find(&ImagePath::parse("a").unwrap()).unwrap().kind else { panic!("a file") };
    assert_eq!(content.sha256, digest_of(b"bontent"));
}

#[test]
fn order_of_arrival_changes_the_image_but_not_the_tree() {
    let mut forward = Scratch::new();
    forward.file("a", b"first").file("b", b"second").add("c", link("a"));
    let mut backward = Scratch::new();
    backward.add("c", link("a")).file("b", b"second").file("a", b"first");
    let mut again = Scratch::new();
    again.file("a", b"first").file("b", b"second").add("c", link("a"));
    let ((forward, _f), (backward, _b), (again, _a)) = (forward.finish(), backward.finish(), again.finish());
    let digest = |image: &WrittenImage| read_back(image, &bytes_of(image), 1).unwrap().digest();
    assert_eq!(digest(&forward), digest(&backward));
    assert!(bytes_of(&forward) != bytes_of(&backward));
    assert!(bytes_of(&forward) == bytes_of(&again));
}

#[test]
fn a_repeated_name_replaces_what_was_there() {
    let mut image = Scratch::new();
    image.file("x", b"old").add("keeps-old", link("x")).file("x", b"new").add("d", NewKind::Directory);
    image.file("d/inside", b"").add("d", NewKind::Directory).add("e", NewKind::Directory).file("e", b"file now");
    let (image, path) = image.finish();
    assert_oracles_agree(&image, &path);
    let read = |path: &str| match &image.tree.find(&ImagePath::parse(path).unwrap()).unwrap().kind {
        InodeKind::File(content) => std::io::read_to_string(ContentReader::new(&image.file, content)).unwrap(),
        kind => panic!("{kind:?}"),
    };
    assert_eq!((read("x").as_str(), read("keeps-old").as_str(), read("e").as_str()), ("new", "old", "file now"));
    assert!(image.tree.find(&ImagePath::parse("d/inside").unwrap()).is_some());
}

#[test]
fn trees_that_lead_astray_are_refused_by_name() {
    let refusal = |build: &dyn Fn(&mut Scratch), path: &str, kind: NewKind| {
        let mut image = Scratch::new();
        build(&mut image);
        let error = image.writer.add(ImagePath::parse(path).unwrap(), entry(kind), &mut std::io::empty()).unwrap_err();
        assert_eq!(error.path, ImagePath::parse(path).unwrap());
        match error.cause {
            AddEntryCause::Refused(error) => error,
            cause => panic!("{cause}"),
        }
    };
    let symlink = || NewKind::Symlink(b"/etc"[..].into());
    let nothing = |_: &mut Scratch| {};
    assert_eq!(refusal(&nothing, "/", symlink()), DraftError::RootNotDirectory);
    assert_eq!(refusal(&nothing, "n", NewKind::CharDevice(Device::new(0, 0).unwrap())), DraftError::Whiteout);
    assert!(matches!(refusal(&nothing, "s", NewKind::Symlink([].into())), DraftError::SymlinkTarget { .. }));
    assert!(matches!(refusal(&nothing, "h", link("/")), DraftError::LinkToDirectory { .. }));
    assert!(matches!(refusal(&nothing, "h", link("h")), DraftError::LinkToDirectory { .. }));
    let through = refusal(&|image| _ = image.add("rootfs", symlink()), "rootfs/passwd", NewKind::Fifo);
    assert!(matches!(through, DraftError::ParentNotDirectory { .. }));
    let replaced = refusal(&|image| _ = image.file("rootfs/passwd", b""), "rootfs", symlink());
    assert_eq!(replaced, DraftError::ReplacesDirectory);

    let mut dangling = Scratch::new();
    dangling.add("b", link("nowhere"));
    let error = dangling.writer.finish().unwrap_err();
    assert_eq!(error.to_string(), "entry /b");
    let mut ring = Scratch::new();
    ring.add("b", link("c")).add("c", link("b"));
    assert!(matches!(ring.writer.finish().unwrap_err(), WriteImageError::Tree { .. }));
    let mut short = Scratch::new();
    let error = short
        .writer
        .add(ImagePath::parse("f").unwrap(), entry(NewKind::File { size: 10 }), &mut &b"abc"[..])
        .unwrap_err();
    assert!(matches!(error.cause, AddEntryCause::ShortContent { got: 3, declared: 10 }));
    assert!(matches!(short.writer.finish().unwrap_err(), WriteImageError::Broken));
}

#[test]
fn limits_bind() {
    let limits = TreeLimits { entries_max: 10, content_bytes_max: 100, metadata_bytes_max: 5000 };
    let new = || ImageWriter::new(tempfile::tempfile().unwrap(), limits.clone()).unwrap();
    let add = |writer: &mut ImageWriter, path: &str, kind| {
        let content = &mut std::io::repeat(1);
        writer.add(ImagePath::parse(path).unwrap(), entry(kind), content).map_err(|error| error.cause.to_string())
    };
    let mut writer = new();
    assert!(add(&mut writer, "a", NewKind::File { size: 60 }).is_ok());
    assert!(add(&mut writer, "b", NewKind::File { size: 60 }).unwrap_err().contains("100 bytes"));
    assert!(add(&mut writer, "b", NewKind::File { size: u64::MAX }).unwrap_err().contains("100 bytes"));
    let mut writer = new();
    assert!(add(&mut writer, "a/b/c/d/e/f/g/h/i/j/k", NewKind::Fifo).unwrap_err().contains("10 entries"));
    let mut writer = new();
    let many = (0..20).find_map(|_| add(&mut writer, "same", NewKind::Fifo).err());
    assert!(many.unwrap().contains("10 entries"));
    let mut writer = new();
    let long = || NewKind::Symlink([b'x'; 4000].into());
    assert!(add(&mut writer, "a", long()).is_ok());
    assert!(add(&mut writer, "b", long()).unwrap_err().contains("5000 bytes"));
}

#[test]
fn a_flipped_bit_in_the_superblock_is_seen() {
    let (image, _path) = rich_tree().finish();
    let mut block = write_metadata(&image.tree, image.metadata_offset, &mut std::io::sink()).unwrap().first_block;
    for index in [1024, 1024 + 16, 1024 + 40, 1024 + 500] {
        block[index] ^= 1;
        let file = tempfile::tempfile().unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &block, 0).unwrap();
        assert!(ErofsReader::open(file).is_err(), "byte {index}");
        block[index] ^= 1;
    }
}

fn walk_mount(path: &std::path::Path) -> ImageTree {
    let mut writer = ImageWriter::new(tempfile::tempfile().unwrap(), TreeLimits::standard()).unwrap();
    let mounted = mount_image(path).unwrap();
    walk_directory(std::os::fd::AsFd::as_fd(&mounted), &mut writer, &mut KeepAll).unwrap();
    writer.finish().unwrap().hashed_tree()
}

#[test]
fn live_the_kernel_shows_the_same_tree() {
    let mut image = rich_tree();
    for index in 0..5_000u32 {
        image.add(&format!("many/{:08x}", index.wrapping_mul(2_654_435_761)), NewKind::Fifo);
    }
    let (image, path) = image.finish();
    let mounted = walk_mount(&path);
    let left: Vec<_> = image.tree.iter().collect();
    let right: Vec<_> = mounted.iter().collect();
    for (ours, theirs) in left.iter().zip(&right) {
        assert_eq!(
            (ours.path, &ours.inode.attributes, ours.linked_to),
            (theirs.path, &theirs.inode.attributes, theirs.linked_to)
        );
    }
    assert_eq!(mounted.digest(), image.hashed_tree().digest());
}

#[test]
fn live_the_kernel_walks_sixty_thousand_names_and_the_deepest_path() {
    let mut image = Scratch::new();
    for index in 0..60_000u32 {
        image.add(&format!("many/{index}"), NewKind::Fifo);
    }
    image.file(&"d/".repeat(ImagePath::DEPTH_MAX), b"x");
    let (image, path) = image.finish();
    assert_eq!(walk_mount(&path).digest(), image.hashed_tree().digest());
}

#[test]
fn live_the_kernel_reads_holes_as_zeros() {
    let mut image = Scratch::new();
    let size = 1u64 << 30;
    let mut content = std::io::repeat(0).take(size - 1).chain(&b"x"[..]);
    image.writer.add(ImagePath::parse("sparse").unwrap(), entry(NewKind::File { size }), &mut content).unwrap();
    let (_image, path) = image.finish();
    let mounted = mount_image(&path).unwrap();
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(&mounted, c"sparse", flags, rustix::fs::Mode::empty()).unwrap());
    let mut piece = [1; 4096];
    for offset in [0, 1 << 20, size / 2, size - 8192] {
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut piece, offset).unwrap();
        assert!(piece.iter().all(|byte| *byte == 0), "at {offset}");
    }
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut piece, size - 4096).unwrap();
    assert_eq!(piece[4095], b'x');
}

fn any_xattrs() -> impl Strategy<Value = Xattrs> {
    let name = prop_oneof!["user\\.[a-z]{1,40}", "trusted\\.[a-z]{1,10}", "security\\.[a-z]{1,10}"];
    prop::collection::vec((name, prop::collection::vec(any::<u8>(), 0..6000)), 0..3).prop_map(|all| {
        let mut xattrs = Xattrs::default();
        for (name, value) in all {
            xattrs.insert(name.as_bytes(), &value).unwrap();
        }
        xattrs
    })
}

fn any_kind() -> impl Strategy<Value = (NewKind, Vec<u8>)> {
    let stretch = (prop_oneof![Just(0u8), any::<u8>()], 0..300_000usize);
    let file = prop::collection::vec(stretch, 0..4).prop_map(|stretches| {
        let content: Vec<u8> =
            stretches.into_iter().flat_map(|(byte, length)| std::iter::repeat_n(byte, length)).collect();
        (NewKind::File { size: content.len() as u64 }, content)
    });
    prop_oneof![
        3 => file,
        2 => Just((NewKind::Directory, Vec::new())),
        1 => prop::collection::vec(1..=255u8, 1..4096).prop_map(|target| (NewKind::Symlink(target.into()), Vec::new())),
        1 => (1..4096u32, 0..1u32 << 20).prop_map(|(major, minor)| (NewKind::CharDevice(Device::new(major, minor).unwrap()), Vec::new())),
        1 => Just((NewKind::Socket, Vec::new())),
    ]
}

fn any_entry() -> impl Strategy<Value = (Vec<u8>, NewEntry, Vec<u8>)> {
    let component = prop_oneof![
        4 => prop::collection::vec(prop_oneof![Just(b'a'), Just(b'-'), Just(b'0')], 1..3),
        1 => prop::collection::vec(any::<u8>(), 1..256),
    ];
    let path = prop::collection::vec(component, 1..4).prop_map(|components| components.join(&b'/'));
    let attributes = (any::<u16>(), any::<u32>(), any::<u32>(), any::<i64>(), 0..1_000_000_000u32, any_xattrs());
    (path, any_kind(), attributes).prop_map(
        |(path, (kind, content), (mode, uid, gid, seconds, nanoseconds, xattrs))| {
            let mtime = Mtime { seconds, nanoseconds };
            (path, NewEntry { kind, attributes: Attributes { mode, uid, gid, mtime, xattrs } }, content)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_tree_survives_the_image(entries in prop::collection::vec(any_entry(), 0..30)) {
        let mut image = Scratch::new();
        for (path, entry, content) in &entries {
            let Ok(path) = ImagePath::parse(path) else { continue };
            // A name that clashes with an earlier one is refused; the rest goes on.
            if let Err(error) = image.writer.add(path, entry.clone(), &mut content.as_slice()) {
                prop_assert!(matches!(error.cause, AddEntryCause::Refused(_)));
            }
        }
        let (image, path) = image.finish();
        assert_oracles_agree(&image, &path);
    }
}

/// An image of few blocks with an entry of every kind.
fn small_image() -> Vec<u8> {
    let mut image = Scratch::new();
    let mut xattrs = Xattrs::default();
    xattrs.insert(b"user.note", b"hello").unwrap();
    let noted = NewEntry { kind: NewKind::Directory, attributes: Attributes { xattrs, ..attributes(0o755) } };
    image.writer.add(ImagePath::parse("noted").unwrap(), noted, &mut std::io::empty()).unwrap();
    let holes = [[0; 65_536].as_slice(), &[5; 9]].concat();
    image.file("noted/block", &[1; 4097]).file("noted/inline", b"few").file("holes", &holes).file("empty", b"");
    image.add("hard", link("noted/inline")).add("soft", NewKind::Symlink(b"noted/block"[..].into()));
    bytes_of(&image.finish().0)
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn no_damage_makes_the_image_reader_fall(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), behind in any::<bool>(), mend in any::<bool>()) {
        static IMAGE: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(small_image);
        let mut bytes = IMAGE.clone();
        let metadata = usize::try_from(u32::from_le_bytes(bytes[1064..1068].try_into().unwrap())).unwrap() * 4096;
        for (index, byte) in flips {
            // What describes is a small part of the bytes, and most of what can go wrong.
            let first = if behind { metadata } else { 0 };
            let at = first + index.index(bytes.len() - first);
            bytes[at] = byte;
        }
        if mend {
            bytes[SUPERBLOCK_OFFSET + 4..SUPERBLOCK_OFFSET + 8].fill(0);
            let checksum = super::checksum::crc32c(&bytes[SUPERBLOCK_OFFSET..4096]);
            bytes[SUPERBLOCK_OFFSET + 4..SUPERBLOCK_OFFSET + 8].copy_from_slice(&checksum.to_le_bytes());
        }
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &bytes).unwrap();
        if let Ok(tree) = ErofsReader::open(file).and_then(|reader| reader.tree(100)) {
            prop_assert!(tree.iter().count() <= 100);
        }
    }
}
