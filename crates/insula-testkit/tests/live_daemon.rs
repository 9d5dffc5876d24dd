//! The daemon on a real machine: killed at any moment, its servants killed, names and questions about containers.
#![allow(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is one module")]

use std::collections::BTreeSet;
use std::io::Read;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use insula_testkit::{Node, eventually, kernel_is_since, program};
use rustix::process::{Pid, Signal, kill_process};

fn node() -> Node {
    let node = Node::start();
    node.import_busybox();
    node
}

/// Names of the containers that `list` shows with these options.
fn names(node: &Node, options: &[&str]) -> Vec<String> {
    let list = node.json(["list"].iter().chain(options));
    let name = |container: &serde_json::Value| container["name"].as_str().unwrap().to_owned();
    list.as_array().unwrap().iter().map(name).collect()
}

#[test]
fn live_a_killed_daemon_loses_nothing() {
    let mut node = node();
    node.ok(["run", "-d", "--name", "stays", "busybox", "sleep", "600"]);
    node.ok(["run", "-d", "--name", "ends", "busybox", "sh", "-c", "sleep 0.3; exit 5"]);
    let foreground = node
        .insula(["run", "--rm", "--name", "front", "busybox", "sh", "-c", "sleep 1; echo done; exit 9"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("the foreground container runs", || {
        names(&node, &["--filter", "state=running"]).contains(&"front".to_owned()).then_some(())
    });
    let before = node.show("stays");
    node.kill_daemon();
    // The foreground client needs no daemon to see the end.
    let ended = foreground.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), ended.stdout.as_slice()), (Some(9), b"done\n".as_slice()));
    node.start_daemon();
    let after = node.show("stays");
    for key in ["id", "pid", "state", "image", "address", "uid_base", "started", "cgroup"] {
        assert_eq!(before[key], after[key], "{key}");
    }
    node.wait_for_state("ends", "stopped");
    assert_eq!(node.show("ends")["exit_code"], 5);
    assert_eq!(node.ok(["exec", "stays", "echo", "hello"]).text(), "hello");
    eventually("the foreground container is gone", || (names(&node, &[]).len() == 2).then_some(()));
    node.ok(["delete", "--force", "stays", "ends"]);
}

#[test]
fn live_a_daemon_killed_while_containers_start_finishes_or_undoes_them() {
    let mut node = node();
    for round in 0..5 {
        let mut clients: Vec<_> = (0..8)
            .map(|number| {
                let name = format!("c{round}-{number}");
                let mut client = node.insula(["run", "-d", "--name", &name, "busybox", "sleep", "600"]);
                client.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
            })
            .collect();
        eventually("some containers run", || {
            (names(&node, &["--filter", "state=running"]).len() > round).then_some(())
        });
        node.kill_daemon();
        for client in &mut clients {
            client.wait().unwrap();
        }
        node.start_daemon();
        for name in names(&node, &[]) {
            let state = node.show(&name)["state"].as_str().unwrap().to_owned();
            match state.as_str() {
                "running" => assert_eq!(node.ok(["exec", &name, "echo", "up"]).text(), "up", "{name}"),
                "created" | "stopped" => {}
                other => panic!("{name} is {other} after the daemon was killed"),
            }
        }
        let words = ["delete", "--force"].into_iter().map(str::to_owned).chain(names(&node, &[]));
        node.ok(words.collect::<Vec<_>>());
    }
}

#[test]
fn live_a_container_that_goes_when_it_ends_goes_wholly_under_whichever_daemon() {
    let mut node = node();
    let before = node.table_elements();
    for dies in [false, true] {
        for end in [&["stop", "--timeout", "0", "c"][..], &["kill", "c"], &["exec", "c", "kill", "-9", "-1"]] {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let publish = format!("127.0.0.1:{port}:80");
            node.ok(["run", "-d", "--rm", "--name", "c", "-p", &publish, "busybox", "sh", "-c", "sleep 600; true"]);
            assert!(node.table_elements() > before);
            if dies {
                node.kill_daemon();
                node.start_daemon();
            }
            node.run(end);
            eventually("it is gone", || names(&node, &[]).is_empty().then_some(()));
            assert_eq!(node.table_elements(), before, "{end:?}, killed: {dies}");
            assert!(TcpListener::bind(("127.0.0.1", port)).is_ok(), "the port is free again");
        }
    }
}

