//! What a container sees and holds of its host: namespaces, descriptors, programs, masks.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "a test program")]

mod harness;

use std::collections::BTreeMap;
use std::io::Read;

use harness::{ID_BASE, Node, Running, Start, id, shell, wait_until};
use insula_model::{ContainerId, ContainerSpec, ImageConfig};
use insula_plan::protocol::launcher::{ImageKey, LauncherError};
use insula_plan::protocol::status::ExitStatus;

fn start(node: &mut Node, key: &ImageKey, id: ContainerId, spec: &ContainerSpec) -> Result<Running, LauncherError> {
    node.start_container(key, id, &Start { spec, config: &ImageConfig::default(), volumes: Vec::new() })
}

/// A container that says `up` and stays until it is killed.
fn idle(node: &mut Node, key: &ImageKey, id: ContainerId) -> Running {
    let mut running = start(node, key, id, &shell("echo up; sleep 1000")).unwrap();
    let mut said = [0; 3];
    running.output.read_exact(&mut said).unwrap();
    running
}

fn kill(node: &mut Node, id: ContainerId, running: &Running) {
    let pid = running.process.pid.to_string();
    assert!(std::process::Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
    node.end_of(id);
    node.assert_nothing_left(id);
}

/// Runs a script with the container's status and output, and checks that nothing is left.
fn run(node: &mut Node, key: &ImageKey, id: ContainerId, script: &str) -> (ExitStatus, String) {
    let result = node.run(key, id, script);
    node.assert_nothing_left(id);
    result
}

#[test]
fn live_a13_every_namespace_is_the_containers_own() {
    let mut node = Node::start();
    let key = node.image();
    let running = idle(&mut node, &key, id(1));
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
        let space = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_ne!(space("self"), space(&running.process.pid.to_string()), "{kind}");
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.process.pid)).unwrap();
    assert!(status.contains(&format!("Uid:\t{ID_BASE}\t{ID_BASE}\t{ID_BASE}\t{ID_BASE}\n")), "{status}");
    assert!(status.contains(&format!("Gid:\t{ID_BASE}\t{ID_BASE}\t{ID_BASE}\t{ID_BASE}\n")), "{status}");
    assert!(status.contains("Seccomp:\t2\n") && status.contains("Groups:\t \n"), "{status}");
    kill(&mut node, id(1), &running);
}

#[test]
fn live_what_the_kernel_counts_per_user_is_counted_for_the_range() {
    let mut node = Node::start();
    let key = node.image();
    let running = idle(&mut node, &key, id(2));
    // The user namespace's creator is the range's own root: only then do its ucounts not add up on the host's root.
    let said = std::process::Command::new("lsns")
        .args(["--type", "user", "--noheadings", "--output", "UID", "--task", &running.process.pid.to_string()])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), ID_BASE.to_string());
    kill(&mut node, id(2), &running);
}

#[test]
fn live_t01_process_1_can_be_neither_read_nor_written_by_root_of_the_container() {
    let mut node = Node::start();
    let key = node.image();
    // The same looks at itself succeed, so the commands are able to find something.
    let script = "cat /proc/self/maps >/dev/null && readlink /proc/self/exe; \
         for f in exe maps mem environ fd/0 root/bin map_files; do \
             cat /proc/1/$f >/dev/null 2>&1 && echo read $f; ls /proc/1/$f/ >/dev/null 2>&1 && echo list $f; done; \
         readlink /proc/1/exe; echo x 2>/dev/null >/proc/1/exe && echo wrote; echo x 2>/dev/null >/proc/self/exe && echo wrote; \
         echo end";
    let (status, output) = run(&mut node, &key, id(3), script);
    assert_eq!((status, output.as_str()), (ExitStatus::Exited(0), "/bin/busybox\nend\n"));
}

#[test]
fn live_t02_processes_have_open_what_they_were_given_and_nothing_else() {
    let mut node = Node::start();
    let key = node.image();
    // 3 is the directory that `ls` itself reads.
    let (_, output) = run(&mut node, &key, id(4), "ls /proc/self/fd");
    assert_eq!(output, "0\n1\n2\n3\n");
    let running = idle(&mut node, &key, id(4));
    let folder = format!("/proc/{}/fd", running.process.pid);
    let mut kinds = BTreeMap::<String, u32>::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let leads_to = std::fs::read_link(entry.unwrap().path()).unwrap().display().to_string();
        let kind = leads_to.split(':').next().unwrap().trim_end_matches(|c: char| c.is_ascii_digit());
        *kinds.entry(kind.to_owned()).or_default() += 1;
    }
    let exit_fact = node.facts(id(4)).join("exit").display().to_string();
    let known = ["anon_inode", "socket", "pipe", "/dev/null", exit_fact.as_str()];
    assert!(kinds.keys().all(|kind| known.contains(&kind.as_str())), "{kinds:?}");
    kill(&mut node, id(4), &running);
}

#[test]
fn live_t02_no_descriptor_of_the_host_can_be_a_working_directory_or_a_program() {
    let mut node = Node::start();
    let key = node.image();
    let ends = [63, 64, 127, 128, 255, 256, 511, 512, 1022, 1023];
    let numbers = (3..40).chain(ends);
    let (directory, program) = (shell("pwd"), ContainerSpec::new("test".parse().unwrap()));
    for number in numbers {
        let path = format!("/proc/self/fd/{number}");
        let cases = [
            ContainerSpec { workdir: Some(path.clone()), ..directory.clone() },
            ContainerSpec { command: vec![path.clone()], ..program.clone() },
        ];
        for spec in cases {
            match start(&mut node, &key, id(5), &spec) {
                Err(LauncherError::Failed(failure)) => {
                    assert!(failure.to_string().contains(&path), "{failure}");
                    node.sweep(id(5));
                }
                Err(error) => panic!("{number}: {error}"),
                Ok(mut running) => {
                    let mut output = String::new();
                    running.output.read_to_string(&mut output).unwrap();
                    panic!("{path} serves: {output}");
                }
            }
            node.assert_nothing_left(id(5));
        }
    }
}

