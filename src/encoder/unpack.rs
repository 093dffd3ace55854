//! Packed weights as the f32 tensors that they were made from, within their rounding.
//!
//! A model that is there only in its packed form can so be handed to
//! [`Reference`](super::Reference), on any device. What [`pack_weights`](super::pack_weights) folded in
//! is taken out again, and padding is left away.

use super::kernels::from_bf16;
use super::weights::{Linear, Norm, Values, Weights};
use crate::model::{ModelError, Tensors};
use std::borrow::Cow;

impl Tensors for Weights<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Cow<'_, [f32]>, ModelError> {
        let missing = || ModelError::MissingTensor(name.to_owned());
        let values = self.unpacked(name).ok_or_else(missing)?;
        if values.len() != shape.iter().product::<usize>() {
            return Err(ModelError::Packed {
                expected: "tensors of the configuration's shapes",
                got: format!("{} values in \"{name}\", not {shape:?}", values.len()),
            });
        }
        Ok(Cow::Owned(values))
    }
}

impl Weights<'_> {
    fn unpacked(&self, name: &str) -> Option<Vec<f32>> {
        let d = *self.dims();
        if let Some(name) = name.strip_prefix("embeddings.") {
            let e = self.embeddings();
            return match name {
                "word_embeddings.weight" => {
                    let row = |id: usize| {
                        let (codes, scales) = e.word(id);
                        let scale = |i: usize| from_bf16(scales[i / 32]);
                        codes
                            .iter()
                            .take(d.hidden)
                            .enumerate()
                            .map(move |(i, &code)| f32::from(code) * scale(i))
                    };
                    Some((0..d.vocab_size).flat_map(row).collect())
                }
                "position_embeddings.weight" => Some(
                    (0..d.max_positions)
                        .flat_map(|at| &e.position(at)[..d.hidden])
                        .copied()
                        .collect(),
                ),
                _ => norm(&e.norm, name.strip_prefix("LayerNorm.")?, d.hidden),
            };
        }
        let (index, name) = name.strip_prefix("transformer.layer.")?.split_once('.')?;
        let index: usize = index.parse().ok().filter(|&index| index < d.layers)?;
        let layer = self.layer(index);
        // Where an index of the model's own width is among padded heads.
        let padded = |i: usize| (i / d.head) * d.head_padded + i % d.head;
        let same = |i: usize| i;
        let (part, of) = name.rsplit_once('.')?;
        let attention = |part: usize, factor: f32| {
            let output = move |i: usize| part * d.context() + padded(i);
            linear(&layer.qkv, of, [d.hidden, d.hidden], output, same, factor)
        };
        match part {
            "attention.q_lin" => attention(0, (d.head as f32).sqrt() / std::f32::consts::LOG2_E),
            "attention.k_lin" => attention(1, 1.0),
            "attention.v_lin" => attention(2, 1.0),
            "attention.out_lin" => linear(&layer.out, of, [d.hidden, d.hidden], same, padded, 1.0),
            "ffn.lin1" => linear(&layer.up, of, [d.inner, d.hidden], same, same, 1.0),
            "ffn.lin2" => linear(&layer.down, of, [d.hidden, d.inner], same, same, 1.0),
            "sa_layer_norm" => norm(&layer.attention_norm, of, d.hidden),
            "output_layer_norm" => norm(&layer.output_norm, of, d.hidden),
            _ => None,
        }
    }
}

fn norm(norm: &Norm<'_>, of: &str, hidden: usize) -> Option<Vec<f32>> {
    match of {
        "weight" => Some(norm.weight[..hidden].to_vec()),
        "bias" => Some(norm.bias[..hidden].to_vec()),
        _ => None,
    }
}

/// Weight or bias of a layer of that many outputs and inputs, each where it was put, times `factor`.
fn linear(
    layer: &Linear<'_>,
    of: &str,
    [outputs, inputs]: [usize; 2],
    output: impl Fn(usize) -> usize,
    input: impl Fn(usize) -> usize,
    factor: f32,
) -> Option<Vec<f32>> {
    match of {
        "weight" => {
            let mut values = Vec::with_capacity(outputs * inputs);
            for row in 0..outputs {
                let n = output(row);
                values.extend((0..inputs).map(|col| layer.weight.value(n, input(col)) * factor));
            }
            Some(values)
        }
        "bias" => {
            let bias = layer.bias?;
            Some((0..outputs).map(|row| bias[output(row)] * factor).collect())
        }
        _ => None,
    }
}

impl super::weights::Matrix<'_> {
    /// The weight of output `n` for input `k`.
    fn value(&self, n: usize, k: usize) -> f32 {
        match self.values {
            Values::Bf16(tiles) => from_bf16(tiles[super::weights::position(n, k, self.k, 2) / 2]),
            Values::Int8 { codes, scales } => {
                f32::from(codes[super::weights::position(n, k, self.k, 1)]) * scales[n]
            }
        }
    }
}
