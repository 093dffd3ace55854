//! What the encoder promises, on random small models and, where it was imported, on the real one.

use super::*;
use crate::model::{Config, ModelDir, ModelError, Pooling, Precision, Tensors};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Bytes at a multiple of 64, as an included or mapped model is.
pub(super) struct Aligned(Vec<Line>);

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl Aligned {
    pub(super) fn new(bytes: &[u8]) -> Aligned {
        let lines = bytes.chunks(64).map(|chunk| {
            let mut line = Line([0; 64]);
            line.0[..chunk.len()].copy_from_slice(chunk);
            line
        });
        Aligned(lines.collect())
    }

    pub(super) fn bytes(&self, len: usize) -> &[u8] {
        &bytemuck::cast_slice(&self.0)[..len]
    }
}

/// Tensors made up from a seed, of the sizes that trained ones have.
struct Random {
    tensors: HashMap<String, Vec<f32>>,
}

impl Random {
    fn new(config: &Config, seed: u64) -> Random {
        let mut rng = StdRng::seed_from_u64(seed);
        let tensors = config.tensors().into_iter().map(|(name, shape)| {
            let len: usize = shape.iter().product();
            let (center, spread) = match name.as_str() {
                n if n.contains("orm.weight") || n.contains("layer_norm.weight") => (1.0, 0.2),
                n if n.ends_with("bias") => (0.0, 0.1),
                n if n.starts_with("embeddings") => (0.0, 1.0),
                // Attention sharp enough that a wrong score shows.
                _ => (0.0, 3.0 / (*shape.last().expect("a shape") as f32).sqrt()),
            };
            let values = (0..len).map(|_| center + spread * rng.random_range(-1f32..1.0)).collect();
            (name, values)
        });
        Random { tensors: tensors.collect() }
    }
}

impl Tensors for Random {
    fn tensor(&self, name: &str, _shape: &[usize]) -> Result<Cow<'_, [f32]>, ModelError> {
        self.tensors
            .get(name)
            .map(|t| Cow::Borrowed(t.as_slice()))
            .ok_or_else(|| ModelError::MissingTensor(name.to_owned()))
    }
}

fn small() -> Config {
    Config {
        layers: 2,
        hidden: 64,
        heads: 2,
        intermediate: 128,
        vocab_size: 100,
        max_positions: 512,
        layer_norm_eps: 1e-12,
    }
}

fn pack(config: &Config, seed: u64) -> (Aligned, usize) {
    pack_as(config, seed, Precision::Bf16)
}

fn pack_as(config: &Config, seed: u64, precision: Precision) -> (Aligned, usize) {
    let packed = pack_weights(config, &Random::new(config, seed), precision)
        .expect("random tensors are complete");
    (Aligned::new(&packed), packed.len())
}

fn kernels() -> impl Iterator<Item = Kernel> {
    Kernel::ALL.into_iter().filter(|k| k.is_available())
}

fn random_text(rng: &mut StdRng, longest: usize) -> Vec<u32> {
    (0..rng.random_range(1..=longest)).map(|_| rng.random_range(0..100)).collect()
}

fn batch(texts: &[Vec<u32>]) -> TokenBatch {
    let mut batch = TokenBatch::new();
    texts.iter().for_each(|t| batch.push(t));
    batch
}

pub(super) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// The imported all-MiniLM-L6-v2, if it is there.
pub(super) fn real_model() -> Option<ModelDir> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/models/all-minilm-l6-v2");
    match ModelDir::open(directory) {
        Ok(model) => Some(model),
        Err(error) => {
            eprintln!("skipped: no imported model ({error}); `make model` brings it");
            None
        }
    }
}

/// The parity fixtures' ids and f32 vectors, if they are there.
pub(super) fn fixtures() -> Option<(TokenBatch, Vec<Vec<f32>>)> {
    let path =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data/fixtures/minilm-l6-parity.json");
    let Ok(json) = std::fs::read(path) else {
        eprintln!("skipped: {path} is not there");
        return None;
    };
    let json: serde_json::Value = serde_json::from_slice(&json).expect("valid fixtures");
    let (mut texts, mut expected) = (TokenBatch::new(), Vec::new());
    for fixture in json["fixtures"].as_array().expect("a list") {
        let ids: Vec<u32> = serde_json::from_value(fixture["input_ids"].clone()).expect("ids");
        texts.push(&ids);
        let vector: Vec<f32> =
            serde_json::from_value(fixture["embedding"].clone()).expect("a vector");
        expected.push(vector);
    }
    Some((texts, expected))
}

