//! The access method `distilface_bm25`: PostgreSQL's callbacks over `distilface_core::bm25`.
//!
//! One file per phase: [`build`], [`insert`], [`scan`], [`vacuum`], [`cost`], [`options`]; [`index`]
//! is what an open index relation tells about itself, [`store`] its pages in a form that tantivy's
//! readers can keep, [`views`] the views that a backend keeps between statements. Of the SQL surface,
//! [`query`] is the type that binds a query to an index, [`operators`] evaluates it for rows that no
//! index scan brought, [`scan_score`] gives it for those that one did, [`bind`] and [`order`] are the
//! planner's part, [`partitions`] what a partitioned table's rows are scored by,
//! [`moment`] tells how long something may be kept, [`functions`] is the rest.
//!
//! An index scan ordered by `<@>` returns every row of the index: those that match in the order of
//! their scores, then those that do not, whose score is 0. So the plan gives the rows that a
//! sequential scan and a sort would.

mod bind;
mod build;
mod cost;
pub mod functions;
mod index;
mod insert;
mod moment;
mod operators;
pub mod options;
pub mod order;
mod partitions;
pub mod query;
mod scan;
pub mod scan_score;
mod store;
mod vacuum;
mod views;

use super::report::Report;
use distilface_core::bm25::Bm25Error;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use pgrx::prelude::*;
use pgrx::{AllocatedByRust, Internal, pg_sys};

/// Strategies of the operator class, see `sql/bm25.sql`.
const MATCH_TEXT: u16 = 1;
const DISTANCE_TEXT: u16 = 2;
const MATCH_BOUND: u16 = 3;
const DISTANCE_BOUND: u16 = 4;

/// The handler that `CREATE ACCESS METHOD` names.
#[pg_extern(sql = false)]
fn distilface_bm25_handler(_fcinfo: pg_sys::FunctionCallInfo) -> Internal {
    // SAFETY: a node of that type, allocated and tagged by PostgreSQL, zeroed elsewhere.
    let mut am = unsafe {
        PgBox::<pg_sys::IndexAmRoutine, AllocatedByRust>::alloc_node(
            pg_sys::NodeTag::T_IndexAmRoutine,
        )
    };
    am.amstrategies = DISTANCE_BOUND;
    am.amsupport = 0;
    am.amcanorderbyop = true;
    am.amcanmulticol = true;
    // No clause on the first column is needed: ORDER BY alone, or any column, makes a scan.
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
    am.amgetbitmap = Some(scan::amgetbitmap);
    am.amendscan = Some(scan::amendscan);
    Internal::from(Some(pg_sys::Datum::from(am.into_pg())))
}

/// The operator class is the extension's own and checked by its tests.
#[pg_guard]
unsafe extern "C-unwind" fn amvalidate(_opclass: pg_sys::Oid) -> bool {
    true
}

/// Ends the statement with what went wrong in an index.
fn raise(name: &str, error: Bm25Error) -> ! {
    let report = match &error {
        Bm25Error::Page(_) => Report::new(
            PgSqlErrorCode::ERRCODE_INDEX_CORRUPTED,
            format!("index \"{name}\" is damaged"),
        )
        .detail(error.to_string())
        .hint("REINDEX it. distilface_index_check lists what else is wrong with it."),
        Bm25Error::Recycled(_) => Report::new(
            PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
            format!("index \"{name}\" was rearranged by the primary during the scan"),
        )
        .detail(error.to_string())
        .hint("Run the query again."),
        Bm25Error::Query(_) => {
            Report::new(PgSqlErrorCode::ERRCODE_SYNTAX_ERROR, format!("malformed query: {error}"))
                .hint("distilface_query(text) makes a query of any text.")
        }
        Bm25Error::TooLong { .. } => {
            Report::new(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, error.to_string())
        }
        Bm25Error::Engine(_) => {
            Report::new(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, error.to_string())
                .detail(format!("Index \"{name}\"."))
        }
        _ => Report::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, error.to_string()),
    };
    report.raise()
}
