//! Carrying out a plan: the worker's half, and the hand-over to the container's first process.
//!
//! ```text
//!   worker                                   first process
//!     before                                   (born by clone3, waits)
//!     maps, outside
//!     Slots, Slots, … Go ──────────────────►   inside
//!                          ◄── Console ────    (if the plan makes one)
//!                          ◄── Failed ─────    a step failed: it ends
//!                          ◄── Becoming ───    everything is done but the exec
//!                          ◄── (end) ──────    the exec closed its end: the program runs
//! ```
//!
//! The caller is a process with one thread, forked from the launcher for this one start. The container's first process
//! becomes a child of the launcher, not of the worker, which ends when the container runs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use insula_kernel::capability::{SecureBits, set_secure_bits};
use insula_kernel::clone::{CloneRequest, Cloned, NEW_USER, Parent, clone_process};
use insula_kernel::fork::exit_now;
use insula_kernel::rlimit::{self, Limit, Resource};
use insula_kernel::{execute, fd_table, signals};
use minicbor::{Decode, Encode};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Pid, Uid};

use crate::failure::{Phase, StepError, StepFailure};
use crate::host_step::{Durability, HostStep, IdExtent, MountStep, Owner};
use crate::inside::Inside;
use crate::inside_step::InsideStep;
use crate::mounts::{self, Container};
use crate::plan::{NamespaceSet, Plan, Program, Spawn};
use crate::privilege::PrivilegeStep;
use crate::protocol::channel::{Channel, MESSAGE_FDS_MAX, ReceiveError, Received, Wait};
use crate::protocol::facts::ProcessIdentity;
use crate::slot::{FdSlot, Slots};
use crate::workshop::Workshop;
use crate::{disk, files};

/// Soft limit of open files that the first process begins with; its program may raise it.
const PROGRAM_FILES: u64 = 1024;

/// A container whose first process became its program.
#[derive(Debug)]
pub struct Started {
    /// The first process.
    pub process: ProcessIdentity,
    /// The same, as a handle.
    pub pidfd: OwnedFd,
    /// The other end of its console, if the plan makes one.
    pub console: Option<OwnedFd>,
    /// Its mount namespace. Whoever holds it spares process 1 the unmounting at its end, and does that itself when it
    /// closes it. `None` where something durable is among the mounts, which is to be synced before anybody is told.
    pub mounts: Option<OwnedFd>,
    /// What the steps made and nobody needs any more. The kernel waits for a grace period for each mount in it that
    /// is attached nowhere, so it is closed after who waits for the start was told.
    pub left: Slots,
}

