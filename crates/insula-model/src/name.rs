//! Names: one closed alphabet for everything that can end up in a path, a link name or a table.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest name, in bytes.
const NAME_BYTES_MAX: usize = 63;

/// A name outside the contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("{what} is empty; use 1 to {NAME_BYTES_MAX} of a-z 0-9 _ . -, beginning with a letter or digit")]
    Empty {
        /// Which kind of name.
        what: &'static str,
    },
    /// More than 63 bytes.
    #[error("{what} `{given}` has {length} bytes; at most {NAME_BYTES_MAX} are allowed")]
    TooLong {
        /// Which kind of name.
        what: &'static str,
        /// The beginning of what was given.
        given: String,
        /// Its length in bytes.
        length: usize,
    },
    /// A byte outside `[a-z0-9][a-z0-9_.-]*`.
    #[error(
        "{what} `{}` has {character:?} at position {position}; use a-z 0-9 _ . -, beginning with a letter or digit",
        given.escape_debug()
    )]
    BadCharacter {
        /// Which kind of name.
        what: &'static str,
        /// What was given.
        given: String,
        /// The offending character.
        character: char,
        /// Its position, counted from 1.
        position: usize,
    },
}

fn check(what: &'static str, given: &str) -> Result<(), NameError> {
    if given.is_empty() {
        return Err(NameError::Empty { what });
    }
    if given.len() > NAME_BYTES_MAX {
        let shown = given.chars().take(NAME_BYTES_MAX).collect();
        return Err(NameError::TooLong { what, given: shown, length: given.len() });
    }
    let allowed = |index: usize, c: char| match c {
        'a'..='z' | '0'..='9' => true,
        '_' | '.' | '-' => index > 0,
        _ => false,
    };
    match given.chars().enumerate().find(|&(index, c)| !allowed(index, c)) {
        None => Ok(()),
        Some((index, character)) => {
            Err(NameError::BadCharacter { what, given: given.to_owned(), character, position: index + 1 })
        }
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// Checks `given` against `[a-z0-9][a-z0-9_.-]*`, 63 bytes at most.
            ///
            /// # Errors
            ///
            /// Says which character at which position is outside the alphabet, or that the length is.
            pub fn new(given: impl Into<String>) -> Result<Self, NameError> {
                let given = given.into();
                check($what, &given)?;
                Ok(Self(given))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(given: &str) -> Result<Self, NameError> {
                Self::new(given)
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(given: String) -> Result<Self, NameError> {
                Self::new(given)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

name_type!(
    /// What a container is called on its node.
    ContainerName,
    "container name"
);
name_type!(
    /// What an image is called; its versions share it.
    ImageName,
    "image name"
);
name_type!(
    /// One version of an image.
    ImageVersion,
    "image version"
);
name_type!(
    /// What a node is called; several nodes with different names may run on one machine.
    NodeName,
    "node name"
);
name_type!(
    /// What a template is called; see [`crate::Templates`].
    TemplateName,
    "template name"
);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_of_the_contract_are_accepted() {
        for good in ["a", "0", "web-1", "debian_12.5", &"x".repeat(63)] {
            assert_eq!(ContainerName::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn names_that_could_steer_a_path_or_an_option_are_refused() {
        for bad in ["", "-v", ".", "..", "a/b", "A", "a b", "a\0b", "a\nb", "\u{430}", &"x".repeat(64)] {
            assert!(ContainerName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn message_names_the_character_and_its_position() {
        let message = ImageName::new("deb/ian").unwrap_err().to_string();
        assert!(message.contains("image name `deb/ian` has '/' at position 4"), "{message}");
    }

    proptest! {
        #[test]
        fn an_accepted_name_is_one_plain_path_component(given in ".{0,70}") {
            if let Ok(name) = NodeName::new(given) {
                let mut parts = std::path::Path::new(name.as_str()).components();
                prop_assert!(matches!(parts.next(), Some(std::path::Component::Normal(_))));
                prop_assert!(parts.next().is_none());
            }
        }
    }
}
