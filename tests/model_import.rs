//! Importing keeps what a model computes: the same weights under other names, BERT's token-type
//! row in the positions, pooling, prompts and lengths as the directory says.

mod common_model;

use std::borrow::Cow;

use common_model::{
    HIDDEN, INNER, LAYERS, POSITIONS, TempDir, bert_config, bert_tensors, read_json, tokenizer,
    vocab_size, write_bert, write_json,
};
use distilface_core::model::{
    Config, ImportOptions, ModelDir, NamedTensor, Pooling, Precision, Prompts, SafeTensors,
    Tensors, import, write_safetensors,
};
use distilface_core::text::{Tokenizer, TokenizerSpec};
use serde_json::json;

const RENAMED: [(&str, &str); 8] = [
    ("attention.self.query", "attention.q_lin"),
    ("attention.self.key", "attention.k_lin"),
    ("attention.self.value", "attention.v_lin"),
    ("attention.output.dense", "attention.out_lin"),
    ("attention.output.LayerNorm", "sa_layer_norm"),
    ("intermediate.dense", "ffn.lin1"),
    ("output.dense", "ffn.lin2"),
    ("output.LayerNorm", "output_layer_norm"),
];

fn named(name: &str) -> ImportOptions {
    ImportOptions { name: Some(name.to_owned()), ..ImportOptions::default() }
}

#[test]
fn a_bert_becomes_the_distilbert_that_computes_the_same() {
    let temp = TempDir::new("import-bert");
    let (source, out) = (temp.path().join("source"), temp.path().join("out"));
    write_bert(&source);
    let mut steps = Vec::new();
    let manifest = import(&source, &out, &named("tiny"), &mut |step| steps.push(step.to_owned()))
        .expect("a small BERT is imported");
    assert!(steps.len() >= 4, "{steps:?}");

    let model = ModelDir::open(&out).expect("what was written opens");
    assert_eq!(*model.manifest(), manifest);
    assert_eq!(manifest.name, "tiny");
    assert_eq!(manifest.pooling, Pooling::Mean);
    assert!(manifest.normalize && manifest.lowercase);
    assert_eq!(manifest.max_tokens, 20);
    let (query, passage) = ("query: ".to_owned(), "passage: ".to_owned());
    assert_eq!(manifest.prompts, Prompts { query, passage });
    assert_eq!(manifest.dimensions, HIDDEN);
    let config = Config {
        layers: LAYERS,
        hidden: HIDDEN,
        heads: 2,
        intermediate: INNER,
        vocab_size: vocab_size(),
        max_positions: POSITIONS,
        layer_norm_eps: 1e-12,
    };
    assert_eq!(manifest.encoder, config);
    assert_eq!(*model.tokenizer(), tokenizer(true));

    let tensors = bert_tensors("");
    let source = |name: &str| {
        let tensor = tensors.iter().find(|tensor| tensor.name == name);
        tensor.unwrap_or_else(|| panic!("the small BERT has {name}"))
    };
    let same = |ours: &str, theirs: &str| {
        let expected = source(theirs);
        let got = model.tensor(ours, &expected.shape).expect("the tensor is there");
        assert_eq!(got, expected.values, "{ours}");
    };
    for part in ["word_embeddings.weight", "LayerNorm.weight", "LayerNorm.bias"] {
        same(&format!("embeddings.{part}"), &format!("embeddings.{part}"));
    }
    for layer in 0..LAYERS {
        for (theirs, ours) in RENAMED {
            for end in ["weight", "bias"] {
                let ours = format!("transformer.layer.{layer}.{ours}.{end}");
                same(&ours, &format!("encoder.layer.{layer}.{theirs}.{end}"));
            }
        }
    }
    let positions = &source("embeddings.position_embeddings.weight").values;
    let token_type = &source("embeddings.token_type_embeddings.weight").values[..HIDDEN];
    let folded: Vec<f32> =
        positions.iter().enumerate().map(|(i, v)| v + token_type[i % HIDDEN]).collect();
    let name = "embeddings.position_embeddings.weight";
    assert_eq!(model.tensor(name, &[POSITIONS, HIDDEN]).expect("it is there"), folded);
}

