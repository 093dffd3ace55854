//! A narrower network out of a wide one, to start a student with.
//!
//! The residual stream is projected onto orthonormal directions: what reads from it is multiplied by
//! them, what writes to it by their transpose. Of the heads and of the inner columns of the
//! feed-forward the least are left out. A layer norm centers and scales along the old axes, which no
//! projection keeps; scale and shift of each are fitted anew, from the first to the last, to what the
//! wide network's norm gives for some texts.

use distilface_core::model::Config;
use distilface_core::training::{Into, Matrix, Products, product};

use super::{Laid, LayerPlaces, Network, Pair, Texts};

impl Network {
    /// The states of some texts' tokens, of the embedding output and of each layer, end to end.
    pub fn states(&self, texts: &Texts) -> Vec<f32> {
        let (mut x, _) = self.embed(texts, None);
        let mut all = x.clone();
        for (number, places) in self.places.layers.iter().enumerate() {
            x = self.layer(&Laid::default(), number, places, x, texts, None).0;
            all.extend_from_slice(&x);
        }
        all
    }

    /// The network with states of `width` values, norms fitted on some texts. `directions` has a
    /// row of `width` for each value of the old states, its columns orthonormal.
    ///
    /// # Panics
    /// If `width` is no multiple of a head's width or more than the old.
    pub fn narrowed(&self, width: usize, directions: &[f32], texts: &Texts) -> Network {
        let old = &self.config;
        let head = old.hidden / old.heads;
        assert!(width <= old.hidden && width.is_multiple_of(head), "whole heads of {head}");
        assert_eq!(directions.len(), old.hidden * width, "a column for each new value");
        let config = Config {
            hidden: width,
            heads: width / head,
            intermediate: (old.intermediate * width / old.hidden).max(4),
            ..old.clone()
        };
        let projection = Projection { directions, old: old.hidden, width };
        let mut weights = Vec::with_capacity(config.parameters());
        for range in [&self.places.word, &self.places.position] {
            weights.extend(projection.rows(&self.weights[range.clone()]));
        }
        let plain_norm = || std::iter::repeat_n(1.0, width).chain(std::iter::repeat_n(0.0, width));
        weights.extend(plain_norm());
        for layer in &self.places.layers {
            let heads = self.longest_heads(layer, config.heads);
            let units: Vec<usize> =
                heads.iter().flat_map(|at| at * head..(at + 1) * head).collect();
            let inner = self.longest_inner(layer, config.intermediate);
            for pair in [&layer.q, &layer.k, &layer.v] {
                weights.extend(self.reading(&projection, pair, &units));
            }
            weights.extend(self.writing(&projection, &layer.out, &units));
            weights.extend(plain_norm());
            weights.extend(self.reading(&projection, &layer.lin1, &inner));
            weights.extend(self.writing(&projection, &layer.lin2, &inner));
            weights.extend(plain_norm());
        }
        let mut narrow = self.like(&config, weights);
        narrow.fit_norms(self, &projection, texts);
        narrow
    }

    /// A linear layer from the stream to some of its outputs.
    fn reading(&self, projection: &Projection<'_>, pair: &Pair, units: &[usize]) -> Vec<f32> {
        let (weight, bias) = self.pair(pair);
        let old = projection.old;
        let rows: Vec<f32> =
            units.iter().flat_map(|unit| &weight[unit * old..][..old]).copied().collect();
        let mut out = projection.rows(&rows);
        out.extend(units.iter().map(|unit| bias[*unit]));
        out
    }

    /// A linear layer from some of its inputs to the stream.
    fn writing(&self, projection: &Projection<'_>, pair: &Pair, units: &[usize]) -> Vec<f32> {
        let (weight, bias) = self.pair(pair);
        let inputs = weight.len() / bias.len();
        let columns: Vec<f32> = weight
            .chunks_exact(inputs)
            .flat_map(|row| units.iter().map(|unit| row[*unit]))
            .collect();
        let mut out = projection.columns(&columns, units.len());
        out.extend(projection.rows(bias));
        out
    }

    fn fit_norms(&mut self, wide: &Network, projection: &Projection<'_>, texts: &Texts) {
        let laid = Laid::default();
        let mut wide_x = wide.embed(texts, None).0;
        let normed = self.embed(texts, None).1.normed;
        self.fit_norm(&self.places.norm.clone(), &normed, &projection.rows(&wide_x));
        let mut x = self.embed(texts, None).0;
        for (number, wide_places) in wide.places.layers.iter().enumerate() {
            let places = self.places.layers[number].clone();
            let (wide_out, wide_layer) =
                wide.layer(&laid, number, wide_places, wide_x, texts, None);
            let layer = self.layer(&laid, number, &places, x.clone(), texts, None).1;
            let expected = projection.rows(&wide_layer.middle);
            self.fit_norm(&places.norm1, &layer.norm1.normed, &expected);
            let layer = self.layer(&laid, number, &places, x.clone(), texts, None).1;
            self.fit_norm(&places.norm2, &layer.norm2.normed, &projection.rows(&wide_out));
            x = self.layer(&laid, number, &places, x, texts, None).0;
            wide_x = wide_out;
        }
    }

    /// Scale and shift of each value that bring a norm's rows nearest to the expected ones.
    fn fit_norm(&mut self, [scale, shift]: &Pair, normed: &[f32], expected: &[f32]) {
        let width = self.hidden();
        let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
        for at in 0..width {
            let column = |x: &[f32]| -> Vec<f64> {
                x.iter().skip(at).step_by(width).map(|x| f64::from(*x)).collect()
            };
            let (x, y) = (column(normed), column(expected));
            let (mean_x, mean_y) = (mean(&x), mean(&y));
            let both: f64 = x.iter().zip(&y).map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
            let own: f64 = x.iter().map(|x| (x - mean_x).powi(2)).sum();
            let slope = if own > 0.0 { both / own } else { 0.0 };
            self.weights[scale.start + at] = slope as f32;
            self.weights[shift.start + at] = (mean_y - slope * mean_x) as f32;
        }
    }

