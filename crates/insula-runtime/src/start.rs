//! The plan of a start, put together from its parts.

use insula_kernel::device_filter::{DeviceAccess, DeviceKind, DeviceRule};
use insula_model::{InitKind, RootAccess};
use insula_plan::cgroup::CgroupStep;
use insula_plan::host_step::{DiskStep, HostStep};
use insula_plan::inside_step::InsideStep;
use insula_plan::link::LinkStep;
use insula_plan::plan::{Exec, Join, NamespaceSet, PLAN_VERSION, Plan, Spawn};
use insula_plan::slot::{At, FdSlot, Input};
use insula_resources::{CgroupSteps, Limits, StartGroups, devices};

use crate::dev::dev_steps;
use crate::etc::{etc_steps, layer_place};
use crate::process::host_name;
use crate::program::{image_init, insula_init, privilege_steps};
use crate::request::{GivenFd, Network, PlanStartError, StartPlan, StartRequest, Storage};
use crate::root::{Steps, place_steps, root_steps, store_steps, volume_steps};
use crate::slots::SlotAllocator;
use crate::views::{GroupView, group_step, kernel_steps, protection_steps, setting_steps};

/// Inputs of a plan by what they are for; all are named before any step.
struct Inputs {
    image: FdSlot,
    software: FdSlot,
    storage: StorageInputs,
    host_sys: Option<FdSlot>,
    volumes: Vec<FdSlot>,
    /// Our process 1; the image's own comes later, on a console that a step makes.
    exec: Option<Exec>,
}

/// Where persistent files are.
enum StorageInputs {
    Directories { data: FdSlot, layer: Option<FdSlot> },
    Disk { file: FdSlot },
}

/// Persistent places of a container, when what they are in is mounted.
struct Stored {
    data: At,
    layer: Option<At>,
    /// Mounts it.
    disk: Option<DiskStep>,
}

/// Makes the plan of a container's start.
///
/// # Errors
///
/// See [`PlanStartError`]; nothing was done.
pub fn plan_start(request: &StartRequest<'_>) -> Result<StartPlan, PlanStartError> {
    let kind = request.spec.init_kind(request.config);
    let groups = group_steps(request, kind)?;
    let mut slots = SlotAllocator::default();
    let inputs = inputs(request, kind, &mut slots)?;
    let mut steps = Steps::default();
    let stored = stored(request, &mut slots, &inputs.storage);
    let root = root_steps(request, &mut slots, (inputs.image, stored.layer.as_ref()), &mut steps);
    kernel_steps(&mut slots, inputs.host_sys, &mut steps);
    dev_steps(request, &mut slots, &mut steps);
    let etc = match &stored.layer {
        Some(layer) => Some(layer_place(layer, root, &mut steps)),
        None => place_steps(request, &mut slots, root, &mut steps),
    };
    etc_steps(request, &mut slots, etc, &mut steps)?;
    store_steps(&mut slots, (&stored.data, inputs.software), &mut steps);
    volume_steps(request, &mut slots, &inputs.volumes, &mut steps);
    let (link_outside, link_inside) = link_steps(request);
    let mut outside: Vec<HostStep> = link_outside.into_iter().map(HostStep::Link).collect();
    // Overlays are mounted after the files below them were written, in the order in which the parts named them.
    outside.extend(overlays_last(steps.outside));
    outside.extend(groups.leave.into_iter().map(HostStep::Cgroup));
    let mut inside = vec![
        InsideStep::UnshareCgroup,
        InsideStep::HostName { name: host_name(request.name, request.spec).to_owned() },
    ];
    inside.extend(link_inside.into_iter().map(InsideStep::Link));
    inside.push(InsideStep::EnterRoot { mount: root.root });
    inside.extend(steps.inside);
    let exec = finish_inside(request, kind, (&mut slots, inputs.exec), &mut inside)?;
    let join = (kind == InitKind::Image).then(|| join(request)).transpose()?;
    let (plan_inputs, given) = slots.into_inputs();
    let plan = Plan {
        version: PLAN_VERSION,
        container: request.id,
        inputs: plan_inputs,
        before: (stored.disk.into_iter().map(HostStep::Disk))
            .chain(groups.before.into_iter().chain(groups.enter).map(HostStep::Cgroup))
            .collect(),
        spawn: Spawn {
            namespaces: namespaces(request),
            id_base: request.ids.base,
            id_count: request.ids.size,
            cgroup: groups.spawn,
        },
        outside,
        inside,
        exec,
        join,
    };
    Ok(StartPlan { plan, given })
}

