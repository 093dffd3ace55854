//! An index scan: rows in ascending order of a lower bound of their distance, for as long as asked.
//!
//! The first row comes when a search with `ef_search` candidates has stopped (Malkov & Yashunin
//! 2018, Algorithm 5). Rows are then handed out nearest first, each with a bound that its exact
//! distance does not fall below; whoever wants exact order keeps rows back until the bound has passed
//! their exact distance, as PostgreSQL's executor does for `xs_recheckorderby`.
//!
//! An iterative scan goes on where the search stopped, before the window of known rows has run dry:
//! when a quarter of it is left, the discarded candidates come back and the search expands until the
//! window is full again. So a row is nearly always found before its turn (pgvector hands out the
//! whole window first and then drops rows that come too late). What is nevertheless found after its
//! turn is late: [`Iterative::StrictOrder`] keeps it for the end, [`Iterative::RelaxedOrder`] hands it
//! out at once. When the graph is exhausted, the pages are swept for nodes that no link led to.

use super::HnswError;
use super::code::Query;
use super::filter::{Filter, Matches};
use super::layout::{Layout, Meta, NIL, SlotState};
use super::search::{Discarded, Found, MAX_CHAIN, Reader, Search, read_meta};
use crate::page::{HeapTid, PageError, PageStore};
use std::collections::VecDeque;

/// Most of [`ScanOptions::expected_rows`] that the first search looks for at once: a larger window is slow to
/// keep sorted.
const MOST_EXPECTED: u32 = 512;

/// Whether and how a scan goes on past `ef_search`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Iterative {
    /// It ends.
    Off,
    /// It goes on; rows found after their turn come last.
    StrictOrder,
    /// It goes on; rows found after their turn come as they are found.
    RelaxedOrder,
}

/// Where the rows come that have no distance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnplacedRows {
    /// Before all others, as in an order with NULLS FIRST.
    First,
    /// After all others.
    Last,
}

/// How a scan runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanOptions {
    /// Candidates that the search keeps; more find more, slower.
    pub ef_search: u32,
    /// Whether it goes on.
    pub iterative: Iterative,
    /// Nodes scored after which the search goes no further; 0 for no limit. The rows known by then
    /// are still handed out.
    pub max_scan_tuples: u64,
    /// Where the rows come that have no distance.
    pub unplaced: UnplacedRows,
    /// What orders the others.
    pub ranking: Ranking,
    /// Rows that will be asked for, 0 where nobody knows. An iterative scan then begins with a search for
    /// as many, and for those that an exact order reads beyond them, rather than go on several times.
    pub expected_rows: u32,
}

impl Default for ScanOptions {
    fn default() -> Self {
        Self {
            ef_search: super::DEFAULT_EF_SEARCH,
            iterative: Iterative::StrictOrder,
            max_scan_tuples: 0,
            unplaced: UnplacedRows::Last,
            ranking: Ranking::LowerBound,
            expected_rows: 0,
        }
    }
}

/// What orders the rows of a scan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ranking {
    /// A lower bound of the exact distance, so that whoever has the vectors can make the order exact.
    #[default]
    LowerBound,
    /// The distance of the 8-bit codes, for whoever has nothing better.
    Codes,
}

/// Whether a row came in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Its bound is no less than those before it.
    InOrder,
    /// It was found when rows behind it had been handed out already.
    Late,
    /// It has no distance (a NULL, or a zero vector under cosine) and comes after all others with a
    /// bound of infinity, or before them with negative infinity, as [`UnplacedRows`] says.
    Unplaced,
}

/// A row that a scan found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// The row.
    pub heap_tid: HeapTid,
    /// No more than its exact distance, in the metric's own unit; by [`Ranking::Codes`] the distance of
    /// its code.
    pub lower_bound: f32,
    /// Whether it came in its place.
    pub turn: Turn,
}

/// What a scan has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScanStats {
    /// Nodes whose distance was computed.
    pub visited_nodes: u64,
    /// Page accesses.
    pub pages: u64,
    /// Rows handed out.
    pub rows: u64,
    /// Of these, the late ones.
    pub late_rows: u64,
    /// Times the search went on.
    pub resumes: u64,
    /// Nodes that only the sweep found.
    pub swept_nodes: u64,
    /// How a filtered scan finds the nodes that pass.
    pub filtering: Filtering,
}

/// How a scan comes to the nodes that pass its filter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Filtering {
    /// It has none.
    #[default]
    None,
    /// By the graph's links, through nodes that do not pass.
    Graph,
    /// It reads every node that passes and no other.
    Exact,
}

/// A scan under way. Holds no pin and no lock between calls.
pub struct Scan<'s, S: PageStore> {
    pub(super) reader: Reader<'s, S>,
    pub(super) query: Query,
    options: ScanOptions,
    pub(super) search: Search,
    phase: Phase,
    /// The greatest bound handed out in order.
    frontier: f32,
    late: Vec<Found>,
    /// Rows of the node handed out last.
    pending: VecDeque<Hit>,
    tids: Vec<HeapTid>,
    pub(super) meta: Meta,
    unplaced_slots: usize,
    pub(super) stats: ScanStats,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    NotStarted,
    InOrder,
    /// The rest of the window, then the late rows.
    Last,
    LateRows,
    /// Rows without a place, from this posting slot on.
    Unplaced(u32),
    Over,
}

