//! The root of a container, its writable places and what else is mounted into it.

use insula_model::{Access, Bytes, Place, PlaceContent, RootAccess};
use insula_plan::host_step::{
    Depth, Durability, FileStep, HostStep, IdExtent, IdShift, LayerNames, MountAttributes, MountStep, Overlay,
    OverlayWorker, Owner, Tmpfs,
};
use insula_plan::inside_step::{InsideStep, Missing};
use insula_plan::slot::{At, FdSlot};

use crate::request::{StartRequest, VolumeKind, VolumeSource};
use crate::slots::SlotAllocator;

/// Attributes of everything that holds foreign files: no device works there. Set-user-id bits do: they lead to a user
/// of the container's own range and no further.
const PLACE: MountAttributes = MountAttributes::NO_DEV;

/// Attributes of what is shared with the host: neither devices nor set-user-id bits work.
const SHARED: MountAttributes = MountAttributes::NO_DEV.and(MountAttributes::NO_SUID);

/// Slots that the parts of a plan share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RootSlots {
    /// The launcher's mount of the image, unshifted.
    pub(crate) image: FdSlot,
    /// The image, shifted and read-only.
    pub(crate) shifted: FdSlot,
    /// What becomes `/`.
    pub(crate) root: FdSlot,
}

/// Where files for `/etc` can be put before it is mounted.
#[derive(Debug, Clone)]
pub(crate) struct EtcPlace {
    /// Directory that becomes the top of `/etc`.
    pub(crate) at: At,
    /// Who owns files there, in ids of the host.
    pub(crate) owner: Owner,
}

/// Steps that are still being put together.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    /// On the host.
    pub(crate) outside: Vec<HostStep>,
    /// Inside, after the root was entered.
    pub(crate) inside: Vec<InsideStep>,
}

impl Steps {
    fn mount(&mut self, step: MountStep) {
        self.outside.push(HostStep::Mount(step));
    }

    pub(crate) fn file(&mut self, step: FileStep) {
        self.outside.push(HostStep::File(step));
    }

    pub(crate) fn attach(&mut self, mount: FdSlot, target: &str, missing: Missing) {
        self.inside.push(InsideStep::Attach { mount, target: target.to_owned(), missing });
    }

    pub(crate) fn memory(&mut self, into: FdSlot, tmpfs: Tmpfs) {
        self.mount(MountStep::Memory { tmpfs, into });
    }
}

/// The container's root on the host.
pub(crate) fn range_root(request: &StartRequest<'_>) -> Owner {
    Owner { uid: request.ids.base, gid: request.ids.base }
}

fn shifted(from: At, attributes: MountAttributes, into: FdSlot) -> MountStep {
    MountStep::Clone { from, depth: Depth::One, attributes, idmap: IdShift::Container, into }
}

/// The root: a shifted clone of the image's one mount, or an overlay over that.
///
/// `layer` is the container's persistent place for a writable root.
pub(crate) fn root_steps(
    request: &StartRequest<'_>,
    slots: &mut SlotAllocator,
    (image, layer): (FdSlot, Option<&At>),
    steps: &mut Steps,
) -> RootSlots {
    let clone = slots.make();
    let read_only = MountAttributes::READ_ONLY.and(PLACE);
    steps.mount(shifted(At::root(image), read_only, clone));
    let Some(layer) = layer else { return RootSlots { image, shifted: clone, root: clone } };
    // On disk ids stay unshifted, so directories are made before the layer is shifted: nobody is root after that.
    let root = Owner { uid: 0, gid: 0 };
    for name in ["u", "w"] {
        steps.file(FileStep::Dir { at: layer.below(name), mode: 0o755, owner: root });
    }
    let (moved, merged) = (slots.make(), slots.make());
    steps.mount(shifted(layer.clone(), PLACE, moved));
    steps.mount(MountStep::Overlay {
        overlay: Overlay {
            lower: At::root(clone),
            upper: At::new(moved, "u"),
            work: At::new(moved, "w"),
            durability: Durability::Durable,
            worker: OverlayWorker::ContainerRoot,
            layers: request.host.layers,
            attributes: PLACE,
        },
        into: merged,
    });
    RootSlots { image, shifted: clone, root: merged }
}

/// The writable places of the image's mount plan; the place of `/etc` is returned, where files can be put.
pub(crate) fn place_steps(
    request: &StartRequest<'_>,
    slots: &mut SlotAllocator,
    root: RootSlots,
    steps: &mut Steps,
) -> Option<EtcPlace> {
    let mut etc = None;
    for place in &request.mount_plan.places {
        let memory = slots.make();
        let relative = place.path.trim_start_matches('/');
        match place.content {
            PlaceContent::Empty => {
                steps.memory(memory, place_memory(request, place, MountAttributes::NO_SUID.and(PLACE)));
                let model = At::new(root.shifted, relative);
                steps.file(FileStep::Like { model, at: At::root(memory) });
                steps.attach(memory, &place.path, Missing::Refuse);
            }
            PlaceContent::Defaults => {
                steps.memory(memory, place_memory(request, place, PLACE));
                let overlay = overlay_place(request, slots, (root, memory, relative), steps);
                steps.attach(overlay, &place.path, Missing::Refuse);
                if place.path == "/etc" {
                    etc = Some(EtcPlace { at: At::new(memory, "u"), owner: range_root(request) });
                }
            }
        }
    }
    etc
}

