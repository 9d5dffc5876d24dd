//! Starts, sweeps, restarts of the daemon, neighbours on the same machine.

use insula_network::{FindingKind, HostFacts, Inbound, Severity, findings, own_links};

use crate::world::{HOST4, HOST6, OUTSIDE4, OUTSIDE6, World};

#[test]
fn live_a_sweep_leaves_nothing_and_may_come_twice_and_late() {
    let world = World::new("sweep");
    let network = world.node("n1", 1, Inbound::Routed);
    let empty = world.host.run(&["nft", "list", "ruleset"]);
    let routes = world.host.run(&["ip", "route"]);
    let one = world.container(&network, 2, &["8080:80", "127.0.0.1:53:53/udp"]);
    assert_ne!(world.host.run(&["nft", "list", "ruleset"]), empty);
    world.sweep(&network, &one);
    world.sweep(&network, &one);
    assert_eq!(world.host.run(&["nft", "list", "ruleset"]), empty);
    assert_eq!(world.host.run(&["ip", "route"]), routes);

    // The port belongs to another container by now: the late sweep leaves it alone.
    let two = world.container(&network, 3, &["8080:80"]);
    two.netns.serve_tcp(80);
    world.sweep(&network, &one);
    assert_eq!(world.outside.ask_tcp(HOST4, 8080).unwrap(), OUTSIDE4);
}

/// Questions of one flow before its container is said not to answer.
const ASKED_MAX: u32 = 3;

#[test]
fn live_a_flow_that_never_pauses_follows_the_port_from_container_to_container() {
    let world = World::new("flow");
    let network = world.node("n1", 1, Inbound::Routed);
    // Bound, so that the host takes what comes and says nothing.
    let _reserved = world.host.enter(|| insula_network::reserve(&"5353:53/udp".parse().unwrap()).unwrap());
    for (host, family) in [(HOST4, 0), (HOST6, 1)] {
        let client = world.outside.udp_client(host, 5353);
        client.send(b"before anybody is there").unwrap();
        for number in [2, 3] {
            let container = world.container(&network, number, &["5353:53/udp"]);
            container.netns.serve_udp(53);
            let mut answer = [0; 64];
            // The kernel lets packets into a fresh link a moment after it is up: one may be lost, a flow goes on.
            let ask = |_| client.send(b"?").and_then(|_| client.recv(&mut answer)).ok();
            let length = (0..ASKED_MAX).find_map(ask).unwrap_or_else(|| panic!("container {number} does not answer"));
            assert_eq!(std::str::from_utf8(&answer[..length]).unwrap(), [OUTSIDE4, OUTSIDE6][family]);
            world.sweep(&network, &container);
            client.send(b"while nobody is there").unwrap();
        }
    }
}

#[test]
fn live_a_node_owns_an_address_that_a_killed_one_left_and_makes_a_lost_one_again() {
    let world = World::new("addresses");
    let first = world.node("n1", 1, Inbound::Routed);
    let second = world.node("n2", 1, Inbound::Routed);
    // The end of the first, as late as can be, takes nothing of the second's.
    let ipv4_only = insula_network::Subnets { ipv6: None, ..first.subnets };
    let late = insula_network::NodeNetwork { subnets: ipv4_only, ..first };
    world.host.enter(|| insula_network::remove_node_addresses(&late).unwrap());
    assert!(world.host.enter(|| insula_network::has_node_addresses(&second)));
    let address = second.subnets.node_ipv4().to_string();
    world.host.run(&["ip", "address", "delete", &format!("{address}/32"), "dev", "lo"]);
    assert!(!world.host.enter(|| insula_network::has_node_addresses(&second)));
    world.host.enter(|| insula_network::ensure_node_addresses(&second).unwrap());
    assert!(world.host.enter(|| insula_network::has_node_addresses(&second)));
    world.container(&second, 2, &[]);
}

#[test]
fn live_a_node_whose_addresses_were_lost_reaches_its_containers_again() {
    let world = World::new("mended");
    let network = world.node("n1", 1, Inbound::Routed);
    let containers = [2, 3].map(|number| world.container(&network, number, &[]));
    containers.iter().for_each(|container| container.netns.serve_tcp(80));
    // One that is gone is no obstacle.
    let gone = world.container(&network, 4, &[]);
    world.sweep(&network, &gone);
    let look = || world.host.run(&["ip", "route"]) + &world.host.run(&["ip", "-6", "route", "show", "proto", "static"]);
    let before = look();
    assert!(before.contains(&format!("{} dev", containers[0].ipv4())), "{before}");
    world.host.enter(|| insula_network::remove_node_addresses(&network).unwrap());
    assert_ne!(look(), before);
    let name = &containers[1].description.id.link_name();
    world.host.run(&["ip", "neighbour", "delete", &containers[1].ipv4(), "dev", name]);
    world.host.run(&["ip", "link", "set", name, "down"]);
    let running: Vec<_> = containers.iter().chain([&gone]).map(|container| container.description.clone()).collect();
    world.host.enter(|| {
        insula_network::ensure_node_addresses(&network).unwrap();
        insula_network::mend_links(&network, &running).unwrap();
        insula_network::mend_links(&network, &running).unwrap();
    });
    assert_eq!(look(), before);
    for container in &containers {
        for (address, from) in container.both().iter().zip(network.own_addresses()) {
            assert_eq!(world.host.ask_tcp(address, 80).unwrap(), from.to_string(), "asked from {address}");
        }
    }
}