#[test]
fn live_a_container_that_goes_when_it_ends_is_under_the_next_daemon_what_it_was_made() {
    let mut node = node();
    node.ok(["run", "-d", "--rm", "--name", "c", "busybox", "sleep", "600"]);
    node.ok(["rename", "c", "other"]);
    node.ok(["set", "other", "memory.limit=64MiB", "label.kind=x"]);
    // That this is over is known, too.
    node.ok(["restart", "--timeout", "0", "other"]);
    let before = node.show("other");
    node.kill_daemon();
    node.start_daemon();
    let shown = node.show("other");
    for key in ["state", "pid", "started"] {
        assert_eq!(shown[key], before[key], "{key}");
    }
    let memory = &shown["effective_resources"]["memory_limit"];
    assert_eq!((memory, &shown["labels"]["kind"]), (&(64 << 20).into(), &"x".into()), "{shown}");
    assert_eq!(names(&node, &[]), ["other"]);
}

/// What is asked of a running container when the daemon dies, and the states in which it may be found.
const INTERRUPTED: [(&[&str], &[&str]); 5] = [
    (&["stop", "c"], &["running", "stopped"]),
    (&["restart", "c"], &["running"]),
    (&["kill", "c"], &["running", "stopped"]),
    (&["pause", "c"], &["running", "paused"]),
    (&["delete", "--force", "c"], &["running", "gone"]),
];

#[test]
fn live_whatever_a_daemon_is_killed_in_the_middle_of_is_finished_or_undone() {
    let mut node = node();
    for (words, states) in INTERRUPTED {
        for round in 0..6 {
            node.ok([
                "run",
                "-d",
                "--name",
                "c",
                "busybox",
                "sh",
                "-c",
                "trap 'sleep 0.02; exit 4' TERM; sleep 600 & wait",
            ]);
            let mut client = node.insula(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(6) * round);
            node.kill_daemon();
            client.wait().unwrap();
            node.start_daemon();
            let found = eventually("it is at rest", || {
                let Some(shown) = node.json(["list"]).as_array().unwrap().first().cloned() else {
                    return Some("gone".to_owned());
                };
                let state = shown["state"].as_str().unwrap().to_owned();
                (!["starting", "stopping"].contains(&state.as_str())).then_some(state)
            });
            assert!(states.contains(&found.as_str()), "{words:?} in round {round}: {found}");
            match found.as_str() {
                "running" => assert_eq!(node.ok(["exec", "c", "echo", "up"]).text(), "up"),
                "paused" => drop(node.ok(["resume", "c"])),
                "stopped" => drop(node.ok(["start", "c"])),
                _ => continue,
            }
            node.ok(["delete", "--force", "c"]);
        }
    }
}

#[test]
fn live_a_killed_launcher_and_a_killed_keeper_are_replaced() {
    let node = node();
    node.ok(["run", "-d", "--name", "logs", "busybox", "sh", "-c", "while :; do date +%s.%N; sleep 0.05; done"]);
    node.ok(["run", "-d", "--name", "ends", "busybox", "sh", "-c", "sleep 1; exit 6"]);
    for servant in ["insula-launcher", "insula-keeper"] {
        let old = node.servant(servant).unwrap();
        kill_process(old, Signal::KILL).unwrap();
        eventually("another one has its place", || node.servant(servant).filter(|now| *now != old));
        assert_eq!(node.ok(["exec", "logs", "echo", "hello"]).text(), "hello");
        eventually("starts work again", || {
            (node.run(["run", "--rm", "busybox", "echo", "new"]).code == 0).then_some(())
        });
    }
    node.wait_for_state("ends", "stopped");
    assert_eq!(node.show("ends")["exit_code"], 6);
    let seen = lines_of_log(&node, "logs");
    eventually("the log goes on", || (lines_of_log(&node, "logs") > seen).then_some(()));
    node.ok(["delete", "--force", "logs", "ends"]);
}

/// Handles of processes that one of the node's programs has open.
fn process_handles(node: &Node, servant: &str) -> usize {
    let folder = format!("/proc/{}/fd", node.servant(servant).unwrap().as_raw_nonzero());
    let targets = std::fs::read_dir(folder).unwrap().filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    targets.filter(|target| target.to_string_lossy().contains("pidfd")).count()
}

