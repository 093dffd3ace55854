//! Every stage of every instruction set against plain sums in f64.

use super::*;
use crate::encoder::weights::Values;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// A stage's activations from and to a row-major matrix.
trait Probe: Stages {
    /// What an activation keeps of a value.
    fn round(x: f32) -> f32;
    fn pack(m: &[f32], width: usize, stride: usize) -> Vec<Self::Act>;
    fn unpack(acts: &[Self::Act], rows: usize, width: usize, stride: usize) -> Vec<f32>;
    /// Relative error of a result.
    const ERROR: f64;
}

macro_rules! probe_f32 {
    ($($name:ty),*) => {$(
        impl Probe for $name {
            fn round(x: f32) -> f32 {
                x
            }
            fn pack(m: &[f32], width: usize, stride: usize) -> Vec<f32> {
                let mut acts = m.to_vec();
                acts.resize(stride * width, f32::NAN);
                acts
            }
            fn unpack(acts: &[f32], rows: usize, width: usize, _stride: usize) -> Vec<f32> {
                acts[..rows * width].to_vec()
            }
            const ERROR: f64 = 2e-5;
        }
    )*};
}

probe_f32!(Portable);
#[cfg(target_arch = "x86_64")]
probe_f32!(Avx2, Avx512);
#[cfg(target_arch = "aarch64")]
probe_f32!(Neon);

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
impl Probe for Amx {
    fn round(x: f32) -> f32 {
        from_bf16(to_bf16(x))
    }
    fn pack(m: &[f32], width: usize, stride: usize) -> Vec<u16> {
        // What lies past the rows may be anything, even NaN.
        let mut acts = vec![0x7fc0; stride * width];
        for (row, values) in m.chunks(width).enumerate() {
            for (col, &v) in values.iter().enumerate() {
                acts[(col / 32) * stride * 32 + row * 32 + col % 32] = to_bf16(v);
            }
        }
        acts
    }
    fn unpack(acts: &[u16], rows: usize, width: usize, stride: usize) -> Vec<f32> {
        let at = |row: usize, col: usize| (col / 32) * stride * 32 + row * 32 + col % 32;
        let cells = (0..rows * width).map(|i| from_bf16(acts[at(i / width, i % width)]));
        cells.collect()
    }
    const ERROR: f64 = 0.006;
}

/// Runs a generic test on every set that the CPU has.
macro_rules! on_every_kernel {
    ($test:ident) => {{
        $test::<Portable>();
        #[cfg(target_arch = "x86_64")]
        {
            if Kernel::Avx2.is_available() {
                $test::<Avx2>();
            }
            if Kernel::Avx512.is_available() {
                $test::<Avx512>();
            }
        }
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if Kernel::AmxBf16.is_available() {
            $test::<Amx>();
        }
        #[cfg(target_arch = "aarch64")]
        $test::<Neon>();
    }};
}

fn random(rng: &mut StdRng, len: usize, spread: f32) -> Vec<f32> {
    (0..len).map(|_| rng.random_range(-spread..spread)).collect()
}

/// The tile order, written down a second time; `width` bytes a value, zeros for inputs that are not
/// there.
fn order<T: Copy + Default>(weight: &[T], n: usize, k: usize, width: usize) -> Vec<T> {
    let mut tiles = Vec::new();
    for panel in 0..n / 32 {
        for step in 0..k.div_ceil(64 / width) {
            for half in 0..2 {
                for lane in 0..16 {
                    for col in 0..16 {
                        let row = panel * 32 + half * 16 + col;
                        let input = step * 64 / width + lane * 4 / width;
                        tiles.extend((input..input + 4 / width).map(|input| {
                            if input < k { weight[row * k + input] } else { T::default() }
                        }));
                    }
                }
            }
        }
    }
    tiles
}

/// A row's values as a product sees them: their codes, for int8 weights.
fn seen(row: &[f32], int8: bool) -> Vec<f64> {
    let top = row.iter().fold(0f32, |top, v| top.max(v.abs()));
    let (factor, unit) = integer::row_scale(top, integer::levels(row.len()));
    let value = |&v: &f32| match int8 {
        true => f64::from((v * factor).round_ties_even()) * f64::from(unit),
        false => f64::from(v),
    };
    row.iter().map(value).collect()
}

