//! What the small programs say to each other: the launcher, the keeper and process 1 of a container.
//!
//! Messages are CBOR with integer keys, one message per packet of a `SOCK_SEQPACKET` unix socket, with descriptors
//! beside it (`SCM_RIGHTS`). Each side's blocking half of a conversation is here too, so that every program that
//! speaks a protocol speaks the same one.
//!
//! ```text
//!   daemon --LauncherCall--> launcher --KeeperCall--> keeper
//!          <-LauncherEvent-           <-KeeperAnswer-
//!   daemon --InitRequest---> init (process 1) --InitEvent (status socket)--> launcher
//!          <-InitEvent------
//! ```
//!
//! Nothing here decides anything; a peer's message is data until its receiver has checked it. Unknown fields are
//! skipped, unknown variants are an error of that message.

pub(crate) mod cbor;
pub mod channel;
pub mod facts;
pub mod failure;
pub mod init;
pub mod keeper;
pub mod launcher;
pub mod log;
pub mod log_reader;
pub mod names;
pub mod process;
pub mod run_dir;
pub mod status;

pub use insula_model::ContainerId;

/// Version of all protocols together; one more whenever a message is added or changed. A peer with another version is
/// refused, never guessed at: daemon, launcher and keeper are upgraded one by one and each states what it speaks in its
/// first message. The exception is how they replace each other, see [`PROTOCOL_VERSION_OLDEST`].
///
/// | Version | What came with it |
/// |---|---|
/// | 1 | |
/// | 2 | `ServeGuests`, terminals and tees at the keeper |
/// | 3 | joined processes have a connection of their own, `RunsDrained`, `EndGuests`; mounts that come beside a plan |
pub const PROTOCOL_VERSION: u16 = 3;

/// Oldest version whose `Hello`, `Upgrade`, `Export` and handed-over state are the same as in this one: a launcher or
/// keeper of this or a newer version can be replaced by this build while containers run.
pub const PROTOCOL_VERSION_OLDEST: u16 = 1;

/// Whether a peer that speaks `version` can hand over to this build.
#[must_use]
pub fn can_succeed(version: u16) -> bool {
    (PROTOCOL_VERSION_OLDEST..=PROTOCOL_VERSION).contains(&version)
}
