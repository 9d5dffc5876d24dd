//! Starts, seen from inside and from the host: what is mounted, what is reset, what is refused, how it ends.
#![allow(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is one module")]

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

use insula_testkit::{Leftovers, Node, PATIENCE, eventually, run_bounded};
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use serde_json::Value;

fn node() -> Node {
    let node = Node::start();
    node.import_busybox();
    node
}

/// Size of the tmpfs in a mount's superblock options, in bytes.
fn size_bytes(options: &[String]) -> u64 {
    let text = options.iter().find_map(|option| option.strip_prefix("size=")).unwrap();
    let (digits, unit) = match text.strip_suffix('k') {
        Some(digits) => (digits, 1024),
        None => (text, 1),
    };
    digits.parse::<u64>().unwrap() * unit
}

/// What of a node does not belong to one container alone may stay after a refusal; the rest may not. The launcher's
/// workers end a moment after the answer.
fn nothing_new(before: &Leftovers, node: &Node) {
    let seen = |left: &Leftovers| {
        let pids: Vec<_> = left.processes.iter().map(|(pid, _)| *pid).collect();
        format!("{:?} {:?} {:?} {pids:?}", left.cgroups, left.links, left.mounts)
    };
    let before = seen(before);
    eventually("nothing is left of what ended or was refused", || (seen(&node.on_host()) == before).then_some(()));
}

#[test]
fn live_a06_the_mount_steps_are_done_at_start() {
    let node = node();
    let options = ["--timezone", "Europe/Rome", "--env", "GREETING=good morning"];
    let report = node.probe_run(&options);
    let root = report.mount_at("/").unwrap();
    assert_eq!(root.kind, "erofs");
    assert!(root.options.iter().any(|option| option == "ro"), "{root:?}");
    for target in ["/etc", "/var", "/root", "/home"] {
        let mount = report.mount_at(target).unwrap();
        assert_eq!(mount.kind, "overlay", "{target}");
        assert!(mount.options.iter().any(|option| option == "rw"), "{target}");
    }
    for target in ["/dev", "/run", "/tmp"] {
        let mount = report.mount_at(target).unwrap();
        assert_eq!(mount.kind, "tmpfs", "{target}");
        let size = size_bytes(&mount.superblock);
        assert!((5 << 20..=200 << 20).contains(&size), "{target} has {size} bytes");
    }
    assert!(report.mount_at("/sw").unwrap().options.iter().any(|option| option == "ro"));
    assert!(report.mount_at("/data").unwrap().options.iter().any(|option| option == "rw"));
    assert_eq!(report.env["GREETING"], "good morning");
    assert_eq!(report.env["TZ"], "Europe/Rome");
    let targets: Vec<&str> = report.mounts.iter().map(|mount| mount.target.as_str()).collect();
    let places =
        targets.iter().filter(|target| !["/dev/", "/proc/", "/sys/"].iter().any(|views| target.starts_with(views)));
    let planned = ["/", "/data", "/dev", "/etc", "/home", "/proc", "/root", "/run", "/sw", "/sys", "/tmp", "/var"];
    assert_eq!(places.copied().collect::<BTreeSet<_>>(), BTreeSet::from(planned));
    assert_eq!(targets.iter().collect::<BTreeSet<_>>().len(), targets.len(), "one mount in each place: {targets:?}");
}

#[test]
fn live_a06_writable_places_have_the_sizes_of_the_plan() {
    let node = node();
    let script = "df -k /etc /var /tmp /dev /run /root /home | tail -n +2";
    let listed = node.ok(["run", "--rm", "busybox", "sh", "-c", script]);
    let rows: Vec<&str> = listed.text().lines().collect();
    assert_eq!(rows.len(), 7, "{}", listed.stdout);
    for row in rows {
        let kib: u64 = row.split_ascii_whitespace().nth(1).unwrap().parse().unwrap();
        assert!((5 * 1024..=200 * 1024).contains(&kib), "{row}");
    }
    let full = node.run(["run", "--rm", "busybox", "dd", "if=/dev/zero", "of=/etc/big", "bs=1M", "count=300"]);
    assert_eq!(full.code, 1);
    assert!(full.stderr.contains("No space left"), "{}", full.stderr);
}