/// `count` sentences from all over the STS pairs, if they are there.
#[cfg(feature = "candle")]
pub(super) fn sts_sentences(count: usize) -> Option<Vec<String>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data/sts/sts.tsv.gz");
    let Ok(file) = std::fs::File::open(path) else {
        eprintln!("skipped: {path} is not there");
        return None;
    };
    let text = std::io::read_to_string(flate2::read::GzDecoder::new(file)).expect("readable");
    let rows: Vec<&str> = text.lines().skip(1).collect();
    let sentence = |row: &&str| row.split('\t').nth(4).map(str::to_owned);
    Some(rows.iter().step_by(rows.len() / count).filter_map(sentence).collect())
}

#[test]
fn fixtures_keep_their_vectors_on_every_kernel() {
    let Some(model) = real_model() else { return };
    let Some((texts, expected)) = fixtures() else { return };
    for (precision, bound) in [(Precision::Bf16, 0.9995), (Precision::Int8, 0.995)] {
        let packed = pack_weights(&model.manifest().encoder, &model, precision);
        let packed = packed.expect("the model packs");
        eprintln!("{precision:?}: {} bytes", packed.len());
        let block = Aligned::new(&packed);
        let weights = Weights::from_bytes(block.bytes(packed.len())).expect("it opens");
        let encoder = Encoder::new(weights, Pooling::Mean, Normalization::L2);
        for kernel in kernels() {
            keep_vectors(encoder.with_kernel(kernel).expect("available"), &texts, &expected, bound);
        }
    }
}

fn keep_vectors(encoder: Encoder<'_>, texts: &TokenBatch, expected: &[Vec<f32>], bound: f64) {
    {
        let kernel = encoder.kernel();
        let vectors = encoder.encode(texts, &mut Context::new(1)).expect("fixtures are in range");
        let cosines: Vec<f64> =
            vectors.chunks(384).zip(expected).map(|(a, b)| cosine(a, b)).collect();
        let least = cosines.iter().copied().fold(1.0, f64::min);
        let mean = cosines.iter().sum::<f64>() / cosines.len() as f64;
        eprintln!("{}: cosine mean {mean:.7} least {least:.7}", kernel.name());
        assert!(least >= bound, "{}: {least}", kernel.name());
    }
}

#[test]
fn vectors_are_the_same_bits_in_any_company() {
    for precision in [Precision::Bf16, Precision::Int8] {
        vectors_are_the_same_bits_in_any_company_in(precision);
    }
}

fn vectors_are_the_same_bits_in_any_company_in(precision: Precision) {
    let config = small();
    let (block, len) = pack_as(&config, 1, precision);
    let weights = Weights::from_bytes(block.bytes(len)).expect("it opens");
    let counts: Vec<f32> = (0..100u8).map(|id| f32::from(id % 9 + 1) / 9.0).collect();
    for kernel in kernels() {
        let encoder = Encoder::new(weights, Pooling::MeanFirstLast, Normalization::L2);
        let encoder = encoder.with_token_weights(&counts);
        let encoder = encoder.with_kernel(kernel).expect("available");
        let mut rng = StdRng::seed_from_u64(2);
        let longest = if kernel == Kernel::Portable { 40 } else { 200 };
        let texts: Vec<Vec<u32>> = (0..60).map(|_| random_text(&mut rng, longest)).collect();
        let alone: Vec<Vec<f32>> = texts
            .iter()
            .map(|t| encoder.encode(&batch(std::slice::from_ref(t)), &mut Context::new(1)))
            .collect::<Result<_, _>>()
            .expect("texts are in range");
        let mut contexts = [1, 2, 3].map(Context::new);
        for round in 0..if kernel == Kernel::Portable { 20 } else { 300 } {
            let picks: Vec<usize> =
                (0..rng.random_range(1..20)).map(|_| rng.random_range(0..texts.len())).collect();
            let picked: Vec<Vec<u32>> = picks.iter().map(|&i| texts[i].clone()).collect();
            let cx = &mut contexts[round % 3];
            let vectors = encoder.encode(&batch(&picked), cx).expect("texts are in range");
            for (vector, &pick) in vectors.chunks(config.hidden).zip(&picks) {
                assert_eq!(vector, alone[pick], "{}, text {pick} of {picks:?}", kernel.name());
            }
        }
    }
}

