//! Attacks while something is being done: mount targets exchanged during starts, nonsense on the socket that takes
//! descriptors.
#![allow(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is one module")]

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use insula_testkit::{Node, PATIENCE, eventually};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketAddrUnix, SocketFlags,
    SocketType, sendmsg, shutdown,
};

/// Starts that race in the test; more are asked for by the variable.
const STARTS_DEFAULT: u32 = 100;

/// Names how many.
const STARTS_VARIABLE: &str = "INSULA_RACE_STARTS";

fn node() -> Node {
    let node = Node::start();
    node.import_busybox();
    node
}

#[test]
fn live_t07_a_mount_target_that_a_neighbour_exchanges_leads_nowhere_else() {
    let node = node();
    let folder = |name: &str| {
        let path = node.directory().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    };
    let (shared, given, victim) = (folder("shared"), folder("given"), folder("victim"));
    let share = format!("{}:/data/shared", shared.display());
    let target = format!("{}:/data/shared/target", given.display());
    // By every way to the victim that a link can take: absolute, upwards, by the process's own root. Never into a
    // directory that a start just made (-T, and -r for what its command wrote): it would stay, and the race be over.
    let race = format!(
        "cd /data/shared; while :; do for to in {0} ../../../../../..{0} /proc/1/root{0} /etc; do \
             mkdir target 2>/dev/null; rmdir target 2>/dev/null; ln -sT $to target 2>/dev/null; rm -rf target; \
         done; done",
        victim.display()
    );
    node.ok(["run", "-d", "--name", "racer", "-v", &share, "busybox", "sh", "-c", &race]);
    let starts = std::env::var(STARTS_VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(STARTS_DEFAULT);
    let mut started = 0;
    for _ in 0..starts {
        let options = ["run", "--rm", "-v", &share, "-v", &target, "busybox", "sh", "-c"];
        let run = node.run([&options[..], &["echo x >/data/shared/target/stray"]].concat());
        // What is mounted over a name that goes away is gone, too: then the command finds no such directory.
        assert!([0, 1, 125].contains(&run.code), "{run:?}");
        started += u32::from(run.code == 0);
    }
    println!("{started} of {starts} starts found the target as it was to be");
    assert!((1..starts).contains(&started), "{started} of {starts}: there was no race");
    let is_link = || std::fs::symlink_metadata(shared.join("target")).is_ok_and(|found| found.is_symlink());
    eventually("the neighbour exchanges the target to the end", || is_link().then_some(()));
    let left = |path: &std::path::Path| std::fs::read_dir(path).unwrap().count();
    assert_eq!(left(&victim), 0, "something was written where a link led to");
    assert!(left(&given) <= 1);
    assert!(node.on_host().mounts.is_empty(), "{}", node.on_host());
    node.ok(["delete", "--force", "racer"]);
}

/// A connection to the socket that takes descriptors.
fn attach(node: &Node) -> OwnedFd {
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let address = SocketAddrUnix::new(node.run_dir().join("attach.sock")).unwrap();
    rustix::net::connect(&socket, &address).unwrap();
    socket
}

fn send(socket: &OwnedFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); 2_048];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    }
    // It may have been closed already, as an answer to what was sent before.
    let _ = sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
}

#[test]
fn live_t12_nonsense_on_the_attach_socket_closes_its_connection_only() {
    let node = node();
    let daemon = format!("/proc/{}/fd", node.daemon_pid().as_raw_nonzero());
    let open = || std::fs::read_dir(&daemon).unwrap().count();
    node.ok(["run", "--rm", "busybox", "true"]);
    let before = open();
    let null = std::fs::File::open("/dev/null").unwrap();
    let mut random: u64 = 0x2545_F491_4F6C_DD1D;
    let mut noise = |length: usize| {
        let byte = |_| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random.to_le_bytes()[0]
        };
        (0..length).map(byte).collect::<Vec<u8>>()
    };
    let wrong = [
        &br#"{"token":"0000000000000000000000000000000000000000000000000000000000000000"}"#[..],
        br#"{"token":""}"#,
        br#"{"token":7,"terminal":{}}"#,
        br#"{}"#,
        b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
        b"",
    ];
    let mut silent = Vec::new();
    for round in 0..100 {
        for words in wrong {
            let fds = vec![null.as_fd(); round % 40];
            send(&attach(&node), words, &fds);
        }
        let socket = attach(&node);
        send(&socket, &noise(round * 97), &[null.as_fd()]);
        // Half closed, then more of it.
        let _ = shutdown(&socket, Shutdown::Read);
        send(&socket, &noise(40_000), &[]);
        silent.push(attach(&node));
    }
    assert_eq!(node.ok(["run", "--rm", "busybox", "echo", "alive"]).text(), "alive");
    drop(silent);
    eventually(&format!("no descriptor is left within {PATIENCE:?}"), || (open() <= before + 2).then_some(()));
}
