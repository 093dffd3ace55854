//! The graph in memory while an index is built: codes, links and locks in flat arrays.
//!
//! Malkov & Yashunin 2018, Algorithm 1, by many threads at once. Link arrays are atomics: a search
//! reads a list without a lock and may see it half replaced, each entry being a node in any case;
//! a list is changed under its node's lock only, where it is read again first, so that no update
//! is lost. A thread holds one node lock at a time. With one thread, the graph depends on nothing
//! but the vectors, their order and the seed.

use super::code::{Code, CodeRef, Scorer};
use super::layout::{MAX_LEVEL, NIL};
use super::params::HnswParams;
use super::select::select_neighbors;
use crate::page::PageError;
use crate::vector::memory::{self, LINE, Line, flat};
use crate::vector::prefetch;
use parking_lot::{Mutex, RwLock};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Nodes and their links.
pub(crate) struct Graph {
    params: HnswParams,
    scorer: Scorer,
    nodes: Vec<NodeMeta>,
    /// Scale and norm of each code, apart from what a distance does not need.
    scales: Vec<[f32; 2]>,
    /// [`code_lines`] per node.
    codes: Vec<Line<[i8; LINE]>>,
    /// [`base_room`] links per node, [`NIL`]s after the last.
    base: Vec<Line<[AtomicU32; LINKS_A_LINE]>>,
    /// m links per level above 0, for the nodes that have some.
    upper: Vec<AtomicU32>,
    locks: Vec<Mutex<()>>,
    entry: RwLock<Option<(u32, u8)>>,
    promotion: Mutex<()>,
}

/// Places for links on level 0. A list may outgrow its limit of 2m by half before it is pruned:
/// each pruning then makes room for m more links, where pruning for every link would take most of
/// the build's time. [`Graph::trim`] brings the lists to their limit at the end.
fn base_room(params: &HnswParams) -> usize {
    3 * params.m()
}

/// More have no place in a [`Pooled`].
pub(crate) const MAX_NODES: usize = 1 << 31;

/// Nodes whose distances are computed together.
const AT_ONCE: usize = 16;

const LINKS_A_LINE: usize = LINE / size_of::<AtomicU32>();

/// Cache lines of a code.
fn code_lines(params: &HnswParams) -> usize {
    params.dims().div_ceil(LINE)
}

/// Cache lines of a node's links on level 0.
fn base_lines(params: &HnswParams) -> usize {
    base_room(params).div_ceil(LINKS_A_LINE)
}

struct NodeMeta {
    error: f32,
    level: u8,
    /// Where the node's upper links start.
    upper_at: u32,
}

impl Graph {
    pub(crate) fn new(params: HnswParams) -> Self {
        Self {
            params,
            scorer: Scorer::new(params.link_metric()),
            nodes: Vec::new(),
            scales: Vec::new(),
            codes: Vec::new(),
            base: Vec::new(),
            upper: Vec::new(),
            locks: Vec::new(),
            entry: RwLock::new(None),
            promotion: Mutex::new(()),
        }
    }

