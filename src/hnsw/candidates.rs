//! Copies of nodes' codes that links are chosen by, so that no page is locked while they are compared.

use super::HnswError;
use super::code::{CodeRef, Scorer};
use super::layout::{Link, SlotState, SlotView};
use super::search::Reader;
use super::select::select_neighbors;
use super::sketch::Sketch;
use super::table::Table;
use crate::page::PageStore;

/// Nodes to choose links from, with copies of their codes.
#[derive(Default)]
pub(crate) struct Candidates {
    nodes: Vec<(f32, u32)>,
    links: Vec<Link>,
    codes: Vec<i8>,
    scales: Vec<(f32, f32)>,
}

impl Candidates {
    pub(crate) fn contains(&self, id: u32) -> bool {
        self.links.iter().any(|link| link.id == id)
    }

    pub(crate) fn len(&self) -> usize {
        self.links.len()
    }

    /// Copies the node's code, if it is still that node and alive; `distance` gives its distance to
    /// the base.
    pub(crate) fn add<S: PageStore>(
        &mut self,
        reader: &mut Reader<'_, S>,
        node: Link,
        distance: impl FnOnce(&SlotView<'_>, CodeRef<'_>) -> f32,
    ) -> Result<bool, HnswError> {
        let Self { nodes, links, codes, scales } = self;
        Ok(reader.slot(node.id, |slot| {
            if slot.state() != SlotState::Live || slot.generation() != node.generation {
                return false;
            }
            let code = CodeRef::of_slot(slot);
            nodes.push((distance(slot, code), links.len() as u32));
            links.push(node);
            codes.extend_from_slice(code.codes);
            scales.push((code.scale, code.norm));
            true
        })?)
    }

    /// The neighbors by Algorithm 4, at most `max`, with sketches of the edges from `base`.
    pub(crate) fn select(
        &mut self,
        scorer: &Scorer,
        max: usize,
        base: Option<CodeRef<'_>>,
    ) -> Vec<Link> {
        let Self { nodes, links, codes, scales } = self;
        if links.is_empty() {
            return Vec::new();
        }
        nodes.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let dims = codes.len() / links.len();
        let code = |i: u32| {
            let (scale, norm) = scales[i as usize];
            CodeRef { codes: &codes[i as usize * dims..][..dims], scale, norm }
        };
        let mut picked = Vec::with_capacity(max);
        select_neighbors(nodes, max, &mut picked, |candidate, to_base, picked| {
            let from = code(candidate);
            picked.iter().any(|&other| scorer.distance(from, code(other)) <= to_base)
        });
        let to_link = |i: u32| {
            let link = links[i as usize];
            let sketch = base.map(|base| Sketch::new(scorer, base, code(i)));
            Link { sketch: sketch.unwrap_or_default(), ..link }
        };
        picked.into_iter().map(to_link).collect()
    }
}

/// Codes of nodes that were alive when an insert first met them: its neighbors' lists have most nodes in
/// common. Vacuum, which reuses slots, waits for the insert to end.
pub(crate) struct Codes {
    /// One more than a node's place, or [`Codes::GONE`].
    places: Table<u32>,
    codes: Vec<i8>,
    /// Scale and norm.
    scales: Vec<(f32, f32)>,
}

impl Default for Codes {
    fn default() -> Self {
        Self { places: Table::with_capacity(1024), codes: Vec::new(), scales: Vec::new() }
    }
}

impl Codes {
    const GONE: u32 = u32::MAX;

    /// The place of a node's code, or `None` where it is gone.
    pub(crate) fn find<S: PageStore>(
        &mut self,
        reader: &mut Reader<'_, S>,
        node: Link,
    ) -> Result<Option<u32>, HnswError> {
        let Self { places, codes, scales } = self;
        let place = places.entry((u64::from(node.id) << 8 | u64::from(node.generation)) + 1);
        if *place == 0 {
            *place = reader.slot(node.id, |slot| {
                if slot.state() != SlotState::Live || slot.generation() != node.generation {
                    return Self::GONE;
                }
                codes.extend_from_slice(slot.codes());
                scales.push((slot.scale(), slot.norm()));
                scales.len() as u32
            })?;
        }
        Ok((*place != Self::GONE).then(|| *place - 1))
    }

    #[inline]
    pub(crate) fn code(&self, place: u32) -> CodeRef<'_> {
        let at = place as usize;
        let dims = self.codes.len() / self.scales.len();
        let (scale, norm) = self.scales[at];
        CodeRef { codes: &self.codes[at * dims..][..dims], scale, norm }
    }
}
