//! The models of this backend: the built-in ones, by name.

use crate::pg::report::Report;
use distilface_core::encoder::SentenceEncoder;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use std::sync::OnceLock;

/// A model in the library's read-only data.
pub struct Builtin {
    /// The name users type; it carries the model's version.
    pub name: &'static str,
    /// The packed model, see `distilface_core::model::packed`.
    pub packed: &'static [u8],
}

/// Puts the packed bytes at the boundary that the encoder's kernels read from.
#[repr(C, align(64))]
struct Aligned<const N: usize>([u8; N]);

include!(concat!(env!("OUT_DIR"), "/builtin_models.rs"));

/// A model of this backend: its place in the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ModelId(usize);

/// The model that `default` stands for.
pub fn default_model() -> ModelId {
    ModelId(0)
}

/// Every model, the default first.
pub fn all() -> impl Iterator<Item = ModelId> {
    (0..BUILTIN.len()).map(ModelId)
}

/// The model of that revision, if it is here.
pub fn by_revision(revision: &str) -> Option<ModelId> {
    all().find(|model| model.encoder().manifest().revision == revision)
}

/// The model of that name.
///
/// # Errors
/// Raises 42704 for a name that no model has, and for an alias: a pinned call must not change its
/// result when the alias moves.
pub fn by_name(name: &str) -> ModelId {
    if let Some(index) = BUILTIN.iter().position(|model| model.name == name) {
        return ModelId(index);
    }
    if name == "default" {
        Report::new(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            "\"default\" is an alias, and this call needs a model's own name",
        )
        .detail(format!(
            "It stands for \"{}\" now and may stand for another later.",
            BUILTIN[0].name
        ))
        .hint("Leave the model out to follow the default, or name one of distilface.models.")
        .raise()
    }
    Report::new(
        PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
        format!("model \"{name}\" does not exist"),
    )
    .hint("See distilface.models for the loaded ones.")
    .raise()
}

impl ModelId {
    /// The model's entry in the library.
    pub fn builtin(self) -> &'static Builtin {
        &BUILTIN[self.0]
    }

    /// The model, opened on first use.
    ///
    /// # Errors
    /// Raises XX001 where the library's own bytes are not a packed model of this version.
    pub fn encoder(self) -> &'static SentenceEncoder<'static> {
        static OPEN: OnceLock<Vec<OnceLock<SentenceEncoder<'static>>>> = OnceLock::new();
        let slots = OPEN.get_or_init(|| BUILTIN.iter().map(|_| OnceLock::new()).collect());
        slots[self.0].get_or_init(|| {
            SentenceEncoder::from_packed(self.builtin().packed).unwrap_or_else(|error| {
                Report::new(
                    PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
                    format!("built-in model \"{}\" cannot be opened", self.builtin().name),
                )
                .detail(error.to_string())
                .hint("The library was built from another version's model: run `make model` and install it again.")
                .raise()
            })
        })
    }
}
