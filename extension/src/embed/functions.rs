//! The SQL functions on text; `sql/embed.sql` declares them.

use super::session::{self, Strictness};
use crate::model::registry::{self, ModelId};
use crate::pg::array::{ArrayBuilder, ArrayResult};
use crate::pg::embedding::Embedding;
use crate::pg::interrupts;
use crate::pg::report::Report;
use crate::pg::text::to_utf8;
use distilface_core::encoder::InputKind;
use distilface_core::text::Counted;
use distilface_core::vector::Metric;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use pgrx::prelude::*;
use std::borrow::Cow;
use std::fmt::Display;

/// Texts that one batch hands to the encoder; between batches PostgreSQL may interrupt.
const TEXTS_PER_BATCH: usize = 4096;

#[pg_extern(sql = false)]
fn distilface_embed_default(text: &[u8]) -> Option<Embedding> {
    embed(registry::default_model(), InputKind::Passage, text, Strictness::Settings)
}

#[pg_extern(sql = false)]
fn distilface_embed_model(text: &[u8], model: &[u8]) -> Option<Embedding> {
    embed(named(model), InputKind::Passage, text, Strictness::Pinned)
}

#[pg_extern(sql = false)]
fn distilface_embed_query_default(text: &[u8]) -> Option<Embedding> {
    embed(registry::default_model(), InputKind::Query, text, Strictness::Settings)
}

#[pg_extern(sql = false)]
fn distilface_embed_query_model(text: &[u8], model: &[u8]) -> Option<Embedding> {
    embed(named(model), InputKind::Query, text, Strictness::Pinned)
}

/// The first `dims` values, as a Matryoshka model was trained for, of length 1 again.
#[pg_extern(sql = false)]
fn distilface_embed_dims(text: &[u8], model: &[u8], dims: i32) -> Option<Embedding> {
    embed_dims(named(model), InputKind::Passage, text, dims)
}

#[pg_extern(sql = false)]
fn distilface_embed_query_dims(text: &[u8], model: &[u8], dims: i32) -> Option<Embedding> {
    embed_dims(named(model), InputKind::Query, text, dims)
}

#[pg_extern(sql = false)]
fn distilface_embed_array_default(
    texts: Array<&[u8]>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> ArrayResult {
    embed_array(registry::default_model(), &texts, Strictness::Settings, fcinfo)
}

#[pg_extern(sql = false)]
fn distilface_embed_array_model(
    texts: Array<&[u8]>,
    model: &[u8],
    fcinfo: pg_sys::FunctionCallInfo,
) -> ArrayResult {
    embed_array(named(model), &texts, Strictness::Pinned, fcinfo)
}

#[pg_extern(sql = false)]
fn distilface_similarity_default(left: &[u8], right: &[u8]) -> Option<f32> {
    similarity(registry::default_model(), left, right, Strictness::Settings)
}

#[pg_extern(sql = false)]
fn distilface_similarity_model(left: &[u8], right: &[u8], model: &[u8]) -> Option<f32> {
    similarity(named(model), left, right, Strictness::Pinned)
}

/// Strategy 1 of `text_semantic_ops`.
#[pg_extern(sql = false)]
fn distilface_distance(passage: &[u8], query: &[u8]) -> Option<f64> {
    let (model, strictness) = (registry::default_model(), Strictness::Settings);
    let query = session::embed_one(model, InputKind::Query, &to_utf8(query), strictness)?;
    let passage = session::embed_one(model, InputKind::Passage, &to_utf8(passage), strictness)?;
    Some(Metric::Cosine.distance(&passage, &query))
}

/// The same for an order in which rows without a distance come first: strategy 2.
#[pg_extern(sql = false)]
fn distilface_distance_undefined_first(passage: Option<&[u8]>, query: Option<&[u8]>) -> f64 {
    passage
        .zip(query)
        .and_then(|(passage, query)| distilface_distance(passage, query))
        .unwrap_or(f64::NEG_INFINITY)
}

#[pg_extern(sql = false)]
fn distilface_token_count_default(text: &[u8]) -> i32 {
    token_count(registry::default_model(), text)
}

#[pg_extern(sql = false)]
fn distilface_token_count_model(text: &[u8], model: &[u8]) -> i32 {
    token_count(named(model), text)
}

/// Whether the model of a revision embeds nothing of a text.
///
/// # Errors
/// Raises 42704 where no model of that revision is here.
#[pg_extern(sql = false)]
fn distilface_is_blank(text: &[u8], revision: &[u8]) -> bool {
    let revision = to_utf8(revision);
    let Some(model) = registry::by_revision(&revision) else {
        Report::new(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("no model has the revision \"{revision}\""),
        )
        .hint("See distilface.models for the loaded ones.")
        .raise()
    };
    model.encoder().tokenizer().is_blank(&to_utf8(text))
}

/// What this session has embedded: texts, tokens, texts whose vector it remembered, and in how many runs.
#[pg_extern(sql = false)]
fn distilface_embedded() -> TableIterator<
    'static,
    (name!(texts, i64), name!(tokens, i64), name!(remembered, i64), name!(runs, i64)),
> {
    let session::Activity { texts, tokens, runs, remembered } = session::activity();
    TableIterator::once((texts as i64, tokens as i64, remembered as i64, runs as i64))
}

fn embed(
    model: ModelId,
    input: InputKind,
    text: &[u8],
    strictness: Strictness,
) -> Option<Embedding> {
    session::embed_one(model, input, &to_utf8(text), strictness)
        .map(|vector| Embedding::new(&vector))
}

/// One row for each document, best first; those without a score come last.
#[pg_extern(sql = false)]
fn distilface_rerank(
    query: &[u8],
    docs: Array<&[u8]>,
    model: &[u8],
) -> TableIterator<'static, (name!(ord, i32), name!(score, Option<f32>))> {
    let (model, query) = (named(model), to_utf8(query));
    let docs: Vec<Option<Cow<str>>> = docs.iter().map(|doc| doc.map(to_utf8)).collect();
    let mut rows: Vec<(i32, Option<f32>)> = Vec::with_capacity(docs.len());
    for batch in docs.chunks(TEXTS_PER_BATCH) {
        let present: Vec<&str> = batch.iter().flatten().map(Cow::as_ref).collect();
        let mut scores = session::score(model, &query, &present).into_iter();
        for doc in batch {
            let score = if doc.is_some() { scores.next().flatten() } else { None };
            rows.push((to_i32(rows.len() + 1), score));
        }
        interrupts::check();
    }
    rows.sort_by(|(_, a), (_, b)| {
        let key = |score: &Option<f32>| score.unwrap_or(f32::NEG_INFINITY);
        (a.is_none().cmp(&b.is_none())).then(key(b).total_cmp(&key(a)))
    });
    TableIterator::new(rows)
}

