//! The node daemon: desired and actual state, one driver per container, the API.