    /// The heads whose part of the output's weights is longest, in order.
    fn longest_heads(&self, layer: &LayerPlaces, keep: usize) -> Vec<usize> {
        let (weight, bias) = self.pair(&layer.out);
        let (inputs, heads) = (weight.len() / bias.len(), self.config.heads);
        let mut lengths = vec![0.0f64; heads];
        for row in weight.chunks_exact(inputs) {
            for (length, part) in lengths.iter_mut().zip(row.chunks_exact(inputs / heads)) {
                *length += part.iter().map(|x| f64::from(x * x)).sum::<f64>();
            }
        }
        longest(&lengths, keep)
    }

    /// The values between the two products of the feed-forward whose weights are longest, in order.
    fn longest_inner(&self, layer: &LayerPlaces, keep: usize) -> Vec<usize> {
        let (up, _) = self.pair(&layer.lin1);
        let (down, bias) = self.pair(&layer.lin2);
        let square = |x: &f32| f64::from(x * x);
        let ups: Vec<f64> =
            up.chunks_exact(bias.len()).map(|row| row.iter().map(square).sum()).collect();
        let mut downs = vec![0.0f64; ups.len()];
        for row in down.chunks_exact(ups.len()) {
            downs.iter_mut().zip(row).for_each(|(sum, x)| *sum += square(x));
        }
        let lengths: Vec<f64> = ups.iter().zip(downs).map(|(up, down)| up * down).collect();
        longest(&lengths, keep)
    }

    fn pair(&self, [weight, bias]: &Pair) -> (&[f32], &[f32]) {
        (&self.weights[weight.clone()], &self.weights[bias.clone()])
    }
}

/// Places of the largest, ascending; of equal ones the first.
fn longest(lengths: &[f64], keep: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by(|a, b| lengths[*b].total_cmp(&lengths[*a]).then(a.cmp(b)));
    order.truncate(keep);
    order.sort_unstable();
    order
}

struct Projection<'a> {
    directions: &'a [f32],
    old: usize,
    width: usize,
}

impl Projection<'_> {
    /// Rows over the old values, over the new.
    fn rows(&self, rows: &[f32]) -> Vec<f32> {
        let count = rows.len() / self.old;
        let mut out = vec![0.0; count * self.width];
        let directions = Matrix::new(self.directions, self.old, self.width);
        let rows = Matrix::new(rows, count, self.old);
        product(Products::F32, rows, directions, &mut out, Into::Replace);
        out
    }

    /// A row of `count` for each old value, a row for each new one.
    fn columns(&self, columns: &[f32], count: usize) -> Vec<f32> {
        let mut out = vec![0.0; self.width * count];
        let directions = Matrix::new(self.directions, self.old, self.width);
        let columns = Matrix::new(columns, self.old, count);
        product(Products::F32, directions.transposed(), columns, &mut out, Into::Replace);
        out
    }
}

#[cfg(test)]
mod tests {
    use distilface_core::model::Pooling;

    use super::super::tests::{Fixture, relative_error};
    use super::*;
    use crate::train::pca::principal_directions;

    fn vectors(network: &Network, texts: &Texts) -> Vec<f32> {
        network.forward(&Laid::default(), texts, None, None)
    }

    /// A layer norm does not care about the order of its values, so that at full width and along
    /// the old axes in another order nothing is lost.
    #[test]
    fn the_whole_width_in_another_order_of_axes_is_the_same_network() {
        let texts = Fixture::open().texts();
        let network = Fixture::open().network(Pooling::MeanLast4);
        let place = |at: usize| (5 * at + 3) % 16;
        let mut directions = vec![0.0; 16 * 16];
        (0..16).for_each(|at| directions[place(at) * 16 + at] = 1.0);
        let got = vectors(&network.narrowed(16, &directions, &texts), &texts);
        let old = vectors(&network, &texts);
        let expected: Vec<f32> =
            old.chunks_exact(16).flat_map(|row| (0..16).map(|at| row[place(at)])).collect();
        assert!(relative_error(&got, &expected) < 1e-4);
    }

    #[test]
    fn a_narrower_network_keeps_its_heads_whole_and_most_of_its_vectors() {
        let texts = Fixture::open().texts();
        let network = Fixture::open().network(Pooling::Mean);
        // What is lost of the vectors' projections, as a share of them.
        let lost = |width: usize, directions: &[f32]| {
            let narrow = network.narrowed(width, directions, &texts);
            let config = &narrow.config;
            assert_eq!((config.hidden, config.heads), (width, width / 4));
            assert_eq!(narrow.weights.len(), config.parameters());
            let projection = Projection { directions, old: 16, width };
            let expected = projection.rows(&vectors(&network, &texts));
            let got = vectors(&narrow, &texts);
            let square = |x: f32| f64::from(x * x);
            let error: f64 = got.iter().zip(&expected).map(|(a, b)| square(a - b)).sum();
            error / expected.iter().map(|x| square(*x)).sum::<f64>()
        };
        let states = network.states(&texts);
        let of_width = |width| lost(width, &principal_directions(&states, 16, width));
        let shares = [12, 8, 4].map(of_width);
        assert!(shares[0] < 0.2 && shares[1] < 0.4 && shares[2] < 0.8, "{shares:?}");
    }

    #[test]
    fn the_longest_are_kept_in_order() {
        assert_eq!(longest(&[1.0, 5.0, 5.0, 0.0, 7.0], 3), [1, 2, 4]);
    }
}
