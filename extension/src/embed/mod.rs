//! Text into vectors, in the backend's own process.
//!
//! - `registry` knows the models and opens each at most once a backend; the weights stay in the
//!   library's read-only pages.
//! - `session` owns what a backend keeps between calls: the encoder's buffers and threads, and a
//!   bounded cache of repeated texts, since PostgreSQL evaluates a STABLE function for every row.
//! - `functions` are the SQL functions, `chunk` the one that cuts long texts.

mod cache;
mod chunk;
mod functions;
pub mod registry;
pub mod session;
