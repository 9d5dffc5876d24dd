//! Plans as data: typed kernel steps, their codec, the executor, the sweep, and the launcher's protocol.

mod beneath;
pub mod cgroup;
pub mod disk;
pub mod execute;
pub mod failure;
mod files;
pub mod form;
pub mod host_step;
mod inside;
pub mod inside_step;
pub mod join;
pub mod link;
mod mounts;
pub mod plan;
pub mod privilege;
pub mod protocol;
pub mod slot;
pub mod sweep;
mod workshop;
