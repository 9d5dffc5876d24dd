//! Who reaches whom.

use insula_network::Inbound;

use crate::world::{HOST4, HOST6, OUTSIDE4, OUTSIDE6, World};

#[test]
fn live_containers_host_and_outside_reach_each_other() {
    let world = World::new("reach");
    let network = world.node("n1", 1, Inbound::Routed);
    let (one, two) = (world.container(&network, 2, &[]), world.container(&network, 3, &[]));
    for container in [&one, &two] {
        container.netns.serve_tcp(80);
        container.netns.serve_udp(53);
    }
    world.outside.serve_tcp(80);
    world.outside.serve_udp(53);

    for (family, address) in two.both().iter().enumerate() {
        assert_eq!(one.netns.ask_tcp(address, 80).unwrap(), one.both()[family], "its own address is seen");
        assert_eq!(one.netns.ask_udp(address, 53).unwrap(), one.both()[family]);
        let node = [network.subnets.node_ipv4().to_string(), network.subnets.node_ipv6().unwrap().to_string()];
        assert_eq!(world.host.ask_tcp(address, 80).unwrap(), node[family]);
    }
    for (address, host) in [(OUTSIDE4, HOST4), (OUTSIDE6, HOST6)] {
        assert_eq!(one.netns.ask_tcp(address, 80).unwrap(), host, "outside sees the machine");
        assert_eq!(two.netns.ask_udp(address, 53).unwrap(), host);
    }

    // Who routes to the node reaches both containers at the same port of their own addresses.
    world.outside.run(&["ip", "route", "add", &network.subnets.ipv4.to_string(), "via", HOST4]);
    world.outside.run(&["ip", "route", "add", &network.subnets.ipv6.unwrap().to_string(), "via", HOST6]);
    for container in [&one, &two] {
        assert_eq!(world.outside.ask_tcp(&container.ipv4(), 80).unwrap(), OUTSIDE4);
        assert_eq!(world.outside.ask_tcp(&container.ipv6(), 80).unwrap(), OUTSIDE6);
    }
}

#[test]
fn live_what_is_sent_to_an_address_that_no_container_has_stays_on_the_machine_and_is_refused_at_once() {
    let world = World::new("nobody");
    let network = world.node("n1", 1, Inbound::Routed);
    let one = world.container(&network, 2, &[]);
    one.netns.serve_tcp(80);
    // The default routes lead out, where somebody might listen at any address.
    world.host.run(&["ip", "route", "add", "default", "via", OUTSIDE4]);
    world.host.run(&["ip", "-6", "route", "add", "default", "via", OUTSIDE6]);
    let nobody4 = network.subnets.ipv4.address(9).unwrap().to_string();
    let nobody6 = network.subnets.ipv6.unwrap().address(9).unwrap().to_string();
    for address in [nobody4, nobody6] {
        for netns in [&world.host, &one.netns] {
            let refused = netns.ask_tcp(&address, 80).unwrap_err();
            let unreachable = [std::io::ErrorKind::HostUnreachable, std::io::ErrorKind::ConnectionRefused];
            assert!(unreachable.contains(&refused.kind()), "{address}: {refused:?}");
        }
    }
    assert!(world.host.ask_tcp(&one.ipv4(), 80).is_ok());
}

#[test]
fn live_a_published_port_is_reached_from_everywhere() {
    let world = World::new("publish");
    let network = world.node("n1", 1, Inbound::PublishedOnly);
    let one = world.container(&network, 2, &["8080:80", "5353:53/udp"]);
    let two = world.container(&network, 3, &[]);
    one.netns.serve_tcp(80);
    one.netns.serve_udp(53);

    for (host, outside) in [(HOST4, OUTSIDE4), (HOST6, OUTSIDE6)] {
        assert_eq!(world.outside.ask_tcp(host, 8080).unwrap(), outside);
        assert_eq!(world.outside.ask_udp(host, 5353).unwrap(), outside);
        assert!(world.host.ask_tcp(host, 8080).is_ok(), "the host at its own address {host}");
    }
    let node = network.subnets.node_ipv4().to_string();
    assert_eq!(world.host.ask_tcp("127.0.0.1", 8080).unwrap(), node, "the loopback");
    assert_eq!(world.host.ask_udp("127.0.0.1", 5353).unwrap(), node);
    assert_eq!(two.netns.ask_tcp(HOST4, 8080).unwrap(), two.ipv4(), "another container");
    assert_eq!(one.netns.ask_tcp(HOST4, 8080).unwrap(), node, "the container itself");
    assert_eq!(one.netns.ask_udp(HOST4, 5353).unwrap(), node);
    assert!(one.netns.ask_tcp(HOST6, 8080).is_ok());

    // Nobody outside reaches what is not published.
    world.outside.run(&["ip", "route", "add", &network.subnets.ipv4.to_string(), "via", HOST4]);
    assert!(world.outside.ask_tcp(&one.ipv4(), 81).is_err());
    assert!(world.outside.ask_tcp(&one.ipv4(), 80).is_err());
}

#[test]
fn live_a_port_of_one_address_is_published_there_only() {
    let world = World::new("address");
    let network = world.node("n1", 1, Inbound::Routed);
    let one = world.container(&network, 2, &["127.0.0.1:8080:80", "[2001:db8::1]:8081:80"]);
    one.netns.serve_tcp(80);
    assert!(world.host.ask_tcp("127.0.0.1", 8080).is_ok());
    assert!(world.outside.ask_tcp(HOST4, 8080).is_err());
    assert!(world.outside.ask_tcp(HOST6, 8080).is_err());
    assert_eq!(world.outside.ask_tcp(HOST6, 8081).unwrap(), OUTSIDE6);
    assert!(world.outside.ask_tcp(HOST4, 8081).is_err());
}

#[test]
fn live_the_loopback_of_ipv6_refuses_at_once_so_that_ipv4_is_tried() {
    let world = World::new("loop6");
    let network = world.node("n1", 1, Inbound::Routed);
    let one = world.container(&network, 2, &["8080:80"]);
    one.netns.serve_tcp(80);
    let _reserved = world.host.enter(|| insula_network::reserve(&one.description.ports[0]).unwrap());
    let error = world.host.ask_tcp("::1", 8080).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(world.host.ask_tcp("127.0.0.1", 8080).is_ok());
}
