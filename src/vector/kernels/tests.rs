//! Every instruction set against exact sums in double precision.

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;

/// Longest vector of the random pairs.
const MAX_LEN: usize = 2_050;

/// Random pairs: 10⁶ with DISTILFACE_FULL=1, else enough to meet every length and alignment.
fn pair_count() -> usize {
    if cfg!(miri) {
        40
    } else if std::env::var_os("DISTILFACE_FULL").is_some_and(|v| v == "1") {
        1_000_000
    } else {
        20_000
    }
}

/// Checks one kernel's result against the exact terms.
#[track_caller]
fn check(isa: Isa, kernel: &str, got: f32, terms: impl Iterator<Item = f64>) {
    let (mut sum, mut magnitude) = (0.0, 0.0);
    for term in terms {
        sum += term;
        magnitude += term.abs();
    }
    let error = (f64::from(got) - sum).abs();
    assert!(error <= TOLERANCE * magnitude, "{isa:?} {kernel}: got {got}, expected {sum}");
}

fn check_pair(kernels: &Kernels, a: &[f32], b: &[f32], codes: [&[i8]; 2], scales: [f32; 2]) {
    let isa = kernels.isa();
    let wide = |x: &[f32]| x.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
    let scaled = |codes: &[i8], scale: f32| {
        codes.iter().map(|&c| f64::from(c) * f64::from(scale)).collect::<Vec<_>>()
    };
    let (x, y) = (wide(a), wide(b));
    let (c, d) = (scaled(codes[0], scales[0]), scaled(codes[1], scales[1]));
    let unscaled = scaled(codes[1], 1.0);
    let terms = |x: &[f64], y: &[f64], term: fn(f64, f64) -> f64| {
        x.iter().zip(y).map(|(&x, &y)| term(x, y)).collect::<Vec<_>>().into_iter()
    };
    let squared = |x: f64, y: f64| (x - y) * (x - y);
    let product = |x: f64, y: f64| x * y;
    let absolute = |x: f64, y: f64| (x - y).abs();

    check(isa, "l2_squared", kernels.l2_squared(a, b), terms(&x, &y, squared));
    check(isa, "inner_product", kernels.inner_product(a, b), terms(&x, &y, product));
    check(isa, "l1", kernels.l1(a, b), terms(&x, &y, absolute));
    let [dot, xx, yy] = kernels.cosine_terms(a, b);
    check(isa, "cosine dot", dot, terms(&x, &y, product));
    check(isa, "cosine |a|²", xx, terms(&x, &x, product));
    check(isa, "cosine |b|²", yy, terms(&y, &y, product));
    check(isa, "dot_f32_i8", kernels.dot_f32_i8(a, codes[1]), terms(&x, &unscaled, product));

    let exact: i64 =
        codes[0].iter().zip(codes[1]).map(|(&x, &y)| i64::from(x) * i64::from(y)).sum();
    assert_eq!(i64::from(kernels.dot_i8(codes[0], codes[1])), exact, "{isa:?} dot_i8");

    let mixed = kernels.l2_squared_f32_i8(a, codes[1], scales[1]);
    check(isa, "l2_squared_f32_i8", mixed, terms(&x, &d, squared));
    let mixed = kernels.l1_f32_i8(a, codes[1], scales[1]);
    check(isa, "l1_f32_i8", mixed, terms(&x, &d, absolute));

    let whole = a.len() / 64 * 64;
    let bits: Vec<u8> = codes[0][..whole / 8].iter().map(|&c| c as u8).collect();
    let set = |&(i, _): &(usize, &f64)| bits[i / 8] >> (i % 8) & 1 == 1;
    let chosen = x[..whole].iter().enumerate().filter(set).map(|(_, &x)| x).collect::<Vec<_>>();
    check(isa, "sum_where", kernels.sum_where(&a[..whole], &bits), chosen.into_iter());

    let mut bits = vec![0x5a; whole / 8];
    let pair = [0, 1].map(|i| &codes[i][..whole]);
    kernels.at_least_i8(pair[0], scales[0], pair[1], scales[1], &mut bits);
    for (i, (&x, &y)) in pair[0].iter().zip(pair[1]).enumerate() {
        let want = scales[0] * f32::from(x) >= scales[1] * f32::from(y);
        assert_eq!(bits[i / 8] >> (i % 8) & 1 == 1, want, "{isa:?} at_least_i8 {i}");
    }

    // Both sides are rounded before the difference is taken: the error is relative to their size.
    let got = kernels.l1_scaled_i8(codes[0], scales[0], codes[1], scales[1]);
    let bound = TOLERANCE * terms(&c, &d, |x, y| x.abs() + y.abs()).sum::<f64>();
    let exact: f64 = terms(&c, &d, absolute).sum();
    assert!((f64::from(got) - exact).abs() <= bound, "{isa:?} l1_scaled_i8 {got} {exact}");
}

