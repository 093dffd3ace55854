//! Where a plan can embed ahead, and the node that is put there.
//!
//! The columns of a node N that embed are computed by a new node B above it, and N gives B what they
//! are made of: `SeqScan (id, distilface_embed(body))` becomes `B (id, distilface_embed(body))` over
//! `SeqScan (id, body)`. So N's conditions, row security among them, come before anything that B sees,
//! and what else stands in the columns (sequences, subqueries) is computed when it was before.
//! B also embeds what the node above will ask for: an aggregate's arguments, a table's generated
//! columns. Where N cannot compute columns (a sort), B stands above it and passes its rows on.

use super::calls::{self, Call};
use super::calm;
use super::node;
use super::target;
use crate::pg::list::elements;
use crate::pg::tree;
use pgrx::pg_sys;
use std::cell::OnceCell;
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;

/// New nodes are numbered from here; the planner numbers its own from 0.
const FIRST_NODE_ID: c_int = 1 << 24;

/// What a visit does about a place that it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visit {
    Count,
    Change,
}

/// Visits a plan, and says how many places it found.
///
/// # Safety
/// A finished plan that nothing runs yet; to change it, one's own copy, in whose memory context the
/// caller is.
pub unsafe fn visit(stmt: *mut pg_sys::PlannedStmt, visit: Visit) -> usize {
    // SAFETY: the caller's promise.
    unsafe {
        let mut visitor = Visitor { stmt, visit, sites: 0, calm_subplans: OnceCell::new() };
        visitor.node(&raw mut (*stmt).planTree, Above::Nothing);
        visitor.each((*stmt).subplans, Above::Nothing);
        visitor.sites
    }
}

struct Visitor {
    stmt: *mut pg_sys::PlannedStmt,
    visit: Visit,
    sites: usize,
    calm_subplans: OnceCell<bool>,
}

/// What a node's parent needs of it.
#[derive(Clone, Copy)]
enum Above {
    Nothing,
    /// The parent tells how many rows it wants, which a sort below must hear of.
    Bound,
    Aggregate(*mut pg_sys::Agg),
    Table(*mut pg_sys::ModifyTable),
    /// The parent goes back to rows that it marked.
    Marks,
}

impl Visitor {
    unsafe fn each(&mut self, plans: *mut pg_sys::List, above: Above) {
        // SAFETY: a list of nodes of the plan, or of nothing; its cells are changed in place.
        unsafe {
            for at in 0..elements::<c_void>(plans).count() {
                let cell = pg_sys::list_nth_cell(plans, at as c_int);
                self.node((&raw mut (*cell).ptr_value).cast(), above);
            }
        }
    }

    /// Looks at the node in a slot of its parent's, then below it.
    unsafe fn node(&mut self, slot: *mut *mut pg_sys::Plan, above: Above) {
        // SAFETY: the caller's slot; a node's tag says what it is.
        unsafe {
            let plan = *slot;
            if plan.is_null() {
                return;
            }
            pg_sys::check_stack_depth();
            self.place(slot, above);
            let bound = match above {
                Above::Bound => Above::Bound,
                _ => Above::Nothing,
            };
            let bound_or_marks = match above {
                Above::Marks => Above::Marks,
                _ => bound,
            };
            let (left, right) = match (*plan).type_ {
                pg_sys::NodeTag::T_CustomScan | pg_sys::NodeTag::T_ForeignScan => return,
                pg_sys::NodeTag::T_Agg => (Above::Aggregate(plan.cast()), Above::Nothing),
                pg_sys::NodeTag::T_ModifyTable => (Above::Table(plan.cast()), Above::Nothing),
                pg_sys::NodeTag::T_Limit => (Above::Bound, Above::Nothing),
                pg_sys::NodeTag::T_MergeJoin => (Above::Nothing, Above::Marks),
                pg_sys::NodeTag::T_Result => (bound_or_marks, Above::Nothing),
                pg_sys::NodeTag::T_Gather | pg_sys::NodeTag::T_GatherMerge => {
                    (bound, Above::Nothing)
                }
                _ => (Above::Nothing, Above::Nothing),
            };
            match (*plan).type_ {
                pg_sys::NodeTag::T_Append => {
                    self.each((*plan.cast::<pg_sys::Append>()).appendplans, bound);
                }
                pg_sys::NodeTag::T_MergeAppend => {
                    self.each((*plan.cast::<pg_sys::MergeAppend>()).mergeplans, bound);
                }
                pg_sys::NodeTag::T_SubqueryScan => {
                    self.node(&raw mut (*plan.cast::<pg_sys::SubqueryScan>()).subplan, bound);
                }
                _ => {}
            }
            self.node(&raw mut (*plan).lefttree, left);
            self.node(&raw mut (*plan).righttree, right);
        }
    }

