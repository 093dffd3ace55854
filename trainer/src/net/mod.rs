//! The trainable DistilBERT: forward and backward pass written out, over core's training kernels.
//!
//! Weights are one flat vector in [`Config::tensors`]'s order, and gradients, moments and averages
//! are vectors beside it, so that the optimizer, clipping and checkpoints are loops over numbers.
//! Texts lie end to end without padding. A pass keeps what its derivative needs in a [`Tape`];
//! without one it is an evaluation.
//!
//! Dropout sits where DistilBERT has it: on the embedding output, on attention probabilities and
//! on the feed-forward's output. Its masks are functions of (seed, text's number, place), so that
//! a pass can be repeated bit for bit: that is what gradient caching (Gao et al. 2021) needs.
//!
//! [`OnDevice`] is the same encoder on candle tensors, for devices that have no kernels of ours.
//!
//! Losses see only the pooled vectors and run on candle. Values and gradients are tested against
//! PyTorch's (`trainer/fixtures`).

mod backward;
mod device;
mod forward;
mod narrow;
#[cfg(test)]
pub(crate) mod tests;

use std::borrow::Cow;
use std::ops::Range;

use distilface_core::model::{Config, ModelDir, ModelError, Pooling, Tensors};
use distilface_core::training::{Matrix, Packed, Products};

use crate::error::Error;

pub use device::{OnDevice, tensors, values};
pub use forward::Tape;

/// An encoder's weights and how it pools.
#[derive(Clone)]
pub struct Network {
    pub config: Config,
    pub pooling: Pooling,
    /// What each token id counts in the mean; all alike where absent. Not trained.
    pub token_weights: Option<Vec<f32>>,
    pub products: Products,
    /// All tensors end to end.
    pub weights: Vec<f32>,
    places: Places,
}

/// Texts as token ids, end to end.
#[derive(Debug, Clone, Default)]
pub struct Texts {
    pub ids: Vec<u32>,
    /// Where each text ends in `ids`.
    pub ends: Vec<usize>,
    /// Each text's number in its batch; what its dropout depends on.
    pub numbers: Vec<u64>,
}

/// Dropout of one pass.
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    /// Of the run and the step together.
    pub seed: u64,
    /// Share of the embedding output and the feed-forward's output that is dropped.
    pub hidden: f32,
    /// Share of the attention's probabilities that is dropped.
    pub attention: f32,
}

impl Texts {
    /// Adds a text of at least one token.
    pub fn push(&mut self, ids: &[u32], number: u64) {
        self.ids.extend_from_slice(ids);
        self.ends.push(self.ids.len());
        self.numbers.push(number);
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    fn spans(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| start..*end)
    }
}

/// Which factor of its products a weight is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// `x wᵀ`
    Forward,
    /// `grad w`
    Backward,
}

/// The linear layers' weights laid out for the products of one direction, once for all passes of a
/// step. The default has none laid out; products then take the weights as they lie.
#[derive(Default)]
pub struct Laid(Vec<Option<Packed>>);

/// Linear layers of a layer of the network, as [`LayerPlaces::linears`] lists them.
const LINEARS: usize = 6;

impl Laid {
    /// Linear layer `which` of layer `number`, whose places are `places`.
    fn linear<'a>(&'a self, places: &'a LayerPlaces, number: usize, which: usize) -> Linear<'a> {
        let laid = self.0.get(number * LINEARS + which).and_then(Option::as_ref);
        Linear { pair: places.linears()[which], laid }
    }
}

/// A linear layer's place, and its weight laid out if it is.
struct Linear<'a> {
    pair: &'a Pair,
    laid: Option<&'a Packed>,
}

/// Where the tensors lie in the flat vector.
#[derive(Clone)]
pub(crate) struct Places {
    word: Range<usize>,
    position: Range<usize>,
    norm: [Range<usize>; 2],
    layers: Vec<LayerPlaces>,
}

/// A linear layer's weight and bias.
type Pair = [Range<usize>; 2];

#[derive(Clone)]
struct LayerPlaces {
    q: Pair,
    k: Pair,
    v: Pair,
    out: Pair,
    norm1: Pair,
    lin1: Pair,
    lin2: Pair,
    norm2: Pair,
}

impl LayerPlaces {
    fn linears(&self) -> [&Pair; LINEARS] {
        [&self.q, &self.k, &self.v, &self.out, &self.lin1, &self.lin2]
    }
}

impl Places {
    fn new(config: &Config) -> Places {
        let mut at = 0;
        let mut ranges = config.tensors().into_iter().map(|(_, shape)| {
            let start = at;
            at += shape.iter().product::<usize>();
            start..at
        });
        let mut next = || ranges.next().expect("the configuration lists every tensor of a layer");
        let (word, position) = (next(), next());
        let norm = [next(), next()];
        let mut pair = || [next(), next()];
        let layers = (0..config.layers)
            .map(|_| LayerPlaces {
                q: pair(),
                k: pair(),
                v: pair(),
                out: pair(),
                norm1: pair(),
                lin1: pair(),
                lin2: pair(),
                norm2: pair(),
            })
            .collect();
        Places { word, position, norm, layers }
    }
}

impl Network {
    /// Takes the weights of a model, to be pooled its way or another.
    ///
    /// # Errors
    /// A tensor that is missing or not finite; another pooling than a mean where the model weighs
    /// its tokens.
    pub fn new(
        model: &ModelDir,
        pooling: Option<Pooling>,
        products: Products,
    ) -> Result<Network, Error> {
        let manifest = model.manifest();
        let (config, pooling) = (&manifest.encoder, pooling.unwrap_or(manifest.pooling));
        let token_weights = model.token_weights().map(<[f32]>::to_vec);
        if token_weights.is_some() && pooling == Pooling::Cls {
            return Err(Error::Recipe {
                field: "pooling".to_owned(),
                expected: "a mean, as the model weighs its tokens",
                got: pooling.as_str().to_owned(),
            });
        }
        let mut weights = Vec::with_capacity(config.parameters());
        for (name, shape) in config.tensors() {
            weights.extend_from_slice(&model.tensor(&name, &shape)?);
        }
        let network = Network::from_weights(config, pooling, products, weights);
        Ok(Network { token_weights, ..network })
    }

