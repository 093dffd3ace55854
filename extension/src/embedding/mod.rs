//! The SQL type `embedding`: input and output, casts, operators, comparison, aggregates, and the
//! way to pgvector's types. `sql/embedding.sql` declares everything that is defined here.
//!
//! A value is checked where it enters (text, binary, array, arithmetic): 1 to 16,000 finite floats.
//! Readers rely on that, apart from the length, which every read checks against the datum. All
//! functions are strict, immutable and parallel safe. The distance functions read their arguments in
//! place and allocate nothing unless a value was toasted.

mod aggregate;
mod arithmetic;
mod cast;
mod compare;
mod distance;
pub mod errors;
mod io;
mod pgvector;

pub use crate::pg::embedding::{Embedding, EmbeddingRef};

/// Raises 22000 where two operands have different dimensions.
#[inline]
fn check_same_dims(a: &[f32], b: &[f32]) {
    if a.len() != b.len() {
        errors::raise_different_dims(a.len(), b.len());
    }
}
