//! `ORDER BY body <@> 'title:a b'` by the index, where the query looks into several columns.
//!
//! The call is in its row form then (see [`super::bind`]), which is no operator that the planner could
//! match to the index, so a hook ([`crate::pg::planner`]) offers the path.

use super::bind::{is_row_form, match_clause};
use crate::pg::index_am::is_access_method;
use crate::pg::list::{elements, list_of};
use pgrx::pg_sys;

/// Offers the paths for an order by a distance in the row form.
///
/// # Safety
/// The planner's own structures; `call` is a member of the order's equivalence class on the table.
pub unsafe fn offer_order(
    root: *mut pg_sys::PlannerInfo,
    rel: *mut pg_sys::RelOptInfo,
    pathkey: *mut pg_sys::PathKey,
    call: *mut pg_sys::FuncExpr,
) {
    // SAFETY: the caller's promise.
    unsafe {
        if is_row_form((*call).funcid) {
            for index in elements::<pg_sys::IndexOptInfo>((*rel).indexlist) {
                offer(root, rel, index, pathkey, call.cast());
            }
        }
    }
}

unsafe fn offer(
    root: *mut pg_sys::PlannerInfo,
    rel: *mut pg_sys::RelOptInfo,
    index: *mut pg_sys::IndexOptInfo,
    pathkey: *mut pg_sys::PathKey,
    call: *mut pg_sys::Node,
) {
    // SAFETY: the planner's own structures; what is made here is palloc'd in its memory context.
    unsafe {
        if !is_access_method((*index).relam, c"distilface_bm25")
            || (*index).hypothetical
            || !(*index).indpred.is_null() && !(*index).predOK
        {
            return;
        }
        let left = pg_sys::list_nth((*call.cast::<pg_sys::FuncExpr>()).args, 0).cast();
        let column = (0..(*index).nkeycolumns)
            .find(|&column| pg_sys::match_index_to_operand(left, column, index));
        let Some(column) = column else { return };
        let family = *(*index).opfamily.add(column as usize);
        let Some(clause) = match_clause(root, call, index, family, 0) else { return };
        let path = pg_sys::create_index_path(
            root,
            index,
            std::ptr::null_mut(),
            list_of(clause.cast()),
            pg_sys::list_make1_impl(
                pg_sys::NodeTag::T_IntList,
                pg_sys::ListCell { int_value: column },
            ),
            list_of(pathkey.cast()),
            pg_sys::ScanDirection::ForwardScanDirection,
            false,
            std::ptr::null_mut(),
            1.0,
            false,
        );
        pg_sys::add_path(rel, path.cast());
    }
}
