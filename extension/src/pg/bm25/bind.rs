//! The planner's part: `body @@@ 'q'` becomes `body @@@ bm25query('q', index)`, so that the query
//! carries its index wherever it is evaluated.
//!
//! It is done by the operators' support function, when constants are folded. The left operand is a
//! column or an expression of a table, the index the first valid one that has it as a key; where there
//! is none, the call is left alone and says so when it is executed.
//!
//! A query may look into other columns of the index than the left operand. An index scan has them;
//! elsewhere an operator sees its left operand only. Such a call becomes one of a function that takes
//! all the index's columns as well, `distilface_bm25_match_row(body, query, ARRAY[title, body])`. Of a
//! condition in that form the support function tells the planner what it is to the index, of an order
//! [`super::order`] does.
//!
//! When a statement locks a row that was updated meanwhile, the executor evaluates an index scan's
//! conditions again on the new row, by the operator, which sees one column only. In such a statement
//! the index's part of a row form therefore lets every row through outside a scan, and the planner
//! keeps the row form beside it.

use super::query::{BoundQuery, CHECKED_BESIDE, NewQuery};
use super::{DISTANCE_BOUND, MATCH_BOUND, partitions};
use crate::pg::index_am::is_access_method;
use distilface_core::bm25::Query;
use pgrx::prelude::*;
use pgrx::{Internal, is_a, pg_sys};
use std::ffi::CStr;

/// Share of the rows that a condition in the row form matches, as `contsel` has it for the operator.
const ROW_SELECTIVITY: f64 = 0.001;

/// Answers the planner's request to simplify a call of one of the operators' functions.
#[pg_extern(sql = false)]
fn distilface_bm25_support(request: Internal) -> Internal {
    let Some(node) = request.unwrap() else { return Internal::from(None) };
    let node = node.cast_mut_ptr::<pg_sys::Node>();
    // SAFETY: a support function's argument is a node; its tag tells which.
    let simplified = unsafe {
        if is_a(node, pg_sys::NodeTag::T_SupportRequestSimplify) {
            bind(&*node.cast::<pg_sys::SupportRequestSimplify>())
        } else if is_a(node, pg_sys::NodeTag::T_SupportRequestIndexCondition) {
            index_condition(&mut *node.cast::<pg_sys::SupportRequestIndexCondition>())
        } else if is_a(node, pg_sys::NodeTag::T_SupportRequestSelectivity) {
            estimate(&mut *node.cast::<pg_sys::SupportRequestSelectivity>()).then_some(node)
        } else {
            None
        }
    };
    match simplified {
        Some(node) => Internal::from(Some(pg_sys::Datum::from(node))),
        // A null pointer that is not SQL's NULL: "nothing to say".
        None => Internal::from(Some(pg_sys::Datum::from(0_usize))),
    }
}

/// An index's key that equals an operand.
struct Found {
    index: pg_sys::Oid,
    /// Counted from 1.
    column: u16,
    family: pg_sys::Oid,
    /// The index's keys, as expressions over the operand's relation.
    keys: Vec<*mut pg_sys::Node>,
    varno: i32,
}

unsafe fn bind(request: &pg_sys::SupportRequestSimplify) -> Option<*mut pg_sys::Node> {
    // SAFETY: the planner's own nodes, which it does not change while this runs.
    unsafe {
        let call = request.fcall;
        if request.root.is_null() || call.is_null() {
            return None;
        }
        let arguments = (*call).args;
        if arguments.is_null() || (*arguments).length != 2 {
            return None;
        }
        let left = (*(*arguments).elements.add(0)).ptr_value.cast::<pg_sys::Node>();
        let right = (*(*arguments).elements.add(1)).ptr_value.cast::<pg_sys::Node>();
        let (namespace, query_type) = query_type((*call).funcid)?;
        let right_type = pg_sys::exprType(right);
        let found = find_index(request.root, left)?;
        let bound = if right_type == query_type {
            rebind(right, &found)?
        } else if right_type == pg_sys::TEXTOID {
            bind_text(right, &found, namespace, query_type)?
        } else {
            return None;
        };
        let is_match = (*call).funcresulttype == pg_sys::BOOLOID;
        if found.keys.len() > 1 && looks_elsewhere(bound, &found) {
            return row_form(request.root, left, bound, &found, namespace, query_type, is_match);
        }
        let strategy = if is_match { MATCH_BOUND } else { DISTANCE_BOUND };
        let operator =
            pg_sys::get_opfamily_member(found.family, pg_sys::TEXTOID, query_type, strategy as i16);
        if operator == pg_sys::InvalidOid {
            return None;
        }
        let clause = pg_sys::make_opclause(
            operator,
            (*call).funcresulttype,
            false,
            left.cast(),
            bound.cast(),
            (*call).funccollid,
            (*call).inputcollid,
        );
        pg_sys::set_opfuncid(clause.cast());
        Some(clause.cast())
    }
}

