//! Writes a model directory that sentence-transformers and we load alike.
//!
//! The directory appears whole or not at all: it is written beside its place under another name
//! and renamed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest, Sha256};

use super::directory::io;
use super::safetensors::write_safetensors_of;
use super::{
    Config, Head, MANIFEST_FILE, MANIFEST_FORMAT, Manifest, ModelError, NamedTensor, Pooling,
    Precision, Prompts, TOKEN_WEIGHTS_FILE, TOKENIZER_FILE, Tensors, WEIGHTS_FILE, WeightsType,
    check_token_weights, head_tensors, write_safetensors_as,
};
use crate::text::TokenizerSpec;

/// All of a model but its tensors.
#[derive(Debug, Clone)]
pub struct NewModel {
    /// See [`Manifest::name`].
    pub name: String,
    /// The encoder's sizes.
    pub config: Config,
    /// See [`Manifest::matryoshka_dims`].
    pub matryoshka_dims: Vec<usize>,
    /// See [`Manifest::head`].
    pub head: Option<Head>,
    /// Where text is cut.
    pub max_tokens: usize,
    /// How token states become a vector.
    pub pooling: Pooling,
    /// What each token id counts in the mean; all alike where absent.
    pub token_weights: Option<Vec<f32>>,
    /// Whether vectors are scaled to length 1.
    pub normalize: bool,
    /// Prompts by role.
    pub prompts: Prompts,
    /// What the packed form computes with.
    pub precision: Precision,
    /// Where the model comes from.
    pub source: Option<String>,
    /// The tokenizer.
    pub tokenizer: TokenizerSpec,
    /// How the weights are written.
    pub weights: WeightsType,
}

/// Writes `directory`, which must not be there yet or be empty, and gives its manifest.
///
/// # Errors
/// [`ModelError::Io`]; and what [`Manifest::check`], [`check_token_weights`] and the tensors' source
/// refuse.
pub fn write_directory(
    directory: &Path,
    model: &NewModel,
    tensors: &dyn Tensors,
) -> Result<Manifest, ModelError> {
    check_new(directory)?;
    let (manifest, files) = directory_files(model, tensors)?;
    write_all(directory, &manifest, files)?;
    Ok(manifest)
}

/// Refuses a directory that holds something.
pub(super) fn check_new(directory: &Path) -> Result<(), ModelError> {
    if let Some(file) = std::fs::read_dir(directory).ok().and_then(|mut files| files.next()) {
        let name = file.map_err(|e| io(directory, e))?.file_name();
        let message = format!("expected a new or empty directory, it holds {name:?}");
        return Err(io(directory, std::io::Error::other(message)));
    }
    Ok(())
}

/// Writes a manifest and the files that it describes, all or nothing.
pub(super) fn write_all(
    directory: &Path,
    manifest: &Manifest,
    mut files: Files,
) -> Result<(), ModelError> {
    files.push((MANIFEST_FILE.to_owned(), manifest.to_json()));
    let staging = staging_directory(directory)?;
    let written = write_files(&staging, &files).and_then(|()| {
        // An empty directory gives way to the new one.
        std::fs::rename(&staging, directory).map_err(|e| io(directory, e))
    });
    if written.is_err() {
        // The error that stopped the writing is the one to report.
        let _ = std::fs::remove_dir_all(&staging);
    }
    written
}

/// Files by name.
pub(super) type Files = Vec<(String, Vec<u8>)>;

/// The manifest of a model's directory and all other files, by name; the weights come last.
///
/// # Errors
/// What [`Manifest::check`] and the tensors' source refuse.
pub(super) fn directory_files(
    model: &NewModel,
    tensors: &dyn Tensors,
) -> Result<(Manifest, Files), ModelError> {
    if let Some(weights) = &model.token_weights {
        check_token_weights(weights, model.config.vocab_size)?;
    }
    let mut files = side_files(model);
    files.push((WEIGHTS_FILE.to_owned(), weights(model, tensors)?));
    let sha256 = |bytes: &[u8]| super::hex(&Sha256::digest(bytes));
    let checksums: BTreeMap<String, String> =
        files.iter().map(|(name, bytes)| (name.clone(), sha256(bytes))).collect();
    let mut manifest = Manifest {
        format: MANIFEST_FORMAT,
        name: model.name.clone(),
        architecture: "distilbert".to_owned(),
        encoder: model.config.clone(),
        dimensions: model.config.hidden,
        matryoshka_dims: model.matryoshka_dims.clone(),
        head: model.head,
        max_tokens: model.max_tokens,
        pooling: model.pooling,
        token_weights: model.token_weights.is_some(),
        normalize: model.normalize,
        prompts: model.prompts.clone(),
        lowercase: model.tokenizer.lowercase,
        precision: model.precision,
        files: checksums,
        revision: String::new(),
        source: model.source.clone(),
    };
    manifest.revision = manifest.compute_revision();
    manifest.check()?;
    Ok((manifest, files))
}

