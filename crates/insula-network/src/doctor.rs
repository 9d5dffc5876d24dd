//! What on this host keeps the network from working, and what to do about it.
//!
//! [`HostFacts::read`] looks; [`findings`] decides, purely. Filters of other software are the usual cause: a packet has
//! to pass every table, so a `drop` in another's forward chain wins over everything of ours.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::table::nft;
use crate::{NodeNetwork, TableError};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Good to know.
    Note,
    /// Something that containers need does not work.
    Warning,
    /// No container gets a network.
    Error,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FindingKind {
    /// The `nft` program is not installed.
    FilterProgramMissing,
    /// It does not work: the kernel lacks the packet filter, say.
    FilterFails {
        /// What it wrote.
        complaint: String,
    },
    /// The host does not forward IPv4.
    Ipv4ForwardingOff,
    /// The host does not forward IPv6, and the node has a subnet of it.
    Ipv6ForwardingOff,
    /// The kernel has no IPv6, and the node has a subnet of it.
    Ipv6Missing,
    /// Another's chain drops what is forwarded.
    ForeignForwardDrop {
        /// Family of its table: `ip`, `ip6` or `inet`.
        family: String,
        /// Its table.
        table: String,
        /// The chain.
        chain: String,
        /// Whose it is.
        owner: FilterOwner,
    },
    /// A chain of somebody else drops what containers ask the node's name service.
    ForeignInputDrop {
        /// Family of its table: `ip`, `ip6` or `inet`.
        family: String,
        /// Its table.
        table: String,
        /// The chain.
        chain: String,
        /// Whose it is.
        owner: FilterOwner,
    },
    /// Rules of the old `iptables` are loaded, which cannot be seen from here.
    LegacyTables,
    /// Frames of bridges go through the filters of routed packets.
    BridgeNetfilter,
}

/// Software known by its chains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilterOwner {
    /// Docker.
    Docker,
    /// ufw.
    Ufw,
    /// firewalld.
    Firewalld,
    /// Somebody else.
    Unknown,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// What.
    pub kind: FindingKind,
    /// In a sentence.
    pub summary: String,
    /// Commands that help, one a line, if there are any.
    pub remedy: Vec<String>,
}

/// What is looked at on a host, from the calling thread's network namespace.
#[derive(Debug)]
pub struct HostFacts {
    /// All tables, as `nft -j list ruleset` prints them.
    pub ruleset: Result<Value, TableError>,
    /// `net.ipv4.ip_forward`
    pub ipv4_forwarding: bool,
    /// `net.ipv6.conf.all.forwarding`; `None` without IPv6.
    pub ipv6_forwarding: Option<bool>,
    /// `net.bridge.bridge-nf-call-iptables`
    pub bridge_netfilter: bool,
    /// Whether tables of the old `iptables` are loaded.
    pub legacy_tables: bool,
}

impl HostFacts {
    /// Looks. Runs the `nft` program.
    #[must_use]
    pub fn read() -> Self {
        let setting = |name: &str| fs::read_to_string(Path::new("/proc/sys/net").join(name)).ok();
        let on = |name: &str| setting(name).map(|text| text.trim() != "0");
        let tables = |name: &str| {
            fs::read_to_string(Path::new("/proc/thread-self/net").join(name)).is_ok_and(|text| !text.is_empty())
        };
        let ruleset = nft(&["-j", "list", "ruleset"], "").and_then(|text| {
            serde_json::from_str(&text).map_err(|error| TableError::Refused { complaint: error.to_string() })
        });
        Self {
            ruleset,
            ipv4_forwarding: on("ipv4/ip_forward").unwrap_or(false),
            ipv6_forwarding: on("ipv6/conf/all/forwarding"),
            bridge_netfilter: on("bridge/bridge-nf-call-iptables").unwrap_or(false),
            legacy_tables: tables("ip_tables_names") || tables("ip6_tables_names"),
        }
    }
}

