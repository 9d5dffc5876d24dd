//! Foreign bytes, hostile words and full disks, end to end: everything is refused by name, and nothing is left of it.
#![allow(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is one module")]

mod hostile;

use std::ffi::OsStr;

use hostile::bombs::{Packer, bomb};
use hostile::corpus::{Archive, without};
use hostile::disk::SmallDisk;
use hostile::oci::Layout;
use hostile::words::{FIELDS, HOSTILE, OPTIONS};
use hostile::{http, words};
use insula_testkit::{Leftovers, Node, NodeOptions, archive, eventually};

/// What there is of a node but processes that are only just ending.
fn seen(left: &Leftovers) -> String {
    let pids: Vec<_> = left.processes.iter().map(|(pid, _)| *pid).collect();
    format!("{:?} {:?} {:?} {pids:?}", left.cgroups, left.links, left.mounts)
}

/// Imports `bytes` as `image`.
fn import(node: &Node, image: &str, bytes: &[u8]) -> insula_testkit::Finished {
    let path = node.directory().join("foreign.archive");
    std::fs::write(&path, bytes).unwrap();
    node.run([OsStr::new("image"), OsStr::new("import"), OsStr::new(image), path.as_os_str()])
}

/// Names in the store's own directory, work in progress included.
fn stored(node: &Node) -> Vec<String> {
    let images = node.state_dir().join("images");
    let names = |directory| {
        let entries = std::fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().path().display().to_string()).collect::<Vec<_>>()
    };
    let mut all = [names(images.clone()), names(images.join(".incoming"))].concat();
    all.sort();
    all
}

#[test]
fn live_t13_hostile_archives_are_refused_by_name_and_leave_nothing() {
    let node = Node::start();
    let before = (stored(&node), seen(&node.at_rest()));
    for (what, bytes, expected) in hostile::corpus::refused().into_iter().chain(hostile::oci::refused()) {
        let said = import(&node, "bad@1", &bytes).with_code(2).stderr;
        for word in [expected, "bad@1", "nothing of the image is left"] {
            assert!(said.contains(word), "{what}: `{word}` is not in: {said}");
        }
        assert_eq!(stored(&node), before.0, "{what}");
    }
    eventually("no process is left", || (seen(&node.on_host()) == before.1).then_some(()));
    assert_eq!(node.json(["image", "list"]).as_array().unwrap().len(), 0);
    assert!(import(&node, "good@1", &Archive::new().file("a", b"1").end()).code == 0);
}

#[test]
fn live_t13_a_right_layout_is_taken_and_links_in_one_are_not_followed() {
    let node = Node::start();
    let layout = Layout::with(|_| {});
    assert_eq!(import(&node, "right@1", &layout.archive()).code, 0);
    let directory = node.directory().join("layout");
    std::fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
    for (name, bytes) in layout.files() {
        std::fs::write(directory.join(name), bytes).unwrap();
    }
    let outside = node.directory().join("outside");
    std::fs::rename(directory.join(Layout::layer_file()), &outside).unwrap();
    std::os::unix::fs::symlink(&outside, directory.join(Layout::layer_file())).unwrap();
    let before = stored(&node);
    let words = ["image", "import", "linked@1", directory.to_str().unwrap()];
    let said = node.fails(2, words);
    assert!(said.contains("linked@1") && said.contains(&Layout::layer_file()), "{said}");
    assert_eq!(stored(&node), before);
}

#[test]
fn live_t13_bombs_go_off_early_and_leave_nothing() {
    let node = Node::start();
    let before = stored(&node);
    for packer in [Packer::Gzip, Packer::Zstd] {
        let said = import(&node, "bomb@1", &bomb(packer, 0, 4 << 10)).with_code(2).stderr;
        for word in ["bomb@1", "expands to more than 200 times its size", "nothing of the image is left"] {
            assert!(said.contains(word), "{packer:?}: `{word}` is not in: {said}");
        }
        assert_eq!(stored(&node), before, "{packer:?}");
    }
}

