//! A hash table by page or node: open addressing with linear probing, keys that are not 0. A search
//! looks up thousands of links, so that a lookup has to be a multiplication and one cache line.

/// Values by key; a key that was never asked for has the default.
pub(crate) struct Table<V> {
    entries: Vec<(u64, V)>,
    len: usize,
}

impl<V: Copy + Default> Table<V> {
    /// `capacity` is a power of two.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self { entries: vec![(0, V::default()); capacity], len: 0 }
    }

    pub(crate) fn clear(&mut self) {
        if self.len > 0 {
            self.entries.fill((0, V::default()));
            self.len = 0;
        }
    }

    #[inline]
    fn place(&self, key: u64) -> usize {
        let mask = self.entries.len() - 1;
        let mut at = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize & mask;
        while self.entries[at].0 != key && self.entries[at].0 != 0 {
            at = (at + 1) & mask;
        }
        at
    }

    #[inline]
    pub(crate) fn get(&self, key: u64) -> Option<&V> {
        let entry = &self.entries[self.place(key)];
        (entry.0 == key).then_some(&entry.1)
    }

    /// The key's value, the default where it is new.
    #[inline]
    pub(crate) fn entry(&mut self, key: u64) -> &mut V {
        let mut at = self.place(key);
        if self.entries[at].0 == 0 {
            if 2 * self.len >= self.entries.len() {
                self.grow();
                at = self.place(key);
            }
            self.entries[at].0 = key;
            self.len += 1;
        }
        &mut self.entries[at].1
    }

    #[cold]
    fn grow(&mut self) {
        let larger = vec![(0, V::default()); 2 * self.entries.len()];
        for entry in std::mem::replace(&mut self.entries, larger) {
            if entry.0 != 0 {
                let at = self.place(entry.0);
                self.entries[at] = entry;
            }
        }
    }
}
