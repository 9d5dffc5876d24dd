//! Links, addresses, routes and filters of the containers of one node.
