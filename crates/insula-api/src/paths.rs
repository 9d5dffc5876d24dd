//! Paths of the API, so that server and client cannot disagree.

/// Version and build of the daemon: `GET`.
pub const VERSION: &str = "/v1/version";
/// OpenAPI 3.1 document: `GET`.
pub const OPENAPI: &str = "/openapi.json";
/// What this machine has and lacks: `GET`.
pub const DOCTOR: &str = "/v1/doctor";
/// Events as server-sent events: `GET`.
pub const EVENTS: &str = "/v1/events";
/// Who a process, address, path or group belongs to: `GET`.
pub const WHOIS: &str = "/v1/whois";
/// Containers: `GET` lists, `POST` creates.
pub const CONTAINERS: &str = "/v1/containers";
/// Deletes every container that does not run: `POST`.
pub const PRUNE: &str = "/v1/prune";
/// Images: `GET` lists.
pub const IMAGES: &str = "/v1/images";
/// A copy of the node's intent: `GET`.
pub const BACKUP: &str = "/v1/backup";
/// Templates: `GET` lists.
pub const TEMPLATES: &str = "/v1/templates";
/// Long actions: `GET` lists.
pub const OPERATIONS: &str = "/v1/operations";

/// One container: `GET` shows, `PATCH` sets, `DELETE` deletes.
#[must_use]
pub fn container(name: &str) -> String {
    format!("{CONTAINERS}/{name}")
}

/// A verb on one container: `POST` with `start stop restart kill pause resume rename exec upgrade rollback`, `GET`
/// with `logs wait top stats ports`.
#[must_use]
pub fn container_verb(name: &str, verb: &str) -> String {
    format!("{CONTAINERS}/{name}/{verb}")
}

/// One image version: `GET` shows, `DELETE` removes.
#[must_use]
pub fn image(name: &str, version: &str) -> String {
    format!("{IMAGES}/{name}/{version}")
}

/// Makes an image from a recipe: `POST`.
pub const IMAGE_BUILD: &str = "/v1/images/build";
/// Whose signatures count: `GET`.
pub const IMAGE_KEYS: &str = "/v1/images/keys";
/// Removes versions that nobody needs: `POST`.
pub const IMAGE_GC: &str = "/v1/images/gc";

/// The default version of a name: `GET` shows it, `PUT` chooses another.
#[must_use]
pub fn image_default(name: &str) -> String {
    format!("{IMAGES}/{name}/default")
}

/// A verb on one image version: `POST` with `import export test verify promote sign`, `GET` with `usage diff lock`.
#[must_use]
pub fn image_verb(name: &str, version: &str, verb: &str) -> String {
    format!("{IMAGES}/{name}/{version}/{verb}")
}

/// One template: `GET` shows.
#[must_use]
pub fn template(name: &str) -> String {
    format!("{TEMPLATES}/{name}")
}

/// One long action: `GET` shows, `DELETE` asks it to cancel.
#[must_use]
pub fn operation(id: &str) -> String {
    format!("{OPERATIONS}/{id}")
}

/// Waits for a long action to end or to make progress: `GET`.
#[must_use]
pub fn operation_wait(id: &str) -> String {
    format!("{OPERATIONS}/{id}/wait")
}
