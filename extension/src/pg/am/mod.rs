//! The access method `distilface_hnsw`: PostgreSQL's callbacks over `distilface_core::hnsw`.
//!
//! One file per phase: [`build`], [`insert`], [`scan`], [`vacuum`], [`cost`], [`options`]; and
//! [`index`], what an open index relation tells about itself; [`vectors`], how its first column's values
//! become vectors; [`filter`], how the others become keys and `WHERE` a set of keys;
//! [`scan_distance`], what a search need not compute. The graph, its pages and its lock order are the core crate's
//! (`src/hnsw/README.md`); here is only what PostgreSQL asks.
//!
//! The order of an index scan is exact. The core emits, for each entry, a lower bound of its
//! distance in ascending order; the executor computes the true distance from the heap and reorders
//! (`xs_recheckorderby`), so the rows come out as a sort would give them. On text there is nothing to
//! compute it from but the model: there the order is that of the index's codes, and [`scan_distance`]
//! gives the same to the rest of the plan.

mod build;
mod cost;
pub mod explain;
mod filter;
mod heapcheck;
pub mod index;
mod insert;
pub mod inspect;
mod known;
pub mod options;
pub mod paths;
mod scan;
pub mod scan_distance;
pub mod similarity;
mod vacuum;
mod vectors;

use super::report::Report;
use distilface_core::hnsw::HnswError;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use pgrx::prelude::*;
use pgrx::{AllocatedByRust, Internal, pg_sys};

/// The support function by which an operator class describes its column, see `sql/hnsw.sql`.
const COLUMN_PROC: u16 = 1;

/// The handler that `CREATE ACCESS METHOD` names.
#[pg_extern(sql = false)]
fn distilface_hnsw_handler(_fcinfo: pg_sys::FunctionCallInfo) -> Internal {
    // SAFETY: a node of that type, allocated and tagged by PostgreSQL, zeroed elsewhere.
    let mut am = unsafe {
        PgBox::<pg_sys::IndexAmRoutine, AllocatedByRust>::alloc_node(
            pg_sys::NodeTag::T_IndexAmRoutine,
        )
    };
    am.amstrategies = 0;
    am.amsupport = COLUMN_PROC;
    am.amcanorderbyop = true;
    am.amcanmulticol = true;
    am.amsearcharray = true;
    am.amsearchnulls = true;
    // No clause on the first column is needed: ORDER BY alone makes a scan.
    am.amoptionalkey = true;
    am.amusemaintenanceworkmem = true;
    am.amparallelvacuumoptions = pg_sys::VACUUM_OPTION_PARALLEL_BULKDEL as u8;
    am.amkeytype = pg_sys::InvalidOid;
    am.ambuild = Some(build::ambuild);
    am.ambuildempty = Some(build::ambuildempty);
    am.aminsert = Some(insert::aminsert);
    am.ambulkdelete = Some(vacuum::ambulkdelete);
    am.amvacuumcleanup = Some(vacuum::amvacuumcleanup);
    am.amcostestimate = Some(cost::amcostestimate);
    am.amoptions = Some(options::amoptions);
    am.ambuildphasename = Some(build::ambuildphasename);
    am.amvalidate = Some(amvalidate);
    am.ambeginscan = Some(scan::ambeginscan);
    am.amrescan = Some(scan::amrescan);
    am.amgettuple = Some(scan::amgettuple);
    am.amendscan = Some(scan::amendscan);
    Internal::from(Some(pg_sys::Datum::from(am.into_pg())))
}

/// The operator classes are the extension's own and checked by its tests.
#[pg_guard]
unsafe extern "C-unwind" fn amvalidate(_opclass: pg_sys::Oid) -> bool {
    true
}

/// Ends the statement with what went wrong in an index.
fn raise(relation: &index::IndexRelation, error: HnswError) -> ! {
    let name = relation.name();
    let report = match &error {
        HnswError::Page(_) => Report::new(
            PgSqlErrorCode::ERRCODE_INDEX_CORRUPTED,
            format!("index \"{name}\" is damaged"),
        )
        .detail(error.to_string())
        .hint("REINDEX it. distilface_index_check lists what else is wrong with it."),
        HnswError::Dims { expected, got } => Report::new(
            PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
            format!("expected {expected} dimensions, not {got}"),
        )
        .detail(format!("Index \"{name}\" holds vectors of {expected} dimensions.")),
        _ => Report::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, error.to_string()),
    };
    report.raise()
}
