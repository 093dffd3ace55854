//! Turns a sentence-transformers or Hugging Face directory into ours; one of ours is copied.
//!
//! BERT (and so MiniLM) and DistilBERT with absolute positions and exact GELU pass, with mean or
//! CLS pooling and a BERT tokenizer. Anything else is refused by name: a model that is almost
//! supported would give vectors that are almost right.
//!
//! BERT adds a token-type row to every token; for single texts it is always row 0, which moves
//! into the position embeddings. The rest is renaming.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::directory::{check_shape, io, read_file, read_weights};
use super::export::{check_new, directory_files, write_all};
use super::safetensors::Header;
use super::{
    Config, Head, HeadActivation, MANIFEST_FILE, Manifest, ModelDir, ModelError, NewModel, Pooling,
    Precision, Prompts, SafeTensors, Score, Tensors, WeightsType, check_name, head_tensors,
    write_directory,
};
use crate::text::TokenizerSpec;

/// Longest JSON file beside the tokenizer's, in bytes.
const MAX_JSON: u64 = 4 << 20;
/// Longest tokenizer file, in bytes.
const MAX_TOKENIZER: u64 = 16 << 20;

/// What the caller decides instead of the directory.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// The model's name; made from the directory's where absent.
    pub name: Option<String>,
    /// Where text is cut; as in the directory where absent.
    pub max_tokens: Option<usize>,
    /// How token states become a vector; as in the directory where absent.
    pub pooling: Option<Pooling>,
    /// What the packed form computes with; bf16 where absent, or as a directory of ours says.
    pub precision: Option<Precision>,
    /// Noted in the manifest.
    pub source: Option<String>,
}

/// Imports `source` as `out`, which must not be there yet or be empty. `progress` is told each
/// step in a few words.
///
/// # Errors
/// [`ModelError`] names the file and what was expected of it.
pub fn import(
    source: &Path,
    out: &Path,
    options: &ImportOptions,
    progress: &mut dyn FnMut(&str),
) -> Result<Manifest, ModelError> {
    let manifest = if source.join(MANIFEST_FILE).exists() {
        copy(source, out, options, progress)?
    } else {
        let (model, weights) = read_source(source, options, progress)?;
        progress("converting the weights");
        write_directory(out, &model, &weights)?
    };
    progress(&format!("{} written, revision {}", out.display(), &manifest.revision[..12]));
    Ok(manifest)
}

/// Writes a directory of ours again, file by file; its manifest takes what the options name.
fn copy(
    source: &Path,
    out: &Path,
    options: &ImportOptions,
    progress: &mut dyn FnMut(&str),
) -> Result<Manifest, ModelError> {
    for (part, other) in [
        ("pooling", options.pooling.map(|pooling| pooling.as_str().to_owned())),
        ("max_tokens", options.max_tokens.map(|count| count.to_string())),
    ] {
        if let Some(other) = other {
            return Err(unsupported(part, "that of the directory, which is one of ours", other));
        }
    }
    check_new(out)?;
    progress("reading the directory");
    let model = ModelDir::open(source)?;
    let files = model.read_files(source)?;
    let precision = options.precision.unwrap_or(model.manifest().precision);
    let mut manifest = model.with_precision(precision).manifest().clone();
    manifest.name = options.name.clone().unwrap_or(manifest.name);
    manifest.source = options.source.clone().or(manifest.source);
    manifest.check()?;
    write_all(out, &manifest, files)?;
    Ok(manifest)
}

/// Opens a directory of either kind without writing anything: one of ours as it is, another's as
/// [`import`] would write it, with the same revision.
///
/// # Errors
/// As [`ModelDir::open`] and [`import`].
pub fn open_any(
    source: &Path,
    options: &ImportOptions,
    progress: &mut dyn FnMut(&str),
) -> Result<ModelDir, ModelError> {
    if source.join(MANIFEST_FILE).exists() {
        progress("reading the directory");
        return ModelDir::open(source);
    }
    let (model, tensors) = read_source(source, options, progress)?;
    progress("converting the weights");
    let (manifest, mut files) = directory_files(&model, &tensors)?;
    drop(tensors);
    let (_, weights) = files.pop().expect("the weights come last");
    ModelDir::from_parts(manifest, model.tokenizer, weights)
}