#[test]
fn live_what_tells_of_the_host_is_hidden_and_what_steers_it_is_read_only() {
    let mut node = Node::start();
    let key = node.image();
    let script = "for f in kcore keys latency_stats timer_list sched_debug interrupts; do \
             test -e /proc/$f && test -n \"$(head -c 1 /proc/$f 2>/dev/null)\" && echo seen $f; done; \
         for d in /proc/acpi /proc/scsi /sys/firmware /sys/devices/virtual/powercap; do \
             test -n \"$(ls $d 2>/dev/null)\" && echo seen $d; done; \
         for f in sys/kernel/hostname sys/vm/swappiness sysrq-trigger irq/default_smp_affinity; do \
             echo 1 2>/dev/null >/proc/$f && echo wrote $f; done; \
         mkdir /sys/fs/cgroup/x 2>/dev/null && echo made a group; touch /sys/x 2>/dev/null && echo wrote sys; \
         mount -t tmpfs none /tmp 2>/dev/null && echo mounted; echo end";
    let (_, output) = run(&mut node, &key, id(6), script);
    assert_eq!(output, "end\n");
}

#[test]
fn live_directories_are_hidden_behind_one_empty_file_system() {
    let mut node = Node::start();
    let key = node.image();
    let (_, output) = run(&mut node, &key, id(12), "grep -E ' (/proc|/sys)/[^ ]* .* - tmpfs ' /proc/self/mountinfo");
    let empty = output.lines().filter(|line| !line.contains("/null /proc/"));
    let mut distinct: Vec<&str> = empty.filter_map(|line| line.split(' ').nth(2)).collect();
    distinct.dedup();
    assert_eq!(distinct.len(), 1, "{output}");
}

#[test]
fn live_a18_no_path_of_the_host_shows_in_the_mount_table() {
    let mut node = Node::start();
    let key = node.image();
    let (_, output) = run(&mut node, &key, id(7), "cat /proc/self/mountinfo");
    // Named from the root of the file system that it is on, wherever that is mounted.
    let folder = node.path("x").parent().unwrap().file_name().unwrap().to_string_lossy().into_owned();
    let leaks: Vec<&str> =
        output.lines().filter(|line| line.contains("/run/images") || line.contains(".erofs")).collect();
    assert!(leaks.is_empty(), "{leaks:?}");
    // Data and software are directories of the host, which the kernel names; nothing else may be.
    let named = output.lines().filter(|line| line.contains(&folder));
    let targets: Vec<&str> = named.filter_map(|line| line.split(' ').nth(4)).collect();
    assert_eq!(targets, ["/data", "/sw"], "{output}");
}

#[test]
fn live_devices_are_the_fields_few_and_no_other_can_be_made() {
    let mut node = Node::start();
    let key = node.image();
    let script = "ls /dev; for d in null zero full random urandom tty; do stat -c '%n %t %T %a %u' /dev/$d; done; \
         echo x >/dev/null; head -c 3 /dev/zero >/dev/null && echo read; \
         busybox mknod /dev/sda b 8 0 2>/dev/null && echo made; busybox mknod /tmp/kmsg c 1 11 2>/dev/null && echo made; \
         head -c 1 /dev/full | grep -q . || true; echo x 2>/dev/null >/dev/full && echo wrote";
    let (_, output) = run(&mut node, &key, id(8), script);
    let expected = "fd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n\
         /dev/null 1 3 666 0\n/dev/zero 1 5 666 0\n/dev/full 1 7 666 0\n/dev/random 1 8 666 0\n\
         /dev/urandom 1 9 666 0\n/dev/tty 5 0 666 0\nread\n";
    assert_eq!(output, expected);
}

#[test]
fn live_settings_of_its_own_network_are_made_and_unknown_ones_are_refused_by_name() {
    let mut node = Node::start();
    let key = node.image();
    let mut spec = shell("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ip_forward");
    spec.sysctls.insert("net.ipv4.ip_forward".to_owned(), "1".to_owned());
    let mut running = start(&mut node, &key, id(9), &spec).unwrap();
    let mut output = String::new();
    running.output.read_to_string(&mut output).unwrap();
    node.end_of(id(9));
    assert_eq!(output, "0\n1\n");
    spec.sysctls.insert("net.ipv4.ip_forwrd".to_owned(), "1".to_owned());
    let Err(LauncherError::Failed(failure)) = start(&mut node, &key, id(10), &spec) else { panic!("it started") };
    assert!(failure.to_string().contains("/proc/sys/net/ipv4/ip_forwrd"), "{failure}");
    node.sweep(id(10));
    node.assert_nothing_left(id(10));
}

#[test]
fn live_a_container_that_is_killed_leaves_nothing() {
    let mut node = Node::start();
    let key = node.image();
    let running = idle(&mut node, &key, id(11));
    let pid = running.process.pid;
    kill(&mut node, id(11), &running);
    wait_until("the end of process 1", || !std::path::Path::new(&format!("/proc/{pid}")).exists());
}
