//! The process that reads foreign bytes: what it may do, and what becomes of an import when it dies.
#![allow(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is one module")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{PipeWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use insula_testkit::{Finished, Node, PATIENCE, archive, eventually, finish_bounded};
use rustix::process::{Pid, Signal, kill_process};

/// An import whose archive comes through a pipe, so that its worker waits for the rest.
struct Slow {
    client: Child,
    source: PipeWriter,
}

impl Slow {
    fn begin(node: &Node) -> Self {
        let (reader, mut source) = std::io::pipe().unwrap();
        let mut client = node.insula(["image", "import", "slow@1", "/dev/stdin"]);
        let client = client.stdin(reader).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        source.write_all(&archive()[..4096]).unwrap();
        Self { client, source }
    }

    /// What the client said when it was over.
    fn end(self) -> Finished {
        drop(self.source);
        finish_bounded(self.client, "image import slow@1", PATIENCE)
    }
}

/// The daemon's only child, which has confined itself.
fn worker(node: &Node) -> PathBuf {
    eventually("there is a confined import worker", || {
        let daemon = PathBuf::from(format!("/proc/{}", node.daemon_pid().as_raw_nonzero()));
        let tasks = std::fs::read_dir(daemon.join("task")).unwrap().filter_map(Result::ok);
        let children = tasks.map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
        let pids: Vec<PathBuf> = children
            .flat_map(|pids| pids.split_whitespace().map(|pid| Path::new("/proc").join(pid)).collect::<Vec<_>>())
            .filter(|process| status(process).get("Seccomp").is_some_and(|mode| mode == "2"))
            .collect();
        (pids.len() == 1).then(|| pids[0].clone())
    })
}

/// The lines of `/proc/<pid>/status`; none when it has ended.
fn status(process: &Path) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(process.join("status")).unwrap_or_default();
    let line = |line: &str| line.split_once(':').map(|(key, value)| (key.to_owned(), value.trim().to_owned()));
    text.lines().filter_map(line).collect()
}

fn pid_of(process: &Path) -> Pid {
    Pid::from_raw(process.file_name().unwrap().to_str().unwrap().parse().unwrap()).unwrap()
}

/// Nothing of the image is in the store, and it works.
fn assert_untouched(node: &Node) {
    let names = node.json(["image", "list"]);
    assert!(names.as_array().unwrap().is_empty(), "{names}");
    let incoming = std::fs::read_dir(node.state_dir().join("images/.incoming")).unwrap();
    assert_eq!(incoming.count(), 0);
    node.import_busybox();
    assert_eq!(node.ok(["run", "--rm", "busybox", "echo", "well"]).text(), "well");
}

#[test]
fn live_t13_foreign_bytes_are_read_by_a_process_that_has_nothing() {
    let node = Node::start();
    let slow = Slow::begin(&node);
    let worker = worker(&node);
    let status = status(&worker);
    assert_eq!(status["Name"], "insula-import");
    for key in ["Uid", "Gid"] {
        let ids: Vec<u32> = status[key].split_whitespace().map(|id| id.parse().unwrap()).collect();
        assert!(ids.iter().all(|id| *id >= 65_536 && *id == ids[0]), "{key}: {ids:?}");
    }
    assert_eq!(status["Groups"], "");
    for key in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status[key], "0000000000000000", "{key}");
    }
    assert_eq!(status["NoNewPrivs"], "1");
    let limits = std::fs::read_to_string(worker.join("limits")).unwrap();
    for limit in ["Max data size", "Max file size", "Max core file size"] {
        let line = limits.lines().find(|line| line.starts_with(limit)).unwrap();
        assert!(!line.contains("unlimited"), "{line}");
    }
    // Not dumpable: its own files in /proc belong to root, so that nobody of its kind could look.
    assert_eq!(std::fs::metadata(worker.join("mem")).unwrap().uid(), 0);
    // Beside the three standard ones it holds its source, its files (the hand-over file twice) and its conversation.
    let descriptors = std::fs::read_dir(worker.join("fd")).unwrap().map(|entry| entry.unwrap().path());
    let mut targets: Vec<String> = descriptors
        .map(|fd| std::fs::read_link(fd).unwrap().to_string_lossy().into_owned())
        .map(|target| target.split([':', '/']).rfind(|part| !part.starts_with('[')).unwrap().to_owned())
        .collect();
    targets.sort();
    targets.dedup();
    assert_eq!(targets, ["archive.tar", "manifest.cbor", "null", "pipe", "root.erofs", "socket"]);
    let said = slow.end();
    assert_eq!(said.code, 2, "{}", said.stderr);
    assert_untouched(&node);
}