fn place_memory(request: &StartRequest<'_>, place: &Place, attributes: MountAttributes) -> Tmpfs {
    let inodes = u64::from(place.inodes);
    Tmpfs { size: place.size.0, inodes, mode: 0o755, owner: range_root(request), attributes }
}

/// An overlay of memory over a directory of the image. The upper needs no shift: it dies with the container, so it
/// simply belongs to the range.
fn overlay_place(
    request: &StartRequest<'_>,
    slots: &mut SlotAllocator,
    (root, memory, relative): (RootSlots, FdSlot, &str),
    steps: &mut Steps,
) -> FdSlot {
    let overlay = slots.make();
    let owner = range_root(request);
    let lower = match request.host.layers {
        // The kernel clones what it is given, also a directory of a mount that is attached nowhere.
        LayerNames::Descriptors => At::new(root.shifted, relative),
        LayerNames::Paths => {
            let clone = slots.make();
            steps.mount(shifted(At::new(root.image, relative), MountAttributes::READ_ONLY.and(PLACE), clone));
            At::root(clone)
        }
    };
    for name in ["u", "w"] {
        steps.file(FileStep::Dir { at: At::new(memory, name), mode: 0o700, owner });
    }
    steps.file(FileStep::Like { model: At::new(root.shifted, relative), at: At::new(memory, "u") });
    steps.mount(MountStep::Overlay {
        overlay: Overlay {
            lower,
            upper: At::new(memory, "u"),
            work: At::new(memory, "w"),
            durability: Durability::Volatile,
            worker: OverlayWorker::HostRoot,
            layers: request.host.layers,
            attributes: PLACE,
        },
        into: overlay,
    });
    overlay
}

/// `/data` and `/sw`.
pub(crate) fn store_steps(slots: &mut SlotAllocator, (data, software): (&At, FdSlot), steps: &mut Steps) {
    let root = Owner { uid: 0, gid: 0 };
    steps.file(FileStep::Dir { at: data.below("service"), mode: 0o755, owner: root });
    let (data_mount, software_mount) = (slots.make(), slots.make());
    steps.mount(shifted(data.clone(), SHARED, data_mount));
    steps.mount(shifted(At::root(software), SHARED.and(MountAttributes::READ_ONLY), software_mount));
    steps.attach(data_mount, "/data", Missing::Refuse);
    steps.attach(software_mount, "/sw", Missing::Refuse);
}

/// Volumes and further file systems in memory, in the order of their targets' depth so that one may lie in another.
pub(crate) fn volume_steps(
    request: &StartRequest<'_>,
    slots: &mut SlotAllocator,
    sources: &[FdSlot],
    steps: &mut Steps,
) {
    for tmpfs in &request.spec.tmpfs {
        let memory = slots.make();
        let Bytes(size) = tmpfs.size;
        let attributes = MountAttributes::NO_SUID.and(PLACE);
        steps.memory(memory, Tmpfs { size, inodes: 0, mode: tmpfs.mode, owner: range_root(request), attributes });
        steps.attach(memory, &tmpfs.target, missing_at(request, &tmpfs.target));
    }
    let mut volumes: Vec<_> = request.spec.volumes.iter().zip(request.volumes).zip(sources).collect();
    volumes.sort_by_key(|((volume, _), _)| volume.target.matches('/').count());
    for ((volume, source), &mount) in volumes {
        let access = match volume.access {
            Access::ReadOnly => MountAttributes::READ_ONLY,
            Access::ReadWrite => MountAttributes::NONE,
        };
        let idmap = volume_shift(request, slots, source, steps);
        let attributes = SHARED.and(access);
        steps.mount(MountStep::Change { mount, source: volume.source.clone(), attributes, idmap });
        let missing = match source.kind {
            VolumeKind::Directory | VolumeKind::File => missing_at(request, &volume.target),
        };
        steps.attach(mount, &volume.target, missing);
    }
}

/// The container's root acts as the source's owner. For root's own sources all ids are shifted alike; for another
/// owner everybody else of the container keeps the ids of its range, and nobody becomes root of the host.
fn volume_shift(
    request: &StartRequest<'_>,
    slots: &mut SlotAllocator,
    source: &VolumeSource,
    steps: &mut Steps,
) -> IdShift {
    if source.owner.uid == 0 && source.owner.gid == 0 {
        return IdShift::Container;
    }
    let extents = |owner: u32| {
        let rest = request.ids.base + 1;
        vec![
            IdExtent { disk: owner, host: request.ids.base, count: 1 },
            IdExtent { disk: rest, host: rest, count: request.ids.size - 1 },
        ]
    };
    let into = slots.make();
    steps.mount(MountStep::IdMap { uids: extents(source.owner.uid), gids: extents(source.owner.gid), into });
    IdShift::By(into)
}

/// A missing target is made where the container could make it itself, and refused elsewhere.
fn missing_at(request: &StartRequest<'_>, target: &str) -> Missing {
    let below = |path: &str| target.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
    let places = request.mount_plan.places.iter().map(|place| place.path.as_str());
    let tmpfs = request.spec.tmpfs.iter().map(|tmpfs| tmpfs.target.as_str());
    let writable = match request.spec.root_access(request.config) {
        RootAccess::Writable => true,
        RootAccess::ReadOnly => places.chain(tmpfs).chain(["/data", "/dev"]).any(below),
    };
    if writable { Missing::Make } else { Missing::Refuse }
}