    /// Bytes that one more node takes, all arrays together, with room for their doubling.
    pub(crate) fn bytes_per_node(params: &HnswParams) -> usize {
        let links = base_lines(params) * LINE + params.m() * 4 / 8;
        let code = code_lines(params) * LINE + size_of::<[f32; 2]>();
        code + links + size_of::<NodeMeta>() + size_of::<Mutex<()>>()
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Adds a node without links.
    pub(crate) fn push(&mut self, code: &Code, level: u8) -> u32 {
        let id = self.nodes.len() as u32;
        let upper_at = self.upper.len() as u32;
        memory::reserve(&mut self.nodes, 1);
        self.nodes.push(NodeMeta { error: code.error, level, upper_at });
        memory::reserve(&mut self.scales, 1);
        self.scales.push([code.scale, code.norm]);
        memory::reserve(&mut self.codes, code_lines(&self.params));
        self.codes.extend(code.codes.chunks(LINE).map(|codes| {
            let mut line = Line([0; LINE]);
            line.0[..codes.len()].copy_from_slice(codes);
            line
        }));
        let nil = || AtomicU32::new(NIL);
        let nils = || Line(std::array::from_fn(|_| nil()));
        memory::reserve(&mut self.base, base_lines(&self.params));
        self.base.extend(std::iter::repeat_with(nils).take(base_lines(&self.params)));
        self.upper.extend(std::iter::repeat_with(nil).take(usize::from(level) * self.params.m()));
        self.locks.push(Mutex::new(()));
        id
    }

    pub(crate) fn level(&self, node: u32) -> u8 {
        self.nodes[node as usize].level
    }

    pub(crate) fn error(&self, node: u32) -> f32 {
        self.nodes[node as usize].error
    }

    /// Widens the error bound of a node that another row's vector joins.
    pub(crate) fn widen_error(&mut self, node: u32, error: f32) {
        let widest = &mut self.nodes[node as usize].error;
        *widest = widest.max(error);
    }

    pub(crate) fn entry(&self) -> Option<(u32, u8)> {
        *self.entry.read()
    }

    #[inline]
    pub(crate) fn code(&self, node: u32) -> CodeRef<'_> {
        let (at, dims) = (node as usize, self.params.dims());
        let [scale, norm] = self.scales[at];
        let lines = code_lines(&self.params);
        let codes = &flat(&self.codes[at * lines..][..lines])[..dims];
        CodeRef { codes, scale, norm }
    }

    #[inline]
    fn link_slots(&self, node: u32, level: u8) -> &[AtomicU32] {
        if level == 0 {
            let lines = base_lines(&self.params);
            &flat(&self.base[node as usize * lines..][..lines])[..base_room(&self.params)]
        } else {
            let m = self.params.m();
            let start = self.nodes[node as usize].upper_at as usize + usize::from(level - 1) * m;
            &self.upper[start..start + m]
        }
    }

