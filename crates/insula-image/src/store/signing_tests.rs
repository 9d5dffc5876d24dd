//! Signatures of versions in a store on a real file system.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use insula_model::{PublicKey, Stage};

use super::tests::{TestStore, at, id, passed};
use super::{OpenForMountError, SigningConfig, StageRecord, Store, StoreWarning};
use crate::progress::Watch;
use crate::signature::{Requirement, SignatureRefusal, SignatureStatus, StageKey};

impl TestStore {
    fn keys(&self) -> PathBuf {
        self.root().with_extension("keys")
    }

    fn key(&self, stage: Stage) -> PublicKey {
        self.trusted_keys().into_iter().find(|key| key.stage == stage && key.is_own).unwrap().key
    }

    fn record(&self, version: &str) -> StageRecord {
        StageRecord::decode(&std::fs::read(self.version_dir(version).join("stage")).unwrap()).unwrap()
    }

    fn write_record(&self, version: &str, record: &StageRecord) {
        std::fs::write(self.version_dir(version).join("stage"), record.encode()).unwrap();
    }

    /// Ends the program that owns the store and starts another that wants this of signatures.
    fn reopen_as(&mut self, change: impl FnOnce(&mut SigningConfig)) {
        self.store = None;
        let mut config = SigningConfig::own_keys_only(self.keys());
        change(&mut config);
        self.store = Some(Store::open(&self.root(), &config).unwrap().0);
    }
}

