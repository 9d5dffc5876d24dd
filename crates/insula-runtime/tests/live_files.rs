//! What a container can write, where it ends up, and whose it is there.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "a test program")]

mod harness;

use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use harness::{ID_BASE, Node, Start, id, shell};
use insula_model::{Bytes, ContainerId, ContainerSpec, ImageConfig, RootAccess, TmpfsMount};
use insula_plan::protocol::launcher::ImageKey;
use insula_plan::protocol::status::ExitStatus;
use insula_runtime::{Owner, VolumeKind, VolumeSource};

struct Case<'a> {
    id: ContainerId,
    spec: ContainerSpec,
    config: ImageConfig,
    volumes: Vec<(PathBuf, VolumeSource)>,
    key: &'a ImageKey,
}

impl<'a> Case<'a> {
    fn new(key: &'a ImageKey, number: u128, script: &str) -> Self {
        let (spec, config) = (shell(script), ImageConfig::default());
        Self { id: id(number), spec, config, volumes: Vec::new(), key }
    }

    /// Exit status and output.
    fn run(&self, node: &mut Node) -> (ExitStatus, String) {
        let start = Start { spec: &self.spec, config: &self.config, volumes: self.volumes.clone() };
        let mut running = node.start_container(self.key, self.id, &start).unwrap();
        let mut output = String::new();
        running.output.read_to_string(&mut output).unwrap();
        let status = node.end_of(self.id).status.unwrap();
        node.assert_nothing_left(self.id);
        (status, output)
    }
}

fn source_of(path: &Path, owner: u32) -> VolumeSource {
    std::fs::create_dir_all(path).unwrap();
    chown(path, Some(owner), Some(owner)).unwrap();
    VolumeSource { owner: Owner { uid: owner, gid: owner }, kind: VolumeKind::Directory }
}

#[test]
fn live_a_writable_root_keeps_what_was_written_with_unshifted_ids() {
    let mut node = Node::start();
    let key = node.image();
    let script = "echo mine >/new && echo changed >>/etc/passwd && busybox rm /bin/true && mkdir /opt && \
         busybox chown web /new && stat -c '%u %n' /new /etc /bin/busybox";
    let mut case = Case::new(&key, 1, script);
    case.spec.root = Some(RootAccess::Writable);
    let (status, output) = case.run(&mut node);
    assert_eq!((status, output.as_str()), (ExitStatus::Exited(0), "33 /new\n0 /etc\n0 /bin/busybox\n"));
    let layer = node.path("layer/u");
    assert_eq!(std::fs::metadata(layer.join("new")).unwrap().uid(), 33, "ids on disk are the container's own");
    assert_eq!(std::fs::metadata(layer.join("opt")).unwrap().uid(), 0);
    let mut case =
        Case::new(&key, 2, "cat /new; grep changed /etc/passwd; cat /etc/hostname; ls -d /bin/true 2>/dev/null");
    case.spec.root = Some(RootAccess::Writable);
    case.spec.hostname = Some("second".to_owned());
    let (status, output) = case.run(&mut node);
    assert_eq!((status, output.as_str()), (ExitStatus::Exited(1), "mine\nchanged\nsecond\n"));
}

#[test]
fn live_places_have_the_owner_and_mode_of_the_images_directories_and_their_size() {
    let mut node = Node::start();
    let key = node.image_with("owners", |root| {
        chown(root.join("var"), Some(33), Some(33)).unwrap();
        std::fs::set_permissions(root.join("var"), std::fs::Permissions::from_mode(0o750)).unwrap();
        std::fs::set_permissions(root.join("tmp"), std::fs::Permissions::from_mode(0o1777)).unwrap();
        std::fs::write(root.join("etc/default"), "of the image\n").unwrap();
    });
    let script = "stat -c '%a %u %g' /var /tmp /etc; cat /etc/default && echo changed >/etc/default && cat /etc/default; \
         busybox dd if=/dev/zero of=/etc/full bs=1M count=40 2>/dev/null; busybox rm /etc/full; echo again >/etc/again; \
         busybox du -m /etc/full 2>/dev/null; cat /etc/again; touch /var/x && stat -c %u /var/x";
    let (status, output) = Case::new(&key, 3, script).run(&mut node);
    let expected = "750 33 33\n1777 0 0\n755 0 0\nof the image\nchanged\nagain\n0\n";
    assert_eq!((status, output.as_str()), (ExitStatus::Exited(0), expected));
    let (_, output) = Case::new(&key, 4, "cat /etc/default; ls /etc/again 2>/dev/null").run(&mut node);
    assert_eq!(output, "of the image\n", "a start resets the places");
}

#[test]
fn live_a_full_place_fills_no_other_one() {
    let mut node = Node::start();
    let key = node.image();
    let script = "busybox dd if=/dev/zero of=/run/full bs=1M count=30 2>/dev/null && echo fits; \
         stat -c %s /run/full; echo small >/etc/small && cat /etc/small";
    let (_, output) = Case::new(&key, 5, script).run(&mut node);
    assert_eq!(output, "20971520\nsmall\n");
}

