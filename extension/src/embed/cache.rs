//! A backend's cache of embedded texts: least recently used goes first, bounded in bytes.

use crate::model::registry::ModelId;
use distilface_core::encoder::InputKind;
use lru::LruCache;
use std::rc::Rc;

/// Bytes of texts and vectors that a backend keeps.
const MAX_BYTES: usize = 1 << 20;
/// A longer text is not kept: it would push out too many others.
const MAX_TEXT: usize = 8 << 10;
/// What an entry costs beside its text and vector.
const ENTRY_OVERHEAD: usize = 160;

/// What a vector depends on.
#[derive(PartialEq, Eq, Hash)]
pub struct Key {
    pub model: ModelId,
    pub input: InputKind,
    pub text: Box<str>,
}

/// Vectors by model, prompt and text.
pub struct Cache {
    entries: LruCache<Key, Rc<[f32]>>,
    bytes: usize,
}

impl Cache {
    pub fn new() -> Self {
        Self { entries: LruCache::unbounded(), bytes: 0 }
    }

    /// The text's vector where it was embedded lately.
    pub fn get(&mut self, model: ModelId, input: InputKind, text: &str) -> Option<Rc<[f32]>> {
        if text.len() > MAX_TEXT {
            return None;
        }
        self.entries.get(&Key { model, input, text: text.into() }).cloned()
    }

    /// Keeps a text's vector.
    pub fn put(&mut self, model: ModelId, input: InputKind, text: &str, vector: &Rc<[f32]>) {
        if text.len() > MAX_TEXT {
            return;
        }
        let key = Key { model, input, text: text.into() };
        self.bytes += size(&key, vector);
        if let Some((old, vector)) = self.entries.push(key, Rc::clone(vector)) {
            self.bytes -= size(&old, &vector);
        }
        while self.bytes > MAX_BYTES {
            let Some((key, vector)) = self.entries.pop_lru() else { break };
            self.bytes -= size(&key, &vector);
        }
    }
}

fn size(key: &Key, vector: &[f32]) -> usize {
    key.text.len() + size_of_val(vector) + ENTRY_OVERHEAD
}
