//! The node's filter table: static rules, and maps that starts and sweeps change.
//!
//! Made in one transaction by the `nft` program when the node starts; an older one of the same node is replaced in the
//! same transaction, with the elements of the containers that run. The text goes by standard input: nothing of it
//! comes from a container, and names are made safe by [`TableName`]. (The program's JSON form would do as well, but
//! the one in Debian 12 cannot read a map whose values are an address *and* a port.)
//!
//! ```text
//!   from a container ──► prerouting -300  origin    its own source address only; never 127.0.0.0/8, never multicast
//!   from outside ──────►                            never with a source address of a container
//!                        prerouting -100  publish   published port ──► address and port of a container
//!   from the host ─────► output     -100  publish   the same
//!   to the host ───────► input         0  to_host   from containers: answers, ping, the node's name service
//!   to a container ────► forward       0  forward   none that has no link: never out to somebody else's network
//!   out ───────────────► postrouting 100  source    the machine's address instead of a container's
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::{Command, Stdio};

use insula_model::NodeName;
use insula_plan::link::{FilterElement, FilterField};

use crate::{ContainerNetwork, Inbound, NodeNetwork};

/// What is kept of the program's complaint.
const COMPLAINT_CHARS_MAX: usize = 2000;

/// Name of a node's table: `insula_` and the node's name, in letters that the filter's language takes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName(String);