    /// A node's neighbors on `level`, which it has.
    #[inline]
    pub(crate) fn links(&self, node: u32, level: u8) -> impl Iterator<Item = u32> + '_ {
        self.link_slots(node, level).iter().map(|link| link.load(Relaxed)).take_while(|&l| l != NIL)
    }

    fn set_links(&self, node: u32, level: u8, links: &[u32]) {
        let slots = self.link_slots(node, level);
        for (i, slot) in slots.iter().enumerate() {
            slot.store(links.get(i).copied().unwrap_or(NIL), Relaxed);
        }
    }

    #[inline]
    fn distance(&self, a: u32, b: u32) -> f32 {
        self.scorer.distance(self.code(a), self.code(b))
    }

    /// From a node to at most `MAX` others.
    #[inline(always)]
    fn distances<const MAX: usize>(&self, from: u32, to: &[u32]) -> [f32; MAX] {
        let codes = flat(&self.codes);
        let stride = code_lines(&self.params) * LINE;
        let row = &codes[from as usize * stride..][..stride];
        self.scorer.distances(row, self.code(from), codes, to, |node| self.code(node))
    }

    /// As [`select_neighbors`] asks for it.
    #[inline]
    fn is_behind(&self, candidate: u32, to_base: f32, picked: &[u32]) -> bool {
        // Four at once, or the rest: most often one of the first is near enough.
        for picked in picked.chunks(4) {
            let distances = self.distances::<4>(candidate, picked);
            // All of them: an end at the first would be guessed wrong.
            let near = |count, &distance: &f32| count + u32::from(distance <= to_base);
            if distances[..picked.len()].iter().fold(0, near) > 0 {
                return true;
            }
        }
        false
    }

    /// Makes the scratch large enough for a search of this graph.
    fn fit(&self, scratch: &mut Scratch) {
        scratch.visited.grow(self.len());
        scratch.fresh.resize(base_room(&self.params), NIL);
    }

    /// Links the node in: Algorithm 1.
    pub(crate) fn insert(&self, node: u32, scratch: &mut Scratch) {
        let level = self.level(node);
        let mut entry = self.entry();
        let mut promotion = None;
        if entry.is_none_or(|(_, top)| level > top) {
            // The new top level has one node at a time, as in hnswlib: the next finds it linked.
            promotion = Some(self.promotion.lock());
            entry = self.entry();
        }
        let Some((mut nearest, top)) = entry else {
            *self.entry.write() = Some((node, level));
            return;
        };
        self.fit(scratch);
        for l in (level.min(top) + 1..=top).rev() {
            self.search_level(node, &[nearest], 1, l, scratch);
            nearest = scratch.found[0].1;
        }
        // All lists are filled before the first link leads here, and level 0 is linked first: whoever
        // finds the node on a level finds its way on.
        let mut starts = vec![nearest];
        scratch.bases.clear();
        for l in (0..=level.min(top)).rev() {
            self.search_level(node, &starts, self.params.ef_construction(), l, scratch);
            starts.clear();
            starts.extend(scratch.found.iter().map(|&(_, id)| id));
            let Scratch { found, picked, bases, .. } = scratch;
            let max = self.params.max_links(l);
            select_neighbors(found, max, picked, |c, to_base, p| self.is_behind(c, to_base, p));
            self.set_links(node, l, picked);
            bases.extend(picked.iter().map(|&base| (base, l)));
        }
        let Scratch { bases, candidates, kept, .. } = scratch;
        for &(base, l) in bases.iter().rev() {
            self.link_back(base, node, l, candidates, kept);
        }
        if level > top && promotion.is_some() {
            *self.entry.write() = Some((node, level));
        }
    }

    /// Adds `node` to the links of `base`, pruned by the heuristic where they are full.
    fn link_back(
        &self,
        base: u32,
        node: u32,
        level: u8,
        candidates: &mut Vec<(f32, u32)>,
        kept: &mut Vec<u32>,
    ) {
        let _locked = self.locks[base as usize].lock();
        let slots = self.link_slots(base, level);
        kept.clear();
        kept.extend(self.links(base, level));
        if kept.contains(&node) {
            return;
        }
        if kept.len() < slots.len() {
            slots[kept.len()].store(node, Relaxed);
            return;
        }
        kept.push(node);
        self.prune(base, level, candidates, kept);
    }

    /// Brings a node's links on level 0 to their limit, once all nodes are linked.
    pub(crate) fn trim(&self, node: u32, scratch: &mut Scratch) {
        let Scratch { candidates, kept, .. } = scratch;
        let _locked = self.locks[node as usize].lock();
        kept.clear();
        kept.extend(self.links(node, 0));
        if kept.len() > self.params.max_links(0) {
            self.prune(node, 0, candidates, kept);
        }
    }

    /// Makes every node reachable on level 0, once all are linked and trimmed: a node that no path
    /// from the entry point leads to gets a link from the nearest of those that a search for it
    /// finds. Pruning can leave a few such nodes behind.
    pub(crate) fn connect(
        &self,
        scratch: &mut Scratch,
        check: &mut dyn FnMut() -> Result<(), PageError>,
    ) -> Result<(), PageError> {
        let Some((entry, _)) = self.entry() else { return Ok(()) };
        let mut reached = vec![false; self.len()];
        self.reach(entry, &mut reached);
        self.fit(scratch);
        let mut since_check = 0;
        for node in 0..self.len() as u32 {
            if reached[node as usize] {
                continue;
            }
            since_check += 1;
            if since_check % 64 == 0 {
                check()?;
            }
            self.search_level(node, &[entry], self.params.ef_construction(), 0, scratch);
            let found = &scratch.found;
            let full = self.params.max_links(0);
            let with_room = found.iter().find(|&&(_, id)| self.links(id, 0).count() < full);
            if let Some(&(_, base)) = with_room {
                self.link_slots(base, 0)[self.links(base, 0).count()].store(node, Relaxed);
            } else if let Some((base, place)) =
                found.iter().find_map(|&(_, id)| Some((id, self.redundant_link(id)?)))
            {
                self.link_slots(base, 0)[place].store(node, Relaxed);
            }
            self.reach(node, &mut reached);
        }
        Ok(())
    }

    fn reach(&self, start: u32, reached: &mut [bool]) {
        let mut queue = vec![start];
        reached[start as usize] = true;
        while let Some(node) = queue.pop() {
            for other in self.links(node, 0) {
                if !std::mem::replace(&mut reached[other as usize], true) {
                    queue.push(other);
                }
            }
        }
    }

    /// A link of the node whose target another of its neighbors links to as well.
    fn redundant_link(&self, node: u32) -> Option<usize> {
        let links: Vec<u32> = self.links(node, 0).collect();
        (0..links.len()).rev().find(|&place| {
            let target = links[place];
            links.iter().any(|&other| other != target && self.links(other, 0).any(|l| l == target))
        })
    }

    /// Replaces a node's links, whose lock is held, by the best of `kept`.
    fn prune(&self, base: u32, level: u8, candidates: &mut Vec<(f32, u32)>, kept: &mut Vec<u32>) {
        let max = self.params.max_links(level);
        candidates.clear();
        for some in kept.chunks(AT_ONCE) {
            let distances = self.distances::<AT_ONCE>(base, some);
            candidates.extend(distances.into_iter().zip(some.iter().copied()));
        }
        candidates.sort_unstable_by_key(|&(distance, id)| Pooled::new(distance, id));
        select_neighbors(candidates, max, kept, |c, to_base, p| self.is_behind(c, to_base, p));
        self.set_links(base, level, kept);
    }

    /// The `ef` nodes nearest to `node` that a best-first search from `starts` meets, nearest
    /// first, in `scratch.found`: Algorithm 2.
    fn search_level(&self, node: u32, starts: &[u32], ef: usize, level: u8, scratch: &mut Scratch) {
        let Scratch { visited, pool, found, fresh, .. } = scratch;
        visited.clear();
        pool.clear();
        let pooled = |other| Pooled::new(self.distance(node, other), other);
        pool.extend(starts.iter().filter(|&&start| visited.insert(start)).map(|&s| pooled(s)));
        pool.sort_unstable();
        pool.truncate(ef);
        let mut at = 0;
        while let Some(nearest) = pool.get_mut(at) {
            let is_expanded = nearest.is_expanded();
            let nearest = nearest.expand();
            at += 1;
            if is_expanded {
                continue;
            }
            // Most often what is next by now stays the next.
            if let Some(next) = pool[at..].iter().find(|pooled| !pooled.is_expanded()) {
                prefetch(self.link_slots(next.id(), level));
            }
            let fresh = visited.insert_all(self.links(nearest, level), fresh);
            for &other in fresh {
                prefetch(self.code(other).codes);
            }
            for some in fresh.chunks(AT_ONCE) {
                let distances = self.distances::<AT_ONCE>(node, some);
                for (distance, &other) in distances.into_iter().zip(some) {
                    let pooled = Pooled::new(distance, other);
                    if pool.len() >= ef && pool.last().is_some_and(|last| pooled >= *last) {
                        continue;
                    }
                    let place = pool.partition_point(|nearer| *nearer < pooled);
                    if pool.len() >= ef {
                        pool.pop();
                    }
                    pool.insert(place, pooled);
                    at = at.min(place);
                }
            }
        }
        found.clear();
        found.extend(pool.iter().map(|pooled| (pooled.distance(), pooled.id())));
    }
}