#[test]
fn live_a_keeper_that_dies_before_it_was_told_of_an_end_hands_nothing_on() {
    let node = node();
    let handles = || ["insula-launcher", "insula-keeper"].map(|servant| process_handles(&node, servant));
    let (handles_before, groups_before) = (handles(), node.on_host().cgroups.len());
    node.ok(["run", "-d", "--name", "c", "busybox", "sleep", "600"]);
    assert_ne!(handles(), handles_before);
    let keeper = node.servant("insula-keeper").unwrap();
    kill_process(keeper, Signal::STOP).unwrap();
    let mut client = node.insula(["delete", "--force", "c"]).stdout(Stdio::null()).spawn().unwrap();
    eventually("its groups are gone", || (node.on_host().cgroups.len() == groups_before).then_some(()));
    kill_process(keeper, Signal::KILL).unwrap();
    assert!(client.wait().unwrap().success());
    eventually("another one has its place", || node.servant("insula-keeper").filter(|now| *now != keeper));
    eventually("nobody holds the process that ended", || (handles() == handles_before).then_some(()));
}

#[test]
fn live_a_launcher_that_is_asked_to_end_ends_and_takes_along_what_has_nothing_to_do() {
    let mut node = node();
    node.ok(["run", "-d", "--name", "web", "busybox", "sleep", "1000"]);
    let launcher = node.servant("insula-launcher").unwrap();
    kill_process(launcher, Signal::TERM).unwrap();
    eventually("another one has its place", || node.servant("insula-launcher").filter(|now| *now != launcher));
    eventually("the container is reached", || (node.run(["exec", "web", "true"]).code == 0).then_some(()));
    node.ok(["delete", "--force", "web"]);
    node.kill_daemon();
    kill_process(node.servant("insula-launcher").unwrap(), Signal::TERM).unwrap();
    for servant in ["insula-launcher", "insula-keeper", "insula-guest"] {
        eventually("nobody is left", || node.servant(servant).is_none().then_some(()));
    }
    node.start_daemon();
    node.ok(["run", "--rm", "busybox", "true"]);
}

/// How many lines a container wrote.
fn lines_of_log(node: &Node, name: &str) -> usize {
    node.ok(["logs", name]).stdout.lines().count()
}

/// Kills the first two workers of the launcher that appear and have let go of its descriptors, until `ended`: how many.
fn kill_workers(launcher: Pid, mut ended: impl FnMut() -> bool) -> usize {
    let launcher = launcher.as_raw_nonzero();
    let program = std::fs::read_link(format!("/proc/{launcher}/exe")).unwrap();
    let workers = || {
        let children = std::fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children")).unwrap();
        let children = children.split_ascii_whitespace().map(|pid| pid.parse::<i32>().unwrap()).collect::<Vec<_>>();
        children
            .into_iter()
            .filter(|pid| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program))
    };
    // The one that waits for the next start is none of those.
    let known = eventually("a worker waits", || Some(workers().collect::<Vec<_>>()).filter(|known| known.len() == 1));
    let mut killed = BTreeSet::new();
    while !ended() {
        for pid in workers().filter(|pid| !known.contains(pid)) {
            // Standard streams, its report, and what it was given to unmount.
            let few = std::fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|fds| (1..=5).contains(&fds.count()));
            if few && killed.len() < 2 && killed.insert(pid) {
                kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
            }
        }
    }
    killed.len()
}

#[test]
fn live_a_sweep_whose_worker_dies_is_done_again_until_nothing_is_left() {
    let node = node();
    let before = node.at_rest();
    let launcher = node.servant("insula-launcher").unwrap();
    let mut killed = 0;
    for _ in 0..30 {
        node.ok(["run", "-d", "--name", "c", "busybox", "sleep", "600"]);
        let mut delete = node.insula(["delete", "--force", "c"]).stdout(Stdio::null()).spawn().unwrap();
        let mut ended = None;
        killed += kill_workers(launcher, || {
            ended = delete.try_wait().unwrap();
            ended.is_some()
        });
        assert!(ended.unwrap().success());
        let left = node.on_host();
        assert_eq!((left.cgroups, left.links), (before.cgroups.clone(), before.links.clone()));
        if killed >= 5 {
            return;
        }
    }
    panic!("only {killed} workers were met at their work");
}

