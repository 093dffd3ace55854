//! Searching a view: rows in the order of their scores, all rows that match, and the score of one
//! text by the index's statistics.
//!
//! Rows come in batches. The first batch holds the [`FIRST_BATCH`] best rows, found by tantivy's
//! block-max WAND (Ding & Suel 2011), which skips what cannot get among them; when the batch is used
//! up, the search runs again for four times as many and leaves out what it has returned. So `LIMIT 10`
//! costs ten rows, a filter that drops rows costs a few more rounds, and a scan without LIMIT ends
//! with one exhaustive round.
//!
//! A block's maximum was computed at the segment's own average length, the score is computed at
//! the index's. The maximum may so be too small by a factor of at most the averages' ratio: with
//! `x = tf / norm`, a document's `x` changes by a factor between 1 and that ratio when the average
//! changes, and a score `x / (1 + x)` by no more than its `x`. WAND therefore gets a threshold that
//! is smaller by the ratio, and drops nothing that belongs to the result. With other constants than
//! tantivy's the threshold is lowered by what they may add as well ([`super::weight`]), where the query
//! asks for any of some terms; of another query every match is scored.
//!
//! Equal scores come in the order of segments and documents.

use super::engine::{SegmentBuilder, TINY_BUDGET};
use super::error::Bm25Error;
use super::query::{Compiled, Leaf, Query, compile};
use super::row::RowScorer;
use super::statistics::Together;
use super::view::View;
use super::weight::{Bm25Leaf, TermWeights};
use crate::page::{HeapTid, PageError, PageStore};
use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use tantivy::query::{
    Bm25StatisticsProvider, BooleanQuery, ConstScoreQuery, EnableScoring, Occur,
    Query as TantivyQuery, Weight,
};
use tantivy::{DocSet, Index, ReloadPolicy};

/// Rows of the first batch.
pub const FIRST_BATCH: usize = 32;
/// From here on one round collects everything.
const LAST_BATCH: usize = 1 << 15;
/// How much larger each batch is than the one before.
const GROWTH: usize = 4;
/// Documents that [`RankedScan::unranked`] looks at in its first call, and at most.
const UNRANKED_CHUNKS: Range<u32> = 256..1 << 16;
/// Documents between two looks at the interrupt flag.
const INTERRUPT_EVERY: u32 = 1 << 12;

/// A row found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    pub tid: HeapTid,
    /// BM25, higher is better.
    pub score: f32,
}

/// Which columns a query's clauses look into.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// The columns' names, in the index's order.
    pub names: &'a [&'a str],
    /// Columns of clauses that name none.
    pub defaults: &'a [usize],
}

/// A query ready to run on views of an index.
pub struct Prepared {
    compiled: Compiled,
}