/// What keeps a node's network from working, the worst first. Pure.
#[must_use]
pub fn findings(network: &NodeNetwork, facts: &HostFacts) -> Vec<Finding> {
    let mut found = Vec::new();
    match &facts.ruleset {
        Ok(ruleset) => found.extend(foreign_drops(ruleset).map(|kind| foreign_drop(network, kind))),
        Err(TableError::ProgramMissing) => found.push(plain(
            Severity::Error,
            FindingKind::FilterProgramMissing,
            "the program nft is missing",
            &["apt-get install nftables"],
        )),
        Err(error) => found.push(plain(
            Severity::Error,
            FindingKind::FilterFails { complaint: error.to_string() },
            "the packet filter cannot be read",
            &[],
        )),
    }
    if !facts.ipv4_forwarding {
        let remedy = ["sysctl -w net.ipv4.ip_forward=1"];
        found.push(plain(Severity::Error, FindingKind::Ipv4ForwardingOff, "the host does not forward IPv4", &remedy));
    }
    if network.subnets.ipv6.is_some() {
        found.extend(ipv6(facts));
    }
    if facts.legacy_tables {
        let summary = "rules of iptables-legacy are loaded; whether they drop what is forwarded cannot be seen here";
        let remedy = ["iptables-legacy -S FORWARD", "ip6tables-legacy -S FORWARD"];
        found.push(plain(Severity::Note, FindingKind::LegacyTables, summary, &remedy));
    }
    if facts.bridge_netfilter {
        let summary =
            "frames of bridges go through the host's packet filter; containers here are routed and not affected";
        found.push(plain(Severity::Note, FindingKind::BridgeNetfilter, summary, &[]));
    }
    found.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    found
}

fn plain(severity: Severity, kind: FindingKind, summary: &str, remedy: &[&str]) -> Finding {
    let remedy = remedy.iter().map(|line| (*line).to_owned()).collect();
    Finding { severity, kind, summary: summary.to_owned(), remedy }
}

fn ipv6(facts: &HostFacts) -> Option<Finding> {
    match facts.ipv6_forwarding {
        Some(true) => None,
        Some(false) => Some(plain(
            Severity::Error,
            FindingKind::Ipv6ForwardingOff,
            "the host does not forward IPv6",
            &["sysctl -w net.ipv6.conf.all.forwarding=1"],
        )),
        None => Some(plain(
            Severity::Warning,
            FindingKind::Ipv6Missing,
            "the kernel has no IPv6, but the node is configured for it",
            &[],
        )),
    }
}