#[test]
fn live_what_a_sweep_that_was_cut_off_left_goes_with_the_daemons_next_start() {
    let mut node = node();
    node.ok(["run", "-d", "--name", "stays", "busybox", "sleep", "600"]);
    let left = node.run_dir().join("containers/11111111-2222-4333-8444-555555555555");
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("exec.sock"), "").unwrap();
    node.kill_daemon();
    node.start_daemon();
    assert!(!left.exists());
    assert_eq!(node.ok(["exec", "stays", "echo", "here"]).text(), "here");
}

#[test]
fn live_a_second_daemon_is_refused_and_told_the_first() {
    let node = node();
    let (state, run) = (node.state_dir(), node.run_dir());
    let (state, run) = (state.to_str().unwrap(), run.to_str().unwrap());
    let second = node.run(["node", "run", "--name", node.name(), "--state-dir", state, "--run-dir", run]);
    assert_eq!(second.code, 1);
    let pid = format!("process {}", node.daemon_pid().as_raw_nonzero());
    assert!(second.stderr.contains(&pid), "{}", second.stderr);
}

#[test]
fn live_a_name_is_free_when_the_foreground_command_returned() {
    let node = node();
    for _ in 0..20 {
        node.ok(["run", "--rm", "--name", "same", "busybox", "true"]);
    }
}

#[test]
fn live_containers_are_told_by_process_address_path_and_group() {
    let node = node();
    node.ok(["run", "-d", "--name", "who", "-p", "127.0.0.1:38127:80", "busybox", "sleep", "600"]);
    let shown = node.show("who");
    let (pid, gid) = (shown["pid"].to_string(), (shown["uid_base"].as_u64().unwrap() + 33).to_string());
    let questions = [
        ["--pid", &pid],
        ["--address", shown["address"].as_str().unwrap()],
        ["--address", "127.0.0.1:38127"],
        ["--path", shown["data_path"].as_str().unwrap()],
        ["--gid", &gid],
    ];
    for [option, value] in questions {
        assert_eq!(node.json(["whois", option, value])["name"], "who", "{option} {value}");
    }
    node.fails(3, ["whois", "--pid", "1"]);
    node.ok(["delete", "--force", "who"]);
}

#[test]
fn live_a_daemon_has_a_launcher_of_another_build_become_its_own() {
    let mut node = node();
    node.ok(["run", "-d", "--name", "goes-on", "busybox", "sleep", "600"]);
    let before = node.show("goes-on")["pid"].clone();
    // The same programs under other names are another build to whoever compares files.
    let old = node.directory().join("old");
    std::fs::create_dir(&old).unwrap();
    for name in ["insula-launcher", "insula-keeper", "insula-init"] {
        std::fs::copy(program(name), old.join(name)).unwrap();
    }
    node.kill_daemon();
    let first = node.servant("insula-launcher").unwrap();
    kill_process(first, Signal::KILL).unwrap();
    eventually("the launcher is gone", || node.servant("insula-launcher").is_none().then_some(()));
    let began = Command::new(old.join("insula-launcher")).arg(node.run_dir()).status().unwrap();
    assert!(began.success());
    let launcher = node.servant("insula-launcher").unwrap();
    let runs = || std::fs::read_link(format!("/proc/{}/exe", launcher.as_raw_nonzero())).unwrap();
    assert_eq!(runs(), old.join("insula-launcher"));

    node.start_daemon();
    assert_eq!(runs().canonicalize().unwrap(), program("insula-launcher").canonicalize().unwrap());
    assert_eq!(node.show("goes-on")["pid"], before, "and what runs goes on");
    assert_eq!(node.ok(["exec", "goes-on", "echo", "here"]).text(), "here");
    node.ok(["run", "--rm", "busybox", "true"]);
    node.kill_daemon();
    node.start_daemon();
    assert_eq!(node.servant("insula-launcher"), Some(launcher), "a launcher of the same build is left alone");
}

#[test]
fn live_health_follows_what_the_check_says() {
    let mut node = node();
    let health = |node: &Node, wanted: &str| {
        let found = format!("the container is {wanted}");
        eventually(&found, || (node.show("web")["health"] == wanted).then_some(()));
    };
    let options = ["--health-cmd", "test -e /data/good", "--health-interval", "0.1", "--health-retries", "2"];
    let name = ["run", "-d", "--name", "web", "--health-start-period", "0.1"];
    node.ok(name.iter().chain(&options).chain(&["busybox", "sleep", "600"]));
    health(&node, "unhealthy");
    node.ok(["exec", "web", "touch", "/data/good"]);
    health(&node, "healthy");
    assert!(node.ok(["list"]).text().contains("running (healthy)"));
    // The next daemon goes on with the check.
    node.kill_daemon();
    node.start_daemon();
    health(&node, "healthy");
    node.ok(["exec", "web", "rm", "/data/good"]);
    health(&node, "unhealthy");
    assert_eq!(node.show("web")["state"], "running");
    eventually("nothing stays beside the container", || {
        (node.json(["top", "web"]).as_array().unwrap().len() == 2).then_some(())
    });
    node.ok(["delete", "--force", "web"]);
}

