//! What an index scan costs, so that the planner takes it when it is the fastest way to the rows
//! and not when it is not.
//!
//! The first row comes after a walk of the graph: `ef_search` and `m` say how many nodes it
//! visits. Every further row costs its share of a scan of all rows, which comes back to each page some
//! times, so a query whose other conditions leave few rows sees the cost of a long scan and gets another plan.
//!
//! Clauses on filter columns make the walk longer by the share of rows that they leave, or a read of the
//! nodes that pass, whichever is cheaper, as the scan itself decides (`src/hnsw/filtered.rs`).

use crate::guc;
use crate::pg::index_am::{clauses_selectivity, page_costs};
use crate::pg::list::elements;
use pgrx::pg_sys;
use pgrx::prelude::*;

/// Estimates the scan that `path` describes.
#[pg_guard]
#[expect(clippy::too_many_arguments, reason = "PostgreSQL's signature")]
pub unsafe extern "C-unwind" fn amcostestimate(
    root: *mut pg_sys::PlannerInfo,
    path: *mut pg_sys::IndexPath,
    _loop_count: f64,
    startup_cost: *mut pg_sys::Cost,
    total_cost: *mut pg_sys::Cost,
    selectivity: *mut pg_sys::Selectivity,
    correlation: *mut f64,
    pages: *mut f64,
) {
    // SAFETY: the planner's own arguments: a path over an index of this access method and places
    // for the results.
    unsafe {
        let info = (*path).indexinfo;
        *correlation = 0.0;
        *selectivity = clauses_selectivity(root, path);
        *pages = f64::from((*info).pages);
        // Without an order by the first column there is nothing that the graph could be walked for.
        if !orders_by_first_column(path) {
            *startup_cost = f64::INFINITY;
            *total_cost = f64::INFINITY;
            disable(path);
            return;
        }
        let (random_page, sequential_page) = page_costs((*info).reltablespace);
        let index = Index {
            entries: (*info).tuples.max(1.0),
            pages: (*info).pages.into(),
            random_page,
            sequential_page,
        };
        let share = filter_selectivity(root, path).clamp(1.0 / index.entries, 1.0);
        let whole = index.whole();
        let walk = index.walk(share);
        match has_filter(path) {
            true => {
                let exact = index.exact(share);
                // The nodes that pass are read at the latest when the walk has cost as much.
                *startup_cost = walk.min(exact);
                *total_cost = *startup_cost + exact.min(whole);
            }
            false => {
                *startup_cost = walk;
                *total_cost = walk.max(whole * PASSES);
            }
        }
        *total_cost += index.entries * share * pg_sys::cpu_index_tuple_cost;
    }
}

/// What the planner knows of an index and its tablespace.
struct Index {
    entries: f64,
    pages: f64,
    random_page: f64,
    sequential_page: f64,
}

/// Pages that a walk touches for each node it visits: neighbors lie close together.
const PAGES_PER_NODE: f64 = 0.25;
/// Times that a scan to the end comes back to a page: 100,000 real embeddings took 114,000 accesses to 14,300
/// pages. The first rows cost more each, ten times their share of that.
const PASSES: f64 = 8.0;
/// Attribute pages are one in so many.
const NODE_PAGES_PER_ATTRIBUTE_PAGE: f64 = 100.0;

impl Index {
    /// A walk until `ef_search` nodes are found that pass a filter which leaves that share.
    fn walk(&self, share: f64) -> f64 {
        let nodes = self.visited_nodes(share);
        let pages = (nodes * PAGES_PER_NODE).min(self.pages);
        pages * self.random_page + nodes * node_cost()
    }

    /// The whole graph.
    fn whole(&self) -> f64 {
        self.pages * self.random_page + self.entries * node_cost()
    }

    /// Reading the nodes that pass, in the order of their pages, and the attributes of all.
    fn exact(&self, share: f64) -> f64 {
        let attribute_pages = (self.pages / NODE_PAGES_PER_ATTRIBUTE_PAGE).ceil();
        let per_page = self.entries / self.pages.max(1.0);
        let read = self.pages * (1.0 - (1.0 - share).powf(per_page.max(1.0)));
        // As a bitmap heap scan is charged: the more of the pages, the closer to reading in sequence.
        let nearness = (read / self.pages.max(1.0)).sqrt();
        let page = self.random_page - (self.random_page - self.sequential_page) * nearness;
        // SAFETY: reads a setting.
        let key_cost = unsafe { pg_sys::cpu_operator_cost } / 16.0;
        attribute_pages * self.sequential_page
            + self.entries * key_cost
            + read * page
            + self.entries * share * node_cost()
    }

    /// Nodes that a scan visits before its first row, from walks over real sentence embeddings: each
    /// candidate kept brings about 14 nodes, and the way down the levels grows with the logarithm.
    fn visited_nodes(&self, share: f64) -> f64 {
        let candidates = f64::from(guc::EF_SEARCH.get()) / share;
        (14.0 * candidates + 24.0 * self.entries.max(2.0).log2()).min(self.entries)
    }
}

/// Scoring a node.
fn node_cost() -> f64 {
    // SAFETY: reads a setting.
    unsafe { pg_sys::cpu_operator_cost * 2.0 }
}

/// Whether the scan has one order, by the distance of the first column.
unsafe fn orders_by_first_column(path: *mut pg_sys::IndexPath) -> bool {
    // SAFETY: the planner's own path; the list is one of integers.
    unsafe {
        let columns = (*path).indexorderbycols;
        !columns.is_null() && (*columns).length == 1 && pg_sys::list_nth_int(columns, 0) == 0
    }
}

/// Clauses on filter columns.
unsafe fn filter_clauses(
    path: *mut pg_sys::IndexPath,
) -> impl Iterator<Item = *mut pg_sys::IndexClause> {
    // SAFETY: the planner's own path and its list of index clauses.
    unsafe {
        elements::<pg_sys::IndexClause>((*path).indexclauses)
            .filter(|&clause| (*clause).indexcol > 0)
    }
}

unsafe fn has_filter(path: *mut pg_sys::IndexPath) -> bool {
    // SAFETY: the caller passes the planner's own path.
    unsafe { filter_clauses(path) }.next().is_some()
}

/// Share of the rows that the clauses on filter columns leave.
unsafe fn filter_selectivity(root: *mut pg_sys::PlannerInfo, path: *mut pg_sys::IndexPath) -> f64 {
    // SAFETY: the planner's own structures; the list made here is palloc'd in its memory context.
    unsafe {
        let clauses = filter_clauses(path).fold(std::ptr::null_mut(), |list, clause| {
            pg_sys::lappend(list, (*clause).rinfo.cast())
        });
        let relid = (*(*(*path).indexinfo).rel).relid as i32;
        let (inner, no_join) = (pg_sys::JoinType::JOIN_INNER, std::ptr::null_mut());
        pg_sys::clauselist_selectivity(root, clauses, relid, inner, no_join)
    }
}

/// From PostgreSQL 18 on a path that is switched off counts as such before any cost.
#[cfg(feature = "pg18")]
unsafe fn disable(path: *mut pg_sys::IndexPath) {
    // SAFETY: the planner's own path. One more than a sequential scan that is switched off has.
    unsafe { (*path).path.disabled_nodes = 2 };
}

#[cfg(not(feature = "pg18"))]
unsafe fn disable(_path: *mut pg_sys::IndexPath) {}
