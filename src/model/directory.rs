//! A model directory of ours, opened with every check made.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::export::Files;
use super::safetensors::{Header, MAX_HEADER, read_header};
use super::{
    Config, MANIFEST_FILE, MAX_MANIFEST, Manifest, ModelError, PACKED_FILE, Packed, Precision,
    SafeTensors, TOKEN_WEIGHTS_FILE, TOKENIZER_FILE, Tensors, WEIGHTS_FILE, check_token_weights,
    head_tensors,
};
use crate::text::{TokenizerSpec, compile_vocab};

/// Longest file beside the weights, in bytes.
const MAX_SIDE_FILE: u64 = 16 << 20;

/// A checked model directory, its weights in memory.
pub struct ModelDir {
    manifest: Manifest,
    tokenizer: TokenizerSpec,
    weights: SafeTensors,
    token_weights: Option<Vec<f32>>,
}

impl ModelDir {
    /// Opens a directory that `distilface-train import` or a training run wrote.
    ///
    /// The weights are read whole, after their header has been found to agree with the manifest;
    /// that they are finite is checked as each tensor is asked for.
    ///
    /// # Errors
    /// Whatever is missing, oversized, damaged or not supported, by name.
    pub fn open(directory: impl AsRef<Path>) -> Result<ModelDir, ModelError> {
        let directory = directory.as_ref();
        let manifest = read_file(&directory.join(MANIFEST_FILE), MAX_MANIFEST as u64)?;
        let manifest = Manifest::from_json(&manifest)?;

        let tokenizer = read_file(&directory.join(TOKENIZER_FILE), MAX_SIDE_FILE)?;
        check_sha256(&manifest, TOKENIZER_FILE, &tokenizer)?;
        let tokenizer = TokenizerSpec::from_json(&tokenizer)?;
        let rows = manifest.encoder.vocab_size;
        if tokenizer.id_bound() > rows {
            return Err(ModelError::Config {
                field: "vocab_size",
                expected: format!("a row for each of {} token ids", tokenizer.id_bound()),
                got: rows.to_string(),
            });
        }
        if tokenizer.lowercase != manifest.lowercase {
            return Err(ModelError::Manifest {
                field: "lowercase",
                expected: format!("{}, as the tokenizer does", tokenizer.lowercase),
                got: manifest.lowercase.to_string(),
            });
        }

        let path = directory.join(WEIGHTS_FILE);
        let weights = read_weights(&path, &manifest.encoder, &|header| {
            let tensors = manifest.encoder.tensors();
            tensors.iter().try_for_each(|(name, shape)| check_shape(header, name, shape))?;
            let head = manifest.head.map(|_| head_tensors(manifest.encoder.hidden));
            let mut head = head.iter().flatten();
            head.try_for_each(|(name, shape)| check_shape(header, name, shape))
        })?;
        check_sha256(&manifest, WEIGHTS_FILE, &weights)?;
        let weights = SafeTensors::from_bytes(weights)?;

        let mut token_weights = None;
        for file in manifest.files.keys() {
            if file != WEIGHTS_FILE && file != TOKENIZER_FILE {
                let bytes = read_file(&directory.join(file), MAX_SIDE_FILE)?;
                check_sha256(&manifest, file, &bytes)?;
                if file == TOKEN_WEIGHTS_FILE && manifest.token_weights {
                    token_weights = Some(read_token_weights(bytes, rows)?);
                }
            }
        }
        Ok(ModelDir { manifest, tokenizer, weights, token_weights })
    }

    /// A directory that was never written; the manifest was made for these parts.
    ///
    /// # Errors
    /// [`ModelError::SafeTensors`]
    pub(super) fn from_parts(
        manifest: Manifest,
        tokenizer: TokenizerSpec,
        weights: Vec<u8>,
    ) -> Result<ModelDir, ModelError> {
        let weights = SafeTensors::from_bytes(weights)?;
        Ok(ModelDir { manifest, tokenizer, weights, token_weights: None })
    }

    /// Every file that the manifest of this directory names, compared with its sha256.
    ///
    /// # Errors
    /// [`ModelError::Io`] and [`ModelError::Checksum`]
    pub(super) fn read_files(&self, directory: &Path) -> Result<Files, ModelError> {
        // Those of the weights passed a closer one when the directory was opened.
        let limit =
            MAX_SIDE_FILE + MAX_HEADER as u64 + 8 * self.manifest.encoder.parameters() as u64;
        let names = self.manifest.files.keys();
        names
            .map(|name| {
                let bytes = read_file(&directory.join(name), limit)?;
                check_sha256(&self.manifest, name, &bytes)?;
                Ok((name.clone(), bytes))
            })
            .collect()
    }

    /// The model's description.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The tokenizer, not compiled.
    pub fn tokenizer(&self) -> &TokenizerSpec {
        &self.tokenizer
    }

    /// What each token id counts in the mean, where they do not count alike.
    pub fn token_weights(&self) -> Option<&[f32]> {
        self.token_weights.as_deref()
    }

    /// The same model, to be packed for another precision, which makes it another revision.
    pub fn with_precision(mut self, precision: Precision) -> ModelDir {
        self.manifest.precision = precision;
        self.manifest.revision = self.manifest.compute_revision();
        self
    }

    /// The compiled vocabulary: the packed form's `VOCA` section.
    ///
    /// # Errors
    /// [`ModelError::Text`]
    pub fn vocab_blob(&self) -> Result<Vec<u8>, ModelError> {
        Ok(compile_vocab(&self.tokenizer)?)
    }
}

