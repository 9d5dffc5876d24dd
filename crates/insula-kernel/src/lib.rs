//! Linux as typed functions: the only crate with unsafe code, and it knows nothing of Insula.
