//! A fixed rotation that spreads every vector's length evenly over its dimensions.
//!
//! Rounds of random sign changes and Walsh–Hadamard transforms on the first and on the last 2ᵏ
//! dimensions, 2ᵏ ≤ dims, as RaBitQ's library does it for sizes that are no power of two. Orthogonal:
//! Euclidean distances and inner products stay, up to single-precision rounding of
//! [`ROUNDING`] × length. Signs of a few of the rotated dimensions then tell as much as a random
//! projection does (`sketch.rs`), and a code's largest dimension is smaller.

use super::graph::mix;

/// Bound of the length of the rounding error, relative to the vector's length.
pub(crate) const ROUNDING: f32 = 4e-6;
const ROUNDS: u64 = 3;
/// Part of the format: another seed makes other codes.
const SEED: u64 = 0x6469_7374_696c_6661;

/// Rotates `x` in place.
#[inline(always)]
pub(crate) fn rotate(x: &mut [f32]) {
    if x.len() < 2 {
        return;
    }
    let block = 1usize << x.len().ilog2();
    for round in 0..ROUNDS {
        flip_signs(x, round);
        hadamard(&mut x[..block]);
        let start = x.len() - block;
        if start > 0 {
            hadamard(&mut x[start..]);
        }
    }
}

#[inline(always)]
fn flip_signs(x: &mut [f32], round: u64) {
    for (i, chunk) in x.chunks_mut(64).enumerate() {
        let signs = mix(SEED ^ mix(round << 32 | i as u64));
        // By halves: the numbers have 32 bits each as well.
        for (half, signs) in chunk.chunks_mut(32).zip([signs as u32, (signs >> 32) as u32]) {
            for (value, bit) in half.iter_mut().zip(0..) {
                let sign = (signs >> bit) << 31;
                *value = f32::from_bits(value.to_bits() ^ sign);
            }
        }
    }
}

/// The orthonormal transform; the length is a power of two.
#[inline(always)]
fn hadamard(x: &mut [f32]) {
    let mut half = 1;
    if x.len() >= 8 {
        // The first three steps stay within eight numbers, which registers hold.
        for eight in x.as_chunks_mut::<8>().0 {
            *eight = step::<4>(step::<2>(step::<1>(*eight)));
        }
        half = 8;
    }
    while half < x.len() {
        for pair in x.chunks_exact_mut(2 * half) {
            let (a, b) = pair.split_at_mut(half);
            for (a, b) in a.iter_mut().zip(b) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
    let scale = 1.0 / (x.len() as f32).sqrt();
    x.iter_mut().for_each(|value| *value *= scale);
}

/// Sums and differences of the numbers that lie `HALF` apart.
#[inline(always)]
fn step<const HALF: usize>(x: [f32; 8]) -> [f32; 8] {
    std::array::from_fn(|i| if i & HALF == 0 { x[i] + x[i | HALF] } else { x[i ^ HALF] - x[i] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_products_stay_and_a_spike_is_spread() {
        for dims in [2, 3, 128, 384, 1000] {
            let a: Vec<f32> = (0..dims).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
            let mut b = vec![0.0f32; dims];
            b[dims / 2] = 3.0;
            let dot = |a: &[f32], b: &[f32]| -> f64 {
                a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
            };
            let (mut ra, mut rb) = (a.clone(), b.clone());
            rotate(&mut ra);
            rotate(&mut rb);
            let bound = f64::from(2.0 * ROUNDING) * (dot(&a, &a) * dot(&b, &b)).sqrt();
            assert!((dot(&a, &b) - dot(&ra, &rb)).abs() <= bound, "{dims}");
            if dims >= 128 {
                assert!(rb.iter().all(|v| v.abs() < 1.2), "{dims}: a spike is left");
            }
        }
    }
}
