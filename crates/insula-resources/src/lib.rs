//! Control groups of a node and its containers, version 1 and 2 behind one type, and the figures they give.
//!
//! Pure parts decide and return steps of [`insula_plan`]; reading figures, freezing and killing is done here, on
//! [`NodeGroups`]. Nothing here decides how much a container gets.

pub mod devices;
mod groups;
mod layout;
mod limits;
mod usage;

pub use groups::{CgroupSteps, JoinGroups, NodeGroups, StartGroups};
pub use layout::{CgroupLayout, Controller, DetectCgroupsError, UnifiedHierarchy, Version};
pub use limits::{Limits, PIDS_DEFAULT, process_limit_steps};
pub use usage::{ContainerGroupError, Quantity, Usage};