#[test]
fn live_generated_files_are_those_of_this_start() {
    let mut node = Node::start();
    let key = node.image_with("links", |root| {
        std::os::unix::fs::symlink("../run/nowhere/resolv.conf", root.join("etc/resolv.conf")).unwrap();
        std::fs::write(root.join("etc/hostname"), "of-the-build-host\n").unwrap();
    });
    let mut case = Case::new(
        &key,
        6,
        "cat /etc/resolv.conf /etc/hostname /etc/machine-id /etc/timezone; readlink /etc/localtime; echo $TZ; hostname",
    );
    case.spec.timezone = Some("Europe/Rome".to_owned());
    let (_, output) = case.run(&mut node);
    let machine = case.id.as_uuid().simple();
    let expected = format!(
        "nameserver 192.0.2.1\nweb\n{machine}\nEurope/Rome\n/usr/share/zoneinfo/Europe/Rome\nEurope/Rome\nweb\n"
    );
    assert_eq!(output, expected);
}

#[test]
fn live_the_containers_root_acts_as_a_volumes_owner_and_others_stay_in_their_range() {
    let mut node = Node::start();
    let key = node.image();
    let (own, roots) = (node.path("own"), node.path("roots"));
    let volumes = vec![(own.clone(), source_of(&own, 1234)), (roots.clone(), source_of(&roots, 0))];
    for (path, _) in &volumes {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    let script = "stat -c %u /data/own /data/roots; touch /data/own/root /data/roots/root && \
         busybox su -s /bin/sh web -c 'touch /data/own/web /data/roots/web' && stat -c %u /data/*/web";
    let mut case = Case::new(&key, 7, script);
    case.spec.volumes = vec!["/x:/data/own".parse().unwrap(), "/x:/data/roots".parse().unwrap()];
    case.volumes = volumes;
    let (status, output) = case.run(&mut node);
    assert_eq!((status, output.as_str()), (ExitStatus::Exited(0), "0\n0\n33\n33\n"));
    let owner = |path: PathBuf| std::fs::metadata(path).unwrap().uid();
    assert_eq!((owner(own.join("root")), owner(roots.join("root"))), (1234, 0));
    assert_eq!((owner(own.join("web")), owner(roots.join("web"))), (ID_BASE + 33, 33));
}

#[test]
fn live_a_read_only_volume_and_a_volume_of_one_file_are_what_they_say() {
    let mut node = Node::start();
    let key = node.image();
    let (folder, file) = (node.path("folder"), node.path("folder/file"));
    let source = source_of(&folder, 0);
    std::fs::write(&file, "content\n").unwrap();
    let script =
        "cat /tmp/one /tmp/all/file; echo x 2>/dev/null >/tmp/all/y && echo wrote; echo more >>/tmp/one; cat /tmp/one";
    let mut case = Case::new(&key, 8, script);
    case.spec.volumes = vec!["/x:/tmp/all:ro".parse().unwrap(), "/x:/tmp/one".parse().unwrap()];
    case.volumes = vec![(folder.clone(), source), (file.clone(), VolumeSource { kind: VolumeKind::File, ..source })];
    let (_, output) = case.run(&mut node);
    assert_eq!(output, "content\ncontent\ncontent\nmore\n");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "content\nmore\n");
}

#[test]
fn live_t08_set_user_id_programs_and_devices_have_no_effect_in_what_is_shared() {
    let mut node = Node::start();
    let key = node.image();
    let shared = node.path("shared");
    let source = source_of(&shared, 0);
    let script = "for d in /data /data/v; do busybox cp /bin/busybox $d/id && busybox chmod 4755 $d/id; done; \
         busybox su -s /bin/sh web -c '/data/id -u; /data/v/id -u'; \
         busybox mknod /data/n c 1 3 2>/dev/null && echo made; \
         grep -E ' /data(/v)? ' /proc/self/mountinfo | busybox cut -d' ' -f5,6; grep CapInh /proc/self/status";
    let mut case = Case::new(&key, 9, script);
    case.spec.volumes = vec!["/x:/data/v".parse().unwrap()];
    case.volumes = vec![(shared, source)];
    let (_, output) = case.run(&mut node);
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[..2], ["33", "33"], "{output}");
    let mounts: Vec<&&str> = lines.iter().filter(|line| line.starts_with("/data")).collect();
    assert!(mounts.len() == 2 && mounts.iter().all(|line| line.contains("nosuid,nodev")), "{output}");
    assert!(lines.contains(&"CapInh:\t0000000000000000") && !lines.contains(&"made"), "{output}");
}

#[test]
fn live_memory_that_was_asked_for_has_its_size_and_mode() {
    let mut node = Node::start();
    let key = node.image();
    let script = "stat -c '%a %u' /tmp/scratch; busybox df -m /tmp/scratch | busybox tail -n 1 | busybox awk '{print $2}'; \
         grep ' /tmp/scratch ' /proc/self/mountinfo | grep -c nosuid,nodev";
    let mut case = Case::new(&key, 10, script);
    case.spec.tmpfs = vec![TmpfsMount { target: "/tmp/scratch".to_owned(), size: Bytes::mib(7), mode: 0o750 }];
    let (_, output) = case.run(&mut node);
    assert_eq!(output, "750 0\n7\n1\n");
}