/// What the worker tells the first process.
#[derive(Debug, Encode, Decode)]
enum ToChild {
    /// Descriptors for these slots, beside it in this order.
    #[n(0)]
    Slots(#[n(0)] Vec<FdSlot>),
    /// That was all: begin.
    #[n(1)]
    Go,
}

/// What the first process tells the worker.
#[derive(Debug, Encode, Decode)]
pub(crate) enum FromChild {
    /// The other end of the console is beside it.
    #[n(0)]
    Console,
    /// A step failed.
    #[n(1)]
    Failed(#[n(0)] StepError),
    /// All steps are done; next is the exec, which closes this end.
    #[n(2)]
    Becoming,
}

/// Carries out a plan: returns when the container's first process became its program. `slots` holds one descriptor
/// per input of the plan. In the new process this function does not return.
///
/// The first process is a child of the caller's parent.
///
/// # Errors
///
/// The step that failed. The first process is dead or dying then, and what was made on the host is left to the sweep.
pub fn start(plan: &Plan, mut slots: Slots) -> Result<Started, StepError> {
    for (index, step) in plan.before.iter().enumerate() {
        host_step(step, &mut slots, None).map_err(at(Phase::Before, index, step.name()))?;
    }
    let spawning = at(Phase::Spawn, 0, "spawn");
    let (ours, theirs) = Channel::pair().map_err(|errno| spawning(StepFailure::kernel("socketpair", errno)))?;
    let (pid, pidfd) = match spawn(&plan.spawn).map_err(&spawning)? {
        Cloned::Before { pid, pidfd } => (pid, pidfd),
        Cloned::New => {
            drop(ours);
            become_program(plan, slots, &theirs)
        }
    };
    drop(theirs);
    // It waits for us, so it is there to be looked at; later it may end, and be reaped, at any time.
    let identity = ProcessIdentity::of(pid).ok_or_else(|| spawning(StepFailure::ChildLost));
    let outcome = identity.and_then(|process| Ok((process, raise(plan, &mut slots, (pid, &ours))?)));
    match outcome {
        Ok((process, Raised { console, mounts })) => Ok(Started { process, pidfd, console, mounts, left: slots }),
        Err(error) => {
            // Its end of the conversation is gone, so it dies by itself; killed, it cannot linger in a kernel call.
            rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).unwrap_or_default();
            Err(error)
        }
    }
}

/// Wraps a failure with where it happened.
fn at(phase: Phase, index: usize, step: &'static str) -> impl Fn(StepFailure) -> StepError {
    let index = u16::try_from(index).unwrap_or(u16::MAX);
    move |cause| StepError { phase, index, step: step.to_owned(), cause }
}

/// Makes the first process, with the range's own user as the creator of its user namespace: what the kernel counts per
/// user is then counted for the container, not for the host's root.
fn spawn(spawn: &Spawn) -> Result<Cloned, StepFailure> {
    let kernel = |call: &'static str| move |errno| StepFailure::kernel(call, errno);
    let open = |path: &std::path::PathBuf| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let wrong = |errno| StepFailure::kernel(format!("open({})", path.display()), errno);
        rustix::fs::open(path, flags, Mode::empty()).map_err(wrong)
    };
    let cgroup = spawn.cgroup.as_ref().map(open).transpose()?;
    set_secure_bits(SecureBits::NO_SETUID_FIXUP).map_err(kernel("prctl(PR_SET_SECUREBITS)"))?;
    let as_user = |uid: Uid| rustix::thread::set_thread_res_uid(None, uid, None);
    as_user(Uid::from_raw(spawn.id_base)).map_err(kernel("setresuid(range base)"))?;
    let request = CloneRequest {
        namespaces: NEW_USER | u64::from(spawn.namespaces.0),
        parent: Parent::Grandparent,
        cgroup: cgroup.as_ref().map(AsFd::as_fd),
    };
    let cloned = clone_process(&request).map_err(kernel("clone3"));
    if !matches!(cloned, Ok(Cloned::New)) {
        as_user(Uid::ROOT).map_err(kernel("setresuid(root)"))?;
    }
    cloned
}

fn host_step(
    step: &HostStep,
    slots: &mut Slots,
    born: Option<(Pid, Container<'_>, Option<BorrowedFd<'_>>)>,
) -> Result<(), StepFailure> {
    match step {
        HostStep::Cgroup(step) => {
            step.perform(born.map(|(pid, ..)| pid)).map_err(|error| StepFailure::from_error(&error))
        }
        HostStep::Link(step) => {
            step.perform(born.and_then(|(.., netns)| netns)).map_err(|error| StepFailure::from_error(&error))
        }
        HostStep::File(step) => files::perform(step, slots),
        HostStep::Disk(step) => disk::perform(*step, slots),
        HostStep::Mount(step) => {
            let reason = || StepFailure::BadPlan { reason: "a mount step stands before the process".to_owned() };
            let (_, container, _) = born.ok_or_else(reason)?;
            mounts::perform(step, slots, container)
        }
    }
}

/// What came of the worker's part.
struct Raised {
    console: Option<OwnedFd>,
    mounts: Option<OwnedFd>,
}

/// The worker's part once the first process is there.
fn raise(plan: &Plan, slots: &mut Slots, (pid, child): (Pid, &Channel)) -> Result<Raised, StepError> {
    let mapping = at(Phase::Spawn, 1, "id-map");
    let ids = plan.spawn.ids();
    let extent = [IdExtent { disk: 0, host: ids.base, count: ids.size }];
    mounts::write_maps(pid, &extent, &extent).map_err(&mapping)?;
    let userns = mounts::open_namespace(pid, "user").map_err(&mapping)?;
    let netns = plan.spawn.namespaces.contains(NamespaceSet::NET);
    let netns = netns.then(|| mounts::open_namespace(pid, "net")).transpose().map_err(&mapping)?;
    let durable = plan.before.iter().chain(&plan.outside).any(is_durable);
    let spare = !durable && plan.spawn.namespaces.contains(NamespaceSet::MOUNT);
    let mounts = spare.then(|| mounts::open_namespace(pid, "mnt")).transpose().map_err(&mapping)?;
    let workshop = Workshop::default();
    let root = Owner { uid: ids.base, gid: ids.base };
    let container = Container { userns: userns.as_fd(), root, workshop: &workshop };
    for (index, step) in plan.outside.iter().enumerate() {
        let born = Some((pid, container, netns.as_ref().map(AsFd::as_fd)));
        host_step(step, slots, born).map_err(at(Phase::Outside, index, step.name()))?;
    }
    hand_over(plan, slots, child).map_err(at(Phase::Spawn, 2, "hand-over"))?;
    // The main process's streams are among the inputs: their readers wait until nobody has them open any more.
    slots.close_first(plan.inputs.len());
    Ok(Raised { console: listen(child)?, mounts })
}

