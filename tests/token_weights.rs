//! A mean that weighs its tokens: what a directory says of it reaches every form of the model, and
//! what cannot be meant is refused.

mod common_model;

use std::path::{Path, PathBuf};

use common_model::{TempDir, read_json, vocab_size, write_bert, write_json};
use distilface_core::encoder::{Context, InputKind, SentenceEncoder, pack_model};
use distilface_core::model::{
    ImportOptions, MANIFEST, Manifest, ModelDir, NewModel, Packed, PackedWriter, Pooling,
    Precision, TOKEN_WEIGHTS, TOKEN_WEIGHTS_FILE, Tag, VOCABULARY, WEIGHTS, WeightsType, import,
    write_directory,
};

const TEXTS: [&str; 3] = ["the bad ing.", "a", "THE CAB."];

/// The small model of the import's tests, with weights of its tokens.
fn write(out: &Path, pooling: Pooling, token_weights: Option<Vec<f32>>) -> Manifest {
    let source = out.with_extension("source");
    let base = out.with_extension("base");
    if !base.exists() {
        write_bert(&source);
        import(&source, &base, &ImportOptions::default(), &mut |_| {}).expect("it is imported");
    }
    let base = ModelDir::open(&base).expect("it opens");
    let model = NewModel { token_weights, pooling, ..like(&base) };
    write_directory(out, &model, &base).expect("it is written")
}

fn like(base: &ModelDir) -> NewModel {
    let manifest = base.manifest();
    NewModel {
        name: "weighted".to_owned(),
        config: manifest.encoder.clone(),
        matryoshka_dims: Vec::new(),
        head: None,
        max_tokens: manifest.max_tokens,
        pooling: manifest.pooling,
        token_weights: None,
        normalize: true,
        prompts: Default::default(),
        precision: Precision::Bf16,
        source: None,
        tokenizer: base.tokenizer().clone(),
        weights: WeightsType::F32,
    }
}

fn counts() -> Vec<f32> {
    (0..vocab_size()).map(|id| (id % 5 + 1) as f32 / 4.0).collect()
}

struct Aligned(Vec<u8>, usize);

impl Aligned {
    fn new(block: &[u8]) -> Aligned {
        let mut bytes = vec![0; block.len() + 64];
        let start = bytes.as_ptr().align_offset(64);
        bytes[start..start + block.len()].copy_from_slice(block);
        Aligned(bytes, start)
    }

    fn bytes(&self) -> &[u8] {
        &self.0[self.1..]
    }
}

fn vectors(block: &[u8]) -> Vec<f32> {
    let block = Aligned::new(block);
    let encoder = SentenceEncoder::verify_packed(block.bytes()).expect("it opens");
    let all = encoder.embed(&TEXTS, InputKind::Passage, &mut Context::new(1)).expect("no cancel");
    all.vectors().flat_map(|vector| vector.expect("not blank").to_vec()).collect()
}

fn packed(directory: &Path) -> Vec<u8> {
    pack_model(&ModelDir::open(directory).expect("it opens")).expect("it packs")
}

fn directory(temp: &TempDir, name: &str) -> PathBuf {
    temp.path().join(name)
}

#[test]
fn token_weights_change_vectors_and_revision() {
    let temp = TempDir::new("token-weights");
    let even = directory(&temp, "even");
    let ones = directory(&temp, "ones");
    let own = directory(&temp, "own");
    let plain = write(&even, Pooling::MeanFirstLast, None);
    let manifest = write(&ones, Pooling::MeanFirstLast, Some(vec![1.0; vocab_size()]));
    assert!(manifest.token_weights && !plain.token_weights);
    assert_ne!(manifest.revision, plain.revision);
    assert_eq!(vectors(&packed(&ones)), vectors(&packed(&even)));
    let weighted = write(&own, Pooling::MeanFirstLast, Some(counts()));
    assert_ne!(weighted.revision, manifest.revision);
    assert_ne!(vectors(&packed(&own)), vectors(&packed(&even)));
    let model = ModelDir::open(&own).expect("it opens");
    assert_eq!(model.token_weights(), Some(&counts()[..]));
    // A model without them is described as ever, so that its revision stays.
    let text = String::from_utf8(plain.to_json()).expect("UTF-8");
    assert!(!text.contains("token_weights"), "{text}");
}

#[test]
fn sentence_transformers_finds_the_weights_as_a_module() {
    let temp = TempDir::new("token-weights-modules");
    let own = directory(&temp, "own");
    write(&own, Pooling::MeanFirstLast, Some(counts()));
    let modules = read_json(&own.join("modules.json"));
    let kinds: Vec<&str> = modules
        .as_array()
        .expect("a list")
        .iter()
        .map(|module| module["type"].as_str().expect("a class").rsplit('.').next().expect("a name"))
        .collect();
    let expected = ["Transformer", "WeightedLayerPooling", "WordWeights", "Pooling", "Normalize"];
    assert_eq!(kinds, expected);
    let config = read_json(&own.join("1_WordWeights/config.json"));
    let vocab = config["vocab"].as_array().expect("a list");
    assert_eq!(vocab.len(), vocab_size());
    for (word, weight) in vocab.iter().zip(counts()) {
        let word = word.as_str().expect("a word");
        assert_eq!(config["word_weights"][word], f64::from(weight), "{word}");
    }
}

