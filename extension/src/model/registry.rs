//! The models of this backend, by name, revision and alias, each opened on first use.
//!
//! A name is looked up in `distilface.model`, then in the library, and remembered with the user who
//! asked until a transaction changes the tables (a relation-cache invalidation of
//! `distilface.model`, which every writer sends by trigger and a standby replays) or roles change.
//! An opened model stays open: its revision never changes.

use super::{access, copy, restore};
use crate::pg::report::Report;
use crate::pg::table::{self, Key, Row};
use crate::pg::{invalidation, roles};
use distilface_core::encoder::SentenceEncoder;
use distilface_core::model::Manifest;
use pgrx::pg_sys;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::ops::ControlFlow;

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

/// The alias that calls without a model follow.
pub const DEFAULT: &str = "default";

/// A model of this backend: its place in the registry. The first ones are the library's, in its
/// order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ModelId(usize);

/// A model's row in `distilface.model`, see `sql/models.sql`.
pub struct Stored {
    pub revision: String,
    /// Of the packed block; none once the model is dropped.
    pub sha256: Option<String>,
    pub builtin: bool,
}

impl Stored {
    fn of(row: &Row) -> Stored {
        Stored {
            revision: row.text(1).unwrap_or_default(),
            sha256: row.text(2),
            builtin: row.bool(3),
        }
    }
}

struct Opened {
    revision: String,
    origin: Origin,
    encoder: OnceCell<SentenceEncoder<'static>>,
}

enum Origin {
    Library(&'static Builtin),
    Tables { sha256: String },
}

struct Registry {
    opened: Vec<&'static Opened>,
    names: HashMap<(pg_sys::Oid, String), ModelId>,
    default: HashMap<pg_sys::Oid, ModelId>,
    /// What names are bound to; none for those that are unknown.
    revisions: HashMap<String, Option<String>>,
}

thread_local! {
    static REGISTRY: RefCell<Option<Registry>> = const { RefCell::new(None) };
}

/// The models in the library, the one that `default` stands for at first in front.
pub fn library() -> impl Iterator<Item = ModelId> {
    (0..BUILTIN.len()).map(ModelId)
}

/// The model that calls without a model use.
///
/// # Errors
/// Raises 42501 where the user may not use it.
pub fn default_model() -> ModelId {
    let user = roles::current();
    if let Some(known) = with_registry(|registry| registry.default.get(&user).copied()) {
        return known;
    }
    invalidation::watch();
    let model = match alias(DEFAULT) {
        Some(name) => by_name(&name),
        None => ModelId(0),
    };
    remember_answer(|registry| {
        registry.default.insert(user, model);
    });
    model
}

/// The model that calls without a model use, where this user's call has opened it already. Looks
/// nothing up and raises nothing.
pub fn opened_default() -> Option<ModelId> {
    let user = roles::current();
    with_registry(|registry| registry.default.get(&user).copied()).filter(|model| model.is_open())
}

/// The same for a model by its name.
pub fn opened_by_name(name: &str) -> Option<ModelId> {
    let key = (roles::current(), name.to_owned());
    with_registry(|registry| registry.names.get(&key).copied()).filter(|model| model.is_open())
}

/// The same for a model by its revision.
pub fn opened_by_revision(revision: &str) -> Option<ModelId> {
    let place =
        with_registry(|registry| registry.opened.iter().position(|m| m.revision == revision));
    place.map(ModelId).filter(|model| model.is_open())
}

/// The name that an alias stands for.
pub fn alias(alias: &str) -> Option<String> {
    table::find(c"model_alias", c"model_alias_pkey", &[1], &[Key::Text(alias)], |row| {
        row.text(1).map_or(ControlFlow::Continue(()), ControlFlow::Break)
    })
}

/// The model of that revision, if it is here. Asks no privilege: an index serves who may use it.
pub fn by_revision(revision: &str) -> Option<ModelId> {
    let open =
        with_registry(|registry| registry.opened.iter().position(|m| m.revision == revision));
    if let Some(at) = open {
        return Some(ModelId(at));
    }
    let sha256 =
        table::find(c"model", c"model_revision_idx", &[2], &[Key::Text(revision)], |row| {
            Stored::of(row).sha256.map_or(ControlFlow::Continue(()), ControlFlow::Break)
        })?;
    Some(remember(revision, sha256))
}

/// The model of that name.
///
/// # Errors
/// Raises 42704 for a name that no model has, and for an alias: a pinned call must not change its
/// result when the alias moves. Raises 42501 where the user may not use it.
pub fn by_name(name: &str) -> ModelId {
    let key = (roles::current(), name.to_owned());
    if let Some(known) = with_registry(|registry| registry.names.get(&key).copied()) {
        return known;
    }
    invalidation::watch();
    let stored = stored(name);
    if matches!(stored, Some(Stored { sha256: Some(_), builtin: false, .. })) {
        access::require_use(name);
    }
    let model = found(name, stored);
    remember_answer(|registry| {
        registry.names.insert(key, model);
    });
    model
}

/// The revision that a name is bound to, dropped or not.
pub fn revision_of(name: &str) -> Option<String> {
    if let Some(known) = with_registry(|registry| registry.revisions.get(name).cloned()) {
        return known;
    }
    invalidation::watch();
    let library = || library_model(name).map(|model| model.revision().to_owned());
    let revision = stored(name).map(|stored| stored.revision).or_else(library);
    remember_answer(|registry| {
        registry.revisions.insert(name.to_owned(), revision.clone());
    });
    revision
}

/// The model of that name, or without a name the default one. Asks no privilege: an index serves who may
/// use its table.
///
/// # Errors
/// Raises 42704 for a name that no model has.
pub fn for_everybody(name: Option<&str>) -> ModelId {
    match name.map(str::to_owned).or_else(|| alias(DEFAULT)) {
        Some(name) => found(&name, stored(&name)),
        None => ModelId(0),
    }
}

/// The model of a name that has this row.
fn found(name: &str, stored: Option<Stored>) -> ModelId {
    let model = match stored {
        Some(Stored { revision, sha256: Some(sha256), .. }) => Some(remember(&revision, sha256)),
        Some(Stored { revision, sha256: None, .. }) => {
            library().find(|model| model.revision() == revision)
        }
        None => library_model(name),
    };
    model.unwrap_or_else(|| refuse_unknown(name))
}

/// The library's model of that name.
pub fn library_model(name: &str) -> Option<ModelId> {
    BUILTIN.iter().position(|model| model.name == name).map(ModelId)
}

/// A name's row, dropped or not.
pub fn stored(name: &str) -> Option<Stored> {
    table::find(c"model", c"model_pkey", &[1], &[Key::Text(name)], |row| {
        ControlFlow::Break(Stored::of(row))
    })
}

/// # Errors
/// Always raises 42704, which says why there is no model of that name.
pub fn refuse_unknown(name: &str) -> ! {
    restore::missed();
    if name == DEFAULT {
        let stands_for = alias(DEFAULT).unwrap_or_else(|| BUILTIN[0].name.to_owned());
        Report::new(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            "\"default\" is an alias, and this call needs a model's own name",
        )
        .detail(format!("It stands for \"{stands_for}\" now and may stand for another later."))
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

/// Registers a model of the tables. The library's own bytes of the same revision come first.
fn remember(revision: &str, sha256: String) -> ModelId {
    with_registry(|registry| {
        if let Some(at) = registry.opened.iter().position(|m| m.revision == revision) {
            return ModelId(at);
        }
        let origin = Origin::Tables { sha256 };
        registry.opened.push(Box::leak(Box::new(Opened {
            revision: revision.to_owned(),
            origin,
            encoder: OnceCell::new(),
        })));
        ModelId(registry.opened.len() - 1)
    })
}

impl ModelId {
    fn opened(self) -> &'static Opened {
        with_registry(|registry| registry.opened[self.0])
    }

    fn is_open(self) -> bool {
        self.opened().encoder.get().is_some()
    }

    /// The model's entry in the library, if it is one of the library's.
    pub fn builtin(self) -> Option<&'static Builtin> {
        match self.opened().origin {
            Origin::Library(builtin) => Some(builtin),
            Origin::Tables { .. } => None,
        }
    }

    /// The sha256 of what its vectors depend on.
    pub fn revision(self) -> &'static str {
        &self.opened().revision
    }

