//! Vectors of texts that a plan is about to ask for: embedded together, asked for row by row.
//!
//! A node of a plan owns what it embedded ahead, a batch at a time, and puts it away with the next batch.
//! Only [`crate::pg::ahead`] fills it; a call that finds nothing here embeds its text as ever.

use super::cache::Key;
use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;

/// A node that embeds ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner(u64);

thread_local! {
    static OWNERS: Cell<u64> = const { Cell::new(0) };
}

impl Owner {
    /// One that no other node has.
    pub fn new() -> Self {
        OWNERS.set(OWNERS.get() + 1);
        Self(OWNERS.get())
    }
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    pub embedded: usize,
    /// Of them, texts that a call asked for.
    pub asked_for: usize,
}

/// A vector that waits for its call.
pub struct Foreseen {
    pub vector: Rc<[f32]>,
    /// Whether the text was longer than the model reads.
    pub cut: bool,
    pub asked_for: Cell<bool>,
}

/// The batches of all nodes.
#[derive(Default)]
pub struct Ahead {
    batches: Vec<(Owner, HashMap<Key, Foreseen>)>,
}

impl Ahead {
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// What some node knows of a text.
    pub fn get(&self, key: &Key) -> Option<&Foreseen> {
        self.batches.iter().find_map(|(_, batch)| batch.get(key))
    }

    /// Adds to an owner's batch.
    pub fn put(&mut self, owner: Owner, key: Key, vector: Rc<[f32]>, cut: bool) {
        let place = self.batches.iter().position(|(other, _)| *other == owner);
        let place = place.unwrap_or_else(|| {
            self.batches.push((owner, HashMap::new()));
            self.batches.len() - 1
        });
        let foreseen = Foreseen { vector, cut, asked_for: Cell::new(false) };
        self.batches[place].1.insert(key, foreseen);
    }

    /// Puts an owner's batch away.
    pub fn retire(&mut self, owner: Owner) -> Use {
        let place = self.batches.iter().position(|(other, _)| *other == owner);
        let batch = place.map(|at| self.batches.swap_remove(at).1).unwrap_or_default();
        let asked_for = batch.values().filter(|foreseen| foreseen.asked_for.get()).count();
        Use { embedded: batch.len(), asked_for }
    }
}