impl Prepared {
    /// Compiles a query for an index.
    ///
    /// # Errors
    /// [`Bm25Error::Query`] where it names a column that the index does not have.
    pub fn new<S: PageStore + Send + Sync + 'static>(
        view: &View<S>,
        query: &Query,
        scope: Scope<'_>,
    ) -> Result<Self, Bm25Error> {
        let compiled = compile(query, &view.params, view.analyzers(), scope)?;
        Ok(Self { compiled })
    }

    /// One query of several: rows have to match all of `filters`, which give no score, and are
    /// ranked by `order`. Without an order only [`View::matches`] makes sense of it.
    ///
    /// # Errors
    /// As for [`Prepared::new`].
    pub fn combined<S: PageStore + Send + Sync + 'static>(
        view: &View<S>,
        order: Option<(&Query, Scope<'_>)>,
        filters: &[(&Query, Scope<'_>)],
    ) -> Result<Self, Bm25Error> {
        let mut clauses: Vec<(Occur, Box<dyn TantivyQuery>)> = Vec::new();
        let (mut leaves, mut columns, mut all_columns) = (Vec::new(), Vec::new(), Vec::new());
        if let Some((query, scope)) = order {
            let compiled = compile(query, &view.params, view.analyzers(), scope)?;
            if filters.is_empty() {
                return Ok(Self { compiled });
            }
            (leaves, columns) = (compiled.leaves, compiled.columns);
            all_columns = compiled.all_columns;
            clauses.push((Occur::Must, compiled.query));
        }
        for (query, scope) in filters {
            let compiled = compile(query, &view.params, view.analyzers(), *scope)?;
            all_columns.extend(compiled.all_columns);
            clauses.push((Occur::Must, Box::new(ConstScoreQuery::new(compiled.query, 0.0))));
        }
        let query = Box::new(BooleanQuery::new(clauses));
        let compiled = Compiled {
            query,
            bound: None,
            leaves,
            columns,
            all_columns,
            any_of: None,
            condition: None,
        };
        Ok(Self { compiled })
    }

    /// The terms whose frequencies scores depend on, with their columns.
    pub(crate) fn terms(&self) -> impl Iterator<Item = (usize, &str)> {
        self.compiled.leaves.iter().flat_map(|leaf| match leaf {
            Leaf::Term(column, text) => vec![(*column, &text[..])],
            Leaf::Phrase(column, places, _) => {
                places.iter().map(|(_, text)| (*column, &text[..])).collect()
            }
            Leaf::Prefix(..) | Leaf::Fuzzy(..) => Vec::new(),
        })
    }

    /// Columns that the query's clauses look into.
    pub fn all_columns(&self) -> &[usize] {
        &self.compiled.all_columns
    }
}

/// A query's weight, by the statistics of the view or of several together.
fn weight<S: PageStore + Send + Sync + 'static>(
    query: &dyn TantivyQuery,
    view: &View<S>,
    together: Option<&Together>,
) -> Result<Box<dyn Weight>, Bm25Error> {
    let scoring = match together {
        Some(together) => EnableScoring::enabled_from_statistics_provider(together, &view.searcher),
        None => EnableScoring::enabled_from_searcher(&view.searcher),
    };
    query.weight(scoring).map_err(|error| view.explain(error))
}

/// The statistics that a view's rows are scored by.
fn statistics<'s, S: PageStore + Send + Sync + 'static>(
    view: &'s View<S>,
    together: Option<&'s Together>,
) -> &'s dyn Bm25StatisticsProvider {
    match together {
        Some(together) => together,
        None => &view.searcher,
    }
}

/// A candidate, ordered so that the worst one is the greatest.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    score: f32,
    segment: u32,
    doc: u32,
}

impl Eq for Candidate {}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_score = other.score.total_cmp(&self.score);
        by_score.then((self.segment, self.doc).cmp(&(other.segment, other.doc)))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Rows in descending order of their scores.
pub struct RankedScan<S> {
    view: Arc<View<S>>,
    weight: Box<dyn Weight>,
    /// Scores what the weight finds, where its scores are bounds only.
    rescorer: Option<TermWeights>,
    slacks: Vec<f32>,
    scored: u64,
    batch: std::vec::IntoIter<Candidate>,
    returned: HashSet<(u32, u32)>,
    next_batch: usize,
    /// The last score returned: later ones are not above it, whatever the last bit says.
    ceiling: f32,
}

