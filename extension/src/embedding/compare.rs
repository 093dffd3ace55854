//! The order of embeddings: by element, then the shorter one first; and the hash that goes with it.

use std::cmp::Ordering;

use pgrx::pg_extern;

use super::EmbeddingRef;
use crate::pg::hash;

#[pg_extern(sql = false)]
fn embedding_lt(a: EmbeddingRef, b: EmbeddingRef) -> bool {
    compare(&a, &b).is_lt()
}

#[pg_extern(sql = false)]
fn embedding_le(a: EmbeddingRef, b: EmbeddingRef) -> bool {
    compare(&a, &b).is_le()
}

#[pg_extern(sql = false)]
fn embedding_eq(a: EmbeddingRef, b: EmbeddingRef) -> bool {
    *a == *b
}

#[pg_extern(sql = false)]
fn embedding_ne(a: EmbeddingRef, b: EmbeddingRef) -> bool {
    *a != *b
}

#[pg_extern(sql = false)]
fn embedding_ge(a: EmbeddingRef, b: EmbeddingRef) -> bool {
    compare(&a, &b).is_ge()
}

#[pg_extern(sql = false)]
fn embedding_gt(a: EmbeddingRef, b: EmbeddingRef) -> bool {
    compare(&a, &b).is_gt()
}

#[pg_extern(sql = false)]
fn embedding_cmp(a: EmbeddingRef, b: EmbeddingRef) -> i32 {
    compare(&a, &b) as i32
}

/// Numbers are finite, so a pair always compares; −0 equals 0.
fn compare(a: &[f32], b: &[f32]) -> Ordering {
    a.partial_cmp(b).unwrap_or(Ordering::Equal)
}

#[pg_extern(sql = false)]
fn embedding_hash(x: EmbeddingRef) -> i32 {
    hash_input(&x, |bytes| hash::hash(bytes) as i32)
}

#[pg_extern(sql = false)]
fn embedding_hash_extended(x: EmbeddingRef, seed: i64) -> i64 {
    hash_input(&x, |bytes| hash::hash_extended(bytes, seed as u64) as i64)
}

/// Calls `hash` on the bytes of `x` with every −0 made 0: equal vectors hash alike.
fn hash_input<R>(x: &[f32], hash: impl FnOnce(&[u8]) -> R) -> R {
    let bytes: Vec<u8> = x.iter().flat_map(|v| (v + 0.0).to_ne_bytes()).collect();
    hash(&bytes)
}
