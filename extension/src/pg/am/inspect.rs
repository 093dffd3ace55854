//! `distilface_index_info` and `distilface_index_check`: looking into an index.

use super::heapcheck;
use super::index::IndexRelation;
use super::raise;
use crate::model::registry;
use crate::pg::bm25;
use crate::pg::buffers::{Logging, SharedBuffers};
use crate::pg::report::Report;
use distilface_core::hnsw::{self, CheckReport, HnswError, IndexInfo};
use distilface_core::page::PageStore;
use pgrx::pg_sys;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use pgrx::prelude::*;

/// Figures of an index, one row; none while it waits for its first row.
#[pg_extern(sql = false)]
#[expect(clippy::type_complexity, reason = "the columns are the function's interface")]
fn distilface_index_info(
    index: pg_sys::Oid,
) -> TableIterator<
    'static,
    (
        name!(format_version, i32),
        name!(dimensions, i32),
        name!(metric, String),
        name!(m, i32),
        name!(ef_construction, i32),
        name!(pages, i64),
        name!(nodes, i64),
        name!(dead_nodes, i64),
        name!(free_slots, i64),
        name!(heap_tids, i64),
        name!(unplaced, i64),
        name!(levels, Vec<i64>),
        name!(links, i64),
        name!(bytes_per_node, i64),
        name!(page_locality, f64),
    ),
> {
    let row = visit(index, |_, store| hnsw::info(store)).map(|info: IndexInfo| {
        (
            i32::from(info.format_version),
            info.params.dims() as i32,
            info.params.metric().name().to_owned(),
            info.params.m() as i32,
            info.params.ef_construction() as i32,
            info.pages as i64,
            info.nodes as i64,
            info.dead_nodes as i64,
            info.free_slots as i64,
            info.heap_tids as i64,
            info.unplaced as i64,
            info.levels.iter().map(|&nodes| nodes as i64).collect(),
            info.links as i64,
            info.bytes_per_node as i64,
            info.page_locality,
        )
    });
    TableIterator::new(row)
}

/// Every broken invariant of an index, in words; no row when there is none. With `heap`, every row of
/// the table is looked for as well.
#[pg_extern(sql = false)]
fn distilface_index_check(index: pg_sys::Oid, heap: bool) -> SetOfIterator<'static, String> {
    if let Some(problems) = bm25::functions::check_if_ours(index) {
        return SetOfIterator::new(problems);
    }
    let report: CheckReport = visit(index, |_, store| hnsw::check(store)).unwrap_or_default();
    let unsaid = report.violation_count.saturating_sub(report.violations.len() as u64);
    let rest = (unsaid > 0).then(|| format!("and {unsaid} more"));
    let beside_heap = match heap && report.is_ok() {
        true => visit(index, |index, store| {
            // SAFETY: `visit` holds the index open and has checked its owner.
            Ok(unsafe { heapcheck::differences(index, store) })
        }),
        // What does not hold together by itself is not worth comparing.
        false => None,
    };
    let problems = report.violations.into_iter().chain(rest).chain(beside_heap.unwrap_or_default());
    SetOfIterator::new(problems.collect::<Vec<_>>())
}

/// The revision of the model that filled an index on text, or that will fill one without a page because
/// the index names it; NULL where neither is so or, unless `wait`, somebody rebuilds it. Only who may
/// call it sees other people's indexes: the extension.
#[pg_extern(sql = false)]
fn distilface_index_revision(index: pg_sys::Oid, wait: bool) -> Option<String> {
    let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    // SAFETY: opens by oid, under a lock, what is an index when it is there; closed below.
    unsafe {
        if wait {
            pg_sys::LockRelationOid(index, lock);
        } else if !pg_sys::ConditionalLockRelationOid(index, lock) {
            return None;
        }
        let relation = pg_sys::try_relation_open(index, pg_sys::NoLock as pg_sys::LOCKMODE);
        if relation.is_null() {
            pg_sys::UnlockRelationOid(index, lock);
            return None;
        }
        let index = IndexRelation::new(relation);
        let store = index.store(Logging::Generic);
        let revision = if !index.is_ours() {
            None
        } else if store.page_count().unwrap_or(0) > 0 {
            let tag = hnsw::read_tag(&store).ok();
            tag.map(|tag| String::from_utf8_lossy(&tag).into_owned())
        } else {
            index.options().model().and_then(registry::stored).map(|model| model.revision)
        };
        pg_sys::relation_close(relation, lock);
        revision
    }
}

/// Runs `look` over the pages of an index that the current user owns; `None` where it has none yet.
///
/// # Errors
/// Raises 42809 for what is no `distilface_hnsw` index and 42501 for somebody else's.
fn visit<T>(
    oid: pg_sys::Oid,
    look: impl FnOnce(IndexRelation, &SharedBuffers) -> Result<T, HnswError>,
) -> Option<T> {
    // SAFETY: opens by oid under a lock that lets reads and writes go on; PostgreSQL raises an error
    // where it is no index. Closed below; an error's end of transaction closes it as well.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let relation = pg_sys::index_open(oid, lock);
        let index = IndexRelation::new(relation);
        if !index.is_ours() {
            Report::new(
                PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
                format!("\"{}\" is not a distilface_hnsw index", index.name()),
            )
            .raise()
        }
        if !owned_by_user(oid) {
            Report::new(
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("must be owner of index {}", index.name()),
            )
            .raise()
        }
        let store = index.store(Logging::Generic);
        let pages = store.page_count().unwrap_or_else(|error| raise(&index, error.into()));
        let seen =
            (pages > 0).then(|| look(index, &store).unwrap_or_else(|error| raise(&index, error)));
        pg_sys::index_close(relation, lock);
        seen
    }
}

#[cfg(feature = "pg15")]
unsafe fn owned_by_user(index: pg_sys::Oid) -> bool {
    // SAFETY: reads the catalog's caches.
    unsafe { pg_sys::pg_class_ownercheck(index, pg_sys::GetUserId()) }
}

#[cfg(not(feature = "pg15"))]
unsafe fn owned_by_user(index: pg_sys::Oid) -> bool {
    // SAFETY: reads the catalog's caches.
    unsafe { pg_sys::object_ownercheck(pg_sys::RelationRelationId, index, pg_sys::GetUserId()) }
}
