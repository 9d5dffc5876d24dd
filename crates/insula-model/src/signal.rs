//! Signals by name or number.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A signal's number: 1 to 64. As text a name with or without `SIG`, a number, or `RTMIN+n` / `RTMAX-n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Signal(u8);

/// Text that names no signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("signal `{}` is unknown; use a name such as SIGTERM or SIGRTMIN+3, or a number from 1 to 64", given.escape_debug())]
pub struct ParseSignalError {
    given: String,
}

/// Names and numbers on x86-64 and arm64 (signal(7)).
const NAMES: [(&str, u8); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// First real-time signal as the C library counts (the kernel's 32 and 33 are its own).
const RTMIN: u8 = 34;
/// Last real-time signal.
const RTMAX: u8 = 64;

impl Signal {
    /// Ends a process at once.
    pub const KILL: Self = Self(9);
    /// Asks a process to end.
    pub const TERM: Self = Self(15);
    /// Asks systemd as process 1 to halt: `SIGRTMIN+3`.
    pub const SYSTEMD_HALT: Self = Self(RTMIN + 3);

    /// The signal's number on this architecture.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }
}

impl FromStr for Signal {
    type Err = ParseSignalError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseSignalError { given: given.to_owned() };
        if let Ok(number) = given.parse::<u8>() {
            return if (1..=RTMAX).contains(&number) { Ok(Self(number)) } else { Err(wrong()) };
        }
        let upper = given.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some(&(_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
            return Ok(Self(number));
        }
        let number = if let Some(rest) = name.strip_prefix("RTMIN") {
            let offset = if rest.is_empty() { Some(0) } else { rest.strip_prefix('+').and_then(|n| n.parse().ok()) };
            offset.and_then(|offset: u8| RTMIN.checked_add(offset))
        } else if let Some(rest) = name.strip_prefix("RTMAX") {
            let offset = if rest.is_empty() { Some(0) } else { rest.strip_prefix('-').and_then(|n| n.parse().ok()) };
            offset.and_then(|offset: u8| RTMAX.checked_sub(offset))
        } else {
            None
        };
        match number {
            Some(number @ RTMIN..=RTMAX) => Ok(Self(number)),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|&&(_, number)| number == self.0) {
            Some((name, _)) => f.pad(&format!("SIG{name}")),
            None if self.0 >= RTMIN => f.pad(&format!("SIGRTMIN+{}", self.0 - RTMIN)),
            None => f.pad(&self.0.to_string()),
        }
    }
}

impl TryFrom<String> for Signal {
    type Error = ParseSignalError;

    fn try_from(given: String) -> Result<Self, Self::Error> {
        given.parse()
    }
}

impl From<Signal> for String {
    fn from(signal: Signal) -> Self {
        signal.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_reads_back_from_its_text() {
        for number in 1..=64 {
            assert_eq!(Signal(number).to_string().parse::<Signal>().unwrap(), Signal(number));
        }
    }

    #[test]
    fn names_work_as_in_the_field() {
        for (text, number) in [("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGRTMIN+3", 37), ("RTMAX-1", 63)] {
            assert_eq!(text.parse::<Signal>().unwrap().number(), number, "{text}");
        }
        for bad in ["", "0", "65", "SIG", "FOO", "RTMIN+31", "RTMIN3", "-9"] {
            assert!(bad.parse::<Signal>().is_err(), "{bad}");
        }
    }
}
