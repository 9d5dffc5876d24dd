//! Files that a container gets: `/etc/resolv.conf` and `/etc/hosts`. Pure text.

use std::fmt::Write as _;
use std::net::IpAddr;

use insula_model::HostEntry;

use crate::ContainerAddresses;

/// Name servers that the C library asks.
const SERVERS_MAX: usize = 3;
/// Longest line taken over from the host.
const LINE_BYTES_MAX: usize = 1024;

/// Domains to search that resolvers of all ages take.
const DOMAINS_MAX: usize = 6;
/// The domain of the node's containers.
const OWN_DOMAIN: &str = "insula";

/// What the node and the host say about name servers.
#[derive(Debug, Clone, Copy)]
pub struct ResolverFiles<'a> {
    /// The node's name service, where it answers.
    pub service: Option<IpAddr>,
    /// Its `/etc/resolv.conf`, empty if there is none.
    pub resolv_conf: &'a str,
    /// `/run/systemd/resolve/resolv.conf`, empty if there is none: the servers behind systemd's own on 127.0.0.53.
    pub systemd: &'a str,
}

/// Where a container's name servers come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsOrigin {
    /// It was asked for.
    Container,
    /// The node's name service, which asks the host's own in turn.
    Node,
    /// The host's own.
    Host,
    /// Those behind systemd's resolver.
    Systemd,
    /// The host has none that a container can reach: the configured ones.
    Fallback,
}

/// A container's `/etc/resolv.conf`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvConf {
    /// The file.
    pub text: String,
    /// Where its servers come from.
    pub origin: DnsOrigin,
}

/// A container's `/etc/resolv.conf`: `asked` servers if there are any, else the node's name service and nobody beside
/// it (a C library that asks all at once would believe whoever first says that there is no such container). Without
/// the service the host's, but for those on a loopback or a link of the host, which a container cannot reach; else
/// `fallback`, and the file says so. Search domains and options are the host's.
#[must_use]
pub fn resolv_conf(asked: &[IpAddr], host: ResolverFiles<'_>, fallback: &[IpAddr]) -> ResolvConf {
    let candidates = [
        (DnsOrigin::Container, asked.to_vec()),
        (DnsOrigin::Node, host.service.into_iter().collect()),
        (DnsOrigin::Host, servers(host.resolv_conf)),
        (DnsOrigin::Systemd, servers(host.systemd)),
        (DnsOrigin::Fallback, fallback.to_vec()),
    ];
    let (origin, chosen) =
        candidates.into_iter().find(|(_, servers)| !servers.is_empty()).unwrap_or((DnsOrigin::Fallback, Vec::new()));
    let mut text = match origin {
        DnsOrigin::Fallback => {
            "# The host names no server that a container can reach; these are configured.\n".to_owned()
        }
        _ => String::new(),
    };
    let source = if origin == DnsOrigin::Systemd { host.systemd } else { host.resolv_conf };
    if origin == DnsOrigin::Node {
        let _ = writeln!(text, "search {}", own_search(source).join(" "));
    }
    for line in source.lines().map(str::trim).filter(|line| line.len() <= LINE_BYTES_MAX) {
        let taken_over = match line.split_ascii_whitespace().next() {
            Some("search" | "domain") => origin != DnsOrigin::Node,
            Some("options") => true,
            _ => false,
        };
        if taken_over {
            let _ = writeln!(text, "{line}");
        }
    }
    for server in chosen.iter().take(SERVERS_MAX) {
        let _ = writeln!(text, "nameserver {server}");
    }
    ResolvConf { text, origin }
}

/// Our domain, then those that the host searches. Only the last line counts, so there can be one.
fn own_search(text: &str) -> Vec<&str> {
    let domains = |line| {
        let (word, domains) = str::trim(line).split_once(|c: char| c.is_ascii_whitespace())?;
        (matches!(word, "search" | "domain") && line.len() <= LINE_BYTES_MAX).then_some(domains)
    };
    let found = text.lines().filter_map(domains).next_back().unwrap_or_default();
    std::iter::once(OWN_DOMAIN).chain(found.split_ascii_whitespace()).take(DOMAINS_MAX).collect()
}

/// Name servers of a resolver's file that can be reached from elsewhere than the host itself.
fn servers(text: &str) -> Vec<IpAddr> {
    let server = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let address: IpAddr = (words.next()? == "nameserver").then(|| words.next())??.parse().ok()?;
        let of_the_host = match address {
            IpAddr::V4(address) => address.is_loopback() || address.is_unspecified() || address.is_link_local(),
            IpAddr::V6(address) => address.is_loopback() || address.is_unspecified() || address.is_unicast_link_local(),
        };
        (!of_the_host).then_some(address)
    };
    text.lines().filter_map(server).collect()
}

