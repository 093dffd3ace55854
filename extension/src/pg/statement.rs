//! What is told once a statement: counts that calls add up and the end of the statement reports.
//!
//! The executor's end hook reports for queries; a transaction callback reports what utility
//! statements (COPY, CREATE INDEX) left, and forgets the counts of an aborted one.

use super::report::Report;
use pgrx::pg_sys;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use std::cell::Cell;

thread_local! {
    static TRUNCATED: Cell<u64> = const { Cell::new(0) };
}

static mut PREVIOUS_EXECUTOR_END: pg_sys::ExecutorEnd_hook_type = None;

/// Counts texts that were cut to the model's length; the statement's end says how many.
pub fn count_truncated(texts: u64) {
    TRUNCATED.with(|count| count.set(count.get().saturating_add(texts)));
}

/// Installs the hooks; called once, when the library is loaded.
pub fn install() {
    // SAFETY: the library is loaded once, on the backend's only thread.
    unsafe {
        PREVIOUS_EXECUTOR_END = pg_sys::ExecutorEnd_hook;
        pg_sys::ExecutorEnd_hook = Some(executor_end);
        pg_sys::RegisterXactCallback(Some(at_transaction_end), std::ptr::null_mut());
    }
}

/// Whether the statement under way is in a transaction block: after `BEGIN`, or one of several in a string.
pub fn in_block() -> bool {
    // SAFETY: reads this backend's own state.
    unsafe { pg_sys::IsTransactionBlock() }
}

/// The number of the transaction, which it gets here if it has none, and which no other one has.
pub fn transaction() -> u64 {
    // SAFETY: a transaction is under way wherever SQL runs.
    unsafe { pg_sys::GetTopFullTransactionId().value }
}

fn report_truncated() {
    let count = TRUNCATED.with(|count| count.replace(0));
    if count > 0 {
        let texts = if count == 1 { "text was" } else { "texts were" };
        Report::new(
            PgSqlErrorCode::ERRCODE_WARNING,
            format!("{count} {texts} longer than the model reads and cut"),
        )
        .hint(
            "Split long texts, or set distilface.on_overflow to silent or error. \
             distilface_token_count(text) tells a text's length.",
        )
        .warn();
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn executor_end(query: *mut pg_sys::QueryDesc) {
    // SAFETY: calls on what was installed before, with PostgreSQL's own argument.
    unsafe {
        match PREVIOUS_EXECUTOR_END {
            Some(previous) => previous(query),
            None => pg_sys::standard_ExecutorEnd(query),
        }
    }
    report_truncated();
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn at_transaction_end(
    event: pg_sys::XactEvent::Type,
    _arg: *mut std::ffi::c_void,
) {
    match event {
        pg_sys::XactEvent::XACT_EVENT_PRE_COMMIT => report_truncated(),
        pg_sys::XactEvent::XACT_EVENT_ABORT => TRUNCATED.with(|count| count.set(0)),
        _ => {}
    }
}
