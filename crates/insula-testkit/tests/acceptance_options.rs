//! What the command line gives to a container, seen from inside: namespaces, rights, devices, settings, limits, memory.
#![allow(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is one module")]

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use insula_testkit::{Node, PATIENCE, ProbeReport, eventually, run_bounded};

fn node() -> Node {
    let node = Node::start();
    node.import_busybox();
    node
}

/// What a command says in a container that is made for it.
fn said(node: &Node, options: &[&str], script: &str) -> String {
    node.ok([&["run", "--rm"], options, &["busybox", "sh", "-c", script]].concat()).text().to_owned()
}

fn namespace(pid: &str, kind: &str) -> String {
    std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string()
}

#[test]
fn live_a13_each_kind_of_namespace_is_made_named_entered_and_ends() {
    let node = node();
    node.ok(["run", "-d", "--name", "c", "busybox", "sleep", "1000"]);
    let pid = node.show("c")["pid"].to_string();
    let mut client = node.insula(["exec", "c", "sleep", "2000"]).stdin(Stdio::null()).spawn().unwrap();
    let entered = eventually("the command runs", || {
        let rows = node.json(["top", "c"]);
        let row = rows.as_array()?.iter().find(|row| row["command"] == "sleep 2000")?;
        Some(row["pid"].to_string())
    });
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
        assert_ne!(namespace(&pid, kind), namespace("self", kind), "{kind} is its own");
        assert_eq!(namespace(&entered, kind), namespace(&pid, kind), "{kind} is entered");
    }
    for process in [&pid, &entered] {
        assert_eq!(node.json(["whois", "--pid", process])["name"], "c");
    }
    // Nothing is kept without processes: the container's spaces end with its process 1, whoever entered them.
    node.ok(["delete", "--force", "c"]);
    client.wait().unwrap();
    for process in [&pid, &entered] {
        eventually("it is gone", || {
            let there = std::fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
            (!there.contains(node.name())).then_some(())
        });
    }
}

#[test]
fn live_a13_what_is_made_in_a_namespace_begins_as_documented_and_stays_there() {
    let node = node();
    let host = ProbeReport::of_this_process();
    for name in ["a", "b"] {
        node.ok(["run", "-d", "--privileged", "--name", name, "busybox", "sleep", "1000"]);
    }
    let make = "hostname changed && mount -t tmpfs made /mnt 2>/dev/null || mount -t tmpfs made /home; \
                touch /dev/mqueue/made";
    node.ok(["exec", "a", "sh", "-c", make]);
    let mut link = Command::new("nsenter");
    link.args(["--target", &node.show("a")["pid"].to_string(), "--net", "ip", "link", "add", "made", "type", "veth"]);
    let _ = run_bounded(link, b"", PATIENCE).ok();
    let (a, b) = (node.probe("a"), node.probe("b"));
    // uts: changed there only; the host's is not even copied.
    assert_eq!((a.hostname.as_str(), b.hostname.as_str()), ("changed", "b"));
    assert_eq!(ProbeReport::of_this_process().hostname, host.hostname);
    // net: empty but for a loopback and its own link; mnt: its own tree, nothing goes to another.
    assert!(a.interfaces.contains(&"made".to_owned()));
    assert_eq!(b.interfaces.iter().map(String::as_str).collect::<BTreeSet<_>>(), BTreeSet::from(["eth0", "lo"]));
    assert!(a.mounts.iter().any(|mount| mount.source == "made"));
    let now = ProbeReport::of_this_process();
    assert!(b.mounts.iter().chain(&now.mounts).all(|mount| mount.source != "made"));
    assert!(!now.interfaces.contains(&"made".to_owned()));
    // pid: only what begins inside; user: mapped to a range of its own; ipc: empty; cgroup: its own root.
    assert_eq!(b.processes.len(), 3, "{:?}", b.processes);
    assert_ne!(a.uid_map, b.uid_map);
    assert_eq!(node.ok(["exec", "b", "ls", "/dev/mqueue"]).text(), "");
    assert!(b.cgroups.iter().all(|line| line.ends_with(":/")), "{:?}", b.cgroups);
}

