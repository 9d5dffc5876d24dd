//! Who has which name: the daemon's table, made ready for questions.
//!
//! A container's own name goes before other names it answers to (its host name), so that nobody takes a name away by
//! calling its host the same. Two containers that share another name both answer to it.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use insula_plan::protocol::names::{NamedContainer, NamesTable};

/// The domain of the node's containers: `NAME.insula` is what `NAME` is.
pub const DOMAIN: &str = "insula";

/// Most addresses in one answer.
const ADDRESSES_MAX: usize = 64;

/// Who sent a question: a container by its first address, or the node by its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Asker(pub IpAddr);

/// What is known about a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// Its addresses, of both families; none for a name that stands for no container but exists.
    Addresses(Vec<IpAddr>),
    /// It is a name of ours, and nobody that runs has it.
    Nobody,
    /// It is not ours to tell.
    Foreign,
}

/// What is known about an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner<'a> {
    /// The container of this name.
    Container(&'a str),
    /// It is in our subnets, and nobody has it.
    Nobody,
    /// It is not ours to tell.
    Foreign,
}

/// The table, by name and by address.
#[derive(Debug, Default)]
pub struct Names {
    table: NamesTable,
    own: HashMap<String, usize>,
    others: HashMap<String, Vec<usize>>,
    by_address: BTreeMap<IpAddr, usize>,
}

impl Names {
    /// Makes the table ready.
    #[must_use]
    pub fn new(table: NamesTable) -> Self {
        let mut own = HashMap::new();
        let mut others: HashMap<String, Vec<usize>> = HashMap::new();
        for (position, container) in table.containers.iter().enumerate() {
            let mut names = container.names.iter().map(|name| name.to_ascii_lowercase());
            own.extend(names.next().map(|name| (name, position)));
            for name in names {
                others.entry(name).or_default().push(position);
            }
        }
        let by_address = table.by_address();
        Self { table, own, others, by_address }
    }

    /// Name servers for everything else.
    #[must_use]
    pub fn upstreams(&self) -> &[IpAddr] {
        &self.table.upstreams
    }

    /// Who this address speaks for; `None` for those that get no answer.
    #[must_use]
    pub fn asker(&self, address: IpAddr) -> Option<Asker> {
        if self.table.node.contains(&address) {
            return Some(Asker(address));
        }
        let container = self.container(*self.by_address.get(&address)?)?;
        container.addresses.first().copied().map(Asker)
    }

    /// Whether this asker is still there.
    #[must_use]
    pub fn has(&self, asker: Asker) -> bool {
        self.asker(asker.0) == Some(asker)
    }

    fn container(&self, position: usize) -> Option<&NamedContainer> {
        self.table.containers.get(position).map(AsRef::as_ref)
    }

    /// Whom `name` stands for: lower case, without the dot at the end.
    #[must_use]
    pub fn find(&self, name: &str) -> Known {
        if name == DOMAIN {
            return Known::Addresses(Vec::new());
        }
        let inner = name.strip_suffix(DOMAIN).and_then(|front| front.strip_suffix('.'));
        let short = inner.unwrap_or(name);
        let found: Vec<usize> = match (self.own.get(short), self.others.get(short)) {
            (Some(&position), _) => vec![position],
            (None, Some(positions)) => positions.clone(),
            (None, None) if inner.is_some() => return Known::Nobody,
            (None, None) => return Known::Foreign,
        };
        let containers = found.into_iter().filter_map(|position| self.container(position));
        let addresses: Vec<IpAddr> = containers.flat_map(|container| container.addresses.iter().copied()).collect();
        let shown: Vec<IpAddr> = addresses.into_iter().take(ADDRESSES_MAX).collect();
        if shown.is_empty() { Known::Nobody } else { Known::Addresses(shown) }
    }

    /// Who has `address`.
    #[must_use]
    pub fn owner(&self, address: IpAddr) -> Owner<'_> {
        let container = self.by_address.get(&address).and_then(|&position| self.container(position));
        match container.and_then(|container| container.names.first()) {
            Some(name) => Owner::Container(name),
            None if self.table.is_in_subnets(address) => Owner::Nobody,
            None => Owner::Foreign,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::Arc;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// A node with `web` (host name `shop`), `db` (host name `web`), `other` (host name `shop`) and the stopped `gone`.
    pub(crate) fn names() -> Names {
        let container = |names: &[&str], addresses: &[&str]| {
            Arc::new(NamedContainer {
                names: names.iter().map(|name| (*name).to_owned()).collect(),
                addresses: addresses.iter().map(|text| address(text)).collect(),
            })
        };
        Names::new(NamesTable {
            node: vec![address("10.87.0.1"), address("fd49::1")],
            subnets: vec![(address("10.87.0.0"), 20), (address("fd49::"), 64)],
            upstreams: vec![address("192.0.2.1"), address("192.0.2.2")],
            containers: vec![
                container(&["web", "shop"], &["10.87.0.2", "fd49::2"]),
                container(&["db", "web"], &["10.87.0.3", "fd49::3"]),
                container(&["other", "shop"], &["10.87.0.4"]),
                container(&["gone"], &[]),
            ],
        })
    }

    #[test]
    fn a_containers_own_name_goes_before_anothers_host_name() {
        let web = Known::Addresses(vec![address("10.87.0.2"), address("fd49::2")]);
        assert_eq!(names().find("web"), web);
        assert_eq!(names().find("web.insula"), web);
    }

    #[test]
    fn a_shared_host_name_stands_for_all() {
        let shop = Known::Addresses(vec![address("10.87.0.2"), address("fd49::2"), address("10.87.0.4")]);
        assert_eq!(names().find("shop"), shop);
    }

    #[test]
    fn names_that_nobody_has_are_ours_only_in_our_domain_or_of_who_does_not_run() {
        assert_eq!(names().find("gone"), Known::Nobody);
        assert_eq!(names().find("never.insula"), Known::Nobody);
        assert_eq!(names().find("never"), Known::Foreign);
        assert_eq!(names().find("web.example.org"), Known::Foreign);
        assert_eq!(names().find("xinsula"), Known::Foreign);
        assert_eq!(names().find("insula"), Known::Addresses(Vec::new()));
    }

    #[test]
    fn addresses_have_owners_within_the_subnets() {
        assert_eq!(names().owner(address("fd49::3")), Owner::Container("db"));
        assert_eq!(names().owner(address("10.87.0.9")), Owner::Nobody);
        assert_eq!(names().owner(address("10.99.0.9")), Owner::Foreign);
    }

    #[test]
    fn only_containers_that_run_and_the_node_are_answered() {
        let names = names();
        assert_eq!(names.asker(address("fd49::2")), Some(Asker(address("10.87.0.2"))));
        assert_eq!(names.asker(address("10.87.0.1")), Some(Asker(address("10.87.0.1"))));
        assert_eq!(names.asker(address("10.87.0.9")), None);
        assert_eq!(names.asker(address("127.0.0.1")), None);
    }
}
