//! The distance kernels of every instruction set that runs here, beside a plain loop over the same
//! numbers (what portable code is compiled to): `make bench-vector`.
//!
//! Nanoseconds per pair, one query against 256 vectors that stay in the cache; each figure is the
//! least of rounds taken in turns, so that a busy machine slows all alike.

use std::hint::black_box;
use std::time::Instant;

use distilface_core::vector::{Kernels, QuantizedI8};
use rand::{Rng, SeedableRng, rngs::StdRng};

const VECTORS: usize = 256;
const ROUNDS: usize = 60;

struct Set {
    floats: Vec<Vec<f32>>,
    codes: Vec<QuantizedI8>,
}

type Measured<'a> = (&'a str, Box<dyn Fn(&Set, usize) -> f32 + 'a>);

fn main() {
    let tables = Kernels::available();
    for dims in [128, 384, 768, 1536] {
        let mut rng = StdRng::seed_from_u64(dims as u64);
        let floats: Vec<Vec<f32>> = (0..VECTORS)
            .map(|_| (0..dims).map(|_| rng.random_range(-1.0..1.0)).collect())
            .collect();
        let codes = floats.iter().map(|x| QuantizedI8::new(x)).collect();
        let set = Set { floats, codes };

        println!("\n{dims} dimensions, ns per pair");
        println!(
            "{:<20}{:>8}{:>8}{:>8}{:>8}{:>8}{:>10}{:>10}",
            "", "l2", "ip", "cosine", "l1", "dot i8", "dot f32i8", "l1 f32i8"
        );
        let plain: [Measured; 5] = [
            ("l2", Box::new(|s, i| plain(&s.floats[0], &s.floats[i], |x, y| (x - y) * (x - y)))),
            ("ip", Box::new(|s, i| plain(&s.floats[0], &s.floats[i], |x, y| x * y))),
            ("cosine", Box::new(|s, i| plain_cosine(&s.floats[0], &s.floats[i]))),
            ("l1", Box::new(|s, i| plain(&s.floats[0], &s.floats[i], |x, y| (x - y).abs()))),
            ("dot i8", Box::new(|s, i| plain_i8(&s.codes[0].codes, &s.codes[i].codes))),
        ];
        let mut rows: Vec<(String, Vec<Measured>)> = vec![("plain loop".into(), plain.into())];
        for &kernels in &tables {
            let measured: [Measured; 7] = [
                ("l2", Box::new(|s, i| kernels.l2_squared(&s.floats[0], &s.floats[i]))),
                ("ip", Box::new(|s, i| kernels.inner_product(&s.floats[0], &s.floats[i]))),
                ("cosine", Box::new(|s, i| kernels.cosine_distance(&s.floats[0], &s.floats[i]))),
                ("l1", Box::new(|s, i| kernels.l1(&s.floats[0], &s.floats[i]))),
                (
                    "dot i8",
                    Box::new(|s, i| kernels.dot_i8(&s.codes[0].codes, &s.codes[i].codes) as f32),
                ),
                ("dot f32i8", Box::new(|s, i| kernels.dot_f32_i8(&s.floats[0], &s.codes[i].codes))),
                (
                    "l1 f32i8",
                    Box::new(|s, i| {
                        let q = &s.codes[i];
                        kernels.l1_f32_i8(&s.floats[0], &q.codes, q.params.scale)
                    }),
                ),
            ];
            rows.push((format!("{:?}", kernels.isa()), measured.into()));
        }
        let mut least: Vec<Vec<f64>> = rows.iter().map(|(_, m)| vec![f64::MAX; m.len()]).collect();
        for _ in 0..ROUNDS {
            for (least, (_, measured)) in least.iter_mut().zip(&rows) {
                for (least, (_, kernel)) in least.iter_mut().zip(measured) {
                    let started = Instant::now();
                    let sum: f32 = (0..VECTORS).map(|i| kernel(&set, black_box(i))).sum();
                    black_box(sum);
                    let each = started.elapsed().as_secs_f64() * 1e9 / VECTORS as f64;
                    *least = least.min(each);
                }
            }
        }
        for ((name, _), least) in rows.iter().zip(&least) {
            print!("{name:<20}");
            for (i, each) in least.iter().enumerate() {
                print!("{each:>width$.1}", width = if i < 5 { 8 } else { 10 });
            }
            println!();
        }
    }
}

fn plain(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    a.iter().zip(b).map(|(&x, &y)| term(x, y)).sum()
}

fn plain_cosine(a: &[f32], b: &[f32]) -> f32 {
    let norms = plain(a, a, |x, y| x * y) * plain(b, b, |x, y| x * y);
    1.0 - plain(a, b, |x, y| x * y) / norms.sqrt()
}

fn plain_i8(a: &[i8], b: &[i8]) -> f32 {
    a.iter().zip(b).map(|(&x, &y)| i32::from(x) * i32::from(y)).sum::<i32>() as f32
}
