//! The forward pass.

use distilface_core::training::{
    AttentionShape, DropoutKey, Into, LayerNorm, Matrix, add, add_bias, attention, dropout, gelu,
    product,
};

use super::{Dropout, Laid, LayerPlaces, Linear, Network, Pair, Texts, row_factors};

/// What a pass leaves for its derivative.
#[derive(Default)]
pub struct Tape {
    pub(super) embedded: Norm,
    pub(super) layers: Vec<Layer>,
}

/// A layer norm's rows before scale and shift, and one over their deviations.
#[derive(Default)]
pub(super) struct Norm {
    pub normed: Vec<f32>,
    pub inverse: Vec<f32>,
}

pub(super) struct Layer {
    pub input: Vec<f32>,
    pub qkv: [Vec<f32>; 3],
    /// (heads, tokens, tokens) of each text.
    pub probabilities: Vec<f32>,
    pub context: Vec<f32>,
    pub norm1: Norm,
    pub middle: Vec<f32>,
    /// The slope of GELU at each of its inputs.
    pub slope: Vec<f32>,
    pub active: Vec<f32>,
    pub norm2: Norm,
}

/// Places of dropout: the embedding output is 0, layer n's attention 2n + 1, its feed-forward
/// 2n + 2.
impl Dropout {
    pub(super) fn hidden_key(&self, text: u64, site: usize) -> Option<DropoutKey> {
        (self.hidden > 0.0).then(|| DropoutKey::new(self.seed, text, site as u64, self.hidden))
    }

    pub(super) fn attention_key(&self, text: u64, site: usize) -> Option<DropoutKey> {
        let share = self.attention;
        (share > 0.0).then(|| DropoutKey::new(self.seed, text, site as u64, share))
    }
}

impl Network {
    /// Vectors of texts, not normalized, one after the other; with `tape`, what
    /// [`Network::backward`] needs. `laid` is of this network's weights, forward.
    pub fn forward(
        &self,
        laid: &Laid,
        texts: &Texts,
        drop: Option<&Dropout>,
        mut tape: Option<&mut Tape>,
    ) -> Vec<f32> {
        let hidden = self.hidden();
        let mut pooled = vec![0.0; texts.len() * hidden];
        let (mut x, embedded) = self.embed(texts, drop);
        self.pool(0, texts, &x, &mut pooled);
        if let Some(tape) = tape.as_deref_mut() {
            tape.embedded = embedded;
            tape.layers.clear();
        }
        for (number, places) in self.places.layers.iter().enumerate() {
            let (out, layer) = self.layer(laid, number, places, x, texts, drop);
            x = out;
            self.pool(number + 1, texts, &x, &mut pooled);
            if let Some(tape) = tape.as_deref_mut() {
                tape.layers.push(layer);
            }
        }
        pooled
    }

    pub(super) fn embed(&self, texts: &Texts, drop: Option<&Dropout>) -> (Vec<f32>, Norm) {
        let hidden = self.hidden();
        let word = &self.weights[self.places.word.clone()];
        let position = &self.weights[self.places.position.clone()];
        let mut sum = Vec::with_capacity(texts.ids.len() * hidden);
        for span in texts.spans() {
            for (at, id) in texts.ids[span].iter().enumerate() {
                let word = &word[*id as usize * hidden..][..hidden];
                let position = &position[at * hidden..][..hidden];
                sum.extend(word.iter().zip(position).map(|(word, position)| word + position));
            }
        }
        let (mut x, norm) = self.norm(&self.places.norm, &sum);
        self.drop_hidden(texts, drop, 0, &mut x);
        (x, norm)
    }

