//! Rowwise stages with their derivatives, compiled for the widest vectors of each CPU.
//!
//! Loops are plain Rust, shaped so that the compiler vectorizes them: sums keep 16 lanes, `exp` is
//! a polynomial without branches. What is summed in which order depends on the lengths alone.

/// Compiles a function's body for AVX-512, AVX2 and the baseline, and picks one at run time.
macro_rules! widest {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:tt: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn portable($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx512($($arg: $ty),*) $(-> $ret)? { portable($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx2($($arg: $ty),*) $(-> $ret)? { portable($($arg),*) }
                if is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl") && is_x86_feature_detected!("fma")
                {
                    // SAFETY: the features were just found.
                    return unsafe { avx512($($arg),*) };
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: the features were just found.
                    return unsafe { avx2($($arg),*) };
                }
            }
            portable($($arg),*)
        }
    };
}
pub(super) use widest;

/// Lanes that a sum is kept in.
pub(super) const LANES: usize = 16;

/// e to the `x`, to 2 in the last place; 0 below −87.
#[inline(always)]
fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    let n = (x * std::f32::consts::LOG2_E + 12_582_912.0) - 12_582_912.0;
    // ln 2 in two parts, so that the difference keeps its low bits.
    let r = (x - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4_f32;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 5.000_000_3e-1;
    let y = p * (r * r) + r + 1.0;
    // A power of two by its bits; the clamp keeps the exponent in range.
    y * f32::from_bits(((n as i32 + 127) as u32) << 23)
}

/// Φ(x) and φ(x), the normal distribution and its density (Abramowitz & Stegun 7.1.26, to 1e-7).
#[inline(always)]
fn normal(x: f32) -> (f32, f32) {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let e = exp(-z * z);
    let p = 1.061_405_4_f32;
    let p = p * t - 1.453_152_1;
    let p = p * t + 1.421_413_8;
    let p = p * t - 0.284_496_72;
    let p = p * t + 0.254_829_6;
    let tail = 0.5 * p * t * e;
    let below = if x < 0.0 { tail } else { 1.0 - tail };
    (below, e * 0.398_942_3)
}

#[inline(always)]
fn sum_of(n: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let whole = n / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += f(at + lane);
        }
    }
    for at in whole..n {
        lanes[at - whole] += f(at);
    }
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0]
}

widest! {
    /// The inner product.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn dot(a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len());
        sum_of(a.len(), |i| a[i] * b[i])
    }
}

widest! {
    /// Turns each x into x Φ(x), the exact GELU, and gives its slope there, Φ(x) + x φ(x).
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn gelu(x: &mut [f32], slope: &mut [f32]) {
        assert_eq!(x.len(), slope.len());
        for (x, slope) in x.iter_mut().zip(slope) {
            let (below, density) = normal(*x);
            *slope = below + *x * density;
            *x *= below;
        }
    }
}

widest! {
    /// Adds `other` to `x`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn add(x: &mut [f32], other: &[f32]) {
        assert_eq!(x.len(), other.len());
        for (x, other) in x.iter_mut().zip(other) {
            *x += other;
        }
    }
}

widest! {
    /// Multiplies `x` by `other`, value by value.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn multiply(x: &mut [f32], other: &[f32]) {
        assert_eq!(x.len(), other.len());
        for (x, other) in x.iter_mut().zip(other) {
            *x *= other;
        }
    }
}

widest! {
    /// Adds `bias` to every row of `x`.
    pub fn add_bias(x: &mut [f32], bias: &[f32]) {
        for row in x.chunks_exact_mut(bias.len()) {
            for (x, bias) in row.iter_mut().zip(bias) {
                *x += bias;
            }
        }
    }
}

widest! {
    /// Adds the sum of all rows of `x` to `out`.
    pub fn sum_rows(x: &[f32], out: &mut [f32]) {
        for row in x.chunks_exact(out.len()) {
            for (out, x) in out.iter_mut().zip(row) {
                *out += x;
            }
        }
    }
}

/// A layer norm's weights.
#[derive(Debug, Clone, Copy)]
pub struct LayerNorm<'a> {
    /// Scale, one a column.
    pub weight: &'a [f32],
    /// Shift, one a column.
    pub bias: &'a [f32],
    /// Added to the variance.
    pub eps: f32,
}

impl LayerNorm<'_> {
    /// Normalizes each row of `x` into `out`; `normed` receives the rows before scale and shift,
    /// `inverse` one over each row's deviation: what the derivative needs.
    ///
    /// # Panics
    /// If lengths do not agree.
    pub fn forward(&self, x: &[f32], out: &mut [f32], normed: &mut [f32], inverse: &mut [f32]) {
        assert!(x.len() == out.len() && x.len() == normed.len());
        assert!(x.len() == inverse.len() * self.weight.len());
        norm_forward(x, self.weight, self.bias, self.eps, out, normed, inverse);
    }

    /// Turns the gradient of the output into that of the input, and adds the gradients of scale
    /// and shift to `weight` and `bias`.
    ///
    /// # Panics
    /// If lengths do not agree.
    pub fn backward(
        &self,
        normed: &[f32],
        inverse: &[f32],
        grad: &mut [f32],
        weight: &mut [f32],
        bias: &mut [f32],
    ) {
        assert!(grad.len() == normed.len() && grad.len() == inverse.len() * self.weight.len());
        assert!(weight.len() == self.weight.len() && bias.len() == self.weight.len());
        norm_backward(normed, inverse, self.weight, grad, weight, bias);
    }
}

