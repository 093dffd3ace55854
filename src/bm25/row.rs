//! Scoring a row's texts by an index's statistics, without a segment of them.
//!
//! A sequential scan, a select list and a recheck have a row's texts and need the score that the index
//! gives it. The texts are cut once by their columns' analyzers; each token is held against the terms,
//! prefixes and ranges that the query looks for, and the query's conditions are evaluated on what was
//! found. The result is tantivy's, up to the last bits of a float sum. What needs more than the places
//! of terms (fuzzy terms, phrases with slop) is left to a segment of one document.

use super::params::Bm25Params;
use super::query::{Condition, Leaf, Occur};
use super::weight::{Constants, length_norms, sum_of_idfs};
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use tantivy::Term;
use tantivy::fieldnorm::FieldNormReader;
use tantivy::query::Bm25StatisticsProvider;
use tantivy::tokenizer::TextAnalyzer;

/// A query's conditions, ready for rows.
pub(crate) struct RowScorer {
    columns: Vec<ColumnText>,
    root: Part,
}

/// What the query looks for in a column, and what it found in the text at hand.
struct ColumnText {
    column: usize,
    analyzer: TextAnalyzer,
    norms: Arc<[f32; 256]>,
    needles: Vec<Needle>,
    /// BM25's norm of the text.
    norm: f32,
}

struct Needle {
    pattern: Pattern,
    /// Where it occurs, ascending.
    places: Vec<usize>,
}

#[derive(PartialEq)]
enum Pattern {
    Term(String),
    Prefix(String),
    Range(Bound<String>, Bound<String>),
}

/// A needle, by its place in [`RowScorer::columns`] and in the column's needles.
#[derive(Clone, Copy)]
struct NeedleAt {
    column: usize,
    needle: usize,
}

enum Part {
    Term(NeedleAt, f32),
    /// Needles with their distances from the first one.
    Phrase(Vec<(NeedleAt, usize)>, f32),
    /// Scores the same wherever it occurs.
    Constant(NeedleAt, f32),
    Everything(f32),
    Clauses(Vec<(Occur, Part)>),
}

impl RowScorer {
    /// Makes a condition ready; nothing where it takes a segment. `analyzers` are those of the index's
    /// columns.
    pub(crate) fn new(
        condition: &Condition,
        statistics: &dyn Bm25StatisticsProvider,
        params: &Bm25Params,
        analyzers: &[TextAnalyzer],
    ) -> tantivy::Result<Option<Self>> {
        let mut maker = Maker { columns: Vec::new(), statistics, params, analyzers };
        let root = maker.part(condition)?;
        Ok(root.map(|root| Self { columns: maker.columns, root }))
    }

    /// The score of a row with these texts, one a column; nothing where it does not match.
    pub(crate) fn score(&mut self, texts: &[Option<&str>]) -> Option<f32> {
        for column in &mut self.columns {
            column.read(texts.get(column.column).copied().flatten());
        }
        self.root.score(&self.columns)
    }
}

struct Maker<'a> {
    columns: Vec<ColumnText>,
    statistics: &'a dyn Bm25StatisticsProvider,
    params: &'a Bm25Params,
    analyzers: &'a [TextAnalyzer],
}

