//! What a standby cannot do.

use std::ffi::CString;

use pgrx::pg_sys;

/// # Errors
/// Raises 25006 on a standby: `what` cannot be executed there.
pub fn refuse(what: &str) {
    let what = CString::new(what).unwrap_or_default();
    // SAFETY: a NUL-terminated string, copied into the error where there is one.
    unsafe { pg_sys::PreventCommandDuringRecovery(what.as_ptr()) }
}
