//! Rows of a PostgreSQL query: `path = "postgres://user@host/db"` with a `query`.
//!
//! Rows stream from a portal; each column is a text (or `text[]`, which gives all its texts), in
//! the order that the kind of source expects. The transaction is read only, so that a recipe cannot
//! change the database that it reads. Rows are sorted afterwards: a table has no order of its own,
//! and the same rows must give the same weights. Passwords come from `PGPASSWORD` where the address
//! has none, and are never written into the run's directory ([`without_password`]). The
//! connection is [`crate::connect`]'s, encrypted as the address asks.

use std::path::Path;

use postgres::Client;
use postgres::fallible_iterator::FallibleIterator;
use postgres::types::{Kind as TypeKind, Type};

use super::{Line, Rows, row};
use crate::connect::connect;
use crate::error::Error;
use crate::train::config::{Kind, SourceConfig};

/// Whether a path is a database's address instead of a file's.
pub fn is_address(path: &Path) -> bool {
    path.to_str()
        .is_some_and(|path| path.starts_with("postgres://") || path.starts_with("postgresql://"))
}

/// The address with what stands between user and host, or in a `password` parameter, left out.
pub fn without_password(address: &str) -> String {
    let (scheme, rest) = address.split_once("://").unwrap_or(("postgres", address));
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    let authority = match authority.rsplit_once('@') {
        Some((user, host)) => {
            let user = user.split_once(':').map_or(user, |(user, _)| user);
            format!("{user}@{host}")
        }
        None => authority.to_owned(),
    };
    let (path, parameters) = tail.split_once('?').unwrap_or((tail, ""));
    let kept: Vec<&str> = parameters
        .split('&')
        .filter(|parameter| !parameter.is_empty() && !parameter.starts_with("password="))
        .collect();
    let mark = if kept.is_empty() { "" } else { "?" };
    format!("{scheme}://{authority}{path}{mark}{}", kept.join("&"))
}

pub fn read(config: &SourceConfig, query: &str, taken: &mut Rows) -> Result<(), Error> {
    let failed = |what, source| Error::Query { place: config.place(), what, source };
    let address = config.path.to_string_lossy();
    let mut client = connect(&address, "distilface-train")
        .map_err(|error| error.at(config.place(), "connecting"))?;
    each(&mut client, config, query, taken, &failed)
}

fn each(
    client: &mut Client,
    config: &SourceConfig,
    query: &str,
    taken: &mut Rows,
    failed: &impl Fn(&'static str, postgres::Error) -> Error,
) -> Result<(), Error> {
    let transaction = client.build_transaction().read_only(true).start();
    let mut transaction = transaction.map_err(|error| failed("starting a transaction", error))?;
    let statement = transaction.prepare(query).map_err(|error| failed("the query", error))?;
    for (at, column) in statement.columns().iter().enumerate() {
        if !is_text(column.type_()) && !is_text_array(column.type_()) {
            return Err(Error::Recipe {
                field: format!("column {} ({:?}) of source.query", at + 1, column.name()),
                expected: "text or text[]; write ::text after it",
                got: column.type_().to_string(),
            });
        }
    }
    let no_values: [&str; 0] = [];
    let rows = transaction.query_raw(&statement, no_values);
    let mut rows = rows.map_err(|error| failed("the query", error))?;
    let mut number = 0;
    while let Some(found) = rows.next().map_err(|error| failed("the query", error))? {
        number += 1;
        let mut texts: Option<Vec<String>> = Some(Vec::new());
        for (at, column) in statement.columns().iter().enumerate() {
            let column: Option<Vec<Option<String>>> = if is_text(column.type_()) {
                Some(vec![found.try_get(at).map_err(|error| failed("reading a row", error))?])
            } else {
                found.try_get(at).map_err(|error| failed("reading a row", error))?
            };
            for text in column.unwrap_or_else(|| vec![None]) {
                match (text, config.kind) {
                    (Some(text), _) => texts.iter_mut().for_each(|all| all.push(text.clone())),
                    // A triplet's hard negative may be missing, and a group be shorter.
                    (None, Kind::Triplets | Kind::Groups) => {
                        texts.iter_mut().for_each(|all| all.push(String::new()));
                    }
                    (None, _) => texts = None,
                }
            }
        }
        taken.take(number, texts.map_or(Line::Malformed, |texts| row(config.kind, &texts)))?;
    }
    Ok(())
}

fn is_text(kind: &Type) -> bool {
    [Type::TEXT, Type::VARCHAR, Type::BPCHAR, Type::NAME].contains(kind)
}

fn is_text_array(kind: &Type) -> bool {
    matches!(kind.kind(), TypeKind::Array(of) if is_text(of))
}