#[test]
fn live_a_killed_worker_fails_its_import_by_name_and_leaves_nothing() {
    let node = Node::start();
    let slow = Slow::begin(&node);
    kill_process(pid_of(&worker(&node)), Signal::KILL).unwrap();
    let said = slow.end();
    assert_eq!(said.code, 1, "{}", said.stderr);
    assert!(said.stderr.contains("slow@1") && said.stderr.contains("killed by signal 9"), "{}", said.stderr);
    assert_untouched(&node);
}

#[test]
fn live_an_import_that_waits_for_its_source_is_cancelled_by_what_asks_its_client_to_end() {
    let node = Node::start();
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let slow = Slow::begin(&node);
        let worker = worker(&node);
        kill_process(Pid::from_child(&slow.client), signal).unwrap();
        eventually("the worker is gone", || status(&worker).is_empty().then_some(()));
        let said = slow.end();
        assert!(said.stderr.contains("cancelled"), "{signal:?}: {}", said.stderr);
    }
    assert_untouched(&node);
}

#[test]
fn live_an_import_goes_on_when_its_client_is_killed_without_a_word() {
    let node = Node::start();
    let Slow { mut client, mut source } = Slow::begin(&node);
    worker(&node);
    client.kill().unwrap();
    client.wait().unwrap();
    source.write_all(&archive()[4096..]).unwrap();
    drop(source);
    eventually("the image is there", || {
        let images = node.json(["image", "list"]);
        images.as_array().unwrap().iter().any(|image| image["image"] == "slow@1").then_some(())
    });
}

#[test]
fn live_a_worker_ends_with_its_daemon() {
    let mut node = Node::start();
    let slow = Slow::begin(&node);
    let worker = worker(&node);
    node.kill_daemon();
    eventually("the worker is gone", || status(&worker).is_empty().then_some(()));
    assert_ne!(slow.end().code, 0);
    node.start_daemon();
    assert_untouched(&node);
}

#[test]
fn live_an_import_whose_daemon_is_killed_at_any_moment_is_there_or_not() {
    let mut node = Node::start();
    let path = node.directory().join("many.tar");
    write_many(&path, 2_000);
    let path = path.to_str().unwrap();
    let mut missing = 0;
    for round in 0..12 {
        let name = format!("many@{round}");
        let mut import = node.insula(["image", "import", &name, path]);
        let mut client = import.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(8) * round);
        node.kill_daemon();
        client.wait().unwrap();
        node.start_daemon();
        let incoming = std::fs::read_dir(node.state_dir().join("images/.incoming")).unwrap();
        assert_eq!(incoming.count(), 0, "round {round}");
        if node.run(["image", "show", &name]).code == 3 {
            missing += 1;
            node.ok(["image", "import", &name, path]);
        }
        node.ok(["image", "verify", &name]);
    }
    assert!(missing > 0, "none was cut off");
}

/// An archive of `count` small files, as it is written out.
fn write_many(path: &Path, count: u32) {
    let mut tar = tar::Builder::new(std::io::BufWriter::new(File::create(path).unwrap()));
    for number in 0..count {
        let name = format!("usr/share/doc/package-{:04}/document-{number}", number / 50);
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(6);
        tar.append_data(&mut header, name, &format!("{number:06}").as_bytes()[..6]).unwrap();
    }
    tar.into_inner().unwrap().flush().unwrap();
}

#[test]
fn live_t13_sixty_thousand_entries_need_no_more_memory_than_promised() {
    const ENTRIES: u32 = 60_000;
    let node = Node::start();
    let path = node.directory().join("many.tar");
    write_many(&path, ENTRIES);
    let mut client = node.insula(["image", "import", "many@1"]);
    let mut client = client.arg(&path).stdout(Stdio::null()).spawn().unwrap();
    let worker = worker(&node);
    let mut peak_kib = 0;
    eventually("the worker has ended", || {
        let now = status(&worker);
        match now.get("VmHWM") {
            Some(peak) => {
                peak_kib = peak.trim_end_matches(" kB").parse::<u64>().unwrap().max(peak_kib);
                None
            }
            None => Some(()),
        }
    });
    assert!(client.wait().unwrap().success());
    let entries = node.json(["image", "show", "many@1"])["entries"].as_u64().unwrap();
    assert!(entries > u64::from(ENTRIES));
    let promised_kib = (64 << 10) + 200 * entries / 1024;
    assert!(peak_kib > 1024 && peak_kib < promised_kib, "peak {peak_kib} KiB, promised {promised_kib} KiB");
    println!("peak {peak_kib} KiB of {promised_kib} KiB for {entries} entries");
}

