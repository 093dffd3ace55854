//! `+`, `-` and `*` by element, and `||`.

use distilface_core::vector;
use pgrx::pg_extern;

use super::{Embedding, EmbeddingRef, check_same_dims, errors};

#[pg_extern(sql = false)]
fn embedding_add(a: EmbeddingRef, b: EmbeddingRef) -> Embedding {
    combine(&a, &b, |x, y| x + y)
}

#[pg_extern(sql = false)]
fn embedding_sub(a: EmbeddingRef, b: EmbeddingRef) -> Embedding {
    combine(&a, &b, |x, y| x - y)
}

#[pg_extern(sql = false)]
fn embedding_mul(a: EmbeddingRef, b: EmbeddingRef) -> Embedding {
    let product = combine(&a, &b, |x, y| x * y);
    if a.iter().zip(b.iter()).any(|(&x, &y)| x * y == 0.0 && x != 0.0 && y != 0.0) {
        errors::raise_underflow();
    }
    product
}

fn combine(a: &[f32], b: &[f32], operation: impl Fn(f32, f32) -> f32) -> Embedding {
    check_same_dims(a, b);
    let x: Vec<f32> = a.iter().zip(b).map(|(&x, &y)| operation(x, y)).collect();
    // Sums, differences and products of finite numbers: never NaN, infinite only by overflow.
    if x.iter().any(|v| v.is_infinite()) {
        errors::raise_overflow();
    }
    Embedding::new(&x)
}

#[pg_extern(sql = false)]
fn embedding_concat(a: EmbeddingRef, b: EmbeddingRef) -> Embedding {
    if let Err(error) = vector::check_dims(a.len() + b.len()) {
        errors::raise_invalid(error);
    }
    Embedding::new(&[&*a, &*b].concat())
}