fn close(got: f32, expected: f64, scale: f64, error: f64, what: &str) {
    let off = (f64::from(got) - expected).abs();
    assert!(off <= error * (expected.abs() + scale), "{what}: {got}, not {expected}");
}

fn exact_gelu(x: f64) -> f64 {
    // Φ by its series, which converges fast enough for |x| < 12 in f64.
    if x.abs() > 7.0 {
        return if x > 0.0 { x } else { 0.0 };
    }
    let (mut term, mut sum, mut n) = (x, x, 1.0);
    while term.abs() > 1e-18 {
        n += 2.0;
        term *= x * x / n;
        sum += term;
    }
    x * (0.5 + sum * (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt())
}

fn products_are_plain_sums<S: Probe>() {
    let mut rng = StdRng::seed_from_u64(1);
    let stages = S::enter();
    for (rows, n, k) in [
        (1, 32, 32),
        (2, 64, 96),
        (13, 32, 384),
        (16, 96, 32),
        (17, 64, 64),
        (31, 32, 1536),
        (32, 32, 64),
        (33, 96, 64),
        (100, 64, 96),
    ] {
        let first = if rows > 20 { 16 } else { 0 };
        let stride = S::stride(first + rows);
        let a = random(&mut rng, (first + rows) * k, 1.0);
        let weight = random(&mut rng, n * k, 0.3);
        let bias = random(&mut rng, n, 0.5);
        let rounded: Vec<u16> = weight.iter().map(|&w| to_bf16(w)).collect();
        let codes: Vec<i8> = weight.iter().map(|&w| (w / 0.3 * 127.0) as i8).collect();
        let scales = random(&mut rng, n, 0.003);
        let (tiles, packed_codes) = (order(&rounded, n, k, 2), order(&codes, n, k, 1));
        let mut scratch = vec![f32::NAN; codes_scratch(rows, k) / 4];
        for int8 in [false, true] {
            let values = if int8 {
                Values::Int8 { codes: &packed_codes, scales: &scales }
            } else {
                Values::Bf16(&tiles)
            };
            let layer = Linear::new(values, n, k, &bias);
            let weigh = |col: usize, j: usize| match int8 {
                true => f64::from(codes[col * k + j]) * f64::from(scales[col]),
                false => f64::from(from_bf16(rounded[col * k + j])),
            };
            let acts = S::pack(&a, k, stride);
            let input = || Input { data: &acts[..], stride, first, rows };
            let out_stride = S::stride(rows);
            // Sums over parts of the inputs, whose codes are each part's own.
            let sums = |parts: &[Range<usize>]| -> Vec<f64> {
                let values: Vec<f32> = a.iter().map(|&v| S::round(v)).collect();
                let seen: Vec<Vec<f64>> = values[first * k..]
                    .chunks(k)
                    .map(|row| {
                        let part = |p: &Range<usize>| seen(&row[p.clone()], int8);
                        parts.iter().flat_map(part).collect()
                    })
                    .collect();
                let sum = |i: usize| {
                    let (row, col) = (i / n, i % n);
                    let products = seen[row].iter().enumerate().map(|(j, v)| v * weigh(col, j));
                    products.sum::<f64>() + f64::from(bias[col])
                };
                (0..rows * n).map(sum).collect()
            };
            let expected = sums(std::slice::from_ref(&(0..k)));
            let check = |got: &[f32], expected: &dyn Fn(usize) -> f64, error: f64, what: &str| {
                for (i, &got) in got.iter().enumerate() {
                    close(
                        got,
                        expected(i),
                        0.2 + k as f64 / 1e3,
                        error,
                        &format!("{what} {rows}x{n}x{k} at {i}"),
                    );
                }
            };
            let mut out = S::pack(&vec![0.0; rows * n], n, out_stride);
            stages.linear(
                input(),
                &layer,
                Output::Store { data: &mut out, stride: out_stride },
                &mut scratch,
            );
            let got = S::unpack(&out, rows, n, out_stride);
            check(&got, &|i| expected[i], S::ERROR, "sum");
            stages.linear(
                input(),
                &layer,
                Output::Gelu { data: &mut out, stride: out_stride },
                &mut scratch,
            );
            let got = S::unpack(&out, rows, n, out_stride);
            check(&got, &|i| exact_gelu(expected[i]), S::ERROR, "gelu");
            let mut x = random(&mut rng, rows * n, 1.0);
            let before = x.clone();
            stages.linear(input(), &layer, Output::Add(&mut x), &mut scratch);
            check(&x, &|i| expected[i] + f64::from(before[i]), 2e-5, "residual");
            // The same in parts: two halves of the inputs, each in two halves of the outputs.
            if k < 96 || n < 64 {
                continue;
            }
            let half = k / 128 * 64 + 64 * usize::from(k < 128);
            let expected_of_parts = sums(&[0..half, half..k]);
            let mut x = before.clone();
            for part in [0..half, half..k] {
                // A part's input is the activations of its own columns.
                let mine: Vec<f32> =
                    a.chunks(k).flat_map(|row| row[part.clone()].iter().copied()).collect();
                let acts = S::pack(&mine, part.len(), stride);
                let input = Input { data: &acts[..], stride, first, rows };
                stages.linear(input, &layer.inputs(part), Output::Add(&mut x), &mut scratch);
            }
            check(&x, &|i| expected_of_parts[i] + f64::from(before[i]), 2e-5, "in parts");
            let mut left = S::pack(&vec![0.0; rows * 32], 32, out_stride);
            let data = &mut left[..];
            let first_outputs = layer.outputs(0..32);
            stages.linear(
                input(),
                &first_outputs,
                Output::Store { data, stride: out_stride },
                &mut scratch,
            );
            let got = S::unpack(&left, rows, 32, out_stride);
            check(&got, &|i| expected[i / 32 * n + i % 32], S::ERROR, "some outputs");
        }
    }
}

#[test]
fn every_kernel_multiplies() {
    on_every_kernel!(products_are_plain_sums);
}

/// Sums of integers are exact, so that sets differ by the rounding of the last three operations.
#[test]
#[cfg(target_arch = "x86_64")]
fn every_set_of_integer_products_agrees_with_plain_ones() {
    let mut rng = StdRng::seed_from_u64(9);
    let sets = integer_x86::available();
    for round in 0..60 {
        let (rows, n, inputs) = (
            rng.random_range(1..20),
            32 * rng.random_range(1..4),
            32 * rng.random_range(1..33usize),
        );
        let k = inputs.next_multiple_of(64);
        let mut codes: Vec<i8> = (0..n * k).map(|_| rng.random_range(-127..=127)).collect();
        let mut a = random(&mut rng, rows * inputs, 2.0);
        if round % 3 == 0 {
            // The greatest sums that there are.
            codes.fill(if round % 2 == 0 { 127 } else { -127 });
            a.fill(-1.5);
        }
        let (scales, bias) = (random(&mut rng, n, 0.01), random(&mut rng, n, 0.5));
        let values = Values::Int8 { codes: &codes, scales: &scales };
        let layer = Linear::new(values, n, inputs, &bias);
        let mut scratch = vec![f32::NAN; codes_scratch(rows, inputs) / 4];
        let mut run = |product: Codes| {
            let mut out = vec![0.0; rows * n];
            let input = Input { data: &a[..], stride: rows, first: 0, rows };
            let output = Output::Store { data: &mut out, stride: rows };
            // SAFETY: `available` gives what this CPU has; plain code runs anywhere.
            unsafe { product(input, &layer, output, &mut scratch) };
            out
        };
        let expected = run(integer::linear::<lanes::Portable, 2>);
        for (name, product) in &sets {
            for (i, (&got, &expected)) in run(*product).iter().zip(&expected).enumerate() {
                close(
                    got,
                    f64::from(expected),
                    0.5,
                    1e-6,
                    &format!("{name} {rows}x{n}x{inputs} at {i}"),
                );
            }
        }
    }
}

fn dims(hidden: usize, heads: usize) -> Dims {
    let head = hidden / heads;
    Dims {
        layers: 1,
        heads,
        vocab_size: 10,
        max_positions: 512,
        eps: 1e-12,
        hidden,
        hidden_padded: hidden.next_multiple_of(32),
        head,
        head_padded: head.next_multiple_of(32),
        inner: 32,
        inner_padded: 32,
    }
}

fn attention_is_a_weighted_mean<S: Probe>() {
    let mut rng = StdRng::seed_from_u64(2);
    let stages = S::enter();
    // Heads of one, two and three panels; scores small, and so large that a power would overflow.
    for (head, spread) in [(32, 1.0), (64, 1.0), (96, 0.7), (32, 12.0), (64, 20.0)] {
        let d = dims(2 * head, 2);
        let width = d.context();
        for (first, len) in [(0, 1), (3, 2), (0, 15), (5, 16), (1, 17), (0, 32), (7, 70), (0, 130)]
        {
            let rows = first + len;
            let stride = S::stride(rows);
            let mut qkv = random(&mut rng, rows * 3 * width, 1.0);
            for (i, v) in qkv.iter_mut().enumerate() {
                *v = S::round(if i % (3 * width) < width { *v * spread } else { *v });
            }
            let acts = S::pack(&qkv, 3 * width, stride);
            let mut context = S::pack(&vec![0.0; rows * width], width, stride);
            let mut scratch = vec![Line([0.0; 16]); S::attention_scratch(&d, len).div_ceil(64)];
            let scratch: &mut [f32] = bytemuck::cast_slice_mut(&mut scratch);
            stages.attention(&acts, stride, first..rows, &d, &mut context, scratch);
            let got = S::unpack(&context, rows, width, stride);
            let at = |row: usize, part: usize, i: usize| {
                f64::from(qkv[(first + row) * 3 * width + part * width + i])
            };
            for q in 0..len {
                for h in 0..d.heads {
                    let product = |j, i| at(q, 0, h * head + i) * at(j, 1, h * head + i);
                    let scores: Vec<f64> =
                        (0..len).map(|j| (0..head).map(|i| product(j, i)).sum()).collect();
                    let top = scores.iter().copied().fold(f64::MIN, f64::max);
                    let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp2()).collect();
                    let sum: f64 = weights.iter().sum();
                    for i in 0..head {
                        let mean = (0..len).map(|j| weights[j] * at(j, 2, h * head + i));
                        let expected = mean.sum::<f64>() / sum;
                        let what = format!("head {head} x{spread} len {len} query {q} at {i}");
                        let got = got[(first + q) * width + h * head + i];
                        close(got, expected, 0.2, 3.0 * S::ERROR, &what);
                    }
                }
            }
        }
    }
}

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