fn inputs(request: &StartRequest<'_>, kind: InitKind, slots: &mut SlotAllocator) -> Result<Inputs, PlanStartError> {
    let writable = request.spec.root_access(request.config) == RootAccess::Writable;
    let image = slots.input(Input::ImageMount { key: request.image.clone() });
    let software = slots.given(GivenFd::Software);
    let storage = match request.storage {
        Storage::Disk => StorageInputs::Disk { file: slots.given(GivenFd::Disk) },
        Storage::Directories => StorageInputs::Directories {
            data: slots.given(GivenFd::Data),
            layer: writable.then(|| slots.given(GivenFd::Layer)),
        },
    };
    let host_sys = matches!(request.network, Network::Host).then(|| slots.given(GivenFd::HostSys));
    let volumes = (0..request.spec.volumes.len()).map(|index| slots.mount(GivenFd::Volume(index))).collect();
    let exec = match kind {
        InitKind::Insula => Some(insula_init(request, slots)?),
        InitKind::Image => None,
    };
    Ok(Inputs { image, software, storage, host_sys, volumes, exec })
}

fn stored(request: &StartRequest<'_>, slots: &mut SlotAllocator, inputs: &StorageInputs) -> Stored {
    match *inputs {
        StorageInputs::Directories { data, layer } => {
            Stored { data: At::root(data), layer: layer.map(At::root), disk: None }
        }
        StorageInputs::Disk { file } => {
            let into = slots.make();
            let writable = request.spec.root_access(request.config) == RootAccess::Writable;
            Stored {
                data: At::new(into, "data"),
                layer: writable.then(|| At::new(into, "layer")),
                disk: Some(DiskStep { file, into }),
            }
        }
    }
}

/// Everything inside that comes after the mounts: settings, protections, console, and what is given up.
fn finish_inside(
    request: &StartRequest<'_>,
    kind: InitKind,
    (slots, exec): (&mut SlotAllocator, Option<Exec>),
    inside: &mut Vec<InsideStep>,
) -> Result<Exec, PlanStartError> {
    let own_network = !matches!(request.network, Network::Host);
    inside.extend(setting_steps(request.spec, own_network));
    if !request.rights.privileged {
        inside.extend(protection_steps());
    }
    let view = if kind == InitKind::Image { GroupView::Delegated } else { GroupView::ReadOnly };
    inside.extend(request.host.groups.layout().unified.as_ref().map(|_| group_step(view)));
    let exec = match exec {
        Some(exec) => exec,
        None => {
            let console = slots.make();
            inside.push(InsideStep::Console { target: "/dev/console".to_owned(), into: console });
            image_init(request, request.config, console)?
        }
    };
    inside.push(InsideStep::LeaveHost);
    inside.extend(privilege_steps(request, kind)?.into_iter().map(InsideStep::Privilege));
    Ok(exec)
}

fn group_steps(request: &StartRequest<'_>, kind: InitKind) -> Result<CgroupSteps, PlanStartError> {
    let mut rules = devices::default_rules();
    rules.extend(request.spec.devices.iter().zip(request.devices).map(|(asked, node)| DeviceRule {
        kind: match node.device.kind {
            insula_plan::host_step::DeviceKind::Block => DeviceKind::Block,
            insula_plan::host_step::DeviceKind::Character => DeviceKind::Character,
        },
        major: Some(node.device.major),
        minor: Some(node.device.minor),
        access: device_access(&asked.access),
    }));
    let start = StartGroups {
        container: request.id,
        limits: &Limits::resolve(&request.spec.resources),
        devices: &rules,
        delegate_to: (kind == InitKind::Image).then_some(request.ids),
    };
    request.host.groups.start_steps(&start).map_err(PlanStartError::Devices)
}

fn device_access(letters: &str) -> DeviceAccess {
    let all = [('r', DeviceAccess::READ), ('w', DeviceAccess::WRITE), ('m', DeviceAccess::MKNOD)];
    all.into_iter().filter(|(letter, _)| letters.contains(*letter)).map(|(_, access)| access).collect()
}

fn link_steps(request: &StartRequest<'_>) -> (Vec<LinkStep>, Vec<LinkStep>) {
    match request.network {
        Network::Routed(node, container) => {
            let steps = node.start_steps(container);
            (steps.outside, steps.inside)
        }
        Network::Loopback => {
            let steps = insula_network::NodeNetwork::start_steps_without_network();
            (steps.outside, steps.inside)
        }
        Network::Host => (Vec::new(), Vec::new()),
    }
}

fn namespaces(request: &StartRequest<'_>) -> NamespaceSet {
    match request.network {
        Network::Host => NamespaceSet::ALL.without(NamespaceSet::NET),
        Network::Routed(..) | Network::Loopback => NamespaceSet::ALL,
    }
}

fn join(request: &StartRequest<'_>) -> Result<Join, PlanStartError> {
    let groups = request.host.groups.join(request.id, true);
    let mut attach = groups.enter;
    attach.extend(groups.spawn.map(|dir| CgroupStep::Enter { dir }));
    Ok(Join { attach, privileges: privilege_steps(request, InitKind::Image)? })
}

/// Mounts an overlay only after every file below it was written: its upper must not be changed under it.
fn overlays_last(steps: Vec<HostStep>) -> Vec<HostStep> {
    use insula_plan::host_step::MountStep;
    let (overlays, mut rest): (Vec<_>, Vec<_>) =
        steps.into_iter().partition(|step| matches!(step, HostStep::Mount(MountStep::Overlay { .. })));
    rest.extend(overlays);
    rest
}