/// Reads and checks a foreign directory.
fn read_source(
    source: &Path,
    options: &ImportOptions,
    progress: &mut dyn FnMut(&str),
) -> Result<(NewModel, Imported), ModelError> {
    if !source.is_dir() {
        return Err(io(source, std::io::Error::other("not a directory")));
    }
    let mut layout = Layout::read(source)?;
    let encoder = layout.transformer.clone();
    let (family, config) = read_config(&encoder.join("config.json"))?;
    let head = match layout.kind {
        Kind::Bare => read_head(&encoder.join("config.json"), family)?,
        Kind::Modules => None,
    };
    layout.pooling = match (head, options.pooling) {
        (Some(_), _) => Pooling::Cls,
        (None, pooling) => pooling.unwrap_or(layout.pooling),
    };
    config.check()?;
    progress(&format!(
        "{}: {} layers, {} wide, {} heads, {} tokens",
        family.name(),
        config.layers,
        config.hidden,
        config.heads,
        config.vocab_size
    ));

    let settings: TokenizerConfig = optional(&encoder.join("tokenizer_config.json"))?;
    let tokenizer = read_tokenizer(&encoder, &settings)?;
    if tokenizer.id_bound() > config.vocab_size {
        return Err(ModelError::Config {
            field: "vocab_size",
            expected: format!("a row for each of {} token ids", tokenizer.id_bound()),
            got: config.vocab_size.to_string(),
        });
    }
    let max_tokens = max_tokens(&encoder, options, &settings, &config, &tokenizer)?;
    let prompts = read_prompts(source, layout.include_prompt)?;
    let pipeline: MatryoshkaConfig = optional(&source.join("config_sentence_transformers.json"))?;
    progress(&format!(
        "{} tokenizer, {}, cut at {max_tokens} tokens",
        if tokenizer.lowercase { "uncased" } else { "cased" },
        match head {
            Some(_) => "a cross-encoder's head".to_owned(),
            None => format!("{} pooling", layout.pooling.as_str()),
        }
    ));

    let weights = Imported::read(&encoder, family, &config, head)?;
    let name = match &options.name {
        Some(name) => name.clone(),
        None => name_of(source),
    };
    check_name(&name)?;
    // MatryoshkaLoss is given the whole length as well, and the longest first.
    let mut matryoshka_dims = pipeline.matryoshka_dims;
    matryoshka_dims.sort_unstable();
    matryoshka_dims.dedup();
    matryoshka_dims.retain(|&dims| dims != config.hidden);
    let model = NewModel {
        name,
        config,
        matryoshka_dims,
        head,
        max_tokens,
        pooling: layout.pooling,
        token_weights: None,
        normalize: layout.normalize,
        prompts,
        precision: options.precision.unwrap_or(Precision::Bf16),
        source: options.source.clone(),
        tokenizer,
        weights: WeightsType::F32,
    };
    Ok((model, weights))
}

/// A name from the directory's own: lower case, what is not allowed becomes a hyphen.
fn name_of(directory: &Path) -> String {
    let path = std::fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase());
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let name: String =
        name.unwrap_or_default().chars().map(|c| if plain(c) { c } else { '-' }).collect();
    name.trim_start_matches(['.', '_', '-']).chars().take(63).collect()
}

/// The modules of a sentence-transformers directory.
struct Layout {
    transformer: PathBuf,
    pooling: Pooling,
    normalize: bool,
    /// Whether the prompt's tokens count in the mean.
    include_prompt: bool,
    kind: Kind,
}

/// Whether a directory says what follows the encoder.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Modules,
    Bare,
}

