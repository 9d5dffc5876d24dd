//! Plans and sweeps as bytes: what is written is read again, and no bytes make the reader panic or grow.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "a test program")]

use std::path::PathBuf;

use insula_plan::cgroup::{CgroupStep, IfAbsent};
use insula_plan::failure::{KernelError, Phase, StepError, StepFailure, TargetProblem};
use insula_plan::form::ReadFormError;
use insula_plan::host_step::{
    Depth, Device, DeviceKind, Durability, FileStep, HostStep, IdExtent, IdShift, LayerNames, MountAttributes,
    MountStep, Overlay, OverlayWorker, Owner, Tmpfs,
};
use insula_plan::inside_step::{Filesystem, InsideStep, Missing};
use insula_plan::link::LinkStep;
use insula_plan::plan::{
    Exec, Join, NamespaceSet, PLAN_BYTES_MAX, PLAN_VERSION, Plan, Program, ReadPlanError, STEPS_MAX, Spawn,
};
use insula_plan::privilege::PrivilegeStep;
use insula_plan::protocol::channel::{decode, encode};
use insula_plan::protocol::launcher::ImageKey;
use insula_plan::slot::{At, FdSlot, Input};
use insula_plan::sweep::{SWEEP_BYTES_MAX, SweepPlan, SweepStep};
use proptest::prelude::*;

const ID: &str = "12345678-9abc-4def-8123-456789abcdef";

fn slot() -> impl Strategy<Value = FdSlot> {
    (0u16..300).prop_map(FdSlot)
}

fn path() -> impl Strategy<Value = String> {
    "(/[a-z.]{1,8}){0,4}"
}

fn at() -> impl Strategy<Value = At> {
    (slot(), path()).prop_map(|(base, path)| At::new(base, path))
}

fn owner() -> impl Strategy<Value = Owner> {
    any::<(u32, u32)>().prop_map(|(uid, gid)| Owner { uid, gid })
}

fn attributes() -> impl Strategy<Value = MountAttributes> {
    any::<u32>().prop_map(MountAttributes)
}

fn shift() -> impl Strategy<Value = IdShift> {
    prop_oneof![Just(IdShift::None), Just(IdShift::Container), slot().prop_map(IdShift::By)]
}

fn extents() -> impl Strategy<Value = Vec<IdExtent>> {
    let extent = any::<(u32, u32, u32)>().prop_map(|(disk, host, count)| IdExtent { disk, host, count });
    prop::collection::vec(extent, 0..4)
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..64)
}

fn mount_step() -> impl Strategy<Value = MountStep> {
    let depth = prop_oneof![Just(Depth::One), Just(Depth::Tree)];
    let tmpfs = (any::<(u64, u64, u32)>(), owner(), attributes())
        .prop_map(|((size, inodes, mode), owner, attributes)| Tmpfs { size, inodes, mode, owner, attributes });
    let overlay =
        (at(), at(), at(), attributes(), any::<bool>()).prop_map(|(lower, upper, work, attributes, persistent)| {
            Overlay {
                lower,
                upper,
                work,
                durability: if persistent { Durability::Durable } else { Durability::Volatile },
                worker: if persistent { OverlayWorker::ContainerRoot } else { OverlayWorker::HostRoot },
                layers: if persistent { LayerNames::Paths } else { LayerNames::Descriptors },
                attributes,
            }
        });
    prop_oneof![
        (at(), depth, attributes(), shift(), slot()).prop_map(|(from, depth, attributes, idmap, into)| {
            MountStep::Clone { from, depth, attributes, idmap, into }
        }),
        (tmpfs, slot()).prop_map(|(tmpfs, into)| MountStep::Memory { tmpfs, into }),
        (overlay, slot()).prop_map(|(overlay, into)| MountStep::Overlay { overlay, into }),
        (extents(), extents(), slot()).prop_map(|(uids, gids, into)| MountStep::IdMap { uids, gids, into }),
        (slot(), "[a-z/]{0,9}", attributes(), shift())
            .prop_map(|(mount, source, attributes, idmap)| { MountStep::Change { mount, source, attributes, idmap } }),
    ]
}

fn file_step() -> impl Strategy<Value = FileStep> {
    let device = (any::<bool>(), any::<(u32, u32)>()).prop_map(|(block, (major, minor))| Device {
        kind: if block { DeviceKind::Block } else { DeviceKind::Character },
        major,
        minor,
    });
    prop_oneof![
        (at(), any::<u32>(), owner()).prop_map(|(at, mode, owner)| FileStep::Dir { at, mode, owner }),
        (at(), any::<u32>(), owner(), bytes())
            .prop_map(|(at, mode, owner, content)| { FileStep::File { at, mode, owner, content } }),
        (at(), path(), owner()).prop_map(|(at, target, owner)| FileStep::Link { at, target: target.into(), owner }),
        (at(), device, any::<u32>(), owner())
            .prop_map(|(at, device, mode, owner)| { FileStep::Device { at, device, mode, owner } }),
        (at(), at()).prop_map(|(model, at)| FileStep::Like { model, at }),
    ]
}

