//! Images from recipes, and their way into production.
#![allow(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is one module")]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use insula_testkit::{Node, debian_archive, eventually};
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use rustix::process::{Pid, Signal, kill_process};

/// Writes `text` with the base of busybox as a recipe for `small@VERSION` into the node's directory.
fn recipe(node: &Node, version: &str, text: &str) -> PathBuf {
    let path = node.directory().join(format!("{version}.toml"));
    let head = format!("name = \"small\"\nversion = \"{version}\"\n");
    std::fs::write(&path, format!("{head}{text}\n[base]\nscratch = \"busybox\"\n")).unwrap();
    path
}

fn build(node: &Node, version: &str, text: &str) {
    let path = recipe(node, version, text);
    let _ = node.ok(["image", "build", path.to_str().unwrap()]);
}

/// What a container of `small` prints.
fn prints(node: &Node, words: &[&str]) -> String {
    node.ok([&["run", "--rm", "small"], words].concat()).text().to_owned()
}

/// Nothing of an operation on images is left in the state directory.
fn assert_no_operation_left(node: &Node) {
    eventually("no unfinished image is left", || {
        let left = std::fs::read_dir(node.state_dir().join("images/.incoming")).unwrap().count();
        let [containers, data] =
            ["containers", "v"].map(|name| std::fs::read_dir(node.state_dir().join(name)).map_or(0, Iterator::count));
        (left == 0 && containers == 0 && data == 0).then_some(())
    });
}

const EVERYTHING: &str = r#"
timezone = "Europe/Rome"

[env]
GREETING = "hello"

[[files]]
path = "/etc/motd"
content = "from the recipe"
mode = 0o640
gid = 7

[[files]]
path = "/etc/hosts"
content = "127.0.0.1 of-the-image\n"

[[files]]
path = "/srv/beside"
source = "beside.txt"

[[users]]
name = "app"
uid = 1234
home = "/home/app"

[[run]]
shell = "echo $GREETING from $(id -u) on $(hostname) > /srv/said; echo first line; echo second >&2"

[[run]]
command = ["chown", "app", "/srv/said"]

[[run]]
shell = "rm /srv/beside; mkdir -p /opt/tool; echo tool > /opt/tool/own; ln -s own /opt/tool/link; touch /dev/x /data/x /etc/x"

[[places]]
path = "/etc"
size = "5MiB"

[[places]]
path = "/var"
size = "8MiB"

[[places]]
path = "/tmp"
size = "6MiB"
content = "empty"
"#;

#[test]
fn live_a01_what_a_recipe_says_is_what_a_container_sees() {
    let node = Node::start();
    std::fs::write(node.directory().join("beside.txt"), "beside").unwrap();
    let path = recipe(&node, "1", EVERYTHING);
    let built = node.ok(["image", "build", path.to_str().unwrap()]);
    assert_eq!(built.text(), "small@1");
    for line in ["first line", "second", "$ chown app /srv/said"] {
        assert!(built.stderr.lines().any(|shown| shown == line), "{line}: {}", built.stderr);
    }
    assert_no_operation_left(&node);
    assert_eq!(prints(&node, &["cat", "/srv/said"]), "hello from 0 on build");
    assert_eq!(prints(&node, &["stat", "-c", "%u %a", "/srv/said"]), "1234 644");
    assert_eq!(prints(&node, &["stat", "-c", "%g %a", "/etc/motd"]), "7 640");
    assert_eq!(
        prints(&node, &["sh", "-c", "cat /opt/tool/link; ls /srv /data /etc/x; ls /dev/x 2>&1 | wc -l"]),
        "tool\n/etc/x\n\n/data:\nservice\n\n/srv:\nsaid\n1"
    );
    assert_eq!(
        prints(&node, &["sh", "-c", "echo $GREETING; cat /etc/timezone; id -u app; ls -d ~app"]),
        "hello\nEurope/Rome\n1234\n/home/app"
    );
    let sizes = prints(&node, &["sh", "-c", "df -k /etc /var /tmp | awk 'NR > 1 {print $2}'"]);
    assert_eq!(sizes.lines().last(), Some("6144"), "{sizes}");
    let full = prints(
        &node,
        &[
            "sh",
            "-c",
            "dd if=/dev/zero of=/var/x bs=1M count=9 2>/dev/null; stat -c %s /var/x; touch /usr/x 2>/dev/null || echo refused",
        ],
    );
    let (size, root) = full.split_once('\n').unwrap();
    assert!(size.parse::<u64>().unwrap() <= 8 << 20 && root == "refused", "{full}");
    let shown = node.json(["image", "show", "small@1"]);
    assert_eq!(shown["mount_plan"]["places"][0]["path"], "/etc");
    // Root, plan and signature lie in a directory of the version's own.
    let files = names(&node.state_dir().join("images/small/1"));
    for file in ["manifest.cbor", "manifest.json", "root.erofs", "stage"] {
        assert!(files.contains(file), "{files:?}");
    }
    assert_eq!(shown["stage"], "testing");
}

