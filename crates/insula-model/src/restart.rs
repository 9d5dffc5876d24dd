//! What happens when a container's main process ends by itself.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Restart policy, as text `no`, `always`, `on-failure` or `on-failure:5`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RestartPolicy {
    /// Stay stopped.
    #[default]
    No,
    /// Start again after an exit code other than 0, with growing pauses.
    OnFailure {
        /// Most starts in a row; `None` is no bound.
        retries: Option<u32>,
    },
    /// Start again whatever the exit code, with growing pauses, unless a user stopped it.
    Always,
}

/// Text that is no restart policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("restart policy `{}` is unknown; use no, always, on-failure or on-failure:COUNT", given.escape_debug())]
pub struct ParseRestartPolicyError {
    given: String,
}

impl FromStr for RestartPolicy {
    type Err = ParseRestartPolicyError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseRestartPolicyError { given: given.to_owned() };
        match given.split_once(':') {
            None => match given {
                "no" => Ok(Self::No),
                "always" | "unless-stopped" => Ok(Self::Always),
                "on-failure" => Ok(Self::OnFailure { retries: None }),
                _ => Err(wrong()),
            },
            Some(("on-failure", count)) => Ok(Self::OnFailure { retries: Some(count.parse().map_err(|_| wrong())?) }),
            Some(_) => Err(wrong()),
        }
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.pad("no"),
            Self::Always => f.pad("always"),
            Self::OnFailure { retries: None } => f.pad("on-failure"),
            Self::OnFailure { retries: Some(count) } => f.pad(&format!("on-failure:{count}")),
        }
    }
}

impl TryFrom<String> for RestartPolicy {
    type Error = ParseRestartPolicyError;

    fn try_from(given: String) -> Result<Self, Self::Error> {
        given.parse()
    }
}

impl From<RestartPolicy> for String {
    fn from(policy: RestartPolicy) -> Self {
        policy.to_string()
    }
}