#[test]
fn live_a_network_is_its_own_none_or_the_hosts() {
    let node = node();
    let none = node.probe_run(&["--network", "none"]);
    assert_eq!(none.interfaces, ["lo"]);
    let host = ProbeReport::of_this_process();
    let shared = node.probe_run(&["--network", "host"]);
    assert_eq!(shared.namespaces["net"], host.namespaces["net"]);
    for kind in ["cgroup", "ipc", "mnt", "pid", "user", "uts"] {
        assert_ne!(shared.namespaces[kind], host.namespaces[kind], "{kind}");
    }
    // Being in the host's network gives no rights over it.
    let change = "ip link add made type dummy 2>/dev/null && echo made; ip link set lo down 2>/dev/null && echo down; \
                  echo 1 2>/dev/null >/proc/sys/net/ipv4/ip_forward && echo wrote; echo end";
    assert_eq!(said(&node, &["--network", "host", "--privileged"], change), "end");
}

#[test]
fn live_capabilities_are_the_fields_and_what_is_added_or_dropped() {
    let node = node();
    let bounding = |options: &[&str]| node.probe_run(options).capabilities["CapBnd"];
    let (net_raw, net_admin, chown) = (1 << 13, 1 << 12, 1 << 0);
    let usual = bounding(&[]);
    assert_eq!(usual.count_ones(), 14, "{usual:x}");
    assert_eq!(bounding(&["--cap-add", "NET_ADMIN", "--cap-drop", "CHOWN"]), (usual | net_admin) & !chown);
    assert_eq!(bounding(&["--cap-drop", "ALL", "--cap-add", "NET_RAW"]), net_raw);
    assert!(bounding(&["--privileged"]).count_ones() > 35);
    let said = node.run(["run", "--rm", "--cap-add", "NET_ADMN", "busybox", "true"]);
    assert_eq!(said.code, 125);
    assert!(said.stderr.contains("NET_ADMN") && said.stderr.contains("NET_ADMIN"), "{}", said.stderr);
    // Privileged in its own user namespace: none of the host's.
    let report = node.probe_run(&["--privileged"]);
    assert_eq!(report.seccomp, 0);
    assert_ne!(report.namespaces["user"], ProbeReport::of_this_process().namespaces["user"]);
    assert_ne!(report.uid_map, ["0 0 4294967295"]);
}

#[test]
fn live_devices_settings_limits_and_memory_are_what_was_asked_for() {
    let node = node();
    assert_eq!(said(&node, &["--device", "/dev/zero:/dev/nothing:r"], "head -c 2 /dev/nothing | wc -c"), "2");
    let refused = node.run(["run", "--rm", "--device", "/dev/no-such", "busybox", "true"]);
    assert_eq!(refused.code, 125);
    assert!(refused.stderr.contains("/dev/no-such"), "{}", refused.stderr);

    let settings = "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced";
    let options = ["--sysctl", "net.ipv4.ip_forward=1", "--sysctl", "kernel.shm_rmid_forced=1"];
    assert_eq!(said(&node, &options, settings), "1\n1");
    let refused = node.run(["run", "--rm", "--sysctl", "vm.swappiness=1", "busybox", "true"]);
    assert_eq!(refused.code, 125);
    assert!(refused.stderr.contains("vm.swappiness"), "{}", refused.stderr);

    assert_eq!(said(&node, &["--ulimit", "nofile=77:88"], "ulimit -Sn; ulimit -Hn"), "77\n88");
    assert_eq!(said(&node, &["--ulimit", "nofile=32"], "ulimit -n"), "32");
    let tmpfs = "df -k /srv | tail -1 | tr -s ' ' | cut -d ' ' -f 2; stat -c %a /srv; \
                 grep ' /srv ' /proc/self/mountinfo | grep -c nosuid,nodev";
    assert_eq!(said(&node, &["--tmpfs", "/srv:size=8MiB,mode=0750"], tmpfs), "8192\n750\n1");
    let limits = node.probe_run(&["--pids-limit", "20", "--memory", "64MiB"]);
    assert!(limits.limits.contains_key("Max open files"));
}

