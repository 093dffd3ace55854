//! BM25 with an index's own `k1` and `b`, where they are not tantivy's.
//!
//! tantivy's constants are 1.2 and 0.75; with those its own queries run, and its scores are ours.
//! With others a leaf (a term or a phrase) is scored here:
//! `idf · (k1 + 1) · tf / (tf + k1 · (1 − b + b · length / average length))`, Robertson & Zaragoza
//! 2009, with tantivy's idf, `ln(1 + (N − n + 0.5) / (n + 0.5))`, and its lengths of one byte.
//!
//! A search for any of some terms ends early with any constants: tantivy's block-max WAND runs with
//! its own ones, and what it finds is scored again ([`PostingsScorer`]). Nothing is lost, because its
//! threshold is lowered by [`Constants::excess`], the most by which a leaf's score by the index's
//! constants may exceed that by tantivy's.

use super::params::{Bm25Params, DEFAULT_B, DEFAULT_K1};
use super::query::AnyOf;
use std::ops::RangeInclusive;
use std::sync::Arc;
use tantivy::fieldnorm::FieldNormReader;
use tantivy::postings::{Postings, SegmentPostings};
use tantivy::query::{
    Bm25StatisticsProvider, EmptyScorer, EnableScoring, Explanation, PhraseQuery, Query, Scorer,
    TermQuery, Weight,
};
use tantivy::schema::IndexRecordOption;
use tantivy::{DocId, DocSet, Score, SegmentReader, Term};

/// An index's constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Constants {
    k1: f32,
    b: f32,
}

/// A term or a phrase that is scored with other constants than tantivy's.
#[derive(Debug, Clone)]
pub(crate) struct Bm25Leaf {
    leaf: Leaf,
    constants: Constants,
}

#[derive(Debug, Clone)]
enum Leaf {
    Term(Term),
    Phrase(PhraseQuery),
}

impl Constants {
    const TANTIVY: Self = Self { k1: DEFAULT_K1, b: DEFAULT_B };

    /// Those of an index.
    pub(crate) fn of(params: &Bm25Params) -> Self {
        Self { k1: params.k1(), b: params.b() }
    }

    /// The most that a leaf's score by these constants is of its score by tantivy's, in a segment whose
    /// texts have the lengths of these bytes.
    ///
    /// That share is `(1 + k1) / (1 + 1.2) · (tf + norm of tantivy) / (tf + norm)`. At a length it rises
    /// or falls with `tf` throughout, so the most is at 1 or at the largest `tf`, a text that is
    /// nothing but the term: what the next byte stands for, as a byte stands for lengths from its own on.
    pub(crate) fn excess(self, average: f32, lengths: RangeInclusive<u8>) -> f32 {
        let (ours, theirs) = (length_norms(self, average), length_norms(Self::TANTIVY, average));
        let mut most = 0.0_f32;
        for id in lengths {
            let longest = match id.checked_add(1) {
                Some(next) => FieldNormReader::id_to_fieldnorm(next).max(1) as f32,
                None => f32::INFINITY,
            };
            let (ours, theirs) = (ours[usize::from(id)], theirs[usize::from(id)]);
            for tf in [1.0, longest.min(1e9)] {
                most = most.max((tf + theirs) / (tf + ours));
            }
        }
        most * (1.0 + self.k1) / (1.0 + DEFAULT_K1)
    }
}

impl Bm25Leaf {
    /// The constants of an index where they are not tantivy's.
    pub(crate) fn constants(params: &Bm25Params) -> Option<Constants> {
        let constants = Constants::of(params);
        (constants != Constants::TANTIVY).then_some(constants)
    }

    pub(crate) fn term(term: Term, constants: Constants) -> Self {
        Self { leaf: Leaf::Term(term), constants }
    }

    pub(crate) fn phrase(phrase: PhraseQuery, constants: Constants) -> Self {
        Self { leaf: Leaf::Phrase(phrase), constants }
    }

    fn terms(&self) -> Vec<Term> {
        match &self.leaf {
            Leaf::Term(term) => vec![term.clone()],
            Leaf::Phrase(phrase) => phrase.phrase_terms(),
        }
    }
}

