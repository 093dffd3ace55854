//! The index's promises, on the memory store.

mod common;
mod lifecycle;
