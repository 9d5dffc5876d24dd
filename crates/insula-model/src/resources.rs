//! How much of the node a container may use.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Bytes;

/// Limits of one container. `None` falls to the template, and from there to the node's default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ResourceSpec {
    /// Most memory, tmpfs and page cache included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<Bytes>,
    /// Memory that the node promises; what it promises to all is within its capacity. The limit when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_guarantee: Option<Bytes>,
    /// Most processor time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_limit: Option<CpuLimit>,
    /// Share of contended processors, 1 to 10,000; 100 is everybody's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<u32>,
    /// Most processes and threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids_limit: Option<u32>,
    /// Most open files of one process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files_limit: Option<u64>,
    /// Most bytes in `/data`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_size: Option<Bytes>,
    /// Resource limits of every process, by name (`nofile`, `core`, …; setrlimit(2)).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ulimits: Vec<Ulimit>,
}

impl ResourceSpec {
    /// These values, and `lower`'s where there is none. Resource limits of processes are taken name by name.
    #[must_use]
    pub fn over(&self, lower: &Self) -> Self {
        let unnamed = |limit: &&Ulimit| self.ulimits.iter().all(|own| own.name != limit.name);
        let ulimits = self.ulimits.iter().chain(lower.ulimits.iter().filter(unnamed)).cloned().collect();
        Self {
            memory_limit: self.memory_limit.or(lower.memory_limit),
            memory_guarantee: self.memory_guarantee.or(lower.memory_guarantee),
            cpu_limit: self.cpu_limit.or(lower.cpu_limit),
            cpu_weight: self.cpu_weight.or(lower.cpu_weight),
            pids_limit: self.pids_limit.or(lower.pids_limit),
            files_limit: self.files_limit.or(lower.files_limit),
            data_size: self.data_size.or(lower.data_size),
            ulimits,
        }
    }

    /// Every value by the key of its setting, as [`Self::apply`] takes it.
    #[must_use]
    pub fn values(&self) -> Vec<(String, String)> {
        let named = [
            ("cpu.limit", self.cpu_limit.map(|value| value.to_string())),
            ("cpu.weight", self.cpu_weight.map(|value| value.to_string())),
            ("data.size", self.data_size.map(|value| value.to_string())),
            ("files.limit", self.files_limit.map(|value| value.to_string())),
            ("memory.guarantee", self.memory_guarantee.map(|value| value.to_string())),
            ("memory.limit", self.memory_limit.map(|value| value.to_string())),
            ("pids.limit", self.pids_limit.map(|value| value.to_string())),
        ];
        let named = named.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
        let text = |value: u64| if value == u64::MAX { "unlimited".to_owned() } else { value.to_string() };
        let ulimit =
            |limit: &Ulimit| (format!("ulimit.{}", limit.name), format!("{}:{}", text(limit.soft), text(limit.hard)));
        named.chain(self.ulimits.iter().map(ulimit)).collect()
    }
}

/// One resource limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Ulimit {
    /// Name in lower case without `RLIMIT_`.
    pub name: String,
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// Processor time in thousandths of a processor: `1500` is one and a half. As text in processors, `1.5`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CpuLimit {
    millis: u32,
}

/// Text that is no amount of processors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a number of processors from 0.01 to 4096 with at most three decimals, like 1.5", given.escape_debug())]
pub struct ParseCpuLimitError {
    given: String,
}

impl CpuLimit {
    /// Thousandths of a processor, 10 to 4,096,000.
    #[must_use]
    pub fn millis(self) -> u32 {
        self.millis
    }
}

impl FromStr for CpuLimit {
    type Err = ParseCpuLimitError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseCpuLimitError { given: given.to_owned() };
        let (whole, decimals) = given.split_once('.').unwrap_or((given, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || decimals.len() > 3 || !digits(whole) || !digits(decimals) {
            return Err(wrong());
        }
        let whole: u32 = whole.parse().map_err(|_| wrong())?;
        let decimals: u32 = format!("{decimals:0<3}").parse().map_err(|_| wrong())?;
        let millis = whole.checked_mul(1_000).and_then(|whole| whole.checked_add(decimals)).ok_or_else(wrong)?;
        if (10..=4_096_000).contains(&millis) { Ok(Self { millis }) } else { Err(wrong()) }
    }
}

impl fmt::Display for CpuLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, decimals) = (self.millis / 1_000, self.millis % 1_000);
        if decimals == 0 {
            return f.pad(&whole.to_string());
        }
        let text = format!("{whole}.{decimals:03}");
        f.pad(text.trim_end_matches('0'))
    }
}

impl TryFrom<String> for CpuLimit {
    type Error = ParseCpuLimitError;

    fn try_from(given: String) -> Result<Self, Self::Error> {
        given.parse()
    }
}

impl From<CpuLimit> for String {
    fn from(limit: CpuLimit) -> Self {
        limit.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_read_back_from_their_text() {
        for (text, millis) in [("1", 1_000), ("1.5", 1_500), ("0.01", 10), ("2.125", 2_125)] {
            let limit: CpuLimit = text.parse().unwrap();
            assert_eq!((limit.millis(), limit.to_string().as_str()), (millis, text));
        }
        for bad in ["", "0", "-1", ".5", "1.2345", "1,5", "4097", "1e3"] {
            assert!(bad.parse::<CpuLimit>().is_err(), "{bad}");
        }
    }
}