impl<'s, S: PageStore> Scan<'s, S> {
    /// Reads the metapage and prepares the query; pages are searched by the first
    /// [`Scan::next`]. `query` holds finite numbers.
    ///
    /// # Errors
    /// [`HnswError::Dims`] where the length is not the index's; what the store raises.
    pub fn open(store: &'s S, query: &[f32], options: ScanOptions) -> Result<Self, HnswError> {
        let meta = read_meta(store)?;
        super::check_dims(&meta.params, query)?;
        let stats = ScanStats { pages: 1, ..ScanStats::default() };
        Ok(Self {
            reader: Reader::for_scan(store, Layout::new(&meta.params)),
            query: Query::new(&meta.params, query).ranked_by(options.ranking),
            options,
            search: Search::new(match options.iterative {
                Iterative::Off => Discarded::Forget,
                _ => Discarded::Keep,
            }),
            phase: Phase::NotStarted,
            frontier: f32::NEG_INFINITY,
            late: Vec::new(),
            pending: VecDeque::new(),
            tids: Vec::new(),
            meta,
            unplaced_slots: 0,
            stats,
        })
    }

    /// As [`Scan::open`], for the rows that pass the filter. Rows without a place in the graph have no
    /// filter columns: they come as [`Turn::Unplaced`] whatever the filter says.
    ///
    /// # Errors
    /// As [`Scan::open`]; [`HnswError::Attributes`] where the filter asks for bytes that the index's
    /// nodes do not have.
    pub fn open_filtered(
        store: &'s S,
        query: &[f32],
        options: ScanOptions,
        filter: Filter,
    ) -> Result<Self, HnswError> {
        let mut scan = Self::open(store, query, options)?;
        let expected = scan.meta.params.attr_len();
        if !filter.fits(expected) {
            return Err(HnswError::Attributes { expected, got: expected + 1 });
        }
        scan.search.matches = Some(Matches::new(filter));
        Ok(scan)
    }

    /// The next row, or `None` when there are no more.
    ///
    /// # Errors
    /// [`PageError`] of the store, of damaged pages, or [`PageError::Interrupted`].
    #[expect(clippy::should_implement_trait, reason = "fallible, and the store must outlive it")]
    pub fn next(&mut self) -> Result<Option<Hit>, HnswError> {
        let hit = self.next_hit();
        self.reader.release_pins();
        self.stats.visited_nodes = self.search.visited() + self.stats.swept_nodes;
        self.stats.pages = 1 + self.reader.accesses();
        let hit = hit?;
        if let Some(hit) = hit {
            self.stats.rows += 1;
            self.stats.late_rows += u64::from(hit.turn == Turn::Late);
        }
        Ok(hit)
    }

    /// What the scan has done so far.
    pub fn stats(&self) -> ScanStats {
        self.stats
    }

    fn next_hit(&mut self) -> Result<Option<Hit>, PageError> {
        loop {
            if let Some(hit) = self.pending.pop_front() {
                return Ok(Some(hit));
            }
            match self.phase {
                Phase::NotStarted if self.options.unplaced == UnplacedRows::First => {
                    self.phase = Phase::Unplaced(self.meta.unplaced);
                }
                Phase::NotStarted => self.start()?,
                Phase::InOrder => {
                    self.refill()?;
                    match self.search.window().pop() {
                        Some(found) => self.hand_out(found)?,
                        None => self.phase = Phase::Last,
                    }
                }
                Phase::Last => {
                    if self.options.iterative != Iterative::Off && !self.is_over_limit() {
                        match self.stats.filtering {
                            Filtering::None => self.sweep()?,
                            Filtering::Graph => {
                                self.find_all_passing()?;
                                self.late.append(self.search.window());
                            }
                            Filtering::Exact => {}
                        }
                    }
                    sort_for_output(&self.query, &mut self.late);
                    self.phase = Phase::LateRows;
                }
                Phase::LateRows => match self.late.pop() {
                    Some(found) => {
                        let late = found.lower_bound < self.frontier;
                        self.push_rows(&found, if late { Turn::Late } else { Turn::InOrder })?;
                    }
                    None if self.options.iterative == Iterative::Off || self.is_over_limit() => {
                        self.phase = Phase::Over;
                    }
                    None if self.options.unplaced == UnplacedRows::First => {
                        self.phase = Phase::Over;
                    }
                    None => self.phase = Phase::Unplaced(self.meta.unplaced),
                },
                Phase::Unplaced(NIL) if self.options.unplaced == UnplacedRows::First => {
                    self.start()?;
                }
                Phase::Unplaced(NIL) => self.phase = Phase::Over,
                Phase::Unplaced(place) => {
                    self.tids.clear();
                    let next = self.reader.posting_slot(NIL, place, &mut self.tids)?;
                    self.unplaced_slots += 1;
                    let is_cycle = self.unplaced_slots > MAX_CHAIN;
                    self.phase = Phase::Unplaced(if is_cycle { NIL } else { next });
                    let lower_bound = match self.options.unplaced {
                        UnplacedRows::First => f32::NEG_INFINITY,
                        UnplacedRows::Last => f32::INFINITY,
                    };
                    let turn = Turn::Unplaced;
                    let hit = |&heap_tid| Hit { heap_tid, lower_bound, turn };
                    self.pending.extend(self.tids.iter().map(hit));
                }
                Phase::Over => return Ok(None),
            }
        }
    }

