//! `distilface.json`: what a model is, beyond its tensors.
//!
//! The *revision* is the sha256 that stands for everything a vector depends on: the weights files,
//! the tokenizer file, the encoder's sizes, pooling, normalization, prompts, the length at which
//! text is cut, and the precision. Name and report are not in it. Two models with one revision
//! give the same vectors; indexes remember the revision that filled them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Config, ModelError, Pooling};

/// The file's name in a model directory.
pub const MANIFEST_FILE: &str = "distilface.json";
/// The weights' file.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// The tokenizer's file.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// The file of a weighted mean's token weights, a module of sentence-transformers.
pub const TOKEN_WEIGHTS_FILE: &str = "1_WordWeights/model.safetensors";
/// Version of the manifest that this code writes and reads.
pub const MANIFEST_FORMAT: u32 = 1;
/// Longest manifest, in bytes.
pub const MAX_MANIFEST: usize = 256 << 10;

/// Longest prompt, in bytes.
const MAX_PROMPT: usize = 4 << 10;
/// Longest name, in bytes; PostgreSQL's `NAMEDATALEN` less one.
const MAX_NAME: usize = 63;
const MAX_FILES: usize = 64;
const MAX_DIMS: usize = 32;

/// What the forward pass computes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats throughout.
    F32,
    /// Products of bfloat16, sums in 32-bit floats.
    Bf16,
    /// Products of 8-bit integers with scales by channel and token.
    Int8,
}

/// Texts put before every input, by its role in a search.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompts {
    /// Before what is searched for.
    #[serde(default)]
    pub query: String,
    /// Before what is found.
    #[serde(default)]
    pub passage: String,
}

/// What a cross-encoder makes of a pair's first state: a dense layer, an activation, one output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Between the two layers.
    pub activation: HeadActivation,
    /// What the output is told as.
    pub score: Score,
}

/// The activation between a head's layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadActivation {
    /// BERT's pooler.
    Tanh,
    /// DistilBERT's.
    Relu,
}

/// How a head's output becomes a score. The order of scores is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Score {
    /// As it is.
    Logit,
    /// Between 0 and 1.
    Sigmoid,
}

/// A model's description. Values are in range once it is read or made through [`Manifest::check`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`MANIFEST_FORMAT`]
    pub format: u32,
    /// Lower-case letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// `distilbert`; others are converted by the import.
    pub architecture: String,
    /// The encoder's sizes.
    pub encoder: Config,
    /// Length of a vector.
    pub dimensions: usize,
    /// Shorter lengths that a vector may be cut to, ascending: those that a Matryoshka model was
    /// trained for. Not in the revision, as they change no vector.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matryoshka_dims: Vec<usize>,
    /// Where text is cut, `[CLS]` and `[SEP]` included.
    pub max_tokens: usize,
    /// How token states become a vector.
    pub pooling: Pooling,
    /// Whether the mean weighs its tokens by the weights of [`TOKEN_WEIGHTS_FILE`].
    #[serde(default, skip_serializing_if = "is_false")]
    pub token_weights: bool,
    /// Whether vectors are scaled to length 1.
    pub normalize: bool,
    /// Prompts; empty ones change nothing.
    #[serde(default)]
    pub prompts: Prompts,
    /// The head that makes the model a cross-encoder, which scores pairs of texts and embeds none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<Head>,
    /// Whether the tokenizer lowercases.
    pub lowercase: bool,
    /// What the packed form computes with.
    pub precision: Precision,
    /// sha256 of every other file of the directory, by its path with `/`.
    pub files: BTreeMap<String, String>,
    /// See [`Manifest::compute_revision`].
    pub revision: String,
    /// Where the model comes from and how it was made, free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

impl Manifest {
    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// [`ModelError::Json`] and [`ModelError::Manifest`]
    pub fn from_json(json: &[u8]) -> Result<Manifest, ModelError> {
        if json.len() > MAX_MANIFEST {
            return Err(wrong("size", format!("at most {MAX_MANIFEST} bytes"), json.len()));
        }
        let manifest: Manifest = serde_json::from_slice(json)
            .map_err(|source| ModelError::Json { file: MANIFEST_FILE.to_owned(), source })?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Writes the manifest, indented.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(self)
            .expect("a manifest has string keys and finite numbers only");
        json.push(b'\n');
        json
    }

