//! What an open index relation tells about itself.

use super::COLUMN_PROC;
use super::filter::FilterColumns;
use super::options::Options;
use crate::pg::buffers::{Logging, SharedBuffers};
use crate::pg::index_am::{is_access_method, relation_name};
use crate::pg::report::Report;
use distilface_core::hnsw::HnswParams;
use distilface_core::vector::Metric;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use pgrx::{PgTupleDesc, pg_sys};

/// An open `distilface_hnsw` index.
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

    /// Whether the index is of this access method.
    pub fn is_ours(self) -> bool {
        // SAFETY: an open relation's catalog row is there.
        is_access_method(unsafe { (*(*self.0).rd_rel).relam }, c"distilface_hnsw")
    }

    /// Dimensions that the indexed column's type declares.
    pub fn declared_dims(self) -> Option<usize> {
        // SAFETY: an index has at least one column, and its relation a description of it.
        let typmod = unsafe {
            let columns = PgTupleDesc::from_pg_unchecked((*self.0).rd_att);
            columns.get(0).map_or(-1, |column| column.atttypmod)
        };
        usize::try_from(typmod).ok().filter(|&dims| dims > 0)
    }

    /// What the first column's operator class says of it.
    ///
    /// # Errors
    /// Raises 0A000 where it is one of a filter column.
    pub fn column(self) -> Column {
        // SAFETY: the relation is open; an index has at least one column.
        let proc = unsafe { pg_sys::index_getprocid(self.0, 1, COLUMN_PROC) };
        if proc == pg_sys::InvalidOid {
            Report::new(
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                "first column of a distilface_hnsw index must be a vector or text",
            )
            .hint("Columns to filter by follow it: USING distilface_hnsw (embedding, tenant_id).")
            .raise()
        }
        // SAFETY: the operator class has the support function (CREATE OPERATOR CLASS and the
        // opclasses of this extension see to it); it takes one ignored argument.
        let code = unsafe {
            let proc = pg_sys::index_getprocinfo(self.0, 1, COLUMN_PROC);
            pg_sys::FunctionCall1Coll(proc, pg_sys::InvalidOid, pg_sys::Datum::null()).value()
        };
        Column::parse(code).unwrap_or_else(|| {
            Report::new(
                PgSqlErrorCode::ERRCODE_INVALID_OBJECT_DEFINITION,
                format!("operator class of index \"{}\" does not describe its column", self.name()),
            )
            .detail(format!("Its support function {COLUMN_PROC} returned {code}."))
            .raise()
        })
    }

    /// The parameters of a graph over vectors of `dims` dimensions.
    pub fn params(self, dims: usize) -> HnswParams {
        let options = self.options();
        let attr_len = u16::try_from(FilterColumns::of(self).len()).unwrap_or(u16::MAX);
        HnswParams::parse(
            dims,
            self.column().metric,
            options.m.into(),
            options.ef_construction.into(),
        )
        .and_then(|params| {
            options.storage().map_or(Ok(params), |storage| params.with_storage(storage))
        })
        .and_then(|params| params.with_attr_len(attr_len))
        .unwrap_or_else(|error| super::raise(&self, error.into()))
    }

    /// What `CREATE INDEX` said after `WITH`.
    pub fn options<'a>(self) -> &'a Options {
        // SAFETY: `rd_options` is null or what `amoptions` built; it lives as long as the open
        // relation, which outlives the use of this value.
        unsafe { (*self.0).rd_options.cast::<Options>().as_ref() }.unwrap_or(&Options::DEFAULT)
    }

    /// Its pages.
    pub fn store(self, logging: Logging) -> SharedBuffers {
        // SAFETY: the relation is open for as long as this value is used.
        unsafe { SharedBuffers::new(self.0, logging) }
    }
}

/// What an indexed column holds and how its vectors are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    pub metric: Metric,
    pub element: Element,
}

/// What the values of a column's type are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// Vectors of single-precision numbers.
    Single,
    /// Vectors of half-precision numbers.
    Half,
    /// Text, which a model turns into vectors.
    Text,
    /// Arrays of single-precision numbers.
    Array,
}

impl Column {
    /// Reads what the support function returned, see `sql/hnsw.sql`.
    fn parse(code: usize) -> Option<Self> {
        let [metric, element, 0, 0, ..] = code.to_le_bytes() else { return None };
        let element = match element {
            0 => Element::Single,
            1 => Element::Half,
            2 => Element::Text,
            3 => Element::Array,
            _ => return None,
        };
        Some(Self { metric: Metric::from_code(metric).ok()?, element })
    }

    /// The vector, where it has a place in the index. A zero vector has no direction, so that it has
    /// none where directions are compared: the index keeps such rows aside and gives them last, as a
    /// sort does, their distance being NaN.
    pub fn placed(self, vector: &[f32]) -> Option<&[f32]> {
        let placed = self.metric != Metric::Cosine || vector.iter().any(|&x| x != 0.0);
        placed.then_some(vector)
    }
}