impl Query for Bm25Leaf {
    fn weight(&self, scoring: EnableScoring<'_>) -> tantivy::Result<Box<dyn Weight>> {
        let theirs = match &self.leaf {
            Leaf::Term(term) => {
                TermQuery::new(term.clone(), IndexRecordOption::WithFreqs).weight(scoring)?
            }
            Leaf::Phrase(phrase) => phrase.weight(scoring)?,
        };
        let EnableScoring::Enabled { statistics_provider, .. } = scoring else {
            return Ok(theirs);
        };
        let terms = self.terms();
        let Some(field) = terms.first().map(Term::field) else {
            return Ok(theirs);
        };
        let docs = statistics_provider.total_num_docs()?;
        let average = statistics_provider.total_num_tokens(field)? as f32 / docs as f32;
        let idf = sum_of_idfs(statistics_provider, &terms, docs)?;
        Ok(Box::new(LeafWeight {
            leaf: self.leaf.clone(),
            theirs,
            idf,
            average,
            constants: self.constants,
        }))
    }

    fn query_terms<'a>(&'a self, visitor: &mut dyn FnMut(&'a Term, bool)) {
        match &self.leaf {
            Leaf::Term(term) => visitor(term, false),
            Leaf::Phrase(phrase) => phrase.query_terms(visitor),
        }
    }
}

pub(crate) fn sum_of_idfs(
    statistics: &dyn Bm25StatisticsProvider,
    terms: &[Term],
    docs: u64,
) -> tantivy::Result<f32> {
    let mut sum = 0.0;
    for term in terms {
        let doc_freq = statistics.doc_freq(term)?.min(docs);
        let x = ((docs - doc_freq) as f32 + 0.5) / (doc_freq as f32 + 0.5);
        sum += (1.0 + x).ln();
    }
    Ok(sum)
}

struct LeafWeight {
    leaf: Leaf,
    theirs: Box<dyn Weight>,
    idf: f32,
    average: f32,
    constants: Constants,
}

/// `k1 · (1 − b + b · length / average length)` for each of tantivy's 256 lengths.
pub(crate) fn length_norms(Constants { k1, b }: Constants, average: f32) -> Arc<[f32; 256]> {
    Arc::new(std::array::from_fn(|id| {
        let length = FieldNormReader::id_to_fieldnorm(id as u8) as f32;
        k1 * (1.0 - b + b * length / average)
    }))
}

impl Weight for LeafWeight {
    fn scorer(&self, reader: &SegmentReader, boost: Score) -> tantivy::Result<Box<dyn Scorer>> {
        let norms = length_norms(self.constants, self.average);
        let weight = self.idf * (1.0 + self.constants.k1) * boost;
        Ok(match &self.leaf {
            Leaf::Term(term) => {
                let index = reader.inverted_index(term.field())?;
                let Some(postings) = index.read_postings(term, IndexRecordOption::WithFreqs)?
                else {
                    return Ok(Box::new(EmptyScorer));
                };
                let lengths = reader.get_fieldnorms_reader(term.field())?;
                Box::new(LeafScorer { docs: TermDocs(postings), lengths, norms, weight })
            }
            Leaf::Phrase(phrase) => {
                let lengths = reader.get_fieldnorms_reader(phrase.field())?;
                let docs = PhraseDocs {
                    scorer: self.theirs.scorer(reader, 1.0)?,
                    lengths: lengths.clone(),
                    norms: length_norms(Constants::TANTIVY, self.average),
                    weight: self.idf * (1.0 + DEFAULT_K1),
                };
                Box::new(LeafScorer { docs, lengths, norms, weight })
            }
        })
    }

    fn explain(&self, reader: &SegmentReader, doc: DocId) -> tantivy::Result<Explanation> {
        let mut scorer = self.scorer(reader, 1.0)?;
        if scorer.seek(doc) != doc {
            return Err(tantivy::TantivyError::InvalidArgument(format!(
                "document {doc} does not match"
            )));
        }
        Ok(Explanation::new("BM25 with the index's k1 and b", scorer.score()))
    }
}

/// Terms any of which a query asks for, and what they weigh.
pub(crate) struct TermWeights {
    terms: Vec<(Term, f32, Arc<[f32; 256]>)>,
}