#[test]
fn live_a01_two_builds_of_the_same_recipe_have_the_same_digest() {
    let digests = [(), ()].map(|()| {
        let node = Node::start();
        std::fs::write(node.directory().join("beside.txt"), "beside").unwrap();
        build(&node, "1", EVERYTHING);
        node.json(["image", "show", "small@1"])["digest"].as_str().unwrap().to_owned()
    });
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn live_a01_an_existing_version_is_refused_before_any_work() {
    let node = Node::start();
    build(&node, "1", "");
    let digest = node.json(["image", "show", "small@1"])["digest"].clone();
    let again = recipe(&node, "1", "[[run]]\nshell = \"echo ran\"\n");
    let said = node.fails(4, ["image", "build", again.to_str().unwrap()]);
    assert!(said.contains("small@1 exists already") && !said.contains("ran"), "{said}");
    assert_eq!(node.json(["image", "show", "small@1"])["digest"], digest);
    assert_no_operation_left(&node);
}

#[test]
fn live_a01_a_recipe_that_is_none_is_refused_with_the_nearest_field() {
    let node = Node::start();
    let path = recipe(&node, "1", "timezon = \"UTC\"\n");
    let said = node.fails(2, ["image", "build", path.to_str().unwrap()]);
    assert!(said.contains("line 3") && said.contains("timezone"), "{said}");
    assert_no_operation_left(&node);
}

#[test]
fn live_a01_a_failing_command_fails_the_build_with_its_step_code_and_last_words() {
    let node = Node::start();
    let path = recipe(&node, "1", "[[run]]\nshell = \"true\"\n[[run]]\nshell = \"echo oh no; exit 7\"\n");
    let said = node.fails(1, ["image", "build", path.to_str().unwrap()]);
    assert!(said.contains("step 2 of 2") && said.contains("code 7: oh no"), "{said}");
    let path = recipe(&node, "1", "[[run]]\ncommand = [\"no-such-program\"]\n");
    let said = node.fails(1, ["image", "build", path.to_str().unwrap()]);
    assert!(said.contains("code 127") && said.contains("no-such-program"), "{said}");
    assert_eq!(node.json(["image", "list"]).as_array().unwrap().len(), 0);
    assert_no_operation_left(&node);
}

#[test]
fn live_a01_a_command_that_takes_too_long_or_too_much_is_ended_by_name() {
    let node = Node::start();
    let keeps_on = "[[run]]\nshell = \"true\"\n[[run]]\nshell = \"sleep 1000 & sleep 1000\"\ntimeout_ms = 1500\n";
    let said = node.fails(1, ["image", "build", recipe(&node, "1", keeps_on).to_str().unwrap()]);
    for word in ["small@1", "step 2 of 2", "`sleep 1000 & sleep 1000` was ended after 1.5s", "timeout_ms"] {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
    assert_no_operation_left(&node);
    // The one is seen while it writes, the other has ended before anybody looked.
    let fills = "while :; do head -c 1000000 /dev/urandom >> /usr/large; sleep 0.05; done";
    for script in [fills, "head -c 20000000 /dev/urandom > /usr/large; sync"] {
        let text = format!("layer_size_max = \"8MiB\"\n[[run]]\nshell = '{script}'\n");
        let said = node.fails(1, ["image", "build", recipe(&node, "1", &text).to_str().unwrap()]);
        for word in ["small@1", "step 1 of 1", "above 8MiB; raise layer_size_max"] {
            assert!(said.contains(word), "`{word}` is not in: {said}");
        }
        assert_no_operation_left(&node);
    }
    assert_eq!(node.json(["image", "list"]).as_array().unwrap().len(), 0);
}

#[test]
fn live_a01_commands_of_a_recipe_are_isolated_like_a_container() {
    let node = Node::start();
    let mark = node.directory().join("of-the-host");
    std::fs::write(&mark, "").unwrap();
    let script = format!(
        "set -e; cat /proc/self/uid_map; grep Seccomp: /proc/self/status; ls -A /dev; hostname; \
         test -e {} && echo sees-the-host; mknod /tmp/x b 8 0 2>/dev/null && echo made-a-device; ls /sys/class/net",
        mark.display()
    );
    let text = format!("[[run]]\nshell = '''({script}) > /usr/seen; true'''\n[[run]]\nshell = 'ps > /usr/processes'\n");
    build(&node, "1", &text);
    let seen = prints(&node, &["cat", "/usr/seen"]);
    let mut words = seen.lines().next().unwrap().split_whitespace();
    assert_eq!(words.next(), Some("0"));
    assert_ne!(words.next(), Some("0"), "root is not the host's: {seen}");
    assert!(seen.contains("Seccomp:\t2") && seen.contains("\nbuild\n"), "{seen}");
    assert!(!seen.contains("sees-the-host") && !seen.contains("made-a-device") && !seen.contains("sda"), "{seen}");
    let processes = prints(&node, &["cat", "/usr/processes"]);
    assert!(processes.lines().count() <= 4, "{processes}");
}

#[test]
fn live_a01_a_command_reaches_the_network_only_if_the_recipe_says_so() {
    let node = Node::start();
    build(&node, "1", "");
    node.ok(["run", "-d", "--name", "server", "small", "nc", "-ll", "-p", "80", "-e", "cat", "/etc/passwd"]);
    let address = node.show("server")["address"].as_str().unwrap().to_owned();
    let server: SocketAddr = format!("{address}:80").parse().unwrap();
    eventually("the server listens", || TcpStream::connect_timeout(&server, Duration::from_secs(2)).ok());
    let step = |network: bool| {
        format!("[[run]]\nshell = 'nc -w 5 {address} 80 < /dev/null > /usr/got'\nnetwork = {network}\n")
    };
    let path = recipe(&node, "2", &step(false));
    let said = node.fails(1, ["image", "build", path.to_str().unwrap()]);
    assert!(said.contains("step 1 of 1"), "{said}");
    build(&node, "2", &step(true));
    assert!(node.ok(["run", "--rm", "small@2", "cat", "/usr/got"]).stdout.contains("root"));
    let names = "[[run]]\nshell = 'nslookup -type=a server.insula > /usr/found'\nnetwork = true\n";
    build(&node, "3", names);
    assert!(node.ok(["run", "--rm", "small@3", "cat", "/usr/found"]).stdout.contains(&address));
}

#[test]
fn live_a01_a_build_that_is_cancelled_or_whose_daemon_is_killed_leaves_nothing() {
    let mut node = Node::start();
    let path = recipe(&node, "1", "[[run]]\nshell = 'echo working; while :; do date > /usr/now; done'\n");
    let before = node.at_rest();
    for end in ["interrupt", "kill the daemon", "end the daemon"] {
        let mut build = node.insula(["image", "build"]);
        build.arg(&path).stderr(Stdio::piped()).stdout(Stdio::null());
        let mut build = build.spawn().unwrap();
        let mut lines = BufReader::new(build.stderr.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "working"), "the command runs");
        let limits = node.on_host().cgroups;
        let own = limits
            .iter()
            .filter(|group| group.file_name().unwrap().len() == "01234567-89ab-cdef-0123-456789abcdef".len());
        let limits = own.filter_map(|group| std::fs::read_to_string(group.join("pids.max")).ok());
        assert!(limits.into_iter().any(|limit| limit.trim().parse::<u32>().is_ok()), "its processes are limited");
        match end {
            "interrupt" => kill_process(Pid::from_child(&build), Signal::INT).unwrap(),
            "kill the daemon" => node.kill_daemon(),
            _ => node.stop_daemon(),
        }
        if end != "interrupt" {
            node.start_daemon();
        }
        while lines.next().is_some_and(|line| line.is_ok()) {}
        assert!(!build.wait().unwrap().success());
        assert_no_operation_left(&node);
        eventually("everything of the build is gone", || {
            let now = node.on_host();
            let same = (&now.mounts, &now.cgroups, &now.links) == (&before.mounts, &before.cgroups, &before.links);
            (same && now.processes.len() <= before.processes.len()).then_some(())
        });
        assert!(node.json(["image", "list"]).as_array().unwrap().is_empty());
    }
    // The name is free again.
    let path = recipe(&node, "1", "");
    node.ok(["image", "build", path.to_str().unwrap()]);
}

/// Every byte of a version as it lies on the disk, but for what is recorded about it.
fn bytes(node: &Node, version: &str) -> Vec<(String, Vec<u8>)> {
    let directory = node.state_dir().join("images/small").join(version);
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap()))
        .filter(|(name, _)| name != "stage" && name != "checked")
        .collect();
    files.sort();
    files
}

