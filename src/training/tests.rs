use super::*;

/// Values in −1 to 1 that look random.
fn values(n: usize, seed: u64) -> Vec<f32> {
    let unit = |x: u64| (mix(x ^ seed << 32) >> 40) as f32 / (1 << 23) as f32 - 1.0;
    (0..n as u64).map(unit).collect()
}

fn assert_close(got: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), expected.len());
    for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(*got) - expected).abs();
        assert!(error <= tolerance, "{what} at {at}: expected {expected}, got {got}");
    }
}

#[test]
fn products_of_every_layout_and_edge_agree_with_their_definition() {
    for (m, n, k) in [(1, 1, 1), (3, 5, 7), (16, 16, 32), (33, 47, 65), (64, 96, 40), (70, 3, 130)]
    {
        let (a, b, c) = (values(m * k, 1), values(k * n, 2), values(m * n, 3));
        let turn = |x: &[f32], rows: usize, cols: usize| -> Vec<f32> {
            (0..cols * rows).map(|i| x[i % rows * cols + i / rows]).collect()
        };
        let (at, bt) = (turn(&a, m, k), turn(&b, k, n));
        let lefts = [Matrix::new(&a, m, k), Matrix::new(&at, k, m).transposed()];
        let rights = [Matrix::new(&b, k, n), Matrix::new(&bt, n, k).transposed()];
        for into in [Into::Replace, Into::Add] {
            let expected: Vec<f64> = (0..m * n)
                .map(|at| {
                    let (i, j) = (at / n, at % n);
                    let sum: f64 =
                        (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(b[l * n + j])).sum();
                    sum + if into == Into::Add { f64::from(c[at]) } else { 0.0 }
                })
                .collect();
            for (left, right) in lefts.iter().flat_map(|l| rights.iter().map(move |r| (*l, *r))) {
                for (products, tolerance) in [(Products::F32, 2e-5), (Products::Bf16, 0.05)] {
                    let mut out = c.clone();
                    product(products, left, right, &mut out, into);
                    assert_close(&out, &expected, tolerance, &format!("{m}x{n}x{k} {products:?}"));
                    if let Some(laid) = Packed::new(products, right) {
                        let mut same = c.clone();
                        laid.product(left, &mut same, into);
                        assert_eq!(same, out, "{m}x{n}x{k}, laid out once");
                    }
                }
            }
        }
    }
}

#[test]
fn gelu_and_its_derivative_are_exact_to_1e_6() {
    let x: Vec<f32> = (-80..=80).map(|i| i as f32 / 10.0).collect();
    let exact = |x: f64| {
        // Φ by Simpson's rule from −12.
        let n = 4_000;
        let h = (x + 12.0) / f64::from(n);
        let density = |t: f64| (-t * t / 2.0).exp() / std::f64::consts::TAU.sqrt();
        let sum: f64 = (0..=n)
            .map(|i| {
                let weight = if i == 0 || i == n { 1.0 } else { f64::from(2 + 2 * (i % 2)) };
                weight * density(-12.0 + f64::from(i) * h)
            })
            .sum();
        (sum * h / 3.0, density(x))
    };
    let (mut out, mut slope) = (x.clone(), vec![0.0; x.len()]);
    gelu(&mut out, &mut slope);
    let wide: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
    let expected: Vec<f64> = wide.iter().map(|x| x * exact(*x).0).collect();
    assert_close(&out, &expected, 2e-6, "gelu");
    let expected: Vec<f64> = wide.iter().map(|x| exact(*x).0 + x * exact(*x).1).collect();
    assert_close(&slope, &expected, 2e-6, "its derivative");
}

#[test]
fn dropout_keeps_its_share_and_the_mean() {
    let mut x = vec![1.0; 100_000];
    dropout(&mut x, DropoutKey::new(1, 2, 3, 0.1));
    let kept = x.iter().filter(|x| **x != 0.0).count();
    assert!((89_500..90_500).contains(&kept), "{kept} of 100,000 kept");
    assert!(x.iter().all(|x| *x == 0.0 || (x - 1.0 / 0.9).abs() < 1e-6));
    let mut other = vec![1.0; 100_000];
    dropout(&mut other, DropoutKey::new(1, 2, 4, 0.1));
    let both = x.iter().zip(&other).filter(|(a, b)| **a != 0.0 && **b != 0.0).count();
    assert!((80_400..81_600).contains(&both), "{both} kept by two masks: they are dependent");
}

#[test]
fn adam_moves_by_the_rate_at_first_and_decays() {
    let step = AdamStep {
        rate: 0.1,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        decay: 0.5,
        scale: 1.0,
        step: 1,
    };
    let (mut w, mut m, mut v) = (vec![2.0, -1.0], vec![0.0; 2], vec![0.0; 2]);
    adam_step(&step, &[3.0, -0.2], &mut w, &mut m, &mut v);
    assert_close(&w, &[2.0 * 0.95 - 0.1, -0.95 + 0.1], 1e-6, "weights");
}