#[test]
fn live_a_table_made_anew_keeps_what_runs() {
    let world = World::new("anew");
    let network = world.node("n1", 1, Inbound::Routed);
    let one = world.container(&network, 2, &["8080:80"]);
    one.netns.serve_tcp(80);
    let before = world.host.run(&["nft", "list", "ruleset"]);
    world.host.enter(|| network.install_table(std::slice::from_ref(&one.description)).unwrap());
    assert_eq!(world.host.run(&["nft", "list", "ruleset"]), before);
    assert!(world.outside.ask_tcp(HOST4, 8080).is_ok());
    world.host.enter(|| {
        network.remove_table().unwrap();
        network.remove_table().unwrap();
        insula_network::remove_node_addresses(&network).unwrap();
        insula_network::remove_node_addresses(&network).unwrap();
    });
    assert_eq!(world.host.run(&["nft", "list", "ruleset"]), "");
}

#[test]
fn live_nodes_side_by_side_leave_each_other_alone() {
    let world = World::new("nodes");
    let (first, second) = (world.node("n1", 1, Inbound::Routed), world.node("n-2", 2, Inbound::Routed));
    let (one, two) = (world.container(&first, 2, &["8080:80"]), world.container(&second, 2, &["8081:80"]));
    for container in [&one, &two] {
        container.netns.serve_tcp(80);
    }
    assert_eq!(one.netns.ask_tcp(&two.ipv4(), 80).unwrap(), one.ipv4());
    assert!(world.outside.ask_tcp(HOST4, 8080).is_ok());
    assert!(world.outside.ask_tcp(HOST4, 8081).is_ok());
    let links = |network| world.host.enter(|| own_links(network).unwrap());
    assert_eq!(links(&first).len(), 1);
    assert_eq!(links(&second)[0].container, two.description.id);

    // The first node goes, with a container that nobody knows of any more.
    world.host.enter(|| {
        for link in own_links(&first).unwrap() {
            link.sweep_step().perform(None).unwrap();
        }
        first.remove_table().unwrap();
        insula_network::remove_node_addresses(&first).unwrap();
    });
    assert!(links(&first).is_empty());
    assert!(world.outside.ask_tcp(HOST4, 8081).is_ok());
}

#[test]
fn live_a_foreign_filter_is_found_and_the_remedy_helps() {
    let world = World::new("foreign");
    let network = world.node("n1", 1, Inbound::Routed);
    let one = world.container(&network, 2, &["8080:80"]);
    one.netns.serve_tcp(80);
    // Notes are about the machine that the test runs on.
    let look = || {
        let mut found = world.host.enter(|| findings(&network, &HostFacts::read()));
        found.retain(|finding| finding.severity > Severity::Note);
        found
    };
    assert_eq!(look(), []);

    world.host.run(&["nft", "add table ip filter"]);
    world.host.run(&["nft", "add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }"]);
    let found = look();
    assert!(matches!(&found[0].kind, FindingKind::ForeignForwardDrop { chain, .. } if chain == "FORWARD"), "{found:?}");
    assert_eq!(found.len(), 1);
    for line in &found[0].remedy {
        world.host.run(&["sh", "-c", line]);
    }
    assert_eq!(look(), []);
    assert_eq!(world.outside.ask_tcp(HOST4, 8080).unwrap(), OUTSIDE4);

    world.host.enter(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap());
    assert_eq!(look()[0].kind, FindingKind::Ipv4ForwardingOff);
}

#[test]
fn live_forwarding_keeps_the_hosts_own_way_out() {
    let world = World::new("forward");
    let setting = |name: &str| world.host.enter(|| std::fs::read_to_string(format!("/proc/sys/net/{name}")).unwrap());
    assert_eq!(setting("ipv6/conf/up0/accept_ra").trim(), "1");
    world.node("n1", 1, Inbound::Routed);
    assert_eq!(setting("ipv4/ip_forward").trim(), "1");
    assert_eq!(setting("ipv6/conf/all/forwarding").trim(), "1");
    assert_eq!(setting("ipv6/conf/up0/accept_ra").trim(), "2", "advertisements are still believed");
}