    /// Puts a node over the one in the slot where that embeds ahead.
    unsafe fn place(&mut self, slot: *mut *mut pg_sys::Plan, above: Above) {
        // SAFETY: the caller's slot.
        unsafe {
            let plan = *slot;
            let Some(split) = Split::of(plan, above) else { return };
            let mut own = Vec::new();
            if let Some(node) = split.node() {
                calls::collect_each((*node).targetlist, &mut own);
            }
            let mut asked = Vec::new();
            match above {
                Above::Aggregate(parent) => of_aggregates(parent, &mut asked),
                Above::Table(parent) => target::collect(self.stmt, parent, &mut asked),
                _ => {}
            }
            if own.is_empty() && asked.is_empty() {
                return;
            }
            let mut columns = Columns { split: &split, plan, columns: Vec::new() };
            let mut texts: Vec<Call> = Vec::new();
            for call in own {
                let text = calls::early(call.text, &mut |leaf| columns.leaf(leaf));
                add(&mut texts, call, text);
            }
            for call in asked {
                let text = calls::early(call.text, &mut |var| columns.of_output(var));
                add(&mut texts, call, text);
            }
            if texts.is_empty() || !split.is_calm(plan) || !self.are_subplans_calm() {
                return;
            }
            self.sites += 1;
            if self.visit == Visit::Change {
                let id = FIRST_NODE_ID + self.sites as c_int;
                *slot = columns.build(&texts, id);
            }
        }
    }

    /// Whether no subquery of the statement would notice.
    unsafe fn are_subplans_calm(&self) -> bool {
        *self.calm_subplans.get_or_init(|| {
            // SAFETY: the subplans of a finished plan, null where a worker has no use for one.
            unsafe {
                elements::<pg_sys::Plan>((*self.stmt).subplans)
                    .all(|plan| plan.is_null() || calm::is_calm(plan))
            }
        })
    }
}

/// Adds a call whose text may be computed early, once.
unsafe fn add(texts: &mut Vec<Call>, call: Call, text: Option<*mut pg_sys::Node>) {
    let Some(text) = text else { return };
    let is_same = |other: &Call| {
        // SAFETY: expressions of the plan.
        other.input == call.input
            && other.model == call.model
            && unsafe { pg_sys::equal(other.text.cast(), text.cast()) }
    };
    if !texts.iter().any(is_same) {
        texts.push(Call { text, ..call });
    }
}

/// The calls in the arguments of a node's aggregates, in terms of the columns below.
unsafe fn of_aggregates(agg: *mut pg_sys::Agg, calls: &mut Vec<Call>) {
    // SAFETY: the caller's node; the walk changes nothing.
    unsafe {
        let mut found = |node: *mut pg_sys::Node| {
            if (*node).type_ == pg_sys::NodeTag::T_Aggref {
                let aggregate = node.cast::<pg_sys::Aggref>();
                if (*aggregate).aggfilter.is_null() {
                    calls::collect_each((*aggregate).args, calls);
                }
            }
            false
        };
        tree::any((*agg).plan.targetlist.cast(), &mut found);
        tree::any((*agg).plan.qual.cast(), &mut found);
    }
}

/// How the columns of a node are divided between it and a new one.
enum Split {
    /// The node computes what its columns are made of, the new one the columns.
    Columns(*mut pg_sys::Plan),
    /// The same for the node under a limit: the new one stands over the limit, so that it reads no row too
    /// many.
    UnderLimit(*mut pg_sys::Plan),
    /// The node stays as it is.
    None,
}

