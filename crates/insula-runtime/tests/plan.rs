//! Plans of starts: whatever is asked for, a plan is consistent, bounded, and does what the request says.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "a test program")]

use std::collections::BTreeSet;
use std::path::Path;

use insula_kernel::seccomp::Filter;
use insula_model::{
    ContainerId, ContainerName, ContainerSpec, IdRange, ImageConfig, InitKind, MountPlan, NetworkMode, NodeName,
    RootAccess,
};
use insula_network::{ContainerAddresses, ContainerNetwork, NetworkConfig, NodeNetwork, Subnets};
use insula_plan::cgroup::CgroupStep;
use insula_plan::host_step::{FileStep, HostStep, IdShift, LayerNames, MountAttributes, MountStep};
use insula_plan::inside_step::{Filesystem, InsideStep, Missing};
use insula_plan::link::Presence;
use insula_plan::plan::{NamespaceSet, Plan, Program};
use insula_plan::privilege::PrivilegeStep;
use insula_plan::protocol::launcher::ImageKey;
use insula_plan::slot::{At, FdSlot};
use insula_resources::{CgroupLayout, NodeGroups};
use insula_runtime::{
    EtcFiles, GivenFd, HostFacts, MainStreams, Network, Owner, PlanStartError, Rights, StartPlan, StartRequest,
    Storage, VolumeKind, VolumeSource, plan_start, seccomp_profile,
};

/// Mounts of a machine with version 2 alone.
const MOUNTINFO: &str = "30 25 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";

struct World {
    name: ContainerName,
    spec: ContainerSpec,
    config: ImageConfig,
    mount_plan: MountPlan,
    volumes: Vec<VolumeSource>,
    storage: Storage,
    groups: NodeGroups,
    network: NodeNetwork,
    container: ContainerNetwork,
}

impl World {
    fn new() -> Self {
        let node: NodeName = "test".parse().unwrap();
        let id: ContainerId = "12345678-9abc-4def-8123-456789abcdef".parse().unwrap();
        let config = NetworkConfig::standard();
        let subnets = Subnets { ipv4: "10.87.0.0/20".parse().unwrap(), ipv6: None };
        let mut spec = ContainerSpec::new("debian@12".parse().unwrap());
        spec.command = vec!["true".to_owned()];
        Self {
            name: "web".parse().unwrap(),
            spec,
            config: ImageConfig::default(),
            mount_plan: MountPlan::default_plan(),
            volumes: Vec::new(),
            storage: Storage::Directories,
            groups: NodeGroups::new(CgroupLayout::from_mountinfo(MOUNTINFO), node.clone()),
            network: NodeNetwork::new(node, &config, subnets, Presence::Present),
            container: ContainerNetwork {
                id,
                addresses: ContainerAddresses { ipv4: "10.87.0.2".parse().unwrap(), ipv6: None },
                ports: vec!["8080:80".parse().unwrap()],
            },
        }
    }

    fn plan_with_filter(&self, filter: Option<&Filter>) -> Result<StartPlan, PlanStartError> {
        let network = match self.spec.network {
            NetworkMode::Default => Network::Routed(&self.network, &self.container),
            NetworkMode::None => Network::Loopback,
            NetworkMode::Host => Network::Host,
        };
        let full_init = self.spec.init == Some(InitKind::Image);
        let plan = plan_start(&StartRequest {
            id: self.container.id,
            name: &self.name,
            spec: &self.spec,
            config: &self.config,
            mount_plan: &self.mount_plan,
            image: ImageKey("abc".to_owned()),
            ids: IdRange { base: 1 << 20, size: IdRange::SIZE },
            rights: Rights::resolve(&self.spec, full_init).unwrap(),
            filter,
            network,
            storage: self.storage,
            etc: EtcFiles { resolv_conf: "nameserver 10.87.0.1\n", hosts: "127.0.0.1 localhost\n" },
            volumes: &self.volumes,
            devices: &[],
            streams: MainStreams::Given,
            held: &[],
            host: HostFacts {
                groups: &self.groups,
                layers: LayerNames::Descriptors,
                files_soft: 1_024,
                files_hard: 524_288,
            },
        })?;
        check_slots(&plan);
        Ok(plan)
    }

    fn plan(&self) -> Plan {
        self.plan_with_filter(None).unwrap().plan
    }
}

