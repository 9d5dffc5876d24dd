//! What a check of the sources found.

use std::fmt;

/// One broken rule, at one place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Path from the workspace's root, perhaps with a line.
    pub(crate) place: String,
    /// The rule, and what to do.
    pub(crate) message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// A check had findings; they were printed.
#[derive(Debug, thiserror::Error)]
#[error("{0} findings")]
pub(crate) struct FindingsError(usize);

/// Prints `findings`; any is an error.
pub(crate) fn report(findings: Vec<Finding>) -> Result<(), Box<dyn std::error::Error>> {
    for finding in &findings {
        println!("{finding}");
    }
    if findings.is_empty() { Ok(()) } else { Err(FindingsError(findings.len()).into()) }
}
