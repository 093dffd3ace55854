//! The same forward pass on candle, in f32: the reference that kernels are held against, and the
//! path for devices that have no kernels of ours (CUDA, with the feature of that name).
//!
//! Texts of similar length go together, padded to the longest and masked, at most
//! `max_batch_tokens` padded tokens at a time; with a limit of 1 every text goes alone, without
//! padding. Weights are the unpacked f32 ones.

use super::pool::{l2_normalize, total_weight};
use super::{EncodeError, Normalization, SentenceEncoder, TokenBatch};
use crate::model::{Config, ModelError, Pooling, Tensors};
use candle_core::{D, DType, Device, Result as CandleResult, Tensor};

/// Why the reference has no vectors.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// The texts cannot be encoded, or the caller asked to stop.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The weights cannot be used.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The device failed.
    #[error("candle: {0}")]
    Device(#[from] candle_core::Error),
}

/// An encoder on a candle device.
pub struct Reference {
    config: Config,
    pooling: Pooling,
    normalization: Normalization,
    token_weights: Option<Vec<f32>>,
    words: Tensor,
    positions: Tensor,
    norm: Affine,
    layers: Vec<Layer>,
    device: Device,
}

/// Scale and shift of a layer norm, or weight (`[in, out]`) and bias of a linear layer.
struct Affine(Tensor, Tensor);

struct Layer {
    q: Affine,
    k: Affine,
    v: Affine,
    out: Affine,
    attention_norm: Affine,
    up: Affine,
    down: Affine,
    output_norm: Affine,
}

/// The first CUDA device.
///
/// # Errors
/// What the driver says where there is none, and candle's own word where it was built without the
/// feature `cuda`.
pub fn cuda_device() -> Result<Device, ReferenceError> {
    Ok(Device::new_cuda(0)?)
}

