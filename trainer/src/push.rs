//! `distilface-train push`: a model into a database, through a large object.
//!
//! Everything is one transaction: the packed model goes up in parts, the server checks it and copies
//! it into its tables, and the large object is removed. Where anything fails, nothing stays behind.

use std::path::{Path, PathBuf};

use distilface_core::model::Packed;
use postgres::Transaction;

use crate::connect::connect;
use crate::embedder::{AlignedBlock, read_model};
use crate::error::Error;

#[derive(clap::Args)]
pub struct Arguments {
    /// A model directory, or a packed model
    model: PathBuf,
    /// postgres://user@host:port/database, with ?sslmode=verify-full where the network is not to be
    /// trusted; the password may be in it or in PGPASSWORD
    #[arg(value_name = "URL")]
    database: String,
    /// The model's name in the database [default: as its manifest says]
    #[arg(long)]
    name: Option<String>,
    /// Let the role, or public, use the model; may be repeated
    #[arg(long, value_name = "ROLE")]
    grant: Vec<String>,
    /// Make calls without a model use it
    #[arg(long)]
    default: bool,
}

/// Bytes that go up in one statement.
const PART: usize = 1 << 20;

pub fn run(arguments: Arguments) -> Result<(), Error> {
    let block = AlignedBlock::new(&read_model(&arguments.model, None)?);
    let packed = Packed::open(block.bytes())?;
    packed.verify()?;
    let manifest = packed.manifest()?;
    let name = arguments.name.unwrap_or(manifest.name);
    distilface_core::model::check_name(&name)?;

    let mut client = connect(&arguments.database, "distilface-train push")?;
    let mut transaction = client.transaction()?;
    let schema = extension_schema(&mut transaction)?;
    let large_object: u32 = transaction.query_one("SELECT pg_catalog.lo_create(0)", &[])?.get(0);
    let put = transaction.prepare("SELECT pg_catalog.lo_put($1, $2, $3)")?;
    let mut sent = 0;
    for part in packed.bytes().chunks(PART) {
        transaction.execute(&put, &[&large_object, &(sent as i64), &part])?;
        sent += part.len();
        eprint!(
            "\r{name}: {:.1} of {:.1} MB",
            sent as f64 / 1e6,
            packed.bytes().len() as f64 / 1e6
        );
    }
    eprintln!();
    let import = format!("SELECT {schema}.distilface_model_import($1, $2)");
    let revision: String = transaction.query_one(&import, &[&name, &large_object])?.get(0);
    transaction.execute("SELECT pg_catalog.lo_unlink($1)", &[&large_object])?;
    for role in &arguments.grant {
        let grant = format!("SELECT {schema}.distilface_model_grant($1, $2)");
        transaction.execute(&grant, &[&name, role])?;
    }
    if arguments.default {
        let alias = format!("SELECT {schema}.distilface_model_alias('default', $1)");
        transaction.execute(&alias, &[&name])?;
    }
    transaction.commit()?;
    println!("model \"{name}\" of revision {revision} is in the database");
    Ok(())
}

/// The schema of the extension's functions, quoted.
fn extension_schema(transaction: &mut Transaction) -> Result<String, Error> {
    let row = transaction.query_opt(
        "SELECT pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_extension e
           JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace
          WHERE e.extname OPERATOR(pg_catalog.=) 'distilface'",
        &[],
    )?;
    let row = row.ok_or_else(|| {
        Error::missing(Path::new("the database"), "the extension (CREATE EXTENSION distilface)")
    })?;
    Ok(row.get(0))
}
