//! Dropout whose mask is a function of its place, so that it is never stored and never depends on
//! how a batch is split or on threads.
//!
//! A value's fate is a hash of its index in the text's activation under a key of the run's seed,
//! the step, the text's place in the batch and the layer. `trainer/fixtures` computes the same
//! hash in Python for the comparison with PyTorch.

use super::rows::widest;

/// What decides one activation's mask, with the share that is dropped.
#[derive(Debug, Clone, Copy)]
pub struct DropoutKey {
    low: u32,
    high: u32,
    /// Hashes of 24 bits below this are dropped.
    threshold: u32,
    scale: f32,
}

impl DropoutKey {
    /// The key of place `site` of text `text` under `seed`; `share` in 0 to below 1 is dropped.
    pub fn new(seed: u64, text: u64, site: u64, share: f32) -> DropoutKey {
        let hash = mix(mix(mix(seed) ^ text) ^ site);
        DropoutKey {
            low: hash as u32,
            high: (hash >> 32) as u32,
            threshold: (f64::from(share) * f64::from(1u32 << 24)) as u32,
            scale: 1.0 / (1.0 - share),
        }
    }

    /// What a kept value is multiplied with.
    pub fn scale(&self) -> f32 {
        self.scale
    }
}

/// Scrambles 64 bits (SplitMix64's finalizer, Steele, Lea & Flood 2014).
pub fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// What value `index` is multiplied with: 0 or one over the share that is kept.
#[inline(always)]
pub(super) fn factor(key: DropoutKey, index: usize) -> f32 {
    let x = (index as u32).wrapping_mul(0x9e37_79b9) ^ key.low;
    let x = (x ^ x >> 16).wrapping_mul(0x7feb_352d);
    let x = ((x ^ x >> 15) ^ key.high).wrapping_mul(0x846c_a68b);
    let x = x ^ x >> 16;
    if x >> 8 < key.threshold { 0.0 } else { key.scale }
}

widest! {
    /// Multiplies every value by 0 or by one over the share that is kept: dropout, and its
    /// derivative.
    pub fn dropout(x: &mut [f32], key: DropoutKey) {
        for (index, x) in x.iter_mut().enumerate() {
            *x *= factor(key, index);
        }
    }
}

widest! {
    /// The mask alone, for who multiplies elsewhere: 1 where a value is kept, 0 where it is dropped.
    pub fn dropout_mask(mask: &mut [u8], key: DropoutKey) {
        for (index, kept) in mask.iter_mut().enumerate() {
            *kept = u8::from(factor(key, index) != 0.0);
        }
    }
}