/// Forward and input chains that drop by policy, or firewalld's that rejects by its last rule, and that do not let our
/// links pass.
fn foreign_drops(ruleset: &Value) -> impl Iterator<Item = FindingKind> {
    let objects = ruleset["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let chains = objects.iter().filter_map(|object| object.get("chain"));
    chains.filter_map(move |chain| {
        let text = |key: &str| chain[key].as_str().unwrap_or_default();
        let (family, table, name) = (text("family"), text("table"), text("name"));
        let firewalld = table == "firewalld" && name == "filter_FORWARD";
        let input = text("hook") == "input";
        let closed = text("hook") == "forward" && (text("policy") == "drop" || firewalld);
        let closed = closed || (input && text("policy") == "drop");
        if !closed || table.starts_with("insula_") {
            return None;
        }
        let has_chain = |wanted: &str| {
            let here = |other: &&Value| other["family"] == family && other["table"] == table && other["name"] == wanted;
            objects.iter().filter_map(|object| object.get("chain")).any(|other| here(&other))
        };
        let owner = match (
            firewalld,
            has_chain("DOCKER-USER"),
            has_chain("ufw-before-forward") || has_chain("ufw6-before-forward"),
        ) {
            (true, _, _) => FilterOwner::Firewalld,
            (_, true, _) => FilterOwner::Docker,
            (_, _, true) => FilterOwner::Ufw,
            _ => FilterOwner::Unknown,
        };
        let keys = if input { &["iifname"][..] } else { &["iifname", "oifname"] };
        let opened = [name, "DOCKER-USER"].iter().any(|chain| lets_links_pass(objects, (family, table, chain), keys));
        let (family, table, chain) = (family.to_owned(), table.to_owned(), name.to_owned());
        let kind = if input {
            FindingKind::ForeignInputDrop { family, table, chain, owner }
        } else {
            FindingKind::ForeignForwardDrop { family, table, chain, owner }
        };
        (!opened).then_some(kind)
    })
}

/// Whether a chain accepts what passes links of ours in all directions of `keys`, as the remedy says it.
fn lets_links_pass(objects: &[Value], (family, table, chain): (&str, &str, &str), keys: &[&str]) -> bool {
    let rules = || {
        let rules = objects.iter().filter_map(|object| object.get("rule"));
        rules.filter(|rule| rule["family"] == family && rule["table"] == table && rule["chain"] == chain)
    };
    let accepts = |rule: &Value, key: &str| {
        let parts = rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
        let link = parts.iter().any(|part| {
            part["match"]["left"]["meta"]["key"] == key
                && part["match"]["op"] == "=="
                && part["match"]["right"] == "insula*"
        });
        link && parts.iter().any(|part| part.get("accept").is_some())
    };
    keys.iter().all(|key| rules().any(|rule| accepts(rule, key)))
}

fn foreign_drop(network: &NodeNetwork, kind: FindingKind) -> Finding {
    if let FindingKind::ForeignInputDrop { family, table, chain, owner } = &kind {
        let remedy = match owner {
            FilterOwner::Ufw => {
                let addresses = network.own_addresses().into_iter();
                addresses.map(|address| format!("ufw allow to {address} port 53")).collect()
            }
            _ => vec![format!(
                "nft insert rule {family} {table} {chain} iifname \"insula*\" meta l4proto {{ tcp, udp }} th dport 53 accept"
            )],
        };
        let summary = format!("chain {chain} of table {family} {table} drops what containers ask the name service");
        return Finding { severity: Severity::Warning, kind, summary, remedy };
    }
    let FindingKind::ForeignForwardDrop { family, table, chain, owner } = &kind else {
        return plain(Severity::Note, kind, "", &[]);
    };
    let subnets: Vec<String> = std::iter::once(network.subnets.ipv4.to_string())
        .chain(network.subnets.ipv6.map(|block| block.to_string()))
        .collect();
    let insert = |chain: &str| {
        ["iifname", "oifname"]
            .iter()
            .map(|key| format!("nft insert rule {family} {table} {chain} {key} \"insula*\" accept"))
            .collect()
    };
    let (name, remedy): (&str, Vec<String>) = match owner {
        FilterOwner::Docker => ("Docker", insert("DOCKER-USER")),
        FilterOwner::Ufw => {
            let rules =
                |subnet: &String| [format!("ufw route allow from {subnet}"), format!("ufw route allow to {subnet}")];
            ("ufw", subnets.iter().flat_map(rules).collect())
        }
        FilterOwner::Firewalld => {
            let rule = |subnet: &String| format!("firewall-cmd --permanent --zone=trusted --add-source={subnet}");
            ("firewalld", subnets.iter().map(rule).chain(std::iter::once("firewall-cmd --reload".to_owned())).collect())
        }
        FilterOwner::Unknown => ("other software", insert(chain)),
    };
    let summary = format!("chain {chain} of table {family} {table} ({name}) drops what containers send and receive");
    Finding { severity: Severity::Warning, kind, summary, remedy }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NetworkConfig, Subnets};
    use insula_model::NodeName;
    use insula_plan::link::Presence;
    use serde_json::json;

    fn network() -> NodeNetwork {
        let subnets = Subnets { ipv4: "10.87.16.0/20".parse().unwrap(), ipv6: Some("fd49::/64".parse().unwrap()) };
        NodeNetwork::new(NodeName::new("n1").unwrap(), &NetworkConfig::standard(), subnets, Presence::Present)
    }

    fn facts(objects: &[Value]) -> HostFacts {
        HostFacts {
            ruleset: Ok(json!({ "nftables": objects })),
            ipv4_forwarding: true,
            ipv6_forwarding: Some(true),
            bridge_netfilter: false,
            legacy_tables: false,
        }
    }

    fn chain(table: &str, name: &str, policy: &str) -> Value {
        json!({ "chain": { "family": "ip", "table": table, "name": name, "hook": "forward", "policy": policy } })
    }

    fn named(name: &str) -> Value {
        json!({ "chain": { "family": "ip", "table": "filter", "name": name } })
    }

    #[test]
    fn a_host_in_order_has_no_findings() {
        let own = json!({ "chain": { "family": "inet", "table": "insula_n1", "name": "forward", "hook": "forward", "policy": "drop" } });
        assert_eq!(findings(&network(), &facts(&[own, chain("filter", "FORWARD", "accept")])), []);
    }

    #[test]
    fn a_foreign_drop_is_found_with_the_rule_that_helps_and_gone_with_it() {
        let closed = chain("filter", "FORWARD", "drop");
        let found = findings(&network(), &facts(std::slice::from_ref(&closed)));
        assert_eq!(
            found[0].remedy,
            [
                "nft insert rule ip filter FORWARD iifname \"insula*\" accept",
                "nft insert rule ip filter FORWARD oifname \"insula*\" accept"
            ]
        );
        let rule = |key: &str| {
            let link = json!({ "match": { "op": "==", "left": { "meta": { "key": key } }, "right": "insula*" } });
            json!({ "rule": { "family": "ip", "table": "filter", "chain": "FORWARD", "expr": [link, { "accept": null }] } })
        };
        assert_eq!(findings(&network(), &facts(&[closed.clone(), rule("iifname"), rule("oifname")])), []);
        assert_eq!(findings(&network(), &facts(&[closed, rule("iifname")])).len(), 1);
    }

    #[test]
    fn known_software_is_named_and_asked_in_its_own_way() {
        let closed = chain("filter", "FORWARD", "drop");
        let docker = findings(&network(), &facts(&[closed.clone(), named("DOCKER-USER")]));
        assert!(docker[0].remedy[0].contains("DOCKER-USER"), "{docker:?}");
        let ufw = findings(&network(), &facts(&[closed, named("ufw-before-forward")]));
        assert_eq!(ufw[0].remedy[0], "ufw route allow from 10.87.16.0/20");
        let firewalld = findings(&network(), &facts(&[chain("firewalld", "filter_FORWARD", "accept")]));
        assert!(firewalld[0].remedy[1].ends_with("--add-source=fd49::/64"), "{firewalld:?}");
    }

    #[test]
    fn an_input_chain_that_keeps_containers_from_the_name_service_is_found() {
        let mut closed = chain("filter", "INPUT", "drop");
        closed["chain"]["hook"] = json!("input");
        let found = findings(&network(), &facts(std::slice::from_ref(&closed)));
        let remedy = "nft insert rule ip filter INPUT iifname \"insula*\" meta l4proto { tcp, udp } th dport 53 accept";
        assert_eq!(found[0].remedy, [remedy]);
        let link = json!({ "match": { "op": "==", "left": { "meta": { "key": "iifname" } }, "right": "insula*" } });
        let rule = json!({ "rule": { "family": "ip", "table": "filter", "chain": "INPUT", "expr": [link, { "accept": null }] } });
        assert_eq!(findings(&network(), &facts(&[closed.clone(), rule])), []);
        let ufw = findings(&network(), &facts(&[closed, named("ufw-before-forward")]));
        assert_eq!(ufw[0].remedy, ["ufw allow to 10.87.16.1 port 53", "ufw allow to fd49::1 port 53"]);
    }

    #[test]
    fn the_worst_comes_first() {
        let mut facts = facts(&[chain("filter", "FORWARD", "drop")]);
        (facts.ipv4_forwarding, facts.bridge_netfilter) = (false, true);
        let severities: Vec<_> = findings(&network(), &facts).into_iter().map(|finding| finding.severity).collect();
        assert_eq!(severities, [Severity::Error, Severity::Warning, Severity::Note]);
        facts.ruleset = Err(TableError::ProgramMissing);
        assert_eq!(findings(&network(), &facts)[0].kind, FindingKind::FilterProgramMissing);
    }
}