/// One of the nearest nodes that a search has met, in one number that orders by distance, then id:
/// the distance's bits, 31 of the id, and one that says whether it is expanded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Pooled(u64);

impl Pooled {
    #[inline]
    fn new(distance: f32, id: u32) -> Self {
        let bits = distance.to_bits();
        // Negative numbers order backwards by their bits; flip them all, and the others' sign.
        let ordered = bits ^ (((bits as i32 >> 31) as u32) | 0x8000_0000);
        Self(u64::from(ordered) << 32 | u64::from(id) << 1)
    }

    fn distance(self) -> f32 {
        let ordered = (self.0 >> 32) as u32;
        let mask = if ordered >> 31 == 1 { 0x8000_0000 } else { u32::MAX };
        f32::from_bits(ordered ^ mask)
    }

    #[inline]
    fn id(self) -> u32 {
        self.0 as u32 >> 1
    }

    #[inline]
    fn is_expanded(self) -> bool {
        self.0 & 1 == 1
    }

    /// Marks it, and gives its id.
    #[inline]
    fn expand(&mut self) -> u32 {
        self.0 |= 1;
        self.id()
    }
}

/// What a thread needs to insert, kept from node to node.
#[derive(Default)]
pub(crate) struct Scratch {
    visited: Visited,
    /// Nearest first.
    pool: Vec<Pooled>,
    found: Vec<(f32, u32)>,
    picked: Vec<u32>,
    kept: Vec<u32>,
    /// Who is to link back, and on which level.
    bases: Vec<(u32, u8)>,
    candidates: Vec<(f32, u32)>,
    /// As long as a list of links may be.
    fresh: Vec<u32>,
}

