//! Linux as typed functions: the only crate with unsafe code, and it knows nothing of Insula.

pub mod capability;
pub mod cgroup;
pub mod clone;
pub mod device_filter;
pub mod execute;
pub mod ext4;
pub mod fd_table;
pub mod features;
pub mod file_ids;
pub mod fork;
pub mod idle_priority;
pub mod intrusion;
pub mod landlock;
pub mod loop_device;
pub mod mount_attributes;
pub mod namespace;
pub mod netlink;
pub mod nfnetlink;
pub mod page_cache;
pub mod peer;
pub mod pidfd_info;
pub mod poller;
pub mod random;
pub mod rlimit;
pub mod seccomp;
pub mod signals;
