//! The type `bm25query`: a query bound to an index and, by the planner, to one of its columns.
//!
//! In memory: PostgreSQL's length word, the index's oid (4 bytes), the column counted from 1 or 0 for
//! none (2 bytes, with [`CHECKED_BESIDE`]), and the query's text. Written: `index:query`.

use super::index::IndexRelation;
use crate::pg::report::Report;
use crate::pg::text::to_utf8;
use crate::pg::varlena::{Plain, argument_from_datum, names_sql_type};
use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::datum::{Datum, FromDatum};
use pgrx::pg_sys;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use pgrx::prelude::*;
use std::borrow::Cow;
use std::ffi::{CStr, CString};

const HEAD: usize = 4 + 4 + 2;

/// Added to the column: the condition is what an index scan does of one in the row form, which stands
/// beside it. Where no index scan evaluates it, it lets every row through.
pub const CHECKED_BESIDE: u16 = 1 << 12;

/// A `bm25query` argument.
pub struct BoundQuery<'a> {
    plain: Plain<'a>,
}

impl BoundQuery<'_> {
    /// # Safety
    /// `datum` is a non-null datum of the type that stays valid for `'a`.
    pub unsafe fn new(datum: pg_sys::Datum) -> Self {
        // SAFETY: the caller's promise.
        let plain = unsafe { Plain::from_datum(datum) };
        if plain.bytes().len() < HEAD {
            Report::new(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, "invalid bm25query value").raise()
        }
        Self { plain }
    }

    /// The index.
    pub fn index(&self) -> pg_sys::Oid {
        let bytes = self.plain.bytes();
        pg_sys::Oid::from(u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]))
    }

    /// Its column, counted from 0.
    pub fn column(&self) -> Option<usize> {
        let bytes = self.plain.bytes();
        usize::from(u16::from_ne_bytes([bytes[8], bytes[9]]) & !CHECKED_BESIDE).checked_sub(1)
    }

    /// Whether the condition's row form is evaluated as well, see [`CHECKED_BESIDE`].
    pub fn is_checked_beside(&self) -> bool {
        let bytes = self.plain.bytes();
        u16::from_ne_bytes([bytes[8], bytes[9]]) & CHECKED_BESIDE != 0
    }

    /// The query.
    pub fn text(&self) -> Cow<'_, str> {
        to_utf8(&self.plain.bytes()[HEAD..])
    }

    /// The query's bytes in the database's encoding.
    pub fn raw_text(&self) -> &[u8] {
        &self.plain.bytes()[HEAD..]
    }
}

/// A `bm25query` ready to be returned.
pub struct NewQuery(pg_sys::Datum);

impl NewQuery {
    /// Binds a query to an index and a column of it, counted from 1; 0 for none.
    pub fn new(index: pg_sys::Oid, column: u16, text: &[u8]) -> Self {
        let size = HEAD + text.len();
        // SAFETY: allocated with room for the head and the text, and filled to its end.
        unsafe {
            let start = pg_sys::palloc(size).cast::<u8>();
            pgrx::set_varsize_4b(start.cast(), size as i32);
            let index = index.to_u32().to_ne_bytes();
            start.add(4).copy_from_nonoverlapping(index.as_ptr(), 4);
            start.add(8).copy_from_nonoverlapping(column.to_ne_bytes().as_ptr(), 2);
            start.add(HEAD).copy_from_nonoverlapping(text.as_ptr(), text.len());
            Self(pg_sys::Datum::from(start))
        }
    }

    /// The value as a datum.
    pub fn into_datum(self) -> pg_sys::Datum {
        self.0
    }
}

impl FromDatum for BoundQuery<'_> {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _type: pg_sys::Oid,
    ) -> Option<Self> {
        // SAFETY: not null, and of the type that the caller vouches for.
        (!is_null).then(|| unsafe { Self::new(datum) })
    }
}

