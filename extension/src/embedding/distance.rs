//! The distance operators and the functions of one vector.

use distilface_core::vector::{self, Metric};
use pgrx::pg_extern;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;

use super::{Embedding, EmbeddingRef, check_same_dims};
use crate::pg::numbers::NumberArray;
use crate::pg::operands::Operand;
use crate::pg::report::Report;

/// `<->`
#[pg_extern(sql = false)]
fn embedding_l2_distance(a: Operand, b: Operand) -> f64 {
    distance(Metric::L2, &a, &b)
}

/// `<#>`
#[pg_extern(sql = false)]
fn embedding_negative_inner_product(a: Operand, b: Operand) -> f64 {
    distance(Metric::InnerProduct, &a, &b)
}

/// `<=>`
#[pg_extern(sql = false)]
fn embedding_cosine_distance(a: Operand, b: Operand) -> f64 {
    distance(Metric::Cosine, &a, &b)
}

/// `<+>`
#[pg_extern(sql = false)]
fn embedding_l1_distance(a: Operand, b: Operand) -> f64 {
    distance(Metric::L1, &a, &b)
}

#[pg_extern(sql = false)]
fn distilface_similarity_embedding(a: Operand, b: Operand) -> Option<f32> {
    let distance = distance(Metric::Cosine, &a, &b);
    // A zero vector is similar to nothing, and NaN would be more than any similarity.
    (!distance.is_nan()).then_some((1.0 - distance) as f32)
}

/// Cosine distance for an order in which rows without one come first, as NULL does in a descending
/// order of similarity: strategy 2 of `embedding_cosine_ops`.
#[pg_extern(sql = false)]
fn embedding_cosine_undefined_first(a: Option<Operand>, b: Option<Operand>) -> f64 {
    let distance = match (a, b) {
        (Some(a), Some(b)) => distance(Metric::Cosine, &a, &b),
        _ => f64::NAN,
    };
    if distance.is_nan() { f64::NEG_INFINITY } else { distance }
}

macro_rules! array_distances {
    ($($arrays:ident, $mixed:ident: $metric:expr;)*) => {$(
        #[pg_extern(sql = false, immutable, parallel_safe)]
        fn $arrays(a: NumberArray, b: NumberArray) -> f64 {
            distance($metric, &a.to_vector(), &b.to_vector())
        }

        #[pg_extern(sql = false, immutable, parallel_safe)]
        fn $mixed(a: EmbeddingRef, b: NumberArray) -> f64 {
            distance($metric, &a, &b.to_vector())
        }
    )*};
}

// Distances between arrays of type `real[]`, and from an embedding to one.
array_distances! {
    real_array_l2_distance, embedding_real_array_l2_distance: Metric::L2;
    real_array_negative_inner_product, embedding_real_array_negative_inner_product: Metric::InnerProduct;
    real_array_cosine_distance, embedding_real_array_cosine_distance: Metric::Cosine;
    real_array_l1_distance, embedding_real_array_l1_distance: Metric::L1;
}

#[inline]
fn distance(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    check_same_dims(a, b);
    metric.distance(a, b)
}

#[pg_extern(sql = false)]
fn embedding_dims(x: EmbeddingRef) -> i32 {
    x.len() as i32
}

#[pg_extern(sql = false)]
fn embedding_norm(x: EmbeddingRef) -> f64 {
    vector::norm(&x)
}

#[pg_extern(sql = false)]
fn embedding_l2_normalize(x: EmbeddingRef) -> Embedding {
    let mut x = x.to_vec();
    vector::l2_normalize(&mut x);
    Embedding::new(&x)
}

/// Support function 1 of the operator classes of `distilface_hnsw`: which metric (low byte,
/// [`Metric::code`]) and which kind of numbers (next byte: 0 single, 1 half precision) it is for.
macro_rules! hnsw_support {
    ($($name:ident: $metric:expr, $element:expr;)*) => {$(
        #[pg_extern(sql = false)]
        fn $name(_unused: Option<pgrx::Internal>) -> i32 {
            i32::from($metric.code()) | ($element as i32) << 8
        }
    )*};
}

/// What the values of an indexed column are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Element {
    Single = 0,
    Half = 1,
    Text = 2,
    Array = 3,
}

hnsw_support! {
    embedding_hnsw_l2: Metric::L2, Element::Single;
    embedding_hnsw_ip: Metric::InnerProduct, Element::Single;
    embedding_hnsw_cosine: Metric::Cosine, Element::Single;
    embedding_hnsw_l1: Metric::L1, Element::Single;
    halfvec_hnsw_l2: Metric::L2, Element::Half;
    halfvec_hnsw_ip: Metric::InnerProduct, Element::Half;
    halfvec_hnsw_cosine: Metric::Cosine, Element::Half;
    halfvec_hnsw_l1: Metric::L1, Element::Half;
    real_array_hnsw_l2: Metric::L2, Element::Array;
    real_array_hnsw_ip: Metric::InnerProduct, Element::Array;
    real_array_hnsw_cosine: Metric::Cosine, Element::Array;
    real_array_hnsw_l1: Metric::L1, Element::Array;
    text_semantic_column: Metric::Cosine, Element::Text;
}

/// Dimensions `start` to `start + count − 1`, counted from 1 and cut to those that there are, as
/// `substring` does.
#[pg_extern(sql = false)]
fn embedding_subvector(x: EmbeddingRef, start: i32, count: i32) -> Embedding {
    let (start, count) = (i64::from(start), i64::from(count));
    let dims = x.len() as i64;
    let first = start.clamp(1, dims + 1) - 1;
    let end = (start + count - 1).clamp(first, dims);
    if first == end {
        Report::new(
            PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
            "embedding must have at least 1 dimension",
        )
        .detail(format!("Dimensions {start} to {} of {dims} are none.", start + count - 1))
        .raise()
    }
    Embedding::new(&x[first as usize..end as usize])
}
