//! What is left of containers when the machine was started again: the run directory, and all that ran, is gone.

use insula_testkit::{Node, eventually};

/// Ends the daemon, its servants and what they hold without a word, and empties the run directory.
fn reboot(node: &mut Node) {
    node.kill_daemon();
    eventually("nothing runs", || {
        let mut left = node.on_host();
        // The other nodes of this machine, which is not started again, would take what is claimed no more.
        left.claims.clear();
        left.remove();
        left.processes.is_empty().then_some(())
    });
    std::fs::remove_dir_all(node.run_dir()).unwrap();
    node.start_daemon();
}

#[test]
fn live_a_reboot_keeps_exit_codes_addresses_and_intent() {
    let mut node = Node::start();
    node.import_busybox();
    node.ok(["create", "--name", "created", "busybox", "true"]);
    node.ok(["create", "--rm", "--name", "created-rm", "busybox", "true"]);
    node.ok(["run", "-d", "--name", "failed", "busybox", "sh", "-c", "exit 3"]);
    assert_eq!(node.ok(["wait", "failed"]).text(), "3");
    node.ok(["run", "-d", "--name", "cut", "busybox", "sleep", "1000"]);
    node.ok(["run", "-d", "--rm", "--name", "gone", "busybox", "sleep", "1000"]);
    node.ok(["run", "-d", "--name", "always", "--restart", "always", "busybox", "sleep", "1000"]);
    node.ok(["run", "-d", "--name", "ended", "--restart", "on-failure", "busybox", "true"]);
    assert_eq!(node.ok(["wait", "ended"]).text(), "0");
    node.ok(["run", "-d", "--name", "held", "--restart", "always", "busybox", "sleep", "1000"]);
    node.ok(["stop", "-t", "0", "held"]);
    let names = ["created", "created-rm", "failed", "cut", "always", "ended", "held"];
    let before: Vec<_> = names.iter().map(|name| node.show(name)).collect();
    // What the store has is written some time after the end; the next change of the same record waits for it.
    for name in ["failed", "ended", "held"] {
        node.ok(["rename", name, &format!("{name}-2")]);
        node.ok(["rename", &format!("{name}-2"), name]);
    }
    reboot(&mut node);
    node.wait_for_state("always", "running");
    let after: Vec<_> = names.iter().map(|name| node.show(name)).collect();
    for (before, after) in before.iter().zip(&after) {
        for key in ["id", "address", "image", "created", "uid_base"] {
            assert_eq!(before[key], after[key], "{key} of {before}");
        }
    }
    let states: Vec<_> = after.iter().map(|shown| shown["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["created", "created", "stopped", "stopped", "running", "stopped", "stopped"]);
    for place in [2, 5, 6] {
        for key in ["exit_code", "started", "finished"] {
            assert_eq!(before[place][key], after[place][key], "{key} of {}", before[place]);
        }
    }
    assert!(
        after[3]["exit_code"].is_null() && after[3]["reason"].as_str().unwrap().contains("machine"),
        "{}",
        after[3]
    );
    let _ = node.fails(3, ["show", "gone"]);
    node.ok(["start", "created-rm"]);
    eventually("it is removed when it ends", || (node.run(["show", "created-rm"]).code == 3).then_some(()));
    node.ok(["start", "failed"]);
    assert_eq!(node.ok(["wait", "failed"]).text(), "3");
}

#[test]
fn live_a_created_container_with_rm_goes_when_it_ends() {
    let mut node = Node::start();
    node.import_busybox();
    node.ok(["create", "--rm", "--name", "c", "busybox", "sh", "-c", "echo out; exit 4"]);
    assert_eq!(node.show("c")["state"], "created");
    node.kill_daemon();
    node.start_daemon();
    let ended = node.run(["start", "-a", "c"]).with_code(4);
    assert_eq!(ended.stdout, "out\n");
    eventually("it is removed", || (node.run(["show", "c"]).code == 3).then_some(()));
    node.kill_daemon();
    node.start_daemon();
    let _ = node.fails(3, ["show", "c"]);
}

#[test]
fn live_starts_in_a_row_are_counted_on_by_the_next_daemon() {
    let mut node = Node::start();
    node.import_busybox();
    node.ok(["run", "-d", "--name", "c", "--restart", "on-failure:4", "busybox", "sh", "-c", "exit 9"]);
    eventually("it was started again", || (node.show("c")["restarts"].as_u64() >= Some(2)).then_some(()));
    let before = node.show("c")["restarts"].as_u64();
    node.kill_daemon();
    node.start_daemon();
    assert!(node.show("c")["restarts"].as_u64() >= before.map(|count| count.min(4)));
    eventually("it is given up", || {
        let shown = node.show("c");
        (shown["restarts"] == 4 && shown["state"] == "stopped").then_some(())
    });
}
