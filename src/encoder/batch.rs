//! Token ids of many texts, end to end.

use std::ops::Range;

/// Texts as token ids, concatenated: no padding, so that nothing is computed for padding.
#[derive(Debug, Clone, Default)]
pub struct TokenBatch {
    ids: Vec<u32>,
    /// Where each text ends in `ids`.
    ends: Vec<usize>,
    /// Where, in a pair, the second text begins within the pair; 0 for what is no pair.
    seconds: Vec<usize>,
}

impl TokenBatch {
    /// No texts.
    pub fn new() -> TokenBatch {
        TokenBatch::default()
    }

    /// Takes all texts out and keeps the space.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.ends.clear();
        self.seconds.clear();
    }

    /// Appends a text.
    pub fn push(&mut self, ids: &[u32]) {
        self.push_with(|out| out.extend_from_slice(ids));
    }

    /// Appends the text whose ids `write` appends to the vector that it is given.
    pub fn push_with<R>(&mut self, write: impl FnOnce(&mut Vec<u32>) -> R) -> R {
        let written = write(&mut self.ids);
        self.ends.push(self.ids.len());
        self.seconds.push(0);
        written
    }

    /// Appends a pair: its ids, the second text's from `second` on.
    pub fn push_pair(&mut self, ids: impl Iterator<Item = u32>, second: usize) {
        self.ids.extend(ids);
        self.ends.push(self.ids.len());
        self.seconds.push(second);
    }

    /// Where the second text of pair `i` begins among the pair's ids; none in what is no pair.
    pub fn second(&self, i: usize) -> Option<usize> {
        Some(self.seconds[i]).filter(|&second| second > 0)
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no texts.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Tokens of all texts.
    pub fn tokens(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Where text `i` lies among all ids.
    pub fn span(&self, i: usize) -> Range<usize> {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        start..self.ends[i]
    }

    /// The ids of text `i`.
    pub fn text(&self, i: usize) -> &[u32] {
        &self.ids[self.span(i)]
    }
}