#[test]
fn live_t08_a_volume_of_the_hosts_root_is_warned_of() {
    let node = node();
    let open = node.directory().join("open");
    std::fs::create_dir(&open).unwrap();
    let volume = format!("{}:/data/x", open.display());
    let run = node.ok(["run", "--rm", "-v", &volume, "busybox", "true"]);
    assert!(run.stderr.contains("set-user-id") && run.stderr.contains("chmod o-x"), "{}", run.stderr);
    let read_only = node.ok(["run", "--rm", "-v", &format!("{volume}:ro"), "busybox", "true"]);
    assert_eq!(read_only.stderr, "");
}

#[test]
fn live_t08_what_a_container_leaves_in_its_data_gives_nobody_anything() {
    let node = node();
    node.ok(["run", "-d", "--name", "c", "--cap-add", "ALL", "busybox", "sleep", "1000"]);
    node.ok(["exec", "c", "sh", "-c", "cp /bin/busybox /data/id; cp /bin/busybox /data/grep; chmod 4755 /data/id"]);
    let data = std::path::PathBuf::from(node.show("c")["data_path"].as_str().unwrap());
    // All rights to whoever executes it, as the kernel reads them from a file (struct vfs_cap_data, version 2).
    let all = [[1, 0, 0, 2], [0xff; 4], [0; 4], [0xff, 0xff, 0xff, 1], [0; 4]].concat();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(data.join("grep"), "security.capability", &all, flags).unwrap();
    let rights = node.ok(["exec", "-u", "web", "c", "/data/grep", "Cap[IPE]", "/proc/self/status"]).stdout;
    for line in ["CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000"] {
        assert!(rights.contains(line), "{rights}");
    }
    assert_eq!(node.ok(["exec", "-u", "web", "c", "/data/id", "-u"]).text(), "33");
    // On the host it has the owner and the mode that it was given; nobody but root comes there.
    for program in ["id", "grep"] {
        assert!(data.join(program).exists());
        let mut other = Command::new("setpriv");
        // The shell is the first that has no rights any more.
        other.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "sh", "-c", "exec $0"]);
        other.arg(data.join(program));
        let said = run_bounded(other, b"", PATIENCE);
        assert!([126, 127].contains(&said.code) && said.stderr.contains("Permission denied"), "{program}: {said:?}");
    }
}

#[test]
fn live_a_range_of_ports_leads_to_as_many_ports_of_the_container() {
    let node = node();
    let serve = "for port in 80 81; do echo port $port >/tmp/$port; nc -ll -p $port -e cat /tmp/$port & done; wait";
    node.ok(["run", "-d", "--name", "c", "-p", "127.0.0.1:18974-18975:80-81", "busybox", "sh", "-c", serve]);
    assert_eq!(node.json(["port", "c"]), serde_json::json!(["127.0.0.1:18974:80", "127.0.0.1:18975:81"]));
    for (outer, inner) in [(18_974, "port 80\n"), (18_975, "port 81\n")] {
        eventually("the port is served", || {
            let mut said = String::new();
            let mut stream = std::net::TcpStream::connect(("127.0.0.1", outer)).ok()?;
            stream.set_read_timeout(Some(std::time::Duration::from_secs(5))).ok()?;
            std::io::Read::read_to_string(&mut stream, &mut said).ok()?;
            (said == inner).then_some(())
        });
    }
}

#[test]
fn live_a_volume_whose_file_system_cannot_shift_ids_is_refused_with_what_to_do() {
    let node = node();
    let memory = node.directory().join("memory");
    std::fs::create_dir(&memory).unwrap();
    rustix::mount::mount("insula-memory", &memory, "ramfs", rustix::mount::MountFlags::NODEV, c"mode=700").unwrap();
    let said = node.fails(125, ["run", "--rm", "-v", &format!("{}:/data/x", memory.display()), "busybox", "true"]);
    rustix::mount::unmount(&memory, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert!(said.contains(&format!("the file system of {} cannot shift ids", memory.display())), "{said}");
    assert!(said.contains("ext4"), "{said}");
}