fn host_step() -> impl Strategy<Value = HostStep> {
    let write = (path(), any::<bool>()).prop_map(|(dir, fail)| CgroupStep::Write {
        dir: PathBuf::from(dir),
        file: "pids.max".to_owned(),
        value: "7".to_owned(),
        absent: if fail { IfAbsent::Fail } else { IfAbsent::Skip },
    });
    prop_oneof![
        write.prop_map(HostStep::Cgroup),
        Just(HostStep::Link(LinkStep::LoopbackUp)),
        mount_step().prop_map(HostStep::Mount),
        file_step().prop_map(HostStep::File),
    ]
}

fn missing() -> impl Strategy<Value = Missing> {
    prop_oneof![Just(Missing::Refuse), Just(Missing::Make), Just(Missing::Skip)]
}

fn filesystem() -> impl Strategy<Value = Filesystem> {
    prop::sample::select(vec![
        Filesystem::Proc,
        Filesystem::Sysfs,
        Filesystem::Devpts,
        Filesystem::Mqueue,
        Filesystem::Cgroup2,
        Filesystem::Cgroup1,
        Filesystem::Tmpfs,
    ])
}

fn inside_step() -> impl Strategy<Value = InsideStep> {
    let options = prop::collection::vec("[a-z]{1,6}(=[a-z0-9]{1,6})?", 0..4);
    prop_oneof![
        slot().prop_map(|mount| InsideStep::EnterRoot { mount }),
        (slot(), path(), missing()).prop_map(|(mount, target, missing)| InsideStep::Attach { mount, target, missing }),
        (filesystem(), options, attributes(), path()).prop_map(|(filesystem, options, attributes, target)| {
            InsideStep::Mount { filesystem, options, attributes, target }
        }),
        path().prop_map(|target| InsideStep::Mask { target }),
        path().prop_map(|target| InsideStep::ReadOnly { target }),
        "[a-z]{1,9}".prop_map(|name| InsideStep::HostName { name }),
        (path(), "[0-9]{1,3}", missing())
            .prop_map(|(path, value, missing)| { InsideStep::Setting { path, value, missing } }),
        bytes().prop_map(|program| InsideStep::Privilege(PrivilegeStep::InstallFilter { program })),
        Just(InsideStep::UnshareCgroup),
        (path(), slot()).prop_map(|(target, into)| InsideStep::Console { target, into }),
        Just(InsideStep::LeaveHost),
    ]
}

fn input() -> impl Strategy<Value = Input> {
    prop_oneof![
        Just(Input::Given),
        Just(Input::Mount),
        "[a-z0-9]{1,20}".prop_map(|key| Input::ImageMount { key: ImageKey(key) }),
        Just(Input::InitProgram),
        Just(Input::Status),
        Just(Input::ExecListener),
        Just(Input::ExitFact),
        bytes().prop_map(|bytes| Input::Content { bytes }),
        Just(Input::Null),
    ]
}

fn plan() -> impl Strategy<Value = Plan> {
    let hosts = || prop::collection::vec(host_step(), 0..8);
    let insides = prop::collection::vec(inside_step(), 0..12);
    let spawn = (any::<(u32, u32)>(), prop::option::of(path())).prop_map(|((id_base, id_count), cgroup)| Spawn {
        namespaces: NamespaceSet::ALL,
        id_base,
        id_count,
        cgroup: cgroup.map(PathBuf::from),
    });
    let program = prop_oneof![slot().prop_map(Program::Slot), Just(Program::Path(c"/sbin/init".to_owned()))];
    let fds = prop::collection::vec(slot(), 0..8);
    (prop::collection::vec(input(), 0..8), hosts(), spawn, hosts(), insides, program, fds, any::<bool>()).prop_map(
        |(inputs, before, spawn, outside, inside, program, fds, joined)| Plan {
            version: PLAN_VERSION,
            container: ID.parse().unwrap(),
            inputs,
            before,
            spawn,
            outside,
            inside,
            exec: Exec { program, argv: vec![c"init".to_owned()], env: vec![c"A=b".to_owned()], fds },
            join: joined.then(|| Join { attach: Vec::new(), privileges: vec![PrivilegeStep::NoNewPrivileges] }),
        },
    )
}

fn small_plan() -> Plan {
    Plan {
        version: PLAN_VERSION,
        container: ID.parse().unwrap(),
        inputs: vec![Input::Given],
        before: Vec::new(),
        spawn: Spawn { namespaces: NamespaceSet::ALL, id_base: 1 << 20, id_count: 65_536, cgroup: None },
        outside: Vec::new(),
        inside: vec![InsideStep::LeaveHost],
        exec: Exec {
            program: Program::Slot(FdSlot(0)),
            argv: vec![c"init".to_owned()],
            env: Vec::new(),
            fds: Vec::new(),
        },
        join: None,
    }
}