#[derive(Deserialize)]
struct Module {
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

impl Layout {
    fn read(source: &Path) -> Result<Layout, ModelError> {
        let path = source.join("modules.json");
        if !path.exists() {
            // What sentence-transformers makes of a bare encoder.
            let transformer = source.to_owned();
            let pooling = Pooling::Mean;
            let kind = Kind::Bare;
            return Ok(Layout {
                transformer,
                pooling,
                normalize: false,
                include_prompt: true,
                kind,
            });
        }
        let modules: Vec<Module> = json(&path)?;
        // Classes move between packages from version to version, their names stay.
        let kinds: Vec<&str> = modules
            .iter()
            .map(|module| module.kind.rsplit('.').next().unwrap_or(&module.kind))
            .collect();
        let normalize = match kinds.as_slice() {
            ["Transformer", "Pooling"] => false,
            ["Transformer", "Pooling", "Normalize"] => true,
            _ => {
                let expected = "Transformer, Pooling and perhaps Normalize";
                return Err(unsupported("modules", expected, kinds.join(", ")));
            }
        };
        let inside = |module: &Module| match module.path.as_str() {
            path if path.split('/').any(|part| part == "..") || path.starts_with('/') => {
                Err(unsupported("module path", "one inside the directory", path))
            }
            path => Ok(source.join(path)),
        };
        let (pooling, include_prompt) = read_pooling(&inside(&modules[1])?.join("config.json"))?;
        let (transformer, kind) = (inside(&modules[0])?, Kind::Modules);
        Ok(Layout { transformer, pooling, normalize, include_prompt, kind })
    }
}

fn read_pooling(path: &Path) -> Result<(Pooling, bool), ModelError> {
    let config: serde_json::Map<String, Value> = json(path)?;
    let mut modes: Vec<&str> = config
        .iter()
        .filter(|(_, value)| **value == Value::Bool(true))
        .filter_map(|(key, _)| key.strip_prefix("pooling_mode_"))
        .collect();
    if let Some(mode) = config.get("pooling_mode").and_then(Value::as_str) {
        modes.push(mode);
    }
    modes.sort_unstable();
    let pooling = match modes.as_slice() {
        ["cls_token" | "cls"] => Pooling::Cls,
        ["mean_tokens" | "mean"] => Pooling::Mean,
        _ => return Err(unsupported("pooling", "mean or cls alone", modes.join(" and "))),
    };
    let include_prompt = config.get("include_prompt") != Some(&Value::Bool(false));
    Ok((pooling, include_prompt))
}

/// The two encoders that are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Bert,
    DistilBert,
}

impl Family {
    fn name(self) -> &'static str {
        match self {
            Family::Bert => "BERT",
            Family::DistilBert => "DistilBERT",
        }
    }
}

#[derive(Deserialize)]
struct BertConfig {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    #[serde(default = "bert_eps")]
    layer_norm_eps: f32,
    hidden_act: String,
    position_embedding_type: Option<String>,
    #[serde(default)]
    is_decoder: bool,
    #[serde(default)]
    add_cross_attention: bool,
    #[serde(default)]
    pruned_heads: serde_json::Map<String, Value>,
    embedding_size: Option<usize>,
}

#[derive(Deserialize)]
struct DistilBertConfig {
    dim: usize,
    n_layers: usize,
    n_heads: usize,
    hidden_dim: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    /// Not one of Hugging Face's keys, where it is always 1e-12; our exports have it.
    #[serde(default = "bert_eps")]
    layer_norm_eps: f32,
    activation: String,
    #[serde(default)]
    pruned_heads: serde_json::Map<String, Value>,
}

fn bert_eps() -> f32 {
    1e-12
}

