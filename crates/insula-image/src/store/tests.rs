//! The store as a whole, on a real file system.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use insula_model::{ImageId, ImageRef, Stage};
use jiff::Timestamp;

use super::medium::make_mutable;
use super::{
    BeginError, CheckResult, Damage, ExportFormat, ImportCause, ImportError, ImportRequest, Imported,
    OpenForMountError, OpenStoreError, PromoteRefusal, RemoveCause, ResolveError, SigningConfig, Store, StoreWarning,
    Strictness, TestOutcome, TestReport,
};
use crate::archive::Compression;
use crate::convert::ConvertError;
use crate::oci::LayerCompression;
use crate::progress::{Phase, Progress, Watch};
use crate::tree::{InodeKind, Placement};

/// A store in a directory of its own, removed with its immutable files at the end.
pub(crate) struct TestStore {
    pub(super) store: Option<Store>,
    dir: tempfile::TempDir,
}

impl TestStore {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (store, warnings) = open(&dir.path().join("images")).unwrap();
        assert_eq!(warnings, []);
        Self { store: Some(store), dir }
    }

    pub(super) fn root(&self) -> PathBuf {
        self.dir.path().join("images")
    }

    pub(super) fn version_dir(&self, id: &str) -> PathBuf {
        self.root().join(id.replace('@', "/"))
    }

    /// Ends the program that owns the store and starts another.
    pub(super) fn reopen(&mut self) -> Vec<StoreWarning> {
        self.store = None;
        let (store, warnings) = open(&self.root()).unwrap();
        self.store = Some(store);
        warnings
    }

    pub(super) fn import(&self, id: &str, files: &[(&str, &[u8])]) -> Imported {
        self.try_import(id, archive(files)).unwrap()
    }

    fn try_import(&self, id: &str, source: File) -> Result<Imported, ImportError> {
        self.import_with(id, ImportRequest::of(source), Watch::nobody())
    }

    fn import_with(&self, id: &str, request: ImportRequest, watch: Watch<'_>) -> Result<Imported, ImportError> {
        Store::import(self, &id.parse().unwrap(), request, at(100), watch)
    }

    /// Every version that has a directory.
    fn on_disk(&self) -> BTreeSet<String> {
        let visible = |dir: &Path| -> Vec<String> {
            let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
            names.map(|name| name.into_string().unwrap()).filter(|name| !name.starts_with('.')).collect()
        };
        let of_name = |name: String| {
            let versions = visible(&self.root().join(&name));
            versions.into_iter().map(move |version| format!("{name}@{version}"))
        };
        visible(&self.root()).into_iter().flat_map(of_name).collect()
    }

    /// Nothing is in progress and no rubbish is left.
    pub(crate) fn assert_clean(&self) {
        let left: Vec<_> = std::fs::read_dir(self.root().join(".incoming")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

impl std::ops::Deref for TestStore {
    type Target = Store;

    fn deref(&self) -> &Store {
        self.store.as_ref().unwrap()
    }
}

impl Drop for TestStore {
    fn drop(&mut self) {
        fn unlock(dir: &Path) {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    unlock(&entry.path());
                } else {
                    make_mutable(&entry.path()).unwrap();
                }
            }
        }
        unlock(self.dir.path());
    }
}

/// Opens a store whose keys lie beside it.
pub(crate) fn open(root: &Path) -> Result<(Store, Vec<StoreWarning>), OpenStoreError> {
    Store::open(root, &SigningConfig::own_keys_only(root.with_extension("keys")))
}

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

pub(crate) fn id(text: &str) -> ImageId {
    text.parse().unwrap()
}

/// A tar archive of these files, in a file.
pub(super) fn archive(files: &[(&str, &[u8])]) -> File {
    let mut builder = tar::Builder::new(tempfile::tempfile().unwrap());
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(content.len().try_into().unwrap());
        builder.append_data(&mut header, path, *content).unwrap();
    }
    let mut file = builder.into_inner().unwrap();
    file.rewind().unwrap();
    file
}

/// Changes a byte of a published file, as a bad disk would.
pub(super) fn flip(path: &Path, offset: u64) {
    make_mutable(path).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
    file.sync_all().unwrap();
}

pub(super) fn passed() -> TestReport {
    let check = CheckResult { command: vec!["true".to_owned()], exit_code: Some(0), duration_ms: 1 };
    TestReport { outcome: TestOutcome::Passed, finished: at(200), checks: vec![check], note: String::new() }
}

