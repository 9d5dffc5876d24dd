//! Starts that are refused or fail: by name, and with nothing left on the host, whichever step it was.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "a test program")]

mod harness;

use std::path::Path;

use harness::{Node, Planned, Start, id, shell};
use insula_model::{ContainerId, ContainerSpec, ImageConfig, RootAccess};
use insula_plan::cgroup::{CgroupStep, IfAbsent};
use insula_plan::host_step::{FileStep, HostStep};
use insula_plan::inside_step::{InsideStep, Missing};
use insula_plan::plan::{Plan, Program};
use insula_plan::protocol::failure::{Failure, FailureKind};
use insula_plan::protocol::launcher::{ImageKey, LauncherError};
use insula_plan::protocol::status::ExitStatus;
use insula_plan::slot::FdSlot;
use insula_runtime::{Owner, VolumeKind, VolumeSource};

/// Has a changed plan carried out, which must fail; nothing is left afterwards.
fn fails(node: &mut Node, key: &ImageKey, id: ContainerId, change: impl FnOnce(&mut Plan)) -> Failure {
    let spec = shell("true");
    let start = Start { spec: &spec, config: &ImageConfig::default(), volumes: Vec::new() };
    let Planned { mut plan, fds, .. } = node.plan(key, id, &start);
    change(&mut plan);
    let op = node.carry_out(id, &plan.encode(), fds).unwrap();
    swept_failure(node, id, "a changed plan", op)
}

fn swept_failure(node: &mut Node, id: ContainerId, what: &str, op: insula_plan::protocol::launcher::OpId) -> Failure {
    let failure = match node.client.outcome(op) {
        Err(LauncherError::Failed(failure)) => failure,
        other => panic!("{what}: {other:?}"),
    };
    node.sweep(id);
    node.assert_nothing_left(id);
    failure
}

/// Starts what must be refused; nothing is left afterwards.
fn refused(
    node: &mut Node,
    key: &ImageKey,
    id: ContainerId,
    (spec, volumes): (&ContainerSpec, Vec<(std::path::PathBuf, VolumeSource)>),
) -> Failure {
    let start = Start { spec, config: &ImageConfig::default(), volumes };
    let Planned { plan, fds, .. } = node.plan(key, id, &start);
    let op = node.carry_out(id, &plan.encode(), fds).unwrap();
    swept_failure(node, id, "a start that is to be refused", op)
}

/// A step that fails on the host.
fn failing_host_step() -> HostStep {
    HostStep::Cgroup(CgroupStep::Write {
        dir: "/nonexistent/insula".into(),
        file: "pids.max".to_owned(),
        value: "1".to_owned(),
        absent: IfAbsent::Fail,
    })
}

/// A step that fails inside: before the root was entered because it was not, later because nothing is there.
fn failing_inside_step() -> InsideStep {
    InsideStep::Attach { mount: FdSlot(0), target: "/nonexistent".to_owned(), missing: Missing::Refuse }
}

#[test]
fn live_a_failure_at_any_step_leaves_nothing() {
    let mut node = Node::start();
    let key = node.image();
    let spec = shell("true");
    let start = Start { spec: &spec, config: &ImageConfig::default(), volumes: Vec::new() };
    let Plan { before, outside, inside, .. } = node.plan(&key, id(1), &start).plan;
    assert!(before.len() > 3 && outside.len() > 20 && inside.len() > 20, "a plan as starts have");
    for index in 0..=before.len() {
        let failure = fails(&mut node, &key, id(1), |plan| plan.before.insert(index, failing_host_step()));
        assert_eq!(failure.step.as_deref(), Some("cgroup"), "{failure}");
    }
    for index in 0..=outside.len() {
        let failure = fails(&mut node, &key, id(1), |plan| plan.outside.insert(index, failing_host_step()));
        assert_eq!((failure.kind.clone(), failure.errno), (FailureKind::Step, Some(2)), "{failure}");
    }
    for index in 0..=inside.len() {
        let failure = fails(&mut node, &key, id(1), |plan| plan.inside.insert(index, failing_inside_step()));
        assert_eq!(failure.step.as_deref(), Some("attach-mount"), "{failure}");
        assert!(failure.to_string().starts_with(&format!("step inside {index}, ")), "{failure}");
    }
}

