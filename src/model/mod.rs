//! Models: what an encoder is made of, the directory it is kept in, and its packed form.
//!
//! Every supported model is a DistilBERT once it is imported: BERT's and MiniLM's token-type row
//! is folded into the position embeddings, and the tensors take DistilBERT's names.
//!
//! A model directory ([`ModelDir`]) is at once a sentence-transformers directory and ours: beside
//! `config.json`, `model.safetensors`, `tokenizer.json`, `modules.json` and `1_Pooling/` lies
//! `distilface.json`, the [`Manifest`], with the sha256 of every file. [`Packed`] is what a
//! database uses: the manifest, the compiled vocabulary and the encoder's prepacked weights in one
//! block that is read in place.
//!
//! Nothing in a directory is trusted. Sizes are bounded before anything is allocated, every shape
//! is compared with the configuration, every file with its checksum, every weight with infinity;
//! and a file is read, never mapped, because another process may cut it short.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::text::TextError;

mod directory;
mod export;
mod import;
mod manifest;
mod packed;
mod safetensors;

pub use directory::{ModelDir, packed_file, read_packed};
pub use export::{NewModel, write_directory};
pub use import::{ImportOptions, import, open_any};
pub use manifest::{
    Head, HeadActivation, MANIFEST_FILE, MANIFEST_FORMAT, MAX_MANIFEST, Manifest, Precision,
    Prompts, Score, TOKEN_WEIGHTS_FILE, TOKENIZER_FILE, WEIGHTS_FILE, check_name,
};
pub use packed::{
    HEAD, MANIFEST, PACKED_FILE, Packed, PackedWriter, SECTION_ALIGN, TOKEN_WEIGHTS, Tag,
    VOCABULARY, WEIGHTS,
};
pub use safetensors::{
    DType, NamedTensor, SafeTensors, TensorView, WeightsType, write_safetensors,
    write_safetensors_as,
};

/// Sizes of a DistilBERT encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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

/// Most weights that a model may have: BERT-large has 335 million.
pub const MAX_PARAMETERS: usize = 1 << 29;

impl Config {
    /// Checks that the sizes are possible and not beyond what this crate serves.
    ///
    /// # Errors
    /// [`ModelError::Config`] names the field.
    pub fn check(&self) -> Result<(), ModelError> {
        let ranges = [
            ("layers", self.layers, 1, 96),
            ("hidden", self.hidden, 4, 8_192),
            ("heads", self.heads, 1, 256),
            ("intermediate", self.intermediate, 4, 65_536),
            ("vocab_size", self.vocab_size, 4, crate::text::MAX_VOCAB),
            ("max_positions", self.max_positions, 3, 65_536),
        ];
        for (field, got, low, high) in ranges {
            if !(low..=high).contains(&got) {
                let expected = format!("{low} to {high}");
                return Err(ModelError::Config { field, expected, got: got.to_string() });
            }
        }
        if !self.hidden.is_multiple_of(self.heads) {
            let expected = format!("a divisor of the width {}", self.hidden);
            let got = self.heads.to_string();
            return Err(ModelError::Config { field: "heads", expected, got });
        }
        if !(1e-30..=0.1).contains(&self.layer_norm_eps) {
            let (expected, got) = ("1e-30 to 0.1".to_owned(), self.layer_norm_eps.to_string());
            return Err(ModelError::Config { field: "layer_norm_eps", expected, got });
        }
        if self.parameters() > MAX_PARAMETERS {
            let expected = format!("at most {MAX_PARAMETERS} weights in all");
            let got = self.parameters().to_string();
            return Err(ModelError::Config { field: "sizes", expected, got });
        }
        Ok(())
    }

    /// Weights in all. The ranges that [`Config::check`] allows cannot overflow it.
    pub fn parameters(&self) -> usize {
        self.tensors().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }

    /// Every tensor of such an encoder, name and shape.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (hidden, inner) = (self.hidden, self.intermediate);
        let mut tensors = vec![
            ("embeddings.word_embeddings.weight".to_owned(), vec![self.vocab_size, hidden]),
            ("embeddings.position_embeddings.weight".to_owned(), vec![self.max_positions, hidden]),
            ("embeddings.LayerNorm.weight".to_owned(), vec![hidden]),
            ("embeddings.LayerNorm.bias".to_owned(), vec![hidden]),
        ];
        for layer in 0..self.layers {
            for (part, weight, bias) in [
                ("attention.q_lin", vec![hidden, hidden], hidden),
                ("attention.k_lin", vec![hidden, hidden], hidden),
                ("attention.v_lin", vec![hidden, hidden], hidden),
                ("attention.out_lin", vec![hidden, hidden], hidden),
                ("sa_layer_norm", vec![hidden], hidden),
                ("ffn.lin1", vec![inner, hidden], inner),
                ("ffn.lin2", vec![hidden, inner], hidden),
                ("output_layer_norm", vec![hidden], hidden),
            ] {
                tensors.push((format!("transformer.layer.{layer}.{part}.weight"), weight));
                tensors.push((format!("transformer.layer.{layer}.{part}.bias"), vec![bias]));
            }
        }
        tensors
    }
}

