//! From a column's values to the vectors that its index holds.
//!
//! A column of vectors is read as it is. A column of text is embedded: passages by the model that
//! the index was made with, whose revision is the tag in its metapage, and queries by the same model
//! with its query prompt. So an index never mixes the vectors of two models.

use super::index::{Column, Element, IndexRelation};
use super::raise;
use crate::embed::session::{self, Strictness};
use crate::model::registry::{self, ModelId};
use crate::pg::buffers::SharedBuffers;
use crate::pg::embedding::{EmbeddingRef, read_halfvec};
use crate::pg::numbers::NumberArray;
use crate::pg::report::Report;
use crate::pg::text::to_utf8;
use crate::pg::varlena::Plain;
use distilface_core::encoder::InputKind;
use distilface_core::hnsw;
use pgrx::pg_sys;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;

/// How the values of one index become vectors.
#[derive(Debug, Clone, Copy)]
pub enum Source {
    /// They are vectors.
    Vectors(Column),
    /// A model embeds them.
    Text(Column, ModelId),
}

impl Source {
    /// For an index under construction: text is embedded by the model that `WITH (model = …)`
    /// names, or else by the default one.
    pub fn for_build(index: IndexRelation) -> Self {
        let column = index.column();
        match column.element {
            Element::Single | Element::Half | Element::Array => Self::Vectors(column),
            Element::Text => {
                let named = index.options().model();
                let model = named.map_or_else(registry::default_model, registry::by_name);
                Self::Text(column, model)
            }
        }
    }

    /// For an index with pages: text is embedded by the model whose revision it carries.
    ///
    /// # Errors
    /// Raises 55000 where no such model is here, and where the index names another one since.
    pub fn of(index: IndexRelation, store: &SharedBuffers) -> Self {
        let column = index.column();
        if column.element != Element::Text {
            return Self::Vectors(column);
        }
        let tag = hnsw::read_tag(store).unwrap_or_else(|error| raise(&index, error));
        let revision = String::from_utf8_lossy(&tag);
        if let Some(name) = index.options().model()
            && registry::revision_of(name).is_some_and(|named| named != revision)
        {
            let index = index.name();
            Report::new(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("index \"{index}\" names another model than the one that filled it"),
            )
            .detail(format!("It names \"{name}\" and holds vectors of model revision {revision}."))
            .hint("REINDEX it, or go on with the vectors that it has: ALTER INDEX … RESET (model).")
            .raise()
        }
        let Some(model) = registry::by_revision(&revision) else {
            Report::new(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("the model that filled index \"{}\" is not here", index.name()),
            )
            .detail(format!("The index holds vectors of model revision {revision}."))
            .hint("See distilface.models for the models that are. REINDEX fills the index by one of them.")
            .raise()
        };
        Self::Text(column, model)
    }

    pub fn column(self) -> Column {
        match self {
            Self::Vectors(column) | Self::Text(column, _) => column,
        }
    }

    /// What goes into the metapage of a new index.
    pub fn tag(self) -> Option<&'static str> {
        match self {
            Self::Vectors(_) => None,
            Self::Text(_, model) => Some(&model.encoder().manifest().revision),
        }
    }

    /// Dimensions of every vector, where they are known before the first one.
    pub fn dims(self, index: IndexRelation) -> Option<usize> {
        match self {
            Self::Vectors(_) => index.declared_dims(),
            Self::Text(_, model) => Some(model.encoder().manifest().dimensions),
        }
    }

    /// Hands a row's vector to `work`; `None` for a value that has no place in the index: a blank
    /// text, or a zero vector where only directions are compared.
    ///
    /// # Safety
    /// `datum` is a non-null value of the column's type.
    pub unsafe fn with_passage<T>(
        self,
        datum: pg_sys::Datum,
        work: impl FnOnce(Option<&[f32]>) -> T,
    ) -> T {
        // SAFETY: the caller's promise.
        unsafe { self.with_vector(datum, InputKind::Passage, work) }
    }

    /// As [`Source::with_passage`], for what a query searches by.
    ///
    /// # Safety
    /// `datum` is a non-null value of `subtype`, the right type of the operator that orders; invalid
    /// for the column's own.
    pub unsafe fn query(self, datum: pg_sys::Datum, subtype: pg_sys::Oid) -> Option<Vec<f32>> {
        let own = self.column().element;
        if own != Element::Array && subtype == pg_sys::FLOAT4ARRAYOID {
            // SAFETY: the caller's promise.
            let vector = unsafe { NumberArray::from_plain_datum(datum) }.to_vector();
            return self.column().placed(&vector).map(<[f32]>::to_vec);
        }
        if own == Element::Array && ![pg_sys::InvalidOid, pg_sys::FLOAT4ARRAYOID].contains(&subtype)
        {
            // SAFETY: the caller's promise: the other operators' right type is embedding.
            let vector = unsafe { EmbeddingRef::new(datum) };
            return self.column().placed(&vector).map(<[f32]>::to_vec);
        }
        // SAFETY: the caller's promise.
        unsafe { self.with_vector(datum, InputKind::Query, |vector| vector.map(<[f32]>::to_vec)) }
    }

    unsafe fn with_vector<T>(
        self,
        datum: pg_sys::Datum,
        input: InputKind,
        work: impl FnOnce(Option<&[f32]>) -> T,
    ) -> T {
        let column = self.column();
        match self {
            Self::Vectors(Column { element: Element::Half, .. }) => {
                let mut vector = Vec::new();
                // SAFETY: the caller's promise.
                unsafe { read_halfvec(datum, &mut vector) };
                work(column.placed(&vector))
            }
            Self::Vectors(Column { element: Element::Array, .. }) => {
                // SAFETY: the caller's promise.
                let vector = unsafe { NumberArray::from_plain_datum(datum) }.to_vector();
                work(column.placed(&vector))
            }
            Self::Vectors(_) => {
                // SAFETY: the caller's promise.
                let vector = unsafe { EmbeddingRef::new(datum) };
                work(column.placed(&vector))
            }
            Self::Text(_, model) => {
                // SAFETY: the caller's promise.
                let text = unsafe { TextDatum::new(datum) };
                let vector = session::embed_one(model, input, &text.to_utf8(), Strictness::Pinned);
                work(vector.as_deref().and_then(|vector| column.placed(vector)))
            }
        }
    }
}

/// A detoasted `text`.
pub struct TextDatum<'a>(Plain<'a>);

impl TextDatum<'_> {
    /// # Safety
    /// `datum` is a non-null `text` that outlives the value.
    pub unsafe fn new(datum: pg_sys::Datum) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { Plain::from_datum(datum) })
    }

    /// Its hash, as an index has it.
    pub fn key(&self) -> u64 {
        super::known::key(&self.0)
    }

    /// Its characters.
    pub fn to_utf8(&self) -> std::borrow::Cow<'_, str> {
        to_utf8(&self.0.bytes()[size_of::<u32>()..])
    }
}
