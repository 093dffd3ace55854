//! Small models for tests: BERT encoders of random weights in Hugging Face's layout, as
//! sentence-transformers writes it.

use std::fs;
use std::path::{Path, PathBuf};

use distilface_core::model::{NamedTensor, write_safetensors};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// What a test's model is to be. The same sizes and seed give the same bytes.
#[derive(Debug, Clone)]
pub struct TinyModel {
    pub seed: u64,
    pub hidden: usize,
    pub layers: usize,
    pub positions: usize,
    /// `cls` or `mean`.
    pub pooling: &'static str,
    pub prompts: Option<(&'static str, &'static str)>,
    /// A head of one output instead of a pooling: a cross-encoder.
    pub head: bool,
}

impl Default for TinyModel {
    fn default() -> TinyModel {
        TinyModel {
            seed: 1,
            hidden: 32,
            layers: 2,
            positions: 64,
            pooling: "mean",
            prompts: None,
            head: false,
        }
    }
}

const HEADS: usize = 4;

impl TinyModel {
    pub fn seed(seed: u64) -> TinyModel {
        TinyModel { seed, ..TinyModel::default() }
    }

    /// Writes the model's directory under `parent`, which the server's user can enter.
    pub fn write(&self, parent: &Path) -> PathBuf {
        let dir = parent.join(format!("tiny-{}-{}", self.hidden, self.seed));
        fs::create_dir_all(dir.join("1_Pooling")).expect("the directory can be made");
        let write = |name: &str, bytes: &[u8]| {
            fs::write(dir.join(name), bytes).expect("the directory can be written");
        };
        let vocab = vocabulary();
        write("vocab.txt", (vocab.join("\n") + "\n").as_bytes());
        write("tokenizer_config.json", br#"{"do_lower_case": true}"#);
        let (hidden, layers, positions) = (self.hidden, self.layers, self.positions);
        let architecture = if self.head { "BertForSequenceClassification" } else { "BertModel" };
        let labels = if self.head { r#""id2label": {"0": "LABEL_0"}, "# } else { "" };
        let config = format!(
            r#"{{"model_type": "bert", "architectures": ["{architecture}"], {labels}"hidden_size": {hidden}, "num_hidden_layers": {layers},
                "num_attention_heads": {HEADS}, "intermediate_size": {}, "vocab_size": {},
                "max_position_embeddings": {positions}, "type_vocab_size": 2, "hidden_act": "gelu",
                "layer_norm_eps": 1e-12}}"#,
            2 * hidden,
            vocab.len()
        );
        write("config.json", config.as_bytes());
        if !self.head {
            write(
                "modules.json",
                br#"[{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
                     {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
                     {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}]"#,
            );
            let pooling = format!(
                r#"{{"word_embedding_dimension": {hidden}, "pooling_mode_cls_token": {}, "pooling_mode_mean_tokens": {}}}"#,
                self.pooling == "cls",
                self.pooling == "mean"
            );
            write("1_Pooling/config.json", pooling.as_bytes());
        }
        if let Some((query, passage)) = self.prompts {
            let prompts =
                format!(r#"{{"prompts": {{"query": "{query}", "document": "{passage}"}}}}"#);
            write("config_sentence_transformers.json", prompts.as_bytes());
        }
        let tensors = self.tensors(vocab.len());
        write("model.safetensors", &write_safetensors(&tensors).expect("shapes are the values'"));
        dir
    }

    /// Every tensor by its name in BERT.
    pub fn tensors(&self, vocab: usize) -> Vec<NamedTensor<'static>> {
        let mut random = StdRng::seed_from_u64(self.seed);
        let (hidden, inner) = (self.hidden, 2 * self.hidden);
        let prefix = if self.head { "bert." } else { "" };
        let mut tensors = Vec::new();
        let mut add = |name: String, shape: Vec<usize>, around: f32, spread: f32| {
            let values: Vec<f32> = (0..shape.iter().product::<usize>())
                .map(|_| around + random.random_range(-spread..spread))
                .collect();
            tensors.push(NamedTensor { name, shape, values: values.into() });
        };
        let mut norm_names = vec![format!("{prefix}embeddings.LayerNorm")];
        for (name, rows) in [
            ("word_embeddings", vocab),
            ("position_embeddings", self.positions),
            ("token_type_embeddings", 2),
        ] {
            add(format!("{prefix}embeddings.{name}.weight"), vec![rows, hidden], 0.0, 1.0);
        }
        for layer in 0..self.layers {
            let at = format!("{prefix}encoder.layer.{layer}");
            for (name, outputs, inputs) in [
                ("attention.self.query", hidden, hidden),
                ("attention.self.key", hidden, hidden),
                ("attention.self.value", hidden, hidden),
                ("attention.output.dense", hidden, hidden),
                ("intermediate.dense", inner, hidden),
                ("output.dense", hidden, inner),
            ] {
                add(format!("{at}.{name}.weight"), vec![outputs, inputs], 0.0, 0.3);
                add(format!("{at}.{name}.bias"), vec![outputs], 0.0, 0.1);
            }
            norm_names.push(format!("{at}.attention.output.LayerNorm"));
            norm_names.push(format!("{at}.output.LayerNorm"));
        }
        for name in norm_names {
            add(format!("{name}.weight"), vec![hidden], 1.0, 0.2);
            add(format!("{name}.bias"), vec![hidden], 0.0, 0.1);
        }
        if self.head {
            add("bert.pooler.dense.weight".to_owned(), vec![hidden, hidden], 0.0, 0.3);
            add("bert.pooler.dense.bias".to_owned(), vec![hidden], 0.0, 0.1);
            add("classifier.weight".to_owned(), vec![1, hidden], 0.0, 0.5);
            add("classifier.bias".to_owned(), vec![1], 0.0, 0.1);
        }
        tensors
    }
}

/// Special tokens, every ASCII letter and digit at a word's start and inside, and some words.
fn vocabulary() -> Vec<String> {
    let mut vocab: Vec<String> =
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned).into();
    for letter in ('a'..='z').chain('0'..='9') {
        vocab.push(letter.to_string());
        vocab.push(format!("##{letter}"));
    }
    vocab.extend([".", ",", "?", "!", ":", "-"].map(str::to_owned));
    let words = "the cat dog river stone bread bank rate query passage search text word house tree";
    vocab.extend(words.split(' ').map(str::to_owned));
    vocab
}