/// Every tensor of a cross-encoder's head over states of that width, name and shape: a dense layer,
/// the output, and what is added to the embeddings of a pair's second text.
pub fn head_tensors(hidden: usize) -> [(&'static str, Vec<usize>); 5] {
    [
        ("head.dense.weight", vec![hidden, hidden]),
        ("head.dense.bias", vec![hidden]),
        ("head.out.weight", vec![1, hidden]),
        ("head.out.bias", vec![1]),
        ("head.second_text", vec![hidden]),
    ]
}

/// How the token states become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The last layer's first token.
    Cls,
    /// Mean over the last layer's tokens.
    Mean,
    /// Mean of the embedding output and the last layer, then mean over tokens.
    MeanFirstLast,
    /// Mean of the last two layers, then mean over tokens.
    #[serde(rename = "mean_last2")]
    MeanLast2,
    /// Mean of the last four layers, then mean over tokens (Lim, Ng, Lim 2024).
    #[serde(rename = "mean_last4")]
    MeanLast4,
}

impl Pooling {
    /// The name in manifests and options.
    pub fn as_str(self) -> &'static str {
        match self {
            Pooling::Cls => "cls",
            Pooling::Mean => "mean",
            Pooling::MeanFirstLast => "mean_first_last",
            Pooling::MeanLast2 => "mean_last2",
            Pooling::MeanLast4 => "mean_last4",
        }
    }

    /// The weight of a state in the mean, if it has any, state 0 being the embedding output and state n layer
    /// n's. A model of fewer layers than the mean calls for averages what it has.
    pub fn share(self, state: usize, layers: usize) -> Option<f32> {
        let last = |n: usize| {
            let n = n.min(layers + 1);
            (state + n > layers).then_some(1.0 / n as f32)
        };
        match self {
            Pooling::Cls | Pooling::Mean => last(1),
            Pooling::MeanFirstLast => (state == 0 || state == layers).then_some(0.5),
            Pooling::MeanLast2 => last(2),
            Pooling::MeanLast4 => last(4),
        }
    }

    /// The weight of each state in the mean that is pooled, the embedding output first and the
    /// last layer last, `layers` + 1 in all. They add up to 1. A model of fewer layers than the
    /// mean calls for averages what it has.
    pub fn state_weights(self, layers: usize) -> Vec<f32> {
        let mut weights = vec![0.0; layers + 1];
        let last = match self {
            Pooling::Cls | Pooling::Mean => 1,
            Pooling::MeanFirstLast => {
                weights[0] += 0.5;
                weights[layers] += 0.5;
                return weights;
            }
            Pooling::MeanLast2 => 2,
            Pooling::MeanLast4 => 4,
        };
        let last = last.min(layers + 1);
        weights[layers + 1 - last..].fill(1.0 / last as f32);
        weights
    }
}

/// The bounds of a token's weight in a mean: what can be summed up and divided by.
const TOKEN_WEIGHT_RANGE: std::ops::RangeInclusive<f32> = 1e-6..=1e6;

/// Checks that there is a weight between 1e-6 and 1e6 for each of `vocab_size` ids.
///
/// # Errors
/// [`ModelError::TokenWeights`]
pub fn check_token_weights(weights: &[f32], vocab_size: usize) -> Result<(), ModelError> {
    let wrong = |got| {
        let expected = format!("{vocab_size} values of 1e-6 to 1e6");
        Err(ModelError::TokenWeights { expected, got })
    };
    if weights.len() != vocab_size {
        return wrong(format!("{} values", weights.len()));
    }
    match weights.iter().position(|weight| !TOKEN_WEIGHT_RANGE.contains(weight)) {
        Some(id) => wrong(format!("{} for id {id}", weights[id])),
        None => Ok(()),
    }
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
    /// The weights of tokens in the mean cannot be used.
    #[error("token weights: expected {expected}, got {got}")]
    TokenWeights { expected: String, got: String },
    /// The packed form is damaged or of another version.
    #[error("packed model: expected {expected}, got {got}")]
    Packed { expected: &'static str, got: String },
    /// A file of the directory cannot be read or written.
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
    /// A JSON file is not well-formed or lacks a field.
    #[error("{file}: {source}")]
    Json { file: String, source: serde_json::Error },
    /// The weights file is not a safetensors file that can be used.
    #[error("model.safetensors: expected {expected}, got {got}")]
    SafeTensors { expected: &'static str, got: String },
    /// A value of the manifest is out of range.
    #[error("distilface.json, {field}: expected {expected}, got {got}")]
    Manifest { field: &'static str, expected: String, got: String },
    /// A size of the encoder is out of range.
    #[error("encoder {field}: expected {expected}, got {got}")]
    Config { field: &'static str, expected: String, got: String },
    /// A file is not the one that the manifest was written for.
    #[error("{file}: expected sha256 {expected}, got {got}")]
    Checksum { file: String, expected: String, got: String },
    /// The model is of a kind that this crate does not compute.
    #[error("unsupported {part}: expected {expected}, got {got}")]
    Unsupported { part: &'static str, expected: &'static str, got: String },
    /// The tokenizer cannot be used.
    #[error(transparent)]
    Text(#[from] TextError),
}

/// Bytes in lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
