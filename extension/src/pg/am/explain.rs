//! What scans did: `distilface_last_scan()`, and from PostgreSQL 18 on lines of `EXPLAIN (ANALYZE)`.
//!
//! Earlier servers let nobody add to a node of a plan; there, the function tells the same afterwards.

use distilface_core::hnsw::{Filtering, ScanStats};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::Cell;

thread_local! {
    static LAST: Cell<Option<(pg_sys::Oid, Work)>> = const { Cell::new(None) };
}

/// What the scans of one node of a plan did, all together.
#[derive(Debug, Clone, Copy, Default)]
pub struct Work {
    scans: u64,
    pub stats: ScanStats,
}

impl Work {
    /// Counts a scan that has ended or begins again.
    pub fn add(&mut self, scan: ScanStats) {
        self.scans += 1;
        self.stats.visited_nodes += scan.visited_nodes;
        self.stats.pages += scan.pages;
        self.stats.rows += scan.rows;
        self.stats.late_rows += scan.late_rows;
        self.stats.resumes += scan.resumes;
        self.stats.swept_nodes += scan.swept_nodes;
        self.stats.filtering = scan.filtering;
    }

    /// Keeps it as the session's last.
    pub fn publish(self, index: pg_sys::Oid) {
        if self.scans > 0 {
            LAST.set(Some((index, self)));
        }
    }
}

fn name(filtering: Filtering) -> &'static str {
    match filtering {
        Filtering::None => "none",
        Filtering::Graph => "graph",
        Filtering::Exact => "exact",
    }
}

/// The session's last scan, one row; none before the first.
#[pg_extern(sql = false)]
#[expect(clippy::type_complexity, reason = "the columns are the function's interface")]
fn distilface_last_scan() -> TableIterator<
    'static,
    (
        name!(index, pg_sys::Oid),
        name!(scans, i64),
        name!(visited_nodes, i64),
        name!(pages, i64),
        name!(rows, i64),
        name!(late_rows, i64),
        name!(resumes, i64),
        name!(swept_nodes, i64),
        name!(filtering, &'static str),
    ),
> {
    TableIterator::new(LAST.get().map(|(index, work)| {
        let stats = work.stats;
        (
            index,
            work.scans as i64,
            stats.visited_nodes as i64,
            stats.pages as i64,
            stats.rows as i64,
            stats.late_rows as i64,
            stats.resumes as i64,
            stats.swept_nodes as i64,
            name(stats.filtering),
        )
    }))
}

/// Installs the hook where there is one; called once, when the library is loaded.
#[cfg(not(feature = "pg18"))]
pub fn install() {}

#[cfg(feature = "pg18")]
pub use hook::install;

#[cfg(feature = "pg18")]
mod hook {
    use super::{Filtering, name};
    use crate::pg::am::scan;
    use crate::pg::index_am::is_access_method;
    use pgrx::pg_sys;
    use pgrx::prelude::*;
    use std::ffi::{CStr, CString, c_char};

    static mut PREVIOUS: pg_sys::explain_per_node_hook_type = None;

    pub fn install() {
        // SAFETY: the library is loaded once, on the backend's only thread.
        unsafe {
            PREVIOUS = pg_sys::explain_per_node_hook;
            pg_sys::explain_per_node_hook = Some(explain_node);
        }
    }

    #[pg_guard]
    unsafe extern "C-unwind" fn explain_node(
        node: *mut pg_sys::PlanState,
        ancestors: *mut pg_sys::List,
        relationship: *const c_char,
        plan_name: *const c_char,
        es: *mut pg_sys::ExplainState,
    ) {
        // SAFETY: EXPLAIN's own arguments, valid during the call; an index scan that has not run has no
        // scan descriptor.
        unsafe {
            if let Some(previous) = PREVIOUS {
                previous(node, ancestors, relationship, plan_name, es);
            }
            if !(*es).analyze || (*node).type_ != pg_sys::NodeTag::T_IndexScanState {
                return;
            }
            let state = node.cast::<pg_sys::IndexScanState>();
            let (index, descriptor) = ((*state).iss_RelationDesc, (*state).iss_ScanDesc);
            if index.is_null()
                || descriptor.is_null()
                || !is_access_method((*(*index).rd_rel).relam, c"distilface_hnsw")
            {
                return;
            }
            let stats = scan::work(descriptor).stats;
            let count = |label: &CStr, value: u64| {
                pg_sys::ExplainPropertyInteger(label.as_ptr(), std::ptr::null(), value as i64, es);
            };
            count(c"Visited Nodes", stats.visited_nodes);
            count(c"Visited Pages", stats.pages);
            if stats.late_rows > 0 {
                count(c"Late Rows", stats.late_rows);
            }
            if stats.filtering != Filtering::None
                && let Ok(way) = CString::new(name(stats.filtering))
            {
                pg_sys::ExplainPropertyText(c"Filtering".as_ptr(), way.as_ptr(), es);
            }
        }
    }
}
