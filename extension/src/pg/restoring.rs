//! Whether the session restores a dump.

use pgrx::pg_sys;
use std::ffi::CStr;

/// Whether the session has the settings that every dump begins with, and no others use together.
/// `distilface.restoring()` asks the same of a client's own statement.
pub fn is_restoring() -> bool {
    // SAFETY: reads this backend's settings; the path is null or a NUL-terminated string.
    unsafe {
        let path = pg_sys::namespace_search_path;
        // PostgreSQL 17 restricts the path while it makes an index.
        let bare = !path.is_null() && [c"", c"pg_catalog, pg_temp"].contains(&CStr::from_ptr(path));
        bare && !pg_sys::check_function_bodies && !pg_sys::row_security
    }
}
