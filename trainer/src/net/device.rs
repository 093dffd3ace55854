//! The forward pass on candle tensors, on any device that candle has; its derivative is candle's.
//!
//! Texts lie in rows of equal length, the shorter ones filled up: keys beyond a text's end are masked,
//! and what is computed there reaches neither a vector nor a gradient. Dropout drops what the
//! kernels drop: the CPU makes the masks, a byte a value, and the device multiplies with them.
//! With [`Products::Bf16`] both factors and the result of a linear layer's product are bfloat16;
//! attention, norms and sums are f32.

use std::ops::Range;

use candle_core::{D, DType, Device, Result, Tensor, Var};
use distilface_core::model::{Config, Pooling};
use distilface_core::training::{DropoutKey, Products, dropout_mask};

use super::{Dropout, Network, Texts, row_factors};

/// Added to the scores of keys beyond a text's end: `exp` of it is 0 in f32.
const MASKED: f32 = -1e9;

/// Tensors of a layer: weight and bias of six linear layers and two norms.
const LAYER: usize = 16;

/// An encoder whose weights lie on a device.
pub struct OnDevice {
    config: Config,
    pooling: Pooling,
    token_weights: Option<Vec<f32>>,
    products: Products,
    /// Threads that make masks.
    threads: usize,
    device: Device,
    /// In [`Config::tensors`]'s order; those of variables where they are trained.
    weights: Vec<Tensor>,
}

impl OnDevice {
    /// Copies a network's weights to the device.
    ///
    /// # Errors
    /// What the device says.
    pub fn copy(network: &Network, device: &Device, threads: usize) -> Result<OnDevice> {
        Ok(OnDevice {
            config: network.config.clone(),
            pooling: network.pooling,
            token_weights: network.token_weights.clone(),
            products: network.products,
            threads,
            device: device.clone(),
            weights: tensors(&network.config, &network.weights, device)?,
        })
    }

    /// The same with the weights as variables, which are given too.
    ///
    /// # Errors
    /// What the device says.
    pub fn trained(
        network: &Network,
        device: &Device,
        threads: usize,
    ) -> Result<(OnDevice, Vec<Var>)> {
        let mut copy = OnDevice::copy(network, device, threads)?;
        let vars = copy.weights.iter().map(Var::from_tensor).collect::<Result<Vec<Var>>>()?;
        copy.weights = vars.iter().map(|var| var.as_tensor().clone()).collect();
        Ok((copy, vars))
    }

    /// Vectors of texts, not normalized: (texts, width).
    ///
    /// # Errors
    /// What the device says.
    pub fn forward(&self, texts: &Texts, drop: Option<&Dropout>) -> Result<Tensor> {
        let width = self.config.hidden;
        let spans: Vec<Range<usize>> = texts.spans().collect();
        let longest = spans.iter().map(Range::len).max().unwrap_or(0);
        let batch = Padded { texts, drop, shape: (spans.len(), longest, width) };
        let mut ids = vec![0u32; spans.len() * longest];
        let mut mask = vec![MASKED; spans.len() * longest];
        let mut factors = vec![0.0; spans.len() * longest];
        for (row, span) in spans.iter().enumerate() {
            let (own, at) = (&texts.ids[span.clone()], row * longest);
            ids[at..at + own.len()].copy_from_slice(own);
            mask[at..at + own.len()].fill(0.0);
            let own = row_factors(self.pooling, self.token_weights.as_deref(), own, 1.0);
            factors[at..].iter_mut().zip(own).for_each(|(factor, own)| *factor = own);
        }
        let ids = Tensor::from_vec(ids, spans.len() * longest, &self.device)?;
        let mask = Tensor::from_vec(mask, (spans.len(), 1, 1, longest), &self.device)?;
        let words = self.weights[0].index_select(&ids, 0)?.reshape(batch.shape)?;
        let positions = self.weights[1].narrow(0, 0, longest)?;
        let sum = words.broadcast_add(&positions)?.reshape(((), width))?;
        let mut x = self.drop_hidden(&batch, 0, self.norm(&sum, 2)?)?;
        let mut states = Vec::new();
        for state in 0..=self.config.layers {
            if state > 0 {
                x = self.layer(&batch, state - 1, &x, &mask)?;
            }
            if let Some(share) = self.pooling.share(state, self.config.layers) {
                states.push((&x * f64::from(share))?);
            }
        }
        let mut states = states.into_iter();
        let first = states.next().ok_or_else(|| candle_core::Error::msg("no state is pooled"))?;
        let sum = states.try_fold(first, |sum, state| sum + state)?;
        let factors = Tensor::from_vec(factors, (spans.len(), 1, longest), &self.device)?;
        factors.matmul(&sum.reshape(batch.shape)?)?.squeeze(1)
    }