#[test]
fn live_t13_what_would_take_the_room_that_is_kept_is_refused_by_name_and_leaves_nothing() {
    let mut node = Node::start();
    let disk = SmallDisk::under(&mut node, 64);
    let (before, free) = (stored(&node), disk.free());
    for packer in [Packer::Gzip, Packer::Zstd] {
        let said = import(&node, "bomb@1", &bomb(packer, 1, 512)).with_code(6).stderr;
        assert!(said.contains("bomb@1") && said.contains("nothing of"), "{packer:?}: {said}");
        // A fast one may meet the disk's end between two looks at what is left.
        let short = ["capacity.disk_reserve", "free space on the file system of"];
        assert!(short.iter().any(|word| said.contains(word)), "{packer:?}: {said}");
        assert_eq!(stored(&node), before, "{packer:?}");
        eventually("the room is free again", || (disk.free() + (1 << 20) > free).then_some(()));
    }
    let _filler = disk.fill(8 << 20);
    let said = import(&node, "late@1", &Archive::new().file("a", b"1").end()).with_code(6).stderr;
    assert!(said.contains("late@1") && said.contains("disk: ") && said.contains("16MiB are kept"), "{said}");
    node.stop_daemon();
    drop(disk);
    node.start_daemon();
}

#[test]
fn live_t13_odd_entries_are_data_and_never_touch_the_host() {
    let node = Node::start();
    let marker = node.directory().join("host-marker");
    let absolute = marker.to_str().unwrap();
    let odd = Archive::new()
        .file(absolute, b"stripped")
        .file("bin/su", b"#!")
        .mode(0o6755)
        .device("dev-of-the-image", 8, 0)
        .file("twice", b"first")
        .file("twice", b"second")
        .link("templates", tar::EntryType::Symlink, absolute)
        .extended("SCHILY.xattr.security.capability", &[1, 0, 0, 2, 0xff, 0xff, 0, 0])
        .file("bin/ping", b"")
        .end();
    assert_eq!(import(&node, "odd@1", &odd).code, 0);
    assert!(!marker.exists());
    let out = node.directory().join("out.tar");
    node.ok([OsStr::new("image"), OsStr::new("export"), OsStr::new("odd@1"), out.as_os_str()]);
    let listed = hostile::corpus::list(&out);
    assert_eq!(listed[absolute.trim_start_matches('/')].content, "stripped");
    assert_eq!(listed["bin/su"].mode, 0o6755);
    assert_eq!(listed["dev-of-the-image"].kind, tar::EntryType::Block);
    assert_eq!(listed["twice"].content, "second");
    assert_eq!(listed["templates"].kind, tar::EntryType::Symlink);
    assert!(listed.contains_key("bin/ping"));
}

#[test]
fn live_t06_links_at_mount_targets_refuse_the_start_and_make_nothing_on_the_host() {
    let node = Node::start();
    let trap = node.directory().join("trap");
    std::fs::create_dir(&trap).unwrap();
    let targets = ["etc", "var", "tmp", "data", "sw", "run", "proc", "sys", "dev"];
    for (number, target) in targets.into_iter().enumerate() {
        let absolute = trap.to_str().unwrap().to_owned();
        let relative = format!("../../../..{absolute}");
        let to = [absolute, relative, target.to_owned()][number % 3].clone();
        let image = format!("linked@{}", number + 1);
        let bytes = without(archive(), target).link(target, tar::EntryType::Symlink, &to).end();
        let imported = import(&node, &image, &bytes);
        assert_eq!(imported.code, 0, "{target}: {}", imported.stderr);
        let before = seen(&node.at_rest());
        let said = node.run(["run", "--rm", "--strict", &image, "/bin/busybox", "true"]);
        assert_eq!(said.code, 125, "/{target} -> {to}: {}", said.stderr);
        let is_named = said.stderr.contains(target) && said.stderr.contains("symbolic link");
        assert!(is_named, "/{target} -> {to}: {}", said.stderr);
        eventually("nothing is left of the start", || (seen(&node.on_host()) == before).then_some(()));
        assert_eq!(std::fs::read_dir(&trap).unwrap().count(), 0, "/{target} -> {to}");
    }
    assert_eq!(node.json(["list"]).as_array().unwrap().len(), 0);
}

