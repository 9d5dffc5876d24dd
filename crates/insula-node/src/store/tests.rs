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
        trial_health: None,
        upgrade_grace: None,
        rolled_back: None,
        ids: IdRange { base: 1 << 20, size: IdRange::SIZE },
        addresses: crate::container::record::Addresses::default(),
        created: jiff::Timestamp::UNIX_EPOCH,
        wanted: Wanted::Stopped,
        remove: false,
        of_operation: false,
        last_run: None,
    }
}

#[test]
fn environments_in_it_are_for_root_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.redb");
    let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    drop(Store::open(&path).unwrap());
    assert_eq!(mode(), 0o600);
    std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    drop(Store::open(&path).unwrap());
    assert_eq!(mode(), 0o600, "of an earlier version");
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

fn config(state_dir: &Path) -> crate::config::Config {
    let text = format!("state_dir = '{}'", state_dir.display());
    crate::config::Config::parse(&text, Path::new("test.toml"), crate::config::Overrides::default()).unwrap()
}

async fn backed_up(dir: &Path) -> insula_api::NodeBackup {
    let (store, _) = Store::open(&dir.join("first.redb")).unwrap();
    for number in 1..=3 {
        store.put(record(number)).await.unwrap();
    }
    store.back_up("n").unwrap()
}

#[tokio::test]
async fn what_was_backed_up_is_there_after_a_restore_into_an_empty_store_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let backup = backed_up(dir.path()).await;
    let file = dir.path().join("backup");
    std::fs::write(&file, serde_json::to_vec(&backup).unwrap()).unwrap();
    let config = config(&dir.path().join("state"));
    assert_eq!(restore(&config, &file).unwrap(), 3);
    let again = restore(&config, &file).unwrap_err();
    assert!(matches!(again, RestoreError::NotEmpty { containers: 3, .. }), "{again}");
    let (_, records) = Store::open(&config.state_dir.join("node.redb")).unwrap();
    assert_eq!(records, [record(1), record(2), record(3)]);
}

#[tokio::test]
async fn a_backup_that_is_newer_damaged_or_cut_off_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let good = backed_up(dir.path()).await;
    let file = dir.path().join("backup");
    let config = config(&dir.path().join("state"));
    let refused = |backup: &insula_api::NodeBackup, cut: usize| {
        let text = serde_json::to_vec(backup).unwrap();
        std::fs::write(&file, &text[..text.len() - cut]).unwrap();
        restore(&config, &file).unwrap_err()
    };
    let newer = insula_api::NodeBackup { schema: SCHEMA + 1, ..good.clone() };
    assert!(matches!(refused(&newer, 0), RestoreError::Newer { .. }));
    let mut damaged = good.clone();
    damaged.containers[1]["name"] = "else".into();
    assert!(matches!(refused(&damaged, 0), RestoreError::Damaged { .. }));
    let fewer = insula_api::NodeBackup { containers: good.containers[1..].to_vec(), ..good.clone() };
    assert!(matches!(refused(&fewer, 0), RestoreError::Damaged { .. }));
    assert!(matches!(refused(&good, 1), RestoreError::Form { .. }));
    assert!(!config.state_dir.exists(), "nothing is made for a backup that cannot be used");
}