impl<S: PageStore + Send + Sync + 'static> RankedScan<S> {
    /// Starts a scan; nothing is searched before the first [`RankedScan::next`]. `first_batch` is
    /// how many rows the caller expects to need; `together` are the statistics where they are not
    /// the view's own.
    ///
    /// # Errors
    /// [`Bm25Error::Page`] where statistics cannot be read.
    pub fn new(
        view: Arc<View<S>>,
        prepared: &Prepared,
        first_batch: usize,
        together: Option<&Together>,
    ) -> Result<Self, Bm25Error> {
        let compiled = &prepared.compiled;
        let (weight, rescorer) = match (&compiled.bound, &compiled.any_of) {
            (Some(bound), Some(terms)) => {
                let rescorer = TermWeights::new(statistics(&view, together), &view.params, terms)
                    .map_err(|error| view.explain(error))?;
                (weight(&**bound, &view, together)?, Some(rescorer))
            }
            _ => (weight(&*compiled.query, &view, together)?, None),
        };
        let mut slacks = vec![1.0; view.segments.len()];
        if rescorer.is_some() || Bm25Leaf::constants(&view.params).is_none() {
            lower_thresholds(&view, &compiled.columns, together, &mut slacks)?;
        }
        Ok(Self {
            view,
            weight,
            rescorer,
            slacks,
            scored: 0,
            batch: Vec::new().into_iter(),
            returned: HashSet::new(),
            next_batch: first_batch.max(1),
            ceiling: f32::INFINITY,
        })
    }

    /// The next row, or nothing after the last one.
    ///
    /// # Errors
    /// [`Bm25Error::Recycled`] where the scan has to be started over (on a standby),
    /// [`Bm25Error::Page`] where a page is damaged.
    #[expect(clippy::should_implement_trait, reason = "an iterator's step cannot fail")]
    pub fn next(&mut self) -> Result<Option<Hit>, Bm25Error> {
        loop {
            if let Some(candidate) = self.batch.next() {
                if !self.returned.insert((candidate.segment, candidate.doc)) {
                    continue;
                }
                let tid = self.view.tid(candidate.segment as usize, candidate.doc)?;
                self.ceiling = self.ceiling.min(candidate.score);
                return Ok(Some(Hit { tid, score: self.ceiling }));
            }
            if self.next_batch == 0 {
                return Ok(None);
            }
            let k = self.next_batch;
            let found = if k < LAST_BATCH { self.top(k)? } else { self.top(usize::MAX)? };
            self.next_batch = if found.len() < k || k >= LAST_BATCH { 0 } else { k * GROWTH };
            self.batch = found.into_iter();
        }
    }

    /// Documents whose scores were computed so far and might have been among the best: the fewer, the
    /// earlier the searches ended.
    pub fn scored(&self) -> u64 {
        self.scored
    }

    /// Some of the rows that match no clause of the order and so come last, with a score of 0: those
    /// of `filter`, or all, which the scan has not returned. Called after [`RankedScan::next`] gave
    /// nothing, with a place that begins as the default and moves on; nothing after the last ones.
    ///
    /// # Errors
    /// As for [`RankedScan::next`].
    pub fn unranked(
        &mut self,
        filter: Option<&Prepared>,
        at: &mut Unranked,
    ) -> Result<Option<Vec<HeapTid>>, Bm25Error> {
        let view = &*self.view;
        view.store.check_interrupts()?;
        let readers = view.searcher.segment_readers();
        while let Some(reader) = readers.get(at.segment) {
            let segment = at.segment;
            let dead = view.dead(segment);
            let returned = &self.returned;
            let fresh = |doc: &u32| {
                !returned.contains(&(segment as u32, *doc))
                    && dead.is_none_or(|dead| !dead.contains(*doc))
            };
            let docs: Vec<u32> = match filter {
                None => {
                    let from = at.doc;
                    at.chunk = (at.chunk * 4).clamp(UNRANKED_CHUNKS.start, UNRANKED_CHUNKS.end);
                    at.doc = from.saturating_add(at.chunk).min(reader.max_doc());
                    (from..at.doc).filter(fresh).collect()
                }
                Some(filter) => {
                    at.doc = reader.max_doc();
                    view.matching_docs(filter, segment)?.into_iter().filter(fresh).collect()
                }
            };
            if at.doc >= reader.max_doc() {
                (at.segment, at.doc) = (segment + 1, 0);
            }
            if !docs.is_empty() {
                let mut tids = Vec::with_capacity(docs.len());
                view.tids_of(segment, &docs, &mut |tid| tids.push(tid))?;
                return Ok(Some(tids));
            }
        }
        Ok(None)
    }

    /// The `k` best candidates, best first.
    fn top(&mut self, k: usize) -> Result<Vec<Candidate>, Bm25Error> {
        let view = &*self.view;
        let mut heap: BinaryHeap<Candidate> = BinaryHeap::new();
        for (segment, reader) in view.searcher.segment_readers().iter().enumerate() {
            let slack = self.slacks[segment];
            let dead = view.dead(segment);
            let mut rescorer = match &self.rescorer {
                Some(scorer) => Some(scorer.postings(reader).map_err(|error| view.explain(error))?),
                None => None,
            };
            let mut seen = 0_u32;
            let mut interrupted: Option<PageError> = None;
            // Scores of nothing but boosts of zero are zero and count as matches.
            let threshold = threshold(&heap, k, slack);
            self.weight
                .for_each_pruning(threshold, reader, &mut |doc, score| {
                    seen += 1;
                    if seen.is_multiple_of(INTERRUPT_EVERY) && interrupted.is_none() {
                        interrupted = view.store.check_interrupts().err();
                    }
                    if interrupted.is_some() {
                        return f32::INFINITY;
                    }
                    if dead.is_none_or(|dead| !dead.contains(doc)) {
                        let score = rescorer.as_mut().map_or(score, |scorer| scorer.score(doc));
                        let candidate = Candidate { score, segment: segment as u32, doc };
                        if heap.len() < k {
                            heap.push(candidate);
                        } else if heap.peek().is_some_and(|worst| candidate < *worst) {
                            heap.pop();
                            heap.push(candidate);
                        }
                    }
                    self::threshold(&heap, k, slack)
                })
                .map_err(|error| view.explain(error))?;
            if let Some(error) = interrupted {
                return Err(error.into());
            }
            self.scored += u64::from(seen);
        }
        Ok(heap.into_sorted_vec())
    }
}

