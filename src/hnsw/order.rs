//! Which slot each node of a bulk build gets: nodes that link to each other share pages.
//!
//! A search reads a page once and then has every node on it, so the number of pages it reads falls
//! with the share of links that stay inside a page. Pages are filled greedily: a page grows from a
//! node at the rim of what is placed already by always taking the node with the most links from the
//! nodes on it. Nodes of the upper levels come first, grouped by their links on level 1, and then
//! their upper slots in the same order: a descent stays within few pages.

use super::graph::Graph;
use super::layout::Layout;
use crate::page::PageError;
use std::collections::VecDeque;

/// What a slot of the built index holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SlotUse {
    /// A node.
    Node(u32),
    /// The `part`-th upper slot of a node.
    Upper { node: u32, part: u8 },
}

/// Places every node; the slots come in id order. `check` runs every few thousand nodes.
pub(crate) fn place_nodes(
    graph: &Graph,
    layout: &Layout,
    check: &mut dyn FnMut() -> Result<(), PageError>,
) -> Result<Vec<SlotUse>, PageError> {
    let mut placer = Placer::new(graph, layout);
    placer.fill(1, check)?;
    placer.place_uppers();
    placer.fill(0, check)?;
    Ok(placer.slots)
}

struct Placer<'g> {
    graph: &'g Graph,
    layout: &'g Layout,
    slots: Vec<SlotUse>,
    placed: Vec<bool>,
    /// Links from the nodes on the current page.
    pull: Vec<u16>,
    /// Nodes with a pull.
    pulled: Vec<u32>,
    /// Nodes that placed ones link to, oldest first.
    rim: VecDeque<u32>,
}

impl<'g> Placer<'g> {
    fn new(graph: &'g Graph, layout: &'g Layout) -> Self {
        Self {
            graph,
            layout,
            slots: Vec::with_capacity(graph.len() + graph.len() / 8),
            placed: vec![false; graph.len()],
            pull: vec![0; graph.len()],
            pulled: Vec::new(),
            rim: VecDeque::new(),
        }
    }

    /// Places all nodes not placed yet that reach up to `level`, by their links on that level.
    fn fill(
        &mut self,
        level: u8,
        check: &mut dyn FnMut() -> Result<(), PageError>,
    ) -> Result<(), PageError> {
        let mut next_unseen = 0;
        self.rim.clear();
        let mut since_check = 0;
        while let Some(seed) = self.next_seed(level, &mut next_unseen) {
            let taken = self.slots.len() % self.layout.slots_per_page();
            let room = self.layout.slots_per_page() - taken;
            let mut next = Some(seed);
            for _ in 0..room {
                let Some(node) = next else { break };
                self.place(node, level);
                next = self.strongest_pull().or_else(|| self.next_seed(level, &mut next_unseen));
            }
            // What was chosen for a full page begins the next one.
            if let Some(node) = next {
                self.rim.push_front(node);
            }
            for node in self.pulled.drain(..) {
                self.pull[node as usize] = 0;
            }
            since_check += room;
            if since_check > 4096 {
                since_check = 0;
                check()?;
            }
        }
        Ok(())
    }

    /// Gives upper slots to the nodes placed so far.
    fn place_uppers(&mut self) {
        for position in 0..self.slots.len() {
            let SlotUse::Node(node) = self.slots[position] else { continue };
            let levels = usize::from(self.graph.level(node));
            for part in 0..levels.div_ceil(self.layout.levels_per_slot()) {
                self.slots.push(SlotUse::Upper { node, part: part as u8 });
            }
        }
    }

    fn next_seed(&mut self, level: u8, next_unseen: &mut u32) -> Option<u32> {
        while let Some(node) = self.rim.pop_front() {
            if !self.placed[node as usize] {
                return Some(node);
            }
        }
        while (*next_unseen as usize) < self.graph.len() {
            let node = *next_unseen;
            *next_unseen += 1;
            if !self.placed[node as usize] && self.graph.level(node) >= level {
                return Some(node);
            }
        }
        None
    }

    fn place(&mut self, node: u32, level: u8) {
        self.placed[node as usize] = true;
        self.slots.push(SlotUse::Node(node));
        for other in self.graph.links(node, level) {
            if self.placed[other as usize] {
                continue;
            }
            let pull = &mut self.pull[other as usize];
            if *pull == 0 {
                self.pulled.push(other);
                self.rim.push_back(other);
            }
            *pull += 1;
        }
    }

    fn strongest_pull(&mut self) -> Option<u32> {
        let placed = &self.placed;
        self.pulled.retain(|&node| !placed[node as usize]);
        // The earliest of equals: it was pulled in by the nodes nearest to the page's seed.
        let mut best: Option<u32> = None;
        for &node in &self.pulled {
            if best.is_none_or(|best| self.pull[node as usize] > self.pull[best as usize]) {
                best = Some(node);
            }
        }
        best
    }
}
