//! Filter columns: values as bytes that compare like the values, and which nodes have the wanted ones.
//!
//! A node's filter columns are a fixed number of bytes on an attribute page (`layout.rs`): for each
//! column a byte that is 0 for NULL and 1 otherwise, then up to 16 bytes whose order as bytes is the
//! order of the values. What a condition asks of a column is then a set of intervals of such keys:
//! `=` is a point, `= ANY` many points, a range one interval, IS NULL the point of zeros.
//!
//! A scan reads an attribute page once, when it first meets one of the page's nodes, and keeps a bit for
//! each. A node's attributes do not change while it lives, and its slot is filled anew only when no
//! running scan can need the old row (or, on a standby, with a row that the scan cannot see), so a
//! bit stays true for every row that the scan may hand out.

use super::layout::Layout;
use super::search::Reader;
use crate::page::{PageError, PageStore};

/// Longest key of a column: the byte for NULL and a value's 16.
pub const MAX_KEY: usize = 17;

/// A column's bytes as a number in the same order: the byte for NULL and up to 16 bytes behind it.
type Key = (u8, u128);

/// What a filter asks of one column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Where the column's bytes begin in a node's attributes.
    at: usize,
    /// How many there are.
    len: usize,
    /// Inclusive, in ascending order, none touching another.
    intervals: Vec<(Key, Key)>,
}

impl Condition {
    /// The column with `len` bytes from `at` on has a key in one of the intervals; bounds are
    /// inclusive keys of that length. An interval whose bounds are the wrong way round holds nothing.
    ///
    /// # Panics
    /// Where `len` is not 2 to [`MAX_KEY`] or a bound's length differs.
    pub fn new(at: usize, len: usize, intervals: &[(Vec<u8>, Vec<u8>)]) -> Self {
        assert!((2..=MAX_KEY).contains(&len), "a key has 2 to {MAX_KEY} bytes, not {len}");
        let bound = |bytes: &Vec<u8>| {
            assert_eq!(bytes.len(), len, "a bound is as long as the column's key");
            key(bytes)
        };
        let mut sorted: Vec<(Key, Key)> = intervals
            .iter()
            .map(|(low, high)| (bound(low), bound(high)))
            .filter(|(low, high)| low <= high)
            .collect();
        sorted.sort_unstable();
        let mut merged: Vec<(Key, Key)> = Vec::with_capacity(sorted.len());
        for (low, high) in sorted {
            match merged.last_mut() {
                Some(last) if low <= last.1 => last.1 = last.1.max(high),
                _ => merged.push((low, high)),
            }
        }
        Self { at, len, intervals: merged }
    }

    #[inline]
    fn holds(&self, attrs: &[u8]) -> bool {
        let key = key(&attrs[self.at..self.at + self.len]);
        match self.intervals[..] {
            [(low, high)] => low <= key && key <= high,
            ref intervals => {
                let behind = intervals.partition_point(|(low, _)| *low <= key);
                behind > 0 && key <= intervals[behind - 1].1
            }
        }
    }
}

#[inline]
fn key(bytes: &[u8]) -> Key {
    let (null, value) = (bytes[0], &bytes[1..]);
    // The lengths of the usual types compile to loads.
    let value = match *value {
        [a] => a.into(),
        [a, b] => u16::from_be_bytes([a, b]).into(),
        [a, b, c, d] => u32::from_be_bytes([a, b, c, d]).into(),
        _ => match <[u8; 8]>::try_from(value) {
            Ok(bytes) => u64::from_be_bytes(bytes).into(),
            Err(_) => value.iter().fold(0, |number, &byte| number << 8 | u128::from(byte)),
        },
    };
    (null, value)
}

/// Conditions that a row meets all of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(Vec<Condition>);

impl Filter {
    /// All of these must hold.
    pub fn new(conditions: Vec<Condition>) -> Self {
        Self(conditions)
    }