#[test]
fn live_a_program_that_cannot_be_executed_is_named_and_leaves_nothing() {
    let mut node = Node::start();
    let key = node.image();
    let failure = fails(&mut node, &key, id(2), |plan| plan.exec.program = Program::Path(c"/no/init".to_owned()));
    assert!(failure.to_string().contains("execve(/no/init): No such file"), "{failure}");
    let failure = fails(&mut node, &key, id(2), |plan| plan.exec.program = Program::Path(c"/etc/passwd".to_owned()));
    assert!(failure.to_string().contains("execve(/etc/passwd)"), "{failure}");
    let failure = fails(&mut node, &key, id(2), |plan| plan.exec.program = Program::Slot(FdSlot(200)));
    assert!(failure.to_string().contains("slot 200 is empty"), "{failure}");
}

#[test]
fn live_a_plan_that_contradicts_itself_is_refused() {
    let mut node = Node::start();
    let key = node.image();
    for slot in [FdSlot(0), FdSlot(300)] {
        let failure = fails(&mut node, &key, id(3), |plan| {
            plan.outside.push(HostStep::Mount(insula_plan::host_step::MountStep::IdMap {
                uids: Vec::new(),
                gids: Vec::new(),
                into: slot,
            }));
        });
        assert!(failure.to_string().contains("slot"), "{failure}");
    }
    let unknown = fails(&mut node, &key, id(3), |plan| {
        for input in &mut plan.inputs {
            if let insula_plan::slot::Input::ImageMount { key } = input {
                *key = ImageKey("unknown".to_owned());
            }
        }
    });
    assert_eq!(unknown.kind, FailureKind::Unknown, "{unknown}");
    let op = node.carry_out(id(3), b"no plan", Vec::new()).unwrap();
    assert_eq!(swept_failure(&mut node, id(3), "no plan", op).kind, FailureKind::Malformed);
}

/// Puts a link in the place of a directory.
fn make_link(root: &Path, name: &str, leads_to: &str) {
    let place = root.join(name);
    if let Ok(files) = std::fs::read_dir(&place) {
        files.for_each(|file| std::fs::remove_file(file.unwrap().path()).unwrap());
        std::fs::remove_dir(&place).unwrap();
    }
    std::os::unix::fs::symlink(leads_to, place).unwrap();
}

#[test]
fn live_t06_a_link_in_the_place_of_any_target_refuses_the_start_and_is_followed_by_nobody() {
    let mut node = Node::start();
    let trap = node.path("trap");
    std::fs::create_dir(&trap).unwrap();
    for name in ["proc", "sys", "dev", "etc", "var", "tmp", "run", "sw", "data"] {
        let absolute = trap.display().to_string();
        let relative = format!("../../../../../../..{absolute}");
        for (kind, leads_to) in [("absolute", absolute.as_str()), ("relative", &relative), ("looping", name)] {
            let key = node.image_with(&format!("{name}-{kind}"), |root| make_link(root, name, leads_to));
            let failure = refused(&mut node, &key, id(4), (&shell("true"), Vec::new()));
            let text = failure.to_string();
            assert!(text.contains(name) && text.contains("is a symbolic link"), "{name} {kind}: {text}");
        }
    }
    assert_eq!(std::fs::read_dir(&trap).unwrap().count(), 0, "something was made on the host");
}

