//! `ORDER BY body <@> 'title:a b'` by the index, where the query looks into several columns.
//!
//! The call is in its row form then (see [`super::bind`]), which is no operator that the planner could
//! match to the index, so a hook offers the path.

use super::bind::{is_row_form, match_clause};
use crate::pg::am::similarity::{ascending_order, list_of, members};
use crate::pg::index_am::is_access_method;
use crate::pg::list::elements;
use pgrx::pg_sys;
use pgrx::prelude::*;

static mut PREVIOUS: pg_sys::set_rel_pathlist_hook_type = None;

/// Installs the hook; called once, when the library is loaded.
pub fn install() {
    // SAFETY: the library is loaded once, on the backend's only thread.
    unsafe {
        PREVIOUS = pg_sys::set_rel_pathlist_hook;
        pg_sys::set_rel_pathlist_hook = Some(set_rel_pathlist);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn set_rel_pathlist(
    root: *mut pg_sys::PlannerInfo,
    rel: *mut pg_sys::RelOptInfo,
    rti: pg_sys::Index,
    rte: *mut pg_sys::RangeTblEntry,
) {
    // SAFETY: the planner's own arguments, valid during the call.
    unsafe {
        if let Some(previous) = PREVIOUS {
            previous(root, rel, rti, rte);
        }
        let is_table = (*rte).rtekind == pg_sys::RTEKind::RTE_RELATION
            && (*rel).reloptkind != pg_sys::RelOptKind::RELOPT_UPPER_REL;
        if !is_table || (*rel).indexlist.is_null() || (*root).query_pathkeys.is_null() {
            return;
        }
        let Some(pathkey) = elements::<pg_sys::PathKey>((*root).query_pathkeys).next() else {
            return;
        };
        if !ascending_order(pathkey) || (*(*pathkey).pk_eclass).ec_has_volatile {
            return;
        }
        let calls: Vec<*mut pg_sys::Node> =
            elements::<pg_sys::EquivalenceMember>(members((*pathkey).pk_eclass, rel))
                .filter(|&member| pg_sys::bms_equal((*member).em_relids, (*rel).relids))
                .map(|member| (*member).em_expr.cast::<pg_sys::Node>())
                .filter(|&expr| {
                    (*expr).type_ == pg_sys::NodeTag::T_FuncExpr
                        && is_row_form((*expr.cast::<pg_sys::FuncExpr>()).funcid)
                })
                .collect();
        for call in calls {
            for index in elements::<pg_sys::IndexOptInfo>((*rel).indexlist) {
                offer(root, rel, index, pathkey, call);
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
        let Some(clause) = match_clause(root, call, index, family) else { return };
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
