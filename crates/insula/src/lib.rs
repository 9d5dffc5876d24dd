//! The command `insula`: a client of the node's API, and the way to start a node.
//!
//! A command parses ([`args`]), asks the node ([`client`]), shows the answer ([`render`]). Terminals and pipes of a
//! command in a container are [`foreground`]'s. Nothing here decides anything about containers.

pub mod args;
pub mod client;
pub mod command;
pub mod failure;
pub mod foreground;
pub mod render;
pub mod spec;
mod text_file;
pub mod values;
