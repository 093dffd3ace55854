//! Acting as another role: maintenance of a table runs with its owner's rights, whoever asked.
//!
//! As for `VACUUM` and `CREATE INDEX`, the change is a security-restricted operation: code of the
//! table's owner (triggers, index expressions) cannot leave the role, nor put work off to a moment
//! when the asking role is back. Settings that it changes are put back at the end.

use pgrx::pg_sys;

/// Runs `work` as `role`. An error ends the (sub)transaction, which puts the role back by itself.
pub fn act_as<T>(role: pg_sys::Oid, work: impl FnOnce() -> T) -> T {
    let mut user = pg_sys::InvalidOid;
    let mut context = 0;
    // SAFETY: saves and restores this backend's own state, in PostgreSQL's own pattern.
    let nest_level = unsafe {
        pg_sys::GetUserIdAndSecContext(&raw mut user, &raw mut context);
        let restricted =
            pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION;
        pg_sys::SetUserIdAndSecContext(role, context | restricted as i32);
        pg_sys::NewGUCNestLevel()
    };
    let result = work();
    // SAFETY: the level and the role from above.
    unsafe {
        pg_sys::AtEOXact_GUC(false, nest_level);
        pg_sys::SetUserIdAndSecContext(user, context);
    }
    result
}

/// Runs `work` with output that is the same, and reads back the same, under any settings: ISO dates in
/// UTC, exact fractions, qualified names. SQL functions that write keys, or compare them, pin the same
/// settings.
pub fn with_plain_output<T>(work: impl FnOnce() -> T) -> T {
    let settings = [
        (c"datestyle", c"ISO"),
        (c"intervalstyle", c"postgres"),
        (c"extra_float_digits", c"3"),
        (c"timezone", c"UTC"),
        (c"bytea_output", c"hex"),
        (c"lc_monetary", c"C"),
        (c"search_path", c"pg_catalog"),
    ];
    // SAFETY: PostgreSQL's own pattern for settings that last for a moment (postgres_fdw's
    // set_transmission_modes); an error's end of (sub)transaction puts them back as well.
    unsafe {
        let nest_level = pg_sys::NewGUCNestLevel();
        for (name, value) in settings {
            pg_sys::set_config_option(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                0,
                false,
            );
        }
        let result = work();
        pg_sys::AtEOXact_GUC(true, nest_level);
        result
    }
}
