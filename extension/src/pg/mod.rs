//! The only place that talks to PostgreSQL's C API directly: buffers and WAL, errors, interrupts,
//! text datums, statement hooks. Everything outside sees safe Rust.
//!
//! Rules that hold here:
//! - PostgreSQL is called on the backend's main thread only.
//! - A PostgreSQL error unwinds as a Rust panic; destructors that run while it does must not call
//!   PostgreSQL (the resource owner releases pins and locks), so each guard asks
//!   `std::thread::panicking()` first.

pub mod acting;
pub mod ahead;
pub mod am;
pub mod array;
pub mod attempt;
pub mod bm25;
pub mod buffers;
pub mod embedding;
pub mod exclusive;
pub mod executor;
#[cfg(feature = "failpoints")]
pub mod failpoint;
pub mod hash;
pub mod index_am;
pub mod interrupts;
pub mod invalidation;
pub mod jsonb;
pub mod limits;
pub mod list;
pub mod mapped;
pub mod numbers;
pub mod operands;
pub mod owner;
pub mod planner;
pub mod recovery;
pub mod report;
pub mod restoring;
pub mod roles;
pub mod statement;
pub mod table;
pub mod text;
pub mod tree;
pub mod trigger;
pub mod varlena;
pub mod worker;