impl Split {
    /// `None` where no node can be put over this one.
    unsafe fn of(plan: *mut pg_sys::Plan, above: Above) -> Option<Self> {
        // SAFETY: the caller's node.
        unsafe {
            let has_text = matches!(above, Above::Aggregate(_) | Above::Table(_));
            match (*plan).type_ {
                _ if matches!(above, Above::Marks) => None,
                pg_sys::NodeTag::T_Limit => {
                    let limit = plan.cast::<pg_sys::Limit>();
                    let child = (*plan).lefttree;
                    let counts = (*limit).limitOption == pg_sys::LimitOption::LIMIT_OPTION_COUNT;
                    // Rows that an offset leaves out are computed all the same.
                    let is_plain = counts && (*limit).limitOffset.is_null();
                    if is_plain && computes_columns(child) {
                        return Some(Self::UnderLimit(child));
                    }
                    has_text.then_some(Self::None)
                }
                _ if computes_columns(plan) => {
                    let is_bound = matches!(above, Above::Bound) && leads_to_sort(plan);
                    (!is_bound).then_some(Self::Columns(plan))
                }
                pg_sys::NodeTag::T_Sort
                | pg_sys::NodeTag::T_IncrementalSort
                | pg_sys::NodeTag::T_Material
                | pg_sys::NodeTag::T_Unique
                | pg_sys::NodeTag::T_Append
                | pg_sys::NodeTag::T_MergeAppend
                | pg_sys::NodeTag::T_Gather
                | pg_sys::NodeTag::T_GatherMerge => has_text.then_some(Self::None),
                _ => None,
            }
        }
    }

    /// The node whose columns are divided.
    fn node(&self) -> Option<*mut pg_sys::Plan> {
        match *self {
            Self::Columns(node) | Self::UnderLimit(node) => Some(node),
            Self::None => None,
        }
    }

    /// Whether what stays below may be read ahead.
    unsafe fn is_calm(&self, plan: *mut pg_sys::Plan) -> bool {
        // SAFETY: nodes of a finished plan. The limit's own columns are those of the node below it.
        unsafe {
            match *self {
                Self::Columns(node) => calm::is_calm_below(node) && has_calm_leaves(node),
                Self::UnderLimit(node) => {
                    let limit = plan.cast::<pg_sys::Limit>();
                    calm::is_steady((*limit).limitCount)
                        && calm::is_calm_below(node)
                        && has_calm_leaves(node)
                }
                Self::None => calm::is_calm(plan),
            }
        }
    }
}

/// Whether a node computes any columns, of its relation's or its children's, and nothing else of it
/// counts on their places.
unsafe fn computes_columns(plan: *mut pg_sys::Plan) -> bool {
    // SAFETY: null or the caller's node.
    unsafe {
        if plan.is_null() {
            return false;
        }
        match (*plan).type_ {
            pg_sys::NodeTag::T_SeqScan
            | pg_sys::NodeTag::T_SampleScan
            | pg_sys::NodeTag::T_BitmapHeapScan
            | pg_sys::NodeTag::T_TidScan
            | pg_sys::NodeTag::T_TidRangeScan
            | pg_sys::NodeTag::T_SubqueryScan
            | pg_sys::NodeTag::T_FunctionScan
            | pg_sys::NodeTag::T_ValuesScan
            | pg_sys::NodeTag::T_CteScan
            | pg_sys::NodeTag::T_NestLoop
            | pg_sys::NodeTag::T_MergeJoin
            | pg_sys::NodeTag::T_HashJoin
            | pg_sys::NodeTag::T_Agg
            | pg_sys::NodeTag::T_Group => true,
            pg_sys::NodeTag::T_Result => !(*plan).lefttree.is_null(),
            // A column may ask such a scan about the row that it has just returned.
            pg_sys::NodeTag::T_IndexScan => {
                (*plan.cast::<pg_sys::IndexScan>()).indexorderby.is_null()
            }
            pg_sys::NodeTag::T_IndexOnlyScan => {
                (*plan.cast::<pg_sys::IndexOnlyScan>()).indexorderby.is_null()
            }
            _ => false,
        }
    }
}

