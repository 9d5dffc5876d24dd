//! Copies of trees that want to lead out.

use std::io::Cursor;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::*;

/// The tree below `root` as a container whose ids are the host's own, so that no privilege is needed.
fn files(root: &Path) -> ContainerFiles {
    let directory = std::fs::File::open(root).unwrap();
    let own = std::fs::metadata(root).unwrap();
    ContainerFiles::new(directory.into(), IdRange { base: own.uid(), size: 1 })
}

fn archive(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in entries {
        let mut header = tar::Header::new_gnu();
        // Names as they are: the library's own checks would refuse those that the tests are about.
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o640);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn what_went_out_comes_in_again() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::create_dir_all(from.join("d/e")).unwrap();
    std::fs::create_dir(&to).unwrap();
    std::fs::write(from.join("d/e/file"), "content").unwrap();
    std::fs::set_permissions(from.join("d/e/file"), std::fs::Permissions::from_mode(0o4711)).unwrap();
    symlink("/etc/passwd", from.join("d/link")).unwrap();
    let mut stream = Vec::new();
    files(&from).read_archive("/d", &mut stream).unwrap();
    files(&to).write_archive("/", &mut Cursor::new(&stream)).unwrap();
    assert_eq!(std::fs::read_to_string(to.join("d/e/file")).unwrap(), "content");
    assert_eq!(std::fs::metadata(to.join("d/e/file")).unwrap().mode() & 0o7777, 0o4711);
    assert_eq!(std::fs::read_link(to.join("d/link")).unwrap(), Path::new("/etc/passwd"));
    // Where nothing is, it gets that name.
    files(&to).write_archive("/other", &mut Cursor::new(&stream)).unwrap();
    assert!(to.join("other/e/file").exists());
}

/// An archive with a file `a/file` and a hard link `a/other` to `linked`.
fn with_link(linked: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(4);
    header.set_mode(0o640);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    builder.append_data(&mut header, "a/file", &b"once"[..]).unwrap();
    header.set_size(0);
    header.set_entry_type(tar::EntryType::Link);
    header.set_path("a/other").unwrap();
    header.as_old_mut().linkname[..linked.len()].copy_from_slice(linked.as_bytes());
    header.set_cksum();
    builder.append(&header, &b""[..]).unwrap();
    builder.into_inner().unwrap()
}

#[test]
fn a_hard_link_is_one_and_leads_to_nothing_but_the_archives() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(dir.path().join("secret"), "").unwrap();
    symlink(dir.path(), root.join("out")).unwrap();
    for (place, name) in [("/", "a"), ("/new", "new")] {
        files(&root).write_archive(place, &mut Cursor::new(with_link("a/file"))).unwrap();
        let inode = |file: &str| std::fs::metadata(root.join(name).join(file)).unwrap().ino();
        assert_eq!(inode("file"), inode("other"));
    }
    for elsewhere in ["../secret", "/a/file", "out/secret", "a", "a/none", ""] {
        let refused = files(&root).write_archive("/", &mut Cursor::new(with_link(elsewhere)));
        assert!(refused.is_err(), "{elsewhere}");
    }
}

#[test]
fn several_entries_do_not_become_one_of_a_new_name() {
    let dir = tempfile::tempdir().unwrap();
    let several = archive(&[("a/x", "1"), ("b/y", "2")]);
    let refused = files(dir.path()).write_archive("/new", &mut Cursor::new(&several)).unwrap_err();
    assert!(matches!(&refused, CopyError::Several { path } if path == "/new"), "{refused:?}");
    std::fs::create_dir(dir.path().join("there")).unwrap();
    files(dir.path()).write_archive("/there", &mut Cursor::new(&several)).unwrap();
    assert!(dir.path().join("there/b/y").exists());
}

#[test]
fn links_of_the_container_lead_nowhere_out_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (root, secret) = (dir.path().join("root"), dir.path().join("secret"));
    std::fs::create_dir(&root).unwrap();
    std::fs::create_dir(&secret).unwrap();
    std::fs::write(secret.join("key"), "secret").unwrap();
    symlink(&secret, root.join("absolute")).unwrap();
    symlink("../secret", root.join("relative")).unwrap();
    for path in ["/absolute/key", "/relative/key", "/../secret/key"] {
        let error = files(&root).read_archive(path, &mut Vec::new()).unwrap_err();
        assert!(matches!(error, CopyError::Inside { errno: Errno::NOENT, .. }), "{path}: {error}");
    }
    let stream = archive(&[("absolute/key", "overwritten"), ("relative/key", "overwritten")]);
    let error = files(&root).write_archive("/", &mut Cursor::new(stream)).unwrap_err();
    assert!(matches!(error, CopyError::Inside { errno: Errno::LOOP | Errno::NOTDIR, .. }), "{error}");
    assert_eq!(error.to_string(), "/absolute/key", "the whole path is named");
    let stream = archive(&[("key", "overwritten")]);
    // The link leads nowhere in the container; the file takes its place.
    files(&root).write_archive("/relative", &mut Cursor::new(stream)).unwrap();
    assert_eq!(std::fs::read_to_string(root.join("relative")).unwrap(), "overwritten");
    assert_eq!(std::fs::read_to_string(secret.join("key")).unwrap(), "secret");
}

#[test]
fn entries_that_lead_out_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir(&root).unwrap();
    for name in ["../out", "a/../../out", "/out"] {
        let error = files(&root).write_archive("/", &mut Cursor::new(archive(&[(name, "x")]))).unwrap_err();
        assert!(matches!(error, CopyError::Entry { .. }), "{name}: {error}");
    }
    assert!(!dir.path().join("out").exists());
}

#[test]
fn a_link_in_the_way_of_a_file_is_replaced_and_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("victim"), "untouched").unwrap();
    symlink("victim", root.join("file")).unwrap();
    files(&root).write_archive("/", &mut Cursor::new(archive(&[("file", "new")]))).unwrap();
    assert_eq!(std::fs::read_to_string(root.join("victim")).unwrap(), "untouched");
    assert_eq!(std::fs::read_to_string(root.join("file")).unwrap(), "new");
}