fn with_check(command: &str) -> String {
    format!("[config]\nchecks = [[\"sh\", \"-c\", '''{command}''']]\n")
}

#[test]
fn live_a02_a_test_whose_daemon_is_killed_leaves_nothing_and_others_containers_alone() {
    let mut node = Node::start();
    build(&node, "slow", &with_check("sleep 600"));
    node.ok(["run", "-d", "--rm", "--name", "other", "small@slow", "sleep", "600"]);
    let mut test = node.insula(["image", "test", "small@slow"]);
    let mut client = test.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let containers = |node: &Node| node.json(["list"]).as_array().unwrap().clone();
    eventually("its container runs", || {
        let all = containers(&node);
        (all.len() == 2 && all.iter().all(|container| container["state"] == "running")).then_some(())
    });
    node.kill_daemon();
    assert_ne!(client.wait().unwrap().code(), Some(0));
    node.start_daemon();
    let left = eventually("its container is gone", || Some(containers(&node)).filter(|left| left.len() == 1));
    assert_eq!((&left[0]["name"], &left[0]["state"]), (&"other".into(), &"running".into()));
    assert!(node.show("other")["reason"].is_null(), "{}", node.show("other"));
    assert!(node.fails(4, ["image", "promote", "small@slow"]).contains("never tested"));
}