    fn layer(
        &self,
        batch: &Padded<'_>,
        number: usize,
        x: &Tensor,
        mask: &Tensor,
    ) -> Result<Tensor> {
        let (texts, longest, width) = batch.shape;
        let heads = self.config.heads;
        let at = 4 + number * LAYER;
        let split = |which: usize| {
            let rows = self.linear(x, at + 2 * which)?;
            rows.reshape((texts, longest, heads, width / heads))?.transpose(1, 2)
        };
        let q = (split(0)?.contiguous()? / ((width / heads) as f64).sqrt())?;
        let scores = q.matmul(&split(1)?.transpose(2, 3)?.contiguous()?)?.broadcast_add(mask)?;
        let powers = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
        let p = powers.broadcast_div(&powers.sum_keepdim(D::Minus1)?)?;
        let p = self.drop_attention(batch, 2 * number + 1, p)?;
        let context = p.matmul(&split(2)?.contiguous()?)?;
        let context = context.transpose(1, 2)?.contiguous()?.reshape(((), width))?;
        let middle = self.norm(&(self.linear(&context, at + 6)? + x)?, at + 8)?;
        let active = self.linear(&middle, at + 10)?.gelu_erf()?;
        let out = self.drop_hidden(batch, 2 * number + 2, self.linear(&active, at + 12)?)?;
        self.norm(&(out + middle)?, at + 14)
    }

    /// `x wᵀ + b` with the weight at `at`.
    fn linear(&self, x: &Tensor, at: usize) -> Result<Tensor> {
        let weight = &self.weights[at];
        let product = match self.products {
            Products::F32 => x.matmul(&weight.t()?)?,
            Products::Bf16 => {
                let (x, weight) = (x.to_dtype(DType::BF16)?, weight.to_dtype(DType::BF16)?);
                x.matmul(&weight.t()?)?.to_dtype(DType::F32)?
            }
        };
        product.broadcast_add(&self.weights[at + 1])
    }

    /// The layer norm whose scale is at `at`.
    fn norm(&self, x: &Tensor, at: usize) -> Result<Tensor> {
        let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = x.sqr()?.mean_keepdim(D::Minus1)?;
        let deviation = (variance + f64::from(self.config.layer_norm_eps))?.sqrt()?;
        let x = x.broadcast_div(&deviation)?.broadcast_mul(&self.weights[at])?;
        x.broadcast_add(&self.weights[at + 1])
    }

    fn drop_hidden(&self, batch: &Padded<'_>, site: usize, x: Tensor) -> Result<Tensor> {
        let key = |drop: &Dropout, text| drop.hidden_key(text, site);
        self.drop(batch, x, key, 1, Some(self.config.hidden))
    }

    fn drop_attention(&self, batch: &Padded<'_>, site: usize, p: Tensor) -> Result<Tensor> {
        let key = |drop: &Dropout, text| drop.attention_key(text, site);
        self.drop(batch, p, key, self.config.heads, None)
    }

    /// Multiplies with a mask that each text has in `blocks` of a row a token; a row is as wide as
    /// said, or has a value a token.
    fn drop(
        &self,
        batch: &Padded<'_>,
        x: Tensor,
        key: impl Fn(&Dropout, u64) -> Option<DropoutKey>,
        blocks: usize,
        width: Option<usize>,
    ) -> Result<Tensor> {
        let numbers = batch.texts.numbers.iter();
        let keys = numbers.filter_map(|number| key(batch.drop?, *number));
        let texts: Vec<(DropoutKey, Range<usize>)> = keys.zip(batch.texts.spans()).collect();
        let Some(scale) = texts.first().map(|(key, _)| key.scale()) else { return Ok(x) };
        let (_, longest, _) = batch.shape;
        let stride = width.unwrap_or(longest);
        let slot = blocks * longest * stride;
        let mut mask = vec![0; texts.len() * slot];
        let share = texts.len().div_ceil(self.threads);
        std::thread::scope(|scope| {
            for (texts, slots) in texts.chunks(share).zip(mask.chunks_mut(share * slot)) {
                scope.spawn(move || {
                    for ((key, span), slot) in texts.iter().zip(slots.chunks_exact_mut(slot)) {
                        let (tokens, columns) = (span.len(), width.unwrap_or(span.len()));
                        // Its own, without padding: what the hash counts.
                        let mut own = vec![0; blocks * tokens * columns];
                        dropout_mask(&mut own, *key);
                        for (row, own) in own.chunks_exact(columns).enumerate() {
                            let row = row / tokens * longest + row % tokens;
                            slot[row * stride..][..columns].copy_from_slice(own);
                        }
                    }
                });
            }
        });
        let mask = Tensor::from_vec(mask, x.shape(), &self.device)?.to_dtype(DType::F32)?;
        x.mul(&(mask * f64::from(scale))?)
    }
}

/// Texts in rows of equal length.
struct Padded<'a> {
    texts: &'a Texts,
    drop: Option<&'a Dropout>,
    /// (texts, longest, width)
    shape: (usize, usize, usize),
}

/// The tensors of a network, or of what lies beside its weights.
///
/// # Errors
/// What the device says.
pub fn tensors(config: &Config, values: &[f32], device: &Device) -> Result<Vec<Tensor>> {
    let mut at = 0;
    let shapes = config.tensors().into_iter().map(|(_, shape)| shape);
    shapes
        .map(|shape| {
            let size: usize = shape.iter().product();
            at += size;
            Tensor::from_slice(&values[at - size..at], shape, device)
        })
        .collect()
}

/// The values of tensors, end to end.
///
/// # Errors
/// What the device says.
pub fn values(tensors: &[Tensor]) -> Result<Vec<f32>> {
    let mut values = Vec::new();
    for tensor in tensors {
        values.extend(tensor.flatten_all()?.to_vec1::<f32>()?);
    }
    Ok(values)
}