/// Whether a bound query may look into other columns than its own: a query that is not known yet
/// may.
unsafe fn looks_elsewhere(bound: *mut pg_sys::Node, found: &Found) -> bool {
    // SAFETY: a node of the planner; a constant of the type holds a valid value.
    unsafe {
        if !is_a(bound, pg_sys::NodeTag::T_Const) {
            return true;
        }
        let constant = &*bound.cast::<pg_sys::Const>();
        if constant.constisnull {
            return false;
        }
        let query = BoundQuery::new(constant.constvalue);
        let own = column_name(found.index, found.column);
        // What is no query is searched as words, in the own column, or refused in any case.
        Query::parse(&query.text())
            .is_ok_and(|parsed| parsed.names().iter().any(|&name| Some(name) != own.as_deref()))
    }
}

unsafe fn column_name(index: pg_sys::Oid, column: u16) -> Option<String> {
    // SAFETY: reads the catalog's caches; the name is palloc'd or null.
    unsafe {
        let name = pg_sys::get_attname(index, column as i16, true);
        (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
    }
}

/// The call with the row's texts.
unsafe fn row_form(
    root: *mut pg_sys::PlannerInfo,
    left: *mut pg_sys::Node,
    bound: *mut pg_sys::Node,
    found: &Found,
    namespace: pg_sys::Oid,
    query_type: pg_sys::Oid,
    is_match: bool,
) -> Option<*mut pg_sys::Node> {
    // SAFETY: the planner's own nodes; what is made here is palloc'd in its memory context.
    unsafe {
        let name =
            if is_match { c"distilface_bm25_match_row" } else { c"distilface_bm25_distance_row" };
        let types = [pg_sys::TEXTOID, query_type, pg_sys::TEXTARRAYOID];
        let function = lookup(namespace, name, &types)?;
        let texts = found
            .keys
            .iter()
            .fold(std::ptr::null_mut(), |list, &key| pg_sys::lappend(list, as_text(key).cast()));
        let mut row =
            PgBox::<pg_sys::ArrayExpr, AllocatedByRust>::alloc_node(pg_sys::NodeTag::T_ArrayExpr);
        row.array_typeid = pg_sys::TEXTARRAYOID;
        row.element_typeid = pg_sys::TEXTOID;
        row.array_collid = pg_sys::exprCollation(left);
        row.elements = texts;
        row.location = -1;
        let row: *mut pg_sys::Node = row.into_pg().cast();
        read_columns(root, row, found.varno);
        let arguments = [left, bound, row]
            .into_iter()
            .fold(std::ptr::null_mut(), |list, node| pg_sys::lappend(list, node.cast()));
        let result = if is_match { pg_sys::BOOLOID } else { pg_sys::FLOAT8OID };
        let call = pg_sys::makeFuncExpr(
            function,
            result,
            arguments,
            pg_sys::InvalidOid,
            pg_sys::exprCollation(left),
            pg_sys::CoercionForm::COERCE_EXPLICIT_CALL,
        );
        Some(call.cast())
    }
}

unsafe fn as_text(node: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: a node of the planner, of a type that is binary-coercible to text.
    unsafe {
        if pg_sys::exprType(node) == pg_sys::TEXTOID {
            return node;
        }
        pg_sys::makeRelabelType(
            node.cast(),
            pg_sys::TEXTOID,
            -1,
            pg_sys::exprCollation(node),
            pg_sys::CoercionForm::COERCE_IMPLICIT_CAST,
        )
        .cast()
    }
}

/// A query that names a column reads it: the executor asks for the privilege on it.
unsafe fn read_columns(root: *mut pg_sys::PlannerInfo, row: *mut pg_sys::Node, varno: i32) {
    // SAFETY: the planner's own query tree, whose range table has that entry.
    unsafe {
        let mut columns: *mut pg_sys::Bitmapset = std::ptr::null_mut();
        pg_sys::pull_varattnos(row, varno as pg_sys::Index, &mut columns);
        let entry = pg_sys::list_nth((*(*root).parse).rtable, varno - 1);
        let selected = selected_columns(root, entry.cast());
        if !selected.is_null() {
            *selected = pg_sys::bms_union(*selected, columns);
        }
    }
}

#[cfg(feature = "pg15")]
unsafe fn selected_columns(
    _root: *mut pg_sys::PlannerInfo,
    entry: *mut pg_sys::RangeTblEntry,
) -> *mut *mut pg_sys::Bitmapset {
    // SAFETY: the caller's entry of the range table.
    unsafe { &raw mut (*entry).selectedCols }
}

#[cfg(not(feature = "pg15"))]
unsafe fn selected_columns(
    root: *mut pg_sys::PlannerInfo,
    entry: *mut pg_sys::RangeTblEntry,
) -> *mut *mut pg_sys::Bitmapset {
    // SAFETY: the caller's entry of the range table; index 0 says that it has none.
    unsafe {
        if (*entry).perminfoindex == 0 {
            return std::ptr::null_mut();
        }
        let info = pg_sys::getRTEPermissionInfo((*(*root).parse).rteperminfos, entry);
        &raw mut (*info).selectedCols
    }
}

/// The row form of a condition as the index evaluates it. A recheck is needed only where the row may
/// have changed since.
unsafe fn index_condition(
    request: &mut pg_sys::SupportRequestIndexCondition,
) -> Option<*mut pg_sys::Node> {
    // SAFETY: the planner's own nodes.
    unsafe {
        if request.indexarg != 0 || !is_row_form(request.funcid) {
            return None;
        }
        request.lossy = locks_rows(request.root);
        let column_flags = if request.lossy { CHECKED_BESIDE } else { 0 };
        let clause = match_clause(
            request.root,
            request.node,
            request.index,
            request.opfamily,
            column_flags,
        )?;
        Some(pg_sys::lappend(std::ptr::null_mut(), clause.cast()).cast())
    }
}

/// Whether the statement may evaluate conditions again on rows that were updated while it waited for
/// their locks.
unsafe fn locks_rows(root: *mut pg_sys::PlannerInfo) -> bool {
    // SAFETY: null, or the planner's own structures.
    unsafe {
        let Some(root) = root.as_ref() else { return true };
        (*root.parse).commandType != pg_sys::CmdType::CMD_SELECT
            || !(*root.parse).rowMarks.is_null()
            || !root.rowMarks.is_null()
    }
}

/// Whether a function is one of the row forms.
pub unsafe fn is_row_form(function: pg_sys::Oid) -> bool {
    // SAFETY: reads the catalog's caches; the name is palloc'd or null.
    unsafe {
        let name = pg_sys::get_func_name(function);
        !name.is_null()
            && [c"distilface_bm25_match_row", c"distilface_bm25_distance_row"]
                .contains(&CStr::from_ptr(name))
    }
}

/// A call of a row form as the operator's clause, where the index is the one that it is bound to and
/// the query is known before the scan. `column_flags` is 0 or [`CHECKED_BESIDE`].
pub unsafe fn match_clause(
    root: *mut pg_sys::PlannerInfo,
    call: *mut pg_sys::Node,
    index: *mut pg_sys::IndexOptInfo,
    family: pg_sys::Oid,
    column_flags: u16,
) -> Option<*mut pg_sys::Node> {
    // SAFETY: the planner's own nodes; what is made here is palloc'd in its memory context.
    unsafe {
        if !is_a(call, pg_sys::NodeTag::T_FuncExpr) {
            return None;
        }
        let call = &*call.cast::<pg_sys::FuncExpr>();
        let left = pg_sys::list_nth(call.args, 0).cast::<pg_sys::Node>();
        let query = pg_sys::list_nth(call.args, 1).cast::<pg_sys::Node>();
        let bound = bound_index(query)?;
        if !partitions::belongs_to((*index).indexoid, bound)
            || pg_sys::bms_overlap(pg_sys::pull_varnos(root, query), (*(*index).rel).relids)
            || pg_sys::contain_volatile_functions(query)
        {
            return None;
        }
        let strategy =
            if call.funcresulttype == pg_sys::BOOLOID { MATCH_BOUND } else { DISTANCE_BOUND };
        let query = if column_flags == 0 { query } else { flagged(query, column_flags) };
        let operator = pg_sys::get_opfamily_member(
            family,
            pg_sys::TEXTOID,
            pg_sys::exprType(query),
            strategy as i16,
        );
        if operator == pg_sys::InvalidOid {
            return None;
        }
        let clause = pg_sys::make_opclause(
            operator,
            call.funcresulttype,
            false,
            left.cast(),
            query.cast(),
            call.funccollid,
            call.inputcollid,
        );
        pg_sys::set_opfuncid(clause.cast());
        Some(clause.cast())
    }
}

/// A bound query, a constant or a call of `bm25query_bind`, with flags at its column.
unsafe fn flagged(query: *mut pg_sys::Node, flags: u16) -> *mut pg_sys::Node {
    // SAFETY: the caller's node, of which `bound_index` knows the index; the copy is palloc'd.
    unsafe {
        let copy: *mut pg_sys::Node = pg_sys::copyObjectImpl(query.cast()).cast();
        if is_a(copy, pg_sys::NodeTag::T_Const) {
            let constant = &*copy.cast::<pg_sys::Const>();
            let bound = BoundQuery::new(constant.constvalue);
            let column = bound.column().map_or(0, |column| column as u16 + 1);
            let value = NewQuery::new(bound.index(), column | flags, bound.raw_text());
            return make_constant(constant.consttype, value);
        }
        let column = pg_sys::list_nth((*copy.cast::<pg_sys::FuncExpr>()).args, 2);
        let column = &mut *column.cast::<pg_sys::Const>();
        column.constvalue = pg_sys::Datum::from(column.constvalue.value() as i16 | flags as i16);
        copy
    }
}

/// The index that a query's expression is bound to: a constant, or a call of `bm25query_bind`.
pub unsafe fn bound_index(query: *mut pg_sys::Node) -> Option<pg_sys::Oid> {
    // SAFETY: a node of the planner that is an operator's right operand.
    unsafe {
        if is_a(query, pg_sys::NodeTag::T_Const) {
            let constant = &*query.cast::<pg_sys::Const>();
            let is_text = constant.consttype == pg_sys::TEXTOID;
            return (!constant.constisnull && !is_text)
                .then(|| BoundQuery::new(constant.constvalue).index());
        }
        if !is_a(query, pg_sys::NodeTag::T_FuncExpr) {
            return None;
        }
        let call = &*query.cast::<pg_sys::FuncExpr>();
        let name = pg_sys::get_func_name(call.funcid);
        if name.is_null() || CStr::from_ptr(name) != c"bm25query_bind" {
            return None;
        }
        let index = pg_sys::list_nth(call.args, 1).cast::<pg_sys::Node>();
        is_a(index, pg_sys::NodeTag::T_Const)
            .then(|| pg_sys::Oid::from((*index.cast::<pg_sys::Const>()).constvalue.value() as u32))
    }
}

unsafe fn estimate(request: &mut pg_sys::SupportRequestSelectivity) -> bool {
    // SAFETY: reads the request's function.
    let ours = unsafe { is_row_form(request.funcid) };
    if ours {
        request.selectivity = ROW_SELECTIVITY;
    }
    ours
}

unsafe fn lookup(
    namespace: pg_sys::Oid,
    name: &CStr,
    types: &[pg_sys::Oid],
) -> Option<pg_sys::Oid> {
    // SAFETY: the names are copied into the planner's memory context.
    unsafe {
        let schema = pg_sys::get_namespace_name(namespace);
        if schema.is_null() {
            return None;
        }
        let name = pg_sys::lappend(
            pg_sys::lappend(std::ptr::null_mut(), pg_sys::makeString(schema).cast()),
            pg_sys::makeString(pg_sys::pstrdup(name.as_ptr())).cast(),
        );
        let function = pg_sys::LookupFuncName(name, types.len() as i32, types.as_ptr(), true);
        (function != pg_sys::InvalidOid).then_some(function)
    }
}

/// The schema of the operators' functions, and the type `bm25query` in it.
unsafe fn query_type(function: pg_sys::Oid) -> Option<(pg_sys::Oid, pg_sys::Oid)> {
    // SAFETY: reads the catalog's caches.
    unsafe {
        let namespace = pg_sys::get_func_namespace(function);
        let oid = pg_sys::GetSysCacheOid(
            pg_sys::SysCacheIdentifier::TYPENAMENSP as i32,
            pg_sys::Anum_pg_type_oid as i16,
            pg_sys::Datum::from(c"bm25query".as_ptr()),
            pg_sys::Datum::from(namespace),
            pg_sys::Datum::null(),
            pg_sys::Datum::null(),
        );
        (oid != pg_sys::InvalidOid).then_some((namespace, oid))
    }
}

/// A bound query that does not know its column yet, with it.
unsafe fn rebind(right: *mut pg_sys::Node, found: &Found) -> Option<*mut pg_sys::Node> {
    // SAFETY: a node of the planner; a constant of the type holds a valid value.
    unsafe {
        if !is_a(right, pg_sys::NodeTag::T_Const) {
            return None;
        }
        let constant = &*right.cast::<pg_sys::Const>();
        if constant.constisnull {
            return None;
        }
        let query = BoundQuery::new(constant.constvalue);
        if query.column().is_some() || query.index() != found.index {
            return None;
        }
        let value = NewQuery::new(found.index, found.column, query.raw_text());
        Some(make_constant(constant.consttype, value))
    }
}

/// A text, known or not, as a bound query.
unsafe fn bind_text(
    right: *mut pg_sys::Node,
    found: &Found,
    namespace: pg_sys::Oid,
    query_type: pg_sys::Oid,
) -> Option<*mut pg_sys::Node> {
    // SAFETY: as above; the function is looked up with the types that it is called with.
    unsafe {
        if is_a(right, pg_sys::NodeTag::T_Const) {
            let constant = &*right.cast::<pg_sys::Const>();
            if constant.constisnull {
                return None;
            }
            let text = crate::pg::varlena::Plain::from_datum(constant.constvalue);
            let value = NewQuery::new(found.index, found.column, text.bytes().get(4..)?);
            return Some(make_constant(query_type, value));
        }
        let types = [pg_sys::TEXTOID, pg_sys::REGCLASSOID, pg_sys::INT2OID];
        let function = lookup(namespace, c"bm25query_bind", &types)?;
        let index = by_value(pg_sys::REGCLASSOID, 4, pg_sys::Datum::from(found.index));
        let column = by_value(pg_sys::INT2OID, 2, pg_sys::Datum::from(found.column as i16));
        let arguments = [right, index, column]
            .into_iter()
            .fold(std::ptr::null_mut(), |list, node| pg_sys::lappend(list, node.cast()));
        let call = pg_sys::makeFuncExpr(
            function,
            query_type,
            arguments,
            pg_sys::InvalidOid,
            pg_sys::InvalidOid,
            pg_sys::CoercionForm::COERCE_EXPLICIT_CALL,
        );
        Some(call.cast())
    }
}

unsafe fn make_constant(of_type: pg_sys::Oid, value: NewQuery) -> *mut pg_sys::Node {
    // SAFETY: the value is of the type, in the planner's memory context.
    unsafe {
        pg_sys::makeConst(of_type, -1, pg_sys::InvalidOid, -1, value.into_datum(), false, false)
            .cast()
    }
}

unsafe fn by_value(of_type: pg_sys::Oid, len: i32, value: pg_sys::Datum) -> *mut pg_sys::Node {
    // SAFETY: a pass-by-value type of that length.
    unsafe { pg_sys::makeConst(of_type, -1, pg_sys::InvalidOid, len, value, false, true).cast() }
}

/// The first valid index of this access method with the operand as a key.
unsafe fn find_index(root: *mut pg_sys::PlannerInfo, operand: *mut pg_sys::Node) -> Option<Found> {
    // SAFETY: the planner's own nodes; the relations are locked by the query since it was parsed.
    unsafe {
        let operand = strip_relabel(operand);
        let varno = match is_a(operand, pg_sys::NodeTag::T_Var) {
            true => {
                let var = &*operand.cast::<pg_sys::Var>();
                if var.varlevelsup != 0 || var.varattno <= 0 {
                    return None;
                }
                var.varno
            }
            false => only_relation(root, operand)?,
        };
        let table = (*(*root).parse).rtable;
        let at = usize::try_from(varno).ok()?.checked_sub(1)?;
        if table.is_null() || at >= (*table).length as usize {
            return None;
        }
        let entry = &*(*(*table).elements.add(at)).ptr_value.cast::<pg_sys::RangeTblEntry>();
        if entry.rtekind != pg_sys::RTEKind::RTE_RELATION {
            return None;
        }
        let heap = pg_sys::table_open(entry.relid, pg_sys::NoLock as pg_sys::LOCKMODE);
        let indexes = pg_sys::RelationGetIndexList(heap);
        let mut found = None;
        let count = if indexes.is_null() { 0 } else { (*indexes).length as usize };
        for number in 0..count {
            let oid = (*(*indexes).elements.add(number)).oid_value;
            found = key_of(oid, operand, varno);
            if found.is_some() {
                break;
            }
        }
        pg_sys::list_free(indexes);
        pg_sys::table_close(heap, pg_sys::NoLock as pg_sys::LOCKMODE);
        found
    }
}

unsafe fn strip_relabel(mut node: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: the caller passes a node of the planner.
    unsafe {
        while is_a(node, pg_sys::NodeTag::T_RelabelType) {
            node = (*node.cast::<pg_sys::RelabelType>()).arg.cast();
        }
        node
    }
}

/// The only relation that an expression is about.
unsafe fn only_relation(root: *mut pg_sys::PlannerInfo, node: *mut pg_sys::Node) -> Option<i32> {
    // SAFETY: the caller passes a node of the planner.
    unsafe {
        let relations = pull_varnos(root, node);
        let mut varno = 0;
        pg_sys::bms_get_singleton_member(relations, &mut varno).then_some(varno)
    }
}

unsafe fn pull_varnos(root: *mut pg_sys::PlannerInfo, node: *mut pg_sys::Node) -> pg_sys::Relids {
    // SAFETY: the caller passes a node of the planner.
    unsafe { pg_sys::pull_varnos(root, node) }
}

unsafe fn key_of(oid: pg_sys::Oid, operand: *mut pg_sys::Node, varno: i32) -> Option<Found> {
    // SAFETY: an index of a table that is locked; closed below. The index's description lives as
    // long as it is open.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let relation = pg_sys::index_open(oid, lock);
        let form = &*(*relation).rd_index;
        let ours = is_access_method((*(*relation).rd_rel).relam, c"distilface_bm25");
        let mut found = None;
        if ours && form.indisvalid {
            let keys = keys(relation, varno);
            let at = keys.iter().position(|&key| {
                pg_sys::equal(strip_relabel(key).cast(), operand.cast())
                    || is_same_column(strip_relabel(key), operand)
            });
            if let Some(column) = at {
                let family = *(*relation).rd_opfamily.add(column);
                found = Some(Found { index: oid, column: column as u16 + 1, family, keys, varno });
            }
        }
        pg_sys::index_close(relation, lock);
        found
    }
}

