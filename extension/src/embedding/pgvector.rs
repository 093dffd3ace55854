//! `distilface_enable_pgvector()`: casts between `embedding` and pgvector's `vector`, operators on a
//! pair of both, and operator classes that index its types with `distilface_hnsw`.
//!
//! The objects belong to the database and not to this extension, since pgvector is never required:
//! `pg_dump` dumps them, and `DROP EXTENSION vector CASCADE` removes them. The operator classes have
//! pgvector's own names, so `USING hnsw (v vector_cosine_ops)` needs one word changed. Every name is
//! qualified, whatever the search path. A second call adds what is missing, such as the classes of a
//! newer pgvector's types.

use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use pgrx::spi::{self, Spi, quote_identifier};
use pgrx::{pg_extern, pg_sys};

use crate::pg::report::Report;

#[pg_extern(sql = false)]
fn distilface_enable_pgvector() {
    // SAFETY: reads who runs the function.
    if !unsafe { pg_sys::superuser() } {
        Report::new(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "permission denied to enable pgvector",
        )
        .detail("Binary-coercible casts and operator classes are for superusers to create.")
        .hint("Ask a superuser to run SELECT distilface_enable_pgvector() in this database.")
        .raise()
    }
    if let Err(error) = enable() {
        Report::new(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, "could not enable pgvector")
            .detail(format!("{error}."))
            .raise()
    }
}

fn enable() -> Result<(), spi::Error> {
    let Some(theirs) = extension_schema("vector")? else {
        Report::new(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, "extension \"vector\" does not exist")
            .hint("Run CREATE EXTENSION vector first.")
            .raise()
    };
    let Some(ours) = extension_schema("distilface")? else {
        Report::new(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            "extension \"distilface\" does not exist",
        )
        .raise()
    };
    let (embedding, vector) = (format!("{ours}.embedding"), format!("{theirs}.vector"));
    create_cast(&embedding, &vector, "IMPLICIT")?;
    create_cast(&vector, &embedding, "ASSIGNMENT")?;
    const METRICS: [(&str, &str); 4] =
        [("l2", "<->"), ("ip", "<#>"), ("cosine", "<=>"), ("l1", "<+>")];
    for (metric, operator) in METRICS {
        create_mixed_operators(&ours, &embedding, &vector, metric, operator)?;
    }
    for (type_name, support) in [("vector", "embedding"), ("halfvec", "halfvec")] {
        for (metric, operator) in METRICS {
            let function = format!("{ours}.{support}_hnsw_{metric}");
            create_operator_class(&ours, &theirs, type_name, metric, operator, &function)?;
        }
    }
    Ok(())
}

/// The schema that an extension's objects are in, quoted.
fn extension_schema(name: &str) -> Result<Option<String>, spi::Error> {
    let schema = Spi::connect(|client| {
        client
            .select(
                "SELECT n.nspname::text FROM pg_catalog.pg_extension e \
                 JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace \
                 WHERE e.extname OPERATOR(pg_catalog.=) $1::name",
                Some(1),
                &[name.into()],
            )?
            .next()
            .map(|row| row.get::<String>(1))
            .transpose()
    })?;
    Ok(schema.flatten().map(quote_identifier))
}

fn create_cast(source: &str, target: &str, context: &str) -> Result<(), spi::Error> {
    let present = exists(
        "SELECT FROM pg_catalog.pg_cast \
         WHERE castsource OPERATOR(pg_catalog.=) $1::regtype::oid \
         AND casttarget OPERATOR(pg_catalog.=) $2::regtype::oid",
        &[source, target],
    )?;
    if present {
        return Ok(());
    }
    Spi::run(&format!("CREATE CAST ({source} AS {target}) WITHOUT FUNCTION AS {context}"))
}

/// Creates the operator between the two types, in both orders, unless it is there. Without it a mixed
/// pair could mean pgvector's operator or ours with `real[]`, since both types turn into an array by
/// themselves. The planner puts the body in the call's place, so that an index on the column serves it.
fn create_mixed_operators(
    ours: &str,
    embedding: &str,
    vector: &str,
    metric: &str,
    operator: &str,
) -> Result<(), spi::Error> {
    for (left, right, name, body) in [
        (
            embedding,
            vector,
            "embedding_vector",
            format!("$1 OPERATOR({ours}.{operator}) $2::{embedding}"),
        ),
        (
            vector,
            embedding,
            "vector_embedding",
            format!("$2 OPERATOR({ours}.{operator}) $1::{embedding}"),
        ),
    ] {
        let signature = format!("{ours}.{operator}({left},{right})");
        if exists("SELECT WHERE pg_catalog.to_regoperator($1) IS NOT NULL", &[&signature])? {
            continue;
        }
        let function = format!("{ours}.{name}_{metric}_distance");
        Spi::run(&format!(
            "CREATE OR REPLACE FUNCTION {function}({left}, {right}) RETURNS pg_catalog.float8 \
             LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS 'SELECT {body}'"
        ))?;
        Spi::run(&format!(
            "CREATE OPERATOR {ours}.{operator} (LEFTARG = {left}, RIGHTARG = {right}, FUNCTION = {function})"
        ))?;
    }
    Ok(())
}

/// Creates the class unless it is there or this pgvector lacks its type or operator.
fn create_operator_class(
    ours: &str,
    theirs: &str,
    type_name: &str,
    metric: &str,
    operator: &str,
    function: &str,
) -> Result<(), spi::Error> {
    let indexed = format!("{theirs}.{type_name}");
    let signature = format!("{theirs}.{operator}({indexed},{indexed})");
    if !exists("SELECT WHERE pg_catalog.to_regoperator($1) IS NOT NULL", &[&signature])? {
        return Ok(());
    }
    let class = format!("{type_name}_{metric}_ops");
    let present = exists(
        "SELECT FROM pg_catalog.pg_opclass c \
         JOIN pg_catalog.pg_am a ON a.oid OPERATOR(pg_catalog.=) c.opcmethod \
         WHERE a.amname OPERATOR(pg_catalog.=) 'distilface_hnsw' \
         AND c.opcname OPERATOR(pg_catalog.=) $1::name \
         AND c.opcintype OPERATOR(pg_catalog.=) $2::regtype::oid",
        &[&class, &indexed],
    )?;
    if present {
        return Ok(());
    }
    let default = if metric == "cosine" { "DEFAULT" } else { "" };
    Spi::run(&format!(
        "CREATE OPERATOR CLASS {ours}.{class} {default} FOR TYPE {indexed} USING distilface_hnsw AS \
         OPERATOR 1 {theirs}.{operator} ({indexed}, {indexed}) FOR ORDER BY pg_catalog.float_ops, \
         FUNCTION 1 {function}(internal)"
    ))
}

fn exists(query: &str, arguments: &[&str]) -> Result<bool, spi::Error> {
    let arguments: Vec<_> = arguments.iter().map(|&argument| argument.into()).collect();
    Spi::connect(|client| Ok(!client.select(query, Some(1), &arguments)?.is_empty()))
}