/// Whether a sort is reached by the number of rows that is asked for, which a node in between would keep
/// from it.
unsafe fn leads_to_sort(plan: *mut pg_sys::Plan) -> bool {
    // SAFETY: null or the caller's node.
    unsafe {
        if plan.is_null() {
            return false;
        }
        let any = |list| elements::<pg_sys::Plan>(list).any(|plan| leads_to_sort(plan));
        match (*plan).type_ {
            pg_sys::NodeTag::T_Sort | pg_sys::NodeTag::T_IncrementalSort => true,
            pg_sys::NodeTag::T_Result
            | pg_sys::NodeTag::T_Gather
            | pg_sys::NodeTag::T_GatherMerge => leads_to_sort((*plan).lefttree),
            pg_sys::NodeTag::T_SubqueryScan => {
                leads_to_sort((*plan.cast::<pg_sys::SubqueryScan>()).subplan)
            }
            pg_sys::NodeTag::T_Append => any((*plan.cast::<pg_sys::Append>()).appendplans),
            pg_sys::NodeTag::T_MergeAppend => any((*plan.cast::<pg_sys::MergeAppend>()).mergeplans),
            _ => false,
        }
    }
}

/// What a column is made of and only the node itself can compute.
unsafe fn is_leaf(node: *mut pg_sys::Node) -> bool {
    // SAFETY: the caller's node.
    unsafe {
        matches!(
            (*node).type_,
            pg_sys::NodeTag::T_Var | pg_sys::NodeTag::T_Aggref | pg_sys::NodeTag::T_GroupingFunc
        )
    }
}

unsafe fn has_calm_leaves(plan: *mut pg_sys::Plan) -> bool {
    // SAFETY: the caller's node; the walk changes nothing.
    unsafe {
        !tree::any((*plan).targetlist.cast(), &mut |node| is_leaf(node) && !calm::is_steady(node))
    }
}

/// The columns that the new node reads, as they are asked for.
struct Columns<'a> {
    split: &'a Split,
    /// The node that the new one is put over.
    plan: *mut pg_sys::Plan,
    /// In terms of the node that computes them.
    columns: Vec<*mut pg_sys::Node>,
}

impl Columns<'_> {
    /// The new node's name for what a column of the divided node is made of.
    unsafe fn leaf(&mut self, leaf: *mut pg_sys::Node) -> Option<*mut pg_sys::Node> {
        // SAFETY: an expression of the divided node.
        unsafe {
            if !is_leaf(leaf) {
                return None;
            }
            let known =
                self.columns.iter().position(|&other| pg_sys::equal(other.cast(), leaf.cast()));
            let at = known.unwrap_or_else(|| {
                self.columns.push(tree::copy(leaf));
                self.columns.len() - 1
            });
            Some(variable(pg_sys::INDEX_VAR, at, leaf))
        }
    }

    /// An expression of what is below the new node for a column that the node above reads.
    unsafe fn of_output(&mut self, var: *mut pg_sys::Node) -> Option<*mut pg_sys::Node> {
        // SAFETY: an expression of the node above.
        unsafe {
            let at = output_column(var)?;
            let mut expr = column(self.plan, at)?;
            match *self.split {
                Split::None => return Some(variable(pg_sys::INDEX_VAR, at, expr)),
                Split::UnderLimit(node) => expr = column(node, output_column(expr)?)?,
                Split::Columns(_) => {}
            }
            calls::translated(expr, &mut |leaf| self.leaf(leaf))
        }
    }

    /// The new node, over the one that it is put over.
    unsafe fn build(mut self, texts: &[Call], id: c_int) -> *mut pg_sys::Plan {
        // SAFETY: makes nodes in the current memory context, and changes the caller's own plan.
        unsafe {
            let plan = self.plan;
            let targetlist = match self.split.node() {
                Some(node) => {
                    let own = (*node).targetlist;
                    let above = tree::replace(own.cast(), &mut |leaf| self.leaf(leaf));
                    (*node).targetlist = entries(self.columns.iter().map(|&column| column.cast()));
                    above.cast()
                }
                None => {
                    let own = elements::<pg_sys::TargetEntry>((*plan).targetlist);
                    self.columns = own.map(|entry| (*entry).expr.cast()).collect();
                    passed_on((*plan).targetlist)
                }
            };
            let read: Vec<_> = self.columns.iter().enumerate().collect();
            let read = read.iter().map(|&(at, &expr)| variable(pg_sys::OUTER_VAR, at, expr).cast());
            let read: Vec<*mut pg_sys::Expr> = read.collect();
            if let Split::UnderLimit(_) = self.split {
                (*plan).targetlist = entries(read.iter().map(|&var| tree::copy(var)));
            }
            let scan = node::plan(texts);
            (*scan).custom_scan_tlist = entries(read.into_iter());
            let new = &raw mut (*scan).scan.plan;
            (*new).targetlist = targetlist;
            (*new).lefttree = plan;
            (*new).plan_node_id = id;
            (*new).startup_cost = (*plan).startup_cost;
            (*new).total_cost = (*plan).total_cost;
            (*new).plan_rows = (*plan).plan_rows;
            (*new).plan_width = (*plan).plan_width;
            (*new).parallel_safe = (*plan).parallel_safe;
            // As the planner does where it puts a node over a finished plan.
            (*new).initPlan = std::mem::replace(&mut (*plan).initPlan, null_mut());
            (*new).extParam = pg_sys::bms_copy((*plan).extParam);
            (*new).allParam = pg_sys::bms_copy((*plan).allParam);
            new
        }
    }
}

