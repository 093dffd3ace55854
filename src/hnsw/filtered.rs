//! Scans with a filter: through the graph, or over the nodes that pass.
//!
//! The graph is searched as without a filter, but only nodes that pass enter the window; the others are
//! passed through. That visits as many more nodes as rows do not pass. Reading every node that passes
//! and no other costs the attribute pages and a page for each such node, and finds all of them. Which
//! is cheaper follows from the share that passes, estimated from a few attribute pages.
//!
//! The estimate knows nothing of where the passing nodes lie: far from the query, the graph would be
//! searched as a whole. So a search through the graph may spend what reading the passing nodes would
//! cost, and then they are read after all: no filter costs more than twice the cheaper way.

use super::layout::Entry;
use super::params::Storage;
use super::scan::{Filtering, Scan};
use super::search::Found;
use crate::page::{PageError, PageStore};

/// Attribute pages that the share of passing nodes is estimated from.
const SAMPLED_GROUPS: u32 = 8;
/// What it costs to read an attribute page and to compare its keys, in accesses to node pages.
const GROUP_COST: f64 = 4.0;
/// What a node page costs in a search, where its links are followed, more than in reading it for a
/// node that passes.
const WALK_COST: f64 = 2.0;

impl<S: PageStore> Scan<'_, S> {
    /// The first rows of a filtered scan, into the search's window.
    pub(super) fn start_filtered(&mut self, entry: Entry, ef: usize) -> Result<(), PageError> {
        let (groups, pages) = self.extent()?;
        let Some(matches) = &mut self.search.matches else { return Ok(()) };
        let step = groups.div_ceil(SAMPLED_GROUPS).max(1);
        for group in (0..groups).step_by(step as usize) {
            matches.group(&mut self.reader, group)?;
        }
        let layout = self.reader.layout;
        let share = matches.share(&layout);
        let exact = exact_cost(groups, pages, share, layout.slots_per_page());
        if exact <= WALK_COST * walked_pages(layout.storage(), ef as f64 / share) {
            return self.find_all_passing();
        }
        self.stats.filtering = Filtering::Graph;
        self.search.descend(&mut self.reader, &self.query, entry, 0)?;
        let mut kept = Vec::new();
        for found in std::mem::take(self.search.window()) {
            let passes = match &mut self.search.matches {
                Some(matches) => matches.contains(&mut self.reader, found.id)?,
                None => true,
            };
            kept.extend(passes.then_some(found));
        }
        *self.search.window() = kept;
        self.search.max_accesses = self.reader.accesses() + (exact / WALK_COST) as u64;
        self.search.run(&mut self.reader, &self.query, 0, ef)?;
        self.bound_filtered()
    }

    /// Reads the nodes that pass where the graph has cost as much as that would.
    pub(super) fn bound_filtered(&mut self) -> Result<(), PageError> {
        if self.reader.accesses() > self.search.max_accesses {
            self.find_all_passing()?;
        }
        Ok(())
    }

    /// Moves every live node that passes into the window, as far as the limit of scored nodes allows;
    /// the search ends with that.
    pub(super) fn find_all_passing(&mut self) -> Result<(), PageError> {
        self.stats.filtering = Filtering::Exact;
        self.search.max_accesses = u64::MAX;
        self.search.gather_all();
        let (groups, _) = self.extent()?;
        let layout = self.reader.layout;
        let mut wanted: Vec<(u32, usize)> = Vec::new();
        for group in 0..groups {
            self.reader.store.check_interrupts()?;
            let Some(matches) = &mut self.search.matches else { return Ok(()) };
            let bits = matches.group(&mut self.reader, group)?;
            wanted.clear();
            for (word, &bits) in bits.iter().enumerate() {
                let mut rest = bits;
                while rest != 0 {
                    let place = word * 64 + rest.trailing_zeros() as usize;
                    rest &= rest - 1;
                    let page = (place / layout.slots_per_page()) as u32;
                    wanted.push((page, place % layout.slots_per_page()));
                }
            }
            self.reader.release_pins();
            let first = layout.attribute_page(group) + 1;
            for slots in wanted.chunk_by(|a, b| a.0 == b.0) {
                if self.is_over_limit() {
                    return Ok(());
                }
                self.score_slots(first + slots[0].0, slots)?;
            }
        }
        Ok(())
    }

    /// Scores the slots of a page that were not yet, into the window.
    fn score_slots(&mut self, blkno: u32, slots: &[(u32, usize)]) -> Result<(), PageError> {
        let layout = self.reader.layout;
        let fresh: Vec<usize> = slots
            .iter()
            .map(|&(_, slot)| slot)
            .filter(|&slot| !self.reader.is_scored(blkno, slot))
            .collect();
        if fresh.is_empty() || blkno >= self.meta.page_end {
            return Ok(());
        }
        let query = &self.query;
        let found = self.reader.page_if_filled(blkno, |page| {
            fresh.iter().for_each(|&at| page.prefetch(at));
            let mut found = Vec::with_capacity(fresh.len());
            for &at in &fresh {
                let slot = page.slot(at)?;
                if slot.state() == super::layout::SlotState::Live
                    && let Some(id) = layout.id(blkno, at)
                {
                    found.push(Found::new(id, &slot, query.score(&slot)));
                }
            }
            Ok(found)
        })?;
        self.search.add(found.into_iter().flatten());
        Ok(())
    }

    /// Groups of node pages and node pages that the index has.
    fn extent(&self) -> Result<(u32, u32), PageError> {
        let end = self.meta.page_end.min(self.reader.store.page_count()?);
        let stride = self.reader.layout.group_pages() as u32 + 1;
        let groups = end.saturating_sub(1).div_ceil(stride);
        Ok((groups, end.saturating_sub(1 + groups)))
    }
}

/// What it costs to read every node that passes, in accesses to node pages.
fn exact_cost(groups: u32, pages: u32, share: f64, slots_per_page: usize) -> f64 {
    let pages_with_one = 1.0 - (1.0 - share).powi(slots_per_page as i32);
    f64::from(groups) * GROUP_COST + f64::from(pages) * pages_with_one
}

/// Pages that a search reads until its window holds `nodes`, fitted to searches over real sentence
/// embeddings (`README.md`): 255 pages for 36 nodes and 713 for 128 with sketches, 525 for 41 and
/// 1,720 for 160 without.
fn walked_pages(storage: Storage, nodes: f64) -> f64 {
    let scale = match storage {
        Storage::Sketched => 12.0,
        Storage::Plain => 22.0,
    };
    scale * nodes.powf(0.85)
}