fn read_config(path: &Path) -> Result<(Family, Config), ModelError> {
    let value: Value = json(path)?;
    if value.get("quantization_config").is_some_and(|quantization| !quantization.is_null()) {
        return Err(unsupported("weights", "plain ones", "quantization_config"));
    }
    let kind = value.get("model_type").and_then(Value::as_str).unwrap_or("no model_type");
    let (family, kind) = match kind {
        "bert" => (Family::Bert, "bert"),
        "distilbert" => (Family::DistilBert, "distilbert"),
        other => return Err(unsupported("model_type", "bert or distilbert", other)),
    };
    let wrong = |source| ModelError::Json { file: path.display().to_string(), source };
    let (config, activation, pruned) = if kind == "bert" {
        let bert: BertConfig = serde_json::from_value(value).map_err(wrong)?;
        let positions = bert.position_embedding_type.as_deref().unwrap_or("absolute");
        if positions != "absolute" {
            return Err(unsupported("position_embedding_type", "absolute", positions));
        }
        if bert.is_decoder || bert.add_cross_attention {
            return Err(unsupported("architecture", "an encoder", "a decoder"));
        }
        if let Some(size) = bert.embedding_size.filter(|&size| size != bert.hidden_size) {
            return Err(unsupported("embedding_size", "hidden_size", size.to_string()));
        }
        let config = Config {
            layers: bert.num_hidden_layers,
            hidden: bert.hidden_size,
            heads: bert.num_attention_heads,
            intermediate: bert.intermediate_size,
            vocab_size: bert.vocab_size,
            max_positions: bert.max_position_embeddings,
            layer_norm_eps: bert.layer_norm_eps,
        };
        (config, bert.hidden_act, bert.pruned_heads)
    } else {
        let distilbert: DistilBertConfig = serde_json::from_value(value).map_err(wrong)?;
        let config = Config {
            layers: distilbert.n_layers,
            hidden: distilbert.dim,
            heads: distilbert.n_heads,
            intermediate: distilbert.hidden_dim,
            vocab_size: distilbert.vocab_size,
            max_positions: distilbert.max_position_embeddings,
            layer_norm_eps: distilbert.layer_norm_eps,
        };
        (config, distilbert.activation, distilbert.pruned_heads)
    };
    // Both names are GELU by the error function; gelu_new and gelu_fast are approximations.
    if !matches!(activation.as_str(), "gelu" | "gelu_python") {
        return Err(unsupported("activation", "gelu", activation));
    }
    if !pruned.is_empty() {
        return Err(unsupported("pruned_heads", "none", format!("{} layers", pruned.len())));
    }
    Ok((family, config))
}

#[derive(Deserialize)]
struct HeadConfig {
    #[serde(default)]
    architectures: Vec<String>,
    /// Where sentence-transformers' versions keep the activation of the score.
    sbert_ce_default_activation_function: Option<String>,
    sentence_transformers: Option<CrossEncoderConfig>,
}

#[derive(Deserialize)]
struct CrossEncoderConfig {
    activation_fn: Option<String>,
}

/// The head of a bare directory that holds a model for classification: a cross-encoder, as
/// sentence-transformers writes them.
fn read_head(path: &Path, family: Family) -> Result<Option<Head>, ModelError> {
    let config: HeadConfig = json(path)?;
    let classifies = |name: &String| name.ends_with("ForSequenceClassification");
    if !config.architectures.first().is_some_and(classifies) {
        return Ok(None);
    }
    let newer = config.sentence_transformers.and_then(|config| config.activation_fn);
    let function = newer.or(config.sbert_ce_default_activation_function);
    // Without a word, sentence-transformers takes the sigmoid of a single output.
    let function = function.as_deref().unwrap_or("Sigmoid");
    let score = match function.rsplit('.').next() {
        Some("Identity") => Score::Logit,
        Some("Sigmoid") => Score::Sigmoid,
        _ => return Err(unsupported("activation of scores", "Identity or Sigmoid", function)),
    };
    let activation = match family {
        Family::Bert => HeadActivation::Tanh,
        Family::DistilBert => HeadActivation::Relu,
    };
    Ok(Some(Head { activation, score }))
}

#[derive(Default, Deserialize)]
struct TokenizerConfig {
    do_lower_case: Option<bool>,
    /// Some are written as 1e30.
    model_max_length: Option<f64>,
}

fn read_tokenizer(encoder: &Path, settings: &TokenizerConfig) -> Result<TokenizerSpec, ModelError> {
    let path = encoder.join("tokenizer.json");
    if path.exists() {
        return Ok(TokenizerSpec::from_json(&read_file(&path, MAX_TOKENIZER)?)?);
    }
    let path = encoder.join("vocab.txt");
    let vocab = String::from_utf8(read_file(&path, MAX_TOKENIZER)?)
        .map_err(|e| io(&path, std::io::Error::new(std::io::ErrorKind::InvalidData, e)))?;
    // BertTokenizer's own default.
    let lowercase = settings.do_lower_case.unwrap_or(true);
    Ok(TokenizerSpec::from_vocab_txt(&vocab, lowercase)?)
}

#[derive(Default, Deserialize)]
struct SentenceBertConfig {
    max_seq_length: Option<usize>,
    #[serde(default)]
    do_lower_case: bool,
}

