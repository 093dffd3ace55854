//! Models: what an encoder is made of, the directory it is kept in, and its packed form.
//!
//! Every supported model is a DistilBERT once it is imported: BERT's and MiniLM's token-type row
//! is folded into the position embeddings, and the tensors take DistilBERT's names.

use std::borrow::Cow;

/// Sizes of a DistilBERT encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Transformer layers.
    pub layers: usize,
    /// Width of a token's hidden state.
    pub hidden: usize,
    /// Attention heads; divides `hidden`.
    pub heads: usize,
    /// Width of the feed-forward's inner layer.
    pub intermediate: usize,
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Rows of the position embedding, the longest input in tokens.
    pub max_positions: usize,
    /// Added to the variance in every layer norm.
    pub layer_norm_eps: f32,
}

/// How the token states become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The last layer's first token.
    Cls,
    /// Mean over the last layer's tokens.
    Mean,
    /// Mean of the embedding output and the last layer, then mean over tokens.
    MeanFirstLast,
    /// Mean of the last two layers, then mean over tokens.
    MeanLast2,
    /// Mean of the last four layers, then mean over tokens (Lim, Ng, Lim 2024).
    MeanLast4,
}

/// An encoder's weights by name, as f32 in row-major order, under DistilBERT's names without
/// prefix: `embeddings.word_embeddings.weight`, `embeddings.position_embeddings.weight`,
/// `embeddings.LayerNorm.{weight,bias}` and for every layer N
/// `transformer.layer.N.{attention.{q,k,v,out}_lin,sa_layer_norm,ffn.{lin1,lin2},output_layer_norm}.{weight,bias}`.
/// A linear layer's weight is `[out, in]`.
pub trait Tensors {
    /// The tensor of that name, checked to have that shape and finite values.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Cow<'_, [f32]>, ModelError>;
}

/// Why a model cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A tensor that the architecture calls for is not there.
    #[error("tensor \"{0}\" is missing")]
    MissingTensor(String),
    /// A tensor has other dimensions than the configuration says.
    #[error("tensor \"{name}\": expected shape {expected:?}, got {got:?}")]
    Shape { name: String, expected: Vec<usize>, got: Vec<usize> },
    /// A tensor holds NaN or infinity.
    #[error("tensor \"{name}\" has a value that is not finite at index {index}")]
    NotFinite { name: String, index: usize },
    /// The packed form is damaged or of another version.
    #[error("packed model: expected {expected}, got {got}")]
    Packed { expected: &'static str, got: String },
}
