//! A run: steps, progress, checkpoints, and the model that comes out.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::Path;
use std::time::Instant;

use candle_core::{Tensor, Var};
use distilface_core::model::ModelDir;
use distilface_core::text::Tokenizer;
use distilface_core::training::{Products, mix};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::backend::{Backend, Frozen, Place};
use super::batch::{Batch, Beside, tensor};
use super::checkpoint::Checkpoint;
use super::config::{Head, Keep, Loss, Mix, Projection, RunConfig, TrainPrecision};
use super::dev::Dev;
use super::optimizer::{Optimizer, rate};
use super::pca::principal_directions;
use super::{memory, narrow};
use crate::data::{Order, Read, Source};
use crate::error::Error;
use crate::import::open_base;
use crate::net::{Dropout, Network};

/// Files of a run's directory.
pub const RECIPE: &str = "config.toml";
pub const METRICS: &str = "metrics.jsonl";
pub const CHECKPOINT: &str = "checkpoint";

/// Texts whose vectors say where a teacher's directions lie.
const PCA_TEXTS: usize = 4_096;

/// Texts of each source that the report looks for neighbors among.
const SAMPLE: usize = 300;

/// What a run made.
pub struct Trained {
    pub network: Network,
    pub reads: Vec<Read>,
    /// Some of the texts.
    pub sample: Vec<String>,
    pub seconds: f64,
}

struct Stream {
    source: Source,
    order: Order,
    teachers: Vec<Frozen>,
    /// Place of the learned projection among the extra weights.
    projection: Option<usize>,
    /// (teachers' width, student's width): onto the teachers' principal directions.
    reduction: Option<Tensor>,
}

/// A trainable matrix beside the network.
struct Extra {
    shape: (usize, usize),
    at: usize,
}

/// A run in progress.
pub struct Run<'a> {
    config: &'a RunConfig,
    directory: &'a Path,
    vocabulary: Vec<u8>,
    /// Current where [`Backend`] says.
    network: Network,
    backend: Backend,
    streams: Vec<Stream>,
    extras: Vec<Extra>,
    /// The extras' values, end to end.
    extra: Vec<f32>,
    optimizer: [Optimizer; 2],
    dev: Option<Dev>,
    best: Option<(f64, Vec<f32>)>,
    step: usize,
}

