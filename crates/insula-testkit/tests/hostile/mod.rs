//! What attackers bring.

pub(crate) mod bombs;
pub(crate) mod corpus;
pub(crate) mod disk;
pub(crate) mod http;
pub(crate) mod oci;
pub(crate) mod words;
