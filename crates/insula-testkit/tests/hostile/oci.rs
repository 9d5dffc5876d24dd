//! Layouts by hand: what no builder and no `docker save` would write.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::corpus::{Archive, Hostile};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Files of a layout by their names.
pub(crate) struct Layout(BTreeMap<String, Vec<u8>>);

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": format!("sha256:{}", hex(bytes)), "size": bytes.len()})
}

fn layer() -> Vec<u8> {
    Archive::new().file("etc/motd", b"of a layer").end()
}

impl Layout {
    /// A right one of one layer, whose manifest `edit` may make wrong.
    pub(crate) fn with(edit: impl FnOnce(&mut Value)) -> Self {
        let mut layout = Self(BTreeMap::new());
        let layer = layer();
        let config = config(&layer);
        let mut manifest = json!({
            "schemaVersion": 2, "config": descriptor(CONFIG, &config), "layers": [descriptor(LAYER, &layer)],
        });
        edit(&mut manifest);
        let manifest = manifest.to_string().into_bytes();
        for blob in [&layer, &config, &manifest] {
            layout.blob(blob);
        }
        layout.index(&descriptor(MANIFEST, &manifest))
    }

    fn blob(&mut self, bytes: &[u8]) -> &mut Vec<u8> {
        self.0.entry(format!("blobs/sha256/{}", hex(bytes))).or_insert_with(|| bytes.to_vec())
    }

    /// Names `descriptor` as the layout's one image.
    fn index(mut self, descriptor: &Value) -> Self {
        let index = json!({"schemaVersion": 2, "manifests": [descriptor]}).to_string();
        self.0.insert("index.json".to_owned(), index.into_bytes());
        self.0.insert("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
        self
    }

    /// The same with the layer's blob changed by `edit`.
    fn with_layer(edit: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut layout = Self::with(|_| {});
        edit(layout.blob(&layer()));
        layout
    }

    pub(crate) fn files(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.0
    }

    /// Name of the file that holds the layer.
    pub(crate) fn layer_file() -> String {
        format!("blobs/sha256/{}", hex(&layer()))
    }

    pub(crate) fn archive(&self) -> Vec<u8> {
        self.0.iter().fold(Archive::new(), |archive, (name, bytes)| archive.file(name, bytes)).end()
    }
}

fn config(layer: &[u8]) -> Vec<u8> {
    let diff_ids = [format!("sha256:{}", hex(layer))];
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": architecture, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    config.to_string().into_bytes()
}

/// Indexes that name one another, `depth` of them above a right manifest.
fn nested(depth: usize) -> Layout {
    let mut layout = Layout::with(|_| {});
    let index: Value = serde_json::from_slice(&layout.0["index.json"]).unwrap();
    let mut below = index["manifests"][0].clone();
    for _ in 0..depth {
        let bytes = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [below]}).to_string().into_bytes();
        layout.blob(&bytes);
        below = descriptor(INDEX, &bytes);
    }
    layout.index(&below)
}

/// An index that names itself, under a digest that it therefore cannot have.
fn cyclic() -> Layout {
    let digest = "c".repeat(64);
    let index = |size: usize| {
        let own = json!({"mediaType": INDEX, "digest": format!("sha256:{digest}"), "size": size});
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [own]})
    };
    let size = index(100).to_string().len();
    let mut layout = Layout(BTreeMap::new());
    layout.0.insert(format!("blobs/sha256/{digest}"), index(size).to_string().into_bytes());
    let first = index(size)["manifests"][0].clone();
    layout.index(&first)
}

/// What `docker save` writes, with these names in its table.
fn saved(config_name: Option<&str>, layer_name: &str, at_layer: &[u8]) -> Vec<u8> {
    let config = config(&layer());
    let right = format!("{}.json", hex(&config));
    let table = json!([{"Config": config_name.unwrap_or(&right), "RepoTags": ["a:latest"], "Layers": [layer_name]}]);
    let archive = Archive::new().file("manifest.json", table.to_string().as_bytes()).file(&right, &config);
    archive.file("layer.tar", at_layer).end()
}

/// Layouts that are no images.
pub(crate) fn refused() -> Vec<Hostile> {
    let traversal = "sha256:../../../../../../../../etc/passwd";
    let not_a_digest = "is not sha256: and 64 hexadecimal digits";
    let mut missing = Layout::with(|_| {});
    missing.0.remove(&Layout::layer_file());
    let mut huge = Layout::with(|_| {});
    huge.0.get_mut("index.json").unwrap().resize((4 << 20) + 1, b' ');
    let many = Layout::with(|manifest| {
        let layer = manifest["layers"][0].clone();
        manifest["layers"] = vec![layer; 600].into();
    });
    let other = Archive::new().file("etc/motd", b"of another").end();
    vec![
        (
            "a changed blob",
            Layout::with_layer(|layer| layer[600] ^= 1).archive(),
            "has other bytes than its digest says",
        ),
        ("a longer blob", Layout::with_layer(|layer| layer.extend([0; 512])).archive(), "its descriptor says"),
        ("a missing blob", missing.archive(), "the layout is incomplete"),
        (
            "a layer's digest that is a path",
            Layout::with(|manifest| manifest["layers"][0]["digest"] = traversal.into()).archive(),
            not_a_digest,
        ),
        (
            "a configuration's digest that is a path",
            Layout::with(|manifest| manifest["config"]["digest"] = traversal.into()).archive(),
            not_a_digest,
        ),
        ("indexes in indexes", nested(6).archive(), "nested more than 4 deep"),
        ("an index of itself", cyclic().archive(), "has other bytes than its digest says"),
        ("a huge index", huge.archive(), "index.json has 4194305 bytes"),
        ("many layers", many.archive(), "has 600 layers"),
        ("a layer that docker did not save", saved(None, "layer.tar", &other), "has other bytes than its digest says"),
        ("a layer's name upwards", saved(None, "../../../../etc/passwd", &layer()), "the layout is incomplete"),
        ("a configuration's name upwards", saved(Some("../../etc/shadow"), "layer.tar", &layer()), not_a_digest),
    ]
}
