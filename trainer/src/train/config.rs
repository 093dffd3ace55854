//! A run's recipe: TOML, or a preset, with flags on top.

use std::path::{Path, PathBuf};

use distilface_core::model::Pooling;
use serde::{Deserialize, Serialize};

use crate::data::{Format, is_address, without_password};
use crate::error::Error;

/// Everything that a run's result depends on, but the files that it names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunConfig {
    /// The model's name; that of the output directory if empty.
    pub name: String,
    /// The result's licence, for its card.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// Directory of the model that training starts from.
    pub base: PathBuf,
    /// Layers of the base that the student starts with; all if empty.
    pub layers: Vec<usize>,
    /// Width of the student's states, projected from the base's; the base's if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<usize>,
    pub pooling: Option<Pooling>,
    pub seed: u64,
    pub steps: usize,
    /// Texts are cut at so many tokens in training.
    pub max_tokens: usize,
    pub rate: f32,
    /// Share of the steps in which the rate rises.
    pub warmup: f32,
    pub weight_decay: f32,
    /// Largest norm of a step's gradient; 0 does not clip.
    pub clip: f32,
    pub dropout: f32,
    pub attention_dropout: f32,
    pub head: Head,
    /// Share of the average that a step keeps; 0 keeps no average.
    pub ema: f32,
    /// Batches whose gradients are added up before a step.
    pub accumulate: usize,
    /// Prefixes of the vectors that are trained too.
    pub dims: Vec<usize>,
    pub mix: Mix,
    pub precision: TrainPrecision,
    #[serde(skip_serializing_if = "TrainDevice::is_cpu")]
    pub device: TrainDevice,
    /// Worker threads. The order of sums, and so the result's last bits, depend on it.
    pub threads: usize,
    /// Tokens of one forward pass of one thread: what a core's cache holds is fastest.
    pub pass_tokens: usize,
    /// Batches of more tokens are computed twice (gradient caching) instead of kept in memory.
    pub cache_above: usize,
    pub checkpoint_every: usize,
    /// STS file whose STS-B dev pairs are scored as training goes on.
    pub dev: Option<PathBuf>,
    /// Steps between two such scores; 0 scores only at the end.
    pub dev_every: usize,
    /// Whether the best-scored weights are kept, or the last.
    pub keep: Keep,
    #[serde(rename = "source")]
    pub sources: Vec<SourceConfig>,
}

