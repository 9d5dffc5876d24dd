//! Images: build, import, store, verify, stages, export, garbage collection.