    /// What the model is.
    pub fn manifest(self) -> &'static Manifest {
        self.encoder().manifest()
    }

    /// The model, opened on first use.
    ///
    /// # Errors
    /// Raises XX001 where its bytes are not a packed model of this version, and what
    /// [`copy::open`] raises.
    pub fn encoder(self) -> &'static SentenceEncoder<'static> {
        let opened = self.opened();
        opened.encoder.get_or_init(|| {
            let (block, hint) = match &opened.origin {
                Origin::Library(builtin) => (
                    builtin.packed,
                    "The library was built with another version's model: install it again from one checkout.",
                ),
                Origin::Tables { sha256 } => (
                    copy::open(sha256),
                    "It was loaded by another version of distilface: load it again under another name.",
                ),
            };
            SentenceEncoder::from_packed(block).unwrap_or_else(|error| {
                Report::new(
                    PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
                    format!("the model of revision {} cannot be opened", opened.revision),
                )
                .detail(error.to_string())
                .hint(hint)
                .raise()
            })
        })
    }
}

/// Runs `work` with the registry, which forgets names once the tables have changed.
fn with_registry<T>(work: impl FnOnce(&mut Registry) -> T) -> T {
    REGISTRY.with_borrow_mut(|slot| {
        let registry = slot.get_or_insert_with(|| Registry {
            opened: BUILTIN.iter().map(open_library).collect(),
            names: HashMap::new(),
            default: HashMap::new(),
            revisions: HashMap::new(),
        });
        if invalidation::take_changed() {
            registry.names.clear();
            registry.default.clear();
            registry.revisions.clear();
        }
        work(registry)
    })
}

/// Keeps what was just read, unless something has changed since.
fn remember_answer(keep: impl FnOnce(&mut Registry)) {
    if !invalidation::has_changed() {
        with_registry(keep);
    }
}

fn open_library(builtin: &'static Builtin) -> &'static Opened {
    let revision = distilface_core::model::Packed::open(builtin.packed)
        .and_then(|packed| packed.manifest())
        .map_or_else(|_| String::new(), |manifest| manifest.revision);
    Box::leak(Box::new(Opened {
        revision,
        origin: Origin::Library(builtin),
        encoder: OnceCell::new(),
    }))
}
