//! Text into vectors, in the backend's own process.
//!
//! - `session` owns what a backend keeps between calls: the encoder's buffers and threads, and a
//!   bounded cache of repeated texts, since PostgreSQL evaluates a STABLE function for every row.
//! - `ahead` holds vectors that a plan's node embedded in a batch for calls to come.
//! - `device` says what computes: the CPU, or a CUDA device.
//! - `functions` are the SQL functions, `chunk` the one that cuts long texts.

pub mod ahead;
mod cache;
mod chunk;
mod device;
mod functions;
pub mod session;
