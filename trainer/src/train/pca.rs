//! The projection of a wider teacher's space onto the student's width that keeps most of what its
//! vectors differ by (Reimers & Gurevych 2020 reduce their teacher so).
//!
//! Not centered: what the student is to keep are inner products, and a subspace through the origin
//! keeps them best.

use distilface_core::training::{Into, Matrix, Products, product};

/// Rotations stop once no two rows are further from orthogonal than this share of their lengths.
const ORTHOGONAL: f64 = 1e-9;
const MOST_SWEEPS: usize = 30;

/// The `keep` directions along which the rows of `vectors`, `width` values each, are longest: a
/// matrix of `width` rows and `keep` orthonormal columns.
///
/// # Panics
/// If `keep` is more than `width`.
pub fn principal_directions(vectors: &[f32], width: usize, keep: usize) -> Vec<f32> {
    assert!(keep <= width, "{keep} of {width} directions");
    let rows = vectors.len() / width;
    let x = Matrix::new(vectors, rows, width);
    let mut moments = vec![0.0f32; width * width];
    product(Products::F32, x.transposed(), x, &mut moments, Into::Replace);
    let mut rows: Vec<Vec<f64>> = moments
        .chunks_exact(width)
        .map(|row| row.iter().map(|x| f64::from(*x)).collect())
        .collect();
    orthogonalize(&mut rows);
    let length = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>().sqrt();
    rows.sort_by(|a, b| length(b).total_cmp(&length(a)));
    let mut directions = vec![0.0; width * keep];
    for (column, row) in rows[..keep].iter().enumerate() {
        let length = length(row).max(f64::MIN_POSITIVE);
        for (at, value) in row.iter().enumerate() {
            directions[at * keep + column] = (value / length) as f32;
        }
    }
    directions
}

/// One-sided Jacobi (Hestenes 1958): rotates pairs of rows until all are orthogonal. The rows of a
/// symmetric matrix become its eigenvectors, each as long as its eigenvalue.
fn orthogonalize(rows: &mut [Vec<f64>]) {
    let dot = |a: &[f64], b: &[f64]| -> f64 {
        // Lanes, so that the sum is vectorized.
        let mut lanes = [0.0; 8];
        let (a, b) = (a.chunks(8), b.chunks(8));
        a.zip(b).for_each(|(a, b)| {
            lanes.iter_mut().zip(a.iter().zip(b)).for_each(|(lane, (a, b))| *lane += a * b);
        });
        lanes.iter().sum()
    };
    for _ in 0..MOST_SWEEPS {
        let mut rotated = false;
        for p in 0..rows.len() {
            let (head, tail) = rows.split_at_mut(p + 1);
            let first = &mut head[p];
            for second in tail {
                let (a, b, both) = (dot(first, first), dot(second, second), dot(first, second));
                if both.abs() <= ORTHOGONAL * (a * b).sqrt() || both == 0.0 {
                    continue;
                }
                rotated = true;
                let zeta = (b - a) / (2.0 * both);
                let tangent = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
                let cosine = 1.0 / (1.0 + tangent * tangent).sqrt();
                let sine = cosine * tangent;
                for (x, y) in first.iter_mut().zip(second.iter_mut()) {
                    (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
                }
            }
        }
        if !rotated {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use distilface_core::training::mix;

    use super::*;

    fn unit(at: usize) -> f32 {
        (mix(at as u64) >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// `rows` vectors of 12 values in a space of 5 dimensions, and a little noise.
    fn vectors(rows: usize, noise: f32) -> Vec<f32> {
        (0..rows * 12)
            .map(|at| {
                let (row, column) = (at / 12, at % 12);
                let along =
                    |k: usize| unit(900 + row * 5 + k) * (5 - k) as f32 * unit(k * 12 + column);
                (0..5).map(along).sum::<f32>() + noise * unit(1 << 20 | at)
            })
            .collect()
    }

    fn project(vectors: &[f32], directions: &[f32], keep: usize) -> Vec<f32> {
        let rows = vectors.len() / 12;
        let mut out = vec![0.0; rows * keep];
        let (x, p) = (Matrix::new(vectors, rows, 12), Matrix::new(directions, 12, keep));
        product(Products::F32, x, p, &mut out, Into::Replace);
        out
    }

    #[test]
    fn as_many_directions_as_there_are_keep_every_inner_product() {
        let x = vectors(40, 0.0);
        let y = project(&x, &principal_directions(&x, 12, 5), 5);
        let dot = |x: &[f32], width: usize, i: usize, j: usize| -> f32 {
            x[i * width..][..width].iter().zip(&x[j * width..][..width]).map(|(a, b)| a * b).sum()
        };
        for (i, j) in (0..40).flat_map(|i| (0..40).map(move |j| (i, j))) {
            let (wide, narrow) = (dot(&x, 12, i, j), dot(&y, 5, i, j));
            assert!((wide - narrow).abs() < 1e-3, "{i}, {j}: {wide} and {narrow}");
        }
    }

    #[test]
    fn directions_are_orthonormal_and_each_keeps_more_than_the_next() {
        let x = vectors(60, 0.1);
        let p = principal_directions(&x, 12, 8);
        for (a, b) in (0..8).flat_map(|a| (0..8).map(move |b| (a, b))) {
            let dot: f32 = (0..12).map(|at| p[at * 8 + a] * p[at * 8 + b]).sum();
            assert!((dot - f32::from(u8::from(a == b))).abs() < 1e-4, "{a}, {b}: {dot}");
        }
        let y = project(&x, &p, 8);
        let kept = |column: usize| y.iter().skip(column).step_by(8).map(|y| y * y).sum::<f32>();
        let kept: Vec<f32> = (0..8).map(kept).collect();
        assert!(kept.windows(2).all(|pair| pair[0] >= pair[1]), "{kept:?}");
        // No direction of the space keeps more than the first.
        let own = |axis: usize| x.iter().skip(axis).step_by(12).map(|x| x * x).sum::<f32>();
        assert!((0..12).all(|axis| own(axis) <= kept[0]), "{kept:?}");
    }
}
