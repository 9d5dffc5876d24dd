//! What links are called: by name, by index, by hardware address.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

/// Longest link name in bytes: `IFNAMSIZ` without the final NUL.
const NAME_BYTES_MAX: usize = 15;

/// A name that the kernel takes for a link: 1 to 15 visible ASCII characters, none of them `/`, `:` or `%`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkName(String);

/// Text that cannot name a link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("link name `{}` is not 1 to {NAME_BYTES_MAX} visible characters without / : %", given.escape_debug())]
pub struct LinkNameError {
    given: String,
}

impl LinkName {
    /// Checks `given`.
    ///
    /// # Errors
    ///
    /// The kernel would refuse the name, or read it as a pattern (`%d`) or as an alias (`eth0:1`).
    pub fn new(given: impl Into<String>) -> Result<Self, LinkNameError> {
        let given = given.into();
        let length = (1..=NAME_BYTES_MAX).contains(&given.len());
        let letters = given.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%'));
        if length && letters && given != "." && given != ".." {
            Ok(Self(given))
        } else {
            Err(LinkNameError { given: given.chars().take(64).collect() })
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A link's number in its network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkIndex(NonZeroU32);

impl LinkIndex {
    /// The loopback's, in every network namespace.
    pub const LOOPBACK: Self = Self(NonZeroU32::MIN);

    /// The index, unless it is zero, which the kernel gives to no link.
    #[must_use]
    pub fn new(index: u32) -> Option<Self> {
        NonZeroU32::new(index).map(Self)
    }

    /// The kernel's number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0.get()
    }
}

/// A hardware address of Ethernet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

/// Text that is no hardware address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("hardware address `{}` is not six pairs of hexadecimal digits with colons", given.escape_debug())]
pub struct ParseMacError {
    given: String,
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = ParseMacError;

    fn from_str(given: &str) -> Result<Self, ParseMacError> {
        let wrong = || ParseMacError { given: given.chars().take(64).collect() };
        let mut octets = [0; 6];
        let mut pairs = given.split(':');
        for octet in &mut octets {
            let pair = pairs.next().filter(|pair| pair.len() == 2).ok_or_else(wrong)?;
            *octet = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
        }
        if pairs.next().is_some() { Err(wrong()) } else { Ok(Self(octets)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_would_refuse_or_expand_are_refused() {
        for bad in ["", ".", "..", "a/b", "eth%d", "eth0:1", "a b", "a\0", "é", "sixteen-letters-"] {
            assert!(LinkName::new(bad).is_err(), "{bad:?}");
        }
        for good in ["lo", "eth0", "insulaabcdefghi"] {
            assert_eq!(LinkName::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn hardware_addresses_read_back_from_their_text() {
        let address = MacAddress([0x02, 0, 0xab, 0xcd, 0xef, 0x01]);
        assert_eq!(address.to_string(), "02:00:ab:cd:ef:01");
        assert_eq!(address.to_string().parse::<MacAddress>().unwrap(), address);
        for bad in ["", "02:00:ab:cd:ef", "02:00:ab:cd:ef:01:02", "2:0:ab:cd:ef:01", "+2:00:ab:cd:ef:1"] {
            assert!(bad.parse::<MacAddress>().is_err(), "{bad:?}");
        }
    }
}
