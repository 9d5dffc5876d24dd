//! What a container may use: templates, defaults, admission, storage.
#![allow(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is one module")]

use insula_testkit::{Node, NodeOptions};

const TEMPLATES: &str = "
[template.plan]
memory.limit = '64MiB'
cpu.limit = 0.5
[template.web]
from = 'plan'
pids.limit = 40
files.limit = 99
";

fn node(config: &str) -> Node {
    let node = Node::start_with(&NodeOptions { config: config.to_owned() });
    node.import_busybox();
    node
}

/// A file of the container's control group, wherever its controller is mounted.
fn limit(node: &Node, container: &str, controller: &str, names: [&str; 2]) -> u64 {
    let group = node.show(container)["cgroup"].as_str().unwrap().to_owned();
    let places = [format!("/sys/fs/cgroup/{controller}/{group}"), format!("/sys/fs/cgroup/{group}")];
    let files = places.iter().flat_map(|place| names.map(|name| format!("{place}/{name}")));
    let text = files.into_iter().find_map(|path| std::fs::read_to_string(path).ok()).unwrap();
    text.trim().parse().unwrap()
}

fn memory_limit(node: &Node, container: &str) -> u64 {
    limit(node, container, "memory", ["memory.limit_in_bytes", "memory.max"])
}

fn pids_limit(node: &Node, container: &str) -> u64 {
    limit(node, container, "pids", ["pids.max", "pids.max"])
}

/// Soft and hard limit of open files of a command in the container.
fn open_files(node: &Node, container: &str) -> (u64, u64) {
    let text = node.ok(["exec", container, "grep", "Max open files", "/proc/self/limits"]).stdout;
    let numbers: Vec<u64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    (numbers[0], numbers[1])
}

#[test]
fn live_a23_a_template_gives_what_the_container_does_not_say_and_the_kernel_holds_to_it() {
    let node = node(TEMPLATES);
    node.ok(["run", "-d", "--name", "c", "--template", "web", "--set", "pids.limit=30", "busybox", "sleep", "1000"]);
    assert_eq!((memory_limit(&node, "c"), pids_limit(&node, "c")), (64 << 20, 30));
    assert_eq!(open_files(&node, "c"), (99, 99));
    let shown = node.show("c");
    assert_eq!(shown["spec"]["template"], "web");
    assert_eq!(shown["effective_resources"]["memory_limit"], 64 << 20);
    assert_eq!(shown["resource_origins"]["memory.limit"], "template plan");
    assert_eq!(shown["resource_origins"]["files.limit"], "template web");
    assert_eq!(shown["resource_origins"]["pids.limit"], "container");
    let listed = node.json(["template", "list"]);
    assert_eq!(listed[1]["from"], "plan");
    assert_eq!(node.json(["template", "show", "web"])["resources"]["memory_limit"], 64 << 20);
}

#[test]
fn live_a23_an_unknown_template_is_refused_with_the_nearest_and_nothing_is_made() {
    let node = node(TEMPLATES);
    let said = node.fails(3, ["create", "--name", "c", "--template", "wep", "busybox", "true"]);
    assert!(said.contains("template `wep` is unknown; the nearest is `web`"), "{said}");
    assert_eq!(node.json(["list"]), serde_json::json!([]));
    let said = node.fails(3, ["template", "show", "pan"]);
    assert!(said.contains("the nearest is `plan`"), "{said}");
    let said = node.fails(2, ["create", "--template", "web", "--set", "memory.guarantee=65MiB", "busybox", "true"]);
    assert!(said.contains("memory.guarantee 65MiB is above memory.limit 64MiB"), "{said}");
    assert!(said.contains("template plan"), "{said}");
}