#[test]
fn the_directory_is_one_that_sentence_transformers_reads() {
    let temp = TempDir::new("import-layout");
    let (source, out) = (temp.path().join("source"), temp.path().join("out"));
    write_bert(&source);
    import(&source, &out, &named("tiny"), &mut |_| {}).expect("a small BERT is imported");
    let config = read_json(&out.join("config.json"));
    assert_eq!(config["model_type"], "distilbert");
    assert_eq!(config["dim"], HIDDEN);
    assert_eq!(config["hidden_dim"], INNER);
    assert_eq!(config["max_position_embeddings"], POSITIONS);
    let modules = read_json(&out.join("modules.json"));
    assert_eq!(modules[2]["type"], "sentence_transformers.models.Normalize");
    let pooling = read_json(&out.join("1_Pooling/config.json"));
    assert_eq!(pooling["pooling_mode_mean_tokens"], true);
    assert_eq!(pooling["pooling_mode_cls_token"], false);
    assert_eq!(read_json(&out.join("sentence_bert_config.json"))["max_seq_length"], 20);
    let weights = std::fs::read(out.join("model.safetensors")).expect("the weights read");
    let weights = SafeTensors::from_bytes(weights).expect("a safetensors file");
    let expected = ModelDir::open(&out).expect("it opens").manifest().encoder.tensors();
    let mut expected: Vec<String> = expected.into_iter().map(|(name, _)| name).collect();
    expected.sort();
    assert!(weights.names().eq(expected.iter().map(String::as_str)));

    // And it imports again as itself, with the same weights and so the same revision: by its
    // manifest, and without it as sentence-transformers has it.
    let first = ModelDir::open(&out).expect("it opens").manifest().clone();
    for again in ["copy", "anew"] {
        let place = temp.path().join(again);
        let second = import(&out, &place, &named(again), &mut |_| {}).expect("ours is imported");
        assert_eq!((&*second.name, second.revision), (again, first.revision.clone()));
        assert_eq!(second.files, first.files);
        ModelDir::open(&place).expect("every checksum is right");
        let _ = std::fs::remove_file(out.join("distilface.json"));
    }
}

#[test]
fn a_bare_distilbert_with_a_head_and_half_weights_is_imported() {
    let temp = TempDir::new("import-distilbert");
    let (source, out) = (temp.path().join("source"), temp.path().join("out"));
    std::fs::create_dir_all(&source).expect("a directory can be made");
    let config = Config {
        layers: LAYERS,
        hidden: HIDDEN,
        heads: 2,
        intermediate: INNER,
        vocab_size: vocab_size(),
        max_positions: POSITIONS,
        layer_norm_eps: 1e-12,
    };
    // Values that bfloat16 holds exactly.
    let values = |seed: usize, len: usize| -> Vec<f32> {
        let exact = |v: &f32| f32::from_bits(v.to_bits() & 0xFFFF_0000);
        common_model::values(seed, len).iter().map(exact).collect()
    };
    let mut tensors: Vec<NamedTensor> = config
        .tensors()
        .into_iter()
        .enumerate()
        .map(|(seed, (name, shape))| {
            let values = Cow::Owned(values(seed, shape.iter().product()));
            NamedTensor { name: format!("distilbert.{name}"), shape, values }
        })
        .collect();
    let head = Cow::Owned(values(99, HIDDEN));
    tensors.push(NamedTensor {
        name: "vocab_transform.bias".into(),
        shape: vec![HIDDEN],
        values: head,
    });
    std::fs::write(source.join("model.safetensors"), as_bf16(&tensors)).expect("it is written");
    write_json(
        &source.join("config.json"),
        &json!({
            "model_type": "distilbert", "activation": "gelu", "dim": HIDDEN, "n_layers": LAYERS,
            "n_heads": 2, "hidden_dim": INNER, "vocab_size": vocab_size(),
            "max_position_embeddings": POSITIONS, "sinusoidal_pos_embds": false,
        }),
    );
    let spec = tokenizer(false);
    std::fs::write(source.join("vocab.txt"), spec.vocab.join("\n")).expect("it is written");
    let config_json = json!({ "do_lower_case": false, "model_max_length": 1e30 });
    write_json(&source.join("tokenizer_config.json"), &config_json);

    let options = ImportOptions { precision: Some(Precision::F32), ..named("cased") };
    let manifest = import(&source, &out, &options, &mut |_| {}).expect("it is imported");
    assert_eq!(manifest.precision, Precision::F32);
    assert_eq!(manifest.max_tokens, POSITIONS);
    assert!(!manifest.lowercase && !manifest.normalize);
    let model = ModelDir::open(&out).expect("what was written opens");
    assert_eq!(*model.tokenizer(), spec);
    for (tensor, (name, shape)) in tensors.iter().zip(config.tensors()) {
        assert_eq!(model.tensor(&name, &shape).expect("it is there"), tensor.values, "{name}");
    }
    let blob = model.vocab_blob().expect("the vocabulary compiles");
    let mut ids = Vec::new();
    Tokenizer::view(&blob).expect("it opens").encode("The theing", 16, &mut ids);
    let id = |token: &str| spec.vocab.iter().position(|t| t == token).map(|id| id as u32);
    let expected = ["[CLS]", "T", "##h", "##e", "the", "##ing", "[SEP]"];
    assert_eq!(ids, expected.map(|token| id(token).expect("the vocabulary has it")));
}