impl<'a> Run<'a> {
    /// Reads model and data, and goes on from the directory's checkpoint if there is one.
    ///
    /// # Errors
    /// Whatever cannot be read, and a checkpoint of another recipe.
    pub fn open(config: &'a RunConfig, directory: &'a Path) -> Result<Run<'a>, Error> {
        Run::open_at(Place::of(config.device)?, config, directory)
    }

    /// As [`Run::open`], whatever device the recipe names.
    ///
    /// # Errors
    /// As [`Run::open`].
    pub fn open_at(
        place: Place,
        config: &'a RunConfig,
        directory: &'a Path,
    ) -> Result<Run<'a>, Error> {
        config.check()?;
        std::fs::create_dir_all(directory).map_err(|e| Error::io(directory, e))?;
        let base = open_base(&config.base)?;
        let vocabulary = base.vocab_blob()?;
        let mut network = open_network(config, &base)?;
        if !config.layers.is_empty() {
            let layers = network.config.layers;
            if let Some(layer) = config.layers.iter().find(|layer| **layer >= layers) {
                return Err(Error::Recipe {
                    field: "layers".to_owned(),
                    expected: "layers of the base, from 0",
                    got: layer.to_string(),
                });
            }
            network = network.with_layers(&config.layers);
        }
        let positions = network.config.max_positions;
        let cuts = config.sources.iter().filter_map(|source| source.max_tokens);
        if let Some(cut) = cuts.chain([config.max_tokens]).find(|cut| *cut > positions) {
            return Err(Error::Recipe {
                field: "max_tokens".to_owned(),
                expected: "no more than the base has positions",
                got: format!("{cut} of {positions}"),
            });
        }
        let tokenizer = Tokenizer::view(&vocabulary).map_err(|e| Error::Model(e.into()))?;
        let mut sources = Vec::new();
        for (at, own) in config.sources.iter().enumerate() {
            let source = Source::read(own, directory)?;
            let order = Order::new(source.len(), mix(config.seed ^ mix(at as u64)));
            sources.push((source, order));
        }
        let (source, order) = &mut sources[0];
        let texts = first_texts(source, order, narrow::TEXTS)?;
        let network = narrow::narrow(config, network, &texts, &tokenizer)?;
        let width = network.hidden();
        if let Some(prefix) = config.dims.iter().find(|prefix| !(1..width).contains(*prefix)) {
            return Err(Error::Recipe {
                field: "dims".to_owned(),
                expected: "1 to below the vectors' length",
                got: prefix.to_string(),
            });
        }
        let (mut extras, mut extra) = (Vec::new(), Vec::new());
        if config.head == Head::Mlp {
            // PyTorch's Linear starts alike: uniform within 1/√width.
            add_extra(&mut extras, &mut extra, (width, width), config.seed, 1);
            add_extra(&mut extras, &mut extra, (1, width), config.seed, 2);
        }
        let backend = Backend::new(place, config, &network)?;
        let (mut streams, mut taught) = (Vec::new(), 0);
        for ((at, own), (source, mut order)) in config.sources.iter().enumerate().zip(sources) {
            let (mut teachers, mut teacher_width) = (Vec::new(), 0);
            for path in &own.teachers {
                let network = open_network(config, &open_base(path)?)?;
                taught += network.weights.len();
                teacher_width += network.hidden();
                teachers.push(backend.frozen(network)?);
            }
            let mapped = own.loss == Loss::Regression && teacher_width != width;
            let (mut projection, mut reduction) = (None, None);
            match own.projection {
                Projection::Learned if mapped => {
                    projection = Some(extras.len());
                    let shape = (width, teacher_width);
                    add_extra(&mut extras, &mut extra, shape, config.seed, 3 + at as u64);
                }
                Projection::Pca if mapped && teacher_width < width => {
                    return Err(Error::Recipe {
                        field: "source.projection".to_owned(),
                        expected: "teachers wider than the student, for pca",
                        got: format!("{teacher_width} and {width}"),
                    });
                }
                Projection::Pca if mapped => {
                    let texts = first_texts(&source, &mut order, PCA_TEXTS)?;
                    let cut = own.max_tokens.unwrap_or(config.max_tokens).min(positions);
                    let texts = tokenize(&tokenizer, &texts, cut);
                    let vectors = teach(&backend, &teachers, &texts)?.flatten_all()?.to_vec1()?;
                    let directions = principal_directions(&vectors, teacher_width, width);
                    reduction = Some(tensor(&directions, teacher_width, backend.device())?);
                }
                _ => (),
            }
            streams.push(Stream { source, order, teachers, projection, reduction });
        }
        memory::check(config, &network, taught)?;
        let dev = config.dev.as_deref().map(Dev::read).transpose()?;
        let optimizer = [
            Optimizer::new(&network.weights, network.without_decay(), config),
            Optimizer::new(&extra, Vec::new(), config),
        ];
        let mut run = Run {
            config,
            directory,
            vocabulary,
            network,
            backend,
            streams,
            extras,
            extra,
            optimizer,
            dev,
            best: None,
            step: 0,
        };
        run.resume()?;
        run.backend.load(&run.network, &run.optimizer[0])?;
        Ok(run)
    }

    /// Steps already done by an earlier call on the same directory.
    pub fn steps_done(&self) -> usize {
        self.step
    }

    /// Weights that are trained beside the network's: heads and projections.
    #[cfg(test)]
    pub fn extra_weights(&self) -> usize {
        self.extra.len()
    }

    /// Takes all steps that are left and gives what came out.
    ///
    /// # Errors
    /// As [`Run::take_steps`].
    pub fn run(mut self) -> Result<Trained, Error> {
        let started = Instant::now();
        self.take_steps(self.config.steps)?;
        self.checkpoint()?;
        let seconds = started.elapsed().as_secs_f64();
        if let Some((_, weights)) = self.best.filter(|_| self.config.keep == Keep::Best) {
            self.network.weights = weights;
        } else if self.config.ema > 0.0 {
            self.network.weights = std::mem::take(&mut self.optimizer[0].average);
        }
        let mut sample: Vec<String> = Vec::new();
        for stream in &mut self.streams {
            sample.extend(first_texts(&stream.source, &mut stream.order, SAMPLE)?);
        }
        let mut seen = HashSet::new();
        sample.retain(|text| seen.insert(text.clone()));
        let reads = self.streams.into_iter().map(|stream| stream.source.read).collect();
        Ok(Trained { network: self.network, reads, sample, seconds })
    }

    /// Trains until so many steps are done.
    ///
    /// # Errors
    /// [`Error::Diverged`] where a loss or gradient is not a finite number; the last checkpoint
    /// stays.
    pub fn take_steps(&mut self, until: usize) -> Result<(), Error> {
        let path = self.directory.join(METRICS);
        let io = |source| Error::io(&path, source);
        let mut metrics = OpenOptions::new().append(true).create(true).open(&path).map_err(io)?;
        let bar = ProgressBar::new(self.config.steps as u64).with_position(self.step as u64);
        bar.set_style(
            ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}, {eta} left")
                .unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        let vocabulary = self.vocabulary.clone();
        let tokenizer = Tokenizer::view(&vocabulary).map_err(|e| Error::Model(e.into()))?;
        let mut extra_grad = vec![0.0; self.extra.len()];
        let (started, mut seen) = (Instant::now(), 0);
        while self.step < until {
            let step = self.step;
            let (losses, tokens) = self.gradients(&tokenizer, &mut extra_grad)?;
            let [own, extra] = &mut self.optimizer;
            let norm = self.backend.step(self.config, step, &mut self.network, own)?;
            extra.step(self.config, step, &mut extra_grad, &mut self.extra);
            if !norm.is_finite() {
                return Err(Error::Diverged { step, what: "norm of the gradient", got: norm });
            }
            self.step += 1;
            seen += tokens;
            let speed = seen as f64 / started.elapsed().as_secs_f64();
            let loss: f32 = losses.iter().map(|(_, loss)| loss).sum();
            bar.set_message(format!("loss {loss:.4}, {speed:.0} tokens/s"));
            bar.inc(1);
            let losses: Vec<_> =
                losses.iter().map(|(at, loss)| json!({ "source": at, "loss": loss })).collect();
            let mut line = json!({
                "step": step, "loss": loss, "losses": losses, "norm": norm, "tokens": tokens,
                "rate": rate(self.config, step), "seconds": started.elapsed().as_secs_f64(),
            });
            let every = self.config.dev_every;
            let due = every > 0 && self.step.is_multiple_of(every);
            if (due || self.step == self.config.steps)
                && let Some(score) = self.score(&tokenizer)?
            {
                line["dev"] = score.into();
            }
            writeln!(metrics, "{line}").map_err(io)?;
            if self.step.is_multiple_of(self.config.checkpoint_every.max(1)) {
                metrics.sync_all().map_err(io)?;
                self.checkpoint()?;
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Adds up the gradients of one step; gives each loss with its source, and the tokens seen.
    fn gradients(
        &mut self,
        tokenizer: &Tokenizer<'_>,
        extra_grad: &mut [f32],
    ) -> Result<(Vec<(usize, f32)>, usize), Error> {
        let (mut losses, mut tokens) = (Vec::new(), 0);
        let accumulate = self.config.accumulate as u64;
        for micro in 0..accumulate {
            let number = self.step as u64 * accumulate + micro;
            let chosen: Vec<(usize, u64, f32)> = match self.config.mix {
                Mix::Sum => {
                    let sources = self.config.sources.iter().enumerate();
                    sources.map(|(at, source)| (at, number, source.weight)).collect()
                }
                Mix::Draw => {
                    let at = self.drawn(number);
                    let visit = (0..number).filter(|number| self.drawn(*number) == at).count();
                    vec![(at, visit as u64, 1.0)]
                }
            };
            for (at, visit, weight) in chosen {
                let factor = f64::from(weight) / accumulate as f64;
                let (loss, count) =
                    self.source_gradient(tokenizer, at, visit, factor, extra_grad)?;
                losses.push((at, loss));
                tokens += count;
            }
        }
        Ok((losses, tokens))
    }

    /// The source that batch `number` is of, where sources are drawn.
    fn drawn(&self, number: u64) -> usize {
        let total: f32 = self.config.sources.iter().map(|source| source.weight).sum();
        let unit = (mix(self.config.seed ^ mix(number)) >> 40) as f32 / (1u32 << 24) as f32;
        let mut left = unit * total;
        for (at, source) in self.config.sources.iter().enumerate() {
            left -= source.weight;
            if left < 0.0 {
                return at;
            }
        }
        self.config.sources.len() - 1
    }

    fn source_gradient(
        &mut self,
        tokenizer: &Tokenizer<'_>,
        at: usize,
        visit: u64,
        factor: f64,
        extra_grad: &mut [f32],
    ) -> Result<(f32, usize), Error> {
        let config = &self.config.sources[at];
        let stream = &mut self.streams[at];
        let batch =
            Batch::draw(&stream.source, config, &mut stream.order, visit, self.config.seed)?;
        let cut = config.max_tokens.unwrap_or(self.config.max_tokens);
        let texts = tokenize(tokenizer, &batch.texts, cut.min(self.network.config.max_positions));
        let tokens = texts.iter().map(Vec::len).sum();
        let teacher = match stream.teachers.as_slice() {
            [] => None,
            teachers => {
                let vectors = teach(&self.backend, teachers, &texts)?;
                Some(match &stream.reduction {
                    None => vectors,
                    Some(reduction) => vectors.matmul(reduction)?,
                })
            }
        };
        let drop = Dropout {
            seed: mix(self.config.seed ^ mix(visit ^ (at as u64) << 48)),
            hidden: self.config.dropout,
            attention: self.config.attention_dropout,
        };
        let (vectors, kept) = self.backend.forward(&self.network, &texts, drop)?;
        let vectors = Var::from_tensor(&vectors)?;
        let extras = self
            .extras
            .iter()
            .map(|extra| {
                let (rows, cols) = extra.shape;
                let values = &self.extra[extra.at..extra.at + rows * cols];
                Var::from_tensor(&Tensor::from_slice(values, extra.shape, self.backend.device())?)
            })
            .collect::<candle_core::Result<Vec<Var>>>()?;
        let head = (self.config.head == Head::Mlp).then(|| [&extras[0], &extras[1]]);
        let beside = Beside {
            teacher,
            projection: stream.projection.map(|at| &extras[at]),
            head,
            dims: &self.config.dims,
        };
        let loss = batch.loss(config, vectors.as_tensor(), &beside)?;
        let value: f32 = loss.to_scalar()?;
        if !value.is_finite() {
            return Err(Error::Diverged { step: self.step, what: "loss", got: value });
        }
        let store = (loss * factor)?.backward()?;
        if let Some(grad) = store.get(&vectors) {
            self.backend.backward(&self.network, kept, grad)?;
        }
        for (extra, var) in self.extras.iter().zip(&extras) {
            if let Some(grad) = store.get(var) {
                let grad: Vec<f32> = grad.flatten_all()?.to_vec1()?;
                let own = &mut extra_grad[extra.at..extra.at + grad.len()];
                own.iter_mut().zip(grad).for_each(|(own, grad)| *own += grad);
            }
        }
        Ok((value, tokens))
    }

    /// Spearman on the dev pairs, of the average where one is kept.
    fn score(&mut self, tokenizer: &Tokenizer<'_>) -> Result<Option<f64>, Error> {
        let Some(dev) = &self.dev else { return Ok(None) };
        self.backend.fetch(&mut self.network, &mut self.optimizer[0])?;
        let average = &self.optimizer[0].average;
        let weights = if average.is_empty() { &self.network.weights } else { average };
        let network = self.network.with_weights(weights.clone());
        let score = dev.score(&self.backend, network, tokenizer)?;
        if self.config.keep == Keep::Best && self.best.as_ref().is_none_or(|(b, _)| score > *b) {
            self.best = Some((score, weights.clone()));
        }
        Ok(Some(score))
    }

    fn checkpoint(&mut self) -> Result<(), Error> {
        self.backend.fetch(&mut self.network, &mut self.optimizer[0])?;
        let [own, extra] = &self.optimizer;
        let best = self.best.as_ref().map_or(&[][..], |(_, weights)| weights);
        Checkpoint::write(
            &self.directory.join(CHECKPOINT),
            self.step,
            self.best.as_ref().map(|(score, _)| *score),
            &[
                &self.network.weights,
                &own.first,
                &own.second,
                &own.average,
                &self.extra,
                &extra.first,
                &extra.second,
                &extra.average,
                best,
            ],
        )
    }

    /// Writes the recipe into a new directory, or compares it and reads the checkpoint.
    fn resume(&mut self) -> Result<(), Error> {
        let path = self.directory.join(RECIPE);
        let recipe = self.config.to_toml()?;
        match std::fs::read_to_string(&path) {
            Ok(known) if known == recipe => (),
            Ok(_) => {
                return Err(Error::Recipe {
                    field: path.display().to_string(),
                    expected: "the recipe that this run started with, or another directory",
                    got: "a different one".to_owned(),
                });
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if self.directory.join(CHECKPOINT).exists() {
                    return Err(Error::missing(&path, "the recipe of the checkpoint beside it"));
                }
                replace(&path, &recipe)?;
            }
            Err(error) => return Err(Error::io(&path, error)),
        }
        let path = self.directory.join(CHECKPOINT);
        if !path.exists() {
            return keep_metrics(&self.directory.join(METRICS), 0);
        }
        let checkpoint = Checkpoint::read(&path)?;
        let fits = |vectors: &[Vec<f32>]| {
            vectors.len() == 9
                && vectors[0].len() == self.network.weights.len()
                && vectors[4].len() == self.extra.len()
        };
        if !fits(&checkpoint.vectors) {
            return Err(Error::missing(&path, "a checkpoint of this model"));
        }
        let mut vectors = checkpoint.vectors.into_iter();
        let mut next = || vectors.next().unwrap_or_default();
        self.network.weights = next();
        for (at, optimizer) in self.optimizer.iter_mut().enumerate() {
            if at == 1 {
                self.extra = next();
            }
            (optimizer.first, optimizer.second, optimizer.average) = (next(), next(), next());
        }
        self.best = checkpoint.best.map(|score| (score, next()));
        self.step = checkpoint.step;
        keep_metrics(&self.directory.join(METRICS), self.step)
    }
}

/// The first texts of a source's first rows in the order of the run.
fn first_texts(source: &Source, order: &mut Order, count: usize) -> Result<Vec<String>, Error> {
    let rows = 0..count.min(source.len()) as u64;
    rows.map(|at| Ok(source.row(order.row(at))?.swap_remove(0))).collect()
}

/// Vectors of several teachers, each normalized, side by side: the cosine of two such rows is the
/// mean of the teachers' cosines.
fn teach(backend: &Backend, teachers: &[Frozen], texts: &[Vec<u32>]) -> Result<Tensor, Error> {
    let mut parts = Vec::new();
    for teacher in teachers {
        parts.push(crate::losses::normalize(&backend.vectors(teacher, texts)?)?);
    }
    Ok(Tensor::cat(&parts, 1)?)
}

fn open_network(config: &RunConfig, directory: &ModelDir) -> Result<Network, Error> {
    let products = match config.precision {
        TrainPrecision::F32 => Products::F32,
        TrainPrecision::Bf16 => Products::Bf16,
    };
    Network::new(directory, config.pooling, products)
}

fn add_extra(
    extras: &mut Vec<Extra>,
    values: &mut Vec<f32>,
    shape: (usize, usize),
    seed: u64,
    number: u64,
) {
    let bound = 1.0 / (shape.1 as f32).sqrt();
    let unit = |at: usize| {
        (mix(seed ^ mix(number << 40 | at as u64)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    extras.push(Extra { shape, at: values.len() });
    values.extend((0..shape.0 * shape.1).map(|at| bound * unit(at)));
}

/// Token ids of texts.
pub fn tokenize<T: AsRef<str>>(
    tokenizer: &Tokenizer<'_>,
    texts: &[T],
    cut: usize,
) -> Vec<Vec<u32>> {
    texts
        .iter()
        .map(|text| {
            let mut ids = Vec::new();
            tokenizer.encode(text.as_ref(), cut, &mut ids);
            ids
        })
        .collect()
}

/// Drops the metrics of steps that a resumed run takes again.
fn keep_metrics(path: &Path, steps: usize) -> Result<(), Error> {
    let Ok(file) = File::open(path) else { return Ok(()) };
    let lines: Vec<String> =
        BufReader::new(file).lines().map_while(Result::ok).take(steps).collect();
    let mut text = lines.join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    replace(path, &text)
}

/// Writes a file beside its place and moves it there: a kill leaves the old one or the new one.
fn replace(path: &Path, text: &str) -> Result<(), Error> {
    let partial = path.with_extension("partial");
    let written = std::fs::write(&partial, text).and_then(|()| std::fs::rename(&partial, path));
    written.map_err(|source| Error::io(path, source))
}