#[test]
fn live_t06_a_directory_that_the_image_lacks_or_that_is_a_file_is_named() {
    let mut node = Node::start();
    for name in ["proc", "dev", "etc", "tmp", "data"] {
        let remove = |root: &Path| {
            std::fs::remove_dir_all(root.join(name)).unwrap();
        };
        let key = node.image_with(&format!("without-{name}"), remove);
        let text = refused(&mut node, &key, id(5), (&shell("true"), Vec::new())).to_string();
        assert!(text.contains(&format!("{name}` does not exist")), "{text}");
        let key = node.image_with(&format!("file-{name}"), |root| {
            remove(root);
            std::fs::write(root.join(name), "").unwrap();
        });
        let text = refused(&mut node, &key, id(5), (&shell("true"), Vec::new())).to_string();
        assert!(text.contains(&format!("{name}` is not a directory")), "{text}");
    }
}

#[test]
fn live_t06_links_of_a_writable_root_are_not_followed_either() {
    let mut node = Node::start();
    let trap = node.path("trap");
    std::fs::create_dir(&trap).unwrap();
    for name in ["etc", "data", "dev"] {
        let key = node.image_with(name, |root| make_link(root, name, &trap.display().to_string()));
        let spec = ContainerSpec { root: Some(RootAccess::Writable), ..shell("true") };
        let text = refused(&mut node, &key, id(6), (&spec, Vec::new())).to_string();
        assert!(text.contains(name) && text.contains("is a symbolic link"), "{text}");
    }
    assert_eq!(std::fs::read_dir(&trap).unwrap().count(), 0, "something was made on the host");
}

#[test]
fn live_a_volume_on_a_target_that_is_missing_or_of_another_kind_is_refused_by_name() {
    let mut node = Node::start();
    let key = node.image();
    let source = VolumeSource { owner: Owner { uid: 0, gid: 0 }, kind: VolumeKind::Directory };
    for (target, problem) in [
        (
            "/missing",
            "does not exist in the image; add it there, or give the container a writable root (--root writable)",
        ),
        ("/bin/sh", "is a symbolic link"),
        ("/bin/busybox", "is not a directory"),
    ] {
        let mut spec = shell("true");
        spec.volumes = vec![format!("/srv/x:{target}").parse().unwrap()];
        let folder = node.path("source");
        std::fs::create_dir_all(&folder).unwrap();
        let failure = refused(&mut node, &key, id(7), (&spec, vec![(folder, source)]));
        assert!(failure.to_string().contains(&format!("`{target}` {problem}")), "{failure}");
    }
}

#[test]
fn live_t03_a_null_device_that_is_none_refuses_the_start() {
    let mut node = Node::start();
    let key = node.image();
    let failure = fails(&mut node, &key, id(8), |plan| {
        for step in &mut plan.outside {
            if let HostStep::File(FileStep::Device { at, device, .. }) = step
                && at.path == Path::new("null")
            {
                device.minor = 5;
            }
        }
    });
    assert!(failure.to_string().contains("`/dev/null` is not the null device"), "{failure}");
}

#[test]
fn live_t03_a_link_in_the_place_of_the_null_device_refuses_the_start_or_is_not_seen() {
    let mut node = Node::start();
    let trap = node.path("trap");
    std::fs::write(&trap, "untouched").unwrap();
    // The image's own is below the container's `/dev`.
    let key = node.image_with("linked", |root| std::os::unix::fs::symlink(&trap, root.join("dev/null")).unwrap());
    let (status, said) = node.run(&key, id(12), "stat -c %F /dev/null; echo x >/dev/null; head -c 1 /proc/keys");
    assert_eq!((status, said.as_str()), (ExitStatus::Exited(0), "character special file\n"));
    node.assert_nothing_left(id(12));
    let failure = fails(&mut node, &key, id(12), |plan| {
        for step in &mut plan.outside {
            if let HostStep::File(FileStep::Device { at, owner, .. }) = step
                && at.path == Path::new("null")
            {
                *step = HostStep::File(FileStep::Link { at: at.clone(), target: trap.clone(), owner: *owner });
            }
        }
    });
    assert!(failure.to_string().contains("/dev/null") && failure.to_string().contains("symbolic link"), "{failure}");
    assert_eq!(std::fs::read_to_string(&trap).unwrap(), "untouched");
}

