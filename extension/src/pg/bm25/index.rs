//! What an open index relation tells about itself.

use super::options::Options;
use super::raise;
use super::store::{Attached, BackendStore};
use crate::pg::buffers::{Logging, SharedBuffers};
use crate::pg::index_am::{is_access_method, relation_name};
use crate::pg::text::to_utf8;
use crate::pg::varlena::Plain;
use distilface_core::bm25::{Bm25Error, Bm25Params};
use pgrx::{PgTupleDesc, pg_sys};
use std::sync::Arc;

/// An open `distilface_bm25` index.
#[derive(Clone, Copy)]
pub struct IndexRelation(pg_sys::Relation);

impl IndexRelation {
    /// # Safety
    /// `relation` is an open index of this access method and stays open while the value is used.
    pub unsafe fn new(relation: pg_sys::Relation) -> Self {
        Self(relation)
    }

    pub fn as_raw(self) -> pg_sys::Relation {
        self.0
    }

    /// The index's name, for messages.
    pub fn name(self) -> String {
        // SAFETY: the relation is open.
        unsafe { relation_name(self.0) }
    }

    pub fn oid(self) -> pg_sys::Oid {
        // SAFETY: an open relation.
        unsafe { (*self.0).rd_id }
    }

    /// Whether the index is of this access method.
    pub fn is_ours(self) -> bool {
        // SAFETY: an open relation's catalog row is there.
        is_access_method(unsafe { (*(*self.0).rd_rel).relam }, c"distilface_bm25")
    }

    /// The number of the file that holds the index; a rebuild gives it another.
    pub fn file_number(self) -> u32 {
        // SAFETY: an open relation's catalog row is there.
        unsafe { (*(*self.0).rd_rel).relfilenode }.to_u32()
    }

    /// Names of the columns, in order.
    pub fn columns(self) -> Vec<String> {
        // SAFETY: an index relation has a description of its columns.
        let columns = unsafe { PgTupleDesc::from_pg_unchecked((*self.0).rd_att) };
        columns.iter().map(|column| column.name().to_owned()).collect()
    }

    /// How many columns it has.
    pub fn column_count(self) -> usize {
        // SAFETY: an index relation has a description of its columns.
        let columns = unsafe { (*(*self.0).rd_att).natts };
        usize::try_from(columns).unwrap_or(0)
    }

    /// The parameters that its options give.
    pub fn params(self) -> Bm25Params {
        // SAFETY: `rd_options` is null or what `amoptions` built for this relation.
        let options = unsafe { Options::of(self.0) };
        options.params(&self.columns()).unwrap_or_else(|error| raise(&self.name(), error))
    }

    /// Its pages.
    pub fn buffers(self, logging: Logging) -> SharedBuffers {
        // SAFETY: the relation is open for as long as this value is used.
        unsafe { SharedBuffers::new(self.0, logging) }
    }

    /// Its pages as a store of their own.
    pub fn store(self, logging: Logging) -> (Arc<BackendStore>, Attached) {
        let store = BackendStore::new();
        let attached = store.attach(self.buffers(logging));
        (store, attached)
    }

    /// Ends the statement where something went wrong.
    pub fn check<T>(self, result: Result<T, Bm25Error>) -> T {
        result.unwrap_or_else(|error| raise(&self.name(), error))
    }
}

/// A row's texts, one a column.
///
/// # Safety
/// The arrays have an entry for each column, and non-null values are of type `text`.
pub unsafe fn with_texts<T>(
    index: IndexRelation,
    values: *mut pg_sys::Datum,
    is_null: *mut bool,
    work: impl FnOnce(&[Option<&str>]) -> T,
) -> T {
    let count = index.column_count();
    let plain: Vec<Option<Plain<'_>>> = (0..count)
        .map(|column| {
            // SAFETY: the caller's promise.
            unsafe {
                let null = *is_null.add(column);
                (!null).then(|| Plain::from_datum(*values.add(column)))
            }
        })
        .collect();
    let texts: Vec<_> = plain
        .iter()
        .map(|plain| plain.as_ref().map(|plain| to_utf8(plain.bytes().get(4..).unwrap_or(&[]))))
        .collect();
    let texts: Vec<Option<&str>> = texts.iter().map(Option::as_deref).collect();
    work(&texts)
}