#[test]
fn live_a07_the_image_is_read_only_and_only_data_outlives_a_restart() {
    let node = node();
    node.ok(["run", "-d", "--name", "c", "busybox", "sleep", "1000"]);
    let script = "echo mine >/etc/mark; echo >/var/mark; echo >/tmp/mark; echo kept >/data/mark; \
                  echo of >/data/service/mark; rm /etc/passwd; ls /data";
    assert_eq!(node.ok(["exec", "c", "sh", "-c", script]).text(), "mark\nservice");
    for path in ["/usr/x", "/bin/x", "/sw/x", "/x"] {
        let said = node.fails(1, ["exec", "c", "touch", path]);
        assert!(said.contains("Read-only file system"), "{path}: {said}");
    }
    node.ok(["restart", "c"]);
    for path in ["/etc/mark", "/var/mark", "/tmp/mark"] {
        let _ = node.fails(1, ["exec", "c", "test", "-e", path]);
    }
    assert_eq!(node.ok(["exec", "c", "cat", "/data/mark", "/data/service/mark"]).text(), "kept\nof");
    assert!(node.ok(["exec", "c", "cat", "/etc/passwd"]).stdout.starts_with("root:"));
}

#[test]
fn live_a_writable_root_keeps_what_is_written() {
    let node = node();
    node.ok(["run", "-d", "--name", "c", "--root", "writable", "busybox", "sleep", "1000"]);
    node.ok(["exec", "c", "sh", "-c", "echo mine >/usr/bin/own && mkdir /new && rm /bin/vi"]);
    node.ok(["restart", "c"]);
    node.ok(["exec", "c", "sh", "-c", "test -d /new && ! test -e /bin/vi"]);
    assert_eq!(node.ok(["exec", "c", "cat", "/usr/bin/own"]).text(), "mine");
    assert_eq!(node.ok(["run", "--rm", "busybox", "ls", "/usr/bin"]).text(), "", "the image itself has not changed");
}

#[test]
fn live_a04_an_unknown_version_falls_back_to_the_default_and_says_so() {
    let node = node();
    let before = node.at_rest();
    let run = node.ok(["run", "--rm", "busybox@7", "cat", "/etc/os-release"]);
    assert!(run.stdout.contains("ID=busybox"));
    assert!(run.stderr.contains("busybox@7") && run.stderr.contains("busybox@1"), "{}", run.stderr);
    let said = node.fails(125, ["run", "--rm", "--strict", "busybox@7", "true"]);
    assert!(said.contains("busybox@7"), "{said}");
    let said = node.fails(3, ["create", "--strict", "busybox@7", "true"]);
    assert!(said.contains("busybox@7"), "{said}");
    nothing_new(&before, &node);
}

#[test]
fn live_a09_a_missing_image_is_refused_and_leaves_nothing() {
    let node = node();
    let before = node.at_rest();
    let said = node.fails(125, ["run", "--rm", "nothing", "true"]);
    assert!(said.contains("nothing"), "{said}");
    assert_eq!(node.json(["list"]).as_array().unwrap().len(), 0);
    nothing_new(&before, &node);
}