/// A node with `system`, a container of the image's own init.
fn node_with_system() -> Node {
    let node = node();
    node.import_system("exec sleep 1000");
    node.ok(["run", "-d", "--name", "system", "--init", "image", "system"]);
    node
}

/// A command in `system` that says `up`, and ends with 9 when its file is there.
fn waiting_command(node: &Node, file: &str) -> Child {
    let script = format!("echo up; while ! [ -e /tmp/{file} ]; do sleep 0.02; done; exit 9");
    let command = node.insula(["exec", "system", "sh", "-c", &script]).stdout(Stdio::piped()).spawn();
    let mut command = command.unwrap();
    command.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
    command
}

#[test]
fn live_a_command_beside_an_images_own_init_outlives_daemon_and_launcher_with_its_exit_code() {
    let mut node = node_with_system();
    let [first, second] = ["first", "second"].map(|file| waiting_command(&node, file));
    node.kill_daemon();
    let launcher = node.servant("insula-launcher").unwrap();
    kill_process(launcher, Signal::KILL).unwrap();
    eventually("the launcher is gone", || node.servant("insula-launcher").is_none().then_some(()));
    node.start_daemon();
    // The new launcher enters it as the one before did, and has taken over what that one had begun.
    node.ok(["exec", "system", "touch", "/tmp/first"]);
    assert_code(first, 9, "the next launcher follows it");
    kill_process(Pid::from_child(&second), Signal::TERM).unwrap();
    assert_code(second, 143, "a signal goes on to the command");
    node.ok(["delete", "--force", "system"]);
}

/// A command whose launcher died ends with `code`; it may be unknown where no pidfd remembers the end of its process.
fn assert_code(mut command: Child, code: i32, what: &str) {
    let told = command.wait().unwrap().code().unwrap();
    let is_unknown = told == 125 && !kernel_is_since((6, 15));
    assert!(told == code || is_unknown, "{what}: {told}");
}

