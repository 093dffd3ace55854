//! Small random models in Hugging Face's layouts, made on the spot.

#![allow(dead_code, reason = "each test file uses its part")]

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use distilface_core::model::{NamedTensor, write_safetensors};
use distilface_core::text::TokenizerSpec;
use serde_json::{Value, json};

pub const LAYERS: usize = 2;
pub const HIDDEN: usize = 16;
pub const HEADS: usize = 2;
pub const INNER: usize = 24;
pub const POSITIONS: usize = 32;

/// A directory that goes away with its owner.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new(name: &str) -> TempDir {
        let path = std::env::temp_dir().join(format!("distilface-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("the temporary directory can be made");
        TempDir(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn tokenizer(lowercase: bool) -> TokenizerSpec {
    let mut vocab = String::from("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n");
    for c in ('a'..='z').chain('A'..='Z') {
        vocab.push_str(&format!("{c}\n##{c}\n"));
    }
    vocab.push_str("the\n##ing\n.\n");
    TokenizerSpec::from_vocab_txt(&vocab, lowercase).expect("a small vocabulary")
}

pub fn vocab_size() -> usize {
    tokenizer(true).vocab.len()
}

/// Values in -1…1 that differ from place to place.
pub fn values(seed: usize, len: usize) -> Vec<f32> {
    let mut state = seed as u64 * 0x9E37_79B9_7F4A_7C15 + 1;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn tensor(name: String, shape: Vec<usize>, seed: usize) -> NamedTensor<'static> {
    let values = Cow::Owned(values(seed, shape.iter().product()));
    NamedTensor { name, shape, values }
}

/// A BERT's tensors, pooler and all.
pub fn bert_tensors(prefix: &str) -> Vec<NamedTensor<'static>> {
    let mut shapes = vec![
        ("embeddings.word_embeddings.weight".to_owned(), vec![vocab_size(), HIDDEN]),
        ("embeddings.position_embeddings.weight".to_owned(), vec![POSITIONS, HIDDEN]),
        ("embeddings.token_type_embeddings.weight".to_owned(), vec![2, HIDDEN]),
        ("embeddings.LayerNorm.weight".to_owned(), vec![HIDDEN]),
        ("embeddings.LayerNorm.bias".to_owned(), vec![HIDDEN]),
        ("pooler.dense.weight".to_owned(), vec![HIDDEN, HIDDEN]),
        ("pooler.dense.bias".to_owned(), vec![HIDDEN]),
    ];
    for layer in 0..LAYERS {
        for (part, weight) in [
            ("attention.self.query", vec![HIDDEN, HIDDEN]),
            ("attention.self.key", vec![HIDDEN, HIDDEN]),
            ("attention.self.value", vec![HIDDEN, HIDDEN]),
            ("attention.output.dense", vec![HIDDEN, HIDDEN]),
            ("attention.output.LayerNorm", vec![HIDDEN]),
            ("intermediate.dense", vec![INNER, HIDDEN]),
            ("output.dense", vec![HIDDEN, INNER]),
            ("output.LayerNorm", vec![HIDDEN]),
        ] {
            let bias = vec![weight[0]];
            shapes.push((format!("encoder.layer.{layer}.{part}.weight"), weight));
            shapes.push((format!("encoder.layer.{layer}.{part}.bias"), bias));
        }
    }
    let named = shapes.into_iter().enumerate();
    named.map(|(seed, (name, shape))| tensor(format!("{prefix}{name}"), shape, seed)).collect()
}

pub fn bert_config() -> Value {
    json!({
        "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu",
        "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "intermediate_size": INNER, "vocab_size": vocab_size(), "layer_norm_eps": 1e-12,
        "max_position_embeddings": POSITIONS, "type_vocab_size": 2,
        "position_embedding_type": "absolute",
    })
}

pub fn write_json(path: &Path, value: &Value) {
    std::fs::write(path, value.to_string()).expect("a file can be written");
}

pub fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("a file can be read")).expect("JSON")
}

/// A sentence-transformers directory around a small BERT.
pub fn write_bert(directory: &Path) {
    std::fs::create_dir_all(directory.join("1_Pooling")).expect("a directory can be made");
    let bytes = write_safetensors(&bert_tensors("")).expect("values fit their shapes");
    std::fs::write(directory.join("model.safetensors"), bytes).expect("a file can be written");
    std::fs::write(directory.join("tokenizer.json"), tokenizer(true).to_json())
        .expect("a file can be written");
    write_json(&directory.join("config.json"), &bert_config());
    write_json(
        &directory.join("modules.json"),
        &json!([
            { "idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer" },
            { "idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling" },
            { "idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize" },
        ]),
    );
    write_json(
        &directory.join("1_Pooling/config.json"),
        &json!({
            "word_embedding_dimension": HIDDEN, "pooling_mode_cls_token": false,
            "pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": false,
        }),
    );
    write_json(&directory.join("sentence_bert_config.json"), &json!({ "max_seq_length": 20 }));
    write_json(
        &directory.join("config_sentence_transformers.json"),
        &json!({ "prompts": { "query": "query: ", "document": "passage: " } }),
    );
}