#[test]
fn every_instruction_set_is_within_the_tolerance_on_random_pairs() {
    let tables = Kernels::available();
    eprintln!("instruction sets: {:?}", tables.iter().map(|k| k.isa()).collect::<Vec<_>>());
    let mut rng = StdRng::seed_from_u64(23);
    let room = MAX_LEN + 64;
    let mut floats = [vec![0f32; room], vec![0f32; room]];
    let mut codes = [vec![0i8; room], vec![0i8; room]];
    for i in 0..pair_count() {
        // New numbers now and then; new windows on them, at any alignment, each time.
        if i % 64 == 0 {
            let spread = 10f32.powi(rng.random_range(-6..6));
            for v in floats.iter_mut().flatten() {
                *v = rng.random_range(-spread..spread);
            }
            for c in codes.iter_mut().flatten() {
                *c = rng.random();
            }
        }
        let len = if i <= MAX_LEN { i } else { rng.random_range(0..=MAX_LEN) };
        let mut window = || rng.random_range(0..64);
        let starts = [window(), window(), window(), window()];
        let [a, b] = [0, 1].map(|j| &floats[j][starts[j]..starts[j] + len]);
        let pair = [0, 1].map(|j| &codes[j][starts[2 + j]..starts[2 + j] + len]);
        let scales = [rng.random_range(1e-6..10f32), rng.random_range(1e-6..10f32)];
        for kernels in &tables {
            check_pair(kernels, a, b, pair, scales);
        }
    }
}

#[test]
fn int8_products_are_exact_at_the_ends_of_the_range() {
    for kernels in Kernels::available() {
        for len in [0, 1, 15, 16, 17, 31, 63, 64, 65, 127, 128, 129, 1_000, 16_000] {
            for (x, y) in [(-128, -128), (-128, 127), (127, -128), (127, 127), (0, -128), (-128, 0)]
            {
                let (a, b) = (vec![x; len], vec![y; len]);
                let want = i32::from(x) * i32::from(y) * len as i32;
                assert_eq!(kernels.dot_i8(&a, &b), want, "{:?} {len} × {x} × {y}", kernels.isa());
            }
        }
    }
}

#[test]
fn products_with_rows_are_those_of_each_pair() {
    let mut rng = StdRng::seed_from_u64(16);
    for _ in 0..if cfg!(miri) { 2 } else { 500 } {
        let len = 64 * rng.random_range(0..9);
        let ends = rng.random_bool(0.1);
        let mut code = || if ends { [-128, 127][rng.random_range(0..2)] } else { rng.random() };
        let rows: Vec<i8> = (0..len * 40).map(|_| code()).collect();
        let row: Vec<i8> = (0..len).map(|_| code()).collect();
        let picks: Vec<u32> =
            (0..rng.random_range(0..20)).map(|_| rng.random_range(0..40)).collect();
        let pairs = picks.iter().map(|&pick| (&row[..], &rows[pick as usize * len..][..len]));
        let want: Vec<i32> = pairs
            .map(|(a, b)| a.iter().zip(b).map(|(&x, &y)| i32::from(x) * i32::from(y)).sum())
            .collect();
        for kernels in Kernels::available() {
            let mut products = vec![7; picks.len()];
            kernels.dot_i8_rows(&row, &rows, &picks, &mut products);
            assert_eq!(products, want, "{:?} {len}", kernels.isa());
        }
    }
}

/// Equal terms are the worst case of a running sum: its roundings all go the same way.
#[test]
fn the_longest_vectors_of_equal_numbers_are_within_the_tolerance() {
    let dims = if cfg!(miri) { 500 } else { crate::vector::MAX_DIMS };
    let mut rng = StdRng::seed_from_u64(16_000);
    for _ in 0..if cfg!(miri) { 1 } else { 300 } {
        let (v, w, c): (f32, f32, i8) = (rng.random(), -rng.random::<f32>(), rng.random());
        let (a, b, codes) = (vec![v; dims], vec![w; dims], vec![c; dims]);
        for kernels in Kernels::available() {
            check_pair(kernels, &a, &b, [&codes, &codes], [0.013, 0.017]);
        }
    }
}

/// What is left of a number and its own code is far smaller than either: a difference that were rounded
/// twice would be noise, and an index's bound of the distance with it.
#[test]
fn a_vector_is_as_far_from_its_own_code_as_it_is() {
    let mut rng = StdRng::seed_from_u64(8);
    for _ in 0..if cfg!(miri) { 1 } else { 200 } {
        let (scale, len) = (rng.random_range(1e-3..1e3f32), rng.random_range(1..600));
        let codes: Vec<i8> = (0..len).map(|_| rng.random()).collect();
        let x: Vec<f32> = codes.iter().map(|&c| scale * f32::from(c)).collect();
        for kernels in Kernels::available() {
            check_pair(kernels, &x, &x, [&codes, &codes], [scale, scale]);
        }
    }
}

#[test]
fn nothing_outside_the_slices_counts() {
    // Poison around the slices: a kernel that reads past an end turns its sum into NaN.
    for kernels in Kernels::available() {
        for len in 0..if cfg!(miri) { 40 } else { 200 } {
            let mut a = vec![f32::NAN; len + 64];
            a[32..32 + len].fill(1.0);
            let x = &a[32..32 + len];
            let ones = vec![1i8; len];
            assert_eq!(kernels.inner_product(x, x), len as f32);
            assert_eq!(kernels.l2_squared(x, x), 0.0);
            assert_eq!(kernels.l1(x, x), 0.0);
            assert_eq!(kernels.cosine_terms(x, x), [len as f32; 3]);
            assert_eq!(kernels.dot_f32_i8(x, &ones), len as f32);
            assert_eq!(kernels.l1_f32_i8(x, &ones, 1.0), 0.0);
        }
    }
}

#[test]
fn lengths_that_differ_are_a_panic_and_not_a_wild_read() {
    for kernels in Kernels::available() {
        let result = std::panic::catch_unwind(|| kernels.l2_squared(&[1.0; 16], &[1.0; 15]));
        assert!(result.is_err());
        let result = std::panic::catch_unwind(|| kernels.dot_i8(&[1; 15], &[1; 64]));
        assert!(result.is_err());
    }
}