    pub(super) fn layer(
        &self,
        laid: &Laid,
        number: usize,
        places: &LayerPlaces,
        input: Vec<f32>,
        texts: &Texts,
        drop: Option<&Dropout>,
    ) -> (Vec<f32>, Layer) {
        let (hidden, heads) = (self.hidden(), self.config.heads);
        let linear = |which, x: &[f32]| self.linear(&laid.linear(places, number, which), x);
        let qkv = [0, 1, 2].map(|which| linear(which, &input));
        let mut context = vec![0.0; input.len()];
        let pairs: usize = texts.spans().map(|span| span.len() * span.len()).sum();
        let mut probabilities = vec![0.0; heads * pairs];
        let mut rest = &mut probabilities[..];
        for (span, text) in texts.spans().zip(&texts.numbers) {
            let shape = AttentionShape { tokens: span.len(), heads, width: hidden / heads };
            let (own, others) = rest.split_at_mut(heads * span.len() * span.len());
            rest = others;
            let rows = span.start * hidden..span.end * hidden;
            attention(
                &shape,
                [0, 1, 2].map(|i: usize| &qkv[i][rows.clone()]),
                drop.and_then(|drop| drop.attention_key(*text, 2 * number + 1)),
                own,
                &mut context[rows],
            );
        }
        let mut sum = linear(3, &context);
        add(&mut sum, &input);
        let (middle, norm1) = self.norm(&places.norm1, &sum);
        let mut active = linear(4, &middle);
        let mut slope = vec![0.0; active.len()];
        gelu(&mut active, &mut slope);
        let mut sum = linear(5, &active);
        self.drop_hidden(texts, drop, 2 * number + 2, &mut sum);
        add(&mut sum, &middle);
        let (out, norm2) = self.norm(&places.norm2, &sum);
        let layer =
            Layer { input, qkv, probabilities, context, norm1, middle, slope, active, norm2 };
        (out, layer)
    }

    fn pool(&self, state: usize, texts: &Texts, x: &[f32], pooled: &mut [f32]) {
        let Some(share) = self.share(state) else { return };
        let hidden = self.hidden();
        for (span, pooled) in texts.spans().zip(pooled.chunks_exact_mut(hidden)) {
            let rows = x[span.start * hidden..].chunks_exact(hidden);
            let ids = &texts.ids[span];
            let factors = row_factors(self.pooling, self.token_weights.as_deref(), ids, share);
            for (row, factor) in rows.zip(factors) {
                for (pooled, x) in pooled.iter_mut().zip(row) {
                    *pooled += factor * x;
                }
            }
        }
    }

    pub(super) fn drop_hidden(
        &self,
        texts: &Texts,
        drop: Option<&Dropout>,
        site: usize,
        x: &mut [f32],
    ) {
        let hidden = self.hidden();
        for (span, text) in texts.spans().zip(&texts.numbers) {
            if let Some(key) = drop.and_then(|drop| drop.hidden_key(*text, site)) {
                dropout(&mut x[span.start * hidden..span.end * hidden], key);
            }
        }
    }

    pub(super) fn layer_norm(&self, [weight, bias]: &Pair) -> LayerNorm<'_> {
        LayerNorm {
            weight: &self.weights[weight.clone()],
            bias: &self.weights[bias.clone()],
            eps: self.config.layer_norm_eps,
        }
    }

    fn norm(&self, pair: &Pair, x: &[f32]) -> (Vec<f32>, Norm) {
        let mut out = vec![0.0; x.len()];
        let mut norm =
            Norm { normed: vec![0.0; x.len()], inverse: vec![0.0; x.len() / self.hidden()] };
        self.layer_norm(pair).forward(x, &mut out, &mut norm.normed, &mut norm.inverse);
        (out, norm)
    }

    fn linear(&self, Linear { pair, laid }: &Linear<'_>, x: &[f32]) -> Vec<f32> {
        let bias = &self.weights[pair[1].clone()];
        let inputs = pair[0].len() / bias.len();
        let rows = x.len() / inputs;
        let mut out = vec![0.0; rows * bias.len()];
        let x = Matrix::new(x, rows, inputs);
        match laid {
            Some(weight) => weight.product(x, &mut out, Into::Replace),
            None => {
                product(self.products, x, self.matrix(pair).transposed(), &mut out, Into::Replace);
            }
        }
        add_bias(&mut out, bias);
        out
    }
}