/// Where [`RankedScan::unranked`] is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unranked {
    segment: usize,
    doc: u32,
    chunk: u32,
}

/// Adds to each segment's slack what its block maxima may be short of, see the module's text.
fn lower_thresholds<S: PageStore + Send + Sync + 'static>(
    view: &View<S>,
    columns: &[usize],
    together: Option<&Together>,
    slacks: &mut [f32],
) -> Result<(), Bm25Error> {
    let readers = view.searcher.segment_readers();
    let constants = Bm25Leaf::constants(&view.params);
    if constants.is_none() && readers.len() == 1 && together.is_none() {
        return Ok(());
    }
    let fields = view.params.fields();
    for &column in columns {
        let mut own = Vec::with_capacity(readers.len());
        for reader in readers {
            let index =
                reader.inverted_index(fields[column]).map_err(|error| view.explain(error))?;
            own.push((index.total_num_tokens(), u64::from(reader.max_doc())));
        }
        let (tokens, docs) = match together {
            Some(together) => (together.tokens(column), together.docs()),
            None => own.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1)),
        };
        let all = tokens as f32 / docs as f32;
        for (segment, (tokens, docs)) in own.into_iter().enumerate() {
            let own = tokens as f32 / docs as f32;
            let ratio = (own / all).max(all / own);
            let mut slack = if ratio.is_finite() { ratio.max(1.0) } else { 1.0 };
            if let Some(constants) = constants {
                slack *= constants.excess(all, view.lengths(segment, column)?);
            }
            if slack != 1.0 {
                slacks[segment] = slacks[segment].max(slack * 1.0001);
            }
        }
    }
    Ok(())
}

/// What a score has to exceed to matter.
fn threshold(heap: &BinaryHeap<Candidate>, k: usize, slack: f32) -> f32 {
    match heap.peek() {
        Some(worst) if heap.len() >= k => worst.score / slack,
        _ => -1.0,
    }
}