#[test]
fn live_a23_another_template_changes_a_running_container_as_far_as_it_can() {
    let mut node = node(TEMPLATES);
    node.ok(["run", "-d", "--name", "c", "busybox", "sleep", "1000"]);
    let result = node.json(["set", "c", "template=web"]);
    let keys = |field: &str| -> Vec<String> { serde_json::from_value(result[field].clone()).unwrap() };
    assert!(keys("live").contains(&"memory.limit".to_owned()), "{result}");
    assert_eq!(keys("at_next_start"), ["files.limit"]);
    assert_eq!((memory_limit(&node, "c"), pids_limit(&node, "c")), (64 << 20, 40));
    node.kill_daemon();
    node.start_daemon();
    assert_eq!(node.show("c")["effective_resources"]["pids_limit"], 40);
    node.ok(["restart", "-t", "0", "c"]);
    assert_eq!(open_files(&node, "c"), (99, 99));
    node.ok(["set", "c", "template="]);
    assert_eq!((memory_limit(&node, "c"), pids_limit(&node, "c")), (1 << 30, 512));
}

#[test]
fn live_nothing_is_unlimited_and_the_configuration_says_how_much() {
    let plain = node("");
    plain.ok(["run", "-d", "--name", "c", "busybox", "sleep", "1000"]);
    assert_eq!((memory_limit(&plain, "c"), pids_limit(&plain, "c")), (1 << 30, 512));
    assert_eq!(open_files(&plain, "c").0, 1_024);
    drop(plain);
    let node = node("[defaults]\nmemory_limit = '32MiB'\npids_limit = 20\nfiles_limit = 77\n");
    node.ok(["run", "-d", "--name", "c", "busybox", "sleep", "1000"]);
    assert_eq!((memory_limit(&node, "c"), pids_limit(&node, "c")), (32 << 20, 20));
    node.ok(["run", "-d", "--name", "many", "--ulimit", "nofile=2000:3000", "busybox", "sleep", "1000"]);
    assert_eq!(open_files(&node, "many"), (2_000, 3_000));
    let (soft, hard) = open_files(&node, "c");
    assert!(soft == 77 && hard > 1_024, "{soft} {hard}");
    let forked = "for i in $(seq 30); do sleep 100 & done; wait";
    let said = node.run(["run", "--rm", "busybox", "sh", "-c", forked]);
    assert!(said.stderr.contains("can't fork"), "{}", said.stderr);
}

#[test]
fn live_a32_what_is_promised_is_counted_and_a_refusal_says_what_is_left() {
    let node = node("[capacity]\nmemory = '50MiB'\nmemory_overcommit_percent = 200\n");
    let small = ["--memory", "60MiB", "busybox", "sleep", "1000"];
    node.ok([&["run", "-d", "--name", "a"], &small[..]].concat());
    let said = node.fails(6, [&["run", "-d", "--name", "b"], &small[..]].concat());
    assert!(said.contains("memory: a guarantee of 60MiB asked, 40MiB of 100MiB left"), "{said}");
    assert!(said.contains("capacity.memory"), "{said}");
    // A smaller promise fits under the same limit; and what is asked of a running container is admitted too.
    node.ok(["set", "b", "memory.guarantee=40MiB"]);
    node.ok(["start", "b"]);
    node.fails(6, ["set", "b", "memory.guarantee=41MiB"]);
    assert_eq!(node.show("b")["effective_resources"]["memory_guarantee"], 40 << 20);
    node.ok(["stop", "-t", "0", "a"]);
    node.ok(["set", "b", "memory.guarantee=41MiB"]);
    node.fails(6, ["start", "a"]);
}

/// Size and free bytes of the file system at a path in the container, by `df`.
fn disk_free(node: &Node, container: &str, path: &str) -> (u64, u64) {
    let text = node.ok(["exec", container, "df", "-P", path]).stdout;
    let fields: Vec<u64> =
        text.lines().last().unwrap().split_whitespace().filter_map(|word| word.parse().ok()).collect();
    (fields[0] << 10, fields[2] << 10)
}

