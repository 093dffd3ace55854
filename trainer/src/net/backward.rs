//! The backward pass.

use distilface_core::training::{
    AttentionShape, Into, Matrix, add, attention_backward, multiply, product, sum_rows,
};

use super::forward::{Layer, Norm, Tape};
use super::{Dropout, Laid, LayerPlaces, Linear, Network, Pair, Texts, row_factors};

impl Network {
    /// Adds the gradients of all weights but the embedding rows to `dense`, which starts at
    /// [`Network::dense_start`], given the gradient of the vectors; gives the gradient of each
    /// token's sum of embedding rows, for [`Network::add_embedding_gradient`].
    ///
    /// `tape` is of the forward pass with the same texts and dropout, `laid` of this network's
    /// weights, backward.
    pub fn backward(
        &self,
        laid: &Laid,
        texts: &Texts,
        drop: Option<&Dropout>,
        tape: &Tape,
        pooled: &[f32],
        dense: &mut [f32],
    ) -> Vec<f32> {
        let mut grad = vec![0.0; texts.ids.len() * self.hidden()];
        for (number, (places, layer)) in
            self.places.layers.iter().zip(&tape.layers).enumerate().rev()
        {
            self.unpool(number + 1, texts, pooled, &mut grad);
            grad = self.layer_backward(laid, number, places, layer, texts, drop, grad, dense);
        }
        self.unpool(0, texts, pooled, &mut grad);
        self.drop_hidden(texts, drop, 0, &mut grad);
        self.norm_backward(&self.places.norm, &tape.embedded, &mut grad, dense);
        grad
    }

    /// Adds what [`Network::backward`] gave to the gradients of the embedding rows; `all` is as
    /// long as the weights.
    pub fn add_embedding_gradient(&self, texts: &Texts, grad: &[f32], all: &mut [f32]) {
        let hidden = self.hidden();
        let mut rows = grad.chunks_exact(hidden);
        for span in texts.spans() {
            for (at, id) in texts.ids[span].iter().enumerate() {
                let row = rows.next().expect("a row of gradients for each token");
                let word = self.places.word.start + *id as usize * hidden;
                add(&mut all[word..word + hidden], row);
                let position = self.places.position.start + at * hidden;
                add(&mut all[position..position + hidden], row);
            }
        }
    }

    #[allow(clippy::too_many_arguments)] // The parts of a layer's step; a struct would only rename them.
    fn layer_backward(
        &self,
        laid: &Laid,
        number: usize,
        places: &LayerPlaces,
        layer: &Layer,
        texts: &Texts,
        drop: Option<&Dropout>,
        mut grad: Vec<f32>,
        dense: &mut [f32],
    ) -> Vec<f32> {
        let (hidden, heads) = (self.hidden(), self.config.heads);
        let linear = |which| laid.linear(places, number, which);
        self.norm_backward(&places.norm2, &layer.norm2, &mut grad, dense);
        let mut branch = grad.clone();
        self.drop_hidden(texts, drop, 2 * number + 2, &mut branch);
        let mut inner = vec![0.0; layer.active.len()];
        self.linear_backward(
            &linear(5),
            &layer.active,
            &branch,
            dense,
            (&mut inner, Into::Replace),
        );
        multiply(&mut inner, &layer.slope);
        self.linear_backward(&linear(4), &layer.middle, &inner, dense, (&mut grad, Into::Add));

        self.norm_backward(&places.norm1, &layer.norm1, &mut grad, dense);
        let mut context = branch;
        self.linear_backward(
            &linear(3),
            &layer.context,
            &grad,
            dense,
            (&mut context, Into::Replace),
        );
        let mut grads = [(); 3].map(|()| vec![0.0; context.len()]);
        let mut rest = &layer.probabilities[..];
        for (span, text) in texts.spans().zip(&texts.numbers) {
            let shape = AttentionShape { tokens: span.len(), heads, width: hidden / heads };
            let (own, others) = rest.split_at(heads * span.len() * span.len());
            rest = others;
            let rows = span.start * hidden..span.end * hidden;
            attention_backward(
                &shape,
                [0, 1, 2].map(|i: usize| &layer.qkv[i][rows.clone()]),
                drop.and_then(|drop| drop.attention_key(*text, 2 * number + 1)),
                own,
                &context[rows.clone()],
                grads.each_mut().map(|grad| &mut grad[rows.clone()]),
            );
        }
        for (which, part) in grads.iter().enumerate() {
            self.linear_backward(&linear(which), &layer.input, part, dense, (&mut grad, Into::Add));
        }
        grad
    }

    /// Adds the gradients of weight and bias to `dense`, and writes that of the input to `out`.
    fn linear_backward(
        &self,
        Linear { pair, laid }: &Linear<'_>,
        input: &[f32],
        grad: &[f32],
        dense: &mut [f32],
        (out, into): (&mut [f32], Into),
    ) {
        let from = self.dense_start();
        let outputs = pair[1].len();
        let rows = grad.len() / outputs;
        let inputs = pair[0].len() / outputs;
        sum_rows(grad, &mut dense[pair[1].start - from..pair[1].end - from]);
        let grad = Matrix::new(grad, rows, outputs);
        let weight = &mut dense[pair[0].start - from..pair[0].end - from];
        let x = Matrix::new(input, rows, inputs);
        product(self.products, grad.transposed(), x, weight, Into::Add);
        match laid {
            Some(weight) => weight.product(grad, out, into),
            None => product(self.products, grad, self.matrix(pair), out, into),
        }
    }

    fn norm_backward(&self, pair: &Pair, norm: &Norm, grad: &mut [f32], dense: &mut [f32]) {
        // A layer norm's scale and shift lie side by side.
        let from = self.dense_start();
        let both = &mut dense[pair[0].start - from..pair[1].end - from];
        let (weight, bias) = both.split_at_mut(pair[0].len());
        self.layer_norm(pair).backward(&norm.normed, &norm.inverse, grad, weight, bias);
    }

    /// Adds a state's share of the vectors' gradient to the state's.
    fn unpool(&self, state: usize, texts: &Texts, pooled: &[f32], grad: &mut [f32]) {
        let Some(share) = self.share(state) else { return };
        let hidden = self.hidden();
        for (span, pooled) in texts.spans().zip(pooled.chunks_exact(hidden)) {
            let rows = grad[span.start * hidden..].chunks_exact_mut(hidden);
            let ids = &texts.ids[span];
            let factors = row_factors(self.pooling, self.token_weights.as_deref(), ids, share);
            for (row, factor) in rows.zip(factors) {
                for (grad, pooled) in row.iter_mut().zip(pooled) {
                    *grad += factor * pooled;
                }
            }
        }
    }
}
