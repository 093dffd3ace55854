//! Text and binary input and output, and the type modifier: `embedding(384)`.

use std::ffi::{CStr, CString};

use distilface_core::vector::{MAX_DIMS, binary, literal};
use pgrx::pg_extern;
use pgrx::pg_sys;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;

use super::{Embedding, EmbeddingRef, errors};
use crate::pg::embedding::Message;
use crate::pg::numbers::{self, TypeModifiers};
use crate::pg::report::Report;

#[pg_extern(sql = false)]
fn embedding_in(text: &CStr, _element: pg_sys::Oid, type_modifier: i32) -> Embedding {
    match literal::parse(text.to_bytes()) {
        Ok(x) => checked(&x, type_modifier),
        Err(error) => errors::raise_literal(error, text.to_bytes()),
    }
}

#[pg_extern(sql = false)]
fn embedding_out(x: EmbeddingRef) -> CString {
    let mut text = Vec::with_capacity(12 * x.len() + 2);
    for &v in x.iter() {
        text.push(if text.is_empty() { b'[' } else { b',' });
        numbers::append_real(v, &mut text);
    }
    text.push(b']');
    CString::new(text).expect("numbers and punctuation hold no zero byte")
}

#[pg_extern(sql = false)]
fn embedding_recv(message: Message, _element: pg_sys::Oid, type_modifier: i32) -> Embedding {
    match binary::decode(message.bytes()) {
        Ok(x) => checked(&x, type_modifier),
        Err(error) => errors::raise_binary(error),
    }
}

#[pg_extern(sql = false)]
fn embedding_send(x: EmbeddingRef) -> Vec<u8> {
    let mut message = Vec::new();
    binary::encode(&x, &mut message);
    message
}

#[pg_extern(sql = false)]
fn embedding_typmod_in(modifiers: TypeModifiers) -> i32 {
    let error = |message: String| {
        Report::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, message)
            .hint("Write the number of dimensions, as in embedding(384).")
            .raise()
    };
    match *modifiers.integers() {
        [dims] if dims < 1 => error("dimensions for type embedding must be at least 1".into()),
        [dims] if dims > MAX_DIMS as i32 => {
            error(format!("dimensions for type embedding cannot exceed {MAX_DIMS}"))
        }
        [dims] => dims,
        _ => error("invalid type modifier".into()),
    }
}

/// Casts to a type with a modifier, on every store into a column that has one.
#[pg_extern(sql = false)]
fn embedding_to_embedding(x: EmbeddingRef, type_modifier: i32, _explicit: bool) -> Embedding {
    check_type_modifier(x.len(), type_modifier);
    x.into()
}

pub(super) fn checked(x: &[f32], type_modifier: i32) -> Embedding {
    check_type_modifier(x.len(), type_modifier);
    Embedding::new(x)
}

fn check_type_modifier(dims: usize, type_modifier: i32) {
    // A type without a modifier has −1.
    if type_modifier >= 0 && usize::try_from(type_modifier) != Ok(dims) {
        errors::raise_wrong_dims(type_modifier, dims);
    }
}