#[cfg(feature = "candle")]
#[test]
fn token_weights_count_on_a_device_of_candle_too() {
    use distilface_core::encoder::Reference;
    let temp = TempDir::new("token-weights-candle");
    let own = directory(&temp, "own");
    write(&own, Pooling::MeanFirstLast, Some(counts()));
    let block = packed(&own);
    let aligned = Aligned::new(&block);
    let encoder = SentenceEncoder::from_packed(aligned.bytes()).expect("it opens");
    let device = Reference::from_packed(&encoder, &candle_core::Device::Cpu).expect("all tensors");
    for most in [1, 1024] {
        let got = encoder.embed_on(&device, &TEXTS, InputKind::Passage, most, &mut || false);
        let got: Vec<f32> = got
            .expect("in range")
            .vectors()
            .flat_map(|vector| vector.expect("not blank").to_vec())
            .collect();
        for (got, expected) in got.chunks(16).zip(vectors(&block).chunks(16)) {
            let cosine: f32 = got.iter().zip(expected).map(|(a, b)| a * b).sum();
            assert!(cosine > 0.9995, "{cosine}");
        }
    }
}

#[test]
fn weights_that_cannot_be_meant_are_refused() {
    let temp = TempDir::new("token-weights-refused");
    let own = directory(&temp, "own");
    write(&own, Pooling::Mean, Some(counts()));
    let base = ModelDir::open(own.with_extension("base")).expect("it opens");
    let refusal = |pooling, weights: Vec<f32>| {
        let model = NewModel { pooling, token_weights: Some(weights), ..like(&base) };
        let refused = write_directory(&directory(&temp, "refused"), &model, &base);
        refused.expect_err("it is refused").to_string()
    };
    let with = |value: f32| {
        let mut weights = counts();
        weights[7] = value;
        weights
    };
    for value in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e30] {
        let said = refusal(Pooling::Mean, with(value));
        assert!(said.contains("for id 7"), "{value}: {said}");
    }
    let said = refusal(Pooling::Mean, vec![1.0; 3]);
    assert!(said.contains("got 3 values"), "{said}");
    let said = refusal(Pooling::Cls, counts());
    assert!(said.contains("pooling: expected a mean"), "{said}");

    // A manifest that claims weights which are not there, and one that hides them.
    for claim in [true, false] {
        let other = directory(&temp, if claim { "claims" } else { "hides" });
        write(&other, Pooling::Mean, (!claim).then(counts));
        let path = other.join("distilface.json");
        let mut manifest = read_json(&path);
        manifest["token_weights"] = claim.into();
        write_json(&path, &manifest);
        let said = ModelDir::open(&other).err().expect("it is refused").to_string();
        let expected = if claim { "expected a sha256 of 1_WordWeights" } else { "revision" };
        assert!(said.contains(expected), "{said}");
    }
    // A changed file.
    let path = own.join(TOKEN_WEIGHTS_FILE);
    let mut bytes = std::fs::read(&path).expect("it reads");
    *bytes.last_mut().expect("not empty") ^= 1;
    std::fs::write(&path, bytes).expect("it is written");
    let said = ModelDir::open(&own).err().expect("it is refused").to_string();
    assert!(said.contains("sha256"), "{said}");
}

#[test]
fn a_packed_block_with_other_token_weights_than_it_needs_is_refused() {
    let temp = TempDir::new("token-weights-packed");
    let own = directory(&temp, "own");
    write(&own, Pooling::Mean, Some(counts()));
    let block = packed(&own);
    let aligned = Aligned::new(&block);
    let whole = Packed::open(aligned.bytes()).expect("it opens");
    let with = |weights: Option<Vec<u8>>| {
        let mut writer = PackedWriter::new();
        let sections: [Tag; 3] = [MANIFEST, VOCABULARY, WEIGHTS];
        for tag in sections {
            writer.section(tag, whole.section(tag).expect("it is there").to_vec());
        }
        if let Some(weights) = weights {
            writer.section(TOKEN_WEIGHTS, weights);
        }
        let block = Aligned::new(&writer.finish());
        SentenceEncoder::from_packed(block.bytes()).err().map(|error| error.to_string())
    };
    let good = whole.section(TOKEN_WEIGHTS).expect("it is there").to_vec();
    assert_eq!(with(Some(good.clone())), None);
    let mut zero = good.clone();
    zero[28..32].fill(0);
    for (weights, says) in [
        (None, "none tagged TWGT"),
        (Some(good[4..].to_vec()), "values"),
        (Some(good[1..].to_vec()), "bytes"),
        (Some(zero), "for id 7"),
    ] {
        let said = with(weights).expect("it is refused");
        assert!(said.contains(says), "{said}, not {says}");
    }
}
