//! Casts from arrays of numbers and to `real[]`.

use pgrx::pg_extern;

use super::{Embedding, EmbeddingRef, io};
use crate::pg::numbers::{ArrayDatum, NumberArray};

#[pg_extern(sql = false)]
fn array_to_embedding(array: NumberArray, type_modifier: i32, _explicit: bool) -> Embedding {
    io::checked(&array.to_f32(), type_modifier)
}

#[pg_extern(sql = false)]
fn embedding_to_real_array(x: EmbeddingRef) -> ArrayDatum {
    ArrayDatum::reals(&x)
}