#[test]
fn live_a02_only_an_image_that_passed_its_own_checks_is_promoted_and_stays_the_same_byte_by_byte() {
    let node = Node::start();
    let good = "test -d /data/service && grep -q 'Seccomp:.*2' /proc/self/status && ! touch /usr/x";
    build(&node, "good", &with_check(good));
    build(&node, "bad", &with_check("exit 3"));
    for image in ["small@good", "small@bad"] {
        let said = node.fails(4, ["image", "promote", image]);
        assert!(said.contains(image) && said.contains("test"), "{said}");
    }
    let before = bytes(&node, "good");
    assert!(before.iter().any(|(name, content)| name == "root.erofs" && content.len() > 100_000), "{}", before.len());
    assert_eq!(node.json(["image", "test", "small@good"])["passed"], true);
    let said = node.fails(1, ["image", "test", "small@bad"]);
    assert!(said.contains("small@bad"), "{said}");
    let said = node.fails(4, ["image", "promote", "small@bad"]);
    assert!(said.contains("failed"), "{said}");
    assert_eq!(node.json(["image", "show", "small@bad"])["stage"], "testing");
    node.ok(["image", "promote", "small@good"]);
    assert_eq!(node.json(["image", "show", "small@good"])["stage"], "production");
    assert!(bytes(&node, "good") == before, "promotion changes no byte");
    assert_no_operation_left(&node);
}

/// Names in a directory that do not begin with a dot.
fn names(path: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(path).into_iter().flatten().map(|entry| entry.unwrap());
    entries.map(|entry| entry.file_name().to_str().unwrap().to_owned()).filter(|name| !name.starts_with('.')).collect()
}

