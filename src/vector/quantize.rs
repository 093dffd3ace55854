//! Symmetric int8 codes, one scale per vector.
//!
//! x̂ᵢ = scale · codeᵢ with codes in −127 … 127 and scale = max |xᵢ| / 127, so that no value is
//! clipped and |xᵢ − x̂ᵢ| ≤ scale / 2. Two norms of the error come along, rounded up: by the triangle
//! inequality they bound what any distance between codes is off by
//! (|‖x − q‖ − ‖x̂ − q‖| ≤ ‖x − x̂‖, and |⟨x, q⟩ − ⟨x̂, q⟩| ≤ ‖x − x̂‖ ‖q‖ for the inner product).

/// What turns codes back into numbers, and how far off they are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct I8Params {
    /// The number that code 1 stands for; 0 for a zero vector.
    pub scale: f32,
    /// Upper bound of the Euclidean norm of x − x̂.
    pub l2_error: f32,
    /// Upper bound of the sum of |xᵢ − x̂ᵢ|.
    pub l1_error: f32,
}

/// A quantized vector that owns its codes.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedI8 {
    /// Scale and error bounds.
    pub params: I8Params,
    /// One code per dimension.
    pub codes: Box<[i8]>,
}

impl QuantizedI8 {
    /// Quantizes `x`, which holds finite numbers.
    pub fn new(x: &[f32]) -> QuantizedI8 {
        let mut codes = vec![0; x.len()].into_boxed_slice();
        let params = quantize_i8(x, &mut codes);
        QuantizedI8 { params, codes }
    }

    /// The vector that the codes stand for.
    pub fn decode(&self) -> Vec<f32> {
        self.codes.iter().map(|&code| self.params.scale * f32::from(code)).collect()
    }
}

/// Quantizes `x`, which holds finite numbers, into `codes`.
///
/// # Panics
/// When the lengths differ.
pub fn quantize_i8(x: &[f32], codes: &mut [i8]) -> I8Params {
    let scale = codes_i8(x, codes);
    let [l2_error, l1_error] = errors_i8(x, codes, scale);
    I8Params { scale, l2_error, l1_error }
}

/// The codes of `x`, and their scale: [`quantize_i8`] without the errors.
#[inline(always)]
pub(crate) fn codes_i8(x: &[f32], codes: &mut [i8]) -> f32 {
    assert_eq!(x.len(), codes.len(), "one code per dimension");
    // A comparison instead of f32::max, whose NaN rules keep the loop from being vectorized; and eight
    // maxima, for one would wait for the one before.
    let larger = |max: f32, v: f32| if v.abs() > max { v.abs() } else { max };
    let (chunks, tail) = x.as_chunks::<8>();
    let mut maxima = [0f32; 8];
    for chunk in chunks {
        for (max, &v) in maxima.iter_mut().zip(chunk) {
            *max = larger(*max, v);
        }
    }
    let scale = maxima.iter().chain(tail).fold(0.0, |max, &v| larger(max, v)) / 127.0;
    // A scale that is 0 or subnormal has too few digits to divide by: its vectors become zero.
    if scale < f32::MIN_POSITIVE {
        codes.fill(0);
        return 0.0;
    }
    let inverse = 1.0 / scale;
    for (&v, code) in x.iter().zip(codes) {
        *code = round_small((v * inverse).clamp(-127.0, 127.0));
    }
    scale
}

/// Upper bounds of the Euclidean norm of x − x̂, and of the sum of its magnitudes.
#[inline(always)]
pub(crate) fn errors_i8(x: &[f32], codes: &[i8], scale: f32) -> [f32; 2] {
    let (mut squared, mut sum) = ([0f64; 8], [0f64; 8]);
    for (xs, cs) in x.chunks(8).zip(codes.chunks(8)) {
        for (i, (&v, &code)) in xs.iter().zip(cs).enumerate() {
            let error = f64::from(v) - f64::from(scale * f32::from(code));
            squared[i] += error * error;
            sum[i] += error.abs();
        }
    }
    [round_up(squared.iter().sum::<f64>().sqrt()), round_up(sum.iter().sum())]
}

/// The nearest integer, ties to even, |v| ≤ 127. Adding 1.5 · 2²³ leaves no bits for a fraction, and the
/// integer in the lowest ones. It needs no SSE 4.1 as `round_ties_even` does, and is vectorized as a
/// cast, which checks for NaN, is not.
#[inline(always)]
fn round_small(v: f32) -> i8 {
    const MAGIC: f32 = 12_582_912.0;
    (v + MAGIC).to_bits() as i8
}

/// The next single-precision number above `v` and above the rounding of the double sums.
#[inline(always)]
fn round_up(v: f64) -> f32 {
    if v == 0.0 { 0.0 } else { ((v * (1.0 + 1e-9)) as f32).next_up() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn error_norms_bound_the_error(x in prop::collection::vec(-1e6f32..1e6, 0..300), e in -30i32..30) {
            let x: Vec<f32> = x.iter().map(|v| v * 10f32.powi(e)).filter(|v| v.is_finite()).collect();
            let q = QuantizedI8::new(&x);
            let errors: Vec<f64> =
                x.iter().zip(q.decode()).map(|(&v, d)| f64::from(v) - f64::from(d)).collect();
            let l2 = errors.iter().map(|e| e * e).sum::<f64>().sqrt();
            let l1 = errors.iter().map(|e| e.abs()).sum::<f64>();
            prop_assert!(l2 <= q.params.l2_error.into());
            prop_assert!(l1 <= q.params.l1_error.into());
            prop_assert!(f64::from(q.params.l2_error) <= l2 * 1.000001 + 1e-44);
            let half_step = f64::from(q.params.scale) * 0.5001 + f64::from(f32::MIN_POSITIVE) * 127.0;
            prop_assert!(errors.iter().all(|e| e.abs() <= half_step));
        }
    }

    #[test]
    fn the_largest_value_gets_the_largest_code() {
        let q = QuantizedI8::new(&[0.5, -2.0, 1.0]);
        assert_eq!(*q.codes, [32, -127, 64]);
        assert_eq!(QuantizedI8::new(&[f32::MAX, f32::MIN]).codes[..], [127, -127]);
    }

    #[test]
    fn zero_and_subnormal_vectors_become_zero_codes() {
        let zero = QuantizedI8::new(&[0.0; 4]);
        assert_eq!(zero.params, I8Params { scale: 0.0, l2_error: 0.0, l1_error: 0.0 });
        let tiny = QuantizedI8::new(&[1e-44, -1e-40]);
        assert_eq!(*tiny.codes, [0, 0]);
        assert!(tiny.params.l2_error >= 1e-40);
    }
}
