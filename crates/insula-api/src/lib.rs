//! Wire types, error codes and the client of the node's API.