#[test]
fn live_a_directory_is_read_with_its_owners_and_nothing_beside_it() {
    let node = Node::start();
    let root = node.directory().join("tree");
    let secret = node.directory().join("secret");
    std::fs::create_dir_all(root.join("home/user")).unwrap();
    std::fs::write(&secret, "not to be read").unwrap();
    std::fs::write(root.join("home/user/diary"), "private").unwrap();
    std::os::unix::fs::symlink(&secret, root.join("home/user/link")).unwrap();
    std::os::unix::fs::chown(root.join("home/user/diary"), Some(1000), Some(1000)).unwrap();
    let modes = [("home/user/diary", 0o600), ("home/user", 0o700), ("", 0o755)];
    for (path, mode) in modes {
        std::fs::set_permissions(root.join(path), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
    node.ok(["image".as_ref(), "import".as_ref(), "tree@1".as_ref(), root.as_os_str()]);
    let exported = node.directory().join("tree.tar");
    node.ok(["image".as_ref(), "export".as_ref(), "tree@1".as_ref(), exported.as_os_str()]);
    let mut tar = tar::Archive::new(File::open(&exported).unwrap());
    let mut found = BTreeMap::new();
    for entry in tar.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut entry, &mut text).unwrap();
        let link = entry.link_name().unwrap().map(|link| link.into_owned());
        let path = entry.path().unwrap().to_string_lossy().trim_start_matches("./").to_owned();
        found.insert(path, (entry.header().uid().unwrap(), text, link));
    }
    assert_eq!(found["home/user/diary"], (1000, "private".to_owned(), None));
    assert_eq!(found["home/user/link"].2.as_deref(), Some(secret.as_path()));
}

#[test]
fn live_t13_the_base_of_a_build_is_read_by_the_worker() {
    let node = Node::start();
    let at = |name: &str| node.directory().join(name);
    std::fs::write(at("base.tar"), archive()).unwrap();
    let recipe = "name = \"built\"\nversion = \"1\"\n[base]\ntar = \"base.tar\"\n";
    std::fs::write(at("built.toml"), recipe).unwrap();
    node.ok(["image".as_ref(), "build".as_ref(), at("built.toml").as_os_str()]);
    assert_eq!(node.ok(["run", "--rm", "built", "echo", "well"]).text(), "well");
    std::fs::write(at("base.tar"), &archive()[..1_000_000]).unwrap();
    std::fs::write(at("built.toml"), recipe.replace("\"1\"", "\"2\"")).unwrap();
    let said = node.fails(2, ["image".as_ref(), "build".as_ref(), at("built.toml").as_os_str()]);
    assert!(said.contains("built@2") && said.contains("it is truncated"), "{said}");
    // A directory too, whoever may read it; a process without privileges cannot see what only root may.
    tar::Archive::new(archive()).unpack(at("root")).unwrap();
    std::fs::write(at("root/etc/diary"), "private").unwrap();
    std::os::unix::fs::chown(at("root/etc/diary"), Some(1000), Some(1000)).unwrap();
    std::fs::set_permissions(at("root/etc/diary"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(at("root/etc/diary"), "trusted.note", b"of root", flags).unwrap();
    std::fs::write(
        at("built.toml"),
        recipe.replace("\"1\"", "\"3\"").replace("tar = \"base.tar\"", "directory = \"root\""),
    )
    .unwrap();
    let node_says = node.ok(["image".as_ref(), "build".as_ref(), at("built.toml").as_os_str()]);
    assert_eq!(node.ok(["run", "--rm", "built@3", "cat", "/etc/diary"]).text(), "private", "{}", node_says.stderr);
    let exported = at("built.tar");
    node.ok(["image".as_ref(), "export".as_ref(), "built@3".as_ref(), exported.as_os_str()]);
    let bytes = std::fs::read(exported).unwrap();
    assert!(!bytes.windows(12).any(|window| window == b"trusted.note"), "it was read by a process of root's");
    let incoming = std::fs::read_dir(node.state_dir().join("images/.incoming")).unwrap();
    assert_eq!(incoming.count(), 0);
}