/// What a container's `/etc/hosts` says.
#[derive(Debug, Clone, Copy)]
pub struct HostsFile<'a> {
    /// The container's host name.
    pub hostname: &'a str,
    /// Its addresses; `None` without a network.
    pub addresses: Option<ContainerAddresses>,
    /// Further lines.
    pub entries: &'a [HostEntry],
}

impl HostsFile<'_> {
    /// The file. Names that could end a line are left out.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
        let plain =
            |name: &str| !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#');
        if plain(self.hostname) {
            match self.addresses {
                Some(addresses) => {
                    for address in addresses.iter() {
                        let _ = writeln!(text, "{address}\t{}", self.hostname);
                    }
                }
                None => {
                    let _ = writeln!(text, "127.0.1.1\t{}", self.hostname);
                }
            }
        }
        for entry in self.entries.iter().filter(|entry| plain(&entry.name)) {
            let _ = writeln!(text, "{}\t{}", entry.address, entry.name);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FALLBACK: [IpAddr; 1] = [IpAddr::V4(std::net::Ipv4Addr::new(9, 9, 9, 9))];

    fn host<'a>(resolv_conf: &'a str, systemd: &'a str) -> ResolverFiles<'a> {
        ResolverFiles { service: None, resolv_conf, systemd }
    }

    #[test]
    fn the_hosts_servers_are_taken_without_those_only_it_can_reach() {
        let file = "# c\nsearch example.org\nnameserver 127.0.0.1\nnameserver fe80::1%eth0\nnameserver 192.0.2.1\noptions ndots:2\n";
        let made = resolv_conf(&[], host(file, ""), &FALLBACK);
        assert_eq!(made.text, "search example.org\noptions ndots:2\nnameserver 192.0.2.1\n");
        assert_eq!(made.origin, DnsOrigin::Host);
    }

    #[test]
    fn servers_behind_the_local_resolver_are_found() {
        let made = resolv_conf(&[], host("nameserver 127.0.0.53\n", "nameserver 192.0.2.7\nsearch lan\n"), &FALLBACK);
        assert_eq!((made.text.as_str(), made.origin), ("search lan\nnameserver 192.0.2.7\n", DnsOrigin::Systemd));
    }

    #[test]
    fn the_fallback_is_told_in_the_file() {
        let made = resolv_conf(&[], host("nameserver ::1\n", ""), &FALLBACK);
        assert_eq!(made.origin, DnsOrigin::Fallback);
        assert!(made.text.starts_with("# The host names no server"), "{}", made.text);
        assert!(made.text.ends_with("nameserver 9.9.9.9\n"));
        assert!(!resolv_conf(&[], host("", ""), &[]).text.contains("nameserver "));
    }

    #[test]
    fn the_nodes_service_is_named_alone_with_the_hosts_domains() {
        let file = "domain old\nsearch lan example.org\nnameserver 192.0.2.1\noptions ndots:2\n";
        let service = Some("10.87.0.1".parse().unwrap());
        let files = ResolverFiles { service, ..host(file, "") };
        let made = resolv_conf(&[], files, &FALLBACK);
        assert_eq!(made.text, "search insula lan example.org\noptions ndots:2\nnameserver 10.87.0.1\n");
        assert_eq!(made.origin, DnsOrigin::Node);
        let asked = resolv_conf(&["192.0.2.5".parse().unwrap()], files, &FALLBACK);
        assert!(asked.text.ends_with("nameserver 192.0.2.5\n") && !asked.text.contains("insula"), "{}", asked.text);
    }

    #[test]
    fn servers_asked_for_come_before_all_and_three_are_enough() {
        let asked: Vec<IpAddr> = (1..6).map(|last| IpAddr::from([127, 0, 0, last])).collect();
        let made = resolv_conf(&asked, host("nameserver 192.0.2.1\n", ""), &FALLBACK);
        assert_eq!(made.text, "nameserver 127.0.0.1\nnameserver 127.0.0.2\nnameserver 127.0.0.3\n");
        assert_eq!(made.origin, DnsOrigin::Container);
    }

    #[test]
    fn hosts_hold_the_loopback_the_container_and_what_was_asked() {
        let addresses =
            ContainerAddresses { ipv4: "10.87.0.2".parse().unwrap(), ipv6: Some("fd49::2".parse().unwrap()) };
        let entries = [
            HostEntry { name: "db".to_owned(), address: "10.0.0.9".parse().unwrap() },
            HostEntry { name: "a\n10.0.0.1 bank.example".to_owned(), address: "10.0.0.9".parse().unwrap() },
        ];
        let text = HostsFile { hostname: "web", addresses: Some(addresses), entries: &entries }.text();
        assert_eq!(
            text,
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n10.87.0.2\tweb\nfd49::2\tweb\n10.0.0.9\tdb\n"
        );
        let text = HostsFile { hostname: "web", addresses: None, entries: &[] }.text();
        assert!(text.ends_with("127.0.1.1\tweb\n"), "{text}");
    }
}
