//! From what a container is asked to be, to the plan of its start. Pure: nothing here touches the host.
//!
//! ```text
//!   StartRequest ── plan_start ──> StartPlan { plan, given }
//!     spec, image config, mount plan,     plan:  steps for the worker and for process 1
//!     ids, groups, network, files         given: which descriptors go beside it, in order
//! ```
//!
//! Where an image comes from, and who carries the plan out, is not known here.

mod dev;
mod etc;
mod process;
mod program;
mod request;
mod rights;
mod root;
pub mod seccomp_profile;
mod slots;
mod start;
mod sweep;
mod views;

pub use process::{ExecRequest, exec_process, main_process};
pub use request::{
    DeviceNode, EtcFiles, GivenFd, HostFacts, MainStreams, Network, Owner, PlanStartError, StartPlan, StartRequest,
    Storage, VolumeKind, VolumeSource,
};
pub use rights::{ParseRightsError, Rights};
pub use start::plan_start;
pub use sweep::{SweepRequest, plan_sweep};
