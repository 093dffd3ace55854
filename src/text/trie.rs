//! A double-array trie from byte strings to ids (Aoe 1989), read in place.
//!
//! A node is one 64-bit unit: the base of its children in bits 0–22, its own label in 23–30, bit
//! 31 set when the unit is taken, and its id plus one in 32–63 (0: the node is not a key's end). A
//! node's child under byte `c` is unit `base ^ c`, if that unit is taken and labeled `c`; no two
//! nodes share a base, so the label alone decides. Childless nodes have base 0, whose block holds
//! nothing but the root, which is never a child and not marked as taken.

/// Units a trie can have.
const MAX_UNITS: usize = 1 << 23;
/// Blocks of 256 units, from the newest, that are searched for room. Older ones are nearly full.
const OPEN_BLOCKS: usize = 12;

const TAKEN: u64 = 1 << 31;

/// A trie in place: units of eight little-endian bytes.
///
/// Every access is checked, so that damaged units give wrong ids but nothing worse.
#[derive(Clone, Copy)]
pub(super) struct Trie<'m> {
    units: &'m [[u8; 8]],
}

impl<'m> Trie<'m> {
    pub(super) fn view(bytes: &'m [u8]) -> Trie<'m> {
        Trie { units: bytes.as_chunks().0 }
    }

    pub(super) fn root(self) -> u64 {
        self.units.first().map_or(0, |unit| u64::from_le_bytes(*unit))
    }

    /// The child of `unit` under `byte`, as a unit.
    #[inline(always)]
    pub(super) fn child(self, unit: u64, byte: u8) -> Option<u64> {
        let at = (unit as usize & (MAX_UNITS - 1)) ^ usize::from(byte);
        let child = u64::from_le_bytes(*self.units.get(at)?);
        (child >> 23 & 0x1FF == 0x100 | u64::from(byte)).then_some(child)
    }

    /// The id of the key that ends at `unit`.
    #[inline(always)]
    pub(super) fn id(unit: u64) -> Option<u32> {
        ((unit >> 32) as u32).checked_sub(1)
    }
}

/// Lays out a trie over `keys`, which are sorted and distinct. `None` where it outgrows its index
/// space, which takes millions of nodes.
pub(super) fn build(keys: &[(Vec<u8>, u32)]) -> Option<Vec<u64>> {
    let mut layout = Layout { units: vec![0; 256], base_used: vec![true; 256], free: vec![0] };
    // (unit, range of keys below it, depth)
    let mut todo = vec![(0usize, 0..keys.len(), 0usize)];
    let mut labels = Vec::new();
    while let Some((unit, mut range, depth)) = todo.pop() {
        if keys[range.clone()].first().is_some_and(|(key, _)| key.len() == depth) {
            layout.units[unit] |= (u64::from(keys[range.start].1) + 1) << 32;
            range.start += 1;
        }
        if range.is_empty() {
            continue;
        }
        labels.clear();
        for at in range.clone() {
            let label = keys[at].0[depth];
            match labels.last_mut() {
                Some((last, _, end)) if *last == label => *end = at + 1,
                _ => labels.push((label, at, at + 1)),
            }
        }
        let base = layout.place(&labels)?;
        layout.units[unit] |= base as u64;
        todo.extend(
            labels
                .iter()
                .map(|&(label, start, end)| (base ^ usize::from(label), start..end, depth + 1)),
        );
    }
    Some(layout.units)
}

struct Layout {
    units: Vec<u64>,
    base_used: Vec<bool>,
    /// Free units of each block.
    free: Vec<u16>,
}

impl Layout {
    /// Takes units for a node's children and gives their base.
    fn place(&mut self, labels: &[(u8, usize, usize)]) -> Option<usize> {
        let newest = self.free.len();
        let base = (newest.saturating_sub(OPEN_BLOCKS)..newest)
            .filter(|&block| usize::from(self.free[block]) >= labels.len())
            .find_map(|block| self.fit(block, labels));
        let base = match base {
            Some(base) => base,
            None => {
                let base = self.units.len();
                if base + 256 > MAX_UNITS {
                    return None;
                }
                self.units.resize(base + 256, 0);
                self.base_used.resize(base + 256, false);
                self.free.push(256);
                base
            }
        };
        self.base_used[base] = true;
        for &(label, ..) in labels {
            let at = base ^ usize::from(label);
            self.units[at] = TAKEN | u64::from(label) << 23;
            self.free[at / 256] -= 1;
        }
        Some(base)
    }

    fn fit(&self, block: usize, labels: &[(u8, usize, usize)]) -> Option<usize> {
        let is_free = |at: usize| self.units[at] & TAKEN == 0;
        (block * 256..(block + 1) * 256).filter(|&at| is_free(at)).find_map(|at| {
            let base = at ^ usize::from(labels[0].0);
            let fits = !self.base_used[base]
                && labels[1..].iter().all(|&(label, ..)| is_free(base ^ usize::from(label)));
            fits.then_some(base)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(trie: Trie, key: &[u8]) -> Option<u32> {
        let end = key.iter().try_fold(trie.root(), |unit, &byte| trie.child(unit, byte))?;
        Trie::id(end)
    }

    #[test]
    fn finds_every_key_and_no_other() {
        let mut keys: Vec<(Vec<u8>, u32)> = (0..20_000u32)
            .map(|i| {
                (i.wrapping_mul(2_654_435_761).to_be_bytes()[..2 + i as usize % 3].to_vec(), i)
            })
            .collect();
        keys.sort();
        keys.dedup_by(|a, b| a.0 == b.0);
        let units = build(&keys).expect("20,000 short keys fit");
        let bytes: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let trie = Trie::view(&bytes);
        let known: std::collections::HashMap<_, _> = keys.iter().cloned().collect();
        for i in 0..=u16::MAX {
            let key = i.to_be_bytes();
            assert_eq!(lookup(trie, &key), known.get(&key[..]).copied(), "{key:?}");
        }
        for (key, id) in &keys {
            assert_eq!(lookup(trie, key), Some(*id), "{key:?}");
            let mut longer = key.clone();
            longer.push(0);
            assert_eq!(lookup(trie, &longer), known.get(&longer).copied(), "{longer:?}");
        }
    }
}