fn weights(model: &NewModel, tensors: &dyn Tensors) -> Result<Vec<u8>, ModelError> {
    let mut shapes = model.config.tensors();
    if model.head.is_some() {
        let head = head_tensors(model.config.hidden);
        shapes.extend(head.map(|(name, shape)| (name.to_owned(), shape)));
    }
    write_safetensors_of(&shapes, model.weights, &mut |at| {
        tensors.tensor(&shapes[at].0, &shapes[at].1)
    })
}

const POOLING_DIRECTORY: &str = "1_Pooling";

/// Every file but the weights and the manifest.
fn side_files(model: &NewModel) -> Files {
    let pretty = |value: serde_json::Value| format!("{value:#}\n").into_bytes();
    let config = &model.config;
    let tokenizer = &model.tokenizer;
    let token = |id: u32| tokenizer.vocab.get(id as usize).map_or("", String::as_str);
    let has = |token: &str| tokenizer.vocab.iter().any(|known| known == token);
    let mut special = json!({
        "unk_token": token(tokenizer.unk),
        "cls_token": token(tokenizer.cls),
        "sep_token": token(tokenizer.sep),
    });
    for (role, name) in [("pad_token", "[PAD]"), ("mask_token", "[MASK]")] {
        if has(name) {
            special[role] = name.into();
        }
    }
    let mut tokenizer_config = special.clone();
    tokenizer_config["tokenizer_class"] = "BertTokenizer".into();
    tokenizer_config["do_lower_case"] = tokenizer.lowercase.into();
    tokenizer_config["strip_accents"] = tokenizer.strip_accents.into();
    tokenizer_config["tokenize_chinese_chars"] = tokenizer.handle_chinese_chars.into();
    tokenizer_config["model_max_length"] = config.max_positions.into();

    let weights = model.pooling.state_weights(config.layers);
    let mixes_layers = weights.iter().filter(|weight| **weight != 0.0).count() > 1;
    let mut kinds = vec![("", "Transformer")];
    if mixes_layers {
        kinds.push(("1_WeightedLayerPooling", "WeightedLayerPooling"));
    }
    if model.token_weights.is_some() {
        kinds.push(("1_WordWeights", "WordWeights"));
    }
    kinds.push((POOLING_DIRECTORY, "Pooling"));
    if model.normalize {
        kinds.push(("2_Normalize", "Normalize"));
    }
    let modules: Vec<serde_json::Value> = kinds
        .iter()
        .enumerate()
        .map(|(at, (path, kind))| {
            let kind = format!("sentence_transformers.models.{kind}");
            json!({ "idx": at, "name": at.to_string(), "path": path, "type": kind })
        })
        .collect();
    let prompts = match &model.prompts {
        Prompts { query, passage } if query.is_empty() && passage.is_empty() => json!({}),
        Prompts { query, passage } => json!({ "query": query, "document": passage }),
    };
    let mut pipeline = json!({
        "prompts": prompts, "default_prompt_name": null, "similarity_fn_name": "cosine",
    });
    if !model.matryoshka_dims.is_empty() {
        pipeline["matryoshka_dims"] = model.matryoshka_dims.clone().into();
    }
    let mut vocab_txt = tokenizer.vocab.join("\n");
    vocab_txt.push('\n');

    let files = [
        (
            "config.json",
            pretty(json!({
                "architectures": ["DistilBertModel"],
                "model_type": "distilbert",
                "activation": "gelu",
                "dim": config.hidden,
                "hidden_dim": config.intermediate,
                "n_layers": config.layers,
                "n_heads": config.heads,
                "vocab_size": config.vocab_size,
                "max_position_embeddings": config.max_positions,
                "layer_norm_eps": f64::from(config.layer_norm_eps),
                "pad_token_id": 0,
                "dropout": 0.1,
                "attention_dropout": 0.1,
                "initializer_range": 0.02,
                "sinusoidal_pos_embds": false,
                "torch_dtype": "float32",
                "output_hidden_states": mixes_layers,
            })),
        ),
        (TOKENIZER_FILE, tokenizer.to_json()),
        ("tokenizer_config.json", pretty(tokenizer_config)),
        ("special_tokens_map.json", pretty(special)),
        ("vocab.txt", vocab_txt.into_bytes()),
        ("modules.json", pretty(modules.into())),
        (
            "sentence_bert_config.json",
            pretty(json!({ "max_seq_length": model.max_tokens, "do_lower_case": false })),
        ),
        ("config_sentence_transformers.json", pretty(pipeline)),
        (
            "1_Pooling/config.json",
            pretty(json!({
                "word_embedding_dimension": config.hidden,
                "pooling_mode_cls_token": model.pooling == Pooling::Cls,
                "pooling_mode_mean_tokens": model.pooling != Pooling::Cls,
                "pooling_mode_max_tokens": false,
                "pooling_mode_mean_sqrt_len_tokens": false,
                "pooling_mode_weightedmean_tokens": false,
                "pooling_mode_lasttoken": false,
                "include_prompt": true,
            })),
        ),
    ];
    let mut files: Files = files.map(|(name, bytes)| (name.to_owned(), bytes)).into();
    if mixes_layers {
        let settings = json!({
            "word_embedding_dimension": config.hidden, "layer_start": 0,
            "num_hidden_layers": config.layers,
        });
        files.push(("1_WeightedLayerPooling/config.json".to_owned(), pretty(settings)));
        let bytes = one_tensor("layer_weights", vec![weights.len()], weights);
        files.push(("1_WeightedLayerPooling/model.safetensors".to_owned(), bytes));
    }
    if let Some(weights) = &model.token_weights {
        // sentence-transformers takes the weights by word from the settings; we read the file beside.
        let mut vocab = tokenizer.vocab.clone();
        vocab.extend((vocab.len()..weights.len()).map(|id| format!("[unused row {id}]")));
        let by_word: serde_json::Map<_, _> =
            vocab.iter().cloned().zip(weights.iter().map(|&weight| weight.into())).collect();
        let settings =
            json!({ "vocab": vocab, "word_weights": by_word, "unknown_word_weight": 1.0 });
        files.push(("1_WordWeights/config.json".to_owned(), pretty(settings)));
        let bytes = one_tensor("emb_layer.weight", vec![weights.len(), 1], weights.clone());
        files.push((TOKEN_WEIGHTS_FILE.to_owned(), bytes));
    }
    files
}

fn one_tensor(name: &str, shape: Vec<usize>, values: Vec<f32>) -> Vec<u8> {
    let tensor = NamedTensor { name: name.to_owned(), shape, values: values.into() };
    write_safetensors_as(&[tensor], WeightsType::F32).expect("the shape is the values' length")
}

fn write_files(directory: &Path, files: &[(String, Vec<u8>)]) -> Result<(), ModelError> {
    for (name, bytes) in files {
        let path = directory.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|e| io(parent, e))?;
        }
        std::fs::write(&path, bytes).map_err(|e| io(&path, e))?;
    }
    Ok(())
}

/// Makes a directory beside `directory`, of this process alone.
fn staging_directory(directory: &Path) -> Result<PathBuf, ModelError> {
    let Some(name) = directory.file_name() else {
        return Err(io(directory, std::io::Error::other("expected a path that ends in a name")));
    };
    let mut staged = name.to_owned();
    staged.push(format!(".writing-{}", std::process::id()));
    let staging = directory.with_file_name(staged);
    if let Some(parent) = directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(|e| io(parent, e))?;
    }
    std::fs::create_dir(&staging).map_err(|e| io(&staging, e))?;
    Ok(staging)
}
