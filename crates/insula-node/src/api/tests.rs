//! The API over a small machine in memory.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt;
use insula_api::{ImageView, ProblemCode, SignatureState, SignatureView};
use insula_model::{Bytes, ContainerState, ImageConfig, ImageId, MountPlan, Sha256Digest, Stage};
use jiff::Timestamp;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::config::{Config, Overrides};
use crate::fake_host::{FakeHost, shared};
use crate::host::Host;

struct Node {
    context: Arc<Context>,
    host: Arc<FakeHost>,
    shared: Arc<dyn Host>,
    dir: tempfile::TempDir,
}

fn image(text: &str, default: bool) -> ImageView {
    let id: ImageId = text.parse().unwrap();
    ImageView {
        name: id.name.clone(),
        version: id.version.clone(),
        image: id,
        default,
        stage: Stage::Testing,
        digest: Sha256Digest([0; 32]),
        tree_digest: Sha256Digest([0; 32]),
        size: Bytes(0),
        entries: 0,
        created: Timestamp::UNIX_EPOCH,
        signature: SignatureView { state: SignatureState::Missing, key: None, own: false, accepted: true },
        damaged: None,
        config: ImageConfig { cmd: vec!["run".to_owned()], ..ImageConfig::default() },
        mount_plan: MountPlan::default_plan(),
        test: None,
        used_by: Vec::new(),
    }
}

fn config(dir: &Path) -> Config {
    let text = format!(
        "claims_dir = '{0}/claims'\nstate_dir = '{0}'\nrun_dir = '{0}'\n[defaults]\ntrial_ms = 30",
        dir.display()
    );
    Config::parse(&text, Path::new("test.toml"), Overrides::default()).unwrap()
}

fn fill(context: &Context) {
    let broken = ["debian@broken", "debian@crashing", "debian@sick"].map(|text| image(text, false));
    let mut images = vec![image("debian@12", true), image("debian@13", false)];
    images.extend(broken);
    context.catalog.replace(images);
}

fn open(dir: &Path, shared: &Arc<dyn Host>) -> (Arc<Context>, Vec<crate::container::record::ContainerRecord>) {
    let events = Arc::new(crate::events::Events::new());
    let images = crate::images::Images::open(&config(dir), events.clone()).unwrap();
    crate::daemon::open(config(dir), shared.clone(), images, events).unwrap()
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (host, shared) = shared();
        let (context, records) = open(dir.path(), &shared);
        assert!(records.is_empty());
        fill(&context);
        Self { context, host, shared, dir }
    }

    /// Another daemon over the same state, as after a kill of the first.
    async fn restarted(self) -> Self {
        let Self { context, host, shared, dir } = self;
        let path = dir.path().join("node.redb");
        // The killed daemon's file, as it is on the disk at this moment.
        let copy = dir.path().join("copy");
        std::fs::copy(&path, &copy).unwrap();
        context.directory.close();
        let weak = Arc::downgrade(&context);
        drop(context);
        let deadline = Instant::now() + Duration::from_secs(5);
        while weak.strong_count() > 0 {
            assert!(Instant::now() < deadline, "the old daemon's tasks do not end");
            tokio::task::yield_now().await;
        }
        std::fs::rename(&copy, &path).unwrap();
        let (context, records) = open(dir.path(), &shared);
        fill(&context);
        crate::adopt::adopt(&context, records).await.unwrap();
        Self { context, host, shared, dir }
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> (StatusCode, Value) {
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let request = Request::builder().method(method).uri(path).body(body).unwrap();
        let response = router(self.context.clone()).oneshot(request).await.unwrap();
        let status = response.status();
        if status.is_client_error() || status.is_server_error() {
            assert_eq!(response.headers()["content-type"], "application/problem+json", "{method} {path}");
        }
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() })
    }

    async fn ok(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.call(method, path, body).await;
        assert!(status.is_success(), "{method} {path}: {status} {answer}");
        answer
    }

    async fn refused(&self, method: &str, path: &str, body: Value) -> insula_api::Problem {
        let (status, answer) = self.call(method, path, body).await;
        assert!(!status.is_success(), "{method} {path}: {status} {answer}");
        serde_json::from_value(answer).unwrap()
    }

    async fn create(&self, name: &str, command: &str) -> Value {
        let spec = json!({ "image": "debian", "command": [command] });
        self.ok("POST", "/v1/containers", json!({ "name": name, "spec": spec, "start": true })).await
    }

    async fn upgrade(&self, name: &str, image: &str) -> Value {
        self.change_image(name, "upgrade", json!({ "image": image })).await
    }

    async fn change_image(&self, name: &str, verb: &str, request: Value) -> Value {
        let operation = self.ok("POST", &format!("/v1/containers/{name}/{verb}"), request).await;
        let path = format!("/v1/operations/{}/wait", operation["id"].as_str().unwrap());
        loop {
            let now = self.ok("GET", &path, Value::Null).await;
            if now["state"] != "running" {
                return now;
            }
        }
    }
}