#[test]
fn an_imported_version_is_listed_and_survives_a_restart() {
    let mut store = TestStore::new();
    store.import("web@1", &[("bin/sh", b"shell"), ("etc/passwd", b"root:x:0:0::/:/bin/sh\n")]);
    let before = store.list();
    assert_eq!(before.len(), 1);
    assert_eq!(before[0].info.id, id("web@1"));
    assert_eq!(before[0].stage.stage, Stage::Testing);
    assert!(before[0].is_default);
    assert_eq!(store.reopen(), []);
    assert_eq!(store.list(), before);
    assert!(
        store.manifest(&id("web@1")).unwrap().tree.find(&crate::path::ImagePath::parse("bin/sh").unwrap()).is_some()
    );
    store.assert_clean();
}

#[test]
fn an_existing_version_is_never_replaced() {
    let store = TestStore::new();
    store.import("web@1", &[("a", b"one")]);
    let digest = store.show(&id("web@1")).unwrap().info.digest;
    let error = store.try_import("web@1", archive(&[("a", b"two")])).unwrap_err();
    assert!(matches!(*error.cause, ImportCause::Begin(BeginError::Exists { .. })), "{error:?}");
    assert_eq!(store.show(&id("web@1")).unwrap().info.digest, digest);
    store.assert_clean();
}

#[test]
fn two_operations_cannot_make_one_version() {
    let store = TestStore::new();
    let begun = store.begin(&id("web@1")).unwrap();
    assert!(matches!(store.begin(&id("web@1")), Err(BeginError::InFlight { .. })));
    drop(begun);
    store.begin(&id("web@1")).unwrap();
}