#[test]
fn live_a09_an_image_or_a_mount_plan_that_is_gone_or_none_refuses_the_start() {
    let mut node = node();
    node.ok(["create", "--name", "c", "busybox", "true"]);
    let version = node.state_dir().join("images/busybox/1");
    let image = File::open(version.join("root.erofs")).unwrap();
    ioctl_setflags(&image, ioctl_getflags(&image).unwrap() - IFlags::IMMUTABLE).unwrap();
    let aside = node.directory().join("aside");
    let refused = |node: &Node, what: &str| {
        let before = node.at_rest();
        let said = node.fails(1, ["start", "c"]);
        assert!(said.contains("busybox@1"), "{what}: {said}");
        nothing_new(&before, node);
    };
    for (what, place) in [("the version", version.clone()), ("its file", version.join("root.erofs"))] {
        std::fs::rename(&place, &aside).unwrap();
        refused(&node, what);
        std::fs::rename(&aside, &place).unwrap();
    }
    // The plan is in the manifest, which a daemon reads when it starts.
    let manifest = version.join("manifest.cbor");
    let good = std::fs::read(&manifest).unwrap();
    for (what, bytes) in
        [("no plan", None), ("a plan that is none", Some(&b"no plan"[..])), ("its half", Some(&good[..99]))]
    {
        node.stop_daemon();
        std::fs::remove_file(&manifest).unwrap();
        bytes.into_iter().for_each(|bytes| std::fs::write(&manifest, bytes).unwrap());
        node.start_daemon();
        refused(&node, what);
        if bytes.is_none() {
            std::fs::write(&manifest, "").unwrap();
        }
    }
    node.stop_daemon();
    std::fs::write(&manifest, &good).unwrap();
    node.start_daemon();
    node.ok(["start", "c"]);
}

#[test]
fn live_a09_data_that_cannot_be_reached_refuses_the_start() {
    let node = node();
    node.ok(["create", "--name", "c", "busybox", "true"]);
    let data = node.show("c")["data_path"].as_str().unwrap().to_owned();
    let parent = Path::new(&data).parent().unwrap();
    std::fs::create_dir_all(parent).unwrap();
    // Whatever was there: now it is a file.
    let _ = std::fs::remove_dir_all(&data);
    std::fs::write(&data, "").unwrap();
    let before = node.at_rest();
    let said = node.fails(1, ["start", "c"]);
    assert!(said.contains("data"), "{said}");
    nothing_new(&before, &node);
    std::fs::remove_file(&data).unwrap();
    node.ok(["start", "c"]);
}

#[test]
fn live_exit_codes_are_those_of_the_field() {
    let node = node();
    for (code, command) in [
        (0, vec!["true"]),
        (7, vec!["sh", "-c", "exit 7"]),
        (127, vec!["no-such-program"]),
        (126, vec!["/etc/passwd"]),
        (137, vec!["sh", "-c", "kill -9 $$"]),
        (143, vec!["sh", "-c", "kill -15 $$"]),
    ] {
        let run = node.run([vec!["run", "--rm", "busybox"], command.clone()].concat());
        assert_eq!(run.code, code, "{command:?}: {}", run.stderr);
    }
    node.ok(["run", "-d", "--name", "c", "busybox", "sleep", "1000"]);
    for (code, command) in [
        (0, vec!["true"]),
        (7, vec!["sh", "-c", "exit 7"]),
        (127, vec!["no-such-program"]),
        (126, vec!["/etc/passwd"]),
        (137, vec!["sh", "-c", "kill -9 $$"]),
    ] {
        let exec = node.run([vec!["exec", "c"], command.clone()].concat());
        assert_eq!(exec.code, code, "{command:?}: {}", exec.stderr);
    }
    let _ = node.fails(3, ["show", "nobody"]);
    let _ = node.fails(4, ["create", "--name", "c", "busybox", "true"]);
    let _ = node.fails(2, ["delete", "--no-such-option", "c"]);
}

#[test]
fn live_standard_streams_are_those_of_the_caller() {
    let node = node();
    let run = node.run_with_input(["run", "--rm", "-i", "busybox", "sh", "-c", "cat; echo err >&2"], b"given\n").ok();
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("given\n", "err\n"));
    let terminal = node.ok(["run", "--rm", "-t", "busybox", "tty"]);
    assert!(terminal.stdout.starts_with("/dev/pts/"), "{}", terminal.stdout);
    node.ok(["run", "-d", "--name", "c", "busybox", "sleep", "1000"]);
    let exec = node.run_with_input(["exec", "-i", "c", "wc", "-c"], &[b'x'; 300_000]).ok();
    assert_eq!(exec.text().trim(), "300000");
}

