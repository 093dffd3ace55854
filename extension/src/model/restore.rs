//! Indexes that a restore builds before their models are there.
//!
//! pg_restore with several jobs builds an index as soon as its table's rows are there; the rows of models
//! may come later. Such an index is left empty, not valid and not ready, and noted in
//! `distilface.unfilled`; the restore of the models fills it, see `sql/models_restore.sql`. An index that
//! follows the default model is noted too while no alias is there, and filled again should one come.
//!
//! Builds hold `distilface.unfilled` in ROW EXCLUSIVE mode from their start to their commit, the restore of
//! a table of models holds it in SHARE ROW EXCLUSIVE mode: neither goes on while the other is under way, so
//! that a build knows what is there and a restore sees every note. Nobody may wait for `distilface.model`
//! with this lock held, see [`super::keep_if_free`].

use super::load::fail;
use super::registry;
use crate::pg::attempt::attempt;
use crate::pg::owner::as_models_owner;
use crate::pg::table;
use pgrx::pg_sys;
use pgrx::spi::Spi;
use std::cell::Cell;

thread_local! {
    static MISSED: Cell<bool> = const { Cell::new(false) };
}

/// Called before an error that a model's rows, or the rights to it, are missing.
pub fn missed() {
    MISSED.set(true);
}

/// What became of a build.
pub enum Outcome<T> {
    Built(T),
    /// Its model is not there yet.
    Waits,
}

/// Runs a restore's build of an index. An index on text may follow the default model.
///
/// # Errors
/// Raises what the build raises, but that a model is missing.
pub fn build<T>(index: pg_sys::Oid, follows_default: bool, work: impl FnOnce() -> T) -> Outcome<T> {
    let Some(notes) = table::oid_of(c"unfilled") else { return Outcome::Built(work()) };
    table::lock(notes, pg_sys::RowExclusiveLock);
    MISSED.set(false);
    match attempt(work) {
        Ok(built) => {
            if follows_default && registry::alias(registry::DEFAULT).is_none() {
                note(index, true);
            }
            Outcome::Built(built)
        }
        Err(_) if MISSED.get() => {
            note(index, false);
            Outcome::Waits
        }
        Err(error) => error.rethrow(),
    }
}

fn note(index: pg_sys::Oid, filled: bool) {
    let noted = as_models_owner(|| {
        Spi::run_with_args(
            "SELECT distilface.note_unfilled($1, $2)",
            &[index.into(), filled.into()],
        )
    });
    match noted {
        Some(Ok(())) => {}
        Some(Err(error)) => fail(&error.to_string()),
        None => fail("the table distilface.model is not there"),
    }
}