fn max_tokens(
    encoder: &Path,
    options: &ImportOptions,
    settings: &TokenizerConfig,
    config: &Config,
    tokenizer: &TokenizerSpec,
) -> Result<usize, ModelError> {
    let sentence_bert: SentenceBertConfig = optional(&encoder.join("sentence_bert_config.json"))?;
    if sentence_bert.do_lower_case && !tokenizer.lowercase {
        return Err(unsupported("do_lower_case", "as the tokenizer does", "true"));
    }
    let stated = options.max_tokens.or(sentence_bert.max_seq_length);
    let allowed = settings
        .model_max_length
        .filter(|length| *length >= 3.0 && *length <= config.max_positions as f64)
        .map_or(config.max_positions, |length| length as usize);
    Ok(stated.unwrap_or(allowed))
}

#[derive(Default, Deserialize)]
struct PromptsConfig {
    #[serde(default)]
    prompts: serde_json::Map<String, Value>,
    default_prompt_name: Option<String>,
}

/// Our exports' addition to sentence-transformers' settings.
#[derive(Default, Deserialize)]
struct MatryoshkaConfig {
    #[serde(default)]
    matryoshka_dims: Vec<usize>,
}

fn read_prompts(source: &Path, include_prompt: bool) -> Result<Prompts, ModelError> {
    let config: PromptsConfig = optional(&source.join("config_sentence_transformers.json"))?;
    let named = |names: &[&str]| {
        let mut texts = names.iter().filter_map(|name| config.prompts.get(*name)?.as_str());
        texts.find(|text| !text.is_empty()).map(str::to_owned)
    };
    let default = config.default_prompt_name.as_deref().and_then(|name| named(&[name]));
    let prompts = Prompts {
        query: named(&["query"]).or(default.clone()).unwrap_or_default(),
        passage: named(&["passage", "document"]).or(default).unwrap_or_default(),
    };
    if !include_prompt && prompts != Prompts::default() {
        return Err(unsupported("pooling", "the prompt in the mean", "include_prompt = false"));
    }
    Ok(prompts)
}

/// The source's tensors under our names.
struct Imported {
    tensors: SafeTensors,
    family: Family,
    prefix: &'static str,
}

impl Imported {
    fn read(
        encoder: &Path,
        family: Family,
        config: &Config,
        head: Option<Head>,
    ) -> Result<Imported, ModelError> {
        let path = encoder.join("model.safetensors");
        if !path.exists() {
            for other in ["model.safetensors.index.json", "pytorch_model.bin", "tf_model.h5"] {
                if encoder.join(other).exists() {
                    return Err(unsupported("weights", "one model.safetensors", other));
                }
            }
        }
        let found = std::cell::Cell::new("");
        let bytes = read_weights(&path, config, &|header| {
            let prefix = prefix_in(header, family);
            found.set(prefix);
            for (name, shape) in config.tensors() {
                let name = source_name(header.keys().map(String::as_str), family, prefix, &name);
                check_shape(header, &name, &shape)?;
            }
            let head = head.map(|_| head_tensors(config.hidden));
            for (name, shape) in head.iter().flatten() {
                if let Some(name) = source_head_name(family, prefix, name) {
                    check_shape(header, &name, shape)?;
                }
            }
            if family == Family::Bert {
                let name = format!("{prefix}{TOKEN_TYPES}");
                match header.get(&name) {
                    Some((_, shape, _)) if shape.len() == 2 && shape[0] > 0 => {
                        check_shape(header, &name, &[shape[0], config.hidden])?;
                    }
                    Some((_, shape, _)) => {
                        let (expected, got) = (vec![2, config.hidden], shape.clone());
                        return Err(ModelError::Shape { name, expected, got });
                    }
                    None => return Err(ModelError::MissingTensor(name)),
                }
            }
            Ok(())
        })?;
        Ok(Imported { tensors: SafeTensors::from_bytes(bytes)?, family, prefix: found.get() })
    }
}

const TOKEN_TYPES: &str = "embeddings.token_type_embeddings.weight";
const POSITIONS: &str = "embeddings.position_embeddings.weight";

