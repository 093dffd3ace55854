//! What an index scan costs, so that the planner takes it when it is the fastest way to the rows
//! and not when it is not.
//!
//! The first row comes after a walk of the graph: `ef_search` and `m` say how many nodes it
//! visits. Every further row costs its share of the whole graph, so a query whose other conditions
//! leave few rows sees the cost of a long scan and gets another plan.

use crate::guc;
use crate::pg::index_am::{clauses_selectivity, page_costs};
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
        // Without an order there is nothing that the graph could be walked for.
        if (*path).indexorderbys.is_null() {
            *startup_cost = f64::INFINITY;
            *total_cost = f64::INFINITY;
            return;
        }
        let (random_page_cost, _) = page_costs((*info).reltablespace);
        let entries = (*info).tuples.max(1.0);
        let nodes = visited_nodes(entries);
        let walked = (nodes * PAGES_PER_NODE).min((*info).pages.into());
        let node_cost = pg_sys::cpu_operator_cost * 2.0;
        *startup_cost = walked * random_page_cost + nodes * node_cost;
        let rest = (entries - nodes).max(0.0);
        let rest_pages = (f64::from((*info).pages) - walked).max(0.0);
        *total_cost = *startup_cost
            + entries * pg_sys::cpu_index_tuple_cost
            + rest * node_cost
            + rest_pages * random_page_cost;
    }
}

/// Pages that a walk touches for each node it visits: neighbors lie close together.
const PAGES_PER_NODE: f64 = 0.25;

/// Nodes that a scan visits before its first row, from walks over real sentence embeddings: each
/// candidate kept brings about 14 nodes, and the way down the levels grows with the logarithm.
fn visited_nodes(entries: f64) -> f64 {
    let candidates = f64::from(guc::EF_SEARCH.get());
    (14.0 * candidates + 24.0 * entries.max(2.0).log2()).min(entries)
}
