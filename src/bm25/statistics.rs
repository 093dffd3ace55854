//! Statistics of several indexes as if they were one, so that the scores of a partitioned table's
//! rows can be compared across its partitions, and equal those of one index over all rows.

use super::error::Bm25Error;
use super::params::Bm25Params;
use super::search::Prepared;
use super::view::View;
use crate::page::PageStore;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tantivy::Term;
use tantivy::query::Bm25StatisticsProvider;
use tantivy::schema::Field;

/// Documents, tokens and document frequencies of several indexes with the same columns.
pub struct Together {
    docs: u64,
    tokens: Vec<u64>,
    fields: Vec<Field>,
    /// What was looked up so far.
    doc_freqs: Mutex<HashMap<Term, u64>>,
}

impl Together {
    /// Adds up the views' documents and tokens.
    ///
    /// # Errors
    /// [`Bm25Error::Columns`] where they have other columns than the first;
    /// [`Bm25Error::Page`] where statistics cannot be read.
    pub fn new<S: PageStore + Send + Sync + 'static>(
        params: &Bm25Params,
        views: &[Arc<View<S>>],
    ) -> Result<Self, Bm25Error> {
        let fields = params.fields();
        let (mut docs, mut tokens) = (0, vec![0; fields.len()]);
        for view in views {
            let (expected, got) = (fields.len(), view.params().columns().len());
            if expected != got {
                return Err(Bm25Error::Columns { expected, got });
            }
            docs += view.docs();
            for (sum, &field) in tokens.iter_mut().zip(&fields) {
                *sum +=
                    view.searcher.total_num_tokens(field).map_err(|error| view.explain(error))?;
            }
        }
        Ok(Self { docs, tokens, fields, doc_freqs: Mutex::default() })
    }

    /// Whether all that a query's scores depend on was looked up.
    pub fn knows(&self, prepared: &Prepared) -> bool {
        let known = self.doc_freqs.lock().unwrap_or_else(PoisonError::into_inner);
        prepared.terms().all(|(column, text)| known.contains_key(&self.term(column, text)))
    }

    /// Looks up the document frequencies of a query's terms.
    ///
    /// # Errors
    /// [`Bm25Error::Page`] where a page is damaged.
    pub fn learn<S: PageStore + Send + Sync + 'static>(
        &self,
        views: &[Arc<View<S>>],
        prepared: &Prepared,
    ) -> Result<(), Bm25Error> {
        for (column, text) in prepared.terms() {
            let term = self.term(column, text);
            let mut sum = 0;
            for view in views {
                sum += view.searcher.doc_freq(&term).map_err(|error| view.explain(error))?;
            }
            self.doc_freqs.lock().unwrap_or_else(PoisonError::into_inner).insert(term, sum);
        }
        Ok(())
    }

    fn term(&self, column: usize, text: &str) -> Term {
        Term::from_field_text(self.fields[column], text)
    }

    /// Documents in all of them.
    pub fn docs(&self) -> u64 {
        self.docs
    }

    pub(crate) fn tokens(&self, column: usize) -> u64 {
        self.tokens[column]
    }
}

impl Bm25StatisticsProvider for Together {
    fn total_num_tokens(&self, field: Field) -> tantivy::Result<u64> {
        let column = self.fields.iter().position(|&known| known == field);
        Ok(column.map_or(0, |column| self.tokens[column]))
    }

    fn total_num_docs(&self) -> tantivy::Result<u64> {
        Ok(self.docs)
    }

    /// Of a term that was not looked up, one: no score depends on it (it is excluded, or a filter).
    fn doc_freq(&self, term: &Term) -> tantivy::Result<u64> {
        let known = self.doc_freqs.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(known.get(term).copied().unwrap_or(1).min(self.docs))
    }
}