#[tokio::test]
async fn a_container_lives_from_create_to_delete() {
    let node = Node::new();
    let created = node.create("web", "serve").await;
    assert_eq!(created["image"], "debian@12");
    let list = node.ok("GET", "/v1/containers", Value::Null).await;
    assert_eq!((list[0]["name"].as_str(), list[0]["state"].as_str()), (Some("web"), Some("running")));
    let problem = node.refused("DELETE", "/v1/containers/web", Value::Null).await;
    assert_eq!(problem.code, ProblemCode::Conflict);
    let stopped = node.ok("POST", "/v1/containers/web/stop", Value::Null).await;
    assert_eq!((stopped["state"].as_str(), stopped["exit_code"].as_i64()), (Some("stopped"), Some(143)));
    node.ok("DELETE", "/v1/containers/web", Value::Null).await;
    assert_eq!(node.refused("GET", "/v1/containers/web", Value::Null).await.code, ProblemCode::NotFound);
    assert_eq!(node.host.removed.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_stubborn_container_is_killed_after_its_time_out() {
    let node = Node::new();
    node.create("web", "stubborn").await;
    let began = Instant::now();
    let stopped = node.ok("POST", "/v1/containers/web/stop", json!({ "timeout_ms": 50 })).await;
    assert_eq!(stopped["exit_code"], 137);
    assert!(began.elapsed() >= Duration::from_millis(50));
}

#[tokio::test]
async fn every_refusal_is_a_problem_document() {
    let node = Node::new();
    for (method, path, body, status) in [
        ("GET", "/nowhere", Value::Null, 404),
        ("PUT", "/v1/containers", Value::Null, 405),
        ("POST", "/v1/containers", json!({ "nonsense": 1 }), 400),
        ("POST", "/v1/containers", json!({ "spec": { "image": "nope" }, "name": "a" }), 404),
        ("POST", "/v1/containers", json!({ "spec": { "image": "debian" }, "name": "-a" }), 400),
        ("GET", "/v1/containers?filter=colour=red", Value::Null, 400),
        ("GET", "/v1/containers?limit=3", Value::Null, 400),
        ("GET", "/v1/operations/x", Value::Null, 400),
        ("GET", "/v1/containers/a%00b", Value::Null, 404),
        ("GET", "/v1/whois", Value::Null, 400),
    ] {
        let (found, answer) = node.call(method, path, body).await;
        assert_eq!(found.as_u16(), status, "{method} {path}: {answer}");
        assert_eq!(answer["status"], status, "{method} {path}");
    }
    let huge = "x".repeat(BODY_BYTES_MAX + 1);
    let (status, _) = node.call("POST", "/v1/containers", json!({ "name": huge })).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn an_unknown_version_falls_back_with_a_warning_or_is_refused_when_strict() {
    let node = Node::new();
    let body = |strict| json!({ "spec": { "image": "debian@99" }, "strict": strict });
    let created = node.ok("POST", "/v1/containers", body(false)).await;
    assert_eq!(created["image"], "debian@12");
    assert!(created["warnings"][0].as_str().unwrap().contains("debian@99 does not exist"), "{created}");
    let problem = node.refused("POST", "/v1/containers", body(true)).await;
    assert!(problem.remedy.unwrap().contains("12, 13"));
}

#[tokio::test]
async fn names_are_unique_and_freed_by_rename_and_delete() {
    let node = Node::new();
    node.create("a", "serve").await;
    let spec = json!({ "image": "debian" });
    let body = json!({ "name": "a", "spec": spec });
    assert_eq!(node.refused("POST", "/v1/containers", body.clone()).await.code, ProblemCode::Conflict);
    node.ok("POST", "/v1/containers/a/rename", json!({ "name": "b" })).await;
    node.ok("POST", "/v1/containers", body).await;
    assert_eq!(
        node.refused("POST", "/v1/containers/a/rename", json!({ "name": "b" })).await.code,
        ProblemCode::Conflict
    );
}

#[tokio::test]
async fn the_name_service_hears_what_changed_and_shares_the_rest() {
    let node = Node::new();
    node.create("web", "serve").await;
    node.create("db", "serve").await;
    let told = || -> Vec<_> {
        let mut told = crate::name_service::containers(&node.context);
        told.sort_by(|a, b| a.names.cmp(&b.names));
        told
    };
    let [db, web] = <[_; 2]>::try_from(told()).unwrap();
    assert_eq!(
        (db.names.as_slice(), web.names.as_slice()),
        (["db".to_owned()].as_slice(), ["web".to_owned()].as_slice())
    );
    assert!(!db.addresses.is_empty() && !web.addresses.is_empty());
    // A paused container is found as before.
    node.ok("POST", "/v1/containers/web/pause", Value::Null).await;
    node.ok("POST", "/v1/containers/db/stop", Value::Null).await;
    let [stopped, paused] = <[_; 2]>::try_from(told()).unwrap();
    assert!(Arc::ptr_eq(&paused, &web));
    assert!(stopped.names == db.names && stopped.addresses.is_empty());
    node.ok("POST", "/v1/containers/db/start", Value::Null).await;
    assert_eq!(told()[0], db);
    node.ok("POST", "/v1/containers/db/rename", json!({ "name": "store" })).await;
    assert_eq!(told()[0].names, ["store"]);
    node.ok("DELETE", "/v1/containers/store?force=true", Value::Null).await;
    assert_eq!(told(), [web]);
}

#[tokio::test]
async fn a_container_that_is_deleted_at_its_end_leaves_nothing() {
    let node = Node::new();
    let body =
        json!({ "name": "once", "remove": true, "start": true, "spec": { "image": "debian", "command": ["true"] } });
    node.ok("POST", "/v1/containers", body).await;
    let gone = || async { node.call("GET", "/v1/containers/once", Value::Null).await.0 == StatusCode::NOT_FOUND };
    let deadline = Instant::now() + Duration::from_secs(5);
    while !gone().await {
        assert!(Instant::now() < deadline, "never deleted");
        tokio::task::yield_now().await;
    }
    assert!(node.context.facts.ids().is_empty());
}

#[tokio::test]
async fn a_failed_start_names_its_cause_and_the_container_is_failed() {
    let node = Node::new();
    let body = json!({ "name": "x", "start": true, "spec": { "image": "debian", "command": ["missing"] } });
    let problem = node.refused("POST", "/v1/containers", body).await;
    assert_eq!(problem.code, ProblemCode::CommandNotFound);
    let shown = node.ok("GET", "/v1/containers/x", Value::Null).await;
    assert_eq!(shown["state"], "failed");
    assert!(shown["reason"].as_str().unwrap().contains("not in the container"), "{shown}");
}

#[tokio::test]
async fn an_upgrade_keeps_what_proves_good_and_takes_back_what_does_not() {
    let node = Node::new();
    node.create("web", "serve").await;
    let done = node.upgrade("web", "debian@13").await;
    assert_eq!(
        (&done["result"]["image"], &done["result"]["previous_image"]),
        (&json!("debian@13"), &json!("debian@12"))
    );
    for bad in ["debian@broken", "debian@crashing"] {
        let done = node.upgrade("web", bad).await;
        assert_eq!(done["state"], "succeeded", "{done}");
        assert!(done["result"]["rolled_back"].as_str().unwrap().contains(bad), "{done}");
        let shown = node.ok("GET", "/v1/containers/web", Value::Null).await;
        assert_eq!((&shown["image"], &shown["previous_image"]), (&json!("debian@13"), &json!("debian@12")), "{shown}");
        assert_eq!(shown["state"], "running");
    }
    assert_eq!(
        node.refused("POST", "/v1/containers/web/upgrade", json!({ "image": "debian@99" })).await.code,
        ProblemCode::NotFound
    );
}

#[tokio::test]
async fn a_change_that_never_ran_is_taken_back_without_a_restart() {
    let node = Node::new();
    node.create("web", "serve").await;
    let path = "/v1/containers/web";
    node.ok("PATCH", path, json!({ "settings": { "image": "debian@13" } })).await;
    let before = node.ok("GET", path, Value::Null).await;
    assert_eq!((&before["image"], &before["next_image"]), (&json!("debian@12"), &json!("debian@13")));
    let done = node.change_image("web", "rollback", json!({})).await;
    assert_eq!(
        (&done["result"]["image"], &done["result"]["next_image"]),
        (&json!("debian@12"), &Value::Null),
        "{done}"
    );
    let after = node.ok("GET", path, Value::Null).await;
    assert_eq!((&after["next_image"], &after["started"]), (&Value::Null, &before["started"]));
    let problem = node.refused("POST", "/v1/containers/web/rollback", json!({})).await;
    assert_eq!(problem.code, ProblemCode::Conflict, "there is nothing left to take back");
}

#[tokio::test]
async fn a_container_that_does_not_run_says_what_it_will_start_with() {
    let node = Node::new();
    node.create("web", "serve").await;
    node.ok("POST", "/v1/containers/web/stop", json!({})).await;
    let result = node.upgrade("web", "debian@13").await["result"].clone();
    let expected = json!({
        "image": "debian@12", "previous_image": null, "next_image": "debian@13", "rolled_back": null
    });
    assert_eq!(result, expected);
    let result = node.change_image("web", "rollback", json!({})).await["result"].clone();
    assert_eq!((&result["image"], &result["next_image"]), (&json!("debian@12"), &Value::Null));
}

#[tokio::test]
async fn health_is_told_while_a_container_with_a_check_runs_and_only_then() {
    let node = Node::new();
    let check = json!({ "command": ["check"], "interval_ms": 100, "deadline_ms": 100, "retries": 1 });
    for (name, image, health) in [("good", "debian@12", "healthy"), ("bad", "debian@sick", "unhealthy")] {
        let spec = json!({ "image": image, "command": ["serve"], "health": check });
        node.ok("POST", "/v1/containers", json!({ "name": name, "spec": spec })).await;
        let path = format!("/v1/containers/{name}");
        assert_eq!(node.ok("GET", &path, Value::Null).await.get("health"), None);
        node.ok("POST", &format!("{path}/start"), json!({})).await;
        assert_eq!(node.ok("GET", &path, Value::Null).await["health"], "starting");
        let handle = node.context.directory.find(name).unwrap();
        handle.wait_for(|now| now.health.is_some_and(|now| now.to_string() == health)).await;
        assert_eq!(node.ok("GET", &path, Value::Null).await["health"], health);
        node.ok("POST", &format!("{path}/stop"), json!({})).await;
        assert_eq!(node.ok("GET", &path, Value::Null).await.get("health"), None);
    }
    node.create("plain", "serve").await;
    node.ok("POST", "/v1/containers/plain/start", json!({})).await;
    assert_eq!(node.ok("GET", "/v1/containers/plain", Value::Null).await.get("health"), None);
    let problem = node.refused("GET", "/v1/containers/plain/wait?condition=healthy", Value::Null).await;
    assert_eq!(problem.code, ProblemCode::Conflict, "it would be waited for in vain");
}

#[tokio::test]
async fn a_filter_by_a_state_that_does_not_exist_names_those_that_do() {
    let node = Node::new();
    let problem = node.refused("GET", "/v1/containers?filter=state%3Drunnin", Value::Null).await;
    assert_eq!((problem.code, problem.detail.contains("`runnin`")), (ProblemCode::Invalid, true), "{problem:?}");
    let remedy = problem.remedy.unwrap();
    assert!(ContainerState::ALL.iter().all(|state| remedy.contains(&state.to_string())), "{remedy}");
    let problem = node.refused("GET", "/v1/containers?filter=stat%3Drunning", Value::Null).await;
    assert!(problem.detail.contains("`stat=running`"), "{problem:?}");
}

#[tokio::test]
async fn show_says_where_open_files_begin_and_who_said_so() {
    let node = Node::new();
    node.create("plain", "serve").await;
    let shown = node.ok("GET", "/v1/containers/plain", Value::Null).await;
    assert_eq!(shown["effective_resources"]["files_limit"], 1024);
    assert_eq!(shown["resource_origins"]["files.limit"], "node");
    node.ok("PATCH", "/v1/containers/plain", json!({ "settings": { "files.limit": "99" } })).await;
    let shown = node.ok("GET", "/v1/containers/plain", Value::Null).await;
    assert_eq!(shown["effective_resources"]["files_limit"], 99);
    assert_eq!(shown["resource_origins"]["files.limit"], "container");
}

#[tokio::test]
async fn a_sick_version_is_taken_back_by_its_health_check() {
    let node = Node::new();
    node.create("web", "serve").await;
    let body = json!({ "image": "debian@sick", "health": ["check"], "deadline_ms": 50 });
    let operation = node.ok("POST", "/v1/containers/web/upgrade", body).await;
    let path = format!("/v1/operations/{}/wait", operation["id"].as_str().unwrap());
    let mut now = operation;
    while now["state"] == "running" {
        now = node.ok("GET", &path, Value::Null).await;
    }
    let why = now["result"]["rolled_back"].as_str().unwrap();
    assert!(why.contains("not healthy within 50 ms: the check ended with code 1"), "{why}");
}

#[tokio::test]
async fn a_daemon_that_dies_loses_nothing() {
    let node = Node::new();
    node.create("stays", "serve").await;
    node.create("ends", "serve").await;
    let body = json!({ "name": "once", "remove": true, "start": true, "spec": { "image": "debian" } });
    node.ok("POST", "/v1/containers", body).await;
    let id = node.context.directory.find("ends").unwrap().id;
    let node = {
        let before = node.ok("GET", "/v1/containers/stays", Value::Null).await;
        // It ends while no daemon looks: the old one's driver is gone before it can tell.
        let host = node.host.clone();
        let node = node.restarted().await;
        let after = node.ok("GET", "/v1/containers/stays", Value::Null).await;
        for key in ["id", "pid", "state", "image", "uid_base", "started"] {
            assert_eq!(before[key], after[key], "{key}");
        }
        host.kill_all(id, 0).await.unwrap();
        node.restarted().await
    };
    let ended = node.ok("GET", "/v1/containers/ends/wait", Value::Null).await;
    assert_eq!(ended["exit_code"], 137);
    let once = node.ok("GET", "/v1/containers/once", Value::Null).await;
    assert_eq!(once["state"], "running");
    assert_eq!(node.host.running(), 2);
    assert!(node.dir.path().exists());
}

impl Node {
    async fn operation(&self, method: &str, path: &str, body: Value) -> Value {
        let mut now = self.ok(method, path, body).await;
        let wait = format!("/v1/operations/{}/wait", now["id"].as_str().unwrap());
        while now["state"] == "running" {
            now = self.ok("GET", &wait, Value::Null).await;
        }
        now
    }

    fn archive(&self, name: &str, content: &str) -> String {
        let path = self.dir.path().join(name);
        let mut archive = tar::Builder::new(std::fs::File::create(&path).unwrap());
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        archive.append_data(&mut header, "greeting", content.as_bytes()).unwrap();
        archive.finish().unwrap();
        path.display().to_string()
    }
}

#[tokio::test]
async fn an_image_goes_from_import_through_test_to_production_and_away() {
    let node = Node::new();
    for version in ["1", "2"] {
        let path = node.archive(version, &format!("hello {version}"));
        let config = json!({ "cmd": ["serve"], "checks": [["true"]] });
        let body = json!({ "path": path, "config": config });
        let done = node.operation("POST", &format!("/v1/images/tiny/{version}/import"), body).await;
        assert_eq!(done["state"], "succeeded", "{done}");
    }
    let again = json!({ "path": node.archive("3", "x") });
    let refused = node.operation("POST", "/v1/images/tiny/1/import", again).await;
    assert_eq!((&refused["state"], &refused["problem"]["code"]), (&json!("failed"), &json!("conflict")));
    let list = node.ok("GET", "/v1/images", Value::Null).await;
    assert_eq!((&list[0]["image"], &list[0]["default"]), (&json!("tiny@1"), &json!(true)));
    assert_eq!(node.refused("POST", "/v1/images/tiny/2/promote", Value::Null).await.code, ProblemCode::Conflict);
    let tested = node.operation("POST", "/v1/images/tiny/2/test", Value::Null).await;
    assert_eq!(tested["result"]["passed"], true, "{tested}");
    assert_eq!(node.ok("POST", "/v1/images/tiny/2/promote", Value::Null).await["stage"], "production");
    let verified = node.operation("POST", "/v1/images/tiny/2/verify", Value::Null).await;
    assert_eq!(verified["result"]["intact"], true, "{verified}");
    let diff = node.ok("GET", "/v1/images/tiny/1/diff?to=tiny@2", Value::Null).await;
    assert_eq!(diff["changes"][0]["path"], "/greeting", "{diff}");
    assert_eq!(node.ok("GET", "/v1/images/tiny/default", Value::Null).await["image"], "tiny@1");
    node.ok("PUT", "/v1/images/tiny/default", json!({ "version": "2" })).await;
    assert_eq!(node.ok("GET", "/v1/images/tiny/default", Value::Null).await["image"], "tiny@2");
    let unknown = node.refused("GET", "/v1/images/tinny/default", Value::Null).await;
    assert_eq!((unknown.code, &*unknown.detail), (ProblemCode::NotFound, "image tinny does not exist"));
    assert!(unknown.remedy.unwrap().starts_with("did you mean `tiny`?"));
    node.ok("POST", "/v1/containers", json!({ "name": "a", "spec": { "image": "tiny@1" } })).await;
    let problem = node.refused("DELETE", "/v1/images/tiny/1", Value::Null).await;
    assert!(problem.detail.contains("needed by a"), "{}", problem.detail);
    let kept = node.operation("POST", "/v1/images/gc", Value::Null).await;
    assert_eq!(kept["result"]["removed"], json!([]), "{kept}");
    node.ok("DELETE", "/v1/containers/a", Value::Null).await;
    let swept = node.operation("POST", "/v1/images/gc", Value::Null).await;
    assert_eq!(swept["result"]["removed"], json!(["tiny@1"]), "{swept}");
    assert_eq!(node.refused("GET", "/v1/images/tiny/1", Value::Null).await.code, ProblemCode::NotFound);
}

#[tokio::test]
async fn a_thousand_containers_are_listed_in_time() {
    let node = Node::new();
    for number in 0..1_000 {
        let body =
            json!({ "name": format!("c{number}"), "remove": true, "start": true, "spec": { "image": "debian" } });
        node.ok("POST", "/v1/containers", body).await;
    }
    let began = Instant::now();
    let list = node.ok("GET", "/v1/containers", Value::Null).await;
    let took = began.elapsed();
    assert_eq!(list.as_array().unwrap().len(), 1_000);
    // Unoptimised and with parsing; the promise of 50 ms is measured by a benchmark.
    assert!(took < Duration::from_millis(500), "{took:?}");
}

#[test]
fn the_served_document_is_the_committed_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    let served = crate::openapi_document().unwrap() + "\n";
    if std::env::var_os("INSULA_WRITE_OPENAPI").is_some() {
        std::fs::write(&path, &served).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        served == committed,
        "docs/openapi.json is not what is served; run INSULA_WRITE_OPENAPI=1 cargo test -p insula-node served_document"
    );
}