#[test]
fn a_second_program_is_refused_with_the_name_of_the_first() {
    let store = TestStore::new();
    match open(&store.root()) {
        Err(OpenStoreError::InUse { holder, .. }) => assert!(holder.contains("process"), "{holder}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_failed_or_cancelled_import_leaves_nothing() {
    let store = TestStore::new();
    let mut rubbish = tempfile::tempfile().unwrap();
    rubbish.write_all(&[b'x'; 5000]).unwrap();
    rubbish.rewind().unwrap();
    let error = store.try_import("web@1", rubbish).unwrap_err();
    assert!(matches!(*error.cause, ImportCause::Convert(ConvertError::Archive(_))), "{error:?}");
    let cancelled = Watch { progress: &|_| {}, cancelled: &|| true };
    let source = archive(&[("big", &vec![1; 3 << 20])]);
    let error = store.import_with("web@1", ImportRequest::of(source), cancelled).unwrap_err();
    assert!(matches!(*error.cause, ImportCause::Cancelled(_)), "{error:?}");
    assert!(store.list().is_empty() && store.on_disk().is_empty());
    store.assert_clean();
    store.import("web@1", &[("a", b"now it works")]);
}

#[test]
fn readers_do_not_wait_for_an_import() {
    let store = TestStore::new();
    store.import("web@1", &[("a", b"1")]);
    let (source, mut sender) = std::io::pipe().unwrap();
    let source = File::from(std::os::fd::OwnedFd::from(source));
    std::thread::scope(|scope| {
        let import = scope.spawn(|| store.try_import("web@2", source));
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(1);
        builder.append_data(&mut header, "b", &b"2"[..]).unwrap();
        let archive = builder.into_inner().unwrap();
        sender.write_all(&archive[..600]).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while std::fs::read_dir(store.root().join(".incoming")).unwrap().count() == 0 {
            assert!(std::time::Instant::now() < deadline, "the import does not begin");
            std::thread::yield_now();
        }
        // Now it waits for the rest of its archive.
        assert!(matches!(store.begin(&id("web@2")), Err(BeginError::InFlight { .. })));
        assert_eq!(store.list().len(), 1);
        store.resolve(&"web".parse().unwrap(), Strictness::Strict).unwrap();
        store.open_for_mount(&id("web@1"), at(1), Watch::nobody()).unwrap();
        assert_eq!(store.verify(&id("web@1"), at(1), Watch::nobody()).unwrap().damage, []);
        store.set_default(&id("web@1")).unwrap();
        store.gc(&BTreeSet::new()).unwrap();
        sender.write_all(&archive[600..]).unwrap();
        drop(sender);
        import.join().unwrap().unwrap();
    });
    assert_eq!(store.list().len(), 2);
}

#[test]
fn progress_is_told_and_ends_at_the_total() {
    let store = TestStore::new();
    let reports = std::cell::RefCell::new(Vec::new());
    let progress = |report: Progress| reports.borrow_mut().push(report);
    let watch = Watch { progress: &progress, cancelled: &|| false };
    let source = archive(&[("big", &vec![1; 5 << 20])]);
    store.import_with("web@1", ImportRequest::of(source), watch).unwrap();
    let reports = reports.into_inner();
    let of = |phase| reports.iter().filter(|report| report.phase == phase).count();
    // Of each megabyte while it is read, of each piece while it is compared.
    assert!(of(Phase::Import) >= 5 && of(Phase::Verify) >= 2, "{reports:?}");
    assert!(reports.iter().all(|report| report.total.is_none_or(|total| report.done <= total)), "{reports:?}");
}

#[test]
fn references_resolve_to_versions_and_fall_back_only_when_allowed() {
    let store = TestStore::new();
    store.import("web@1", &[("a", b"1")]);
    store.import("web@2", &[("a", b"2")]);
    let resolve = |text: &str, strictness| store.resolve(&text.parse::<ImageRef>().unwrap(), strictness);
    assert_eq!(resolve("web", Strictness::Strict).unwrap().id, id("web@1"));
    assert_eq!(resolve("web@2", Strictness::Strict).unwrap().id, id("web@2"));
    let fell_back = resolve("web@3", Strictness::Fallback).unwrap();
    assert_eq!((fell_back.id, fell_back.fell_back_from.unwrap().as_str()), (id("web@1"), "3"));
    assert!(matches!(resolve("web@3", Strictness::Strict), Err(ResolveError::UnknownVersion { .. })));
    for strictness in [Strictness::Strict, Strictness::Fallback] {
        assert!(matches!(resolve("other", strictness), Err(ResolveError::UnknownName { .. })));
    }
    store.set_default(&id("web@2")).unwrap();
    assert_eq!(resolve("web", Strictness::Strict).unwrap().id, id("web@2"));
}

#[test]
fn the_default_survives_a_restart_and_is_mended_when_lost() {
    let mut store = TestStore::new();
    store.import("web@1", &[("a", b"1")]);
    store.import("web@2", &[("a", b"2")]);
    store.set_default(&id("web@2")).unwrap();
    assert_eq!(store.reopen(), []);
    assert!(store.show(&id("web@2")).unwrap().is_default);
    std::fs::write(store.root().join("web/.default"), "7\n").unwrap();
    assert_eq!(store.reopen(), [StoreWarning::DefaultMended { id: id("web@1") }]);
    assert!(store.show(&id("web@1")).unwrap().is_default);
}

#[test]
fn after_collecting_garbage_the_disk_is_the_live_set() {
    let store = TestStore::new();
    for version in ["web@1", "web@2", "web@3", "db@1", "db@2", "old@1"] {
        store.import(version, &[("a", version.as_bytes())]);
    }
    let hold = store.hold(&id("db@2")).unwrap();
    let live = BTreeSet::from([id("web@3"), id("gone@9")]);
    let collected = store.gc(&live).unwrap();
    // Beside the live one: the defaults of the three names and what is held.
    let expected = ["web@1", "web@3", "db@1", "db@2", "old@1"].map(str::to_owned);
    assert_eq!(store.on_disk(), BTreeSet::from(expected));
    assert_eq!(collected.kept.iter().map(ToString::to_string).collect::<BTreeSet<_>>(), store.on_disk());
    assert_eq!(collected.removed.len(), 1);
    assert!(collected.freed().0 > 4096);
    drop(hold);
    store.gc(&live).unwrap();
    assert!(!store.on_disk().contains("db@2"));
    store.assert_clean();
}

#[test]
fn what_is_needed_is_not_removed_and_the_rest_is() {
    let store = TestStore::new();
    store.import("web@1", &[("a", b"1")]);
    store.import("web@2", &[("a", b"2")]);
    let cause = |version: &str| store.remove(&id(version)).unwrap_err().cause;
    assert!(matches!(cause("web@1"), RemoveCause::Default));
    assert!(matches!(cause("web@9"), RemoveCause::Unknown(_)));
    let hold = store.hold(&id("web@2")).unwrap();
    assert!(matches!(cause("web@2"), RemoveCause::InUse));
    drop(hold);
    store.remove(&id("web@2")).unwrap();
    store.remove(&id("web@1")).unwrap();
    assert!(store.on_disk().is_empty());
    assert!(!store.root().join("web").exists());
}

#[test]
fn unfinished_work_and_rubbish_are_gone_after_a_restart() {
    let mut store = TestStore::new();
    store.import("web@1", &[("a", b"1")]);
    // A removal and an import, each cut off at its worst moment: an immutable file lies in `.incoming`.
    for leftover in ["trash-7", "3/image"] {
        let dir = store.root().join(".incoming").join(leftover);
        std::fs::create_dir_all(&dir).unwrap();
        let file = File::create(dir.join("root.erofs")).unwrap();
        super::medium::make_immutable(&file).unwrap();
    }
    assert_eq!(store.reopen(), []);
    store.assert_clean();
    assert_eq!(store.on_disk(), BTreeSet::from(["web@1".to_owned()]));
}

#[test]
fn verify_names_what_differs_and_marks_the_version() {
    let mut store = TestStore::new();
    let content = vec![7; 100_000];
    let version = id("web@1");
    let verify = |store: &Store| store.verify(&version, at(300), Watch::nobody()).unwrap().damage;
    store.import("web@1", &[("bin/sh", &content), ("etc/motd", b"hello")]);
    assert_eq!(verify(&store), []);
    let manifest = store.manifest(&version).unwrap();
    let path = crate::path::ImagePath::parse("bin/sh").unwrap();
    let InodeKind::File(file) = &manifest.tree.find(&path).unwrap().kind else { panic!("not a file") };
    let Placement::Blocks { first } = file.placement else { panic!("not in blocks") };
    let image = store.version_dir("web@1").join("root.erofs");
    let in_file = u64::from(first) * 4096 + 70_000;

    flip(&image, in_file);
    assert_eq!(verify(&store), [Damage::File { path }]);
    assert!(store.show(&version).unwrap().damage.unwrap().what.contains("bin/sh"));
    assert_eq!(store.reopen(), []);
    assert!(matches!(store.open_for_mount(&version, at(1), Watch::nobody()), Err(OpenForMountError::Damaged { .. })));
    let web: ImageRef = "web".parse().unwrap();
    assert!(matches!(store.resolve(&web, Strictness::Fallback), Err(ResolveError::Damaged { .. })));

    flip(&image, in_file);
    assert_eq!(verify(&store), []);
    assert!(store.show(&version).unwrap().damage.is_none());

    flip(&image, manifest.file.metadata_offset + 5);
    assert_eq!(verify(&store), [Damage::Metadata]);
    flip(&image, manifest.file.metadata_offset + 5);

    flip(&image, u64::from(first) * 4096 + 100_001);
    assert_eq!(verify(&store), [Damage::Padding]);
    flip(&image, u64::from(first) * 4096 + 100_001);

    flip(&store.version_dir("web@1").join("manifest.cbor"), 40);
    assert!(matches!(verify(&store)[..], [Damage::Manifest { .. }]));
}

#[test]
fn every_flipped_bit_of_a_small_image_is_found() {
    let store = TestStore::new();
    let version = id("web@1");
    store.import("web@1", &[("a", b"content")]);
    for file in ["root.erofs", "manifest.cbor"] {
        let path = store.version_dir("web@1").join(file);
        let bytes = std::fs::metadata(&path).unwrap().len();
        for offset in (0..bytes).step_by(usize::try_from(bytes / 40).unwrap().max(1)) {
            flip(&path, offset);
            let report = store.verify(&version, at(1), Watch::nobody()).unwrap();
            assert!(!report.damage.is_empty(), "byte {offset} of {file}");
            flip(&path, offset);
        }
    }
    assert_eq!(store.verify(&version, at(1), Watch::nobody()).unwrap().damage, []);
}

#[test]
fn a_touched_file_is_read_again_before_it_is_mounted() {
    let store = TestStore::new();
    let version = id("web@1");
    store.import("web@1", &[("a", &vec![5; 10_000])]);
    let reads = std::cell::Cell::new(0);
    let progress = |_: Progress| reads.set(reads.get() + 1);
    let watch = Watch { progress: &progress, cancelled: &|| false };
    let source = store.open_for_mount(&version, at(1), watch).unwrap();
    assert_eq!(reads.get(), 0, "checked when it was published");
    assert_eq!(source.size.0, std::fs::metadata(&source.path).unwrap().len());
    let image = store.version_dir("web@1").join("root.erofs");
    flip(&image, 4096);
    flip(&image, 4096);
    store.open_for_mount(&version, at(1), watch).unwrap();
    assert!(reads.get() > 0, "touched, and found right");
    flip(&image, 4096);
    let error = store.open_for_mount(&version, at(1), watch).unwrap_err();
    assert!(matches!(error, OpenForMountError::Damaged { .. }), "{error:?}");
    assert!(store.show(&version).unwrap().damage.is_some());
}

#[test]
fn promotion_needs_a_passed_test_and_changes_no_byte() {
    let mut store = TestStore::new();
    let version = id("web@1");
    store.import("web@1", &[("a", b"1")]);
    let image = store.version_dir("web@1").join("root.erofs");
    let bytes = std::fs::read(&image).unwrap();
    let digest = store.show(&version).unwrap().info.digest;
    let refusal = |store: &Store| match store.promote(&version, at(400), Watch::nobody()) {
        Err(super::ChangeImageError::Promote { refusal, .. }) => refusal,
        other => panic!("{other:?}"),
    };
    assert_eq!(refusal(&store), PromoteRefusal::Untested);
    store.record_test(&version, TestReport { outcome: TestOutcome::Failed, ..passed() }).unwrap();
    assert_eq!(refusal(&store), PromoteRefusal::TestFailed);
    store.record_test(&version, passed()).unwrap();
    store.promote(&version, at(400), Watch::nobody()).unwrap();
    store.reopen();
    let promoted = store.show(&version).unwrap();
    assert_eq!((promoted.stage.stage, promoted.stage.promoted), (Stage::Production, Some(at(400))));
    assert_eq!((promoted.info.digest, std::fs::read(&image).unwrap()), (digest, bytes));
    assert_eq!(refusal(&store), PromoteRefusal::AlreadyProduction);
}

#[test]
fn a_damaged_image_is_not_promoted() {
    let store = TestStore::new();
    let version = id("web@1");
    store.import("web@1", &[("a", b"1")]);
    store.record_test(&version, passed()).unwrap();
    flip(&store.version_dir("web@1").join("root.erofs"), 4096);
    let error = store.promote(&version, at(1), Watch::nobody()).unwrap_err();
    assert!(matches!(error, super::ChangeImageError::Damaged { .. }), "{error:?}");
    assert_eq!(store.show(&version).unwrap().stage.stage, Stage::Testing);
}

#[test]
fn exports_come_back_as_the_same_tree() {
    let store = TestStore::new();
    store.import("web@1", &[("bin/sh", &vec![9; 50_000]), ("etc/motd", b"hello"), ("var/empty", b"")]);
    let original = store.show(&id("web@1")).unwrap().info;
    let formats = [
        ExportFormat::Tar(Compression::None),
        ExportFormat::Tar(Compression::Gzip),
        ExportFormat::Tar(Compression::Zstd),
        ExportFormat::Oci(LayerCompression::Gzip),
        ExportFormat::Oci(LayerCompression::Zstd),
    ];
    for (number, format) in formats.into_iter().enumerate() {
        let mut target = tempfile::tempfile().unwrap();
        store.export(&id("web@1"), format, &target, Watch::nobody()).unwrap();
        target.rewind().unwrap();
        let copy = store.try_import(&format!("copy@{number}"), target).unwrap().published.info;
        assert_eq!(copy.tree_digest, original.tree_digest, "{format:?}");
        assert_eq!(copy.mount_plan, original.mount_plan, "{format:?}");
        if matches!(format, ExportFormat::Oci(_)) {
            assert_eq!(copy.config, original.config, "{format:?}");
            let dir = tempfile::tempdir().unwrap();
            store.export(&id("web@1"), format, &File::open(dir.path()).unwrap(), Watch::nobody()).unwrap();
            let copy = store.try_import(&format!("dir@{number}"), File::open(dir.path()).unwrap());
            assert_eq!(copy.unwrap().published.info.tree_digest, original.tree_digest, "{format:?}");
        }
    }
    store.assert_clean();
}

#[test]
fn a_directory_is_imported_as_it_lies_there() {
    let store = TestStore::new();
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("etc")).unwrap();
    std::fs::write(dir.path().join("etc/motd"), "hello").unwrap();
    let imported = store.try_import("web@1", File::open(dir.path()).unwrap()).unwrap();
    assert_eq!(imported.problems, []);
    let motd = crate::path::ImagePath::parse("etc/motd").unwrap();
    assert!(store.manifest(&id("web@1")).unwrap().tree.find(&motd).is_some());
}

#[test]
fn a_link_at_a_mount_target_is_told() {
    let store = TestStore::new();
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/host/etc", dir.path().join("etc")).unwrap();
    let imported = store.try_import("web@1", File::open(dir.path()).unwrap()).unwrap();
    assert_eq!(imported.problems.len(), 1);
    assert!(imported.problems[0].to_string().contains("/etc"), "{:?}", imported.problems);
}

#[test]
fn a_diff_names_paths_settings_and_sizes() {
    let store = TestStore::new();
    store.import("web@1", &[("a", b"1"), ("b", b"2"), ("c", b"3")]);
    let request = ImportRequest {
        config: Some(insula_model::ImageConfig { user: Some("www".to_owned()), ..Default::default() }),
        ..ImportRequest::of(archive(&[("a", b"1"), ("b", b"other"), ("d", b"4")]))
    };
    store.import_with("web@2", request, Watch::nobody()).unwrap();
    let manifest = |version: &str| store.manifest(&id(version)).unwrap();
    let diff = crate::diff::diff(&manifest("web@1"), &manifest("web@2"));
    let paths: Vec<_> = diff.paths.iter().map(|change| format!("{} {:?}", change.path, change.kind)).collect();
    assert_eq!(paths, ["/b Content", "/c Removed", "/d Added"]);
    assert_eq!(diff.settings.len(), 1);
    assert_eq!((diff.settings[0].field.as_str(), diff.settings[0].to.as_deref()), ("user", Some("\"www\"")));
    assert_eq!((diff.content.0.0, diff.content.1.0), (3, 7));
}

#[test]
fn usage_counts_the_disk() {
    let store = TestStore::new();
    store.import("web@1", &[("a", &vec![1; 100_000])]);
    let usage = store.usage(&id("web@1"), None).unwrap();
    assert_eq!(usage.content.0, 100_000);
    assert!((100_000..200_000).contains(&usage.disk.0), "{usage:?}");
}

#[test]
fn live_not_even_root_writes_to_a_published_image() {
    assert!(rustix::process::geteuid().is_root(), "run as root: sudo cargo test -p insula-image live_");
    let store = TestStore::new();
    let imported = store.import("web@1", &[("a", b"1")]);
    assert_eq!(imported.published.warnings, []);
    let image = store.version_dir("web@1").join("root.erofs");
    assert_eq!(std::fs::metadata(&image).unwrap().mode() & 0o7777, 0o400);
    assert!(File::options().write(true).open(&image).is_err());
    assert!(std::fs::remove_file(&image).is_err());
    store.remove(&id("web@1")).unwrap();
    assert!(!image.exists());
}

/// Runs a program of the peers, which the live tests need.
fn run(program: &str, args: &[&str]) -> String {
    let output = std::process::Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; apt-get install {program}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn live_peer_programs_take_our_layouts_and_we_take_theirs() {
    let store = TestStore::new();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    store.import("web@1", &[("bin/sh", &vec![9; 50_000]), ("etc/motd", b"hello")]);
    let original = store.show(&id("web@1")).unwrap().info.tree_digest;
    for (number, compression) in [LayerCompression::Gzip, LayerCompression::Zstd].into_iter().enumerate() {
        let layout = path(&format!("layout-{number}"));
        std::fs::create_dir(&layout).unwrap();
        let target = File::open(&layout).unwrap();
        store.export(&id("web@1"), ExportFormat::Oci(compression), &target, Watch::nobody()).unwrap();
        let inspected = run("skopeo", &["inspect", &format!("oci:{layout}:1")]);
        assert!(inspected.contains("\"Architecture\""), "{inspected}");
        // skopeo does not make docker archives of zstd layers.
        let gzip_only = (compression == LayerCompression::Gzip).then_some("docker-archive");
        for kind in gzip_only.into_iter().chain(["oci-archive"]) {
            let archive = path(&format!("{kind}-{number}.tar"));
            let target = format!("{kind}:{archive}:web:1");
            run("skopeo", &["--insecure-policy", "copy", &format!("oci:{layout}:1"), &target]);
            let copy = store.try_import(&format!("{kind}@{number}"), File::open(&archive).unwrap()).unwrap();
            assert_eq!(copy.published.info.tree_digest, original, "{kind} {compression:?}");
        }
    }
}