/// Refusals that a client can cause, by the command line's codes.
const REFUSALS: [i32; 6] = [2, 3, 4, 5, 6, 7];

#[test]
fn live_t21_hostile_words_on_the_command_line_are_kept_whole_or_refused() {
    let node = Node::start();
    node.import_busybox();
    let words: Vec<&str> = HOSTILE.into_iter().filter(|word| !word.contains('\0')).collect();
    for (number, option) in OPTIONS.into_iter().enumerate() {
        // A third of the words for each option; each word meets ten options.
        for word in words.iter().skip(number % 3).step_by(3) {
            let name = if option == "--name=" { "" } else { "--name=c" };
            let given = format!("{option}{word}");
            let options = ["create", name, &given, "busybox", "true"].into_iter().filter(|word| !word.is_empty());
            let said = node.run(options);
            if said.code == 0 {
                node.ok(["delete", "--force", said.text()]);
                continue;
            }
            assert!(REFUSALS.contains(&said.code), "{given:?}: {} {}", said.code, said.stderr);
            assert!(said.stderr.trim().len() > 10, "{given:?} is refused without a word: {}", said.stderr);
            assert!(!said.stderr.contains('\u{1b}'), "{given:?}: {:?}", said.stderr);
        }
    }
    assert_eq!(node.json(["list"]).as_array().unwrap().len(), 0);
    assert_eq!(node.ok(["run", "--rm", "busybox", "echo", "alive"]).text(), "alive");
}

