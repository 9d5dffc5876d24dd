//! Steps by which a process inside a container gives up what it must not have, before it runs foreign code.
//!
//! The order matters, and [`PrivilegeStep`] is listed in it: a filter needs `CAP_SYS_ADMIN` of the container's user
//! namespace unless no-new-privileges is on, the bounding set needs `CAP_SETPCAP`, groups go before the user id, and
//! the capability sets come last because changing the user id changes them.

use std::fmt;

use insula_kernel::capability::{self, CapabilitySet, ThreadCapabilities};
use insula_kernel::rlimit::{self, Limit, Resource};
use insula_kernel::seccomp::{self, Filter, InstallFlags};
use minicbor::{Decode, Encode};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

/// One step of giving up privilege; it acts on the calling thread, whose process has no other.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum PrivilegeStep {
    /// Sets a resource limit.
    #[n(0)]
    LimitResource {
        /// The kernel's number of the limit.
        #[n(0)]
        resource: u8,
        /// Soft limit; `u64::MAX` is none.
        #[n(1)]
        soft: u64,
        /// Hard limit; `u64::MAX` is none. One above the present hard limit is cut down to that.
        #[n(2)]
        hard: u64,
    },
    /// No exec gains anything any more: set-user-id bits and file capabilities have no effect.
    #[n(1)]
    NoNewPrivileges,
    /// Every later system call passes the filter.
    #[n(2)]
    InstallFilter {
        /// Bytes of an [`insula_kernel::seccomp::Filter`].
        #[cbor(n(0), with = "minicbor::bytes")]
        program: Vec<u8>,
    },
    /// No program started from here ever has a capability outside these.
    #[n(3)]
    LimitBoundingSet {
        /// Bit `n` is capability number `n`.
        #[n(0)]
        keep: u64,
    },
    /// Becomes a user: supplementary groups, then group, then user, each for real, effective, saved and file system.
    #[n(4)]
    SetIds {
        /// User id inside the container.
        #[n(0)]
        uid: u32,
        /// Group id inside the container.
        #[n(1)]
        gid: u32,
        /// Supplementary group ids inside the container.
        #[n(2)]
        groups: Vec<u32>,
    },
    /// Keeps these of the capabilities it has, effective and permitted; the inheritable and ambient sets become empty.
    #[n(5)]
    SetCapabilities {
        /// Bit `n` is capability number `n`.
        #[n(0)]
        keep: u64,
    },
}

/// A step of giving up privilege failed.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeStepError {
    /// The kernel refused.
    #[error("{call}")]
    Kernel {
        /// The call with its target.
        call: String,
        /// Why.
        #[source]
        errno: Errno,
    },
    /// The plan names a resource limit that does not exist.
    #[error("resource limit number {resource} is unknown")]
    UnknownResource {
        /// The number.
        resource: u8,
    },
    /// The plan's filter is no program.
    #[error("install the system call filter")]
    BadFilter {
        /// What is wrong with it.
        #[source]
        source: seccomp::FilterBytesError,
    },
}

impl PrivilegeStep {
    /// Does the step to the calling thread.
    ///
    /// # Errors
    ///
    /// Names the call and the reason.
    pub fn perform(&self) -> Result<(), PrivilegeStepError> {
        let done = match self {
            Self::LimitResource { resource, soft, hard } => {
                let known = Resource::from_number(*resource);
                let known = known.ok_or(PrivilegeStepError::UnknownResource { resource: *resource })?;
                limit_resource(known, *soft, *hard)
            }
            Self::NoNewPrivileges => capability::set_no_new_privileges(),
            Self::InstallFilter { program } => {
                let filter = Filter::from_bytes(program.clone());
                let filter = filter.map_err(|source| PrivilegeStepError::BadFilter { source })?;
                seccomp::install(&filter, InstallFlags::empty())
            }
            Self::LimitBoundingSet { keep } => capability::limit_bounding_set(CapabilitySet::from_bits(*keep)),
            Self::SetIds { uid, gid, groups } => set_ids(*uid, *gid, groups),
            Self::SetCapabilities { keep } => set_capabilities(CapabilitySet::from_bits(*keep)),
        };
        done.map_err(|errno| PrivilegeStepError::Kernel { call: self.to_string(), errno })
    }
}

impl fmt::Display for PrivilegeStep {
    /// The call with its target.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LimitResource { resource, soft, hard } => match Resource::from_number(*resource) {
                Some(resource) => write!(f, "prlimit({resource}, {soft}, {hard})"),
                None => write!(f, "prlimit({resource}, {soft}, {hard})"),
            },
            Self::NoNewPrivileges => f.write_str("prctl(PR_SET_NO_NEW_PRIVS)"),
            Self::InstallFilter { program } => write!(f, "seccomp({} instructions)", program.len() / 8),
            Self::LimitBoundingSet { keep } => {
                write!(f, "prctl(PR_CAPBSET_DROP, all but {:?})", CapabilitySet::from_bits(*keep))
            }
            Self::SetIds { uid, gid, .. } => write!(f, "setresuid({uid}), setresgid({gid})"),
            Self::SetCapabilities { keep } => write!(f, "capset({:?})", CapabilitySet::from_bits(*keep)),
        }
    }
}

