//! Who may use a model and who may change it.
//!
//! Everybody uses the built-in models. A loaded one is its owner's, who may grant its use; rights
//! are inherited through roles, and superusers have all. Rows of `distilface.model_role` hold them,
//! role 0 being every role.

use super::restore;
use crate::pg::report::Report;
use crate::pg::roles;
use crate::pg::table::{self, Key};
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use std::ops::ControlFlow;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Right {
    Use,
    Own,
}

/// # Errors
/// Raises 42501 where the user may not use the loaded model of that name.
pub fn require_use(name: &str) {
    if !has(name, Right::Use) {
        restore::missed();
        Report::new(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("permission denied for model \"{name}\""),
        )
        .hint("Its owner can allow it: SELECT distilface_model_grant(model, role).")
        .raise()
    }
}

/// # Errors
/// Raises 42501 where the user does not own the loaded model of that name.
pub fn require_ownership(name: &str) {
    if !has(name, Right::Own) {
        Report::new(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("must be owner of model \"{name}\""),
        )
        .raise()
    }
}

/// # Errors
/// Raises 42501 for who may not load models.
pub fn require_loading() {
    if !roles::may_read_server_files() {
        Report::new(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "permission denied to load a model",
        )
        .detail("Only roles with privileges of the \"pg_read_server_files\" role may load models.")
        .raise()
    }
}

/// # Errors
/// Raises 42501 for who may not say what `default` stands for.
pub fn require_aliasing() {
    if !roles::is_superuser() && !roles::owns_database() {
        Report::new(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "permission denied to change the default model",
        )
        .detail("Only the owner of the database and superusers may.")
        .raise()
    }
}

/// Whether every role may use the loaded model of that name.
pub fn is_public(name: &str) -> bool {
    table::find(c"model_role", c"model_role_pkey", &[1], &[Key::Text(name)], |row| {
        let public = row.oid(1) == pgrx::pg_sys::InvalidOid;
        if public { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .is_some()
}

fn has(name: &str, right: Right) -> bool {
    if roles::is_superuser() {
        return true;
    }
    let user = roles::current();
    table::find(c"model_role", c"model_role_pkey", &[1], &[Key::Text(name)], |row| {
        let (role, owns) = (row.oid(1), row.bool(2));
        let everyone = role == pgrx::pg_sys::InvalidOid;
        let granted =
            (owns || right == Right::Use) && (everyone || roles::has_rights_of(user, role));
        if granted { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .is_some()
}
