//! The PostgreSQL extension `distilface`.
pgrx::pg_module_magic!();
