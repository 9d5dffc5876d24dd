//! The network of a node on a real kernel, in network namespaces that play the host, the world outside and containers.

#[allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]
mod world;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod isolation;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod lifetime;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod reach;