#[test]
fn every_kernel_attends() {
    on_every_kernel!(attention_is_a_weighted_mean);
}

fn layer_norm_centers_and_scales<S: Probe>() {
    let mut rng = StdRng::seed_from_u64(3);
    let stages = S::enter();
    for (hidden, rows) in [(32, 1), (39, 3), (64, 2), (384, 5), (100, 17)] {
        let d = dims(hidden, 1);
        let (width, stride) = (d.hidden_padded, S::stride(rows));
        let mut weight = random(&mut rng, width, 1.0);
        let mut bias = random(&mut rng, width, 1.0);
        let mut x: Vec<f32> = random(&mut rng, rows * width, 2.0).iter().map(|v| v + 1.5).collect();
        for i in hidden..width {
            (weight[i], bias[i]) = (0.0, 0.0);
            (0..rows).for_each(|row| x[row * width + i] = 0.0);
        }
        let before = x.clone();
        let mut act = S::pack(&vec![0.0; rows * width], width, stride);
        let norm = Norm { weight: &weight, bias: &bias };
        stages.layer_norm(&mut x, &norm, &d, &mut act, stride);
        let acts = S::unpack(&act, rows, width, stride);
        for (row, values) in before.chunks(width).enumerate() {
            let values = || values[..hidden].iter().map(|&v| f64::from(v));
            let mean = values().sum::<f64>() / hidden as f64;
            let variance = values().map(|v| (v - mean).powi(2)).sum::<f64>() / hidden as f64;
            for i in 0..width {
                let got = x[row * width + i];
                let expected = if i < hidden {
                    let v = f64::from(before[row * width + i]);
                    (v - mean) / variance.sqrt() * f64::from(weight[i]) + f64::from(bias[i])
                } else {
                    0.0
                };
                close(got, expected, 1.0, 1e-5, &format!("{hidden} wide, row {row} at {i}"));
                assert_eq!(acts[row * width + i], S::round(got));
            }
        }
    }
}

