//! Amounts of memory and storage, in bytes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An amount of bytes.
///
/// As text: a whole number and a unit. `KiB MiB GiB TiB` are binary, `kB MB GB TB` decimal, a bare number is
/// bytes; the field's one-letter `k m g t` (as in `--memory 512m`) are binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", schema(value_type = u64))]
#[serde(transparent)]
pub struct Bytes(pub u64);

/// Text that is not an amount of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseBytesError {
    /// No digits, or something between digits and unit.
    #[error("`{}` is not an amount of bytes; write a whole number and a unit, like 256MiB", given.escape_debug())]
    NotANumber {
        /// What was given.
        given: String,
    },
    /// The unit is unknown.
    #[error(
        "`{}` has the unknown unit `{}`; use B, KiB, MiB, GiB, TiB, kB, MB, GB, TB",
        given.escape_debug(),
        unit.escape_debug()
    )]
    UnknownUnit {
        /// What was given.
        given: String,
        /// The part after the digits.
        unit: String,
    },
    /// More than 2^64-1 bytes.
    #[error("`{given}` is more than 2^64-1 bytes")]
    TooLarge {
        /// What was given.
        given: String,
    },
}

impl Bytes {
    /// `count` mebibytes (2^20 bytes).
    #[must_use]
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }
}

impl FromStr for Bytes {
    type Err = ParseBytesError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let digits = given.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = given.split_at(digits);
        if number.is_empty() {
            return Err(ParseBytesError::NotANumber { given: given.to_owned() });
        }
        let factor: u64 = match unit.trim_start() {
            "" | "B" | "b" => 1,
            "KiB" | "k" | "K" => 1 << 10,
            "MiB" | "m" | "M" => 1 << 20,
            "GiB" | "g" | "G" => 1 << 30,
            "TiB" | "t" | "T" => 1 << 40,
            "kB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            unit => return Err(ParseBytesError::UnknownUnit { given: given.to_owned(), unit: unit.to_owned() }),
        };
        let too_large = || ParseBytesError::TooLarge { given: given.to_owned() };
        let number: u64 = number.parse().map_err(|_| too_large())?;
        number.checked_mul(factor).map(Self).ok_or_else(too_large)
    }
}

impl fmt::Display for Bytes {
    /// The largest binary unit that divides the amount, so that the text reads back to the same amount.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        match units.iter().find(|&&(_, shift)| self.0 != 0 && self.0.trailing_zeros() >= shift) {
            Some((unit, shift)) => f.pad(&format!("{}{unit}", self.0 >> shift)),
            None => f.pad(&format!("{}", self.0)),
        }
    }
}

impl<'de> Deserialize<'de> for Bytes {
    /// A number of bytes, or text with a unit.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BytesVisitor;
        impl serde::de::Visitor<'_> for BytesVisitor {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes, or text like \"256MiB\"")
            }

            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Bytes, E> {
                Ok(Bytes(value))
            }

            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Bytes, E> {
                u64::try_from(value).map(Bytes).map_err(|_| E::custom("an amount of bytes cannot be negative"))
            }

            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Bytes, E> {
                value.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(BytesVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_are_binary_or_decimal_as_written() {
        for (text, bytes) in [("0", 0), ("17", 17), ("256MiB", 256 << 20), ("256m", 256 << 20), ("5MB", 5_000_000)] {
            assert_eq!(text.parse::<Bytes>().unwrap(), Bytes(bytes), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "MiB", "-1", "1.5GiB", "1Mib", "99999999999999999999", "18446744073709551615KiB"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_reads_back_to_the_same_amount(bytes: u64) {
            prop_assert_eq!(Bytes(bytes).to_string().parse::<Bytes>().unwrap(), Bytes(bytes));
        }
    }
}