    /// Takes weights in the order of [`Config::tensors`].
    pub fn from_weights(
        config: &Config,
        pooling: Pooling,
        products: Products,
        weights: Vec<f32>,
    ) -> Network {
        assert_eq!(weights.len(), config.parameters(), "as many weights as the sizes say");
        let places = Places::new(config);
        let config = config.clone();
        Network { config, pooling, token_weights: None, products, weights, places }
    }

    /// The same encoder with other weights.
    pub fn with_weights(&self, weights: Vec<f32>) -> Network {
        self.like(&self.config, weights)
    }

    /// A shallower network that starts with some of this one's layers (DistilBERT's way).
    pub fn with_layers(&self, layers: &[usize]) -> Network {
        let config = Config { layers: layers.len(), ..self.config.clone() };
        let first = self.places.layers[0].q[0].start;
        let size = self.places.layers[0].norm2[1].end - first;
        let mut weights = self.weights[..first].to_vec();
        for layer in layers {
            weights.extend_from_slice(&self.weights[first + layer * size..][..size]);
        }
        self.like(&config, weights)
    }

    /// Other weights, pooled alike.
    fn like(&self, config: &Config, weights: Vec<f32>) -> Network {
        let network = Network::from_weights(config, self.pooling, self.products, weights);
        Network { token_weights: self.token_weights.clone(), ..network }
    }

    /// Scales what the last layer gives.
    pub fn scale_last_norm(&mut self, factor: f32) {
        for range in
            self.places.layers.last().map(|layer| layer.norm2.clone()).into_iter().flatten()
        {
            self.weights[range].iter_mut().for_each(|x| *x *= factor);
        }
    }

    /// Width of a vector.
    pub fn hidden(&self) -> usize {
        self.config.hidden
    }

    /// Where the weights that are no embedding rows start.
    pub fn dense_start(&self) -> usize {
        self.places.position.end
    }

    /// Ranges that weight decay leaves alone: biases and layer norms.
    pub fn without_decay(&self) -> Vec<Range<usize>> {
        let mut ranges = self.places.norm.to_vec();
        for layer in &self.places.layers {
            for pair in [&layer.norm1, &layer.norm2] {
                ranges.extend_from_slice(pair);
            }
            for [_, bias] in layer.linears() {
                ranges.push(bias.clone());
            }
        }
        ranges.sort_by_key(|range| range.start);
        ranges
    }

    /// Lays the linear layers' weights out on so many threads.
    pub fn lay(&self, direction: Direction, threads: usize) -> Laid {
        let pairs: Vec<&Pair> = self.places.layers.iter().flat_map(LayerPlaces::linears).collect();
        let mut laid: Vec<Option<Packed>> = pairs.iter().map(|_| None).collect();
        let share = pairs.len().div_ceil(threads.max(1)).max(1);
        std::thread::scope(|scope| {
            for (pairs, laid) in pairs.chunks(share).zip(laid.chunks_mut(share)) {
                scope.spawn(move || {
                    for (pair, laid) in pairs.iter().zip(laid) {
                        let weight = self.matrix(pair);
                        *laid = Packed::new(
                            self.products,
                            match direction {
                                Direction::Forward => weight.transposed(),
                                Direction::Backward => weight,
                            },
                        );
                    }
                });
            }
        });
        Laid(laid)
    }

    /// A linear layer's weight as a matrix, (out, in).
    fn matrix(&self, [weight, bias]: &Pair) -> Matrix<'_> {
        Matrix::new(&self.weights[weight.clone()], bias.len(), weight.len() / bias.len())
    }

    /// What share a state has in the pooled vector; state 0 is the embedding output.
    fn share(&self, state: usize) -> Option<f32> {
        self.pooling.share(state, self.config.layers)
    }
}

/// The factor of each of a text's rows in its vector, where the state's share is `share`.
fn row_factors<'n>(
    pooling: Pooling,
    token_weights: Option<&'n [f32]>,
    ids: &'n [u32],
    share: f32,
) -> impl Iterator<Item = f32> + 'n {
    let (rows, total) = match (pooling, token_weights) {
        (Pooling::Cls, _) => (1, 1.0),
        (_, None) => (ids.len(), ids.len() as f32),
        (_, Some(all)) => (ids.len(), ids.iter().map(|id| all[*id as usize]).sum()),
    };
    let factor = share / total;
    let factor = move |id: &u32| token_weights.map_or(factor, |all| factor * all[*id as usize]);
    ids[..rows].iter().map(factor)
}

impl Tensors for Network {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Cow<'_, [f32]>, ModelError> {
        let mut at = 0;
        for (known, expected) in self.config.tensors() {
            let size: usize = expected.iter().product();
            if known == name {
                if expected != shape {
                    let (expected, got) = (shape.to_vec(), expected);
                    return Err(ModelError::Shape { name: known, expected, got });
                }
                let values = &self.weights[at..at + size];
                if let Some(index) = values.iter().position(|x| !x.is_finite()) {
                    return Err(ModelError::NotFinite { name: known, index });
                }
                return Ok(Cow::Borrowed(values));
            }
            at += size;
        }
        Err(ModelError::MissingTensor(name.to_owned()))
    }
}
