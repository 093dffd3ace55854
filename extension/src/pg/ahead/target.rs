//! What a table will embed of the rows that a statement writes: its stored generated columns, its indexes on
//! text, and those on expressions that embed. Partial indexes are left out: they may want few of the rows.

use super::calls::{self, Call, Model};
use crate::pg::am::index::{Element, IndexRelation};
use crate::pg::buffers::Logging;
use crate::pg::list::elements;
use distilface_core::encoder::InputKind;
use distilface_core::hnsw;
use distilface_core::page::PageStore;
use pgrx::pg_sys;
use std::ffi::c_int;

/// Adds the calls that writing a row makes, in terms of the columns of the node below.
///
/// # Safety
/// A node of a finished plan, whose tables are locked.
pub unsafe fn collect(
    stmt: *mut pg_sys::PlannedStmt,
    node: *mut pg_sys::ModifyTable,
    calls: &mut Vec<Call>,
) {
    // SAFETY: the caller's promise. Partitions compute the same columns as their table; where one
    // differs, what was embedded ahead is not asked for.
    unsafe {
        let Some(columns) = Written::of(node) else { return };
        let Some(rti) = first_int((*node).resultRelations) else { return };
        let entry = pg_sys::list_nth((*stmt).rtable, rti - 1).cast::<pg_sys::RangeTblEntry>();
        let table = pg_sys::relation_open((*entry).relid, pg_sys::NoLock as pg_sys::LOCKMODE);
        let mut own = Vec::new();
        of_generated_columns(table, &mut own);
        of_indexes(table, &mut own);
        pg_sys::relation_close(table, pg_sys::NoLock as pg_sys::LOCKMODE);
        for call in own {
            let text = calls::translated(call.text, &mut |var| columns.below(var));
            calls.extend(text.map(|text| Call { text, ..call }));
        }
    }
}

unsafe fn of_generated_columns(table: pg_sys::Relation, calls: &mut Vec<Call>) {
    // SAFETY: the caller's open table; its columns are counted from 1.
    unsafe {
        let descriptor = (*table).rd_att;
        let constraints = (*descriptor).constr;
        if constraints.is_null() || !(*constraints).has_generated_stored {
            return;
        }
        for attno in 1..=(*descriptor).natts {
            let generated = pg_sys::get_attgenerated((*table).rd_id, attno as i16) as u8;
            if generated == pg_sys::ATTRIBUTE_GENERATED_STORED {
                let expr = pg_sys::build_column_default(table, attno);
                calls::collect(pg_sys::expression_planner(expr.cast()).cast(), calls);
            }
        }
    }
}

unsafe fn of_indexes(table: pg_sys::Relation, calls: &mut Vec<Call>) {
    // SAFETY: the caller's open table; each index is opened with a lock and closed again.
    unsafe {
        if !(*(*table).rd_rel).relhasindex {
            return;
        }
        let indexes = pg_sys::RelationGetIndexList(table);
        let count = indexes.as_ref().map_or(0, |list| list.length);
        for at in 0..count {
            let oid = pg_sys::list_nth_oid(indexes, at);
            let index = pg_sys::index_open(oid, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            if pg_sys::RelationGetIndexPredicate(index).is_null() {
                calls::collect_each(pg_sys::RelationGetIndexExpressions(index), calls);
                calls.extend(of_text_index(index));
            }
            pg_sys::index_close(index, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        }
    }
}

/// The call that an index on a column of text makes by itself.
unsafe fn of_text_index(relation: pg_sys::Relation) -> Option<Call> {
    // SAFETY: the caller's open index; a variable for its first column is made.
    unsafe {
        let index = IndexRelation::new(relation);
        let has_pages = (*(*relation).rd_rel).relkind as u8 == pg_sys::RELKIND_INDEX;
        if !has_pages || !index.is_ours() || index.column().element != Element::Text {
            return None;
        }
        let attno = *(*(*relation).rd_index).indkey.values.as_slice(1).first()?;
        if attno <= 0 {
            return None;
        }
        let store = index.store(Logging::Generic);
        if store.page_count().ok()? == 0 {
            return None;
        }
        let revision = String::from_utf8(hnsw::read_tag(&store).ok()?).ok()?;
        let (none, text) = (pg_sys::InvalidOid, pg_sys::TEXTOID);
        let text = pg_sys::makeVar(1, attno, text, -1, none, 0).cast();
        Some(Call { text, input: InputKind::Passage, model: Model::Revision(revision) })
    }
}

/// Which columns of a table come from which of the node below.
enum Written {
    /// All, in their order.
    Row,
    /// Those with these numbers.
    Columns(*mut pg_sys::List),
}

impl Written {
    unsafe fn of(node: *mut pg_sys::ModifyTable) -> Option<Self> {
        // SAFETY: the caller's node.
        unsafe {
            match (*node).operation {
                pg_sys::CmdType::CMD_INSERT => Some(Self::Row),
                pg_sys::CmdType::CMD_UPDATE => {
                    let columns = elements((*node).updateColnosLists).next();
                    columns.map(Self::Columns)
                }
                _ => None,
            }
        }
    }

    /// The variable of the node below for one of the table's; none where the statement does not write it.
    unsafe fn below(&self, node: *mut pg_sys::Node) -> Option<*mut pg_sys::Node> {
        // SAFETY: an expression on the table's columns; a copy is changed.
        unsafe {
            let var = node.cast::<pg_sys::Var>();
            if (*node).type_ != pg_sys::NodeTag::T_Var || (*var).varattno <= 0 {
                return None;
            }
            let at = match *self {
                Self::Row => (*var).varattno,
                Self::Columns(columns) => {
                    let length = (*columns).length;
                    let at = (0..length).find(|&at| {
                        pg_sys::list_nth_int(columns, at) == c_int::from((*var).varattno)
                    })?;
                    at as i16 + 1
                }
            };
            let (typ, typmod, collation) = ((*var).vartype, (*var).vartypmod, (*var).varcollid);
            let of = pg_sys::OUTER_VAR as c_int;
            Some(pg_sys::makeVar(of, at, typ, typmod, collation, 0).cast())
        }
    }
}

unsafe fn first_int(list: *mut pg_sys::List) -> Option<c_int> {
    // SAFETY: null or a list of numbers.
    unsafe { (!list.is_null() && (*list).length > 0).then(|| pg_sys::list_nth_int(list, 0)) }
}