impl TermWeights {
    pub(crate) fn new(
        statistics: &dyn Bm25StatisticsProvider,
        params: &Bm25Params,
        terms: &[AnyOf],
    ) -> tantivy::Result<Self> {
        let constants = Constants::of(params);
        let fields = params.fields();
        let docs = statistics.total_num_docs()?;
        let mut norms: Vec<Option<Arc<[f32; 256]>>> = vec![None; fields.len()];
        let mut weighed = Vec::with_capacity(terms.len());
        for AnyOf { column, text, boost } in terms {
            let field = fields[*column];
            let average = statistics.total_num_tokens(field)? as f32 / docs as f32;
            let norms = norms[*column].get_or_insert_with(|| length_norms(constants, average));
            let term = Term::from_field_text(field, text);
            let idf = sum_of_idfs(statistics, std::slice::from_ref(&term), docs)?;
            weighed.push((term, idf * (1.0 + constants.k1) * boost, Arc::clone(norms)));
        }
        Ok(Self { terms: weighed })
    }

    /// The terms in a segment's postings.
    pub(crate) fn postings(&self, reader: &SegmentReader) -> tantivy::Result<PostingsScorer> {
        let mut leaves = Vec::new();
        for (term, weight, norms) in &self.terms {
            let index = reader.inverted_index(term.field())?;
            if let Some(docs) = index.read_postings(term, IndexRecordOption::WithFreqs)? {
                let (docs, norms) = (TermDocs(docs), Arc::clone(norms));
                let lengths = reader.get_fieldnorms_reader(term.field())?;
                leaves.push(LeafScorer { docs, lengths, norms, weight: *weight });
            }
        }
        Ok(PostingsScorer { leaves })
    }
}

/// Scores documents of a segment by the terms that occur in them.
pub(crate) struct PostingsScorer {
    leaves: Vec<LeafScorer<TermDocs>>,
}

impl PostingsScorer {
    /// The score of a document; from one call to the next documents ascend.
    pub(crate) fn score(&mut self, doc: DocId) -> Score {
        let mut score = 0.0;
        for leaf in &mut self.leaves {
            if leaf.doc() < doc {
                leaf.seek(doc);
            }
            if leaf.doc() == doc {
                score += leaf.score();
            }
        }
        score
    }
}

/// Documents with the frequency of a leaf in each.
trait Frequencies: DocSet {
    fn frequency(&mut self) -> f32;
}

struct TermDocs(SegmentPostings);

impl Frequencies for TermDocs {
    fn frequency(&mut self) -> f32 {
        self.0.term_freq() as f32
    }
}

/// tantivy's phrase scorer, whose score, with its known constants, tells the phrase's frequency:
/// a small whole number, so rounding undoes the arithmetic exactly.
struct PhraseDocs {
    scorer: Box<dyn Scorer>,
    lengths: FieldNormReader,
    norms: Arc<[f32; 256]>,
    weight: f32,
}

impl Frequencies for PhraseDocs {
    fn frequency(&mut self) -> f32 {
        let share = self.scorer.score() / self.weight;
        let norm = self.norms[usize::from(self.lengths.fieldnorm_id(self.scorer.doc()))];
        (norm * share / (1.0 - share)).round().max(1.0)
    }
}

macro_rules! delegate_doc_set {
    ($type:ty, $inner:tt) => {
        impl DocSet for $type {
            fn advance(&mut self) -> DocId {
                self.$inner.advance()
            }

            fn seek(&mut self, target: DocId) -> DocId {
                self.$inner.seek(target)
            }

            fn doc(&self) -> DocId {
                self.$inner.doc()
            }

            fn size_hint(&self) -> u32 {
                self.$inner.size_hint()
            }
        }
    };
}

delegate_doc_set!(TermDocs, 0);
delegate_doc_set!(PhraseDocs, scorer);

struct LeafScorer<D> {
    docs: D,
    lengths: FieldNormReader,
    norms: Arc<[f32; 256]>,
    weight: f32,
}

impl<D: Frequencies> DocSet for LeafScorer<D> {
    fn advance(&mut self) -> DocId {
        self.docs.advance()
    }

    fn seek(&mut self, target: DocId) -> DocId {
        self.docs.seek(target)
    }

    fn doc(&self) -> DocId {
        self.docs.doc()
    }

    fn size_hint(&self) -> u32 {
        self.docs.size_hint()
    }
}

impl<D: Frequencies + 'static> Scorer for LeafScorer<D> {
    fn score(&mut self) -> Score {
        let norm = self.norms[usize::from(self.lengths.fieldnorm_id(self.docs.doc()))];
        let frequency = self.docs.frequency();
        self.weight * frequency / (frequency + norm)
    }
}