proptest! {
    #[test]
    fn a_plan_is_read_as_it_was_written(plan in plan()) {
        prop_assert_eq!(Plan::decode(&plan.encode()).unwrap(), plan);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        prop_assert!(Plan::decode(&bytes).is_err());
        prop_assert!(SweepPlan::decode(&bytes).is_err());
    }

    #[test]
    fn a_damaged_plan_is_refused_or_within_its_bounds(
        plan in plan(),
        damages in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = plan.encode();
        for (place, value) in damages {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if let Ok(read) = Plan::decode(&bytes) {
            prop_assert_eq!(read.version, PLAN_VERSION);
            prop_assert!(read.inside.len() <= STEPS_MAX && !read.exec.argv.is_empty());
        }
    }

    #[test]
    fn a_plan_cut_short_is_refused(plan in plan(), length in any::<prop::sample::Index>()) {
        let bytes = plan.encode();
        prop_assert!(Plan::decode(&bytes[..length.index(bytes.len())]).is_err());
    }
}

#[test]
fn a_plan_of_another_version_or_beyond_a_bound_is_refused_by_name() {
    let mut plan = small_plan();
    plan.version = PLAN_VERSION + 1;
    assert!(
        matches!(Plan::decode(&plan.encode()), Err(ReadPlanError::Form(ReadFormError::Version { found, .. })) if found == PLAN_VERSION + 1)
    );
    // Of a version whose plan has nothing else in common with ours: `{0: 9, 1: "not an id"}`.
    let mut strange = vec![0xa2, 0x00, 0x09, 0x01, 0x69];
    strange.extend(b"not an id");
    assert!(matches!(Plan::decode(&strange), Err(ReadPlanError::Form(ReadFormError::Version { found: 9, .. }))));
    assert!(matches!(SweepPlan::decode(&strange), Err(ReadFormError::Version { found: 9, .. })));
    let mut plan = small_plan();
    plan.inside = vec![InsideStep::UnshareCgroup; STEPS_MAX + 1];
    assert_eq!(Plan::decode(&plan.encode()).unwrap_err().to_string(), "the plan has too many steps inside");
    let mut plan = small_plan();
    plan.inputs = vec![Input::Given; 257];
    assert_eq!(Plan::decode(&plan.encode()).unwrap_err().to_string(), "the plan has too many inputs");
    let mut plan = small_plan();
    plan.exec.argv.clear();
    assert!(matches!(Plan::decode(&plan.encode()), Err(ReadPlanError::NoArguments)));
    let large = vec![0; PLAN_BYTES_MAX + 1];
    assert!(matches!(Plan::decode(&large), Err(ReadPlanError::Form(ReadFormError::TooLarge { .. }))));
    let mut longer = small_plan().encode();
    longer.push(0);
    assert!(matches!(Plan::decode(&longer), Err(ReadPlanError::Form(ReadFormError::Malformed { .. }))));
}

#[test]
fn a_length_that_no_message_can_have_costs_no_memory() {
    // A map with an array of 2^62 inputs.
    let bytes = [0xa1, 0x02, 0x9b, 0x40, 0, 0, 0, 0, 0, 0, 0];
    assert!(matches!(Plan::decode(&bytes), Err(ReadPlanError::Form(ReadFormError::Malformed { .. }))));
    assert!(SweepPlan::decode(&bytes).is_err());
}

#[test]
fn a_sweep_is_read_as_it_was_written_and_refused_beyond_its_bounds() {
    let mut sweep = SweepPlan::new(
        ID.parse().unwrap(),
        vec![
            SweepStep::Link(LinkStep::DeleteLink { name: "insulaabcdefghi".to_owned() }),
            SweepStep::File { path: "/run/insula/x".into() },
            SweepStep::Dir { path: "/run/insula/containers/x".into() },
        ],
    );
    assert_eq!(SweepPlan::decode(&sweep.encode()).unwrap(), sweep);
    sweep.version += 1;
    assert!(matches!(SweepPlan::decode(&sweep.encode()), Err(ReadFormError::Version { .. })));
    assert!(matches!(SweepPlan::decode(&vec![0; SWEEP_BYTES_MAX + 1]), Err(ReadFormError::TooLarge { .. })));
}

#[test]
fn a_failed_step_crosses_processes_with_its_cause_and_tells_it_once() {
    let error = StepError {
        phase: Phase::Inside,
        index: 7,
        step: "attach-mount".to_owned(),
        cause: StepFailure::Target { target: "/etc".to_owned(), problem: TargetProblem::SymbolicLink },
    };
    let read: StepError = decode(&encode(&error)).unwrap();
    assert_eq!(read, error);
    assert_eq!(read.to_string(), "step inside 7, `attach-mount`");
    let cause = std::error::Error::source(&read).unwrap();
    assert!(cause.to_string().starts_with("`/etc` is a symbolic link"), "{cause}");
    let kernel = StepFailure::kernel("mount_setattr(root)", rustix::io::Errno::INVAL);
    assert_eq!((kernel.to_string().as_str(), kernel.errno()), ("mount_setattr(root)", Some(22)));
    let reason = std::error::Error::source(&kernel).unwrap().to_string();
    assert_eq!(reason, KernelError(22).to_string());
}