    /// Checks every value, and the revision against the rest.
    ///
    /// # Errors
    /// [`ModelError::Manifest`] names the field.
    pub fn check(&self) -> Result<(), ModelError> {
        if self.format != MANIFEST_FORMAT {
            return Err(wrong("format", MANIFEST_FORMAT.to_string(), self.format));
        }
        check_name(&self.name)?;
        if self.architecture != "distilbert" {
            return Err(wrong("architecture", "distilbert".to_owned(), &self.architecture));
        }
        self.encoder.check()?;
        if self.dimensions != self.encoder.hidden {
            let expected = format!("{}, the encoder's width", self.encoder.hidden);
            return Err(wrong("dimensions", expected, self.dimensions));
        }
        if self.head.is_some() && (self.pooling != Pooling::Cls || self.normalize) {
            let expected = "cls and no normalization, as a cross-encoder has".to_owned();
            return Err(wrong("pooling", expected, self.pooling.as_str()));
        }
        if self.token_weights && self.pooling == Pooling::Cls {
            let expected = "a mean, to weigh its tokens".to_owned();
            return Err(wrong("pooling", expected, self.pooling.as_str()));
        }
        let ascending = self.matryoshka_dims.is_sorted_by(|a, b| a < b);
        let in_range = self.matryoshka_dims.iter().all(|dims| (1..self.dimensions).contains(dims));
        if !ascending || !in_range || self.matryoshka_dims.len() > MAX_DIMS {
            let expected = format!("at most {MAX_DIMS}, ascending, below {}", self.dimensions);
            return Err(wrong("matryoshka_dims", expected, format!("{:?}", self.matryoshka_dims)));
        }
        let positions = self.encoder.max_positions;
        if !(3..=positions).contains(&self.max_tokens) {
            return Err(wrong("max_tokens", format!("3 to {positions}"), self.max_tokens));
        }
        for (field, prompt) in
            [("prompts.query", &self.prompts.query), ("prompts.passage", &self.prompts.passage)]
        {
            if prompt.len() > MAX_PROMPT || prompt.contains('\0') {
                let expected = format!("at most {MAX_PROMPT} bytes without a zero byte");
                return Err(wrong(field, expected, format!("{} bytes", prompt.len())));
            }
        }
        if self.files.len() > MAX_FILES {
            return Err(wrong("files", format!("at most {MAX_FILES}"), self.files.len()));
        }
        for (path, sha256) in &self.files {
            if !is_plain_path(path) {
                return Err(wrong("files", "paths inside the directory".to_owned(), path));
            }
            check_sha256("files", sha256)?;
        }
        let token_weights = self.token_weights.then_some(TOKEN_WEIGHTS_FILE);
        for file in [WEIGHTS_FILE, TOKENIZER_FILE].into_iter().chain(token_weights) {
            if !self.files.contains_key(file) {
                return Err(wrong("files", format!("a sha256 of {file}"), "none"));
            }
        }
        check_sha256("revision", &self.revision)?;
        let computed = self.compute_revision();
        if self.revision != computed {
            return Err(wrong("revision", computed, &self.revision));
        }
        Ok(())
    }

    /// The sha256 over all that a vector depends on, in lower-case hexadecimal.
    pub fn compute_revision(&self) -> String {
        let file = |name: &str| self.files.get(name).map_or("", String::as_str);
        let encoder = &self.encoder;
        // One line a field; strings by their length, so that no two descriptions run together.
        let described = format!(
            "distilface revision 1\narchitecture {}\nlayers {}\nhidden {}\nheads {}\n\
             intermediate {}\nvocab_size {}\nmax_positions {}\nlayer_norm_eps {:08x}\n\
             max_tokens {}\npooling {}\nnormalize {}\nprecision {:?}\nquery {} {}\npassage {} {}\n\
             weights {}\ntokenizer {}\n",
            self.architecture,
            encoder.layers,
            encoder.hidden,
            encoder.heads,
            encoder.intermediate,
            encoder.vocab_size,
            encoder.max_positions,
            encoder.layer_norm_eps.to_bits(),
            self.max_tokens,
            self.pooling.as_str(),
            self.normalize,
            self.precision,
            self.prompts.query.len(),
            self.prompts.query,
            self.prompts.passage.len(),
            self.prompts.passage,
            file(WEIGHTS_FILE),
            file(TOKENIZER_FILE),
        );
        let head = self.head.map_or(String::new(), |head| format!("head {head:?}\n"));
        let token_weights = match self.token_weights {
            true => format!("token_weights {}\n", file(TOKEN_WEIGHTS_FILE)),
            false => String::new(),
        };
        super::hex(&Sha256::digest(format!("{described}{head}{token_weights}").as_bytes()))
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde calls it so.
fn is_false(value: &bool) -> bool {
    !value
}

/// Checks a model's name: what SQL, file systems and URLs all take unquoted.
///
/// # Errors
/// [`ModelError::Manifest`]
pub fn check_name(name: &str) -> Result<(), ModelError> {
    let plain = |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    let starts_well = name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    if starts_well && name.len() <= MAX_NAME && name.bytes().all(plain) {
        return Ok(());
    }
    let expected = format!("1 to {MAX_NAME} of a-z, 0-9, \".\", \"_\" and \"-\", no sign first");
    Err(wrong("name", expected, name))
}

/// Whether a path stays inside its directory on every system: relative, no `..`, no backslash.
fn is_plain_path(path: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-".contains(&c))
    };
    path.len() <= 255 && path.split('/').all(plain) && path != MANIFEST_FILE
}

fn check_sha256(field: &'static str, sha256: &str) -> Result<(), ModelError> {
    let hex = |c: u8| matches!(c, b'0'..=b'9' | b'a'..=b'f');
    if sha256.len() == 64 && sha256.bytes().all(hex) {
        return Ok(());
    }
    Err(wrong(field, "a sha256 of 64 lower-case hexadecimal digits".to_owned(), sha256))
}

fn wrong(field: &'static str, expected: String, got: impl ToString) -> ModelError {
    let mut got = got.to_string();
    if let Some((end, _)) = got.char_indices().nth(80) {
        got.truncate(end);
    }
    ModelError::Manifest { field, expected, got }
}