#[test]
fn live_stop_asks_with_a_signal_and_kills_after_the_time() {
    let node = node();
    let polite = "trap 'exit 9' USR1; while :; do sleep 0.05; done";
    node.ok(["run", "-d", "--name", "polite", "--stop-signal", "USR1", "busybox", "sh", "-c", polite]);
    // The trap must be set before the signal is asked for.
    eventually("the trap is set", || {
        let caught = node.ok(["exec", "polite", "grep", "SigCgt", "/proc/2/status"]).stdout;
        let mask = u64::from_str_radix(caught.split_ascii_whitespace().last()?, 16).ok()?;
        (mask & (1 << 9) != 0).then_some(())
    });
    node.ok(["stop", "polite"]);
    assert_eq!(node.show("polite")["exit_code"], 9);

    let deaf = "trap '' TERM; echo deaf >/data/ready; while :; do sleep 0.05; done";
    node.ok(["run", "-d", "--name", "deaf", "busybox", "sh", "-c", deaf]);
    eventually("it is deaf", || (node.run(["exec", "deaf", "test", "-e", "/data/ready"]).code == 0).then_some(()));
    let began = std::time::Instant::now();
    node.ok(["stop", "--timeout", "1", "deaf"]);
    let took = began.elapsed();
    assert_eq!(node.show("deaf")["exit_code"], 137);
    assert!((1..10).contains(&took.as_secs()), "{took:?}");
}

#[test]
fn live_a_restart_policy_starts_again_what_ended() {
    let node = node();
    let script = "echo >>/data/starts; sleep 0.05; exit 3";
    node.ok(["run", "-d", "--name", "thrice", "--restart", "on-failure:2", "busybox", "sh", "-c", script]);
    eventually("it gave up", || {
        let shown = node.show("thrice");
        (matches!(shown["state"].as_str(), Some("stopped" | "failed")) && shown["restarts"] == 2).then_some(())
    });
    let shown = node.show("thrice");
    assert_eq!(shown["exit_code"], 3);
    let starts = std::fs::read_to_string(Path::new(shown["data_path"].as_str().unwrap()).join("starts")).unwrap();
    assert_eq!(starts.lines().count(), 3);

    node.ok(["run", "-d", "--name", "ends", "--restart", "on-failure", "busybox", "true"]);
    node.wait_for_state("ends", "stopped");
    assert_eq!(node.show("ends")["restarts"], 0);

    node.ok(["run", "-d", "--name", "always", "--restart", "always", "busybox", "sleep", "1000"]);
    let first = node.show("always")["pid"].clone();
    // The command goes down with what it kills.
    let _ = node.run(["exec", "always", "sh", "-c", "kill 2"]);
    eventually("it runs again", || {
        let shown = node.show("always");
        (shown["state"] == "running" && shown["pid"] != first && shown["restarts"] == 1).then_some(())
    });
    node.ok(["stop", "always"]);
    assert_eq!(node.show("always")["state"], "stopped");
}

#[test]
fn live_who_follows_a_log_reads_on_while_something_starts_the_container_again() {
    let node = node();
    let script = "echo start; exit 3";
    node.ok(["run", "-d", "--name", "thrice", "--restart", "on-failure:2", "busybox", "sh", "-c", script]);
    assert_eq!(node.ok(["logs", "--follow", "thrice"]).text(), "start\nstart\nstart");

    let long = "echo start; sleep 1000";
    node.ok(["run", "-d", "--name", "again", "--stop-timeout", "0", "busybox", "sh", "-c", long]);
    let log = std::fs::File::create(node.directory().join("followed")).unwrap();
    let mut follower = node.insula(["logs", "--follow", "again"]).stdout(log).spawn().unwrap();
    let followed = |starts: usize| {
        eventually("it is followed", || {
            let text = std::fs::read_to_string(node.directory().join("followed")).unwrap();
            (text.lines().count() == starts).then_some(())
        });
    };
    followed(1);
    node.ok(["restart", "again"]);
    followed(2);
    node.ok(["stop", "again"]);
    assert!(follower.wait().unwrap().success());
}

