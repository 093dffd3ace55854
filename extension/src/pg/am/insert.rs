//! A row's vector into a live index. Of a text that is in it already no vector is made: see `known.rs`.

use super::filter::FilterColumns;
use super::index::{Element, IndexRelation};
use super::known::{self, SameText};
use super::raise;
use super::vectors::Source;
use crate::model::{self, registry};
use crate::pg::buffers::Logging;
use crate::pg::index_am::heap_tid;
use crate::pg::varlena::Plain;
use distilface_core::hnsw::{self, SourceKey};
use distilface_core::page::{LockMode, PageStore};
use pgrx::pg_sys;
use pgrx::prelude::*;

/// Inserts one row's vector, or the row alone where it has none.
#[pg_guard]
#[expect(clippy::too_many_arguments, reason = "PostgreSQL's signature")]
pub unsafe extern "C-unwind" fn aminsert(
    index: pg_sys::Relation,
    values: *mut pg_sys::Datum,
    is_null: *mut bool,
    tid: pg_sys::ItemPointer,
    heap: pg_sys::Relation,
    _check_unique: pg_sys::IndexUniqueCheck::Type,
    _index_unchanged: bool,
    info: *mut pg_sys::IndexInfo,
) -> bool {
    // SAFETY: PostgreSQL's own arguments: an open index, a value for each of its columns and a valid
    // tid.
    let (index, value, attrs, tid) = unsafe {
        let index = IndexRelation::new(index);
        let attrs = FilterColumns::of(index).encode(values, is_null);
        (index, (!*is_null).then(|| *values), attrs, heap_tid(*tid))
    };
    let store = index.store(Logging::Generic);
    let has_pages = page_count(index, &store) > 0 || lay_first_page_for_text(index, &store);
    let source =
        if has_pages { Source::of(index, &store) } else { Source::Vectors(index.column()) };
    let insert = |vector: Option<&[f32]>, key: Option<SourceKey>| {
        match vector {
            Some(vector) => {
                lay_first_page(index, &store, vector.len(), b"");
                match key {
                    Some(key) => hnsw::insert_with_key(&store, vector, &attrs, tid, key),
                    None => hnsw::insert_with_attributes(&store, vector, &attrs, tid),
                }
                .map(|_| ())
            }
            None if has_pages => hnsw::insert_unplaced(&store, tid),
            // There is no page yet, nor a vector to tell what its pages must hold.
            None => Ok(()),
        }
        .unwrap_or_else(|error| raise(&index, error));
    };
    match (value, source) {
        (None, _) => insert(None, None),
        (Some(value), Source::Text(..)) => {
            // SAFETY: the value is a text.
            let text = unsafe { Plain::from_datum(value) };
            // SAFETY: the table is open and locked, and `info` describes this index of it.
            let mut rows = unsafe { SameText::new(heap, info, &text) };
            let mut key = SourceKey::new(known::key(&text));
            let known = hnsw::insert_known(&store, &attrs, tid, &mut key, &mut |tid| rows.has(tid))
                .unwrap_or_else(|error| raise(&index, error));
            if known.is_none() {
                // SAFETY: the value is of the column's type, detoasted already.
                unsafe { source.with_passage(text.datum(), |vector| insert(vector, Some(key))) };
            }
        }
        // SAFETY: the value is of the column's type.
        (Some(value), Source::Vectors(_)) => unsafe {
            source.with_passage(value, |vector| insert(vector, None));
        },
    }
    // The result matters to unique indexes only.
    false
}

/// An unlogged index on text has no page after `pg_upgrade` and a crash: its first row gives it the model
/// that it names, or else the default of that moment. Says whether this is an index on text.
///
/// # Errors
/// Raises 42704 where the model was dropped.
fn lay_first_page_for_text(index: IndexRelation, store: &impl PageStore) -> bool {
    if index.column().element != Element::Text {
        return false;
    }
    let model = registry::for_everybody(index.options().model());
    // Who drops it waits, and then finds this index.
    model::keep(model);
    lay_first_page(index, store, model.manifest().dimensions, model.revision().as_bytes());
    true
}

/// An index over a column without declared dimensions, created while the table was empty, has no
/// page until its first vector tells the dimensions. Rows without a vector that came before are not
/// in it.
fn lay_first_page(index: IndexRelation, store: &impl PageStore, dims: usize, tag: &[u8]) {
    if page_count(index, store) > 0 {
        return;
    }
    let lock = store.lock_updates(LockMode::Exclusive);
    let _lock = lock.unwrap_or_else(|error| raise(&index, error.into()));
    // Another backend may have laid it while this one waited.
    if page_count(index, store) == 0 {
        hnsw::create_tagged(store, index.params(dims), tag)
            .unwrap_or_else(|error| raise(&index, error));
    }
}

fn page_count(index: IndexRelation, store: &impl PageStore) -> u32 {
    store.page_count().unwrap_or_else(|error| raise(&index, error.into()))
}
