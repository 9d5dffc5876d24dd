//! Who does not reach whom. Packets that must not arrive are followed by one that must: no test waits for silence.

use insula_network::Inbound;

use crate::world::{Container, HOST4, OUTSIDE4, OUTSIDE6, World};

/// Gives a container an address that is not its own, and takes care that its kernel uses it.
fn steal(container: &Container, address: &str) {
    let bits = if address.contains(':') { 128 } else { 32 };
    container.netns.run(&["ip", "address", "add", &format!("{address}/{bits}"), "dev", "eth0", "nodad"]);
}

#[test]
fn live_a15_a_stolen_or_invented_source_address_reaches_no_one() {
    let world = World::new("spoof");
    let network = world.node("n1", 1, Inbound::Routed);
    let (thief, victim, third) =
        (world.container(&network, 2, &[]), world.container(&network, 3, &[]), world.container(&network, 4, &[]));
    for (own, stolen, invented, there, outside) in [
        (thief.ipv4(), victim.ipv4(), "198.51.100.7", third.ipv4(), OUTSIDE4),
        (thief.ipv6(), victim.ipv6(), "2001:db8:bad::7", third.ipv6(), OUTSIDE6),
    ] {
        let node = if own.contains(':') {
            network.subnets.node_ipv6().unwrap().to_string()
        } else {
            network.subnets.node_ipv4().to_string()
        };
        for address in [&stolen, invented, &node] {
            steal(&thief, address);
        }
        for (receiver, at) in [
            (third.netns.receiver(&there, 7), there.as_str()),
            (world.outside.receiver(outside, 7), outside),
            (world.host.receiver(&node, 53), node.as_str()),
        ] {
            let port = if at == node { 53 } else { 7 };
            // The node's own address cannot be told and be a destination at once.
            for address in [stolen.as_str(), invented, node.as_str()].iter().filter(|address| **address != at) {
                thief.netns.send_udp(address, at, port, "spoofed");
            }
            if at == node {
                thief.netns.run(&[
                    "ip",
                    "address",
                    "del",
                    &format!("{node}/{}", if at.contains(':') { 128 } else { 32 }),
                    "dev",
                    "eth0",
                ]);
            }
            let send = || thief.netns.send_udp(&own, at, port, "own");
            assert_eq!(receiver.until("own", send), ["own"], "to {at}");
        }
    }
}

/// Hardware address of a container's end.
fn mac(container: &Container) -> String {
    let line = container.netns.run(&["ip", "-brief", "link", "show", "dev", "eth0"]);
    line.split_ascii_whitespace().nth(2).unwrap().to_owned()
}

#[test]
fn live_a15_the_hardware_address_of_another_gives_no_other_source() {
    let world = World::new("mac");
    let network = world.node("n1", 1, Inbound::Routed);
    let (thief, victim, third) =
        (world.container(&network, 2, &[]), world.container(&network, 3, &[]), world.container(&network, 4, &[]));
    let receiver = third.netns.receiver(&third.ipv4(), 7);
    let send = |text| thief.netns.send_udp(&thief.ipv4(), &third.ipv4(), 7, text);
    assert_eq!(receiver.until("the way is open", || send("the way is open")), ["the way is open"]);
    let gateway = thief.netns.run(&["ip", "neighbour", "show", "169.254.1.1"]);
    let gateway = gateway.split_ascii_whitespace().skip_while(|word| *word != "lladdr").nth(1).unwrap();
    thief.netns.run(&["ip", "link", "set", "eth0", "address", &mac(&victim)]);
    thief.netns.run(&["ip", "neighbour", "replace", "169.254.1.1", "lladdr", gateway, "dev", "eth0"]);
    steal(&thief, &victim.ipv4());
    thief.netns.send_udp(&victim.ipv4(), &third.ipv4(), 7, "spoofed");
    assert_eq!(receiver.until("own", || send("own")), ["own"]);
}

