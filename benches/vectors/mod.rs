//! Vectors for the benches of the graph and of the embedded index.

use distilface_core::vector::Metric;
use rand::prelude::*;

pub const DIMS: usize = 384;
pub const K: usize = 10;

/// Rows of little-endian floats.
pub fn read(path: &str) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four bytes"))).collect()
}

/// The nearest rows, exactly, in any order.
pub fn exact(metric: Metric, rows: &[&[f32]], query: &[f32]) -> Vec<u32> {
    let mut all: Vec<(f64, u32)> =
        rows.iter().enumerate().map(|(i, row)| (metric.distance(query, row), i as u32)).collect();
    all.select_nth_unstable_by(K, |a, b| a.0.total_cmp(&b.0));
    all[..K].iter().map(|&(_, id)| id).collect()
}

/// Points around random centers, with variances that fall off as those of sentence vectors do.
pub fn clustered(count: usize, seed: u64) -> Vec<f32> {
    let mut centers = StdRng::seed_from_u64(0);
    let centers: Vec<Vec<f32>> = (0..500).map(|_| point(&mut centers)).collect();
    let mut rng = StdRng::seed_from_u64(seed);
    (0..count)
        .flat_map(|_| {
            let center = &centers[rng.random_range(0..centers.len())];
            let noise = point(&mut rng);
            center.iter().zip(noise).map(|(c, n)| c + 0.8 * n).collect::<Vec<f32>>()
        })
        .collect()
}

fn point(rng: &mut StdRng) -> Vec<f32> {
    (0..DIMS)
        .map(|i| {
            let gaussian: f32 = (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0;
            gaussian / (1.0 + i as f32 / 20.0)
        })
        .collect()
}