/// A column list that hands every column on; constants stay constants, which an INSERT checks.
unsafe fn passed_on(list: *mut pg_sys::List) -> *mut pg_sys::List {
    // SAFETY: makes a list of copies in the current memory context.
    unsafe {
        let list = tree::copy(list);
        for (at, entry) in elements::<pg_sys::TargetEntry>(list).enumerate() {
            let expr = (*entry).expr.cast::<pg_sys::Node>();
            if (*expr).type_ != pg_sys::NodeTag::T_Const {
                (*entry).expr = variable(pg_sys::INDEX_VAR, at, expr).cast();
            }
        }
        list
    }
}

unsafe fn entries(exprs: impl Iterator<Item = *mut pg_sys::Expr>) -> *mut pg_sys::List {
    // SAFETY: makes a list in the current memory context.
    unsafe {
        let mut list = null_mut();
        for (at, expr) in exprs.enumerate() {
            let entry = pg_sys::makeTargetEntry(expr, at as i16 + 1, null_mut(), false);
            list = pg_sys::lappend(list, entry.cast());
        }
        list
    }
}

/// A variable for a column, counted from 0, of the type of what it stands for.
unsafe fn variable(of: i32, at: usize, expr: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: makes a node in the current memory context.
    unsafe {
        pg_sys::makeVar(
            of as c_int,
            at as i16 + 1,
            pg_sys::exprType(expr),
            pg_sys::exprTypmod(expr),
            pg_sys::exprCollation(expr),
            0,
        )
        .cast()
    }
}

/// Which column of the node below a variable is, counted from 0.
unsafe fn output_column(node: *mut pg_sys::Node) -> Option<usize> {
    // SAFETY: the caller's node.
    unsafe {
        let var = node.cast::<pg_sys::Var>();
        let is_column = (*node).type_ == pg_sys::NodeTag::T_Var
            && i64::from((*var).varno) == i64::from(pg_sys::OUTER_VAR);
        if !is_column {
            return None;
        }
        usize::try_from((*var).varattno).ok()?.checked_sub(1)
    }
}

/// What a node computes as a column.
unsafe fn column(plan: *mut pg_sys::Plan, at: usize) -> Option<*mut pg_sys::Node> {
    // SAFETY: a plan's columns are target entries.
    unsafe {
        elements::<pg_sys::TargetEntry>((*plan).targetlist)
            .nth(at)
            .map(|entry| (*entry).expr.cast())
    }
}