/// Slots that a step reads, and the one it fills.
fn uses(step: &HostStep) -> (Vec<FdSlot>, Option<FdSlot>) {
    let shift = |idmap: &IdShift| if let IdShift::By(slot) = idmap { vec![*slot] } else { Vec::new() };
    let bases = |places: &[&At]| places.iter().map(|at| at.base).collect::<Vec<_>>();
    match step {
        HostStep::Mount(MountStep::Clone { from, idmap, into, .. }) => {
            ([bases(&[from]), shift(idmap)].concat(), Some(*into))
        }
        HostStep::Mount(MountStep::Change { mount, idmap, .. }) => ([vec![*mount], shift(idmap)].concat(), None),
        HostStep::Mount(MountStep::Memory { into, .. } | MountStep::IdMap { into, .. }) => (Vec::new(), Some(*into)),
        HostStep::Mount(MountStep::Overlay { overlay, into }) => {
            (bases(&[&overlay.lower, &overlay.upper, &overlay.work]), Some(*into))
        }
        HostStep::File(FileStep::Like { model, at }) => (bases(&[model, at]), None),
        HostStep::File(
            FileStep::Dir { at, .. }
            | FileStep::File { at, .. }
            | FileStep::Link { at, .. }
            | FileStep::Device { at, .. },
        ) => (bases(&[at]), None),
        HostStep::Disk(step) => (vec![step.file], Some(step.into)),
        HostStep::Cgroup(_) | HostStep::Link(_) => (Vec::new(), None),
    }
}

/// Every slot is filled once, and before it is read.
fn check_slots(start: &StartPlan) {
    let plan = &start.plan;
    assert_eq!(start.given.len(), plan.given_count());
    let mut filled: BTreeSet<FdSlot> =
        (0..plan.inputs.len()).map(|slot| FdSlot(u16::try_from(slot).unwrap())).collect();
    for step in plan.before.iter().chain(&plan.outside) {
        let (reads, fills) = uses(step);
        assert!(reads.iter().all(|slot| filled.contains(slot)), "{step:?} reads an empty slot");
        assert!(fills.is_none_or(|slot| filled.insert(slot)), "{step:?} fills a taken slot");
    }
    for step in &plan.inside {
        let (read, fills) = match step {
            InsideStep::EnterRoot { mount } | InsideStep::Attach { mount, .. } => (Some(mount), None),
            InsideStep::Console { into, .. } => (None, Some(*into)),
            _ => (None, None),
        };
        assert!(read.is_none_or(|slot| filled.contains(slot)), "{step:?} reads an empty slot");
        assert!(fills.is_none_or(|slot| filled.insert(slot)), "{step:?} fills a taken slot");
    }
    assert!(plan.exec.fds.iter().all(|slot| filled.contains(slot)));
    assert_eq!(&Plan::decode(&plan.encode()).unwrap(), plan);
}

fn attached(plan: &Plan, target: &str) -> Option<Missing> {
    plan.inside.iter().find_map(|step| match step {
        InsideStep::Attach { target: found, missing, .. } if found == target => Some(*missing),
        _ => None,
    })
}

#[test]
fn a_start_has_the_places_of_the_image_data_and_software() {
    let plan = World::new().plan();
    for target in ["/etc", "/var", "/tmp", "/run", "/root", "/home", "/data", "/sw", "/dev"] {
        assert_eq!(attached(&plan, target), Some(Missing::Refuse), "{target}");
    }
    assert!(matches!(plan.exec.program, Program::Slot(_)));
    assert_eq!(plan.exec.fds.len(), 9);
    assert_eq!(plan.spawn.namespaces, NamespaceSet::ALL);
}

#[test]
fn the_host_is_left_and_rights_are_given_up_last() {
    let world = World::new();
    let filter = seccomp_profile::filter(insula_kernel::capability::CapabilitySet::CONTAINER_DEFAULT).unwrap();
    let plan = world.plan_with_filter(Some(&filter)).unwrap().plan;
    let leave = plan.inside.iter().position(|step| matches!(step, InsideStep::LeaveHost)).unwrap();
    let after = &plan.inside[leave + 1..];
    assert!(after.iter().all(|step| matches!(step, InsideStep::Privilege(_))), "{after:?}");
    assert!(matches!(after.last(), Some(InsideStep::Privilege(PrivilegeStep::InstallFilter { .. }))));
    let proc =
        plan.inside.iter().position(|step| matches!(step, InsideStep::Mount { filesystem: Filesystem::Proc, .. }));
    assert!(proc.unwrap() < leave, "the kernel mounts procfs only while the host's is in sight");
    assert!(matches!(plan.inside.first(), Some(InsideStep::UnshareCgroup)));
}

#[test]
fn generated_files_are_written_before_an_overlay_is_mounted_over_them() {
    let plan = World::new().plan();
    let last_file = plan.outside.iter().rposition(|step| matches!(step, HostStep::File(_))).unwrap();
    let first_overlay =
        plan.outside.iter().position(|step| matches!(step, HostStep::Mount(MountStep::Overlay { .. }))).unwrap();
    assert!(last_file < first_overlay);
    let names: Vec<_> = plan
        .outside
        .iter()
        .filter_map(|step| match step {
            HostStep::File(FileStep::File { at, .. }) => at.path.file_name()?.to_str(),
            _ => None,
        })
        .collect();
    assert_eq!(names, ["hostname", "hosts", "resolv.conf", "machine-id"]);
}