/// One source of texts and what is learned from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// A file, or a database's address (`postgres://…`) beside a `query`.
    pub path: PathBuf,
    /// What the database is asked; its columns are texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    pub kind: Kind,
    /// Values of a TSV's first column, which then is no text.
    #[serde(default)]
    pub only: Option<Vec<String>>,
    /// Fields of a JSON object, or columns of a Parquet file, that are texts, in order.
    #[serde(default = "text_field")]
    pub fields: Vec<String>,
    /// Rows at most, a random choice.
    #[serde(default)]
    pub limit: Option<usize>,
    /// What that choice depends on.
    #[serde(default)]
    pub limit_seed: u64,
    /// Rows of a batch.
    #[serde(default = "default_batch")]
    pub batch: usize,
    /// Rows that a text of distillation is joined from, at most: 1 to so many, by a hash.
    #[serde(default = "no_join")]
    pub join: usize,
    /// Factor of the loss where sources are summed, share of the steps where they are drawn.
    #[serde(default = "one")]
    pub weight: f32,
    #[serde(default)]
    pub loss: Loss,
    #[serde(default = "default_tau")]
    pub tau: f64,
    #[serde(default = "default_tau")]
    pub teacher_tau: f64,
    /// Whether positives find their anchors too.
    #[serde(default)]
    pub symmetric: bool,
    /// Directories of teachers; several are one whose similarity is the mean of theirs.
    #[serde(default)]
    pub teachers: Vec<PathBuf>,
    /// From the student's width to the teachers', where they differ and the loss is regression.
    #[serde(default)]
    pub projection: Projection,
    /// The texts' licence, for the model's card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// Cuts this source's texts at another length.
    #[serde(default)]
    pub max_tokens: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// One text a row; contrasted with itself under another dropout mask.
    Sentences,
    /// Two texts that mean the same.
    Pairs,
    /// An anchor, a positive, and a hard negative that may be missing.
    Triplets,
    /// Two or more texts that mean the same.
    Groups,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Loss {
    #[default]
    Contrastive,
    /// Distance to the teacher's vector.
    Regression,
    /// The teacher's similarities within the batch, as distributions.
    Similarity,
    /// The teacher's order of similarities within the batch.
    Ranking,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Projection {
    /// The student's vectors, mapped by a matrix that is trained with it.
    #[default]
    Learned,
    /// The teachers' vectors, reduced to the directions in which they differ most.
    Pca,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Head {
    #[default]
    None,
    /// A dense layer with tanh, in training only.
    Mlp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mix {
    /// A batch of every source in each step.
    #[default]
    Sum,
    /// Each step's batch from one source, drawn by weight.
    Draw,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrainPrecision {
    F32,
    /// bfloat16 factors, f32 sums and weights.
    #[default]
    Bf16,
}

/// Where the encoder's passes run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TrainDevice {
    /// Core's kernels
    #[default]
    Cpu,
    /// The first NVIDIA device (cargo feature `cuda`)
    Cuda,
}

impl TrainDevice {
    /// Recipes of the CPU do not name it: those of earlier runs, to be gone on with, do not.
    fn is_cpu(&self) -> bool {
        *self == TrainDevice::Cpu
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    #[default]
    Last,
    Best,
}

fn text_field() -> Vec<String> {
    vec!["text".to_owned()]
}
fn default_batch() -> usize {
    64
}
fn no_join() -> usize {
    1
}
fn one() -> f32 {
    1.0
}
fn default_tau() -> f64 {
    0.05
}

impl SourceConfig {
    /// A contrastive source with the defaults.
    pub fn new(path: PathBuf, kind: Kind) -> SourceConfig {
        SourceConfig {
            path,
            query: None,
            kind,
            only: None,
            fields: text_field(),
            limit: None,
            limit_seed: 0,
            batch: default_batch(),
            join: no_join(),
            weight: 1.0,
            loss: Loss::Contrastive,
            tau: default_tau(),
            teacher_tau: default_tau(),
            symmetric: false,
            teachers: Vec::new(),
            projection: Projection::Learned,
            license: None,
            max_tokens: None,
        }
    }

    /// What messages call the source: the file, or the database without its password.
    pub fn place(&self) -> String {
        let path = self.path.display().to_string();
        if is_address(&self.path) { without_password(&path) } else { path }
    }
}

impl Default for RunConfig {
    fn default() -> RunConfig {
        RunConfig {
            name: String::new(),
            license: None,
            base: PathBuf::new(),
            layers: Vec::new(),
            width: None,
            pooling: None,
            seed: 1,
            steps: 1_000,
            max_tokens: 64,
            rate: 2e-5,
            warmup: 0.1,
            weight_decay: 0.01,
            clip: 1.0,
            dropout: 0.1,
            attention_dropout: 0.1,
            head: Head::None,
            ema: 0.0,
            accumulate: 1,
            dims: Vec::new(),
            mix: Mix::Sum,
            precision: TrainPrecision::Bf16,
            device: TrainDevice::Cpu,
            threads: 2,
            pass_tokens: 512,
            cache_above: 16_384,
            checkpoint_every: 500,
            dev: None,
            dev_every: 0,
            keep: Keep::Last,
            sources: Vec::new(),
        }
    }
}

/// A setting from a paper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Preset {
    /// Lim, Ng, Lim 2024: batch 128, rate 1e-5, τ 0.05, 32 tokens, dropout 0.1, 20,000 steps, no
    /// head, mean of the last four layers
    Distilface,
    /// Unsupervised SimCSE (Gao, Yao, Chen 2021): batch 64, rate 3e-5, CLS, MLP head in training,
    /// STS-B dev every 125 steps and the best kept
    Simcse,
}

impl Preset {
    /// The preset's recipe on a file of sentences.
    pub fn config(self, sentences: PathBuf, only: Option<Vec<String>>) -> RunConfig {
        let source = SourceConfig { only, ..SourceConfig::new(sentences, Kind::Sentences) };
        let both = RunConfig {
            max_tokens: 32,
            // Neither paper warms up, decays weights or clips below 1.
            warmup: 0.0,
            weight_decay: 0.0,
            ..RunConfig::default()
        };
        match self {
            Preset::Distilface => RunConfig {
                rate: 1e-5,
                steps: 20_000,
                pooling: Some(Pooling::MeanLast4),
                sources: vec![SourceConfig { batch: 128, ..source }],
                ..both
            },
            Preset::Simcse => RunConfig {
                rate: 3e-5,
                steps: 15_625,
                pooling: Some(Pooling::Cls),
                head: Head::Mlp,
                dev_every: 125,
                keep: Keep::Best,
                sources: vec![SourceConfig { batch: 64, ..source }],
                ..both
            },
        }
    }
}

impl RunConfig {
    /// Reads a recipe. Paths in it are relative to its directory.
    ///
    /// # Errors
    /// Where the file cannot be read or a value is not one that can be trained with.
    pub fn read(path: &Path) -> Result<RunConfig, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::io(path, source))?;
        let mut config: RunConfig = toml::from_str(&text).map_err(|error| Error::Recipe {
            field: path.display().to_string(),
            expected: "a recipe in TOML",
            got: error.to_string(),
        })?;
        let directory = path.parent().unwrap_or(Path::new(""));
        config.base = directory.join(&config.base);
        config.dev = config.dev.map(|dev| directory.join(dev));
        for source in &mut config.sources {
            if !is_address(&source.path) {
                source.path = directory.join(&source.path);
            }
            source.teachers.iter_mut().for_each(|teacher| *teacher = directory.join(&*teacher));
        }
        Ok(config)
    }

    /// The recipe as a run's directory keeps it: TOML, no passwords.
    ///
    /// # Errors
    /// Where a value cannot be written as TOML.
    pub fn to_toml(&self) -> Result<String, Error> {
        let mut kept = self.clone();
        for source in &mut kept.sources {
            source.path = source.place().into();
        }
        toml::to_string(&kept)
            .map_err(|error| wrong("recipe", "values that TOML can hold", error.to_string()))
    }

    /// Checks every value.
    ///
    /// # Errors
    /// [`Error::Recipe`] names the field.
    pub fn check(&self) -> Result<(), Error> {
        let positive = |field: &str, ok: bool, got: String| match ok {
            true => Ok(()),
            false => Err(wrong(field, "more than 0", got)),
        };
        positive("steps", self.steps > 0, self.steps.to_string())?;
        positive("accumulate", self.accumulate > 0, self.accumulate.to_string())?;
        positive("threads", self.threads > 0, self.threads.to_string())?;
        positive("pass_tokens", self.pass_tokens > 0, self.pass_tokens.to_string())?;
        positive("rate", self.rate > 0.0 && self.rate.is_finite(), self.rate.to_string())?;
        for (field, share) in [
            ("dropout", self.dropout),
            ("attention_dropout", self.attention_dropout),
            ("ema", self.ema),
            ("warmup", self.warmup),
        ] {
            if !(0.0..1.0).contains(&share) {
                return Err(wrong(field, "0 to below 1", share.to_string()));
            }
        }
        let cuts = self.sources.iter().filter_map(|source| source.max_tokens);
        if let Some(cut) = cuts.chain([self.max_tokens]).find(|cut| *cut < 3) {
            return Err(wrong("max_tokens", "3 or more", cut.to_string()));
        }
        for (field, value) in [("weight_decay", self.weight_decay), ("clip", self.clip)] {
            if !(0.0..=f32::MAX).contains(&value) {
                return Err(wrong(field, "0 or more", value.to_string()));
            }
        }
        let whole = |source: &SourceConfig| source.loss == Loss::Regression;
        if !self.dims.is_empty() && self.sources.iter().all(whole) {
            let expected = "none where regression, which sees whole vectors, is the only loss";
            return Err(wrong("dims", expected, format!("{:?}", self.dims)));
        }
        if self.keep == Keep::Best && (self.dev.is_none() || self.dev_every == 0) {
            return Err(wrong("dev", "an STS file and dev_every, to keep the best", "none".into()));
        }
        if self.sources.is_empty() {
            return Err(wrong("source", "one or more", "none".into()));
        }
        for source in &self.sources {
            let distilled = source.loss != Loss::Contrastive;
            if distilled == source.teachers.is_empty() {
                let expected = "teachers with a loss of distillation, none with contrastive";
                return Err(wrong("source.teachers", expected, source.teachers.len().to_string()));
            }
            if source.projection == Projection::Pca && source.loss != Loss::Regression {
                let got = format!("{:?}", source.loss).to_lowercase();
                return Err(wrong("source.projection", "pca with the loss regression", got));
            }
            if is_address(&source.path) != source.query.is_some() {
                let expected = "a query with a postgres:// address, none with a file";
                return Err(wrong("source.query", expected, source.place()));
            }
            let tsv = source.query.is_none() && Format::of(&source.path) == Format::Tsv;
            if source.only.is_some() && !tsv {
                return Err(wrong("source.only", "a TSV file, to filter", source.place()));
            }
            if source.join == 0 || source.join > 1 && !distilled {
                let expected = "1, or more rows to join with a loss of distillation";
                return Err(wrong("source.join", expected, source.join.to_string()));
            }
            if source.batch < 2 {
                return Err(wrong("source.batch", "2 or more", source.batch.to_string()));
            }
            if !(source.tau > 0.0 && source.teacher_tau > 0.0 && source.weight > 0.0) {
                let got = format!("{}, {}, {}", source.tau, source.teacher_tau, source.weight);
                return Err(wrong("source.tau, teacher_tau, weight", "more than 0", got));
            }
        }
        Ok(())
    }
}

fn wrong(field: &str, expected: &'static str, got: String) -> Error {
    Error::Recipe { field: field.to_owned(), expected, got }
}
