//! Failpoints (cargo feature `failpoints`, for tests): named moments of a build, an insert, a vacuum or a scan
//! at which a session fails, panics, is canceled or waits.
//!
//! `SET distilface.failpoint = 'insert wrote its node=error'`: at that moment the statement ends by an error;
//! `panic` ends it by a Rust panic, `cancel` as a user's cancel would, and `wait` stops it until whoever holds
//! the advisory lock 7391 lets go of it. The setting acts on its own session. Extensions that are installed
//! for use have neither the setting nor the code.

use super::report::Report;
use pgrx::pg_sys;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};
use std::ffi::CString;

static FAILPOINT: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// The advisory lock that a waiting session waits for.
const LOCK: i64 = 7391;

/// Registers the setting; called once, when the library is loaded.
pub fn define() {
    GucRegistry::define_string_guc(
        c"distilface.failpoint",
        c"A named moment and what happens there: NAME=error, panic, cancel or wait.",
        c"For tests.",
        &FAILPOINT,
        GucContext::Suset,
        GucFlags::default(),
    );
}

/// Does what the setting says of this moment.
pub fn reached(name: &'static str) {
    let Some(setting) = FAILPOINT.get() else { return };
    let setting = setting.to_string_lossy();
    let Some(action) = setting.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')) else {
        return;
    };
    match action {
        "error" => Report::new(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            format!("failpoint \"{name}\" was reached"),
        )
        .raise(),
        "panic" => panic!("failpoint \"{name}\" was reached"),
        // SAFETY: what the signal handler of a cancel does, then what it asks for.
        "cancel" => unsafe {
            pg_sys::QueryCancelPending = 1;
            pg_sys::InterruptPending = 1;
            super::interrupts::check();
        },
        // SAFETY: takes and releases a lock by PostgreSQL's own functions; an error of theirs ends the
        // statement.
        "wait" => unsafe {
            let key = Some(pg_sys::Datum::from(LOCK));
            pgrx::direct_function_call::<()>(pg_sys::pg_advisory_lock_shared_int8, &[key]);
            pgrx::direct_function_call::<bool>(pg_sys::pg_advisory_unlock_shared_int8, &[key]);
        },
        _ => Report::new(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("\"{action}\" is no action of a failpoint"),
        )
        .raise(),
    }
}
