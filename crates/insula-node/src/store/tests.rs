//! The store: what was answered is there, what cannot be read is refused.

use insula_model::{ContainerName, ContainerSpec, IdRange};
use uuid::Uuid;

use super::*;
use crate::container::words::Wanted;

fn record(number: u128) -> ContainerRecord {
    ContainerRecord {
        id: ContainerId::from_uuid(Uuid::from_u128(number)),
        name: ContainerName::new(format!("c{number}")).unwrap(),
        spec: ContainerSpec::new("debian".parse().unwrap()),
        image: "debian@12".parse().unwrap(),
        previous_image: None,
        next_image: None,
        rolled_back: None,
        ids: IdRange { base: 1 << 20, size: IdRange::SIZE },
        addresses: crate::container::record::Addresses::default(),
        created: jiff::Timestamp::UNIX_EPOCH,
        wanted: Wanted::Stopped,
        remove: false,
    }
}

#[tokio::test]
async fn what_was_answered_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.redb");
    let (store, records) = Store::open(&path).unwrap();
    assert!(records.is_empty());
    for number in 1..=3 {
        store.put(record(number)).await.unwrap();
    }
    store.delete(record(2).id).await.unwrap();
    // A copy of the file at this moment is what a killed daemon leaves.
    let copy = dir.path().join("copy.redb");
    std::fs::copy(&path, &copy).unwrap();
    let (_, records) = Store::open(&copy).unwrap();
    assert_eq!(records, [record(1), record(3)]);
}

#[tokio::test]
async fn a_file_copied_at_any_commit_holds_exactly_the_changes_answered_by_then() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.redb");
    let (store, _) = Store::open(&path).unwrap();
    for number in 1..=12 {
        store.put(record(number)).await.unwrap();
        let copy = dir.path().join(format!("copy{number}.redb"));
        std::fs::copy(&path, &copy).unwrap();
        let (_, records) = Store::open(&copy).unwrap();
        assert_eq!(records.len(), usize::try_from(number).unwrap());
    }
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.redb");
    {
        let database = Database::create(&path).unwrap();
        let write = database.begin_write().unwrap();
        write.open_table(META).unwrap().insert("schema", SCHEMA + 1).unwrap();
        write.commit().unwrap();
    }
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, OpenStoreError::Newer { found, .. } if found == SCHEMA + 1), "{error}");
}

#[test]
fn a_damaged_file_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.redb");
    std::fs::write(&path, b"not a store at all, but long enough to be looked at").unwrap();
    let message = Store::open(&path).unwrap_err().to_string();
    assert!(message.contains("is damaged") && message.contains("Restore a backup"), "{message}");
    assert!(std::fs::read(&path).unwrap().starts_with(b"not a store"));
}
