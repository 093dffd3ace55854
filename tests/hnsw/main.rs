//! The index's promises, on the memory store.

mod common;
mod concurrency;
mod faults;
mod filters;
mod keys;
mod lifecycle;