#[test]
fn a_weighted_mean_counts_each_token_by_its_weight() {
    let config = small();
    let (block, len) = pack(&config, 8);
    let weights = Weights::from_bytes(block.bytes(len)).expect("it opens");
    // The vector of two tokens, not normalized, with these weights.
    let pair = |pooling, counted: Option<(f32, f32)>| {
        let mut counts = vec![1.0; 100];
        let mut encoder = Encoder::new(weights, pooling, Normalization::None);
        if let Some((first, second)) = counted {
            (counts[3], counts[70]) = (first, second);
            encoder = encoder.with_token_weights(&counts);
        }
        encoder.encode(&batch(&[vec![3, 70]]), &mut Context::new(1)).expect("in range")
    };
    for pooling in [Pooling::Mean, Pooling::MeanFirstLast, Pooling::MeanLast2, Pooling::MeanLast4] {
        let even = pair(pooling, None);
        assert_eq!(pair(pooling, Some((1.0, 1.0))), even, "{pooling:?}");
        // From (a + b) / 2 and (a + 3 b) / 4 follow both, and so any other mean.
        let uneven = pair(pooling, Some((1.0, 3.0)));
        let other = pair(pooling, Some((5.0, 2.0)));
        for ((even, uneven), got) in even.iter().zip(uneven).zip(other) {
            let b = 2.0 * uneven - even;
            let a = 2.0 * even - b;
            let expected = (5.0 * a + 2.0 * b) / 7.0;
            assert!((got - expected).abs() < 1e-4, "{pooling:?}: {got}, not {expected}");
        }
    }
}

#[test]
fn kernels_agree_on_odd_sizes() {
    // No size is a multiple of a tile: heads of 13, an inner layer of 70.
    let config = Config { hidden: 39, heads: 3, intermediate: 70, layers: 3, ..small() };
    for precision in [Precision::Bf16, Precision::Int8] {
        kernels_agree(&config, precision);
    }
}

fn kernels_agree(config: &Config, precision: Precision) {
    let (block, len) = pack_as(config, 3, precision);
    let weights = Weights::from_bytes(block.bytes(len)).expect("it opens");
    let mut rng = StdRng::seed_from_u64(4);
    let mut texts: Vec<Vec<u32>> = [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 511, 512]
        .map(|len| (0..len).map(|_| rng.random_range(0..100)).collect())
        .to_vec();
    texts.extend((0..20).map(|_| random_text(&mut rng, 100)));
    let texts = batch(&texts);
    for pooling in [
        Pooling::Cls,
        Pooling::Mean,
        Pooling::MeanFirstLast,
        Pooling::MeanLast2,
        Pooling::MeanLast4,
    ] {
        let encoder = Encoder::new(weights, pooling, Normalization::L2);
        let run = |kernel| {
            let encoder = encoder.with_kernel(kernel).expect("available");
            encoder.encode(&texts, &mut Context::new(1)).expect("texts are in range")
        };
        let expected = run(Kernel::Portable);
        for kernel in kernels() {
            // bf16 activations on these weights, which are made to be sharper than trained ones.
            let least = if kernel == Kernel::AmxBf16 { 0.999 } else { 0.999_999 };
            for (i, (a, b)) in run(kernel).chunks(39).zip(expected.chunks(39)).enumerate() {
                let cosine = cosine(a, b);
                assert!(cosine >= least, "{} {pooling:?} {i}: {cosine}", kernel.name());
            }
        }
    }
}

#[test]
fn texts_out_of_range_are_errors() {
    let (block, len) = pack(&small(), 5);
    let weights = Weights::from_bytes(block.bytes(len)).expect("it opens");
    let encoder = Encoder::new(weights, Pooling::Mean, Normalization::L2);
    let cx = &mut Context::new(2);
    let encode = |texts: &[Vec<u32>], cx: &mut Context| encoder.encode(&batch(texts), cx);
    assert_eq!(encode(&[], cx), Ok(vec![]));
    assert_eq!(encode(&[vec![1], vec![]], cx), Err(EncodeError::Empty { text: 1 }));
    let long = vec![1; 513];
    assert_eq!(encode(&[long], cx), Err(EncodeError::TooLong { text: 0, most: 512, got: 513 }));
    let unknown = EncodeError::UnknownToken { text: 0, id: 100, rows: 100 };
    assert_eq!(encode(&[vec![99, 100]], cx), Err(unknown));
}

