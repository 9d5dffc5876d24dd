//! Manifests: canonical, pinned by golden files, and damaged ones.

use insula_model::{HealthCheck, Signal};
use proptest::prelude::*;

use std::os::unix::fs::FileExt;

use super::*;
use crate::attributes::{Attributes, Device, Mtime};
use crate::draft::{NewEntry, NewKind, TreeLimits};
use crate::erofs::{ImageWriter, WrittenImage};
use crate::path::ImagePath;
use crate::property_cases::cases;

/// Bytes that this version and all later ones must write for [`golden_manifest`].
const GOLDEN: &[u8] = include_bytes!("../../tests/golden/manifest-1.cbor");
/// Digest of the image file of [`golden_image`].
const GOLDEN_IMAGE: &str = "sha256:6413b9681b33bca567c3726bb1503c85bbc81b474a1a441d95c17358fb6eeaa3";

fn golden_image() -> WrittenImage {
    let mut writer = ImageWriter::new(tempfile::tempfile().unwrap(), TreeLimits::standard()).unwrap();
    let mut add = |path: &str, kind, content: &[u8]| {
        let mtime = Mtime { seconds: 1_700_000_000, nanoseconds: 0 };
        let mut attributes = Attributes { mode: 0o640, uid: 1000, gid: 0, mtime, ..Attributes::default() };
        if path == "etc/a" {
            attributes.xattrs.insert(b"user.note", b"hello").unwrap();
            attributes.mtime.nanoseconds = 5;
        }
        writer.add(ImagePath::parse(path).unwrap(), NewEntry { kind, attributes }, &mut &*content).unwrap();
    };
    let mut holes = vec![0u8; 300_000];
    holes[100_000] = 1;
    add("etc/a", NewKind::File { size: 5 }, b"hello");
    add("etc/b", NewKind::HardLink(ImagePath::parse("etc/a").unwrap()), b"");
    add("etc/holes", NewKind::File { size: 300_000 }, &holes);
    add("etc/link", NewKind::Symlink(b"a"[..].into()), b"");
    add("etc/null", NewKind::CharDevice(Device::new(1, 3).unwrap()), b"");
    add("etc/pipe", NewKind::Fifo, b"");
    writer.finish().unwrap()
}

fn golden_manifest() -> Manifest {
    let image = golden_image();
    let mut bytes = vec![0; usize::try_from(image.bytes).unwrap()];
    image.file.read_exact_at(&mut bytes, 0).unwrap();
    let mut config =
        ImageConfig { cmd: vec!["/bin/sh".to_owned()], init: Some("/sbin/init".to_owned()), ..ImageConfig::default() };
    config.env.insert("PATH".to_owned(), "/usr/bin".to_owned());
    config.stop_signal = Some("SIGRTMIN+3".parse::<Signal>().unwrap());
    config.health = Some(HealthCheck {
        command: vec!["true".to_owned()],
        interval_ms: 1000,
        deadline_ms: 5000,
        timeout_ms: None,
        retries: None,
    });
    let packages = vec![Package {
        name: "base-files".to_owned(),
        version: "12.4+deb12u5".to_owned(),
        architecture: "amd64".to_owned(),
        sha256: Some(Sha256Digest([7; 32])),
    }];
    Manifest {
        id: "debian@12".parse().unwrap(),
        file: ImageFile { sha256: digest_of(&bytes), ..image.image_file() },
        provenance: Provenance {
            archive: Some(Sha256Digest([1; 32])),
            recipe: None,
            source_date_epoch: Some(1_700_000_000),
            packages,
        },
        config,
        mount_plan: MountPlan::default_plan(),
        tree: image.hashed_tree(),
    }
}

#[test]
fn the_golden_manifest_and_image_stay_as_they_are() {
    let manifest = golden_manifest();
    assert_eq!(manifest.file.sha256.to_string(), GOLDEN_IMAGE);
    assert!(manifest.encode() == GOLDEN, "the encoding changed: old manifests would have other digests");
    assert_eq!(Manifest::decode(GOLDEN).unwrap(), manifest);
    assert_eq!(manifest.digest(), digest_of(GOLDEN));
}

#[test]
fn what_is_empty_in_the_configuration_is_left_out() {
    // Else a field added to the model would change what old manifests encode to.
    assert_eq!(serde_json::to_string(&ImageConfig::default()).unwrap(), "{}");
}

#[test]
fn the_summary_for_people_names_the_digests() {
    let manifest = golden_manifest();
    let json = manifest.to_json();
    assert_eq!(json["digest"], manifest.digest().to_string());
    assert_eq!((json["name"].as_str(), json["version"].as_str()), (Some("debian"), Some("12")));
    assert_eq!(json["entries"], manifest.tree.entries().len());
}

#[test]
fn another_format_is_refused_by_its_number() {
    let mut bytes = GOLDEN.to_vec();
    // Map of 12, key 0, format.
    assert_eq!(&bytes[..3], [0xac, 0, 1]);
    bytes[2] = 2;
    let error = Manifest::decode(&bytes).unwrap_err();
    assert_eq!(error.to_string(), "manifest has format 2; this version reads format 1");
}

#[test]
fn other_bytes_for_the_same_manifest_are_refused() {
    // The format's number in two bytes instead of one.
    let mut long = GOLDEN.to_vec();
    long.splice(2..3, [0x18, 1]);
    assert!(matches!(Manifest::decode(&long), Err(DecodeManifestError::NotCanonical)));
    let mut trailing = GOLDEN.to_vec();
    trailing.push(0);
    assert!(matches!(Manifest::decode(&trailing), Err(DecodeManifestError::NotCanonical)));
    // A space in the configuration's JSON.
    let json = br#""interval_ms":1000"#;
    let at = GOLDEN.windows(json.len()).position(|window| window == json).unwrap();
    let mut spaced = GOLDEN.to_vec();
    spaced[at..at + json.len()].copy_from_slice(br#""interval_ms": 100"#);
    assert!(matches!(Manifest::decode(&spaced), Err(DecodeManifestError::NotCanonical)));
}

#[test]
fn every_truncation_is_refused() {
    for length in 0..GOLDEN.len() {
        assert!(Manifest::decode(&GOLDEN[..length]).is_err(), "{length}");
    }
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn what_is_read_is_what_would_be_written(index in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = GOLDEN.to_vec();
        let index = index.index(bytes.len());
        bytes[index] = byte;
        if let Ok(manifest) = Manifest::decode(&bytes) {
            prop_assert_eq!(manifest.encode(), bytes);
        }
    }
}