    fn start(&mut self) -> Result<(), PageError> {
        self.phase = Phase::InOrder;
        self.reader.store.failpoint("scan begins")?;
        if let Some(entry) = self.meta.entry {
            let ef = self.first_ef();
            if self.search.matches.is_some() {
                self.start_filtered(entry, ef)?;
            } else {
                self.search.descend(&mut self.reader, &self.query, entry, 0)?;
                self.search.run(&mut self.reader, &self.query, 0, ef)?;
            }
        }
        sort_for_output(&self.query, self.search.window());
        Ok(())
    }

    fn ef(&self) -> usize {
        self.options.ef_search.max(1) as usize
    }

    /// Candidates of the first search.
    fn first_ef(&self) -> usize {
        if self.options.iterative == Iterative::Off {
            return self.ef();
        }
        let expected = self.options.expected_rows.min(MOST_EXPECTED) as usize;
        // By lower bounds of 8-bit codes, an exact order of 200 rows of a million reads 236.
        self.ef().max(expected + expected / 5 + self.ef() / 4)
    }

    pub(super) fn is_over_limit(&self) -> bool {
        let limit = self.options.max_scan_tuples;
        limit > 0 && self.search.visited() >= limit
    }

    /// Goes on searching where the window is about to run dry.
    fn refill(&mut self) -> Result<(), PageError> {
        // The window grows with what was handed out, so that a scan of n rows resumes log n times
        // and pins each page about as often.
        let rows = self.stats.rows as usize;
        let ef = self.ef().max(rows / 2);
        let reserve = if rows < self.first_ef() { self.ef() / 4 } else { ef / 4 };
        if self.options.iterative == Iterative::Off
            || self.search.window().len() > reserve
            || self.search.is_exhausted() && !self.search.has_evicted()
        {
            return Ok(());
        }
        if self.is_over_limit() {
            self.search.gather_all();
        } else {
            self.stats.resumes += 1;
            self.reader.store.failpoint("scan resumes")?;
            self.search.widen(ef);
            self.search.run(&mut self.reader, &self.query, 0, ef)?;
            self.bound_filtered()?;
        }
        sort_for_output(&self.query, self.search.window());
        Ok(())
    }

    fn hand_out(&mut self, found: Found) -> Result<(), PageError> {
        if found.lower_bound >= self.frontier {
            self.frontier = found.lower_bound;
            return self.push_rows(&found, Turn::InOrder);
        }
        match self.options.iterative {
            Iterative::StrictOrder => self.late.push(found),
            _ => self.push_rows(&found, Turn::Late)?,
        }
        Ok(())
    }

    fn push_rows(&mut self, found: &Found, turn: Turn) -> Result<(), PageError> {
        self.tids.clear();
        self.tids.extend(found.tid);
        if found.posting != NIL {
            self.reader.posting_tids(found.id, found.posting, &mut self.tids)?;
        }
        let lower_bound = found.lower_bound;
        self.pending.extend(self.tids.iter().map(|&heap_tid| Hit { heap_tid, lower_bound, turn }));
        Ok(())
    }

    /// Finds the live nodes that the graph did not lead to.
    fn sweep(&mut self) -> Result<(), PageError> {
        self.reader.store.failpoint("scan sweeps")?;
        // Nodes visited on upper levels only were forgotten there, so this is level 0's account.
        let end = self.meta.page_end.min(self.reader.store.page_count()?);
        for blkno in 1..end {
            if blkno % 64 == 0 {
                self.reader.store.check_interrupts()?;
                self.reader.release_pins();
            }
            let layout = self.reader.layout;
            let visited: Vec<bool> = (0..layout.slots_per_page())
                .map(|slot| self.reader.is_scored(blkno, slot))
                .collect();
            if visited.iter().all(|&visited| visited) {
                continue;
            }
            let (query, late) = (&self.query, &mut self.late);
            let mut swept = 0;
            self.reader.page_if_filled(blkno, |page| {
                for slot in page.slots() {
                    let (at, slot) = slot?;
                    if slot.state() == SlotState::Live
                        && !visited[at]
                        && let Some(id) = layout.id(blkno, at)
                    {
                        late.push(Found::new(id, &slot, query.score(&slot)));
                        swept += 1;
                    }
                }
                Ok(())
            })?;
            self.stats.swept_nodes += swept;
        }
        Ok(())
    }
}

/// Least bound last, where `pop` takes it.
pub(super) fn sort_for_output(query: &Query, rows: &mut [Found]) {
    rows.iter_mut().for_each(|row| row.bound(query));
    rows.sort_unstable_by(|a, b| b.lower_bound.total_cmp(&a.lower_bound).then(b.cmp(a)));
}