impl TableName {
    /// `-` becomes `_m`, `.` becomes `_d` and `_` becomes `__`, so that different nodes have different tables.
    #[must_use]
    pub fn of(node: &NodeName) -> Self {
        let mut name = "insula_".to_owned();
        for letter in node.as_str().chars() {
            match letter {
                '-' => name.push_str("_m"),
                '.' => name.push_str("_d"),
                '_' => name.push_str("__"),
                other => name.push(other),
            }
        }
        Self(name)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The filter program did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// It is not installed.
    #[error("the program nft is missing; install the package `nftables`")]
    ProgramMissing,
    /// It could not be run.
    #[error("run nft")]
    Run(#[source] io::Error),
    /// It refused.
    #[error("nft refused: {complaint}")]
    Refused {
        /// What it wrote, shortened.
        complaint: String,
    },
}

impl NodeNetwork {
    /// Makes or replaces the node's table, with the elements of `running` containers, in one transaction: nothing is
    /// open or closed in between. Runs the `nft` program.
    ///
    /// # Errors
    ///
    /// The program is missing, or the kernel lacks what the rules need; then the table is as it was.
    pub fn install_table(&self, running: &[ContainerNetwork]) -> Result<(), TableError> {
        nft(&["-f", "-"], &self.ruleset(running)).map(drop)
    }

    /// Removes the node's table. Idempotent. Runs the `nft` program.
    ///
    /// # Errors
    ///
    /// The program is missing, or the kernel refused.
    pub fn remove_table(&self) -> Result<(), TableError> {
        let table = self.table();
        nft(&["-f", "-"], &format!("add table inet {table}\ndelete table inet {table}\n")).map(drop)
    }

    /// The table as the program reads it. Pure.
    #[must_use]
    pub fn ruleset(&self, running: &[ContainerNetwork]) -> String {
        let table = self.table();
        let mut text = format!("add table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n");
        for (set, kind) in SETS {
            text.push_str(&set_text(set, kind, &elements_of(running, set)));
        }
        for (set, kind) in ASKING {
            let _ = writeln!(
                text,
                "\tset {set} {{\n\t\ttype {kind}\n\t\tsize 65535\n\t\tflags dynamic,timeout\n\t\ttimeout 10s\n\t}}"
            );
        }
        for chain in self.chains() {
            text.push_str(&chain.to_string());
        }
        text.push_str("}\n");
        text
    }

    fn chains(&self) -> Vec<Chain> {
        let mut chains = vec![
            Chain::hook("origin", "filter hook prerouting priority -300", self.origin()),
            Chain::plain("from_link", self.link_rules()),
            Chain::hook("publish_arriving", "nat hook prerouting priority -100", vec!["jump publish".to_owned()]),
            Chain::hook("publish_own", "nat hook output priority -100", vec!["jump publish".to_owned()]),
            Chain::plain("publish", PUBLISH.map(str::to_owned).to_vec()),
            Chain::hook(
                "input",
                "filter hook input priority 0",
                self.each_family("iifname \"insula*\" FAMILY saddr SUBNET jump to_host"),
            ),
            Chain::plain("to_host", self.to_host()),
            Chain::hook("output", "filter hook output priority 0", self.each_family(&NOBODYS.replace("OUT", OUT_OWN))),
            Chain::hook("forward", "filter hook forward priority 0", self.forward()),
            Chain::hook("source", "nat hook postrouting priority 100", self.source()),
        ];
        // Chains that others jump to come first.
        chains.sort_by_key(|chain| chain.hook.is_some());
        chains
    }

    /// One rule per family of the node, with `FAMILY` and `SUBNET` filled in.
    fn each_family(&self, rule: &str) -> Vec<String> {
        let fill = |family: &str, subnet: String| rule.replace("FAMILY", family).replace("SUBNET", &subnet);
        let ipv4 = fill("ip", self.subnets.ipv4.to_string());
        std::iter::once(ipv4).chain(self.subnets.ipv6.map(|block| fill("ip6", block.to_string()))).collect()
    }

    fn origin(&self) -> Vec<String> {
        let mut rules = vec!["iifname \"insula*\" jump from_link".to_owned()];
        rules.extend(self.each_family("iifname != \"insula*\" iifname != \"lo\" FAMILY saddr SUBNET drop"));
        rules
    }

    /// [`FROM_LINK`], and what one container may ask of the name service: beyond that, packets are dropped before they
    /// take room among tracked connections or in the service's queue, which is one for all.
    fn link_rules(&self) -> Vec<String> {
        let ipv6 = self.subnets.node_ipv6().map(|address| ("ip6", "asking6", address.to_string()));
        let families = std::iter::once(("ip", "asking4", self.subnets.node_ipv4().to_string())).chain(ipv6);
        let limits = families.map(|(family, set, node)| {
            format!(
                "{family} daddr {node} meta l4proto {{ tcp, udp }} th dport 53 \
                 update @{set} {{ {family} saddr limit rate over 1000/second burst 2000 packets }} drop"
            )
        });
        FROM_LINK.map(str::to_owned).into_iter().chain(limits).collect()
    }

    fn to_host(&self) -> Vec<String> {
        let mut rules = vec![
            "ct state established,related accept".to_owned(),
            "ct state invalid drop".to_owned(),
            "icmp type echo-request accept".to_owned(),
            "icmpv6 type echo-request accept".to_owned(),
            format!("ip daddr {} meta l4proto {{ tcp, udp }} th dport 53 accept", self.subnets.node_ipv4()),
        ];
        let name_service = |address| format!("ip6 daddr {address} meta l4proto {{ tcp, udp }} th dport 53 accept");
        rules.extend(self.subnets.node_ipv6().map(name_service));
        rules.push("reject with icmpx type admin-prohibited".to_owned());
        rules
    }

    fn forward(&self) -> Vec<String> {
        let mut rules = self.each_family(&NOBODYS.replace("OUT", OUT_OTHERS));
        if self.inbound == Inbound::PublishedOnly {
            rules.push("iifname \"insula*\" accept".to_owned());
            rules.push("ct state new ct status dnat accept".to_owned());
            rules.extend(self.each_family("FAMILY daddr SUBNET ct state new reject with icmpx type admin-prohibited"));
        }
        rules
    }

    fn source(&self) -> Vec<String> {
        // What the host sends from its loopback to a published port gets an address that can be answered.
        let mut rules = vec![format!("ip saddr 127.0.0.0/8 ip daddr {} masquerade", self.subnets.ipv4)];
        // A container that reaches itself by a published port would answer itself directly, and not be understood.
        rules.push("ct status dnat ip saddr . ip daddr @self4 masquerade".to_owned());
        rules.push("ct status dnat ip6 saddr . ip6 daddr @self6 masquerade".to_owned());
        rules.extend(self.each_family("FAMILY saddr SUBNET oifname != \"insula*\" masquerade"));
        rules
    }
}

/// Sets and maps, with their types.
const SETS: [(&str, &str); 6] = [
    ("map publish4", "inet_proto . inet_service : ipv4_addr . inet_service"),
    ("map publish4_on", "ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service"),
    ("map publish6", "inet_proto . inet_service : ipv6_addr . inet_service"),
    ("map publish6_on", "ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service"),
    ("set self4", "ipv4_addr . ipv4_addr"),
    ("set self6", "ipv6_addr . ipv6_addr"),
];

/// Sets that the kernel fills itself: who asked the name service lately, and how often.
const ASKING: [(&str, &str); 2] = [("asking4", "ipv4_addr"), ("asking6", "ipv6_addr")];

/// What arrives over a container's link. The last rule is the one that counts: a source address has to be routed back
/// to the link it came from, and only the container's own is. Those before it are what that look-up lets pass, and
/// what a link with `route_localnet` would let into the loopback (CVE-2020-8558).
const FROM_LINK: [&str; 5] = [
    "ip daddr { 127.0.0.0/8, 224.0.0.0/4, 255.255.255.255 } drop",
    "ip6 daddr { ff00::/8, fe80::/10 } drop",
    "ip saddr 0.0.0.0 drop",
    "ip6 saddr :: drop",
    "fib saddr . iif oif missing drop",
];

/// An address of the node's that no running container has is nobody's: without this, what is sent there would leave by
/// the default route.
const NOBODYS: &str = "FAMILY daddr SUBNET OUT reject with icmpx type host-unreachable";
/// Out of links that are not ours: what others send.
const OUT_OTHERS: &str = "oifname != \"insula*\"";
/// The same of what the machine itself sends, which reaches the node's own addresses by its loopback.
const OUT_OWN: &str = "oifname != \"insula*\" oifname != \"lo\"";

/// What is sent to an address of the machine itself goes to the container that published the port, if one did.
///
/// Not from `::1`: the answer would have to be routed back to it, and IPv6 has no `route_localnet`. The reserved port
/// refuses such connections at once, so that whoever tries `localhost` goes on to 127.0.0.1.
const PUBLISH: [&str; 7] = [
    "meta l4proto != { tcp, udp } return",
    "ip6 daddr ::1 return",
    "fib daddr type != local return",
    "dnat ip to ip daddr . meta l4proto . th dport map @publish4_on",
    "dnat ip to meta l4proto . th dport map @publish4",
    "dnat ip6 to ip6 daddr . meta l4proto . th dport map @publish6_on",
    "dnat ip6 to meta l4proto . th dport map @publish6",
];

struct Chain {
    name: &'static str,
    hook: Option<&'static str>,
    rules: Vec<String>,
}

impl Chain {
    fn hook(name: &'static str, hook: &'static str, rules: Vec<String>) -> Self {
        Self { name, hook: Some(hook), rules }
    }

    fn plain(name: &'static str, rules: Vec<String>) -> Self {
        Self { name, hook: None, rules }
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\tchain {} {{", self.name)?;
        if let Some(hook) = self.hook {
            writeln!(f, "\t\ttype {hook}; policy accept;")?;
        }
        for rule in &self.rules {
            writeln!(f, "\t\t{rule}")?;
        }
        writeln!(f, "\t}}")
    }
}

/// Elements of one set, each key once: a port that is asked for twice is one element.
fn elements_of(running: &[ContainerNetwork], set: &str) -> BTreeMap<String, String> {
    let name = set.split_once(' ').map_or(set, |(_, name)| name);
    let elements = running.iter().flat_map(ContainerNetwork::elements);
    elements.filter(|element| element.set == name).map(|element| element_text(&element)).collect()
}

fn element_text(element: &FilterElement) -> (String, String) {
    let fields = |fields: &[FilterField]| {
        let field = |field: &FilterField| match field {
            FilterField::Address(address) => address.to_string(),
            FilterField::Protocol(number) => number.to_string(),
            FilterField::Port(number) => number.to_string(),
        };
        fields.iter().map(field).collect::<Vec<_>>().join(" . ")
    };
    (fields(&element.key), fields(&element.value))
}

fn set_text(set: &str, kind: &str, elements: &BTreeMap<String, String>) -> String {
    let mut text = format!("\t{set} {{\n\t\ttype {kind}\n");
    if !elements.is_empty() {
        let one = |(key, value): (&String, &String)| {
            if value.is_empty() { key.clone() } else { format!("{key} : {value}") }
        };
        let list: Vec<_> = elements.iter().map(one).collect();
        let _ = writeln!(text, "\t\telements = {{ {} }}", list.join(", "));
    }
    text.push_str("\t}\n");
    text
}

/// Runs the filter program in the calling thread's network namespace and returns what it prints.
pub(crate) fn nft(arguments: &[&str], input: &str) -> Result<String, TableError> {
    let mut child = Command::new("nft")
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => TableError::ProgramMissing,
            _ => TableError::Run(error),
        })?;
    // A program that ends before it has read everything says why itself.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().map_err(TableError::Run)?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        return Err(TableError::Refused { complaint: complaint.trim().chars().take(COMPLAINT_CHARS_MAX).collect() });
    }
    written.map_err(TableError::Run)?;
    String::from_utf8(output.stdout).map_err(|error| TableError::Run(io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ContainerAddresses, NetworkConfig, Subnets};
    use insula_plan::link::Presence;
    use proptest::prelude::*;

    fn network(inbound: Inbound) -> NodeNetwork {
        let subnets =
            Subnets { ipv4: "10.87.16.0/20".parse().unwrap(), ipv6: Some("fd49:6e73:756c:1::/64".parse().unwrap()) };
        let config = NetworkConfig { inbound, ..NetworkConfig::standard() };
        NodeNetwork::new(NodeName::new("n-1").unwrap(), &config, subnets, Presence::Present)
    }

    fn container(ports: &[&str]) -> ContainerNetwork {
        ContainerNetwork {
            id: "12345678-9abc-4def-8123-456789abcdef".parse().unwrap(),
            addresses: ContainerAddresses {
                ipv4: "10.87.16.2".parse().unwrap(),
                ipv6: Some("fd49:6e73:756c:1::2".parse().unwrap()),
            },
            ports: ports.iter().map(|port| port.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn the_table_is_as_documented() {
        insta::assert_snapshot!(network(Inbound::Routed).ruleset(&[container(&["80:8080", "127.0.0.1:53:53/udp"])]));
    }

    #[test]
    fn a_node_without_ipv6_has_no_rule_with_a_subnet_of_it() {
        let mut network = network(Inbound::PublishedOnly);
        network.subnets.ipv6 = None;
        assert!(!network.ruleset(&[]).contains("fd49"));
    }

    proptest! {
        #[test]
        fn different_nodes_have_different_tables_in_safe_letters(a in "[a-z0-9][a-z0-9_.-]{0,10}", b in "[a-z0-9][a-z0-9_.-]{0,10}") {
            let name = |text: &str| TableName::of(&NodeName::new(text).unwrap());
            prop_assert_eq!(name(&a) == name(&b), a == b);
            prop_assert!(name(&a).as_str().bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'));
        }
    }
}