impl Tensors for Imported {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Cow<'_, [f32]>, ModelError> {
        if name == SECOND_TEXT {
            return self.second_text(shape[0]).map(Cow::Owned);
        }
        if let Some(source) = source_head_name(self.family, self.prefix, name) {
            return self.tensors.tensor(&source, shape);
        }
        let source = source_name(self.tensors.names(), self.family, self.prefix, name);
        let mut values = self.tensors.tensor(&source, shape)?;
        if self.family == Family::Bert && name == POSITIONS {
            let types = format!("{}{TOKEN_TYPES}", self.prefix);
            let rows = self.tensors.get(&types).map_or(0, |view| view.shape[0]);
            let types = self.tensors.tensor(&types, &[rows, shape[1]])?;
            for row in values.to_mut().chunks_exact_mut(shape[1]) {
                row.iter_mut()
                    .zip(types.iter())
                    .for_each(|(value, token_type)| *value += token_type);
            }
        }
        Ok(values)
    }
}

impl Imported {
    /// What BERT adds to the tokens of a second text, less the first one's, which is in the
    /// positions. DistilBERT adds nothing.
    fn second_text(&self, hidden: usize) -> Result<Vec<f32>, ModelError> {
        let name = format!("{}{TOKEN_TYPES}", self.prefix);
        let rows = self.tensors.get(&name).map_or(0, |view| view.shape[0]);
        if self.family == Family::DistilBert || rows < 2 {
            return Ok(vec![0.0; hidden]);
        }
        let types = self.tensors.tensor(&name, &[rows, hidden])?;
        let (first, second) = (&types[..hidden], &types[hidden..2 * hidden]);
        Ok(second.iter().zip(first).map(|(second, first)| second - first).collect())
    }
}

const SECOND_TEXT: &str = "head.second_text";

/// The source's name of one of a head's layers.
fn source_head_name(family: Family, prefix: &str, name: &str) -> Option<String> {
    let (layer, part) = name.strip_prefix("head.")?.split_once('.')?;
    match (layer, family) {
        ("dense", Family::Bert) => Some(format!("{prefix}pooler.dense.{part}")),
        ("dense", Family::DistilBert) => Some(format!("pre_classifier.{part}")),
        ("out", _) => Some(format!("classifier.{part}")),
        _ => None,
    }
}

/// Models with a head keep their encoder under a prefix.
fn prefix_in(header: &Header, family: Family) -> &'static str {
    let prefix = match family {
        Family::Bert => "bert.",
        Family::DistilBert => "distilbert.",
    };
    let at_root = header.contains_key("embeddings.word_embeddings.weight");
    if at_root { "" } else { prefix }
}

/// The source's name of one of our tensors.
fn source_name<'n>(
    mut names: impl Iterator<Item = &'n str>,
    family: Family,
    prefix: &str,
    name: &str,
) -> String {
    if family == Family::DistilBert {
        return format!("{prefix}{name}");
    }
    let renamed = match name.strip_prefix("transformer.") {
        None => name.to_owned(),
        Some(layer) => format!("encoder.{layer}")
            .replace("attention.q_lin", "attention.self.query")
            .replace("attention.k_lin", "attention.self.key")
            .replace("attention.v_lin", "attention.self.value")
            .replace("attention.out_lin", "attention.output.dense")
            .replace("sa_layer_norm", "attention.output.LayerNorm")
            .replace("ffn.lin1", "intermediate.dense")
            .replace("ffn.lin2", "output.dense")
            .replace("output_layer_norm", "output.LayerNorm"),
    };
    let renamed = format!("{prefix}{renamed}");
    // Checkpoints from TensorFlow name a layer norm's parts differently.
    let old = renamed.replace("LayerNorm.weight", "LayerNorm.gamma");
    let old = old.replace("LayerNorm.bias", "LayerNorm.beta");
    if old != renamed && names.any(|name| name == old) { old } else { renamed }
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<T, ModelError> {
    let bytes = read_file(path, MAX_JSON)?;
    serde_json::from_slice(&bytes)
        .map_err(|source| ModelError::Json { file: path.display().to_string(), source })
}

fn optional<T: DeserializeOwned + Default>(path: &Path) -> Result<T, ModelError> {
    if path.exists() { json(path) } else { Ok(T::default()) }
}

fn unsupported(part: &'static str, expected: &'static str, got: impl ToString) -> ModelError {
    let got: String = got.to_string().chars().take(120).collect();
    ModelError::Unsupported { part, expected, got }
}
