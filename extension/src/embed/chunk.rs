//! `distilface_chunk`: long texts into parts that a model takes whole; `sql/chunk.sql` declares it.

use crate::model::registry::{self, ModelId};
use crate::pg::interrupts;
use crate::pg::report::Report;
use crate::pg::text::{to_server, to_utf8};
use distilface_core::encoder::InputKind;
use distilface_core::text::{ChunkError, ChunkLimits, chunk};
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use pgrx::prelude::*;

/// seq, chunk (as the bytes of a `text`), tokens, start_char, end_char.
type Row = (i32, Vec<u8>, i32, i32, i32);

// pgrx reads the columns off the signature, where an alias would hide them.
#[allow(clippy::type_complexity)]
#[pg_extern(sql = false)]
fn distilface_chunk_default(
    text: &[u8],
    max_tokens: i32,
    overlap: i32,
) -> TableIterator<
    'static,
    (
        name!(seq, i32),
        name!(chunk, Vec<u8>),
        name!(tokens, i32),
        name!(start_char, i32),
        name!(end_char, i32),
    ),
> {
    TableIterator::new(rows(registry::default_model(), text, max_tokens, overlap))
}

#[allow(clippy::type_complexity)]
#[pg_extern(sql = false)]
fn distilface_chunk_model(
    text: &[u8],
    max_tokens: i32,
    overlap: i32,
    model: &[u8],
) -> TableIterator<
    'static,
    (
        name!(seq, i32),
        name!(chunk, Vec<u8>),
        name!(tokens, i32),
        name!(start_char, i32),
        name!(end_char, i32),
    ),
> {
    TableIterator::new(rows(registry::by_name(&to_utf8(model)), text, max_tokens, overlap))
}

fn rows(model: ModelId, text: &[u8], max_tokens: i32, overlap: i32) -> Vec<Row> {
    let limits = limits(model, max_tokens, overlap);
    let text = to_utf8(text);
    let mut interrupted = || {
        interrupts::check();
        false
    };
    let chunks = match chunk(&text, limits, model.encoder().tokenizer(), &mut interrupted) {
        Ok(chunks) => chunks,
        Err(error) => refuse(&error),
    };
    // A datum is at most 1 GB long, so that every count fits. Characters are counted from 1, both
    // ends included, as SQL's string functions do.
    let rows = chunks.into_iter().zip(1..).map(|(chunk, seq)| {
        (
            seq,
            to_server(&text[chunk.bytes]),
            chunk.tokens as i32,
            chunk.chars.start as i32 + 1,
            chunk.chars.end as i32,
        )
    });
    rows.collect()
}

fn limits(model: ModelId, max_tokens: i32, overlap: i32) -> ChunkLimits {
    let unsigned = |name: &str, value: i32| {
        usize::try_from(value).unwrap_or_else(|_| {
            Report::new(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("{name} must not be negative"),
            )
            .detail(format!("It is {value}."))
            .raise()
        })
    };
    let (max_tokens, overlap) = (unsigned("max_tokens", max_tokens), unsigned("overlap", overlap));
    let most = model.encoder().longest_text(InputKind::Passage);
    if max_tokens > most {
        out_of_range()
            .detail(format!(
                "max_tokens: the model reads at most {most} tokens of a text, got {max_tokens}."
            ))
            .hint(format!("Take chunks of at most {most} tokens, or another model."))
            .raise()
    }
    ChunkLimits::parse(max_tokens, overlap).unwrap_or_else(|error| refuse(&error))
}

fn out_of_range() -> Report {
    Report::new(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        "limits of distilface_chunk are out of range",
    )
}

fn refuse(error: &ChunkError) -> ! {
    match error {
        ChunkError::TooShort(_) | ChunkError::Overlap { .. } => {
            out_of_range().detail(format!("{error}.")).raise()
        }
        ChunkError::Interrupted => unreachable!("an interrupt raises, or the work goes on"),
    }
}