#[test]
fn every_kernel_normalizes() {
    on_every_kernel!(layer_norm_centers_and_scales);
}

fn embedding_is_word_plus_position<S: Probe>() {
    let mut rng = StdRng::seed_from_u64(4);
    let width = 64;
    let words: Vec<i8> = (0..10 * width).map(|_| rng.random()).collect();
    let scales: Vec<u16> = (0..20).map(|_| to_bf16(rng.random_range(0.001..0.1))).collect();
    let positions = random(&mut rng, 20 * width, 1.0);
    let norm = Norm { weight: &[], bias: &[] };
    let e = Embeddings { words: &words, scales: &scales, positions: &positions, norm, width };
    let ids: Vec<u32> = (0..20).map(|_| rng.random_range(0..10)).collect();
    let mut x = vec![0.0; 20 * width];
    S::enter().embed(&e, &ids, &mut x);
    for (i, &got) in x.iter().enumerate() {
        let (row, col) = (ids[i / width] as usize, i % width);
        let scale = from_bf16(scales[row * 2 + col / 32]);
        let word = f64::from(words[row * width + col]) * f64::from(scale);
        close(got, word + f64::from(positions[i]), 0.1, 1e-6, &format!("at {i}"));
    }
}

#[test]
fn every_kernel_embeds() {
    on_every_kernel!(embedding_is_word_plus_position);
}