/// Whether the step mounts what has to be written out before the container counts as ended.
fn is_durable(step: &HostStep) -> bool {
    match step {
        HostStep::Disk(_) => true,
        HostStep::Mount(MountStep::Overlay { overlay, .. }) => overlay.durability == Durability::Durable,
        _ => false,
    }
}

/// Sends what the steps inside need of what the steps outside made.
fn hand_over(plan: &Plan, slots: &Slots, child: &Channel) -> Result<(), StepFailure> {
    let inputs = plan.inputs.len();
    let mut needed: Vec<FdSlot> = plan
        .inside
        .iter()
        .filter_map(|step| match step {
            InsideStep::EnterRoot { mount } | InsideStep::Attach { mount, .. } => Some(*mount),
            _ => None,
        })
        .filter(|slot| usize::from(slot.0) >= inputs)
        .collect();
    needed.sort_unstable();
    needed.dedup();
    for part in needed.chunks(MESSAGE_FDS_MAX) {
        let fds = part.iter().map(|slot| slots.get(*slot)).collect::<Result<Vec<_>, _>>()?;
        let sent = child.send(&ToChild::Slots(part.to_vec()), &fds, Wait::Forever);
        sent.map_err(|error| StepFailure::from_error(&error))?;
    }
    child.send(&ToChild::Go, &[], Wait::Forever).map_err(|error| StepFailure::from_error(&error))
}

/// Waits until the first process became its program.
fn listen(child: &Channel) -> Result<Option<OwnedFd>, StepError> {
    let lost = || at(Phase::Inside, 0, "first-process")(StepFailure::ChildLost);
    let (mut console, mut becoming) = (None, false);
    loop {
        match child.receive::<FromChild>(Wait::Forever) {
            Ok(Received { message: FromChild::Console, fds }) => console = fds.into_iter().next(),
            Ok(Received { message: FromChild::Failed(error), .. }) => return Err(error),
            Ok(Received { message: FromChild::Becoming, .. }) => becoming = true,
            Err(ReceiveError::Closed) if becoming => return Ok(console),
            Err(_) => return Err(lost()),
        }
    }
}

/// The first process, from its birth to its exec.
fn become_program(plan: &Plan, slots: Slots, worker: &Channel) -> ! {
    if let Err(error) = live(plan, slots, worker) {
        // A worker that is gone needs not be told.
        worker.send(&FromChild::Failed(error), &[], Wait::Forever).unwrap_or_default();
    }
    exit_now(125)
}

fn live(plan: &Plan, slots: Slots, worker: &Channel) -> Result<(), StepError> {
    // It was born with every descriptor of the launcher's; with many containers these would fill its own, small table.
    let kept: Vec<BorrowedFd<'_>> = slots.filled().map(|(_, fd)| fd).chain([worker.as_fd()]).collect();
    let closed = fd_table::close_all_but(&kept);
    closed.map_err(|errno| at(Phase::Spawn, 2, "hand-over")(StepFailure::kernel("close_range", errno)))?;
    let mut inside = Inside { slots, worker, root: None, empty: None };
    take_over(&mut inside, worker).map_err(at(Phase::Spawn, 2, "hand-over"))?;
    for (index, step) in plan.inside.iter().enumerate() {
        inside.perform(step).map_err(at(Phase::Inside, index, step.name()))?;
    }
    let exec = at(Phase::Exec, 0, "exec");
    // Only what returns failed.
    Err(exec(execute_program(plan, &inside.slots, worker)))
}

