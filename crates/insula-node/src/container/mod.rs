//! Containers: one task drives each, from what is asked to what is.
//!
//! ```text
//! handlers ── Command ──> driver (one task per container)
//!                           │ words.rs       what can be asked, what happens, what is to be done
//!                           │ lifecycle.rs   decides: input -> effects, pure
//!                           │ driver.rs      performs effects on the host, feeds back what happened
//!                           │ backoff.rs     when a restart policy starts it again, pure
//!                           │ paperwork.rs   writes down what was decided and what happened
//!                           │ change.rs      tries, keeps or takes back a change of image
//!                           │ command.rs     takes requests, gives answers
//!                           │ lend.rs        gives who copies the files of what does not run
//!                           │ health.rs      runs the health check, counts its results
//!                           │ snapshot.rs    what everybody else sees: a published copy
//!                           └──> watch channel (list, show, wait) and events
//! ```
//!
//! Nobody but the driver changes a container's record, facts or state. `record.rs` is intent (kept in the store),
//! `facts.rs` is what happened (kept in the run directory).

mod backoff;
mod change;
pub(crate) mod command;
pub(crate) mod driver;
pub(crate) mod facts;
pub(crate) mod handle;
pub(crate) mod health;
pub(crate) mod lend;
pub(crate) mod lifecycle;
mod paperwork;
pub(crate) mod record;
pub(crate) mod snapshot;
pub(crate) mod words;

#[cfg(test)]
mod lifecycle_tests;
