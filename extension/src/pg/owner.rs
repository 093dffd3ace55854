//! Writing the extension's own tables with their owner's rights.

use super::table;
use pgrx::pg_sys;
use std::ffi::CStr;

/// Runs `work`, SQL as a rule, as the owner of the extension's tables, with nothing of the user's on
/// the search path. PostgreSQL undoes both where an error ends the transaction.
///
/// The caller has checked what the user may do.
pub fn as_owner<T>(owner: pg_sys::Oid, work: impl FnOnce() -> T) -> T {
    // A build runs inside a security-restricted operation, which forbids no INSERT.
    let flags = pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_NOFORCE_RLS;
    with_snapshot(|| switched(owner, flags, work))
}

/// Runs `work` with a snapshot to run SQL by. There is one but where a commit empties temporary tables
/// and builds their indexes anew.
fn with_snapshot<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: inside a transaction; what is pushed is popped below, or at the transaction's end where an
    // error comes between.
    unsafe {
        if pg_sys::ActiveSnapshotSet() {
            return work();
        }
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let result = work();
        pg_sys::PopActiveSnapshot();
        result
    }
}

/// Runs `work`, which evaluates a table's own expressions, as the table's owner and unable to do more
/// than evaluate: a superuser who looks at an index must not run its owner's code with his rights.
pub fn as_table_owner<T>(owner: pg_sys::Oid, work: impl FnOnce() -> T) -> T {
    switched(owner, pg_sys::SECURITY_RESTRICTED_OPERATION, work)
}

fn switched<T>(owner: pg_sys::Oid, flags: u32, work: impl FnOnce() -> T) -> T {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: saves, sets and restores this backend's user and settings, as PostgreSQL's own
    // referential integrity does; an error in between is cleaned up at the transaction's end.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        pg_sys::SetUserIdAndSecContext(owner, context | flags as i32);
        let nest_level = pg_sys::NewGUCNestLevel();
        set_search_path(c"pg_catalog, pg_temp");
        let result = work();
        pg_sys::AtEOXact_GUC(true, nest_level);
        pg_sys::SetUserIdAndSecContext(user, context);
        result
    }
}

/// As [`as_owner`], the owner being that of the table of models; for changes of it.
///
/// # Errors
/// Raises 25006 in a read-only transaction, such as every one of a standby.
pub fn as_models_owner<T>(work: impl FnOnce() -> T) -> Option<T> {
    // SAFETY: raises an error or does nothing.
    unsafe { pg_sys::PreventCommandIfReadOnly(c"a change of models".as_ptr()) };
    let table = table::oid_of(c"model")?;
    Some(as_owner(table::owner_of(table), work))
}

unsafe fn set_search_path(path: &CStr) {
    // SAFETY: the caller opened a nest level, at whose end the setting is undone.
    unsafe {
        pg_sys::set_config_option(
            c"search_path".as_ptr(),
            path.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
    }
}