impl Reference {
    /// An encoder of a packed model's weights, pooling and normalization.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn from_packed(
        model: &SentenceEncoder<'_>,
        device: &Device,
    ) -> Result<Reference, ReferenceError> {
        let manifest = model.manifest();
        let normalization =
            if manifest.normalize { Normalization::L2 } else { Normalization::None };
        let (weights, pooling) = (model.encoder().weights(), manifest.pooling);
        let new = Reference::new(&manifest.encoder, weights, pooling, normalization, device)?;
        let token_weights = model.encoder().token_weights().map(<[f32]>::to_vec);
        Ok(Reference { token_weights, ..new })
    }

    /// Copies the tensors to `device`.
    ///
    /// # Errors
    /// [`ReferenceError::Model`] for tensors that are missing or wrong, [`ReferenceError::Device`].
    pub fn new(
        config: &Config,
        tensors: &dyn Tensors,
        pooling: Pooling,
        normalization: Normalization,
        device: &Device,
    ) -> Result<Reference, ReferenceError> {
        config.check()?;
        let (hidden, inner) = (config.hidden, config.intermediate);
        let load = |name: &str, shape: &[usize]| -> Result<Tensor, ReferenceError> {
            let values = tensors.tensor(name, shape)?;
            Ok(Tensor::from_slice(&values, shape, device)?)
        };
        let norm = |name: &str| -> Result<Affine, ReferenceError> {
            let weight = load(&format!("{name}.weight"), &[hidden])?;
            Ok(Affine(weight, load(&format!("{name}.bias"), &[hidden])?))
        };
        let linear = |name: &str, out: usize, input: usize| -> Result<Affine, ReferenceError> {
            let weight = load(&format!("{name}.weight"), &[out, input])?.t()?.contiguous()?;
            Ok(Affine(weight, load(&format!("{name}.bias"), &[out])?))
        };
        let layers = (0..config.layers).map(|n| {
            let p = format!("transformer.layer.{n}");
            Ok(Layer {
                q: linear(&format!("{p}.attention.q_lin"), hidden, hidden)?,
                k: linear(&format!("{p}.attention.k_lin"), hidden, hidden)?,
                v: linear(&format!("{p}.attention.v_lin"), hidden, hidden)?,
                out: linear(&format!("{p}.attention.out_lin"), hidden, hidden)?,
                attention_norm: norm(&format!("{p}.sa_layer_norm"))?,
                up: linear(&format!("{p}.ffn.lin1"), inner, hidden)?,
                down: linear(&format!("{p}.ffn.lin2"), hidden, inner)?,
                output_norm: norm(&format!("{p}.output_layer_norm"))?,
            })
        });
        let layers = layers.collect::<Result<_, ReferenceError>>()?;
        Ok(Reference {
            config: config.clone(),
            pooling,
            normalization,
            token_weights: None,
            words: load("embeddings.word_embeddings.weight", &[config.vocab_size, hidden])?,
            positions: load(
                "embeddings.position_embeddings.weight",
                &[config.max_positions, hidden],
            )?,
            norm: norm("embeddings.LayerNorm")?,
            layers,
            device: device.clone(),
        })
    }

    /// The vectors of a batch, end to end in the texts' order. `stop` is asked between groups.
    ///
    /// # Errors
    /// [`ReferenceError::Encode`] as [`Encoder::encode`](super::Encoder::encode) does.
    pub fn encode(
        &self,
        batch: &TokenBatch,
        max_batch_tokens: usize,
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<Vec<f32>, ReferenceError> {
        let (most, rows) = (self.config.max_positions, self.config.vocab_size);
        for text in 0..batch.len() {
            super::model::check_ids(text, batch.text(text), most, rows)?;
        }
        let mut order: Vec<usize> = (0..batch.len()).collect();
        order.sort_by_key(|&t| std::cmp::Reverse(batch.text(t).len()));
        let hidden = self.config.hidden;
        let mut out = vec![0.0; batch.len() * hidden];
        let mut rest = order.as_slice();
        while let Some(&first) = rest.first() {
            if stop() {
                return Err(EncodeError::Canceled.into());
            }
            let longest = batch.text(first).len();
            let (group, others) = rest.split_at((max_batch_tokens / longest).clamp(1, rest.len()));
            rest = others;
            let vectors = self.group(batch, group, longest)?;
            for (vector, &text) in vectors.chunks_exact(hidden).zip(group) {
                let place = &mut out[text * hidden..][..hidden];
                place.copy_from_slice(vector);
                if self.normalization == Normalization::L2 {
                    l2_normalize(place);
                }
            }
        }
        Ok(out)
    }

    /// The pooled vectors of some texts, padded to `longest`.
    fn group(&self, batch: &TokenBatch, texts: &[usize], longest: usize) -> CandleResult<Vec<f32>> {
        let (count, heads) = (texts.len(), self.config.heads);
        let mut ids = vec![0u32; count * longest];
        let mut mask = vec![f32::NEG_INFINITY; count * longest];
        let mut mean = vec![0f32; count * longest];
        for (i, &text) in texts.iter().enumerate() {
            let text = batch.text(text);
            ids[i * longest..][..text.len()].copy_from_slice(text);
            mask[i * longest..][..text.len()].fill(0.0);
            let factor = 1.0 / total_weight(self.token_weights.as_deref(), text);
            for (mean, &id) in mean[i * longest..].iter_mut().zip(text) {
                *mean = self.token_weights.as_ref().map_or(factor, |all| factor * all[id as usize]);
            }
        }
        if self.pooling == Pooling::Cls {
            (0..count * longest).for_each(|i| mean[i] = f32::from(i % longest == 0));
        }
        let ids = Tensor::from_vec(ids, count * longest, &self.device)?;
        let mask = Tensor::from_vec(mask, (count, 1, 1, longest), &self.device)?;
        let mean = Tensor::from_vec(mean, (count, 1, longest), &self.device)?;
        let hidden = self.config.hidden;
        let x = self.words.index_select(&ids, 0)?.reshape((count, longest, hidden))?;
        let x = x.broadcast_add(&self.positions.narrow(0, 0, longest)?)?;
        let mut x = self.normalize(&x, &self.norm)?;
        let mut pooled = Tensor::zeros((count, hidden), DType::F32, &self.device)?;
        for state in 0..=self.layers.len() {
            if state > 0 {
                x = self.layer(&self.layers[state - 1], &x, &mask, heads)?;
            }
            if let Some(share) = self.pooling.share(state, self.layers.len()) {
                let vectors = mean.matmul(&x)?.squeeze(1)?;
                pooled = (pooled + (vectors * f64::from(share))?)?;
            }
        }
        pooled.flatten_all()?.to_vec1()
    }

    fn layer(&self, l: &Layer, x: &Tensor, mask: &Tensor, heads: usize) -> CandleResult<Tensor> {
        let (count, longest, hidden) = x.dims3()?;
        let width = hidden / heads;
        let split = |a: &Affine| -> CandleResult<Tensor> {
            let y = linear(x, a)?.reshape((count, longest, heads, width))?;
            y.transpose(1, 2)?.contiguous()
        };
        let (q, k, v) = (split(&l.q)?, split(&l.k)?, split(&l.v)?);
        let scores = (q.matmul(&k.t()?.contiguous()?)? * (1.0 / (width as f64).sqrt()))?;
        let scores = scores.broadcast_add(mask)?;
        let powers = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
        let weights = powers.broadcast_div(&powers.sum_keepdim(D::Minus1)?)?;
        let context = weights.matmul(&v)?.transpose(1, 2)?.reshape((count, longest, hidden))?;
        let x = self.normalize(&(x + linear(&context, &l.out)?)?, &l.attention_norm)?;
        let y = linear(&linear(&x, &l.up)?.gelu_erf()?, &l.down)?;
        self.normalize(&(x + y)?, &l.output_norm)
    }

    fn normalize(&self, x: &Tensor, a: &Affine) -> CandleResult<Tensor> {
        let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = x.sqr()?.mean_keepdim(D::Minus1)?;
        let deviation = (variance + f64::from(self.config.layer_norm_eps))?.sqrt()?;
        x.broadcast_div(&deviation)?.broadcast_mul(&a.0)?.broadcast_add(&a.1)
    }
}