impl Tensors for ModelDir {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Cow<'_, [f32]>, ModelError> {
        self.weights.tensor(name, shape)
    }
}

/// The packed file that stands for a directory: where no weights lie beside it.
pub fn packed_file(directory: &Path) -> Option<PathBuf> {
    let packed = directory.join(PACKED_FILE);
    (packed.exists() && !directory.join(WEIGHTS_FILE).exists()).then_some(packed)
}

/// Reads a packed file of at most `limit` bytes; what is in it is not checked. A manifest beside it
/// must be of the same revision.
///
/// # Errors
/// [`ModelError::Io`], [`ModelError::Packed`] and [`ModelError::Manifest`]
pub fn read_packed(path: &Path, limit: u64) -> Result<Vec<u8>, ModelError> {
    let block = read_file(path, limit)?;
    let beside = path.with_file_name(MANIFEST_FILE);
    if beside.exists() {
        let beside = Manifest::from_json(&read_file(&beside, MAX_MANIFEST as u64)?)?;
        let packed = Packed::open(&block)?.manifest()?;
        if beside.revision != packed.revision {
            let expected = format!("{}, as {PACKED_FILE} has", packed.revision);
            return Err(ModelError::Manifest { field: "revision", expected, got: beside.revision });
        }
    }
    Ok(block)
}

/// The weights of `rows` token ids, from the file that sentence-transformers reads too.
fn read_token_weights(bytes: Vec<u8>, rows: usize) -> Result<Vec<f32>, ModelError> {
    let file = SafeTensors::from_bytes(bytes)?;
    let weights = file.tensor("emb_layer.weight", &[rows, 1])?.into_owned();
    check_token_weights(&weights, rows)?;
    Ok(weights)
}

/// Reads a file of at most `limit` bytes.
pub(super) fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>, ModelError> {
    let (mut file, len) = open_file(path, limit)?;
    let mut bytes = Vec::with_capacity(len as usize);
    // One byte more than it had, to see that it did not grow.
    file.by_ref().take(len + 1).read_to_end(&mut bytes).map_err(|e| io(path, e))?;
    if bytes.len() as u64 != len {
        return Err(io(path, std::io::Error::other("the file changed while it was read")));
    }
    Ok(bytes)
}

/// Reads a weights file once `check` has found its header right.
pub(super) fn read_weights(
    path: &Path,
    config: &Config,
    check: &dyn Fn(&Header) -> Result<(), ModelError>,
) -> Result<Vec<u8>, ModelError> {
    let expected = config.parameters() as u64;
    // Room for f32 weights and as much again for tensors that are not used: a pooler, the output
    // layer of a language model, position ids.
    let limit = 8 + (MAX_HEADER as u64) + (1 << 20) + 8 * expected;
    let (mut file, len) = open_file(path, limit)?;
    let mut head = Vec::new();
    file.by_ref().take(8).read_to_end(&mut head).map_err(|e| io(path, e))?;
    let header_len = head.first_chunk().map_or(0, |len| u64::from_le_bytes(*len));
    let header_len = header_len.min(MAX_HEADER as u64).min(len);
    file.by_ref().take(header_len).read_to_end(&mut head).map_err(|e| io(path, e))?;
    let header = read_header(&head, len)?;
    check(&header)?;
    head.reserve_exact((len - head.len() as u64) as usize);
    let rest = len - head.len() as u64 + 1;
    file.by_ref().take(rest).read_to_end(&mut head).map_err(|e| io(path, e))?;
    if head.len() as u64 != len {
        return Err(io(path, std::io::Error::other("the file changed while it was read")));
    }
    Ok(head)
}

/// Checks that a tensor is there, in that shape.
pub(super) fn check_shape(
    header: &Header,
    name: &str,
    expected: &[usize],
) -> Result<(), ModelError> {
    match header.get(name) {
        Some((_, got, _)) if got == expected => Ok(()),
        Some((_, got, _)) => {
            let (expected, got) = (expected.to_vec(), got.clone());
            Err(ModelError::Shape { name: name.to_owned(), expected, got })
        }
        None => Err(ModelError::MissingTensor(name.to_owned())),
    }
}

/// Opens a regular file and gives its length, at most `limit`.
fn open_file(path: &Path, limit: u64) -> Result<(File, u64), ModelError> {
    // Asked before it is opened, because opening a pipe can wait for ever.
    let kind = std::fs::metadata(path).map_err(|e| io(path, e))?;
    if !kind.is_file() {
        return Err(io(path, std::io::Error::other("not a regular file")));
    }
    let file = File::open(path).map_err(|e| io(path, e))?;
    let len = file.metadata().map_err(|e| io(path, e))?.len();
    if len > limit {
        let message = format!("expected at most {limit} bytes, got {len}");
        return Err(io(path, std::io::Error::other(message)));
    }
    Ok((file, len))
}

fn check_sha256(manifest: &Manifest, file: &str, bytes: &[u8]) -> Result<(), ModelError> {
    let got = super::hex(&Sha256::digest(bytes));
    match manifest.files.get(file) {
        Some(expected) if *expected == got => Ok(()),
        expected => Err(ModelError::Checksum {
            file: file.to_owned(),
            expected: expected.cloned().unwrap_or_default(),
            got,
        }),
    }
}

pub(super) fn io(path: &Path, source: std::io::Error) -> ModelError {
    ModelError::Io { path: path.display().to_string(), source }
}