fn refusal(store: &Store, version: &str) -> Option<SignatureRefusal> {
    match store.open_for_mount(&id(version), at(1), Watch::nobody()) {
        Ok(_) => None,
        Err(OpenForMountError::Signature(refusal)) => Some(refusal),
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn versions_are_signed_for_their_stage_by_its_own_key() {
    let store = TestStore::new();
    store.import("web@1", &[("a", b"1")]);
    let digest = store.show(&id("web@1")).unwrap().info.digest;
    let keys = [Stage::Testing, Stage::Production].map(|stage| store.key(stage));
    assert_ne!(keys[0], keys[1]);
    assert_eq!(store.show(&id("web@1")).unwrap().signature, SignatureStatus::Valid(keys[0]));
    store.record_test(&id("web@1"), passed()).unwrap();
    store.promote(&id("web@1"), at(2), Watch::nobody()).unwrap();
    let shown = store.show(&id("web@1")).unwrap();
    assert_eq!((shown.signature, shown.info.digest), (SignatureStatus::Valid(keys[1]), digest));
    assert_eq!(store.record("web@1").signatures.len(), 2, "who let it into testing stays on record");
    for name in ["image-testing.key", "image-production.key"] {
        let stat = std::fs::metadata(store.keys().join(name)).unwrap();
        assert_eq!((stat.permissions().mode() & 0o777, stat.size()), (0o600, 65));
    }
}

#[test]
fn keys_stay_the_same_and_one_that_is_open_to_others_is_told() {
    let mut store = TestStore::new();
    let key = store.key(Stage::Testing);
    assert_eq!(store.reopen(), []);
    assert_eq!(store.key(Stage::Testing), key);
    let path = store.keys().join("image-testing.key");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(store.reopen(), [StoreWarning::KeyExposed { path: path.clone() }]);
    std::fs::write(&path, "what").unwrap();
    store.store = None;
    let error = super::tests::open(&store.root()).unwrap_err();
    let said = std::error::Error::source(&error).unwrap();
    let why = said.source().unwrap().to_string();
    assert!(said.to_string().contains("image-testing.key") && why.contains("holds no key"), "{said}: {why}");
}

#[test]
fn a_changed_record_is_refused_at_once_and_after_a_restart() {
    let mut store = TestStore::new();
    store.import("web@1", &[("a", b"1")]);
    let (good, key) = (store.record("web@1"), store.key(Stage::Testing));
    let mut flipped = good.clone();
    flipped.signatures[0].bytes[10] ^= 4;
    let production = StageRecord { stage: Stage::Production, ..good.clone() };
    let unsigned = StageRecord { signatures: Vec::new(), ..good.clone() };
    let (version, stage) = (id("web@1"), Stage::Testing);
    let cases = [
        (flipped, SignatureRefusal::Wrong { id: version.clone(), stage, key }),
        (production, SignatureRefusal::Missing { id: version.clone(), stage: Stage::Production }),
        (unsigned, SignatureRefusal::Missing { id: version.clone(), stage }),
    ];
    for (record, expected) in cases {
        store.write_record("web@1", &record);
        assert_eq!(refusal(&store, "web@1"), Some(expected.clone()));
        assert_eq!(store.reopen(), [], "nothing is signed by itself");
        assert_eq!(refusal(&store, "web@1"), Some(expected));
        let report = store.verify(&version, at(1), Watch::nobody()).unwrap();
        assert!(report.damage.is_empty() && !matches!(report.signature, SignatureStatus::Valid(_)), "{report:?}");
    }
    store.sign(&version, at(1), Watch::nobody()).unwrap();
    assert_eq!(refusal(&store, "web@1"), None);
    store.write_record("web@1", &good);
    assert_eq!(refusal(&store, "web@1"), None);
}

#[test]
fn a_foreign_signature_counts_when_its_key_is_trusted_for_that_stage() {
    let mut store = TestStore::new();
    store.import("web@1", &[("a", b"1")]);
    let foreign = StageKey::new(Stage::Testing, &[9; 32]);
    let mut record = store.record("web@1");
    record.signatures = vec![foreign.sign(&id("web@1"), record.digest)];
    store.write_record("web@1", &record);
    let untrusted = SignatureRefusal::Untrusted { id: id("web@1"), stage: Stage::Testing, key: foreign.public() };
    assert_eq!(refusal(&store, "web@1"), Some(untrusted.clone()));
    store.reopen_as(|config| config.policy.production.extend([foreign.public()]));
    assert_eq!(refusal(&store, "web@1"), Some(untrusted), "not with the key of another stage");
    store.reopen_as(|config| config.policy.testing.extend([foreign.public()]));
    assert_eq!(refusal(&store, "web@1"), None);
    assert_eq!(store.show(&id("web@1")).unwrap().signature, SignatureStatus::Valid(foreign.public()));
    // Promotion rests on it and adds this node's word.
    store.record_test(&id("web@1"), passed()).unwrap();
    store.promote(&id("web@1"), at(2), Watch::nobody()).unwrap();
    assert_eq!(refusal(&store, "web@1"), None);
}

#[test]
fn without_the_requirement_unsigned_images_start_and_forged_ones_do_not() {
    let mut store = TestStore::new();
    store.import("web@1", &[("a", b"1")]);
    let good = store.record("web@1");
    store.reopen_as(|config| config.policy.requirement = Requirement::Optional);
    store.write_record("web@1", &StageRecord { signatures: Vec::new(), ..good.clone() });
    assert_eq!(refusal(&store, "web@1"), None);
    let mut forged = good;
    forged.signatures[0].bytes[3] ^= 1;
    store.write_record("web@1", &forged);
    assert!(matches!(refusal(&store, "web@1"), Some(SignatureRefusal::Wrong { .. })));
}

#[test]
fn what_was_there_before_the_first_key_is_signed_once() {
    let mut store = TestStore::new();
    store.import("web@1", &[("a", b"1")]);
    store.import("web@2", &[("a", b"2")]);
    for version in ["web@1", "web@2"] {
        let unsigned = StageRecord { signatures: Vec::new(), ..store.record(version) };
        store.write_record(version, &unsigned);
    }
    std::fs::remove_dir_all(store.keys()).unwrap();
    let signed = ["web@1", "web@2"].map(|version| StoreWarning::Signed { id: id(version), stage: Stage::Testing });
    assert_eq!(store.reopen(), signed);
    assert_eq!((refusal(&store, "web@1"), refusal(&store, "web@2")), (None, None));
    // From then on taking a signature away takes the right to start away.
    let unsigned = StageRecord { signatures: Vec::new(), ..store.record("web@1") };
    store.write_record("web@1", &unsigned);
    assert_eq!(store.reopen(), []);
    assert!(matches!(refusal(&store, "web@1"), Some(SignatureRefusal::Missing { .. })));
}

#[test]
fn a_damaged_image_is_not_signed() {
    let store = TestStore::new();
    store.import("web@1", &[("a", b"1")]);
    super::tests::flip(&store.version_dir("web@1").join("root.erofs"), 4096);
    let error = store.sign(&id("web@1"), at(1), Watch::nobody()).unwrap_err();
    assert!(matches!(error, super::ChangeImageError::Damaged { .. }), "{error:?}");
}
