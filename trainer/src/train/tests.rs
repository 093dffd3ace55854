use std::borrow::Cow;
use std::path::{Path, PathBuf};

use candle_core::Device;
use distilface_core::model::{
    Config, ModelDir, ModelError, NewModel, Pooling, Precision, Prompts, Tensors, WeightsType,
    write_directory,
};
use distilface_core::text::{Tokenizer, TokenizerSpec};
use distilface_core::training::{Products, mix};
use distilface_tests::TinyModel;

use super::config::{
    Head, Keep, Kind, Loss, Mix, Preset, Projection, RunConfig, SourceConfig, TrainDevice,
    TrainPrecision,
};
use super::dev::Dev;
use super::engine::Engine;
use super::run::{CHECKPOINT, METRICS, RECIPE, Run, tokenize};
use super::{backend, output, sif};
use crate::embedder::dot;
use crate::net::Network;

/// Weights that look random, layer norms near 1.
struct Random;

impl Tensors for Random {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Cow<'_, [f32]>, ModelError> {
        let key = name.bytes().fold(7, |key, byte| mix(key ^ u64::from(byte)));
        let scale = if name.contains("orm.weight") { 1.0 } else { 0.0 };
        let unit = |at: u64| (mix(key ^ mix(at)) >> 40) as f32 / (1 << 23) as f32 - 1.0;
        let count = shape.iter().product::<usize>() as u64;
        Ok(Cow::Owned((0..count).map(|at| scale + 0.2 * unit(at)).collect()))
    }
}

struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let path = std::env::temp_dir().join(format!("distilface-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary directory");
        Place(path)
    }

    /// A model of two layers and a file of sentences, with a recipe on them.
    fn recipe(&self) -> RunConfig {
        let words: Vec<String> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
            .into_iter()
            .map(str::to_owned)
            .chain((0..60).map(|at| format!("w{at}")))
            .collect();
        let tokenizer = TokenizerSpec::from_vocab_txt(&words.join("\n"), true).expect("words");
        let config = Config {
            layers: 2,
            hidden: 16,
            heads: 2,
            intermediate: 32,
            vocab_size: words.len(),
            max_positions: 16,
            layer_norm_eps: 1e-12,
        };
        let model = NewModel {
            name: "base".to_owned(),
            config,
            matryoshka_dims: Vec::new(),
            head: None,
            max_tokens: 16,
            pooling: Pooling::MeanLast2,
            token_weights: None,
            normalize: true,
            prompts: Prompts::default(),
            precision: Precision::Bf16,
            source: None,
            tokenizer,
            weights: WeightsType::F32,
        };
        let base = self.0.join("base");
        if !base.exists() {
            write_directory(&base, &model, &Random).expect("a new directory");
        }
        let sentence = |at: u64| {
            let word = |k: u64| format!("w{}", mix(at ^ k << 32) % 60);
            (0..2 + at % 6).map(word).collect::<Vec<_>>().join(" ")
        };
        let texts: Vec<String> = (0..64).map(sentence).collect();
        let path = self.0.join("texts.txt");
        std::fs::write(&path, texts.join("\n")).expect("it is written");
        let source = SourceConfig { batch: 8, ..SourceConfig::new(path, Kind::Sentences) };
        let taught = SourceConfig {
            loss: Loss::Similarity,
            teachers: vec![base.clone()],
            weight: 0.5,
            ..source.clone()
        };
        RunConfig {
            base,
            steps: 12,
            rate: 1e-3,
            max_tokens: 16,
            ema: 0.9,
            pass_tokens: 20,
            checkpoint_every: 5,
            dims: vec![8],
            sources: vec![source, taught],
            ..RunConfig::default()
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A leftover in the temporary directory is no failure.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn train(config: &RunConfig, directory: PathBuf) -> Vec<f32> {
    train_at(backend::Place::Kernels, config, directory)
}

fn train_at(place: backend::Place, config: &RunConfig, directory: PathBuf) -> Vec<f32> {
    let run = Run::open_at(place, config, &directory).expect("the recipe is sound");
    run.run().expect("it trains").network.weights
}

/// Every step's loss, as the metrics have it.
fn losses(directory: &Path) -> Vec<f64> {
    let metrics = std::fs::read_to_string(directory.join(METRICS)).expect("it is there");
    let loss = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok()?["loss"].as_f64();
    metrics.lines().filter_map(loss).collect()
}

/// A kill loses what came after the last checkpoint. Whichever step it comes at, the run that goes
/// on must end with the same bits.
#[test]
fn a_run_killed_at_any_step_ends_with_the_same_bits() {
    killed_at_any_step("kill", || backend::Place::Kernels);
}

/// Weights, moments and the average lie on the device, heads and projections beside it.
#[test]
fn a_run_on_a_device_killed_at_any_step_ends_with_the_same_bits() {
    killed_at_any_step("kill-device", candle);
}

/// candle's CPU, which is to candle what a GPU is.
fn candle() -> backend::Place {
    backend::Place::Device(Device::Cpu)
}

fn killed_at_any_step(name: &str, at: fn() -> backend::Place) {
    let place = Place::new(name);
    let config = RunConfig { head: Head::Mlp, ..place.recipe() };
    let whole = train_at(at(), &config, place.0.join("whole"));
    for last in 1..12 {
        let directory = place.0.join(format!("killed-{last}"));
        let mut run = Run::open_at(at(), &config, &directory).expect("the recipe is sound");
        run.take_steps(last).expect("it trains");
        drop(run);
        let resumed = Run::open_at(at(), &config, &directory).expect("the checkpoint is whole");
        assert_eq!(resumed.steps_done(), last / 5 * 5);
        let resumed = resumed.run().expect("it trains");
        assert!(resumed.network.weights == whole, "killed after step {last}");
        let metrics = std::fs::read_to_string(directory.join(METRICS)).expect("it is there");
        assert_eq!(metrics.lines().count(), 12, "each step once");
    }
    // A finished run has nothing left to do, and says the same.
    assert!(train_at(at(), &config, place.0.join("whole")) == whole);
}

/// How far two results are from each other, as a share of how far training moved the first.
fn apart(first: &[f32], second: &[f32], start: &[f32]) -> f64 {
    let square = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum()
    };
    (square(first, second) / square(first, start)).sqrt()
}

/// Every part of a step: two sources, one with a teacher, accumulation, clipping, decay, warm-up,
/// a moving average, a head, shorter prefixes.
#[test]
fn a_device_trains_as_the_kernels_do() {
    let place = Place::new("device");
    let mut config = RunConfig {
        precision: TrainPrecision::F32,
        head: Head::Mlp,
        accumulate: 2,
        weight_decay: 0.1,
        ..place.recipe()
    };
    let start = ModelDir::open(&config.base).expect("it opens");
    let start = Network::new(&start, None, Products::F32).expect("all tensors").weights;
    let mut compare = |what: &str, change: fn(&mut RunConfig)| {
        change(&mut config);
        let (ours, theirs) = (place.0.join(format!("{what}-cpu")), place.0.join(what));
        let expected = train(&config, ours.clone());
        let got = train_at(candle(), &config, theirs.clone());
        let (ours, theirs) = (losses(&ours), losses(&theirs));
        assert_eq!(ours.len(), 12);
        for (step, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            assert!((ours - theirs).abs() < 1e-4 * ours.abs(), "{what}, {step}: {ours} {theirs}");
        }
        let apart = apart(&expected, &got, &start);
        assert!(apart < 1e-2, "{what}: {apart} apart");
    };
    compare("kept", |_| ());
    compare("cached", |config| config.cache_above = 40);
    compare("drawn", |config| config.mix = Mix::Draw);
    compare("unbounded", |config| (config.clip, config.ema) = (0.0, 0.0));
    compare("regression", |config| {
        // Two teachers are wider than the student: its vectors are mapped by a learned matrix.
        let source = &mut config.sources[1];
        source.loss = Loss::Regression;
        source.teachers.push(source.teachers[0].clone());
    });
    compare("pca", |config| config.sources[1].projection = Projection::Pca);
    compare("ranking", |config| {
        let source = &mut config.sources[1];
        (source.loss, source.projection) = (Loss::Ranking, Projection::Learned);
    });
}

#[test]
fn factors_of_bfloat16_lead_a_device_where_they_lead_the_kernels() {
    let place = Place::new("device-bf16");
    let config = place.recipe();
    let start = ModelDir::open(&config.base).expect("it opens");
    let start = Network::new(&start, None, Products::F32).expect("all tensors").weights;
    let exact = RunConfig { precision: TrainPrecision::F32, ..config.clone() };
    let exact = train_at(candle(), &exact, place.0.join("f32"));
    let (rounded, directory) = (place.0.join("cpu"), place.0.join("bf16"));
    train(&config, rounded.clone());
    let got = train_at(candle(), &config, directory.clone());
    for (ours, theirs) in losses(&rounded).iter().zip(losses(&directory)) {
        assert!((ours - theirs).abs() < 0.02 * ours.abs(), "{ours} {theirs}");
    }
    let apart = apart(&exact, &got, &start);
    assert!(apart > 0.0 && apart < 0.3, "{apart} apart from f32");
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_device_that_this_build_lacks_is_an_error_that_says_what_to_do() {
    let place = Place::new("no-device");
    let config = RunConfig { device: TrainDevice::Cuda, ..place.recipe() };
    let written = config.to_toml().expect("values that TOML can hold");
    assert!(
        written.contains("device = \"cuda\"") && toml::from_str(&written) == Ok(config.clone())
    );
    let refused = Run::open(&config, &place.0.join("run")).err().expect("there is no device");
    let said = refused.to_string();
    assert!(said.contains("got a build without the cargo feature cuda"), "{said}");
    assert!(said.contains("--features cuda") && said.contains("--device cpu"), "{said}");
}

#[test]
fn a_run_does_not_go_on_under_another_recipe_or_a_damaged_checkpoint() {
    let place = Place::new("recipe");
    let config = place.recipe();
    let directory = place.0.join("run");
    train(&config, directory.clone());
    let other = RunConfig { seed: 2, ..config.clone() };
    assert!(Run::open(&other, &directory).is_err());
    let path = directory.join(CHECKPOINT);
    let mut bytes = std::fs::read(&path).expect("it is there");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).expect("it is written");
    assert!(Run::open(&config, &directory).is_err());
}

#[test]
fn a_checkpoint_without_its_recipe_and_values_out_of_range_are_refused() {
    let place = Place::new("values");
    let config = place.recipe();
    let directory = place.0.join("run");
    train(&config, directory.clone());
    std::fs::remove_file(directory.join(RECIPE)).expect("it was written");
    let refused = Run::open(&config, &directory).err().expect("whose is the checkpoint?");
    assert!(refused.to_string().contains("the recipe of the checkpoint"), "{refused}");

    type Change = fn(&mut RunConfig);
    let refused = |change: Change| {
        let mut config = config.clone();
        change(&mut config);
        Run::open(&config, &place.0.join("new")).err().expect("it is refused").to_string()
    };
    let wrong: [(&str, Change); 6] = [
        ("max_tokens: expected 3", |config| config.sources[1].max_tokens = Some(2)),
        ("max_tokens: expected no more", |config| config.sources[1].max_tokens = Some(17)),
        ("clip: expected 0", |config| config.clip = f32::NAN),
        ("weight_decay: expected 0", |config| config.weight_decay = -0.1),
        ("rate: expected more", |config| config.rate = f32::INFINITY),
        ("dims: expected none", |config| {
            config.sources.remove(0);
            config.sources[0].loss = Loss::Regression;
        }),
    ];
    for (start, change) in wrong {
        let said = refused(change);
        assert!(said.starts_with(start), "{start}: {said}");
    }
}

#[test]
fn presets_are_the_papers_settings() {
    let sentences = PathBuf::from("sentences.txt");
    let paper = Preset::Distilface.config(sentences.clone(), None);
    paper.check().expect("it can be trained with");
    let source = &paper.sources[0];
    assert_eq!((source.batch, source.tau, source.kind), (128, 0.05, Kind::Sentences));
    assert_eq!((paper.rate, paper.steps, paper.max_tokens), (1e-5, 20_000, 32));
    assert_eq!((paper.dropout, paper.attention_dropout, paper.head), (0.1, 0.1, Head::None));
    assert_eq!(paper.pooling, Some(Pooling::MeanLast4));

    let simcse = Preset::Simcse.config(sentences, None);
    let refused = simcse.check().expect_err("what is the best without a dev file?").to_string();
    assert!(refused.contains("an STS file"), "{refused}");
    RunConfig { dev: Some("sts.tsv".into()), ..simcse.clone() }.check().expect("now it is known");
    let source = &simcse.sources[0];
    assert_eq!((source.batch, source.tau, source.kind), (64, 0.05, Kind::Sentences));
    assert_eq!((simcse.rate, simcse.max_tokens, simcse.head), (3e-5, 32, Head::Mlp));
    assert_eq!(simcse.pooling, Some(Pooling::Cls));
    assert_eq!((simcse.dev_every, simcse.keep), (125, Keep::Best));
}

/// The result is what the dev pairs liked best, on either backend and after a kill too.
#[test]
fn the_best_scored_weights_are_kept_and_outlive_a_kill() {
    let place = Place::new("best");
    let like = place.recipe();
    let base = ModelDir::open(&like.base).expect("it opens");
    let vocabulary = base.vocab_blob().expect("it compiles");
    let tokenizer = Tokenizer::view(&vocabulary).expect("it is whole");
    let dev = place.0.join("sts.tsv");
    let text = |at: u64| format!("w{} w{}", mix(at) % 60, mix(at ^ 1 << 40) % 60);
    let texts: Vec<String> = (0..80).map(text).collect();
    let preset = Preset::Simcse.config(like.sources[0].path.clone(), None);
    let config = RunConfig {
        base: like.base.clone(),
        dev: Some(dev.clone()),
        rate: 0.03,
        steps: 12,
        dev_every: 2,
        max_tokens: 16,
        checkpoint_every: 5,
        ..preset
    };
    // What the base itself says of the pairs: every step leads away from it.
    let start = Network::new(&base, config.pooling, Products::F32).expect("all tensors");
    let engine = Engine::new(1, 512, 0);
    let vectors = engine.vectors(&start, &tokenize(&tokenizer, &texts, 16));
    let pairs = texts.chunks_exact(2).zip(vectors.chunks_exact(2 * start.hidden()));
    let pairs = pairs.map(|(pair, vectors)| {
        let (a, b) = vectors.split_at(start.hidden());
        let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
        format!("STSB\tx\tdev\t{cosine}\t{}\t{}", pair[0], pair[1])
    });
    std::fs::write(&dev, pairs.collect::<Vec<_>>().join("\n")).expect("it is written");
    let dev = Dev::read(&dev).expect("40 pairs");
    for (name, at) in [("cpu", (|| backend::Place::Kernels) as fn() -> _), ("device", candle)] {
        let directory = place.0.join(name);
        let run = Run::open_at(at(), &config, &directory).expect("the recipe is sound");
        let network = run.run().expect("it trains").network;
        let metrics = std::fs::read_to_string(directory.join(METRICS)).expect("it is there");
        let score =
            |line: &str| serde_json::from_str::<serde_json::Value>(line).ok()?["dev"].as_f64();
        let scores: Vec<f64> = metrics.lines().filter_map(score).collect();
        assert_eq!(scores.len(), 6, "every second step");
        let best = scores.iter().copied().fold(f64::MIN, f64::max);
        assert!(scores[5] < best, "{name}: the last is not the best: {scores:?}");
        let judge = backend::Backend::new(at(), &config, &network).expect("a network");
        let again = dev.score(&judge, network.clone(), &tokenizer).expect("a score");
        assert!((again - best).abs() < 1e-9, "{name}: {again} of {scores:?}");

        let killed = place.0.join(format!("{name}-killed"));
        let mut run = Run::open_at(at(), &config, &killed).expect("the recipe is sound");
        run.take_steps(11).expect("it trains");
        drop(run);
        let weights = train_at(at(), &config, killed);
        assert!(weights == network.weights, "{name}: another result after a kill");
    }
}

/// Gradient caching and the number of texts in a pass change how much is kept, not what is learned.
#[test]
fn gradient_caching_gives_the_same_bits() {
    let place = Place::new("cache");
    let config = place.recipe();
    let kept = train(&config, place.0.join("kept"));
    let cached = RunConfig { cache_above: 0, ..config };
    assert!(train(&cached, place.0.join("cached")) == kept);
}

#[test]
fn contrast_brings_the_loss_down() {
    let place = Place::new("loss");
    let mut config = RunConfig { steps: 60, ema: 0.0, mix: Mix::Draw, ..place.recipe() };
    config.sources.truncate(1);
    let directory = place.0.join("run");
    train(&config, directory.clone());
    let losses = losses(&directory);
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert!(mean(&losses[50..]) < 0.8 * mean(&losses[..10]), "{losses:?}");
}

#[test]
fn a_loss_that_is_no_number_stops_the_run() {
    let place = Place::new("nan");
    let config = RunConfig { rate: 1e30, clip: 0.0, warmup: 0.0, ..place.recipe() };
    let directory = place.0.join("run");
    let run = Run::open(&config, &directory).expect("the recipe is sound");
    let error = run.run().err().expect("it diverges");
    assert!(matches!(error, crate::error::Error::Diverged { .. }), "{error}");
}

#[test]
fn a_wider_teacher_is_reduced_by_principal_directions_and_nothing_is_learned_beside() {
    let place = Place::new("pca");
    let mut config =
        RunConfig { steps: 40, rate: 5e-3, ema: 0.0, dims: Vec::new(), ..place.recipe() };
    // Two teachers count as one of twice the student's width.
    let base = config.base.clone();
    config.sources = vec![SourceConfig {
        loss: Loss::Regression,
        projection: Projection::Pca,
        teachers: vec![base.clone(), base],
        ..config.sources[0].clone()
    }];
    let directory = place.0.join("run");
    let run = Run::open(&config, &directory).expect("the recipe is sound");
    assert_eq!(run.extra_weights(), 0);
    let weights = run.run().expect("it trains").network.weights;
    let losses = losses(&directory);
    assert!(losses[39] < 0.8 * losses[0], "{losses:?}");
    let again = place.0.join("again");
    let mut run = Run::open(&config, &again).expect("the recipe is sound");
    run.take_steps(7).expect("it trains");
    drop(run);
    assert!(train(&config, again) == weights, "the directions are found again after a kill");

    config.sources[0].teachers.truncate(1);
    Run::open(&config, &place.0.join("equal")).expect("equal widths need no projection");
    config.sources[0].loss = Loss::Similarity;
    assert!(config.check().is_err(), "nothing to project in a loss of similarities");
}

#[test]
fn a_narrower_student_starts_from_its_base_and_is_distilled_from_it() {
    let place = Place::new("narrow");
    let full = place.recipe();
    let mut config = RunConfig {
        width: Some(8),
        layers: vec![1],
        steps: 30,
        rate: 5e-3,
        ema: 0.0,
        dims: Vec::new(),
        ..full
    };
    config.sources.remove(0);
    let directory = place.0.join("run");
    let run = Run::open(&config, &directory).expect("the recipe is sound");
    let network = run.run().expect("it trains").network;
    let sizes = &network.config;
    assert_eq!((sizes.hidden, sizes.heads, sizes.intermediate, sizes.layers), (8, 1, 16, 1));
    let losses = losses(&directory);
    assert!(losses[25..].iter().sum::<f64>() < 0.8 * losses[..5].iter().sum::<f64>(), "{losses:?}");

    let again = place.0.join("again");
    let mut run = Run::open(&config, &again).expect("the recipe is sound");
    run.take_steps(7).expect("it trains");
    drop(run);
    assert!(train(&config, again) == network.weights, "it goes on after a kill");

    let base = ModelDir::open(&config.base).expect("it opens");
    let out = place.0.join("narrow");
    output::write(&out, None, &base, &network, &output::Form::default()).expect("it is written");
    assert_eq!(ModelDir::open(&out).expect("it opens").manifest().dimensions, 8);

    for width in [0, 4, 12, 16, 24] {
        config.width = Some(width);
        let refused = Run::open(&config, &place.0.join("refused")).err().expect("it is refused");
        assert!(refused.to_string().starts_with("width: expected whole heads"), "{refused}");
    }
}

/// Weights of tokens are counted in a file, written, read back, trained with and handed on.
#[test]
fn tokens_weigh_by_their_frequency_from_the_count_to_the_result() {
    let place = Place::new("sif");
    let mut config = place.recipe();
    let base = ModelDir::open(&config.base).expect("it opens");
    let network = Network::new(&base, None, Products::F32).expect("all tensors");
    let texts = place.0.join("counted.tsv");
    std::fs::write(&texts, "in\tw1 w1 w1\nin\tw1 w2\nout\tw3 w3 w3 w3\nin\tw1 w2\n")
        .expect("it is written");
    let only = Some(vec!["in".to_owned()]);
    // One of the three texts is there twice and counts once: four of w1, one of w2.
    let weighed = sif::weigh(network, &base, 0.05, texts, only).expect("a mean");
    let weights = weighed.token_weights.clone().expect("they are there");
    let vocabulary = &base.tokenizer().vocab;
    let of = |word: &str| weights[vocabulary.iter().position(|w| w == word).expect("a word")];
    let total = (5 + vocabulary.len()) as f32;
    for (word, count) in [("w1", 4.0), ("w2", 1.0), ("w3", 0.0), ("[CLS]", 0.0)] {
        let expected = 0.05 / (0.05 + (count + 1.0) / total);
        assert!((of(word) - expected).abs() < 1e-6, "{word}: {} not {expected}", of(word));
    }
    let first = place.0.join("first");
    output::write(&first, None, &base, &weighed, &output::Form::default()).expect("it is written");
    assert_eq!(ModelDir::open(&first).expect("it opens").token_weights(), Some(&weights[..]));

    config.base = first.clone();
    config.sources.truncate(1);
    let directory = place.0.join("run");
    let run = Run::open(&config, &directory).expect("the recipe is sound");
    let trained = run.run().expect("it trains").network;
    assert_eq!(trained.token_weights.as_deref(), Some(&weights[..]));
    assert_ne!(trained.weights, weighed.weights);
    config.pooling = Some(Pooling::Cls);
    let refused = Run::open(&config, &place.0.join("cls")).err().expect("it is refused");
    assert!(refused.to_string().contains("weighs its tokens"), "{refused}");
}

#[test]
fn a_directory_of_hugging_face_is_a_base_and_another_architecture_is_named() {
    let place = Place::new("base");
    let bert = TinyModel::default().write(&place.0);
    let texts = place.0.join("words.txt");
    std::fs::write(&texts, "the cat\na river\nthe bread\na house\n").expect("it is written");
    let source = SourceConfig { batch: 4, ..SourceConfig::new(texts, Kind::Sentences) };
    let config = RunConfig { base: bert, steps: 1, sources: vec![source], ..RunConfig::default() };
    let weights = train(&config, place.0.join("run"));
    assert!(weights.iter().all(|weight| weight.is_finite()));

    let refused = |base: PathBuf| {
        let config = RunConfig { base, ..config.clone() };
        Run::open(&config, &place.0.join("refused")).err().expect("it is refused").to_string()
    };
    let gpt = place.0.join("gpt");
    std::fs::create_dir(&gpt).expect("a new directory");
    std::fs::write(gpt.join("config.json"), r#"{"model_type": "gpt2"}"#).expect("it is written");
    let said = refused(gpt.clone());
    let expected = "unsupported model_type: expected bert or distilbert, got gpt2";
    assert_eq!(said, format!("{}: {expected}", gpt.display()));
    let cross = TinyModel { head: true, seed: 3, ..TinyModel::default() }.write(&place.0);
    let said = refused(cross);
    assert!(said.ends_with("expected a sentence encoder, got a cross-encoder"), "{said}");
}