#[test]
fn the_worker_is_in_the_containers_groups_when_it_clones_and_out_of_them_at_the_end() {
    let plan = World::new().plan();
    assert_eq!(
        plan.spawn.cgroup.as_deref(),
        Some(Path::new("/sys/fs/cgroup/insula.slice/test/12345678-9abc-4def-8123-456789abcdef"))
    );
    assert!(plan.before.iter().any(|step| matches!(step, HostStep::Cgroup(CgroupStep::MakeDir { .. }))));
}

#[test]
fn a_writable_root_is_one_durable_overlay_and_has_no_places() {
    let mut world = World::new();
    world.spec.root = Some(RootAccess::Writable);
    let start = world.plan_with_filter(None).unwrap();
    assert!(start.given.contains(&GivenFd::Layer));
    assert_eq!(attached(&start.plan, "/var"), None);
    let overlays = start.plan.outside.iter().filter(|step| matches!(step, HostStep::Mount(MountStep::Overlay { .. })));
    assert_eq!(overlays.count(), 1);
}

#[test]
fn a_disk_is_mounted_before_the_device_rules_and_holds_data_and_layer() {
    let mut world = World::new();
    world.spec.root = Some(RootAccess::Writable);
    world.storage = Storage::Disk;
    let start = world.plan_with_filter(None).unwrap();
    assert!(start.given.contains(&GivenFd::Disk));
    assert!(!start.given.contains(&GivenFd::Data) && !start.given.contains(&GivenFd::Layer));
    let HostStep::Disk(disk) = &start.plan.before[0] else { panic!("{:?}", start.plan.before[0]) };
    let cloned: Vec<&str> = start
        .plan
        .outside
        .iter()
        .filter_map(|step| match step {
            HostStep::Mount(MountStep::Clone { from, .. }) if from.base == disk.into => from.path.to_str(),
            _ => None,
        })
        .collect();
    assert_eq!(cloned, ["layer", "data"]);
    assert!(attached(&start.plan, "/data").is_some());
}

#[test]
fn a_volume_is_made_a_target_only_where_the_container_could_make_one_itself() {
    let mut world = World::new();
    world.spec.volumes = vec!["/srv/a:/var/a".parse().unwrap(), "/srv/b:/opt/b:ro".parse().unwrap()];
    let source = |uid| VolumeSource { owner: Owner { uid, gid: uid }, kind: VolumeKind::Directory };
    world.volumes = vec![source(0), source(1000)];
    let plan = world.plan();
    assert_eq!(attached(&plan, "/var/a"), Some(Missing::Make));
    assert_eq!(attached(&plan, "/opt/b"), Some(Missing::Refuse));
    let changes: Vec<_> = plan
        .outside
        .iter()
        .filter_map(|step| match step {
            HostStep::Mount(MountStep::Change { attributes, idmap, .. }) => Some((*attributes, *idmap)),
            _ => None,
        })
        .collect();
    let shared = MountAttributes::NO_DEV.and(MountAttributes::NO_SUID);
    assert!(changes.contains(&(shared, IdShift::Container)));
    let other_owner = changes.iter().find(|(_, idmap)| matches!(idmap, IdShift::By(_))).unwrap();
    assert_eq!(other_owner.0, shared.and(MountAttributes::READ_ONLY));
}

#[test]
fn the_hosts_network_is_shared_only_when_asked_for() {
    let mut world = World::new();
    world.spec.network = NetworkMode::Host;
    let start = world.plan_with_filter(None).unwrap();
    assert!(!start.plan.spawn.namespaces.contains(NamespaceSet::NET));
    assert!(start.given.contains(&GivenFd::HostSys));
    world.spec.network = NetworkMode::None;
    assert!(world.plan().spawn.namespaces.contains(NamespaceSet::NET));
}

#[test]
fn an_images_init_gets_a_console_and_can_be_joined() {
    let mut world = World::new();
    world.spec.command.clear();
    world.config.init = Some("/sbin/init".to_owned());
    let plan = world.plan();
    assert!(matches!(&plan.exec.program, Program::Path(path) if path.as_c_str() == c"/sbin/init"));
    assert!(plan.join.is_some());
    assert!(plan.inside.iter().any(|step| matches!(step, InsideStep::Console { .. })));
    let environment: Vec<_> = plan.exec.env.iter().filter_map(|line| line.to_str().ok()).collect();
    assert!(environment.contains(&"container_uuid=123456789abc4def8123456789abcdef"), "{environment:?}");
}

#[test]
fn an_image_that_names_no_init_is_booted_by_the_usual_one_when_asked() {
    let mut world = World::new();
    world.spec.init = Some(InitKind::Image);
    let plan = world.plan();
    assert!(matches!(&plan.exec.program, Program::Path(path) if path.as_c_str() == c"/sbin/init"));
}

#[test]
fn contradictions_are_refused_before_anything_is_done() {
    let mut world = World::new();
    world.spec.command.clear();
    assert!(matches!(world.plan_with_filter(None), Err(PlanStartError::NoCommand)));
    let mut world = World::new();
    world.spec.timezone = Some("../../etc/shadow".to_owned());
    assert!(matches!(world.plan_with_filter(None), Err(PlanStartError::TimeZone { .. })));
}