#[test]
fn live_t04_a_console_whose_terminal_or_place_was_exchanged_refuses_the_start() {
    let mut node = Node::start();
    let trap = node.path("trap");
    std::fs::write(&trap, "untouched").unwrap();
    let key = node.image_with("console", |root| std::os::unix::fs::symlink(&trap, root.join("etc/console")).unwrap());
    let spec =
        ContainerSpec { init: Some(insula_model::InitKind::Image), ..ContainerSpec::new("init".parse().unwrap()) };
    let config = ImageConfig { init: Some("/sbin/init".to_owned()), ..ImageConfig::default() };
    let mut changed = |change: fn(&mut Vec<InsideStep>)| {
        let Planned { mut plan, fds, .. } =
            node.plan(&key, id(10), &Start { spec: &spec, config: &config, volumes: Vec::new() });
        assert!(plan.inside.iter().any(|step| matches!(step, InsideStep::Console { .. })));
        change(&mut plan.inside);
        let op = node.carry_out(id(10), &plan.encode(), fds).unwrap();
        let failure = swept_failure(&mut node, id(10), "a console", op);
        assert_eq!(failure.step.as_deref(), Some("console"), "{failure}");
        failure.to_string()
    };
    let place = changed(|inside| {
        for step in inside {
            if let InsideStep::Console { target, .. } = step {
                "/etc/console".clone_into(target);
            }
        }
    });
    assert!(place.contains("is a symbolic link"), "{place}");
    // Without the container's own devpts there is no terminal that could be taken for it.
    let terminal = changed(|inside| {
        inside.retain(|step| !matches!(step, InsideStep::Mount { target, .. } if target == "/dev/pts"));
    });
    assert!(terminal.contains("/dev/pts/ptmx"), "{terminal}");
    assert_eq!(std::fs::read_to_string(&trap).unwrap(), "untouched");
}

#[test]
fn live_t05_a_setting_goes_to_a_procfs_or_nowhere() {
    let mut node = Node::start();
    let name = "net/ipv4/ip_unprivileged_port_start";
    let key = node.image_with("fake", |root| {
        std::fs::create_dir_all(root.join("proc/sys/net/ipv4")).unwrap();
        std::fs::write(root.join("proc/sys").join(name), "").unwrap();
    });
    // With a writable root the image's own file could be written, were it taken for the kernel's.
    let spec = ContainerSpec { root: Some(RootAccess::Writable), ..shell("true") };
    let start = Start { spec: &spec, config: &ImageConfig::default(), volumes: Vec::new() };
    let Planned { mut plan, fds, .. } = node.plan(&key, id(9), &start);
    plan.inside.retain(|step| !matches!(step, InsideStep::Mount { target, .. } if target == "/proc"));
    let op = node.carry_out(id(9), &plan.encode(), fds).unwrap();
    let failure = swept_failure(&mut node, id(9), "a setting in a file of the image", op);
    assert!(failure.to_string().contains(&format!("`/proc/sys/{name}` is not a file of procfs")), "{failure}");
}

#[test]
fn live_t05_a_setting_over_which_another_file_of_procfs_is_mounted_refuses_the_start() {
    let mut node = Node::start();
    let key = node.image();
    let failure = fails(&mut node, &key, id(11), |plan| {
        let first = plan.inside.iter().position(|step| matches!(step, InsideStep::Setting { .. })).unwrap();
        plan.inside.insert(first, InsideStep::ReadOnly { target: "/proc/sys/net".to_owned() });
    });
    assert_eq!(failure.step.as_deref(), Some("setting"), "{failure}");
    assert!(failure.to_string().contains("is not a file of procfs"), "{failure}");
}