/// Whether both are the same column; a variable has more fields than that.
unsafe fn is_same_column(key: *mut pg_sys::Node, operand: *mut pg_sys::Node) -> bool {
    // SAFETY: nodes of the planner.
    unsafe {
        is_a(key, pg_sys::NodeTag::T_Var)
            && is_a(operand, pg_sys::NodeTag::T_Var)
            && (*key.cast::<pg_sys::Var>()).varattno == (*operand.cast::<pg_sys::Var>()).varattno
    }
}

/// An index's keys as expressions over a relation of the query.
unsafe fn keys(index: pg_sys::Relation, varno: i32) -> Vec<*mut pg_sys::Node> {
    // SAFETY: an open index, whose description names columns of its table; what is made here is
    // palloc'd in the planner's memory context.
    unsafe {
        let form = &*(*index).rd_index;
        let expressions = pg_sys::RelationGetIndexExpressions(index);
        let mut expression = 0;
        (0..usize::try_from(form.indnkeyatts).unwrap_or(0))
            .map(|column| {
                let attribute = *form.indkey.values.as_ptr().add(column);
                if attribute == 0 {
                    let key = (*(*expressions).elements.add(expression)).ptr_value;
                    expression += 1;
                    let key = pg_sys::copyObjectImpl(key).cast::<pg_sys::Node>();
                    pg_sys::ChangeVarNodes(key, 1, varno, 0);
                    return key;
                }
                let (mut of_type, mut typmod, mut collation) =
                    (pg_sys::InvalidOid, -1, pg_sys::InvalidOid);
                pg_sys::get_atttypetypmodcoll(
                    form.indrelid,
                    attribute,
                    &mut of_type,
                    &mut typmod,
                    &mut collation,
                );
                pg_sys::makeVar(varno as _, attribute, of_type, typmod, collation, 0).cast()
            })
            .collect()
    }
}
