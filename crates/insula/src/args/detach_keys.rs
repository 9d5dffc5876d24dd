//! Keys that leave a terminal without ending what runs in it.

use std::str::FromStr;

/// Most keys of a sequence.
const KEYS_MAX: usize = 8;

/// A sequence of key codes, as text `ctrl-p,ctrl-q`; the empty one never matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachKeys(Vec<u8>);

/// Text that is no sequence of keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("keys `{}` are not a list such as ctrl-p,ctrl-q or a,ctrl-], of at most {KEYS_MAX}", given.escape_debug())]
pub struct ParseDetachKeysError {
    given: String,
}

impl DetachKeys {
    /// The empty sequence: every key is for what runs.
    #[must_use]
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// The bytes that a terminal sends for them.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for DetachKeys {
    type Err = ParseDetachKeysError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseDetachKeysError { given: given.to_owned() };
        if given.is_empty() {
            return Ok(Self::none());
        }
        let keys: Option<Vec<u8>> = given.split(',').map(key).collect();
        match keys {
            Some(keys) if keys.len() <= KEYS_MAX => Ok(Self(keys)),
            _ => Err(wrong()),
        }
    }
}

/// `a` or `ctrl-a`; control keys are those of ASCII: `@ A-Z [ \ ] ^ _`.
fn key(text: &str) -> Option<u8> {
    let single = |text: &str| match text.as_bytes() {
        &[byte] if byte.is_ascii_graphic() => Some(byte),
        _ => None,
    };
    match text.strip_prefix("ctrl-") {
        None => single(text),
        Some(rest) => {
            single(&rest.to_ascii_uppercase()).filter(|byte| (b'@'..=b'_').contains(byte)).map(|byte| byte & 0x1f)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_names_become_the_codes_that_a_terminal_sends() {
        assert_eq!("ctrl-p,ctrl-q".parse::<DetachKeys>().unwrap().bytes(), [0x10, 0x11]);
        assert_eq!("a,ctrl-]".parse::<DetachKeys>().unwrap().bytes(), [b'a', 0x1d]);
        assert!("".parse::<DetachKeys>().unwrap().bytes().is_empty());
        for bad in ["ctrl-", "ctrl-1", "ab", ",", "a,a,a,a,a,a,a,a,a", "ctrl-\u{e9}"] {
            assert!(bad.parse::<DetachKeys>().is_err(), "{bad}");
        }
    }
}
