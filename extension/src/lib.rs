//! The PostgreSQL extension `distilface`: semantic search in the backend's own process.
//!
//! `pg/` alone touches PostgreSQL's C API; `embedding/` is the type, `embed/` turns text into vectors, `model/` has
//! the models that do it;
//! the access methods are `pg/am/` (`distilface_hnsw`) and `pg/bm25/` (`distilface_bm25`). The algorithms live in `distilface-core`.

mod embed;
mod embedding;
mod guc;
mod model;
mod pg;
mod pipeline;

pgrx::pg_module_magic!(name, version);

// A chain: pgrx is free to order what is not tied, and its order differs between builds.
pgrx::extension_sql_file!("../../sql/embedding.sql", name = "embedding");
pgrx::extension_sql_file!("../../sql/embed.sql", name = "embed", requires = ["embedding"]);
pgrx::extension_sql_file!("../../sql/models.sql", name = "models", requires = ["embed"]);
pgrx::extension_sql_file!(
    "../../sql/models_restore.sql",
    name = "models_restore",
    requires = ["models"]
);
pgrx::extension_sql_file!("../../sql/chunk.sql", name = "chunk", requires = ["models_restore"]);
pgrx::extension_sql_file!(
    "../../sql/access_method.sql",
    name = "access_method",
    requires = ["chunk"]
);
pgrx::extension_sql_file!("../../sql/hnsw.sql", name = "hnsw", requires = ["access_method"]);
pgrx::extension_sql_file!("../../sql/bm25.sql", name = "bm25", requires = ["hnsw"]);
pgrx::extension_sql_file!("../../sql/search.sql", name = "search", requires = ["bm25"]);
pgrx::extension_sql_file!(
    "../../sql/pipeline_catalog.sql",
    name = "pipeline_catalog",
    requires = ["search"]
);
pgrx::extension_sql_file!(
    "../../sql/pipeline.sql",
    name = "pipeline",
    requires = ["pipeline_catalog"]
);
pgrx::extension_sql_file!(
    "../../sql/pipeline_run.sql",
    name = "pipeline_run",
    requires = ["pipeline"]
);
pgrx::extension_sql_file!(
    "../../sql/pipeline_install.sql",
    name = "pipeline_install",
    requires = ["pipeline_run"]
);
pgrx::extension_sql_file!(
    "../../sql/pipeline_progress.sql",
    name = "pipeline_progress",
    requires = ["pipeline_install"]
);
pgrx::extension_sql_file!(
    "../../sql/pipeline_life.sql",
    name = "pipeline_life",
    requires = ["pipeline_progress"]
);
pgrx::extension_sql_file!(
    "../../sql/pipeline_move.sql",
    name = "pipeline_move",
    requires = ["pipeline_life"]
);

/// Runs when a backend loads the library.
#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    guc::define();
    #[cfg(feature = "failpoints")]
    pg::failpoint::define();
    pg::am::options::define();
    pg::bm25::options::define();
    pg::invalidation::install();
    pg::statement::install();
    pg::planner::install();
    // The one that is installed last runs first: it changes what the other one looks at.
    pg::ahead::install();
    pg::executor::install();
    pg::worker::install();
    pg::am::explain::install();
}