fn linear(x: &Tensor, a: &Affine) -> CandleResult<Tensor> {
    let (count, longest, width) = x.dims3()?;
    let y = x.reshape((count * longest, width))?.matmul(&a.0)?.broadcast_add(&a.1)?;
    y.reshape((count, longest, a.1.dim(0)?))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{cosine, fixtures, real_model, sts_sentences};
    use super::super::{Context, Encoder, InputKind, Weights, pack_model, pack_weights};
    use super::*;
    use crate::model::Precision;

    #[test]
    fn f32_reference_gives_the_fixtures_vectors_padded_or_not() {
        let (Some(model), Some((texts, expected))) = (real_model(), fixtures()) else { return };
        let config = &model.manifest().encoder;
        let reference =
            Reference::new(config, &model, Pooling::Mean, Normalization::L2, &Device::Cpu)
                .expect("the model has all tensors");
        for most in [1, 1024] {
            let got = reference.encode(&texts, most, &mut || false).expect("fixtures are in range");
            for (i, (a, b)) in got.chunks(384).zip(&expected).enumerate() {
                let cosine = cosine(a, b);
                assert!(cosine >= 0.999_999, "text {i}, groups of {most}: {cosine}");
            }
        }
        let stopped = reference.encode(&texts, 1, &mut || true);
        assert!(matches!(stopped, Err(ReferenceError::Encode(EncodeError::Canceled))));
    }

    #[test]
    fn packed_weights_give_the_same_vectors_on_a_device_of_candle() {
        let Some(model) = real_model() else { return };
        let packed = pack_model(&model).expect("the model packs");
        let block = super::super::tests::Aligned::new(&packed);
        let encoder = SentenceEncoder::from_packed(block.bytes(packed.len())).expect("it opens");
        let reference = Reference::from_packed(&encoder, &Device::Cpu).expect("all tensors");
        let long = "word ".repeat(1000);
        let texts = ["Geese fly south.", " ", &long, "A ship sails at dawn, slowly."];
        let got = encoder
            .embed_on(&reference, &texts, InputKind::Passage, 2048, &mut || false)
            .expect("in range");
        let expected =
            encoder.embed(&texts, InputKind::Passage, &mut Context::new(1)).expect("in range");
        assert_eq!((got.len(), got.truncated, got.is_cut(2)), (4, 1, true));
        for (i, pair) in got.vectors().zip(expected.vectors()).enumerate() {
            match pair {
                (Some(a), Some(b)) => assert!(cosine(a, b) > 0.9999, "text {i}"),
                (a, b) => assert!(a.is_none() && b.is_none() && i == 1, "text {i}"),
            }
        }
    }

    #[test]
    fn vectors_stay_close_to_f32_on_real_sentences() {
        let (Some(model), Some(sentences)) = (real_model(), sts_sentences(300)) else { return };
        let packed = pack_model(&model).expect("the model packs");
        let block = super::super::tests::Aligned::new(&packed);
        let encoder = SentenceEncoder::from_packed(block.bytes(packed.len())).expect("it opens");
        let weights = pack_weights(&model.manifest().encoder, &model, Precision::Int8)
            .expect("the model packs");
        let int8 = super::super::tests::Aligned::new(&weights);
        let int8 = Weights::from_bytes(int8.bytes(weights.len())).expect("it opens");
        let int8 = Encoder::new(int8, Pooling::Mean, Normalization::L2);
        let mut texts = TokenBatch::new();
        for sentence in &sentences {
            texts.push_with(|ids| encoder.tokenizer().encode(sentence, 256, ids));
        }
        let reference = Reference::new(
            &model.manifest().encoder,
            &model,
            Pooling::Mean,
            Normalization::L2,
            &Device::Cpu,
        )
        .expect("the model has all tensors");
        let expected = reference.encode(&texts, 2048, &mut || false).expect("in range");
        for (encoder, mean_bound, least_bound) in
            [(encoder.encoder(), 0.9999, 0.9995), (&int8, 0.999, 0.995)]
        {
            let got = encoder.encode(&texts, &mut Context::new(1)).expect("in range");
            let cosines: Vec<f64> =
                got.chunks(384).zip(expected.chunks(384)).map(|(a, b)| cosine(a, b)).collect();
            let least = cosines.iter().copied().fold(1.0, f64::min);
            let mean = cosines.iter().sum::<f64>() / cosines.len() as f64;
            let precision = encoder.weights().precision();
            eprintln!("{precision:?}: cosine mean {mean:.6} least {least:.6}");
            assert!(mean >= mean_bound && least >= least_bound, "{precision:?}: {mean}, {least}");
        }
    }
}
