//! Models as database objects.
//!
//! A model is its packed block (`distilface_core::model::packed`) in rows of `distilface.model_part`,
//! under a name in `distilface.model`; `sql/models.sql` has the tables. What a table gives, dumps,
//! standbys, checksums and crash recovery, a model has with it. A backend never computes on these
//! rows: [`copy`] unpacks them once a server into a file that all backends map.
//!
//! - `registry` finds a model by name, revision or alias and opens it once a backend.
//! - `access` says who may use and who may change a model.
//! - `load` accepts models: from a directory, from a large object, from the library.
//! - `restore` lets indexes wait for models that a restore has not brought yet.
//! - `functions` are the SQL functions.
//!
//! A name is bound to one revision for ever, also after a drop: what was computed under a name, an
//! index's vectors or a column's, never meets vectors of another model under the same one. The block
//! is known by its sha256, which names its shared copy, so databases of one server share copies and
//! none can put another's bytes under it.

mod access;
mod copy;
mod functions;
mod load;
pub mod registry;
pub mod restore;

pub use load::{hold, keep, keep_if_free};
