//! A container's start as data: which kernel operations, in which order, on which side.
//!
//! ```text
//!   worker (child of the launcher, one thread)          container (child of the launcher too)
//!   ──────────────────────────────────────────          ─────────────────────────────────────
//!   before: control groups, directories
//!   spawn:  clone3 ───────────────────────────────────► waits
//!           uid_map, gid_map
//!   outside: attach groups, detached mounts, link
//!           slots that were filled ───────────────────► inside: root, mounts, masks, names, link,
//!                                                               limits, capabilities, filter
//!           ◄────────────────────────────────────────── exec, or the step that failed
//! ```
//!
//! A plan is made by pure code, travels as CBOR with integer keys in a sealed memfd, and is carried out by
//! [`execute`](crate::execute). It holds no path that the container could change: directories are slots, and what
//! lies below them is opened without following a link.

use std::ffi::CString;
use std::path::PathBuf;

use insula_model::{ContainerId, IdRange};
use minicbor::{Decode, Encode};

use crate::cgroup::CgroupStep;
use crate::form::{Form, ReadFormError};
use crate::host_step::HostStep;
use crate::inside_step::InsideStep;
use crate::privilege::PrivilegeStep;
use crate::slot::{FdSlot, Input, SLOTS_MAX};

/// Version of the plan's form; another one is refused.
pub const PLAN_VERSION: u16 = 2;

/// Longest encoded plan, in bytes.
pub const PLAN_BYTES_MAX: usize = 8 << 20;

const FORM: Form = Form { what: "plan", version: PLAN_VERSION, bytes_max: PLAN_BYTES_MAX };

/// Most steps of one phase.
pub const STEPS_MAX: usize = 4096;

/// How to start one container.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Plan {
    /// [`PLAN_VERSION`] of who made it.
    #[n(0)]
    pub version: u16,
    /// Whose start this is.
    #[n(1)]
    #[cbor(with = "crate::protocol::cbor::container_id")]
    pub container: ContainerId,
    /// What the first slots hold.
    #[n(2)]
    pub inputs: Vec<Input>,
    /// Done before the process exists.
    #[n(3)]
    pub before: Vec<HostStep>,
    /// The process.
    #[n(4)]
    pub spawn: Spawn,
    /// Done on the host for the process, which waits.
    #[n(5)]
    pub outside: Vec<HostStep>,
    /// Done by the process.
    #[n(6)]
    pub inside: Vec<InsideStep>,
    /// What it becomes.
    #[n(7)]
    pub exec: Exec,
    /// How further processes join it from outside, if process 1 takes no requests itself.
    #[n(8)]
    pub join: Option<Join>,
}

/// The first process of a container: a user namespace of its own and those namespaces that the plan names.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Spawn {
    /// Beside the user namespace. The control group namespace is none of these: it is unshared inside, after the
    /// process was moved ([`InsideStep::UnshareCgroup`]).
    #[n(0)]
    pub namespaces: NamespaceSet,
    /// Host id of the container's root.
    #[n(1)]
    pub id_base: u32,
    /// Number of ids.
    #[n(2)]
    pub id_count: u32,
    /// Version 2 control group that the process is born in.
    #[n(3)]
    pub cgroup: Option<PathBuf>,
}

impl Spawn {
    /// The container's ids on the host.
    #[must_use]
    pub fn ids(&self) -> IdRange {
        IdRange { base: self.id_base, size: self.id_count }
    }
}

/// A set of namespace kinds, by their `CLONE_NEW*` bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct NamespaceSet(#[n(0)] pub u32);

impl NamespaceSet {
    /// Mount namespace.
    pub const MOUNT: Self = Self(0x0002_0000);
    /// Host and domain name.
    pub const UTS: Self = Self(0x0400_0000);
    /// System V objects and message queues.
    pub const IPC: Self = Self(0x0800_0000);
    /// Process ids.
    pub const PID: Self = Self(0x2000_0000);
    /// Network stack.
    pub const NET: Self = Self(0x4000_0000);
    /// All kinds that a process can be born into here.
    pub const ALL: Self = Self(Self::MOUNT.0 | Self::UTS.0 | Self::IPC.0 | Self::PID.0 | Self::NET.0);

    /// Whether all of `other` are in it.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Without those of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// The program that process 1 becomes.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Exec {
    /// Which program.
    #[n(0)]
    pub program: Program,
    /// Its arguments; never empty.
    #[n(1)]
    pub argv: Vec<CString>,
    /// Its environment, `NAME=value`.
    #[n(2)]
    pub env: Vec<CString>,
    /// What it has open: descriptor 0 is the first of these, and there is no other than these.
    #[n(3)]
    pub fds: Vec<FdSlot>,
}

/// Where a program is.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Program {
    /// An open file.
    #[n(0)]
    Slot(#[n(0)] FdSlot),
    /// A path of the container, resolved in its root.
    #[n(1)]
    Path(#[n(0)] CString),
}

/// How a process that is not a child of process 1 enters a container.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Join {
    /// Control groups it is moved into, before it enters anything else.
    #[n(0)]
    pub attach: Vec<CgroupStep>,
    /// What it gives up inside, before its own user and rights are set.
    #[n(1)]
    pub privileges: Vec<PrivilegeStep>,
}

/// A plan that cannot be read, or contradicts itself.
#[derive(Debug, thiserror::Error)]
pub enum ReadPlanError {
    /// It is none of this build's.
    #[error(transparent)]
    Form(#[from] ReadFormError),
    /// More steps, inputs or descriptors than a plan may have.
    #[error("the plan has too many {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
    },
    /// There is no program to become.
    #[error("the plan's program has no arguments, not even its name")]
    NoArguments,
}

impl Plan {
    /// The plan's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        crate::protocol::channel::encode(self)
    }

    /// Reads a plan and checks its bounds. Slots are checked when they are used.
    ///
    /// # Errors
    ///
    /// See [`ReadPlanError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ReadPlanError> {
        let plan: Self = FORM.decode(bytes)?;
        plan.check().map(|()| plan)
    }

    fn check(&self) -> Result<(), ReadPlanError> {
        let bounds = [
            ("inputs", self.inputs.len(), SLOTS_MAX),
            ("steps before the spawn", self.before.len(), STEPS_MAX),
            ("steps outside", self.outside.len(), STEPS_MAX),
            ("steps inside", self.inside.len(), STEPS_MAX),
            ("descriptors", self.exec.fds.len(), SLOTS_MAX),
        ];
        if let Some((what, ..)) = bounds.into_iter().find(|(_, count, most)| count > most) {
            return Err(ReadPlanError::TooMany { what });
        }
        if self.exec.argv.is_empty() {
            return Err(ReadPlanError::NoArguments);
        }
        Ok(())
    }

    /// Number of [`Input::Given`] and [`Input::Mount`]: descriptors that come beside the plan.
    #[must_use]
    pub fn given_count(&self) -> usize {
        self.inputs.iter().filter(|input| matches!(input, Input::Given | Input::Mount)).count()
    }
}
