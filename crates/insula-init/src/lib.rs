//! The small programs with one thread each: launcher, keeper, and process 1 of a container.
