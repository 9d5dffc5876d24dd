//! The node daemon: desired and actual state of one machine's containers, and the API.
//!
//! ```text
//!            HTTP/JSON                  attach.sock (descriptors)
//!  clients ─────────────> api/ ──┐   ┌── attach/ <──────── clients
//!                                v   v
//!   store/ (intent) <──── container/: one driver per container ────> host.rs (trait)
//!   facts (run dir) <────   lifecycle decides, driver performs          │
//!   events, operations <──                                             v
//!                                                  machine/ ──> launcher, keeper, inits
//! ```
//!
//! No container is a child of the daemon, and it changes no namespace of its own: killing or replacing it at any
//! moment touches no container. [`Config::load`] reads the configuration, [`run`] serves until it is told to end.

mod admission;
mod adopt;
mod api;
mod attach;
mod audit;
mod catalog;
mod claims;
pub mod config;
mod container;
mod context;
mod daemon;
mod directory;
mod events;
mod files;
mod host;
mod image_build;
mod image_signing;
mod image_test;
mod image_upkeep;
mod images;
mod import_worker;
mod logs;
mod machine;
mod name_service;
mod notify;
mod operations;
mod rights;
mod room;
mod settings;
mod socket_group;
mod store;
mod trial;
mod tune;
mod volumes;
mod whois;

#[cfg(test)]
mod fake_host;

pub use config::{Config, Overrides};
pub use daemon::{RunError, run};
pub use import_worker::{IMPORT_WORKER, serve_import};
pub use store::{RestoreError, restore};
pub use tune::{HostLimit, host_limits};

/// The OpenAPI 3.1 document of the API, as it is served.
///
/// # Errors
///
/// Never in practice: the document is made of literals.
pub fn openapi_document() -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(&api::document())
}