fn embed_dims(model: ModelId, input: InputKind, text: &[u8], dims: i32) -> Option<Embedding> {
    let manifest = model.manifest();
    let allowed = manifest.matryoshka_dims.iter().chain([&manifest.dimensions]);
    let Some(&dims) = allowed.clone().find(|&&allowed| i32::try_from(allowed) == Ok(dims)) else {
        let list: Vec<String> = allowed.map(usize::to_string).collect();
        Report::new(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("the model's vectors cannot be cut to {dims} dimensions"),
        )
        .detail(format!("It was trained for {}.", list.join(", ")))
        .hint("See distilface.models for what a model allows.")
        .raise()
    };
    let vector = session::embed_one(model, input, &to_utf8(text), Strictness::Pinned)?;
    let mut prefix = vector[..dims].to_vec();
    if manifest.normalize {
        let norm = prefix.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
        if norm > 0.0 {
            prefix.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
        }
    }
    Some(Embedding::new(&prefix))
}

fn embed_array(
    model: ModelId,
    texts: &Array<&[u8]>,
    strictness: Strictness,
    fcinfo: pg_sys::FunctionCallInfo,
) -> ArrayResult {
    let texts: Vec<Option<Cow<str>>> = texts.iter().map(|text| text.map(to_utf8)).collect();
    let mut vectors = ArrayBuilder::new(fcinfo, texts.len());
    for batch in texts.chunks(TEXTS_PER_BATCH) {
        let present: Vec<&str> = batch.iter().flatten().map(Cow::as_ref).collect();
        let embedded = session::embed_batch(model, InputKind::Passage, &present, strictness);
        let mut next = 0;
        for text in batch {
            let vector = match text {
                Some(_) => {
                    next += 1;
                    embedded.vector(next - 1)
                }
                None => None,
            };
            vectors.push(vector.map(|vector| Embedding::new(vector).into_datum()));
        }
        interrupts::check();
    }
    vectors.finish()
}

fn similarity(model: ModelId, left: &[u8], right: &[u8], strictness: Strictness) -> Option<f32> {
    let left = session::embed_one(model, InputKind::Passage, &to_utf8(left), strictness)?;
    let right = session::embed_one(model, InputKind::Passage, &to_utf8(right), strictness)?;
    Some((1.0 - Metric::Cosine.distance(&left, &right)) as f32)
}

fn token_count(model: ModelId, text: &[u8]) -> i32 {
    let text = to_utf8(text);
    let mut interrupted = || {
        interrupts::check();
        false
    };
    match model.encoder().tokenizer().count(&text, &mut interrupted) {
        Counted::Tokens(tokens) => to_i32(tokens),
        Counted::Interrupted => unreachable!("an interrupt raises, or the count goes on"),
    }
}

/// The model that a call names.
fn named(name: &[u8]) -> ModelId {
    registry::by_name(&to_utf8(name))
}

fn to_i32(value: impl TryInto<i32> + Copy + Display) -> i32 {
    value.try_into().unwrap_or_else(|_| {
        Report::new(
            PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
            format!("{value} is out of range for type integer"),
        )
        .raise()
    })
}