/// How many images the node's launcher has mounted.
fn mounted(node: &Node) -> usize {
    let launcher = node.servant("insula-launcher").unwrap().as_raw_nonzero();
    let mounts = std::fs::read_to_string(format!("/proc/{launcher}/mountinfo")).unwrap();
    let below = format!("{}/images/", node.run_dir().display());
    mounts.lines().filter(|line| line.contains(&below)).count()
}

#[test]
fn live_a02_garbage_is_what_no_container_needs_even_to_go_back() {
    let node = Node::start();
    for version in ["1", "2", "3", "4", "5"] {
        build(&node, version, &format!("[[files]]\npath = \"/usr/version\"\ncontent = \"{version}\"\n"));
    }
    // 1 is the default, 2 what c goes back to, 3 what it runs; 4 was used and is not any more; 5 was never.
    node.ok(["run", "-d", "--name", "c", "small@2", "sleep", "1000"]);
    node.ok(["upgrade", "c", "--image", "small@3"]);
    node.ok(["run", "--rm", "small@4", "true"]);
    // Its name is free at once; the image is until it was swept.
    eventually("the run is swept", || (node.json(["list"]).as_array().unwrap().len() == 1).then_some(()));
    assert_eq!(mounted(&node), 3);
    let collected = node.json(["image", "gc"]);
    assert_eq!(collected["removed"], serde_json::json!(["small@4", "small@5"]));
    assert!(collected["freed_bytes"].as_u64().unwrap() > 1_000_000, "{collected}");
    let images = node.state_dir().join("images");
    assert_eq!(names(&images), BTreeSet::from(["small".to_owned()]));
    assert_eq!(names(&images.join("small")), ["1", "2", "3"].map(str::to_owned).into());
    assert_eq!(std::fs::read_dir(images.join(".incoming")).unwrap().count(), 0);
    assert_eq!(mounted(&node), 2, "what was removed is unmounted, or its room on the disk stays taken");
    let said = node.fails(4, ["image", "remove", "small@2"]);
    assert!(said.contains("needed by c"), "{said}");
    node.ok(["rollback", "c"]);
    assert_eq!(node.ok(["exec", "c", "cat", "/usr/version"]).text(), "2");
    assert!(node.json(["image", "gc"])["removed"].as_array().unwrap().is_empty());
    node.ok(["delete", "--force", "c"]);
    node.ok(["image", "gc"]);
    assert_eq!(names(&images.join("small")), BTreeSet::from(["1".to_owned()]));
    assert_eq!(mounted(&node), 0);
}

#[test]
fn live_a02_verify_names_the_file_of_a_flipped_bit_and_nothing_starts_from_it() {
    let node = Node::start();
    let content = "a line that no other file has: 6f1d8a";
    build(&node, "1", &format!("[[files]]\npath = \"/usr/line\"\ncontent = \"{content}\"\n"));
    assert_eq!(node.json(["image", "verify", "small@1"])["intact"], true);
    let path = node.state_dir().join("images/small/1/root.erofs");
    let image = std::fs::read(&path).unwrap();
    let at = image.windows(content.len()).position(|bytes| bytes == content.as_bytes()).unwrap();
    let flags = ioctl_getflags(File::open(&path).unwrap()).unwrap();
    ioctl_setflags(File::open(&path).unwrap(), flags - IFlags::IMMUTABLE).unwrap();
    File::options().write(true).open(&path).unwrap().write_all_at(&[image[at] ^ 1], at.try_into().unwrap()).unwrap();
    let said = node.fails(1, ["image", "verify", "small@1"]);
    assert!(said.contains("/usr/line"), "{said}");
    let said = node.fails(125, ["run", "--rm", "small", "true"]);
    assert!(said.contains("small@1 is damaged"), "{said}");
}

