//! A container's network as it is asked for.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Which network stack a container has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// Its own, with addresses of its own and a routed way out.
    #[default]
    Default,
    /// Its own, with nothing but a loopback.
    None,
    /// The host's.
    Host,
}

/// Most ports of a range that is published at once.
pub const PORT_RANGE_MAX: u16 = 1_000;

/// Transport protocol of a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// A port of the host that leads to a port of the container; as text `[IP:]HOST:CONTAINER[/udp]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublishedPort {
    /// Host address it is published on; `None` is every address.
    pub address: Option<IpAddr>,
    /// Port on the host, 1 to 65535.
    pub host: u16,
    /// Port in the container, 1 to 65535.
    pub container: u16,
    /// Protocol.
    pub transport: Transport,
}

impl PublishedPort {
    /// Whether this one and `other` cannot be published at once: one port of an address that both have.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        let addresses = match (self.address, other.address) {
            (Some(one), Some(two)) => {
                one == two || one.is_ipv4() == two.is_ipv4() && (one.is_unspecified() || two.is_unspecified())
            }
            // No address is every address.
            _ => true,
        };
        addresses && self.host == other.host && self.transport == other.transport
    }
}

/// Text that is no published port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "port `{}` is not [IP:]HOST:CONTAINER[/tcp|/udp] with ports from 1 to 65535, or ranges of one length such as 8000-8009:80-89",
    given.escape_debug()
)]
pub struct ParsePortError {
    given: String,
}

impl PublishedPort {
    /// One port or a range of them: `[IP:]FIRST-LAST:FIRST-LAST[/udp]`, in order.
    ///
    /// # Errors
    ///
    /// Another form, a port that is none, or ranges of different length or of more than [`PORT_RANGE_MAX`] ports.
    pub fn parse_range(given: &str) -> Result<Vec<Self>, ParsePortError> {
        let wrong = || ParsePortError { given: given.to_owned() };
        let ports = |text: &str| {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            match (first.parse::<u16>(), last.parse::<u16>()) {
                (Ok(first), Ok(last)) if first > 0 && last >= first && last - first < PORT_RANGE_MAX => {
                    Ok(first..=last)
                }
                _ => Err(wrong()),
            }
        };
        let (front, transport) = match given.split_once('/') {
            None => (given, Transport::Tcp),
            Some((ports, "tcp")) => (ports, Transport::Tcp),
            Some((ports, "udp")) => (ports, Transport::Udp),
            Some(_) => return Err(wrong()),
        };
        let (front, inner) = front.rsplit_once(':').ok_or_else(wrong)?;
        let (address, outer) = match front.rsplit_once(':') {
            None => (None, front),
            Some((address, host)) => {
                let address = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
                (Some(address.parse().map_err(|_| wrong())?), host)
            }
        };
        let (outer, inner) = (ports(outer)?, ports(inner)?);
        if outer.len() != inner.len() {
            return Err(wrong());
        }
        Ok(outer.zip(inner).map(|(host, container)| Self { address, host, container, transport }).collect())
    }
}

impl FromStr for PublishedPort {
    type Err = ParsePortError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        match Self::parse_range(given)?[..] {
            [port] => Ok(port),
            _ => Err(ParsePortError { given: given.to_owned() }),
        }
    }
}

impl fmt::Display for PublishedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            None => {}
            Some(IpAddr::V4(address)) => write!(f, "{address}:")?,
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
        }
        write!(f, "{}:{}", self.host, self.container)?;
        match self.transport {
            Transport::Tcp => Ok(()),
            Transport::Udp => f.write_str("/udp"),
        }
    }
}

impl TryFrom<String> for PublishedPort {
    type Error = ParsePortError;

    fn try_from(given: String) -> Result<Self, Self::Error> {
        given.parse()
    }
}

impl From<PublishedPort> for String {
    fn from(port: PublishedPort) -> Self {
        port.to_string()
    }
}

/// A line of the container's `/etc/hosts`; as text `NAME:ADDRESS`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct HostEntry {
    /// Host name.
    pub name: String,
    /// Its address.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub address: IpAddr,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_as_many_ports_on_both_sides() {
        let ports = |text: &str| {
            PublishedPort::parse_range(text).map(|ports| ports.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(ports("8000-8001:80-81/udp").unwrap(), ["8000:80/udp", "8001:81/udp"]);
        assert_eq!(ports("[::1]:9-9:5").unwrap(), ["[::1]:9:5"]);
        assert_eq!(ports("1-1000:1-1000").unwrap().len(), 1_000);
        for bad in ["1-1001:1-1001", "1-2:1-3", "1-2:1", "2-1:2-1", "0-1:0-1", "1-:1-", "-1:1", "65535-65536:1-2"] {
            assert!(ports(bad).unwrap_err().to_string().contains("8000-8009:80-89"), "{bad}");
        }
        assert!("1-2:1-2".parse::<PublishedPort>().is_err());
    }

    #[test]
    fn ports_meet_on_an_address_that_both_have() {
        let meet = |one: &str, two: &str| {
            let (one, two): (PublishedPort, PublishedPort) = (one.parse().unwrap(), two.parse().unwrap());
            assert_eq!(one.meets(&two), two.meets(&one));
            one.meets(&two)
        };
        assert!(meet("80:1", "80:2") && meet("80:1", "127.0.0.1:80:1") && meet("0.0.0.0:80:1", "127.0.0.1:80:1"));
        assert!(!meet("80:1", "81:1") && !meet("80:1", "80:1/udp") && !meet("127.0.0.1:80:1", "127.0.0.2:80:1"));
        assert!(!meet("0.0.0.0:80:1", "[::1]:80:1"));
    }

    #[test]
    fn ports_read_back_from_their_text() {
        for text in ["80:8080", "127.0.0.1:80:8080", "53:53/udp", "[::1]:80:8080"] {
            assert_eq!(text.parse::<PublishedPort>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_port_is_refused() {
        for bad in ["", "80", "0:80", "80:0", "65536:80", "a:80:80", "80:80/sctp", "-1:80", ":80"] {
            assert!(bad.parse::<PublishedPort>().is_err(), "{bad}");
        }
    }
}
