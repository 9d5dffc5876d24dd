//! Public keys of signatures, the one kind that every format has.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::parse_hex;

/// A public Ed25519 key. As text `ed25519:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(pub [u8; 32]);

/// Text that is not a public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key `{}` is not `ed25519:` and 64 lower-case hexadecimal digits", given.escape_debug())]
pub struct ParseKeyError {
    given: String,
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        f.pad(&format!("ed25519:{hex}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = ParseKeyError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let parsed = given.strip_prefix("ed25519:").and_then(parse_hex);
        parsed.map(Self).ok_or_else(|| ParseKeyError { given: given.to_owned() })
    }
}

impl TryFrom<String> for PublicKey {
    type Error = ParseKeyError;

    fn try_from(given: String) -> Result<Self, Self::Error> {
        given.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_other_text_is_refused() {
        let key = PublicKey(std::array::from_fn(|index| u8::try_from(index * 7).unwrap()));
        assert_eq!(key.to_string().parse::<PublicKey>().unwrap(), key);
        for bad in ["", "ed25519:", "sha256:00", &key.to_string().to_uppercase(), &key.to_string()[..70]] {
            assert!(bad.parse::<PublicKey>().is_err(), "{bad}");
        }
    }
}
