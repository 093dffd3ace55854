//! The SQL errors of the type: 22P02 and 22P03 for malformed input, 22003 for a number out of range,
//! 22000 for what is well formed but no vector or does not fit another one.

use distilface_core::vector::{InvalidVector, MAX_DIMS, binary::BinaryError, literal};
use pgrx::pg_sys::errcodes::PgSqlErrorCode;

use crate::pg::report::Report;

/// Numbers that make no vector.
#[cold]
pub fn raise_invalid(error: InvalidVector) -> ! {
    let report = |message: String| Report::new(PgSqlErrorCode::ERRCODE_DATA_EXCEPTION, message);
    match error {
        InvalidVector::NoDimension => {
            report("embedding must have at least 1 dimension".into()).raise()
        }
        InvalidVector::TooManyDims { got } => {
            report(format!("embedding cannot have more than {MAX_DIMS} dimensions"))
                .detail(format!("The input has at least {got}."))
                .raise()
        }
        InvalidVector::NotFinite { dim, got } => {
            let name = if got.is_nan() { "NaN" } else { "infinite value" };
            report(format!("{name} not allowed in embedding"))
                .detail(format!("It is in dimension {dim}."))
                .raise()
        }
    }
}

/// Text that is no vector.
#[cold]
pub fn raise_literal(error: literal::LiteralError, text: &[u8]) -> ! {
    match error {
        literal::LiteralError::Invalid(error) => raise_invalid(error),
        literal::LiteralError::OutOfRange { got, .. } => raise_out_of_range(got.as_str()),
        error => Report::new(
            PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION,
            format!("invalid input syntax for type embedding: {}", literal::Excerpt::new(text)),
        )
        .detail(sentence(&error))
        .hint("Write it as [0.1,-2,3e-4].")
        .raise(),
    }
}

/// A binary message that is no vector.
#[cold]
pub fn raise_binary(error: BinaryError) -> ! {
    match error {
        BinaryError::Invalid(error) => raise_invalid(error),
        error => Report::new(
            PgSqlErrorCode::ERRCODE_INVALID_BINARY_REPRESENTATION,
            "invalid binary format for type embedding",
        )
        .detail(sentence(&error))
        .hint("Send int16 dimensions, int16 zero, then one float4 per dimension, big-endian.")
        .raise(),
    }
}

/// A number that single precision cannot hold.
#[cold]
pub fn raise_out_of_range(number: &str) -> ! {
    Report::new(
        PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
        format!("{number} is out of range for type embedding"),
    )
    .detail("Its numbers are real, at most 3.4028235e+38.")
    .raise()
}

/// A result that single precision cannot hold.
#[cold]
pub fn raise_overflow() -> ! {
    Report::new(PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, "value out of range: overflow")
        .raise()
}

/// A product of nonzero numbers that single precision makes 0.
#[cold]
pub fn raise_underflow() -> ! {
    Report::new(PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, "value out of range: underflow")
        .raise()
}

/// A value that does not fit its column's type.
#[cold]
pub fn raise_wrong_dims(expected: i32, got: usize) -> ! {
    Report::new(
        PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
        format!("expected {expected} dimensions, not {got}"),
    )
    .raise()
}

/// Two operands that do not fit each other.
#[cold]
pub fn raise_different_dims(a: usize, b: usize) -> ! {
    Report::new(
        PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
        format!("different embedding dimensions {a} and {b}"),
    )
    .hint("Compare only embeddings of one model.")
    .raise()
}

/// A null where a strict function has a value: its declaration is wrong.
#[cold]
pub fn raise_null() -> ! {
    Report::new(PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED, "argument must not be null").raise()
}

/// A DETAIL: capitalized, with a full stop.
fn sentence(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_ascii_uppercase());
    format!("{}{}.", first.map(String::from).unwrap_or_default(), chars.as_str())
}