widest! {
    fn norm_forward(
        x: &[f32],
        weight: &[f32],
        bias: &[f32],
        eps: f32,
        out: &mut [f32],
        normed: &mut [f32],
        inverse: &mut [f32],
    ) {
        let n = weight.len();
        let rows = x.chunks_exact(n).zip(out.chunks_exact_mut(n));
        for (((x, out), normed), inverse) in
            rows.zip(normed.chunks_exact_mut(n)).zip(inverse.iter_mut())
        {
            let mean = sum_of(n, |i| x[i]) / n as f32;
            let variance = sum_of(n, |i| (x[i] - mean) * (x[i] - mean)) / n as f32;
            *inverse = 1.0 / (variance + eps).sqrt();
            for i in 0..n {
                normed[i] = (x[i] - mean) * *inverse;
                out[i] = normed[i] * weight[i] + bias[i];
            }
        }
    }
}

widest! {
    fn norm_backward(
        normed: &[f32],
        inverse: &[f32],
        scale: &[f32],
        grad: &mut [f32],
        weight: &mut [f32],
        bias: &mut [f32],
    ) {
        let n = scale.len();
        for ((grad, normed), inverse) in
            grad.chunks_exact_mut(n).zip(normed.chunks_exact(n)).zip(inverse)
        {
            for i in 0..n {
                weight[i] += grad[i] * normed[i];
                bias[i] += grad[i];
                grad[i] *= scale[i];
            }
            let mean = sum_of(n, |i| grad[i]) / n as f32;
            let along = sum_of(n, |i| grad[i] * normed[i]) / n as f32;
            for i in 0..n {
                grad[i] = inverse * (grad[i] - mean - normed[i] * along);
            }
        }
    }
}

/// The softmax of `x`, in place.
#[inline(always)]
pub(super) fn softmax_row(x: &mut [f32]) {
    let most = x.iter().fold(f32::NEG_INFINITY, |most, x| if *x > most { *x } else { most });
    for x in x.iter_mut() {
        *x = exp(*x - most);
    }
    let scale = 1.0 / sum_of(x.len(), |i| x[i]);
    for x in x.iter_mut() {
        *x *= scale;
    }
}

/// Turns the gradient of a softmax's output `p` into that of its input.
#[inline(always)]
pub(super) fn softmax_slope(p: &[f32], grad: &mut [f32]) {
    let along = sum_of(p.len(), |i| p[i] * grad[i]);
    for (grad, p) in grad.iter_mut().zip(p) {
        *grad = p * (*grad - along);
    }
}

/// One step of AdamW (Loshchilov & Hutter 2019, Algorithm 2).
#[derive(Debug, Clone, Copy)]
pub struct AdamStep {
    /// Learning rate.
    pub rate: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Weight decay, times the learning rate.
    pub decay: f32,
    /// What gradients are multiplied with first: clipping.
    pub scale: f32,
    /// Which step, from 1.
    pub step: u32,
}

impl AdamStep {
    /// The rate over the first moment's bias, and one over the root of the second's.
    pub fn unbiased(&self) -> (f32, f32) {
        // In f64: beta2 to a large power is close to 1 in f32.
        let unbias = |beta: f32| 1.0 - f64::from(beta).powi(self.step.min(1 << 30) as i32);
        let rate = f64::from(self.rate) / unbias(self.beta1);
        (rate as f32, (1.0 / unbias(self.beta2).sqrt()) as f32)
    }
}

/// Moves `weights` along `grad`, and the moments with it.
///
/// # Panics
/// If the lengths differ.
pub fn adam_step(
    step: &AdamStep,
    grad: &[f32],
    weights: &mut [f32],
    first: &mut [f32],
    second: &mut [f32],
) {
    let n = weights.len();
    assert!(grad.len() == n && first.len() == n && second.len() == n);
    let (rate, unbias2) = step.unbiased();
    adam_rows(
        grad,
        weights,
        first,
        second,
        step.scale,
        step.beta1,
        step.beta2,
        rate,
        unbias2,
        step.eps,
        1.0 - step.rate * step.decay,
    );
}

widest! {
    fn adam_rows(
        grad: &[f32],
        weights: &mut [f32],
        first: &mut [f32],
        second: &mut [f32],
        scale: f32,
        beta1: f32,
        beta2: f32,
        rate: f32,
        unbias2: f32,
        eps: f32,
        keep: f32,
    ) {
        let moments = first.iter_mut().zip(second.iter_mut());
        for ((weight, grad), (first, second)) in weights.iter_mut().zip(grad).zip(moments) {
            let grad = grad * scale;
            *first = beta1 * *first + (1.0 - beta1) * grad;
            *second = beta2 * *second + (1.0 - beta2) * grad * grad;
            *weight = *weight * keep - rate * *first / (second.sqrt() * unbias2 + eps);
        }
    }
}
