//! The program, a node and containers together, on the real kernel. Needs root and all programs of the workspace.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "a test program")]

mod attach;
mod lifecycle;
mod mistakes;
mod reboot;
mod streams;
mod terminal;
