//! Plans as data: typed kernel steps, their codec, the executor, the sweep, and the launcher's protocol.

pub mod cgroup;
pub mod link;
pub mod privilege;
pub mod protocol;