#[test]
fn bf16_is_nearest_and_ties_go_to_even() {
    for bits in (0..=u32::MAX).step_by(9973) {
        let x = f32::from_bits(bits);
        let rounded = from_bf16(to_bf16(x));
        if x.is_nan() {
            assert!(rounded.is_nan());
            continue;
        }
        let (low, high) = (f32::from_bits(bits & 0xffff_0000), bits | 0xffff);
        let high = f32::from_bits((high & 0xffff_0000).wrapping_add(0x1_0000));
        let expected = match (bits & 0xffff).cmp(&0x8000) {
            std::cmp::Ordering::Less => low,
            std::cmp::Ordering::Greater => high,
            std::cmp::Ordering::Equal if (bits >> 16).is_multiple_of(2) => low,
            std::cmp::Ordering::Equal => high,
        };
        assert_eq!(rounded.to_bits(), expected.to_bits(), "{x}");
    }
}

#[test]
fn gelu_and_exp2_are_within_their_stated_errors() {
    use super::lanes::{Lanes, exp2, gelu};
    for i in -120_000..=120_000 {
        let x = i as f32 * 1e-4;
        // SAFETY: the portable lanes run anywhere.
        let (got, power) = unsafe {
            let x = lanes::Portable::splat(x);
            (gelu::<lanes::Portable>(x)[0], exp2::<lanes::Portable>(x)[0])
        };
        let off = (f64::from(got) - exact_gelu(f64::from(x))).abs();
        assert!(off <= if x.abs() <= 5.0 { 2.5e-6 } else { 1.5e-6 * f64::from(x.abs()) }, "{x}");
        let off = f64::from(power) / f64::from(x).exp2() - 1.0;
        assert!(off.abs() <= 3e-6, "2^{x}: {power}");
    }
}