#[test]
fn live_a_check_that_runs_out_of_time_is_ended_whoever_is_process_1() {
    let node = node();
    node.import_system("exec sleep 1000");
    for (name, options) in [("system", &["--init", "image", "system"][..]), ("plain", &["busybox", "sleep", "1000"])] {
        let check = "sleep 900; true";
        let health =
            ["--health-cmd", check, "--health-timeout", "0.2", "--health-interval", "0.1", "--health-retries", "1"];
        node.ok([&["run", "-d", "--name", name, "--health-start-period", "0.1"][..], &health, options].concat());
        let found = format!("{name} is unhealthy");
        eventually(&found, || (node.show(name)["health"] == "unhealthy").then_some(()));
        // One may be under way, with its shell and its child; those before it are gone.
        let checks = || {
            let listed = node.json(["top", name]);
            listed.as_array().unwrap().iter().filter(|process| process.to_string().contains("sleep 900")).count()
        };
        for _ in 0..10 {
            eventually("no more than one check's processes are there", || (checks() <= 2).then_some(()));
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }
}

#[test]
fn live_running_containers_are_reached_again_after_the_nodes_address_was_lost() {
    let mut node = node();
    node.ok(["run", "-d", "--name", "web", "busybox", "sleep", "1000"]);
    let address = node.show("web")["address"].as_str().unwrap().to_owned();
    let ip = |words: &[&str]| {
        let output = Command::new("ip").args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let way = || ip(&["route", "show", &address]);
    let before = way();
    let own = before.split_ascii_whitespace().skip_while(|word| *word != "src").nth(1).unwrap();
    let lose = || {
        ip(&["address", "delete", &format!("{own}/32"), "dev", "lo"]);
        assert_ne!(way(), before);
    };
    lose();
    node.kill_daemon();
    node.start_daemon();
    assert_eq!(way(), before, "the daemon's start makes it again");
    lose();
    node.ok(["run", "--rm", "busybox", "true"]);
    assert_eq!(way(), before, "the start of another container makes it again");
}

#[test]
fn live_containers_outlive_launcher_and_keeper_that_die_together_and_their_logs_go_on() {
    let mut node = node();
    let script = "trap 'exit 6' TERM; while echo line; do sleep 0.05; done";
    for (name, options) in [("piped", &[][..]), ("seen", &["-t"]), ("unseen", &["--no-log"])] {
        node.ok([&["run", "-d", "--name", name], options, &["busybox", "sh", "-c", script]].concat());
    }
    node.ok(["run", "-d", "--name", "web", "-p", "127.0.0.1:38131:80", "busybox", "sleep", "600"]);
    let mut seen = (lines_of_log(&node, "piped"), lines_of_log(&node, "seen"));
    for with_daemon in [false, true] {
        let [launcher, keeper] = ["insula-launcher", "insula-keeper"].map(|name| node.servant(name).unwrap());
        if with_daemon {
            node.kill_daemon();
        }
        [launcher, keeper].into_iter().for_each(|pid| kill_process(pid, Signal::KILL).unwrap());
        if with_daemon {
            eventually("they are gone", || node.servant("insula-keeper").is_none().then_some(()));
            node.start_daemon();
        }
        eventually("there are others", || node.servant("insula-keeper").filter(|now| *now != keeper));
        for (name, seen) in [("piped", &mut seen.0), ("seen", &mut seen.1)] {
            // More than a pipe or a terminal takes by itself would be needed to hold a writer up; a broken one ends it.
            eventually("the log goes on", || (lines_of_log(&node, name) > *seen + 5).then_some(()));
            *seen = lines_of_log(&node, name);
        }
        assert_eq!(node.show("unseen")["state"], "running");
        eventually("the port is reserved again", || {
            std::net::TcpListener::bind(("127.0.0.1", 38131)).is_err().then_some(())
        });
    }
    for name in ["piped", "seen", "unseen"] {
        node.ok(["stop", name]);
        assert_eq!(node.show(name)["exit_code"], 6, "{name}");
    }
    node.ok(["start", "piped"]);
    eventually("it logs again", || (lines_of_log(&node, "piped") > seen.0).then_some(()));
}

/// Settings of this machine as they were; so again when dropped.
struct Settings(Vec<(String, String)>);

impl Drop for Settings {
    fn drop(&mut self) {
        for (path, value) in &self.0 {
            let _ = std::fs::write(path, value);
        }
    }
}

#[test]
fn live_host_tune_raises_what_the_capacity_wants_and_lowers_nothing() {
    insula_testkit::require_root();
    let read = |path: &str| std::fs::read_to_string(path).unwrap().trim().to_owned();
    let neighbours = "/proc/sys/net/ipv4/neigh/default/gc_thresh3";
    let config = std::env::temp_dir().join(format!("insula-tune-{}.toml", std::process::id()));
    // A capacity that wants a little more than there is of this, whatever that is.
    let running = read(neighbours).parse::<u64>().unwrap() / 2 + 1;
    std::fs::write(&config, format!("[capacity]\nrunning = {running}\npids = 32768\n")).unwrap();
    let tune = |words: &[&str]| {
        let mut command = std::process::Command::new(insula_testkit::program("insula"));
        command.args(["--format", "json", "node", "tune", "--config"]).arg(&config).args(words);
        insula_testkit::run_bounded(command, b"", insula_testkit::PATIENCE).ok().json()
    };
    let seen = tune(&[]);
    let path = |row: &serde_json::Value| format!("/proc/sys/{}", row["name"].as_str().unwrap().replace('.', "/"));
    let rows = seen.as_array().unwrap();
    let before = Settings(rows.iter().map(|row| (path(row), read(&path(row)))).collect());
    assert!(rows.iter().all(|row| row["before"] == row["after"]), "asked only: {seen}");
    for row in tune(&["--apply"]).as_array().unwrap() {
        let [before, wanted, after] = ["before", "wanted", "after"].map(|key| row[key].as_u64().unwrap());
        assert_eq!(after, before.max(wanted), "{row}");
        assert_eq!(read(&path(row)), after.to_string(), "{row}");
    }
    assert_eq!(read(neighbours), (running * 2).to_string());
    drop(before);
    std::fs::remove_file(config).unwrap();
}