/// A safetensors file with the upper halves of the values.
fn as_bf16(tensors: &[NamedTensor]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for tensor in tensors {
        let start = data.len();
        data.extend(tensor.values.iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()));
        let place = [start, data.len()];
        let entry = json!({ "dtype": "BF16", "shape": tensor.shape, "data_offsets": place });
        header.insert(tensor.name.clone(), entry);
    }
    let header = serde_json::Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}

#[test]
fn names_with_a_prefix_and_tensorflows_layer_norms_are_found() {
    let temp = TempDir::new("import-prefix");
    let (source, plain) = (temp.path().join("source"), temp.path().join("plain"));
    write_bert(&source);
    let first = import(&source, &plain, &named("a"), &mut |_| {}).expect("it is imported");
    let mut tensors = bert_tensors("bert.");
    for tensor in &mut tensors {
        let name = tensor.name.replace("LayerNorm.weight", "LayerNorm.gamma");
        tensor.name = name.replace("LayerNorm.bias", "LayerNorm.beta");
    }
    let bytes = write_safetensors(&tensors).expect("values fit their shapes");
    std::fs::write(source.join("model.safetensors"), bytes).expect("it is written");
    let out = temp.path().join("out");
    let second = import(&source, &out, &named("b"), &mut |_| {}).expect("it is imported");
    assert_eq!(second.revision, first.revision);
}

#[test]
fn cls_pooling_and_options_are_kept() {
    let temp = TempDir::new("import-cls");
    let (source, out) = (temp.path().join("source"), temp.path().join("out"));
    write_bert(&source);
    let pooling = json!({ "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false });
    write_json(&source.join("1_Pooling/config.json"), &pooling);
    let options =
        ImportOptions { max_tokens: Some(12), source: Some("a test".into()), ..named("c") };
    let manifest = import(&source, &out, &options, &mut |_| {}).expect("it is imported");
    assert_eq!(manifest.pooling, Pooling::Cls);
    assert_eq!(manifest.max_tokens, 12);
    assert_eq!(manifest.source.as_deref(), Some("a test"));
    assert_eq!(read_json(&out.join("1_Pooling/config.json"))["pooling_mode_cls_token"], true);
    assert_eq!(bert_config()["model_type"], "bert");
}

#[test]
fn the_revision_stands_for_what_moves_vectors() {
    let temp = TempDir::new("import-revision");
    let (source, out) = (temp.path().join("source"), temp.path().join("out"));
    write_bert(&source);
    let manifest = import(&source, &out, &named("a"), &mut |_| {}).expect("it is imported");
    let revision = |change: &dyn Fn(&mut distilface_core::model::Manifest)| {
        let mut changed = manifest.clone();
        change(&mut changed);
        changed.compute_revision()
    };
    assert_eq!(revision(&|m| m.name = "b".into()), manifest.revision);
    assert_eq!(revision(&|m| m.source = None), manifest.revision);
    let moves: [&dyn Fn(&mut distilface_core::model::Manifest); 8] = [
        &|m| m.max_tokens -= 1,
        &|m| m.pooling = Pooling::MeanLast4,
        &|m| m.normalize = false,
        &|m| m.precision = Precision::Int8,
        &|m| m.prompts.query.push('x'),
        &|m| m.prompts.passage.clear(),
        &|m| m.encoder.layer_norm_eps = 1e-5,
        &|m| m.files.get_mut("model.safetensors").expect("it is listed").replace_range(..1, "x"),
    ];
    let mut seen = std::collections::HashSet::from([manifest.revision.clone()]);
    for change in moves {
        assert!(seen.insert(revision(change)));
    }
}

#[test]
fn all_minilm_l6_v2_is_imported_with_its_own_ids() {
    let named_directory = std::env::var_os("DISTILFACE_MINILM_DIR").map(std::path::PathBuf::from);
    let imported = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/all-minilm-l6-v2");
    let directories = [named_directory, Some(imported)];
    let Some(source) = directories.into_iter().flatten().find(|d| d.join("config.json").is_file())
    else {
        eprintln!("SKIPPED: no all-MiniLM-L6-v2 (`make setup`, or set DISTILFACE_MINILM_DIR)");
        return;
    };
    let temp = TempDir::new("import-minilm");
    let out = temp.path().join("out");
    let manifest = import(&source, &out, &named("minilm"), &mut |_| {}).expect("it is imported");
    assert_eq!((manifest.max_tokens, manifest.dimensions), (256, 384));
    assert_eq!(manifest.pooling, Pooling::Mean);
    assert!(manifest.normalize);
    let model = ModelDir::open(&out).expect("what was written opens");
    let json = std::fs::read(source.join("tokenizer.json")).expect("the tokenizer reads");
    assert_eq!(*model.tokenizer(), TokenizerSpec::from_json(&json).expect("a BERT tokenizer"));
    for (name, shape) in manifest.encoder.tensors() {
        model.tensor(&name, &shape).expect("every tensor is there and finite");
    }
}
