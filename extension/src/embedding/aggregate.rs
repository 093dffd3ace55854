//! `avg(embedding)` and `sum(embedding)`: sums in double precision, which finite single-precision
//! numbers cannot overflow; a result beyond single precision is an error.

use pgrx::pg_extern;
use pgrx::pg_sys;

use super::{Embedding, EmbeddingRef, errors};
use crate::pg::numbers::{ArrayDatum, Sums};

#[pg_extern(sql = false)]
fn embedding_accum(state: Sums, x: EmbeddingRef, fcinfo: pg_sys::FunctionCallInfo) -> ArrayDatum {
    check_dims(&state, x.len());
    state.add(1.0, x.iter().map(|&v| f64::from(v)), fcinfo)
}

#[pg_extern(sql = false)]
fn embedding_combine(a: Sums, b: Sums, fcinfo: pg_sys::FunctionCallInfo) -> ArrayDatum {
    if b.sums().is_empty() {
        return a.unchanged();
    }
    check_dims(&a, b.sums().len());
    a.add(b.count(), b.sums().iter().copied(), fcinfo)
}

#[pg_extern(sql = false)]
fn embedding_avg(state: Sums) -> Option<Embedding> {
    result(&state, state.count())
}

#[pg_extern(sql = false)]
fn embedding_sum(state: Sums) -> Option<Embedding> {
    result(&state, 1.0)
}

/// NULL for no rows.
fn result(state: &Sums, divisor: f64) -> Option<Embedding> {
    if state.sums().is_empty() {
        return None;
    }
    let x: Vec<f32> = state.sums().iter().map(|sum| (sum / divisor) as f32).collect();
    if x.iter().any(|v| !v.is_finite()) {
        errors::raise_overflow();
    }
    Some(Embedding::new(&x))
}

fn check_dims(state: &Sums, dims: usize) {
    let expected = state.sums().len();
    if expected != 0 && expected != dims {
        errors::raise_different_dims(expected, dims);
    }
}