/// The node may run without the right to raise hard limits, and a container then gets the most there is.
fn limit_resource(resource: Resource, soft: u64, hard: u64) -> Result<(), Errno> {
    let wanted = Limit { soft: soft.min(hard), hard };
    match rlimit::set_limit(resource, wanted) {
        Err(Errno::PERM) => {
            let hard = rlimit::limit(resource)?.hard.min(wanted.hard);
            rlimit::set_limit(resource, Limit { soft: wanted.soft.min(hard), hard })
        }
        done => done,
    }
}

fn set_ids(uid: u32, gid: u32, groups: &[u32]) -> Result<(), Errno> {
    // -1 means "leave it" to the kernel; an id that large is in no container's range.
    if [uid, gid].iter().chain(groups).any(|id| *id == u32::MAX) {
        return Err(Errno::INVAL);
    }
    let groups: Vec<Gid> = groups.iter().map(|id| Gid::from_raw(*id)).collect();
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::thread::set_thread_groups(&groups)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

fn set_capabilities(keep: CapabilitySet) -> Result<(), Errno> {
    capability::clear_ambient_set()?;
    let now = capability::thread_capabilities()?;
    let permitted = now.permitted & keep;
    let effective = now.effective & keep;
    capability::set_thread_capabilities(ThreadCapabilities { effective, permitted, inheritable: CapabilitySet::EMPTY })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_round_trips_through_its_encoding() {
        let keep = CapabilitySet::CONTAINER_DEFAULT.bits();
        for step in [
            PrivilegeStep::LimitResource { resource: 7, soft: 1_024, hard: u64::MAX },
            PrivilegeStep::NoNewPrivileges,
            PrivilegeStep::InstallFilter { program: vec![6, 0, 0, 0, 0, 0, 0xff, 0x7f] },
            PrivilegeStep::LimitBoundingSet { keep },
            PrivilegeStep::SetIds { uid: 33, gid: 33, groups: vec![4, 24] },
            PrivilegeStep::SetCapabilities { keep },
        ] {
            let bytes = minicbor::to_vec(&step).unwrap();
            assert_eq!(minicbor::decode::<PrivilegeStep>(&bytes).unwrap(), step);
        }
    }

    #[test]
    fn a_plan_that_makes_no_sense_is_refused_before_the_kernel_is_asked() {
        let unknown = PrivilegeStep::LimitResource { resource: 99, soft: 0, hard: 0 };
        assert!(matches!(unknown.perform(), Err(PrivilegeStepError::UnknownResource { resource: 99 })));
        let filter = PrivilegeStep::InstallFilter { program: vec![0; 7] };
        assert!(matches!(filter.perform(), Err(PrivilegeStepError::BadFilter { .. })));
        let ids = PrivilegeStep::SetIds { uid: u32::MAX, gid: 0, groups: Vec::new() };
        assert!(matches!(ids.perform(), Err(PrivilegeStepError::Kernel { errno: Errno::INVAL, .. })));
    }

    /// Fields of `/proc/thread-self/status`.
    fn status(field: &str) -> String {
        let text = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim_start_matches(':').split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn live_the_steps_in_their_order_leave_only_what_they_name() {
        // Ids, capabilities and filters are a thread's own, so that this one may be spoilt.
        let steps = vec![
            PrivilegeStep::LimitResource { resource: 4, soft: 0, hard: u64::MAX },
            PrivilegeStep::InstallFilter { program: vec![6, 0, 0, 0, 0, 0, 0xff, 0x7f] },
            PrivilegeStep::LimitBoundingSet { keep: CapabilitySet::CONTAINER_DEFAULT.bits() },
            PrivilegeStep::SetCapabilities { keep: CapabilitySet::CONTAINER_DEFAULT.bits() },
        ];
        let core = rlimit::limit(Resource::CORE).unwrap();
        let become_user = PrivilegeStep::SetIds { uid: 65_534, gid: 65_534, groups: vec![100, 101] };
        std::thread::spawn(move || {
            for step in &steps {
                step.perform().unwrap();
            }
            let default = format!("{:016x}", CapabilitySet::CONTAINER_DEFAULT.bits());
            assert_eq!(
                (status("CapEff"), status("CapPrm"), status("CapBnd")),
                (default.clone(), default.clone(), default)
            );
            assert_eq!((status("CapInh"), status("CapAmb")), ("0".repeat(16), "0".repeat(16)));
            assert_eq!(status("Seccomp"), "2");
            become_user.perform().unwrap();
            assert_eq!(status("Uid"), "65534 65534 65534 65534");
            assert_eq!(status("Groups"), "100 101");
            assert_eq!(status("CapPrm"), "0".repeat(16));
            PrivilegeStep::NoNewPrivileges.perform().unwrap();
            assert_eq!(status("NoNewPrivs"), "1");
        })
        .join()
        .unwrap();
        rlimit::set_limit(Resource::CORE, core).unwrap();
    }
}
