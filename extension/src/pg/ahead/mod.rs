//! Batches for calls that come row by row.
//!
//! PostgreSQL evaluates `distilface_embed(body)` for one row at a time, and one text at a time is what
//! an encoder is slowest at. So before a statement runs, a hook puts a node into its plan, above the one
//! that feeds such calls (`site`). The node reads rows ahead, embeds their texts as one batch, and hands
//! the rows on one by one (`node`). The calls are made as ever, by the same expressions for the same
//! rows; they find their vectors in the session (`crate::embed::ahead`) instead of running the encoder.
//!
//! What a statement does is the same with and without:
//! - A vector depends on its text and model alone, so one that was embedded ahead is the one that the
//!   call would have made. A text that the call never asks for is forgotten.
//! - Reading ahead begins with one row and doubles, so that a consumer that stops early has not paid for
//!   many more rows than it took; a LIMIT is never read past.
//! - Only texts made of columns, constants and functions that raise nothing are computed early
//!   (`calls`), only of rows that passed every condition below, and only over plans in which nobody can
//!   tell when a row was read (`calm`). Blank and overlong texts, an unknown model, a model that the user
//!   may not use: the call raises or counts these, when its row comes.
//! - A cursor that is scrolled or that `WHERE CURRENT OF` may name stands where its last row was: its
//!   plan is left alone, and so is what a row lock rechecks.
//!
//! The hook is that of the executor's start, since a session's first plan is made before this library is
//! loaded. The functions' support function loads it while the plan is made. Only a generated column shows
//! the planner no function: a session's first statement is then too early, unless the library was
//! preloaded. The hook changes a copy of the plan: a cached one stays as it was planned. A parallel
//! worker gets the leader's.

mod calls;
mod calm;
mod node;
mod site;
mod target;

use crate::guc;
use crate::pg::tree;
use pgrx::prelude::*;
use pgrx::{Internal, PgMemoryContexts, pg_sys};
use site::Visit;
use std::ffi::c_int;

static mut PREVIOUS: pg_sys::ExecutorStart_hook_type = None;

/// Installs the hook; called once, when the library is loaded.
pub fn install() {
    node::register();
    // SAFETY: the library is loaded once, on the backend's only thread.
    unsafe {
        PREVIOUS = pg_sys::ExecutorStart_hook;
        pg_sys::ExecutorStart_hook = Some(executor_start);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn executor_start(query: *mut pg_sys::QueryDesc, eflags: c_int) {
    // SAFETY: PostgreSQL's own argument, a finished plan that nothing runs yet. The copy lives as long
    // as the query's description.
    unsafe {
        if guc::LOOK_AHEAD.get() && is_read_forward(eflags) {
            let context = pg_sys::GetMemoryChunkContext(query.cast());
            PgMemoryContexts::For(context).switch_to(|_| {
                if site::visit((*query).plannedstmt, Visit::Count) > 0 {
                    (*query).plannedstmt = tree::copy((*query).plannedstmt);
                    site::visit((*query).plannedstmt, Visit::Change);
                    // Its cost is the encoder's, which no compiled expression makes less.
                    (*(*query).plannedstmt).jitFlags = pg_sys::PGJIT_NONE as c_int;
                }
            });
        }
        match PREVIOUS {
            Some(previous) => previous(query, eflags),
            None => pg_sys::standard_ExecutorStart(query, eflags),
        }
    }
}

/// Whether a statement's rows are taken once, from first to last, in this process: it is no cursor's (a portal
/// with a name that `pg_cursors` shows) and no part of a parallel one.
fn is_read_forward(eflags: c_int) -> bool {
    // SAFETY: reads this backend's own state; a portal's name is a string.
    unsafe {
        let portal = pg_sys::ActivePortal;
        let is_cursor = !portal.is_null() && (*portal).visible && *(*portal).name != 0;
        !is_cursor
            && eflags & pg_sys::EXEC_FLAG_BACKWARD as c_int == 0
            && pg_sys::ParallelWorkerNumber < 0
    }
}

/// The support function of the functions that embed; to be called is all it is for. A null pointer says that
/// it has nothing to say.
#[pg_extern(sql = false)]
fn distilface_support(_request: Internal) -> Internal {
    Internal::from(Some(pg_sys::Datum::from(0_usize)))
}