#[test]
fn live_logs_are_kept_with_their_times() {
    let node = node();
    let script = "i=0; while [ $i -lt 20 ]; do i=$((i+1)); echo line $i; done; echo wrong >&2";
    node.ok(["run", "-d", "--name", "c", "busybox", "sh", "-c", script]);
    node.wait_for_state("c", "stopped");
    let logs = node.ok(["logs", "c"]);
    assert_eq!(logs.stdout.lines().filter(|line| line.starts_with("line ")).count(), 20, "{}", logs.stdout);
    assert!(logs.stderr.contains("wrong"), "standard error goes there: {}", logs.stderr);
    let tail = node.ok(["logs", "--tail", "3", "c"]);
    assert_eq!(tail.stdout.lines().count() + tail.stderr.lines().count(), 3, "{tail:?}");
    assert!(tail.stdout.contains("line 20") && !tail.stdout.contains("line 17"), "{tail:?}");
    assert_eq!(node.ok(["logs", "--since", "1h", "c"]).stdout, logs.stdout);
    let later = node.ok(["logs", "--since", "2100-01-01T00:00:00Z", "c"]);
    assert_eq!((later.stdout.as_str(), later.stderr.as_str()), ("", ""));
}

#[test]
fn live_many_verbs_on_one_container() {
    let node = node();
    node.ok(["run", "-d", "--name", "c", "--label", "role=web", "busybox", "sleep", "1000"]);
    node.ok(["pause", "c"]);
    node.wait_for_state("c", "paused");
    node.ok(["resume", "c"]);
    node.ok(["rename", "c", "d"]);
    let listed = node.json(["list", "--filter", "label=role:web"]);
    assert_eq!(listed[0]["name"], "d");
    assert_eq!(node.json(["list", "--filter", "state=stopped"]), Value::Array(Vec::new()));
    let _ = node.fails(4, ["delete", "d"]);
    node.ok(["kill", "--signal", "KILL", "d"]);
    node.wait_for_state("d", "stopped");
    assert_eq!(node.show("d")["exit_code"], 137);
    node.ok(["delete", "d"]);
    let _ = node.fails(3, ["show", "d"]);
}

/// How many containers of one image share it in the test.
const SHARERS: u32 = 50;

/// Size and the process's share, in KiB, of its executable memory that comes from `/bin/busybox`.
fn text_kib(pid: &str) -> (u64, u64) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let (mut sums, mut counts) = ((0, 0), false);
    for line in text.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words[..] {
            ["Size:", kib, "kB"] if counts => sums.0 += kib.parse::<u64>().unwrap(),
            ["Pss:", kib, "kB"] if counts => sums.1 += kib.parse::<u64>().unwrap(),
            [_, mode, ..] if mode.len() == 4 && mode.ends_with('p') => {
                counts = mode.starts_with("r-x") && line.ends_with("/bin/busybox");
            }
            _ => {}
        }
    }
    sums
}

#[test]
fn live_a05_fifty_containers_have_one_copy_of_their_image_in_memory_and_on_disk() {
    let node = node();
    let blocks = |path: &Path| {
        let mut command = std::process::Command::new("du");
        command.args(["--summarize", "--block-size=1"]).arg(path);
        let said = run_bounded(command, b"", PATIENCE).ok().stdout;
        said.split_ascii_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    node.ok(["run", "-d", "--name", "c0", "busybox", "sleep", "1000"]);
    let before = blocks(&node.state_dir());
    for number in 1..SHARERS {
        node.ok(["run", "-d", "--name", &format!("c{number}"), "busybox", "sleep", "1000"]);
    }
    // The daemon's own store shrinks now and then by more than all containers took.
    let grown = blocks(&node.state_dir()).saturating_sub(before) / u64::from(SHARERS - 1);
    assert!(grown < 100_000, "each container took {grown} bytes of disk");
    let mut shared = 0;
    let mut copy = 0;
    for number in 0..SHARERS {
        let rows = node.json(["top", &format!("c{number}")]);
        let main = rows.as_array().unwrap().iter().find(|row| row["command"] == "sleep 1000").unwrap();
        let (size, share) = text_kib(&main["pid"].to_string());
        shared += share;
        copy = copy.max(size);
    }
    // Which pages are resident differs a little from one to the next; together they are not more than the program has.
    assert!(shared > 0 && shared * 10 <= copy * 11, "{shared} KiB together, one copy has {copy} KiB");
}