impl<S: PageStore + Send + Sync + 'static> View<S> {
    /// The `k` best rows, best first.
    ///
    /// # Errors
    /// As for [`RankedScan::next`].
    pub fn search(
        self: &Arc<Self>,
        query: &Query,
        scope: Scope<'_>,
        k: usize,
    ) -> Result<Vec<Hit>, Bm25Error> {
        let prepared = Prepared::new(self, query, scope)?;
        let mut scan = RankedScan::new(Arc::clone(self), &prepared, k, None)?;
        let mut hits = Vec::new();
        while hits.len() < k {
            match scan.next()? {
                Some(hit) => hits.push(hit),
                None => break,
            }
        }
        Ok(hits)
    }

    /// Hands every matching row to `found`, in no order of use, without scores. Returns how many.
    ///
    /// # Errors
    /// As for [`RankedScan::next`].
    pub fn matches(
        &self,
        prepared: &Prepared,
        found: &mut dyn FnMut(HeapTid),
    ) -> Result<u64, Bm25Error> {
        let mut count = 0;
        for segment in 0..self.segments.len() {
            self.store.check_interrupts()?;
            let dead = self.dead(segment);
            let mut docs = self.matching_docs(prepared, segment)?;
            docs.retain(|&doc| dead.is_none_or(|dead| !dead.contains(doc)));
            count += docs.len() as u64;
            self.tids_of(segment, &docs, found)?;
        }
        Ok(count)
    }

    /// The matching documents of a segment, dead ones included.
    fn matching_docs(&self, prepared: &Prepared, segment: usize) -> Result<Vec<u32>, Bm25Error> {
        let mut docs = Vec::new();
        prepared
            .compiled
            .query
            .weight(EnableScoring::disabled_from_searcher(&self.searcher))
            .and_then(|weight| {
                let reader = self.searcher.segment_reader(segment as u32);
                weight.for_each_no_score(reader, &mut |block| docs.extend_from_slice(block))
            })
            .map_err(|error| self.explain(error))?;
        Ok(docs)
    }

    /// The heap TIDs of documents of a segment.
    fn tids_of(
        &self,
        segment: usize,
        docs: &[u32],
        found: &mut dyn FnMut(HeapTid),
    ) -> Result<(), Bm25Error> {
        let all = u64::from(self.searcher.segment_reader(segment as u32).max_doc());
        // Reading the whole list is cheaper once a page holds several of the rows wanted.
        if docs.len() as u64 * 256 > all {
            let tids = self.tids(segment)?;
            for &doc in docs {
                found(tids[doc as usize]);
            }
        } else {
            for &doc in docs {
                found(self.tid(segment, doc)?);
            }
        }
        Ok(())
    }
}

/// Scores single texts by an index's statistics, as a sequential scan needs it.
pub struct TextScorer<S> {
    view: Arc<View<S>>,
    way: Way,
}

enum Way {
    Texts(RowScorer),
    /// The texts become a segment of one document, which takes milliseconds.
    Segment(Box<dyn Weight>),
}

impl<S: PageStore + Send + Sync + 'static> TextScorer<S> {
    /// Makes a query ready.
    ///
    /// # Errors
    /// As for [`RankedScan::new`].
    pub fn new(
        view: Arc<View<S>>,
        prepared: &Prepared,
        together: Option<&Together>,
    ) -> Result<Self, Bm25Error> {
        let compiled = &prepared.compiled;
        let by_texts = match &compiled.condition {
            Some(condition) => {
                let statistics = statistics(&view, together);
                RowScorer::new(condition, statistics, &view.params, view.analyzers())
                    .map_err(|error| view.explain(error))?
            }
            None => None,
        };
        let way = match by_texts {
            Some(scorer) => Way::Texts(scorer),
            None => Way::Segment(weight(&*compiled.query, &view, together)?),
        };
        Ok(Self { view, way })
    }

    /// The score of a row with these texts, one a column; nothing where it does not match.
    ///
    /// # Errors
    /// [`Bm25Error::Page`] where a page is damaged.
    pub fn score(&mut self, texts: &[Option<&str>]) -> Result<Option<f32>, Bm25Error> {
        let weight = match &mut self.way {
            Way::Texts(scorer) => return Ok(scorer.score(texts)),
            Way::Segment(weight) => weight,
        };
        let tid = HeapTid { block: 0, offset: 1 };
        let mut builder = SegmentBuilder::new(&self.view.params, TINY_BUDGET)?;
        builder.add(texts.iter().copied(), tid)?;
        let index: Index = builder.finish_index()?;
        let reader = index
            .reader_builder()
            .reload_policy(ReloadPolicy::Manual)
            .doc_store_cache_num_blocks(0)
            .try_into()?;
        let searcher = reader.searcher();
        let mut scorer = weight
            .scorer(searcher.segment_reader(0), 1.0)
            .map_err(|error| self.view.explain(error))?;
        Ok((scorer.doc() == 0).then(|| scorer.score()))
    }
}
