//! Who the user is and what he may.

use super::report::Report;
use pgrx::pg_sys;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use std::ffi::{CStr, CString};

/// The role as which the running statement acts.
pub fn current() -> pg_sys::Oid {
    // SAFETY: reads this backend's state.
    unsafe { pg_sys::GetUserId() }
}

pub fn is_superuser() -> bool {
    // SAFETY: reads the catalog's caches.
    unsafe { pg_sys::superuser() }
}

/// Whether `member` has the rights of `role`, by inheritance too.
pub fn has_rights_of(member: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    // SAFETY: reads the catalog's caches.
    unsafe { pg_sys::has_privs_of_role(member, role) }
}

/// Whether the user may read the server's files, as COPY asks.
pub fn may_read_server_files() -> bool {
    has_rights_of(current(), pg_sys::Oid::from(pg_sys::ROLE_PG_READ_SERVER_FILES))
}

/// Whether the user owns the connected database.
pub fn owns_database() -> bool {
    // SAFETY: reads the catalog's caches.
    unsafe {
        #[cfg(feature = "pg15")]
        return pg_sys::pg_database_ownercheck(pg_sys::MyDatabaseId, current());
        #[cfg(not(feature = "pg15"))]
        return pg_sys::object_ownercheck(
            pg_sys::DatabaseRelationId,
            pg_sys::MyDatabaseId,
            current(),
        );
    }
}

/// # Errors
/// Raises 42501 where the user cannot act as that role, which he would give something to.
pub fn require_becoming(role: pg_sys::Oid) {
    // SAFETY: reads the catalog's caches.
    unsafe {
        #[cfg(feature = "pg15")]
        pg_sys::check_is_member_of_role(current(), role);
        #[cfg(not(feature = "pg15"))]
        pg_sys::check_can_set_role(current(), role);
    }
}

/// The role so called; `public` is every role, told by the invalid oid.
///
/// # Errors
/// Raises 42704 where there is none.
pub fn by_name(name: &[u8]) -> pg_sys::Oid {
    if name == b"public" {
        return pg_sys::InvalidOid;
    }
    let Ok(name) = CString::new(name) else { refuse(c"") };
    // SAFETY: reads the catalog's caches.
    let role = unsafe { pg_sys::get_role_oid(name.as_ptr(), true) };
    if role == pg_sys::InvalidOid { refuse(&name) } else { role }
}

fn refuse(name: &CStr) -> ! {
    Report::new(
        PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
        format!("role \"{}\" does not exist", name.to_string_lossy()),
    )
    .raise()
}