#[test]
fn live_a30_data_are_bounded_by_their_size_and_df_shows_it() {
    let mut node = node("");
    let create = ["run", "-d", "--name", "c", "--set", "data.size=32MiB", "busybox", "sleep", "1000"];
    node.ok(create);
    let (size, free) = disk_free(&node, "c", "/data");
    assert!(size <= 32 << 20 && size > 20 << 20 && free < size, "{size} {free}");
    let df = node.ok(["exec", "c", "df", "-P", "/data"]).stdout;
    assert_eq!(df.lines().last().unwrap().split_whitespace().next(), Some("data"), "{df}");
    let mounts = node.ok(["exec", "c", "cat", "/proc/self/mounts"]).stdout;
    assert!(mounts.lines().any(|line| line.starts_with("data /data ext4 ")), "{mounts}");
    node.ok(["exec", "c", "sh", "-c", "echo words >/data/kept; test -d /data/service; test ! -e /data/lost+found"]);
    let said = node.fails(1, ["exec", "c", "dd", "if=/dev/zero", "of=/data/fill", "bs=1048576", "count=64"]);
    assert!(said.contains("No space left on device"), "{said}");
    // The node's file system has only what is written.
    let image = node.show("c")["data_path"].as_str().unwrap().to_owned();
    assert!(image.ends_with("/disk"), "{image}");
    // A crash of every process leaves one lock, one device and what was written.
    node.kill_daemon();
    node.start_daemon();
    node.ok(["exec", "c", "rm", "/data/fill"]);
    node.ok(["restart", "-t", "0", "c"]);
    assert_eq!(node.ok(["exec", "c", "cat", "/data/kept"]).text(), "words");
    // It grows, and does not shrink.
    node.ok(["set", "c", "data.size=64MiB"]);
    node.ok(["restart", "-t", "0", "c"]);
    let (grown, _) = disk_free(&node, "c", "/data");
    assert!(grown > 50 << 20, "{grown}");
    node.ok(["set", "c", "data.size=16MiB"]);
    node.ok(["restart", "-t", "0", "c"]);
    assert_eq!(disk_free(&node, "c", "/data").0, grown);
    assert_eq!(node.ok(["exec", "c", "cat", "/data/kept"]).text(), "words");
    node.ok(["delete", "--force", "c"]);
    assert!(!std::path::Path::new(&image).exists());
    let containers = node.state_dir().join("containers");
    insula_testkit::eventually("no loop device is left", || devices_below(&containers).is_empty().then_some(()));
}

/// Loop devices of files below a directory.
fn devices_below(directory: &std::path::Path) -> Vec<String> {
    let devices = std::fs::read_dir("/sys/block").unwrap().filter_map(Result::ok);
    let files = devices.filter_map(|device| std::fs::read_to_string(device.path().join("loop/backing_file")).ok());
    files.filter(|file| file.starts_with(directory.to_str().unwrap())).collect()
}

#[test]
fn live_a30_what_was_in_data_moves_into_its_file_system_and_a_writable_root_is_bound_too() {
    let node = node("[defaults]\ndata_size = ''\n");
    node.ok(["run", "-d", "--name", "c", "--root", "writable", "busybox", "sleep", "1000"]);
    node.ok([
        "exec",
        "c",
        "sh",
        "-c",
        "echo data >/data/kept; echo layer >/etc/kept; chown 7:8 /data/kept; mkdir /srv/d; rm /bin/vi",
    ]);
    node.ok(["set", "c", "data.size=32MiB"]);
    node.ok(["restart", "-t", "0", "c"]);
    let kept = node.ok([
        "exec",
        "c",
        "sh",
        "-c",
        "cat /data/kept /etc/kept; stat -c %u:%g /data/kept; ls -d /srv/d; test ! -e /bin/vi",
    ]);
    assert_eq!(kept.text(), "data\nlayer\n7:8\n/srv/d");
    let said = node.fails(1, ["exec", "c", "dd", "if=/dev/zero", "of=/root/fill", "bs=1048576", "count=64"]);
    assert!(said.contains("No space left on device"), "{said}");
    for mount in node.probe("c").mounts {
        assert!(!mount.source.contains("loop"), "{mount:?}");
    }
}