/// The package is made by the recipe itself, so that the test needs no mirror but the archive's.
#[test]
fn live_debian_a01_a_package_is_installed_by_a_recipe_over_a_debian_root() {
    let archive = debian_archive();
    let node = Node::start();
    let text = format!(
        r#"
        name = "debian"
        version = "1"
        timezone = "Europe/Rome"
        [base]
        tar = "{}"
        [env]
        GREETING = "good day"
        [[users]]
        name = "app"
        groups = ["www-data"]
        [[files]]
        path = "/build/DEBIAN/control"
        content = "Package: own\nVersion: 1.2\nArchitecture: all\nMaintainer: a <a@b>\nDescription: d\n"
        [[files]]
        path = "/build/opt/own"
        content = "from the package\n"
        [[run]]
        shell = "dpkg-deb --root-owner-group --build /build /own.deb && dpkg --install /own.deb && rm -r /own.deb /build"
        [[run]]
        command = ["sh", "-c", "adduser --system --no-create-home robot && install -o app -d /srv/app"]
        [[places]]
        path = "/etc"
        size = "7MiB"
        [[places]]
        path = "/var"
        size = "21MiB"
        [config]
        user = "app"
        checks = [["dpkg", "--verify", "own"], ["sh", "-c", "id robot && test \"$GREETING\" = 'good day'"]]
        "#,
        archive.display()
    );
    let path = node.directory().join("debian.toml");
    std::fs::write(&path, text).unwrap();
    let built = node.ok(["image", "build", path.to_str().unwrap()]);
    assert!(built.stderr.contains("Setting up own (1.2)"), "{}", built.stderr);
    let script = "cat /opt/own; id -nG; stat -c %U /srv/app; ls / | grep -c build; \
                  df -k --output=size /etc /var | tail -n 2; date +%Z";
    let run = node.ok(["run", "--rm", "debian", "sh", "-c", script]);
    let lines: Vec<_> = run.text().lines().map(str::trim).collect();
    let (zone, others) = lines.split_last().unwrap();
    assert_eq!(others, ["from the package", "app www-data", "app", "0", "7168", "21504"]);
    assert!(["CET", "CEST"].contains(zone), "{zone}");
    assert_eq!(node.json(["image", "test", "debian@1"])["passed"], true);
    node.ok(["image", "promote", "debian@1"]);
}

/// Processes that were told to keep their files below `directory`.
fn working_below(directory: &Path) -> usize {
    let mark = format!("TMPDIR={}/", directory.display());
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let environs = processes.filter_map(|process| std::fs::read(process.path().join("environ")).ok());
    environs.filter(|environ| String::from_utf8_lossy(environ).contains(&mark)).count()
}

#[test]
fn live_debian_a01_a_bootstrap_whose_daemon_is_killed_stops_and_leaves_nothing() {
    let mut node = Node::start();
    let path = node.directory().join("debian.toml");
    std::fs::write(&path, "name = \"debian\"\nversion = \"1\"\n[base]\nsuite = \"bookworm\"\n").unwrap();
    let mut build = node.insula(["image", "build"]);
    let mut build = build.arg(&path).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let work = node.state_dir().join("images");
    eventually("the bootstrap works", || {
        let incoming = std::fs::read_dir(work.join(".incoming")).unwrap().filter_map(Result::ok);
        let mut unpacked = incoming.filter_map(|operation| std::fs::read_dir(operation.path().join("work")).ok());
        unpacked.any(|files| files.count() > 0).then_some(())
    });
    eventually("somebody works for the build", || (working_below(&work) > 0).then_some(()));
    node.kill_daemon();
    assert!(!build.wait().unwrap().success());
    node.start_daemon();
    assert_no_operation_left(&node);
    eventually("nobody works for the build", || (working_below(&work) == 0).then_some(()));
    assert_no_operation_left(&node);
}

#[test]
fn live_a01_the_complete_example_of_the_documentation_works() {
    let page = include_str!("../../../docs/recipes.md");
    let (_, examples) = page.split_once("## Complete examples").unwrap();
    let (_, example) = examples.split_once("```toml\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    let node = Node::start();
    let path = node.directory().join("hello.toml");
    std::fs::write(&path, example).unwrap();
    node.ok(["image", "build", path.to_str().unwrap()]);
    assert_eq!(node.ok(["run", "--rm", "hello", "there"]).text(), "hello, there, from root");
    assert_eq!(node.json(["image", "test", "hello@1"])["passed"], true);
}
