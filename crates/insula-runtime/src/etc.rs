//! Files that are written for a container at each start: names, name servers, time zone, machine id.

use insula_plan::host_step::{Depth, FileStep, HostStep, IdShift, MountAttributes, MountStep, Owner, Tmpfs};
use insula_plan::inside_step::Missing;
use insula_plan::slot::At;

use crate::process::host_name;
use crate::request::{PlanStartError, StartRequest};
use crate::root::{EtcPlace, RootSlots, Steps, range_root};
use crate::slots::SlotAllocator;

/// Room for the files where `/etc` itself is not writable.
const FILES_BYTES: u64 = 1 << 20;

/// Names and contents of the generated files.
fn files(request: &StartRequest<'_>) -> Vec<(&'static str, Vec<u8>)> {
    let name = host_name(request.name, request.spec);
    let mut files = vec![
        ("hostname", format!("{name}\n").into_bytes()),
        ("hosts", request.etc.hosts.as_bytes().to_vec()),
        ("resolv.conf", request.etc.resolv_conf.as_bytes().to_vec()),
        ("machine-id", format!("{}\n", request.id.as_uuid().simple()).into_bytes()),
    ];
    if let Some(zone) = time_zone(request) {
        files.push(("timezone", format!("{zone}\n").into_bytes()));
    }
    files
}

fn time_zone<'a>(request: &'a StartRequest<'_>) -> Option<&'a String> {
    request.spec.timezone.as_ref().or(request.config.timezone.as_ref())
}

/// A zone's name is part of a link's target: it must not lead out of the image's zones.
fn check_time_zone(zone: &str) -> Result<(), PlanStartError> {
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "_+-.".contains(c))
    };
    if zone.split('/').all(plain) { Ok(()) } else { Err(PlanStartError::TimeZone { given: zone.to_owned() }) }
}

/// Writes the files where `/etc` can be written before it is mounted, or mounts each over the image's one.
pub(crate) fn etc_steps(
    request: &StartRequest<'_>,
    slots: &mut SlotAllocator,
    etc: Option<EtcPlace>,
    steps: &mut Steps,
) -> Result<(), PlanStartError> {
    if let Some(zone) = time_zone(request) {
        check_time_zone(zone)?;
    }
    match etc {
        Some(place) => write_into(request, &place, steps),
        None => mount_over(request, slots, steps),
    }
    Ok(())
}

fn write_into(request: &StartRequest<'_>, place: &EtcPlace, steps: &mut Steps) {
    let at = |name: &str| At { base: place.at.base, path: place.at.path.join(name) };
    for (name, content) in files(request) {
        steps.file(FileStep::File { at: at(name), mode: 0o644, owner: place.owner, content });
    }
    if let Some(zone) = time_zone(request) {
        let target = format!("/usr/share/zoneinfo/{zone}").into();
        steps.file(FileStep::Link { at: at("localtime"), target, owner: place.owner });
    }
}

/// Only over files that the image has: its root cannot be written.
fn mount_over(request: &StartRequest<'_>, slots: &mut SlotAllocator, steps: &mut Steps) {
    let memory = slots.make();
    let owner = range_root(request);
    let attributes = MountAttributes::NO_DEV.and(MountAttributes::NO_SUID).and(MountAttributes::NO_EXEC);
    steps.memory(memory, Tmpfs { size: FILES_BYTES, inodes: 16, mode: 0o755, owner, attributes });
    for (name, content) in files(request) {
        let mount = slots.make();
        steps.file(FileStep::File { at: At::new(memory, name), mode: 0o644, owner, content });
        steps.outside.push(HostStep::Mount(MountStep::Clone {
            from: At::new(memory, name),
            depth: Depth::One,
            attributes,
            idmap: IdShift::None,
            into: mount,
        }));
        steps.attach(mount, &format!("/etc/{name}"), Missing::Skip);
    }
}

/// Where files for `/etc` go when the whole root is writable: into the persistent layer, whose ids are unshifted.
pub(crate) fn layer_place(layer: &At, root: RootSlots, steps: &mut Steps) -> EtcPlace {
    let owner = Owner { uid: 0, gid: 0 };
    let at = layer.below("u/etc");
    steps.file(FileStep::Dir { at: at.clone(), mode: 0o755, owner });
    steps.file(FileStep::Like { model: At::new(root.image, "etc"), at: at.clone() });
    EtcPlace { at, owner }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_stays_among_the_zones() {
        for good in ["UTC", "Europe/Rome", "America/Argentina/Buenos_Aires", "Etc/GMT+1"] {
            check_time_zone(good).unwrap();
        }
        for bad in ["", "/UTC", "../shadow", "a/../b", "a//b", "a b", "a\0"] {
            assert!(check_time_zone(bad).is_err(), "{bad}");
        }
    }
}