#[test]
fn live_a30_a_killed_container_gives_its_disk_free_for_the_next_start() {
    let node = node("[defaults]\ndata_size = '16MiB'\n");
    node.ok([
        "run",
        "-d",
        "--name",
        "c",
        "--restart",
        "always",
        "busybox",
        "sh",
        "-c",
        "echo x >>/data/starts; sleep 1000",
    ]);
    let wrote = |starts: usize| {
        insula_testkit::eventually("the start wrote", || {
            let count = node.run(["exec", "c", "wc", "-l", "/data/starts"]);
            count.stdout.starts_with(&starts.to_string()).then_some(())
        });
    };
    for starts in 1..=5 {
        wrote(starts);
        let pid = node.show("c")["pid"].to_string();
        assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    }
    wrote(6);
}

/// `insula node restore` for a node's directories.
fn restore(node: &Node, state: &std::path::Path, file: &std::path::Path) -> insula_testkit::Finished {
    let mut command = node.insula(["node", "restore", "--name", node.name(), "--state-dir"]);
    command.arg(state).arg(file);
    insula_testkit::run_bounded(command, b"", insula_testkit::PATIENCE)
}

#[test]
fn live_a_backup_taken_while_everything_runs_is_restored_into_an_empty_store() {
    let mut node = node(TEMPLATES);
    node.ok(["run", "-d", "--name", "a", "--template", "web", "-v", "/tmp:/srv", "busybox", "sleep", "1000"]);
    node.ok(["create", "--name", "b", "-e", "A=1", "busybox", "true"]);
    let backup = node.directory().join("backup");
    let path = backup.to_str().unwrap().to_owned();
    assert_eq!(node.json(["node", "backup", &path])["containers"], 2);
    let (a, b) = (node.show("a"), node.show("b"));
    // A daemon that runs, and a store that has something, are left alone.
    let said = restore(&node, &node.state_dir(), &backup).with_code(1).stderr;
    assert!(said.contains("process"), "{said}");
    node.ok(["delete", "--force", "a"]);
    node.stop_daemon();
    let said = restore(&node, &node.state_dir(), &backup).with_code(1).stderr;
    assert!(said.contains("has 1 containers"), "{said}");
    // A damaged store is refused with what to do, which then helps.
    let store = node.state_dir().join("node.redb");
    std::fs::write(&store, "nothing of a store").unwrap();
    let said = restore(&node, &node.state_dir(), &backup).with_code(1).stderr;
    assert!(said.contains("is damaged") && said.contains("move the file away"), "{said}");
    std::fs::rename(&store, node.directory().join("damaged")).unwrap();
    let _ = restore(&node, &node.state_dir(), &backup).ok();
    node.start_daemon();
    for before in [a, b] {
        let after = node.show(before["name"].as_str().unwrap());
        // Not its ids on the host: another node may have taken them since the delete gave them back.
        for field in ["id", "spec", "image", "address", "created"] {
            assert_eq!(after[field], before[field], "{field}");
        }
    }
    node.ok(["start", "a"]);
    assert_eq!(pids_limit(&node, "a"), 40);
}

#[test]
fn live_nothing_new_is_taken_on_when_the_disk_reserve_is_touched() {
    let mut node = node("");
    node.stop_daemon();
    std::fs::write(node.directory().join("node.toml"), "[capacity]\ndisk_reserve = '1000TiB'\n").unwrap();
    node.start_daemon();
    let said = node.fails(6, ["create", "--name", "c", "busybox", "true"]);
    assert!(said.contains("of space left") && said.contains("capacity.disk_reserve"), "{said}");
    let doctor = node.run(["doctor"]);
    let disk = doctor.stdout.lines().find(|line| line.split_whitespace().nth(1) == Some("disk"));
    assert_eq!((doctor.code, disk.map(|line| line.starts_with("failure"))), (1, Some(true)), "{}", doctor.stdout);
    assert_eq!(node.json(["list"]), serde_json::json!([]));
    node.ok(["run", "--rm", "busybox", "true"]);
}