impl Maker<'_> {
    fn part(&mut self, condition: &Condition) -> tantivy::Result<Option<Part>> {
        Ok(Some(match condition {
            Condition::Leaf { leaf: Leaf::Term(column, text), boost } => {
                let weight = self.weight(*column, &[text], *boost)?;
                Part::Term(self.needle(*column, Pattern::Term(text.clone()))?, weight)
            }
            Condition::Leaf { leaf: Leaf::Phrase(column, places, 0), boost } => {
                let texts: Vec<&str> = places.iter().map(|(_, text)| &text[..]).collect();
                let weight = self.weight(*column, &texts, *boost)?;
                let mut needles = Vec::with_capacity(places.len());
                for (distance, text) in places {
                    needles.push((self.needle(*column, Pattern::Term(text.clone()))?, *distance));
                }
                Part::Phrase(needles, weight)
            }
            Condition::Leaf { leaf: Leaf::Prefix(column, text), boost } => {
                Part::Constant(self.needle(*column, Pattern::Prefix(text.clone()))?, *boost)
            }
            Condition::Leaf { .. } => return Ok(None),
            Condition::Range { column, lower, upper, boost } => {
                let pattern = Pattern::Range(lower.clone(), upper.clone());
                Part::Constant(self.needle(*column, pattern)?, *boost)
            }
            Condition::Everything { boost } => Part::Everything(*boost),
            Condition::Clauses(clauses) => {
                let mut parts = Vec::with_capacity(clauses.len());
                for (occur, clause) in clauses {
                    let Some(part) = self.part(clause)? else { return Ok(None) };
                    parts.push((*occur, part));
                }
                Part::Clauses(parts)
            }
        }))
    }

    /// What terms next to each other weigh.
    fn weight<T: AsRef<str>>(
        &self,
        column: usize,
        texts: &[T],
        boost: f32,
    ) -> tantivy::Result<f32> {
        let field = self.params.fields()[column];
        let terms: Vec<Term> =
            texts.iter().map(|text| Term::from_field_text(field, text.as_ref())).collect();
        let docs = self.statistics.total_num_docs()?;
        Ok(sum_of_idfs(self.statistics, &terms, docs)? * (1.0 + self.params.k1()) * boost)
    }

    fn needle(&mut self, column: usize, pattern: Pattern) -> tantivy::Result<NeedleAt> {
        let at = match self.columns.iter().position(|known| known.column == column) {
            Some(at) => at,
            None => {
                let field = self.params.fields()[column];
                let docs = self.statistics.total_num_docs()?;
                let average = self.statistics.total_num_tokens(field)? as f32 / docs as f32;
                self.columns.push(ColumnText {
                    column,
                    analyzer: self.analyzers[column].clone(),
                    norms: length_norms(Constants::of(self.params), average),
                    needles: Vec::new(),
                    norm: 0.0,
                });
                self.columns.len() - 1
            }
        };
        let needles = &mut self.columns[at].needles;
        let needle = match needles.iter().position(|known| known.pattern == pattern) {
            Some(needle) => needle,
            None => {
                needles.push(Needle { pattern, places: Vec::new() });
                needles.len() - 1
            }
        };
        Ok(NeedleAt { column: at, needle })
    }
}

impl ColumnText {
    /// Finds the needles in a text.
    fn read(&mut self, text: Option<&str>) {
        self.needles.iter_mut().for_each(|needle| needle.places.clear());
        let mut length = 0_u32;
        if let Some(text) = text {
            let mut stream = self.analyzer.token_stream(text);
            while let Some(token) = stream.next() {
                length = length.saturating_add(1);
                for needle in &mut self.needles {
                    if needle.pattern.fits(&token.text) {
                        needle.places.push(token.position);
                    }
                }
            }
        }
        self.norm = self.norms[usize::from(FieldNormReader::fieldnorm_to_id(length))];
    }
}

impl Pattern {
    fn fits(&self, term: &str) -> bool {
        match self {
            Self::Term(text) => text == term,
            Self::Prefix(text) => term.starts_with(text),
            Self::Range(lower, upper) => {
                let ends = (lower.as_ref().map(|text| &text[..]), upper.as_ref().map(|t| &t[..]));
                RangeBounds::<str>::contains(&ends, term)
            }
        }
    }
}

impl Part {
    fn score(&self, columns: &[ColumnText]) -> Option<f32> {
        let places = |at: &NeedleAt| &columns[at.column].needles[at.needle].places[..];
        match self {
            Self::Term(at, weight) => bm25(places(at).len(), *weight, columns[at.column].norm),
            Self::Phrase(needles, weight) => {
                let ((first, _), rest) = needles.split_first()?;
                let follows = |start: &&usize| {
                    rest.iter().all(|(at, distance)| {
                        places(at).binary_search(&(**start + distance)).is_ok()
                    })
                };
                let frequency = places(first).iter().filter(follows).count();
                bm25(frequency, *weight, columns[first.column].norm)
            }
            Self::Constant(at, score) => (!places(at).is_empty()).then_some(*score),
            Self::Everything(score) => Some(*score),
            Self::Clauses(parts) => {
                let (mut sum, mut found, mut required) = (0.0, false, false);
                for (occur, part) in parts {
                    match (occur, part.score(columns)) {
                        (Occur::Must, None) | (Occur::MustNot, Some(_)) => return None,
                        (Occur::Must, Some(score)) => {
                            required = true;
                            sum += score;
                        }
                        (Occur::Should, Some(score)) => {
                            found = true;
                            sum += score;
                        }
                        (Occur::Should | Occur::MustNot, None) => {}
                    }
                }
                (required || found).then_some(sum)
            }
        }
    }
}

fn bm25(frequency: usize, weight: f32, norm: f32) -> Option<f32> {
    let frequency = frequency as f32;
    (frequency > 0.0).then(|| weight * (frequency / (frequency + norm)))
}
