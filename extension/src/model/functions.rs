//! The SQL functions on models; `sql/models.sql` declares them.

use super::load::{self, fail, text};
use super::{access, copy, registry};
use crate::pg::owner::as_models_owner;
use crate::pg::report::Report;
use crate::pg::text::to_utf8;
use crate::pg::{roles, table};
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use pgrx::prelude::*;
use pgrx::spi::SpiResult;
use pgrx::{Internal, pg_sys};
use std::path::Path;

#[pg_extern(sql = false)]
fn distilface_model_load(name: &[u8], directory: &[u8]) -> String {
    access::require_loading();
    load::from_directory(&to_utf8(name), Path::new(&*to_utf8(directory)))
}

#[pg_extern(sql = false)]
fn distilface_model_import(name: &[u8], packed: pg_sys::Oid) -> String {
    access::require_loading();
    load::from_large_object(&to_utf8(name), packed)
}

#[pg_extern(sql = false)]
fn distilface_model_alias(alias: &[u8], name: &[u8]) {
    access::require_aliasing();
    let (alias, name) = (to_utf8(alias), to_utf8(name));
    if alias != registry::DEFAULT {
        Report::new(PgSqlErrorCode::ERRCODE_INVALID_NAME, format!("\"{alias}\" cannot be an alias"))
            .detail("The one alias is \"default\", which calls without a model follow.")
            .raise()
    }
    // The user's right to the model, and a copy of a built-in one.
    let model = registry::by_name(&name);
    if model.manifest().head.is_some() {
        Report::new(
            PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            format!("model \"{name}\" is a cross-encoder, which does not embed"),
        )
        .raise()
    }
    super::keep(model);
    write(|| {
        Spi::run_with_args(
            "INSERT INTO distilface.model_alias VALUES ($1, $2) \
             ON CONFLICT (alias) DO UPDATE SET name = excluded.name",
            &[text(&alias), text(&name)],
        )?;
        // From here on the alias moves, and no restore brings it.
        Spi::run("DELETE FROM distilface.unfilled WHERE filled")
    });
    let stored = registry::stored(&name);
    if stored.is_some_and(|model| !model.builtin) && !access::is_public(&name) {
        Report::new(
            PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
            format!("model \"{name}\" is not granted to public"),
        )
        .detail("Roles that may not use it get an error from calls without a model.")
        .hint(format!("SELECT distilface_model_grant('{name}', 'public');"))
        .notice();
    }
}

#[pg_extern(sql = false)]
fn distilface_model_drop(name: &[u8]) {
    let name = to_utf8(name);
    let Some(model) = registry::stored(&name).filter(|model| model.sha256.is_some()) else {
        if registry::library_model(&name).is_some() {
            Report::new(
                PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
                format!("model \"{name}\" is built in and cannot be dropped"),
            )
            .raise()
        }
        registry::refuse_unknown(&name)
    };
    if model.builtin {
        // Its copy: what a later library may lack.
        if !roles::is_superuser() {
            access::require_ownership(&name);
        }
    } else {
        access::require_ownership(&name);
    }
    let dropped = as_models_owner(|| {
        Spi::get_one_with_args::<String>("SELECT distilface.drop_model($1)", &[text(&name)])
    });
    match dropped {
        // Also right where the transaction aborts: a copy is made again when it is needed.
        Some(Ok(Some(sha256))) => copy::remove(&sha256),
        Some(Ok(None)) => {}
        Some(Err(error)) => fail(&error.to_string()),
        None => registry::refuse_unknown(&name),
    }
}

#[pg_extern(sql = false)]
fn distilface_model_grant(name: &[u8], role: &[u8]) {
    let name = to_utf8(name);
    let role = grantee(&name, role);
    write(|| {
        Spi::run_with_args(
            "INSERT INTO distilface.model_role VALUES ($1, $2::oid, false) ON CONFLICT DO NOTHING",
            &[text(&name), oid(role)],
        )
    });
}

#[pg_extern(sql = false)]
fn distilface_model_revoke(name: &[u8], role: &[u8]) {
    let name = to_utf8(name);
    let role = grantee(&name, role);
    write(|| {
        Spi::run_with_args(
            "DELETE FROM distilface.model_role WHERE name = $1 AND role = $2::oid AND NOT owns",
            &[text(&name), oid(role)],
        )
    });
}

#[pg_extern(sql = false)]
fn distilface_model_owner(name: &[u8], role: &[u8]) {
    let name = to_utf8(name);
    let role = grantee(&name, role);
    if role == pg_sys::InvalidOid {
        Report::new(PgSqlErrorCode::ERRCODE_INVALID_GRANT_OPERATION, "public cannot own a model")
            .hint("distilface_model_grant(model, 'public') lets everybody use it.")
            .raise()
    }
    roles::require_becoming(role);
    write(|| {
        Spi::run_with_args(
            "DELETE FROM distilface.model_role WHERE name = $1 AND (owns OR role = $2::oid)",
            &[text(&name), oid(role)],
        )?;
        Spi::run_with_args(
            "INSERT INTO distilface.model_role VALUES ($1, $2::oid, true)",
            &[text(&name), oid(role)],
        )
    });
}

/// The role that a grant names, once the user is found to own the loaded model.
fn grantee(name: &str, role: &[u8]) -> pg_sys::Oid {
    let stored = registry::stored(name).filter(|model| model.sha256.is_some());
    let builtin = stored.as_ref().map_or(registry::library_model(name).is_some(), |m| m.builtin);
    if builtin {
        Report::new(
            PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            format!("model \"{name}\" is built in"),
        )
        .detail("Everybody may use it.")
        .raise()
    }
    if stored.is_none() {
        registry::refuse_unknown(name);
    }
    access::require_ownership(name);
    roles::by_name(role)
}

#[pg_extern(sql = false)]
fn distilface_keep_model(name: &[u8]) {
    let name = to_utf8(name);
    super::keep(registry::by_name(&name));
    // What was kept may be another name of the same revision.
    registry::by_name(&name);
}

/// The library's models: name, revision, bytes, manifest, place.
#[pg_extern(sql = false)]
fn distilface_library_models() -> TableIterator<
    'static,
    (
        name!(name, String),
        name!(revision, String),
        name!(bytes, i64),
        name!(manifest, String),
        name!(place, i32),
    ),
> {
    let rows = registry::library().zip(0..).filter_map(|(id, place)| {
        let builtin = id.builtin()?;
        let manifest = id.manifest().to_json();
        Some((
            builtin.name.to_owned(),
            id.revision().to_owned(),
            builtin.packed.len() as i64,
            String::from_utf8_lossy(&manifest).into_owned(),
            place,
        ))
    });
    TableIterator::new(rows.collect::<Vec<_>>())
}

/// The trigger on the tables of models: tells every backend to look names up again.
#[pg_extern(sql = false)]
fn distilface_models_changed() -> Internal {
    if let Some(model) = table::oid_of(c"model") {
        table::invalidate(model);
    }
    // A trigger's result is never NULL; after a statement, nobody looks at it.
    Internal::from(Some(pg_sys::Datum::from(0usize)))
}

/// An oid as a bigint: pgrx makes NULL of the invalid one, which stands for every role.
fn oid(role: pg_sys::Oid) -> DatumWithOid<'static> {
    i64::from(role.to_u32()).into()
}

fn write(work: impl FnOnce() -> SpiResult<()>) {
    match as_models_owner(work) {
        Some(Ok(())) => {}
        Some(Err(error)) => fail(&error.to_string()),
        None => fail("the table distilface.model is not there"),
    }
}