#[test]
fn live_t21_hostile_words_in_requests_are_kept_whole_or_refused() {
    let node = Node::start();
    node.import_busybox();
    let random = (0..FIELDS.len() as u64 * 3).map(words::random);
    let words: Vec<String> = HOSTILE.into_iter().map(str::to_owned).chain(random).collect();
    let mut kept = 0;
    for (number, field) in FIELDS.into_iter().enumerate() {
        // All the fixed ones, and three random ones of its own.
        for word in words[..HOSTILE.len()].iter().chain(&words[HOSTILE.len() + 3 * number..][..3]) {
            let quoted = serde_json::to_string(word).unwrap();
            let filled = field.replace('@', &quoted[1..quoted.len() - 1]);
            let rest = if field.contains("command\":[\"true") { "" } else { ",\"command\":[\"true\"]" };
            let body = format!(r#"{{"spec":{{"image":"busybox@1",{filled}{rest}}}}}"#);
            let (status, answer) = http::ask(&node, "POST", "/v1/containers", &body);
            match status {
                200..=299 => {
                    let path = format!("/v1/containers/{}", answer["name"].as_str().unwrap());
                    let (_, shown) = http::ask(&node, "GET", &path, "");
                    let written = shown["spec"].to_string();
                    let is_free = ["env", "labels", "command\":[\"true"].iter().any(|free| field.contains(free));
                    assert!(!is_free || written.contains(&quoted), "{filled}: {written}");
                    kept += 1;
                    assert!(http::ask(&node, "DELETE", &path, "").0 < 300, "{filled}");
                }
                400..=499 | 501 | 507 => {
                    let detail = answer["detail"].as_str().unwrap_or_else(|| panic!("{filled}: {answer}"));
                    assert!(detail.len() > 10, "{filled}: {answer}");
                }
                _ => panic!("{filled}: {status} {answer}"),
            }
        }
    }
    assert!(kept > 100, "only {kept} of the words were kept: is the request itself refused?");
    assert_eq!(node.json(["list"]).as_array().unwrap().len(), 0);
    assert_eq!(node.ok(["run", "--rm", "busybox", "echo", "alive"]).text(), "alive");
}

#[test]
fn live_t14_names_outside_the_alphabet_are_refused_everywhere() {
    let node = Node::start();
    node.import_busybox();
    let long = "x".repeat(64);
    let outside = ["UPPER", ".hidden", "-x", "_x", "a/b", "../a", "a b", "a\nb", "\u{430}dmin", "a*", &long, ""];
    for name in outside {
        for words in [
            vec!["create", "--name", name, "busybox"],
            vec!["show", name],
            vec!["delete", name],
            vec!["rename", "busybox", name],
            vec!["image", "show", name],
            vec!["image", "default", name],
            vec!["image", "remove", name],
        ] {
            let line = format!("{words:?}");
            let words: Vec<&str> = words.into_iter().map(|word| if word.is_empty() { "@" } else { word }).collect();
            let said = node.run(words);
            assert!([2, 3].contains(&said.code), "{line}: {} {}", said.code, said.stderr);
            assert!(said.stderr.trim().len() > 10, "{line}: {}", said.stderr);
        }
    }
    for path in
        ["/v1/containers/..%2f..%2fetc", "/v1/images/..%2f..%2fetc/1", "/v1/images/busybox/..%2f1", "/v1/images/%00/1"]
    {
        for method in ["GET", "DELETE"] {
            let (status, answer) = http::ask(&node, method, path, "");
            assert!([400, 404, 405].contains(&status), "{method} {path}: {status} {answer}");
        }
    }
    assert_eq!(node.json(["image", "list"]).as_array().unwrap().len(), 1);
}

#[test]
fn live_operations_on_one_container_at_once_leave_one_state() {
    let node = Node::start();
    node.import_busybox();
    node.ok(["run", "-d", "--name", "c", "busybox", "sleep", "600"]);
    for round in 0..4 {
        let verbs = [["stop", "c"], ["start", "c"], ["restart", "c"], ["kill", "c"], ["pause", "c"], ["resume", "c"]];
        let results: Vec<_> = std::thread::scope(|scope| {
            let node = &node;
            let running: Vec<_> = verbs.iter().map(|words| scope.spawn(move || node.run(words))).collect();
            running.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for result in results {
            assert!([0, 4].contains(&result.code), "{}: {} {}", result.line, result.code, result.stderr);
        }
        // Whatever won, the container is in one state, and works on from there.
        if node.show("c")["state"] == "paused" {
            node.ok(["resume", "c"]);
        }
        let started = node.run(["start", "c"]);
        assert!([0, 4].contains(&started.code), "round {round}: {}", started.stderr);
        node.wait_for_state("c", "running");
        assert_eq!(node.ok(["exec", "c", "echo", "well"]).text(), "well");
    }
    let deleted: Vec<i32> = std::thread::scope(|scope| {
        let node = &node;
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(move || node.run(["delete", "--force", "c"]).code)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    // Those who asked while it was being deleted hear that it is gone, like the first.
    assert!(deleted.contains(&0), "{deleted:?}");
    assert!(node.json(["list"]).as_array().unwrap().is_empty());
    assert!(deleted.iter().all(|code| [0, 3, 4].contains(code)), "{deleted:?}");
}

/// Both at once from two clients: the codes they ended with.
fn at_once(node: &Node, pair: [&[&str]; 2]) -> [i32; 2] {
    std::thread::scope(|scope| {
        pair.map(|words| scope.spawn(move || node.run(words))).map(|client| {
            let said = client.join().unwrap();
            let answered = said.code == 0 || [1, 3, 4].contains(&said.code) && said.stderr.contains("insula: ");
            assert!(answered, "{pair:?}: {} {}", said.code, said.stderr);
            said.code
        })
    })
}

#[test]
fn live_every_two_operations_on_one_container_at_once_end_with_an_answer() {
    let node = Node::start_with(&insula_testkit::NodeOptions { config: "[defaults]\ntrial_ms = 50\n".to_owned() });
    node.import_busybox();
    let copied = node.directory().join("copied");
    let operations: [&[&str]; 7] = [
        &["stop", "-t", "0", "c"],
        &["start", "c"],
        &["delete", "--force", "c"],
        &["restart", "-t", "0", "c"],
        &["upgrade", "c", "--image", "busybox@1"],
        &["rename", "c", "d"],
        &["cp", "c:/etc/passwd", copied.to_str().unwrap()],
    ];
    for (index, one) in operations.iter().enumerate() {
        for two in &operations[index..] {
            node.ok(["run", "-d", "--name", "c", "busybox", "sleep", "600"]);
            let codes = at_once(&node, [one, two]);
            assert!(codes.contains(&0), "{one:?} and {two:?}: {codes:?}");
            let left: Vec<String> = node.ok(["list", "-q"]).text().lines().map(str::to_owned).collect();
            let deletes = [one, two].iter().any(|words| words[0] == "delete");
            assert!(left.len() == 1 || deletes && left.is_empty(), "{one:?} and {two:?}: {left:?}");
            // Whatever won, it is one container that does what it is told.
            for name in &left {
                node.ok(["restart", "-t", "0", name]);
                assert_eq!(node.ok(["exec", name, "echo", "well"]).text(), "well");
                node.ok(["delete", "--force", name]);
            }
        }
    }
}

#[test]
fn live_a_second_daemon_is_refused_by_name_and_harms_nothing() {
    let node = Node::start();
    node.import_busybox();
    node.ok(["run", "-d", "--name", "c", "busybox", "sleep", "600"]);
    let (state, run) = (node.state_dir(), node.run_dir());
    let other = node.directory().join("other");
    for (state_dir, run_dir) in [(&state, &run), (&state, &other), (&other, &run)] {
        let mut second = node.insula(["node", "run", "--name", node.name()]);
        second.arg("--state-dir").arg(state_dir).arg("--run-dir").arg(run_dir);
        let said = insula_testkit::run_bounded(second, b"", insula_testkit::PATIENCE);
        assert_eq!(said.code, 1, "{}", said.stderr);
        let pid = node.daemon_pid().as_raw_nonzero().to_string();
        assert!(said.stderr.contains(node.name()) && said.stderr.contains(&pid), "{}", said.stderr);
    }
    // A node of its own in everything but its socket, as whoever has INSULA_SOCKET set starts one.
    let file = node.directory().join("precious");
    std::fs::write(&file, "kept").unwrap();
    for (socket, part) in [(node.socket(), "INSULA_SOCKET"), (file.clone(), "no socket")] {
        let mut second = node.insula(["node", "run", "--name", &format!("{}2", node.name())]);
        second
            .arg("--state-dir")
            .arg(node.directory().join("state2"))
            .arg("--run-dir")
            .arg(node.directory().join("r2"));
        second.arg("--socket").arg(&socket);
        let said = insula_testkit::run_bounded(second, b"", insula_testkit::PATIENCE);
        assert_eq!(said.code, 1, "{}", said.stderr);
        assert!(said.stderr.contains(part) && said.stderr.contains(socket.to_str().unwrap()), "{}", said.stderr);
    }
    assert_eq!(std::fs::read_to_string(file).unwrap(), "kept");
    assert_eq!(node.ok(["exec", "c", "echo", "well"]).text(), "well");
}

/// Bytes that no file system can store in less.
fn noise(length: u32) -> Vec<u8> {
    (0..length).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}

#[test]
fn live_an_import_onto_a_full_disk_is_refused_by_name_wherever_it_runs_out() {
    // Nothing is kept free, so that the disk itself says no.
    let config = "[capacity]\ndisk_reserve = \"0\"\n".to_owned();
    let mut node = Node::start_with(&NodeOptions { config });
    let disk = SmallDisk::under(&mut node, 24);
    let small = Archive::new().file("usr/share/data", &noise(300_000)).end();
    let kept = import(&node, "kept@1", &small);
    assert_eq!(kept.code, 0, "{}", kept.stderr);
    let large = Archive::new().file("usr/share/data", &noise(40_000_000)).end();
    let before = stored(&node);
    let mut refused = 0;
    let images = std::iter::once((&large, u64::MAX))
        .chain([0, 8, 100, 300, 316, 328, 340, 4_000].map(|kib| (&small, kib << 10)));
    for (number, (bytes, keep)) in images.enumerate() {
        let filler = disk.fill(keep);
        let image = format!("full@{number}");
        let said = import(&node, &image, bytes);
        if said.code == 0 {
            node.ok(["image", "verify", &image]);
            node.ok(["image", "remove", &image]);
        } else {
            refused += 1;
            assert_eq!(said.code, 6, "{keep} bytes free: {}", said.stderr);
            for word in [image.as_str(), "No space left on device", "free space on the file system of"] {
                assert!(said.stderr.contains(word), "{keep} bytes free: `{word}` is not in: {}", said.stderr);
            }
        }
        assert!(!stored(&node).iter().any(|path| path.contains(".incoming/")), "{keep} bytes free");
        drop(filler);
    }
    assert!(refused >= 3, "only {refused} imports met a full disk");
    assert!(stored(&node).len() <= before.len() + 1, "{:?}", stored(&node));
    node.ok(["image", "verify", "kept@1"]);
    assert_eq!(import(&node, "again@1", &small).code, 0);
    node.stop_daemon();
    drop(disk);
    node.start_daemon();
}

#[test]
fn live_a_full_disk_costs_log_lines_and_no_container() {
    let mut node = Node::start();
    let disk = SmallDisk::under(&mut node, 64);
    node.import_busybox();
    let script = "i=0; while [ ! -e /tmp/end ]; do echo line $i; i=$((i+1)); echo $i >/tmp/count; done; sleep 600";
    node.ok(["run", "-d", "--name", "c", "busybox", "sh", "-c", script]);
    eventually("the log has begun", || (!node.ok(["logs", "c"]).stdout.is_empty()).then_some(()));
    let filler = disk.fill(0);
    let count = || node.ok(["exec", "c", "cat", "/tmp/count"]).text().parse::<u64>().unwrap_or(0);
    let full = count();
    eventually("the container writes on", || (count() > full + 20_000).then_some(()));
    // What needs the disk is refused by name, what does not goes on.
    let said = node.run(["create", "--name", "d", "busybox", "true"]);
    assert!(said.code == 0 || said.stderr.contains("space"), "{}: {}", said.code, said.stderr);
    assert_eq!(node.ok(["exec", "c", "echo", "well"]).text(), "well");
    drop(filler);
    node.ok(["exec", "c", "touch", "/tmp/end"]);
    node.ok(["exec", "c", "sh", "-c", "echo last words >/proc/1/fd/1 || true"]);
    assert!(node.ok(["logs", "c"]).stdout.starts_with("line 0\n"));
    assert_eq!(node.show("c")["state"], "running");
    node.ok(["delete", "--force", "c"]);
    if said.code == 0 {
        node.ok(["delete", "d"]);
    }
    node.stop_daemon();
    drop(disk);
    node.start_daemon();
}

#[test]
fn live_a_full_disk_is_said_and_over_when_it_has_room_again() {
    let mut node = Node::start();
    let disk = SmallDisk::under(&mut node, 48);
    node.import_busybox();
    for name in ["kept", "gone"] {
        node.ok(["create", "--name", name, "busybox", "true"]);
    }
    let filler = disk.fill(0);
    let large = "x".repeat(100_000);
    let refused = (0..100).find_map(|number| {
        let said = node.run(["set", "kept", &format!("env.V{number}={large}")]);
        (said.code != 0).then_some(said)
    });
    let said = refused.expect("100 settings of 100 kB fit on a full disk");
    assert!(said.code == 1 && said.stderr.contains("No space left on device"), "{}: {}", said.code, said.stderr);
    // What is there can be deleted, and a failure of the disk is not for ever.
    node.ok(["delete", "gone"]);
    drop(filler);
    node.ok(["set", "kept", "label.after=all"]);
    node.kill_daemon();
    node.start_daemon();
    let names: Vec<_> = node.json(["list"]).as_array().unwrap().iter().map(|view| view["name"].clone()).collect();
    assert_eq!(names, ["kept"]);
    assert_eq!(node.show("kept")["labels"]["after"], "all");
    node.ok(["delete", "kept"]);
    node.stop_daemon();
    drop(disk);
    node.start_daemon();
}

#[test]
fn live_a_daemon_that_does_not_start_leaves_no_process() {
    let node = Node::start();
    let (state, run) = (node.directory().join("state2"), node.directory().join("run2"));
    // Another node of the same name has the subnets, which is found out after the launcher was started.
    let mut second = node.insula(["node", "run", "--name", node.name()]);
    second.arg("--state-dir").arg(&state).arg("--run-dir").arg(&run).arg("--socket").arg(run.join("insula.sock"));
    let said = insula_testkit::run_bounded(second, b"", insula_testkit::PATIENCE);
    assert_eq!(said.code, 1, "{}", said.stderr);
    assert!(said.stderr.contains("subnets") && said.stderr.contains(node.name()), "{}", said.stderr);
    assert!(!said.stderr.contains('\u{1b}'), "colours in a file: {:?}", said.stderr);
    let run = run.to_str().unwrap();
    eventually("launcher and keeper end", || {
        (!node.on_host().processes.iter().any(|(_, command)| command.contains(run))).then_some(())
    });
}

#[test]
fn live_mistakes_are_answered_with_their_object_and_what_to_do() {
    let node = Node::start();
    node.import_busybox();
    node.ok(["run", "-d", "--name", "c", "-p", "127.0.0.1:18973:80", "busybox", "sleep", "600"]);
    let cases: [(i32, &[&str], &[&str]); 16] = [
        (
            4,
            &["run", "-d", "--name", "d", "-p", "18973:80", "busybox", "true"],
            &["18973:80", "container c", "insula stop c"],
        ),
        (125, &["run", "--rm", "--tmpfs", "/none", "busybox", "true"], &["`/none`", "--root writable"]),
        (
            125,
            &["run", "--rm", "--sysctl", "net.none=1", "busybox", "true"],
            &["open(/proc/sys/net/none)", "No such file", "/proc/sys in a container"],
        ),
        (125, &["run", "--rm", "--ulimit", "as=1", "busybox", "true"], &["process 1", "--ulimit"]),
        (125, &["run", "--rm", "--device", "/dev/null", "busybox", "true"], &["`/dev/null`", "leave it out"]),
        (
            125,
            &["run", "--rm", "--init", "image", "busybox"],
            &["execve(/sbin/init)", "No such file", "without `--init image`"],
        ),
        (125, &["run", "--rm", "busybox@", "true"], &["image version is empty"]),
        (125, &["run", "--rm", "--ulimit", "nofile=2:1", "busybox", "true"], &["SOFT of at most HARD"]),
        (125, &["run", "--rm", "-v", "/no-such:/srv", "busybox", "true"], &["volume /no-such", "make it first"]),
        (125, &["run", "--rm", "-u", "nobody-such", "busybox", "true"], &["`nobody-such`", "/etc/passwd"]),
        (126, &["exec", "-w", "/no-such", "c", "true"], &["`/no-such`", "--workdir"]),
        (125, &["run", "--rm", "--ulimit", "nofile=31", "busybox", "true"], &["nofile 31", "32 to"]),
        (125, &["run", "--rm", "-v", "/:/mnt", "busybox", "true"], &["`/` as a whole", "name something below it"]),
        (2, &["create", "-p", "[::1]:18974:80", "busybox"], &["[::1]:18974:80", "publish on 127.0.0.1"]),
        (2, &["stats", "--interval", "0", "c"], &["0.1 seconds or more"]),
        (3, &["whois", "--gid", "5"], &["group 5", "belongs to no container of this node"]),
    ];
    for (code, words, said) in cases {
        let stderr = node.fails(code, words.iter().copied());
        for part in said {
            assert!(stderr.contains(part), "{words:?}: `{part}` is not in: {stderr}");
        }
    }
    assert_eq!(node.ok(["show", "-q", "c"]).text(), "c");
    let found = node.json(["doctor"])["findings"].to_string();
    assert!(found.contains("open files") && found.contains("version") && !found.contains("CgroupLayout"), "{found}");
}
