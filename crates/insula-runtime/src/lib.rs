//! From a container's specification to the plan of its start.

pub mod seccomp_profile;
