//! Layouts of other programs and of attackers.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Seek;
use std::path::Path;

use insula_model::{RootAccess, Sha256Digest};
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{LayerCause, OciImportError, machine};
use crate::convert::ConvertError;
use crate::path::ImagePath;
use crate::progress::Watch;
use crate::property_cases::cases;
use crate::store::{ImportCause, ImportRequest};
use crate::tree::InodeKind;

/// A tar archive of entries.
struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn file(self, path: &str, content: &str) -> Self {
        self.entry(tar::EntryType::Regular, path, content.as_bytes(), None)
    }

    fn directory(self, path: &str) -> Self {
        self.entry(tar::EntryType::Directory, path, b"", None)
    }

    fn link(self, path: &str, target: &str) -> Self {
        self.entry(tar::EntryType::Link, path, b"", Some(target))
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(tar::EntryType::Symlink, path, b"", Some(target))
    }

    fn entry(mut self, kind: tar::EntryType, path: &str, content: &[u8], target: Option<&str>) -> Self {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(if kind == tar::EntryType::Directory { 0o755 } else { 0o644 });
        header.set_size(content.len().try_into().unwrap());
        if let Some(target) = target {
            header.set_link_name_literal(target).unwrap();
        }
        // As it is, so that hostile names get through.
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha256Digest(Sha256::digest(bytes).into()).to_string()
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

/// A layout in the making; its parts can be made wrong before it is written.
struct Layout {
    files: BTreeMap<String, Vec<u8>>,
}

impl Layout {
    /// A right one, of these layers from the bottom up.
    fn of(layers: Vec<Layer>) -> Self {
        Self::with(layers, |_| {}, |_| {})
    }

    fn with(layers: Vec<Layer>, edit_manifest: impl FnOnce(&mut Value), edit_index: impl FnOnce(&mut Value)) -> Self {
        let mut layout = Self { files: BTreeMap::new() };
        let layers: Vec<Vec<u8>> = layers.into_iter().map(Layer::bytes).collect();
        let config = json!({
            "architecture": machine(), "os": "linux", "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|layer| digest(layer)).collect::<Vec<_>>()},
        });
        let config = config.to_string().into_bytes();
        let media_type = "application/vnd.oci.image.layer.v1.tar";
        let mut manifest = json!({
            "schemaVersion": 2,
            "config": descriptor(super::MEDIA_CONFIG, &config),
            "layers": layers.iter().map(|layer| descriptor(media_type, layer)).collect::<Vec<_>>(),
        });
        edit_manifest(&mut manifest);
        let manifest = manifest.to_string().into_bytes();
        let mut index = json!({"schemaVersion": 2, "manifests": [descriptor(super::MEDIA_MANIFEST, &manifest)]});
        edit_index(&mut index);
        for blob in layers.into_iter().chain([config, manifest]) {
            layout.add_blob(blob);
        }
        layout.files.insert("index.json".to_owned(), index.to_string().into_bytes());
        layout.files.insert("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
        layout
    }

    fn add_blob(&mut self, bytes: Vec<u8>) -> String {
        let digest = digest(&bytes);
        self.files.insert(digest.replace("sha256:", "blobs/sha256/"), bytes);
        digest
    }

    /// The one blob that holds these bytes.
    fn blob_with(&mut self, part: &[u8]) -> &mut Vec<u8> {
        let holds = |bytes: &[u8]| bytes.windows(part.len()).any(|window| window == part);
        self.files.values_mut().find(|bytes| holds(bytes)).unwrap()
    }

    fn archive(&self) -> File {
        let mut builder = tar::Builder::new(tempfile::tempfile().unwrap());
        for (name, bytes) in &self.files {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len().try_into().unwrap());
            builder.append_data(&mut header, name, bytes.as_slice()).unwrap();
        }
        let mut file = builder.into_inner().unwrap();
        file.rewind().unwrap();
        file
    }

    fn write_to(&self, dir: &Path) -> File {
        std::fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        for (name, bytes) in &self.files {
            std::fs::write(dir.join(name), bytes).unwrap();
        }
        File::open(dir).unwrap()
    }

    /// Imports it and gives the image's paths with the contents of files. Nothing is left after a failure.
    fn import(&self) -> Result<BTreeMap<String, String>, OciImportError> {
        import(self.archive())
    }
}

fn import(source: File) -> Result<BTreeMap<String, String>, OciImportError> {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("images");
    let (store, _) = crate::store::tests::open(&root).unwrap();
    let id = "x@1".parse().unwrap();
    let imported = store.import(&id, ImportRequest::of(source), Timestamp::UNIX_EPOCH, Watch::nobody());
    if let Err(error) = imported {
        assert_eq!(std::fs::read_dir(root.join(".incoming")).unwrap().count(), 0);
        assert!(!root.join("x").exists());
        match *error.cause {
            ImportCause::Convert(ConvertError::Oci(error)) => return Err(error),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(store.show(&id).unwrap().info.config.root, Some(RootAccess::Writable));
    let manifest = store.manifest(&id).unwrap();
    let image = File::from(store.open_for_mount(&id, Timestamp::UNIX_EPOCH, Watch::nobody()).unwrap().fd);
    let mut paths = BTreeMap::new();
    for item in manifest.tree.iter() {
        let text = match &item.inode.kind {
            InodeKind::File(content) => {
                std::io::read_to_string(crate::erofs::ContentReader::new(&image, content)).unwrap()
            }
            InodeKind::Symlink(target) => format!("-> {}", String::from_utf8_lossy(target)),
            _ => continue,
        };
        paths.insert(item.path.to_string(), text);
    }
    store.remove(&id).unwrap();
    Ok(paths)
}

fn tree(expected: &[(&str, &str)]) -> BTreeMap<String, String> {
    expected.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
}

#[test]
fn layers_hide_replace_and_add() {
    let bottom = Layer::new().directory("d").file("d/old", "old").file("d/kept", "kept").file("gone", "x");
    let bottom = bottom.directory("o").file("o/hidden", "x").directory("was-dir").file("was-dir/deep", "x");
    let middle = Layer::new().directory("d").file("d/old", "new").file(".wh.gone", "");
    let middle = middle.directory("o").file("o/.wh..wh..opq", "").file("o/fresh", "fresh").file("was-dir", "file now");
    let top = Layer::new().file("top", "top").symlink("link", "/etc/passwd");
    let expected = [
        ("/d/kept", "kept"),
        ("/d/old", "new"),
        ("/link", "-> /etc/passwd"),
        ("/o/fresh", "fresh"),
        ("/top", "top"),
        ("/was-dir", "file now"),
    ];
    assert_eq!(Layout::of(vec![bottom, middle, top]).import().unwrap(), tree(&expected));
}

#[test]
fn a_link_keeps_its_content_when_an_upper_layer_hides_the_file() {
    let bottom = Layer::new().file("a", "content").link("b", "a").link("c", "b").file("z", "z");
    for (top, at_a) in [(Layer::new().file(".wh.a", ""), None), (Layer::new().file("a", "new"), Some("new"))] {
        let mut expected = tree(&[("/b", "content"), ("/c", "content"), ("/z", "z")]);
        expected.extend(at_a.map(|text| ("/a".to_owned(), text.to_owned())));
        let bottom = Layer::new().file("a", "content").link("b", "a").link("c", "b").file("z", "z");
        assert_eq!(Layout::of(vec![bottom, top]).import().unwrap(), expected);
    }
    let plain = tree(&[("/a", "content"), ("/b", "content"), ("/c", "content"), ("/z", "z")]);
    assert_eq!(Layout::of(vec![bottom, Layer::new()]).import().unwrap(), plain);
}

#[test]
fn directories_and_compressed_archives_are_read_too() {
    let layout = Layout::of(vec![Layer::new().file("a", "1")]);
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(import(layout.write_to(dir.path())).unwrap(), tree(&[("/a", "1")]));
    let mut compressed = tempfile::tempfile().unwrap();
    zstd::stream::copy_encode(layout.archive(), &mut compressed, 1).unwrap();
    compressed.rewind().unwrap();
    assert_eq!(import(compressed).unwrap(), tree(&[("/a", "1")]));
}

#[test]
fn what_docker_saves_is_read() {
    let layer = Layer::new().file("a", "1").bytes();
    let config = json!({"config": {}, "rootfs": {"diff_ids": [digest(&layer)]}}).to_string().into_bytes();
    let config_name = format!("{}.json", &digest(&config)["sha256:".len()..]);
    let layer_name = format!("{}/layer.tar", "0123456789abcdef".repeat(4));
    let table = json!([{"Config": config_name, "RepoTags": ["a:latest"], "Layers": [layer_name]}]);
    let mut layout = Layout { files: BTreeMap::new() };
    layout.files.insert(config_name, config);
    layout.files.insert("manifest.json".to_owned(), table.to_string().into_bytes());
    layout.files.insert(layer_name.clone(), layer);
    assert_eq!(layout.import().unwrap(), tree(&[("/a", "1")]));
    layout.files.insert(layer_name, Layer::new().file("a", "other").bytes());
    assert!(matches!(layout.import(), Err(OciImportError::DigestMismatch { .. })));
}

#[test]
fn the_image_for_this_machine_is_chosen() {
    let other = descriptor(super::MEDIA_MANIFEST, b"not even there");
    let edit = |index: &mut Value| {
        let mut other = other.clone();
        other["platform"] = json!({"os": "linux", "architecture": "s390x"});
        index["manifests"][0]["platform"] = json!({"os": "linux", "architecture": machine()});
        index["manifests"].as_array_mut().unwrap().insert(0, other);
    };
    let layout = Layout::with(vec![Layer::new().file("a", "1")], |_| {}, edit);
    assert_eq!(layout.import().unwrap(), tree(&[("/a", "1")]));
    let foreign = |index: &mut Value| {
        index["manifests"][0]["platform"] = json!({"os": "linux", "architecture": "s390x"});
    };
    match Layout::with(vec![Layer::new()], |_| {}, foreign).import() {
        Err(OciImportError::NoPlatform { found }) => assert_eq!(found, ["linux/s390x"]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_image_whose_configuration_alone_says_that_it_is_foreign_is_refused() {
    let foreign = |os: &str, architecture: &str| {
        let layer = Layer::new().file("a", "1").bytes();
        let rootfs = json!({"diff_ids": [digest(&layer)]});
        let config = json!({"os": os, "architecture": architecture, "rootfs": rootfs}).to_string().into_bytes();
        let edit = |manifest: &mut Value| manifest["config"] = descriptor(super::MEDIA_CONFIG, &config);
        let mut layout = Layout::with(vec![Layer::new().file("a", "1")], edit, |_| {});
        layout.add_blob(config.clone());
        layout.import()
    };
    for (os, architecture) in [("linux", "s390x"), ("windows", machine())] {
        match foreign(os, architecture) {
            Err(OciImportError::NoPlatform { found }) => assert_eq!(found, [format!("{os}/{architecture}")]),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(foreign("", "").unwrap(), tree(&[("/a", "1")]));
}

#[test]
fn changed_and_missing_blobs_are_refused_by_their_names() {
    let right = || Layout::of(vec![Layer::new().file("a", "some content")]);
    let mut changed = right();
    let layer = changed.blob_with(b"some content");
    let at = layer.windows(4).position(|window| window == b"some").unwrap();
    layer[at] = b'S';
    assert!(matches!(changed.import(), Err(OciImportError::DigestMismatch { .. })));

    let mut longer = right();
    longer.blob_with(b"some content").extend([0; 512]);
    assert!(matches!(longer.import(), Err(OciImportError::SizeMismatch { .. })));

    let mut config = right();
    config.blob_with(b"diff_ids").push(b' ');
    assert!(matches!(config.import(), Err(OciImportError::SizeMismatch { .. })));

    let mut missing = right();
    let name = digest(missing.blob_with(b"some content")).replace("sha256:", "blobs/sha256/");
    missing.files.remove(&name).unwrap();
    match missing.import() {
        Err(OciImportError::Missing { what }) => assert_eq!(what, name),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_digest_never_becomes_a_path_before_it_is_one() {
    let hostile = [
        "sha256:../../../../../../etc/passwd",
        "../../../etc/passwd",
        "sha256:",
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        &format!("sha256:{}", "A".repeat(64)),
        &format!("sha256:{}/x", "a".repeat(62)),
    ];
    for given in hostile {
        for place in ["layer", "config", "manifest"] {
            let layout = Layout::with(
                vec![Layer::new().file("a", "1")],
                |manifest| match place {
                    "layer" => manifest["layers"][0]["digest"] = json!(given),
                    "config" => manifest["config"]["digest"] = json!(given),
                    _ => {}
                },
                |index| {
                    if place == "manifest" {
                        index["manifests"][0]["digest"] = json!(given);
                    }
                },
            );
            match layout.import() {
                Err(OciImportError::BadDigest { given: named }) => assert_eq!(named, given),
                other => panic!("{given} as {place}: {other:?}"),
            }
        }
    }
}

#[test]
fn links_in_a_layout_are_not_followed() {
    let layout = Layout::of(vec![Layer::new().file("a", "1")]);
    for name in layout.files.keys().filter(|name| *name != "oci-layout") {
        let dir = tempfile::tempdir().unwrap();
        let open = layout.write_to(dir.path());
        let outside = dir.path().join("outside");
        std::fs::rename(dir.path().join(name), &outside).unwrap();
        std::os::unix::fs::symlink(&outside, dir.path().join(name)).unwrap();
        assert!(matches!(import(open), Err(OciImportError::Read { .. })), "{name}");
    }
}

#[test]
fn unknown_media_types_wrong_counts_and_nonsense_are_refused() {
    let with_manifest = |edit: fn(&mut Value)| Layout::with(vec![Layer::new().file("a", "1")], edit, |_| {}).import();
    let unknown = with_manifest(|manifest| manifest["layers"][0]["mediaType"] = json!("application/x-tar+lz4"));
    assert!(matches!(unknown, Err(OciImportError::MediaType { .. })), "{unknown:?}");
    let none = with_manifest(|manifest| manifest["layers"] = json!([]));
    assert!(matches!(none, Err(OciImportError::LayerCount { .. })), "{none:?}");
    let nonsense = with_manifest(|manifest| manifest["layers"] = json!("none"));
    assert!(matches!(nonsense, Err(OciImportError::Json { .. })), "{nonsense:?}");
    let artifact = Layout::with(
        vec![Layer::new()],
        |_| {},
        |index| {
            index["manifests"][0]["mediaType"] = json!("application/vnd.example.chart");
        },
    );
    assert!(matches!(artifact.import(), Err(OciImportError::MediaType { .. })));
    let mut large = Layout::of(vec![Layer::new()]);
    large.files.insert("index.json".to_owned(), vec![b' '; 5 << 20]);
    assert!(matches!(large.import(), Err(OciImportError::TooLarge { .. })));
}

#[test]
fn an_index_that_holds_itself_ends() {
    let mut layout = Layout { files: BTreeMap::new() };
    layout.files.insert("oci-layout".to_owned(), b"{}".to_vec());
    let mut inner = json!({"manifests": []}).to_string().into_bytes();
    for _ in 0..8 {
        let index = json!({"manifests": [descriptor(super::MEDIA_INDEX, &inner)]}).to_string().into_bytes();
        layout.add_blob(std::mem::replace(&mut inner, index));
    }
    layout.files.insert("index.json".to_owned(), inner);
    assert!(matches!(layout.import(), Err(OciImportError::NestedTooDeep)));
}

#[test]
fn hostile_entries_of_a_layer_are_refused() {
    let cause = |layer: Layer| match Layout::of(vec![layer]).import() {
        Err(OciImportError::Layer { cause, .. }) => *cause,
        other => panic!("{other:?}"),
    };
    assert!(matches!(cause(Layer::new().file("../../etc/passwd", "x")), LayerCause::Archive(_)));
    assert!(matches!(cause(Layer::new().file("d/.wh.", "")), LayerCause::Whiteout { .. }));
    assert!(matches!(cause(Layer::new().file("d/.wh...", "")), LayerCause::Whiteout { .. }));
    let through_link = Layer::new().symlink("d", "/etc").file("d/passwd", "x");
    assert!(matches!(cause(through_link), LayerCause::Entry(_)));
    let whiteout_device = Layer::new().entry(tar::EntryType::Char, "null", b"", None);
    assert!(matches!(cause(whiteout_device), LayerCause::Entry(_)));
}

#[test]
fn several_images_need_a_name() {
    let two = |index: &mut Value| {
        let mut second = index["manifests"][0].clone();
        second["digest"] = json!(digest(b"another"));
        second["annotations"] = json!({super::ANNOTATION_REFERENCE: "two"});
        index["manifests"][0]["annotations"] = json!({super::ANNOTATION_REFERENCE: "one"});
        index["manifests"].as_array_mut().unwrap().push(second);
    };
    let layout = Layout::with(vec![Layer::new().file("a", "1")], |_| {}, two);
    match layout.import() {
        Err(OciImportError::Ambiguous { names }) => assert_eq!(names, ["one", "two"]),
        other => panic!("{other:?}"),
    }
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = crate::store::tests::open(&dir.path().join("images")).unwrap();
    let named = |name: &str| ImportRequest { reference: Some(name.to_owned()), ..ImportRequest::of(layout.archive()) };
    let id = "x@1".parse().unwrap();
    store.import(&id, named("one"), Timestamp::UNIX_EPOCH, Watch::nobody()).unwrap();
    assert!(store.manifest(&id).unwrap().tree.find(&ImagePath::parse("a").unwrap()).is_some());
    store.remove(&id).unwrap();
    let error = store.import(&id, named("three"), Timestamp::UNIX_EPOCH, Watch::nobody()).unwrap_err();
    assert!(
        matches!(*error.cause, ImportCause::Convert(ConvertError::Oci(OciImportError::NoReference { .. }))),
        "{error:?}"
    );
}

/// What may stand where something else belongs.
fn any_json() -> impl Strategy<Value = Value> {
    let path = "(/|(\\.\\./){0,3})[a-z/:-]{0,12}";
    prop_oneof![
        Just(Value::Null),
        Just(json!([])),
        Just(json!({})),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
        path.prop_map(Value::from),
        "sha(256|512):[0-9a-f/.]{60,66}".prop_map(Value::from),
        prop::collection::vec(".{0,9}", 0..4).prop_map(Value::from),
    ]
}

/// JSON pointers to everything in a document.
fn places(document: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match document {
        Value::Array(items) => items.iter().enumerate().for_each(|(i, item)| places(item, &format!("{at}/{i}"), found)),
        Value::Object(fields) => fields.iter().for_each(|(key, item)| places(item, &format!("{at}/{key}"), found)),
        _ => {}
    }
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn no_document_makes_an_import_fall(index in any::<prop::sample::Index>(), value in any_json(), inner in any::<bool>()) {
        let spoil = |document: &mut Value| {
            let mut found = Vec::new();
            places(document, "", &mut found);
            *document.pointer_mut(&found[index.index(found.len())]).unwrap() = value.clone();
        };
        let layers = vec![Layer::new().file("a", "1")];
        let layout = match inner {
            true => Layout::with(layers, spoil, |_| {}),
            false => Layout::with(layers, |_| {}, spoil),
        };
        // Refused with nothing left, or an image with what the layer has.
        if let Ok(files) = layout.import() {
            prop_assert!(files.is_empty() || files == tree(&[("/a", "1")]), "{files:?}");
        }
    }
}