/// A set of nodes that is emptied in constant time.
#[derive(Default)]
struct Visited {
    epochs: Vec<u16>,
    epoch: u16,
}

impl Visited {
    fn grow(&mut self, nodes: usize) {
        if self.epochs.len() < nodes {
            self.epochs.resize(nodes, 0);
        }
    }

    fn clear(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
        if self.epoch == 0 {
            self.epochs.fill(0);
            self.epoch = 1;
        }
    }

    #[inline]
    fn insert(&mut self, node: u32) -> bool {
        std::mem::replace(&mut self.epochs[node as usize], self.epoch) != self.epoch
    }

    /// Inserts `nodes`, and gives those that were not in the set, in `room`. Two of three are: a branch
    /// for each would be guessed wrong too often.
    #[inline]
    fn insert_all<'r>(
        &mut self,
        nodes: impl Iterator<Item = u32>,
        room: &'r mut [u32],
    ) -> &'r [u32] {
        let mut count = 0;
        for node in nodes {
            room[count] = node;
            count += usize::from(self.insert(node));
        }
        &room[..count]
    }
}

/// Nodes on a level for each one on the level above, in units of m. The paper and pgvector have 1;
/// with 16 a descent reads about 25 pages instead of 60, and the search from where it ends finds
/// as much.
const LEVEL_RATIO: usize = 16;

/// A node's level: geometric with ratio 1/16m, from the seed and a number of its own.
pub(crate) fn draw_level(seed: u64, number: u64, m: usize) -> u8 {
    let uniform = (mix(seed ^ mix(number)) >> 11) as f64 / (1u64 << 53) as f64;
    let level = -(1.0 - uniform).ln() / ((LEVEL_RATIO * m) as f64).ln();
    // 1 − uniform is in (0, 1], so the logarithm is finite.
    (level as u64).min(MAX_LEVEL.into()) as u8
}

/// The finalizer of splitmix64 (Steele, Lea & Flood 2014).
pub(crate) fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_as_distances_do() {
        let distances = [-3e38, -1.0, -1e-40, 0.0, 1e-40, 0.5, 2.0, f32::MAX];
        let last = MAX_NODES as u32 - 1;
        for pair in distances.windows(2) {
            assert!(Pooled::new(pair[0], last) < Pooled::new(pair[1], 3));
            let mut pooled = Pooled::new(pair[0], last);
            assert!(!pooled.is_expanded());
            assert_eq!(pooled.expand(), last);
            assert!(pooled.is_expanded());
            assert_eq!((pooled.distance(), pooled.id()), (pair[0], last));
            assert!(Pooled::new(pair[0], last - 1) < pooled);
        }
    }

    #[test]
    fn levels_thin_out_by_sixteen_m() {
        let levels: Vec<u8> = (0..160_000).map(|i| draw_level(7, i, 16)).collect();
        let at_least = |level| levels.iter().filter(|&&l| l >= level).count();
        assert!((550..700).contains(&at_least(1)), "{}", at_least(1));
        assert!(at_least(2) < 12, "{}", at_least(2));
    }
}