    /// Whether a row with these attributes passes.
    ///
    /// # Panics
    /// Where they are shorter than a condition's column needs.
    pub fn passes(&self, attrs: &[u8]) -> bool {
        self.0.iter().all(|condition| condition.holds(attrs))
    }

    /// Whether every condition's column lies within `attr_len` bytes.
    pub(crate) fn fits(&self, attr_len: usize) -> bool {
        self.0.iter().all(|condition| condition.at + condition.len <= attr_len)
    }
}

/// Which nodes pass a filter, as far as a scan has asked.
pub(crate) struct Matches {
    filter: Filter,
    /// A bit for each slot of a group, by group.
    groups: Vec<Option<Box<[u64]>>>,
    /// Slots of the groups read so far that pass.
    passing: u64,
    /// Groups read so far.
    read: u64,
}

impl Matches {
    pub(crate) fn new(filter: Filter) -> Self {
        Self { filter, groups: Vec::new(), passing: 0, read: 0 }
    }

    /// Whether the node passes.
    #[inline]
    pub(crate) fn contains<S: PageStore>(
        &mut self,
        reader: &mut Reader<'_, S>,
        id: u32,
    ) -> Result<bool, PageError> {
        let (group, place) = reader.layout.attribute_place(id);
        let bits = self.group(reader, group)?;
        Ok(bits[place / 64] >> (place % 64) & 1 == 1)
    }

    /// A bit for each of the group's slots.
    pub(crate) fn group<S: PageStore>(
        &mut self,
        reader: &mut Reader<'_, S>,
        group: u32,
    ) -> Result<&[u64], PageError> {
        let at = group as usize;
        if self.groups.len() <= at {
            self.groups.resize_with(at + 1, || None);
        }
        if self.groups[at].is_none() {
            let layout = reader.layout;
            let bits = reader.attributes(group, |all| self.filter.bits(&layout, all))?;
            self.read += 1;
            self.passing += bits.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
            self.groups[at] = Some(bits);
        }
        Ok(self.groups[at].as_deref().expect("filled above"))
    }

    /// Share of the slots read so far that pass, never quite none.
    pub(crate) fn share(&self, layout: &Layout) -> f64 {
        let slots = self.read as f64 * layout.group_slots() as f64;
        ((self.passing as f64 + 0.5) / (slots + 1.0)).min(1.0)
    }
}

impl Filter {
    fn bits(&self, layout: &Layout, all: &[u8]) -> Box<[u64]> {
        let mut bits = vec![0u64; layout.group_slots().div_ceil(64)].into_boxed_slice();
        for (word, attrs) in bits.iter_mut().zip(all.chunks(64 * layout.attr_len())) {
            for (bit, attrs) in attrs.chunks_exact(layout.attr_len()).enumerate() {
                *word |= u64::from(self.passes(attrs)) << bit;
            }
        }
        bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(byte: u8) -> Vec<u8> {
        vec![1, byte]
    }

    #[test]
    fn intervals_that_touch_are_one_and_the_rest_is_searched() {
        let point = |byte| (value(byte), value(byte));
        let condition = Condition::new(
            1,
            2,
            &[point(9), (value(3), value(5)), (value(4), value(6)), (value(8), value(7))],
        );
        assert_eq!(condition.intervals.len(), 2);
        let passing: Vec<u8> = (0..=255).filter(|&x| condition.holds(&[7, 1, x, 7])).collect();
        assert_eq!(passing, [3, 4, 5, 6, 9]);
        assert!(!condition.holds(&[7, 0, 4, 7]), "NULL is no value");
        assert!(!Condition::new(0, 2, &[]).holds(&[1, 1]), "no interval holds nothing");
    }

    #[test]
    fn keys_of_every_length_compare_like_their_bytes() {
        for len in 2..=MAX_KEY {
            let mut low = vec![1; len];
            low[len - 1] = 254;
            let mut high = vec![1; len];
            high[1] = 255;
            assert!(key(&low) < key(&high), "{len} bytes");
            assert!(key(&vec![0; len]) < key(&low));
        }
    }
}