/// Waits for the worker, takes its descriptors, and becomes root of the new user namespace.
fn take_over(inside: &mut Inside<'_>, worker: &Channel) -> Result<(), StepFailure> {
    loop {
        let received = worker.receive::<ToChild>(Wait::Forever);
        let Received { message, fds } = received.map_err(|error| StepFailure::from_error(&error))?;
        match message {
            ToChild::Slots(slots) => {
                for (slot, fd) in slots.into_iter().zip(fds) {
                    inside.slots.put(slot, fd)?;
                }
            }
            ToChild::Go => break,
        }
    }
    let kernel = |call: &'static str| move |errno| StepFailure::kernel(call, errno);
    rustix::thread::set_thread_groups(&[]).map_err(kernel("setgroups"))?;
    let (gid, uid) = (Gid::ROOT, Uid::ROOT);
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(kernel("setresgid(0)"))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(kernel("setresuid(0)"))
}

fn execute_program(plan: &Plan, slots: &Slots, worker: &Channel) -> StepFailure {
    match prepare_exec(plan, slots, worker) {
        Err(failure) => failure,
        Ok(count) => {
            let call = || "execveat".to_owned();
            let errno = match &plan.exec.program {
                Program::Path(path) => execute::execute(path, &plan.exec.argv, &plan.exec.env),
                Program::Slot(_) => match fd_table::numbered(count) {
                    Ok(program) => execute::execute_file(program, &plan.exec.argv, &plan.exec.env),
                    Err(errno) => errno,
                },
            };
            let failure = match &plan.exec.program {
                Program::Path(path) => StepFailure::kernel(format!("execve({})", path.to_string_lossy()), errno),
                Program::Slot(_) => StepFailure::kernel(call(), errno),
            };
            report_late(count, failure)
        }
    }
}

/// Arranges the descriptor table: the program's own from 0 up, then, closed by the exec, the program and the worker.
/// Returns how many are the program's own.
fn prepare_exec(plan: &Plan, slots: &Slots, worker: &Channel) -> Result<i32, StepFailure> {
    let kernel = |call: &'static str| move |errno| StepFailure::kernel(call, errno);
    let mut fds = plan.exec.fds.iter().map(|slot| slots.get(*slot)).collect::<Result<Vec<_>, _>>()?;
    let own = fds.len();
    fds.push(match &plan.exec.program {
        Program::Slot(slot) => slots.get(*slot)?,
        Program::Path(_) => worker.as_fd(),
    });
    fds.push(worker.as_fd());
    worker.send(&FromChild::Becoming, &[], Wait::Forever).map_err(|error| StepFailure::from_error(&error))?;
    rustix::process::setsid().map_err(kernel("setsid"))?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    fd_table::replace(&fds, own).map_err(kernel("arrange descriptors"))?;
    if !limits_files(plan) {
        // The launcher's own is as large as can be, which programs that walk their descriptors would have to pay for.
        let Limit { hard, .. } = rlimit::limit(Resource::NOFILE).map_err(kernel("prlimit64(RLIMIT_NOFILE)"))?;
        let files = Limit { soft: PROGRAM_FILES.min(hard), hard };
        rlimit::set_limit(Resource::NOFILE, files).map_err(kernel("prlimit64(RLIMIT_NOFILE)"))?;
    }
    signals::reset_dispositions();
    signals::unblock_all().map_err(kernel("sigprocmask"))?;
    i32::try_from(own).map_err(|_| kernel("arrange descriptors")(Errno::MFILE))
}

/// Whether a step says how many files the program may open.
fn limits_files(plan: &Plan) -> bool {
    let number = Resource::NOFILE.number();
    plan.inside.iter().any(|step| {
        matches!(step, InsideStep::Privilege(PrivilegeStep::LimitResource { resource, .. }) if *resource == number)
    })
}

/// After the table was arranged the worker's socket has another number: tells it there, and ends.
fn report_late(own: i32, failure: StepFailure) -> ! {
    let worker = fd_table::numbered(own + 1).and_then(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 0));
    if let Ok(worker) = worker {
        let error = at(Phase::Exec, 0, "exec")(failure);
        Channel::from_socket(worker).send(&FromChild::Failed(error), &[], Wait::Forever).unwrap_or_default();
    }
    exit_now(125)
}