#[test]
fn damaged_weights_are_errors() {
    let (block, len) = pack(&small(), 6);
    let good = block.bytes(len).to_vec();
    for at in 0..40 {
        let mut bytes = good.clone();
        bytes[at] ^= 0x55;
        let block = Aligned::new(&bytes);
        // Bytes 36 to 39 are the layer norm's epsilon, of which other values are as good.
        let opened = Weights::from_bytes(block.bytes(len));
        assert!(opened.is_err() || at >= 36, "byte {at}");
    }
    for cut in [0, 1, 63, 64, len - 1] {
        assert!(Weights::from_bytes(&block.bytes(len)[..cut]).is_err(), "cut at {cut}");
    }
    let longer = Aligned::new(&[good.as_slice(), &[0]].concat());
    assert!(Weights::from_bytes(longer.bytes(len + 1)).is_err());
    let shifted = Aligned::new(&[&[0][..], &good].concat());
    assert!(Weights::from_bytes(&shifted.bytes(len + 1)[1..]).is_err());
}

#[test]
fn cancel_stops_all_threads_soon() {
    let config = Config { layers: 6, hidden: 384, heads: 12, intermediate: 1536, ..small() };
    let (block, len) = pack(&config, 7);
    let weights = Weights::from_bytes(block.bytes(len)).expect("it opens");
    let encoder = Encoder::new(weights, Pooling::Mean, Normalization::L2);
    let texts = batch(&vec![vec![7; 256]; 4000]);
    for threads in [1, 2] {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let cancel = Arc::new(AtomicBool::new(false));
        let flag = cancel.clone();
        let caller = std::thread::current().id();
        let mut cx = Context::new(threads).with_cancel(move || {
            assert_eq!(std::thread::current().id(), caller, "asked on the caller's thread only");
            count.fetch_add(1, Ordering::Relaxed);
            flag.load(Ordering::Relaxed)
        });
        let setter = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            cancel.store(true, Ordering::Relaxed);
            Instant::now()
        });
        assert_eq!(encoder.encode(&texts, &mut cx), Err(EncodeError::Canceled));
        let ended = Instant::now();
        let set = setter.join().expect("the setter ends");
        eprintln!(
            "{threads} threads: ended {:?} after the cancel, asked {} times",
            ended.duration_since(set),
            asked.load(Ordering::Relaxed)
        );
        assert!(asked.load(Ordering::Relaxed) > 1);
    }
}

#[test]
fn the_caller_hears_what_of_a_call_is_done() {
    let config = small();
    let (block, len) = pack(&config, 7);
    let weights = Weights::from_bytes(block.bytes(len)).expect("it opens");
    let encoder = Encoder::new(weights, Pooling::Mean, Normalization::L2);
    let texts = batch(&vec![vec![7; 20]; 4000]);
    for threads in [1, 2] {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (ear, caller) = (heard.clone(), std::thread::current().id());
        let mut cx = Context::new(threads).with_progress(move |done| {
            assert_eq!(std::thread::current().id(), caller, "heard on the caller's thread only");
            ear.lock().expect("no panic").push(done);
        });
        encoder.encode(&texts, &mut cx).expect("it encodes");
        let heard = heard.lock().expect("no panic");
        assert!(heard.is_sorted_by_key(|done| done.texts), "{threads} threads");
        assert!(heard.iter().all(|done| done.tokens == 20 * done.texts), "{threads} threads");
        let partly = heard.iter().filter(|done| (1..4000).contains(&done.texts)).count();
        assert!(partly > 10, "{threads} threads: {heard:?}");
    }
}

#[test]
fn sentences_embed_and_blank_ones_do_not() {
    let Some(model) = real_model() else { return };
    let packed = pack_model(&model).expect("the model packs");
    let block = Aligned::new(&packed);
    let encoder = SentenceEncoder::from_packed(block.bytes(packed.len())).expect("it opens");
    let long = "word ".repeat(1000);
    let texts = ["A man is eating food.", " \t\n", "A man eats something.", "", &long, "The sea."];
    let all = encoder.embed(&texts, InputKind::Passage, &mut Context::new(2)).expect("no cancel");
    assert_eq!((all.len(), all.truncated), (6, 1));
    assert!(all.vector(1).is_none() && all.vector(3).is_none());
    let vector = |i: usize| all.vector(i).expect("not blank");
    assert!(cosine(vector(0), vector(2)) > 0.7 && cosine(vector(0), vector(5)) < 0.4);
    for (text, vector) in texts.iter().zip(all.vectors()) {
        let alone = encoder.embed(&[text], InputKind::Query, &mut Context::new(1));
        assert_eq!(alone.expect("no cancel").vector(0), vector, "{text:.20}");
    }
}
