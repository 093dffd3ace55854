//! The PostgreSQL extension `distilface`: semantic search in the backend's own process.
//!
//! `pg/` alone touches PostgreSQL's C API; `embed/` turns text into vectors, `am/` is the access
//! method `distilface_hnsw`. The algorithms live in `distilface-core`.

mod embedding;
mod guc;
mod pg;

pgrx::pg_module_magic!(name, version);

pgrx::extension_sql_file!("../../sql/embedding.sql", name = "embedding");

/// Runs when a backend loads the library.
#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    guc::define();
    pg::statement::install();
}
