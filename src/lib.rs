//! `distilface-core`: a sentence encoder, an HNSW index on pages and their glue, without PostgreSQL.
//!
//! Imports run one way: `vector, page, text ← model, encoder, hnsw, bm25 ← fusion, index`. The PostgreSQL
//! extension and the trainer are users of this crate; nothing here knows either of them.

#[cfg(feature = "bm25")]
pub mod bm25;
pub mod encoder;
pub mod fusion;
pub mod hnsw;
pub mod index;
pub mod model;
pub mod page;
pub mod text;
#[cfg(feature = "training")]
pub mod training;
pub mod vector;
