//! Linux as typed functions: the only crate with unsafe code, and it knows nothing of Insula.

pub mod capability;
pub mod cgroup;
pub mod device_filter;
pub mod netlink;
pub mod nfnetlink;
pub mod rlimit;
pub mod seccomp;