#[test]
fn live_a15_a_stolen_address_takes_no_packets_from_its_owner() {
    let world = World::new("steal");
    let network = world.node("n1", 1, Inbound::Routed);
    let (thief, victim) = (world.container(&network, 2, &[]), world.container(&network, 3, &[]));
    steal(&thief, &victim.ipv4());
    // Announced with all the noise there is.
    thief.netns.enter(|| {
        let _ = std::process::Command::new("busybox")
            .args(["arping", "-A", "-c", "1", "-I", "eth0", &victim.ipv4()])
            .output();
    });
    victim.netns.serve_tcp(80);
    thief.netns.serve_tcp(81);
    assert!(world.host.ask_tcp(&victim.ipv4(), 80).is_ok());
    assert!(world.host.ask_tcp(&victim.ipv4(), 81).is_err(), "the thief serves this one");
}

#[test]
fn live_the_hosts_own_services_are_out_of_reach() {
    let world = World::new("host");
    let network = world.node("n1", 1, Inbound::Routed);
    let one = world.container(&network, 2, &[]);
    world.host.serve_tcp(22);
    world.host.serve_tcp(53);
    let node4 = network.subnets.node_ipv4().to_string();
    let node6 = network.subnets.node_ipv6().unwrap().to_string();
    for address in [HOST4, &node4, &node6, "169.254.1.1"] {
        assert!(one.netns.ask_tcp(address, 22).is_err(), "{address}");
    }
    assert!(world.outside.ask_tcp(HOST4, 22).is_ok(), "others are no concern of ours");
    assert!(one.netns.ask_tcp(&node4, 53).is_ok(), "the node's name service");
    assert!(one.netns.ask_tcp(&node6, 53).is_ok());
    one.netns.run(&["busybox", "ping", "-c", "1", "-W", "2", HOST4]);
    world.host.serve_tcp(8000);
    assert!(one.netns.ask_tcp(HOST4, 8000).is_err());
}

#[test]
fn live_the_hosts_loopback_is_out_of_reach_though_ports_of_it_are_published() {
    let world = World::new("cve");
    let network = world.node("n1", 1, Inbound::Routed);
    let one = world.container(&network, 2, &["127.0.0.1:8080:80"]);
    let receiver = world.host.receiver("0.0.0.0", 53);
    // Somebody forgot to close the host: only the rule on arriving packets is left.
    let table = network.table();
    world.host.run(&["nft", "insert", "rule", "inet", table.as_str(), "to_host", "udp", "dport", "53", "accept"]);
    // A container whose way to 127.0.0.1 leads out of it.
    one.netns.run(&["ip", "address", "del", "127.0.0.1/8", "dev", "lo"]);
    one.netns.enter(|| std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap());
    one.netns.run(&["ip", "route", "add", "127.0.0.0/8", "via", "169.254.1.1", "dev", "eth0", "onlink"]);
    one.netns.send_udp(&one.ipv4(), "127.0.0.1", 53, "loopback");
    let send = || one.netns.send_udp(&one.ipv4(), &network.subnets.node_ipv4().to_string(), 53, "node");
    assert_eq!(receiver.until("node", send), ["node"]);
}

#[test]
fn live_nobody_outside_speaks_as_a_container() {
    let world = World::new("outside");
    let network = world.node("n1", 1, Inbound::Routed);
    let (one, two) = (world.container(&network, 2, &[]), world.container(&network, 3, &[]));
    let receiver = two.netns.receiver(&two.ipv4(), 7);
    world.outside.run(&["ip", "address", "add", &format!("{}/32", one.ipv4()), "dev", "lo"]);
    world.outside.run(&["ip", "route", "add", &format!("{}/32", two.ipv4()), "via", HOST4]);
    world.outside.send_udp(&one.ipv4(), &two.ipv4(), 7, "spoofed");
    let send = || world.outside.send_udp(OUTSIDE4, &two.ipv4(), 7, "own");
    assert_eq!(receiver.until("own", send), ["own"]);
}