argument_from_datum!(BoundQuery);
names_sql_type!(BoundQuery<'_>, "bm25query");
names_sql_type!(NewQuery, "bm25query");

// SAFETY: the datum is a bm25query in the memory context of the call that returns it.
unsafe impl BoxRet for NewQuery {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        // SAFETY: made in this very call.
        unsafe { fcinfo.return_raw_datum(self.0) }
    }
}

/// Reads `index:query`.
#[pg_extern(sql = false)]
fn bm25query_in(input: &CStr) -> NewQuery {
    let bytes = input.to_bytes();
    let Some(colon) = bytes.iter().position(|&byte| byte == b':') else {
        Report::new(PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION, "malformed bm25query")
            .detail("It is written as index:query.")
            .raise()
    };
    let Ok(name) = CString::new(&bytes[..colon]) else {
        unreachable!("a part of a C string has no NUL")
    };
    // SAFETY: PostgreSQL's own input function, with a NUL-terminated name.
    let oid = unsafe {
        pgrx::direct_function_call_as_datum(
            pg_sys::regclassin,
            &[Some(pg_sys::Datum::from(name.as_ptr()))],
        )
    };
    let oid = oid.map_or(pg_sys::InvalidOid, |oid| pg_sys::Oid::from(oid.value() as u32));
    NewQuery::new(oid, 0, &bytes[colon + 1..])
}

/// Writes `index:query`.
#[pg_extern(sql = false)]
fn bm25query_out(query: BoundQuery<'_>) -> CString {
    // SAFETY: PostgreSQL's own output function returns a NUL-terminated string.
    let mut out = unsafe {
        let name = pgrx::direct_function_call_as_datum(
            pg_sys::regclassout,
            &[Some(pg_sys::Datum::from(query.index()))],
        );
        name.map_or_else(Vec::new, |name| CStr::from_ptr(name.cast_mut_ptr()).to_bytes().to_vec())
    };
    out.push(b':');
    out.extend_from_slice(query.raw_text());
    CString::new(out).unwrap_or_default()
}

/// Binds a query to an index: the explicit form of what the planner does.
#[pg_extern(sql = false)]
fn bm25query(query: &str, index: pg_sys::Oid) -> NewQuery {
    if !super::partitions::is_partitioned(index) {
        open_checked(index, |_| ());
    }
    NewQuery::new(index, 0, query.as_bytes())
}

/// The planner's form, for queries that are not known yet when it plans.
#[pg_extern(sql = false)]
fn bm25query_bind(query: &str, index: pg_sys::Oid, column: i16) -> NewQuery {
    NewQuery::new(index, column.max(0).unsigned_abs(), query.as_bytes())
}

/// An index's name, for messages.
pub fn index_name(oid: pg_sys::Oid) -> String {
    // SAFETY: reads the catalog's caches; the name is palloc'd or null.
    unsafe {
        let name = pg_sys::get_rel_name(oid);
        if name.is_null() {
            return oid.to_u32().to_string();
        }
        CStr::from_ptr(name).to_string_lossy().into_owned()
    }
}

/// Opens an index of this access method for reading during `work`.
///
/// # Errors
/// Raises 42809 for what is no such index.
pub fn open_checked<T>(oid: pg_sys::Oid, work: impl FnOnce(IndexRelation) -> T) -> T {
    // SAFETY: opens by oid under a lock that lets reads and writes go on; PostgreSQL raises an error
    // where it is no index. Closed below; an error's end of transaction closes it as well.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let relation = pg_sys::index_open(oid, lock);
        let index = IndexRelation::new(relation);
        if !index.is_ours() {
            Report::new(
                PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
                format!("\"{}\" is not a distilface_bm25 index", index.name()),
            )
            .raise()
        }
        if super::partitions::is_partitioned(oid) {
            Report::new(
                PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
                format!("index \"{}\" is partitioned", index.name()),
            )
            .detail("It holds no rows itself.")
            .hint("Name the index of a partition.")
            .raise()
        }
        let result = work(index);
        pg_sys::index_close(relation, lock);
        result
    }
}
