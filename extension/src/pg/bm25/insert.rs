//! A row's texts into a live index.

use super::index::{IndexRelation, with_texts};
use crate::pg::buffers::Logging;
use crate::pg::index_am::heap_tid;
use distilface_core::bm25;
use pgrx::pg_sys;
use pgrx::prelude::*;

/// Inserts one row; rows of NULLs too, so that the index knows every row.
#[pg_guard]
#[expect(clippy::too_many_arguments, reason = "PostgreSQL's signature")]
pub unsafe extern "C-unwind" fn aminsert(
    index: pg_sys::Relation,
    values: *mut pg_sys::Datum,
    is_null: *mut bool,
    tid: pg_sys::ItemPointer,
    _heap: pg_sys::Relation,
    _check_unique: pg_sys::IndexUniqueCheck::Type,
    _index_unchanged: bool,
    _index_info: *mut pg_sys::IndexInfo,
) -> bool {
    // SAFETY: PostgreSQL's own arguments: an open index, an entry for each of its columns, all of
    // type text, and a valid tid.
    unsafe {
        let index = IndexRelation::new(index);
        let (store, _attached) = index.store(Logging::Generic);
        let inserted =
            with_texts(index, values, is_null, |texts| bm25::insert(&store, texts, heap_tid(*tid)));
        index.check(inserted);
    }
    // The result matters to unique indexes only.
    false
}
