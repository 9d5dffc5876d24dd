//! Test harness: private nodes, a probe inside containers, host checks.
