//! Where a run computes: core's kernels on the CPU, or candle on a device.
//!
//! On the CPU the run's [`Network`] and [`Optimizer`] are what a step changes. On a device they are
//! copies: weights, gradients, moments and average stay there as f32 tensors, and
//! [`Backend::fetch`] brings them over for checkpoints, dev scores and the result. Losses are the
//! same code on both. Heads and projections, small beside the encoder, are moved on the CPU.

use candle_core::{D, DType, Device, Tensor, Var};

use super::batch::tensor;
use super::config::{RunConfig, TrainDevice};
use super::engine::{Engine, Forward, Pass, plan};
use super::optimizer::{Optimizer, adam};
use crate::error::Error;
use crate::net::{Dropout, Network, OnDevice, tensors, values};

/// What computes.
pub enum Place {
    Kernels,
    Device(Device),
}

impl Place {
    /// What a recipe names.
    ///
    /// # Errors
    /// [`Error::Device`] where there is no such device.
    pub fn of(device: TrainDevice) -> Result<Place, Error> {
        match device {
            TrainDevice::Cpu => Ok(Place::Kernels),
            TrainDevice::Cuda => cuda().map(Place::Device).map_err(Error::Device),
        }
    }
}

/// The first CUDA device, or why there is none.
fn cuda() -> Result<Device, String> {
    if !cfg!(feature = "cuda") {
        return Err("a build without the cargo feature cuda".to_owned());
    }
    Device::new_cuda(0).map_err(|error| error.to_string())
}

/// A network that is not trained, where the run computes.
pub enum Frozen {
    Kernels(Network),
    Device(OnDevice),
}

/// The encoder that is trained, and the passes over it.
pub enum Backend {
    /// With the gradient of all weights.
    Kernels(Engine, Vec<f32>),
    Device(Box<Student>),
}

/// What a forward pass keeps for its derivative.
pub enum Kept {
    Kernels(Forward),
    Device(Vec<Pass<Tensor>>, Dropout),
}

/// An encoder that is trained on a device.
pub struct Student {
    encoder: OnDevice,
    device: Device,
    threads: usize,
    /// Tokens of a pass, filled up ones too; batches of more are computed twice.
    pass_tokens: usize,
    /// The encoder's weights, one each.
    vars: Vec<Var>,
    /// Whether weight decay spares each.
    spared: Vec<bool>,
    grads: Vec<Tensor>,
    first: Vec<Tensor>,
    second: Vec<Tensor>,
    /// Empty where no average is kept.
    average: Vec<Tensor>,
}

impl Backend {
    /// For the network that a run starts with.
    ///
    /// # Errors
    /// What the device says.
    pub fn new(place: Place, config: &RunConfig, network: &Network) -> Result<Backend, Error> {
        let engine = Engine::new(config.threads, config.pass_tokens, config.cache_above);
        Ok(match place {
            Place::Kernels => Backend::Kernels(engine, vec![0.0; network.weights.len()]),
            Place::Device(device) => {
                Backend::Device(Box::new(Student::new(&device, config, network)?))
            }
        })
    }

    /// Where losses are computed.
    pub fn device(&self) -> &Device {
        match self {
            Backend::Kernels(..) => &Device::Cpu,
            Backend::Device(student) => &student.device,
        }
    }

    /// Brings a network to where vectors are computed.
    ///
    /// # Errors
    /// What the device says.
    pub fn frozen(&self, network: Network) -> Result<Frozen, Error> {
        Ok(match self {
            Backend::Kernels(..) => Frozen::Kernels(network),
            Backend::Device(student) => {
                Frozen::Device(OnDevice::copy(&network, &student.device, student.threads)?)
            }
        })
    }

    /// Vectors of texts, not normalized, without dropout.
    ///
    /// # Errors
    /// What the device says.
    pub fn vectors(&self, network: &Frozen, texts: &[Vec<u32>]) -> Result<Tensor, Error> {
        Ok(match (self, network) {
            (Backend::Kernels(engine, _), Frozen::Kernels(network)) => {
                tensor(&engine.vectors(network, texts), texts.len(), &Device::Cpu)?
            }
            (Backend::Device(student), Frozen::Device(network)) => {
                run(network, texts, None, student.pass_tokens, false)?.0
            }
            _ => unreachable!("a backend's networks lie where it computes"),
        })
    }

    /// Vectors of a batch under dropout, text i with number i, and what their derivative needs.
    ///
    /// # Errors
    /// What the device says.
    pub fn forward(
        &self,
        network: &Network,
        texts: &[Vec<u32>],
        drop: Dropout,
    ) -> Result<(Tensor, Kept), Error> {
        Ok(match self {
            Backend::Kernels(engine, _) => {
                let forward = engine.forward(network, texts, 0, drop);
                let vectors = tensor(&forward.vectors, texts.len(), &Device::Cpu)?;
                (vectors, Kept::Kernels(forward))
            }
            Backend::Device(student) => {
                let tokens: usize = texts.iter().map(Vec::len).sum();
                let keep = tokens <= student.pass_tokens;
                let (vectors, passes) =
                    run(&student.encoder, texts, Some(&drop), student.pass_tokens, keep)?;
                (vectors, Kept::Device(passes, drop))
            }
        })
    }

    /// Adds up the gradients of all weights, given that of the vectors.
    ///
    /// # Errors
    /// What the device says.
    pub fn backward(&mut self, network: &Network, kept: Kept, grad: &Tensor) -> Result<(), Error> {
        match (self, kept) {
            (Backend::Kernels(engine, all), Kept::Kernels(forward)) => {
                let grad: Vec<f32> = grad.flatten_all()?.to_vec1()?;
                engine.backward(network, forward, &grad, all);
            }
            (Backend::Device(student), Kept::Device(passes, drop)) => {
                student.backward(passes, &drop, grad)?;
            }
            _ => unreachable!("a pass is kept by the backend that made it"),
        }
        Ok(())
    }

    /// Moves the weights along the gradients, which are zero then; gives the gradient's norm before
    /// clipping.
    ///
    /// # Errors
    /// What the device says.
    pub fn step(
        &mut self,
        config: &RunConfig,
        step: usize,
        network: &mut Network,
        optimizer: &mut Optimizer,
    ) -> Result<f32, Error> {
        Ok(match self {
            Backend::Kernels(_, grad) => optimizer.step(config, step, grad, &mut network.weights),
            Backend::Device(student) => student.step(config, step)?,
        })
    }

    /// Makes network and optimizer what the steps have made of them.
    ///
    /// # Errors
    /// What the device says.
    pub fn fetch(&self, network: &mut Network, optimizer: &mut Optimizer) -> Result<(), Error> {
        if let Backend::Device(student) = self {
            let weights: Vec<Tensor> = student.vars.iter().map(Var::as_detached_tensor).collect();
            network.weights = values(&weights)?;
            optimizer.first = values(&student.first)?;
            optimizer.second = values(&student.second)?;
            optimizer.average = values(&student.average)?;
        }
        Ok(())
    }

    /// Goes on from network and optimizer.
    ///
    /// # Errors
    /// What the device says.
    pub fn load(&mut self, network: &Network, optimizer: &Optimizer) -> Result<(), Error> {
        if let Backend::Device(student) = self {
            let copy = |values: &[f32]| tensors(&network.config, values, &student.device);
            for (var, weight) in student.vars.iter().zip(copy(&network.weights)?) {
                var.set(&weight)?;
            }
            student.first = copy(&optimizer.first)?;
            student.second = copy(&optimizer.second)?;
            if !optimizer.average.is_empty() {
                student.average = copy(&optimizer.average)?;
            }
        }
        Ok(())
    }
}

impl Student {
    fn new(device: &Device, config: &RunConfig, network: &Network) -> Result<Student, Error> {
        let (encoder, vars) = OnDevice::trained(network, device, config.threads)?;
        let zeros = || vars.iter().map(|var| var.zeros_like()).collect::<Result<Vec<_>, _>>();
        let without_decay = network.without_decay();
        let mut at = 0;
        let spared = vars.iter().map(|var| {
            at += var.elem_count();
            without_decay.iter().any(|range| range.end == at)
        });
        Ok(Student {
            spared: spared.collect(),
            encoder,
            device: device.clone(),
            threads: config.threads,
            pass_tokens: config.cache_above,
            grads: zeros()?,
            first: zeros()?,
            second: zeros()?,
            // `load` brings it, where one is kept.
            average: Vec::new(),
            vars,
        })
    }

    fn backward(
        &mut self,
        passes: Vec<Pass<Tensor>>,
        drop: &Dropout,
        grad: &Tensor,
    ) -> Result<(), Error> {
        for pass in passes {
            let vectors = match pass.tape {
                Some(vectors) => vectors,
                None => self.encoder.forward(&pass.texts, Some(drop))?,
            };
            let grad = grad.index_select(&rows(&pass.rows, &self.device)?, 0)?;
            let mut store = vectors.mul(&grad)?.sum_all()?.backward()?;
            for (var, sum) in self.vars.iter().zip(&mut self.grads) {
                if let Some(grad) = store.remove(var) {
                    *sum = (&*sum + grad)?;
                }
            }
        }
        Ok(())
    }

    fn step(&mut self, config: &RunConfig, step: usize) -> Result<f32, Error> {
        // Rows in f32 and their sums in f64, so that 10⁸ values add up well.
        let squares = |grad: &Tensor| grad.sqr()?.sum(D::Minus1)?.to_dtype(DType::F64)?.sum_all();
        let squares = self.grads.iter().map(squares).collect::<Result<Vec<Tensor>, _>>()?;
        let norm = Tensor::stack(&squares, 0)?.sum_all()?.to_scalar::<f64>()?.sqrt() as f32;
        let adam = adam(config, step, norm);
        let (rate, root) = adam.unbiased();
        let mix = |old: &Tensor, share: f32, new: &Tensor| {
            (old * f64::from(share))? + (new * f64::from(1.0 - share))?
        };
        for (at, var) in self.vars.iter().enumerate() {
            let grad = (&self.grads[at] * f64::from(adam.scale))?;
            self.first[at] = mix(&self.first[at], adam.beta1, &grad)?;
            self.second[at] = mix(&self.second[at], adam.beta2, &grad.sqr()?)?;
            let slope = ((self.second[at].sqrt()? * f64::from(root))? + f64::from(adam.eps))?;
            let step = (self.first[at].div(&slope)? * f64::from(rate))?;
            let decay = if self.spared[at] { 0.0 } else { adam.decay };
            let weight = ((var.as_tensor() * f64::from(1.0 - adam.rate * decay))? - step)?;
            var.set(&weight)?;
            self.grads[at] = grad.zeros_like()?;
            if let Some(average) = self.average.get_mut(at) {
                let moved = ((&weight - &*average)? * f64::from(1.0 - config.ema))?;
                *average = (&*average + moved)?;
            }
        }
        Ok(norm)
    }
}

/// Vectors in the order of the texts, detached, and the passes that made them; with `keep`, passes
/// hold what their derivatives need.
fn run(
    encoder: &OnDevice,
    texts: &[Vec<u32>],
    drop: Option<&Dropout>,
    pass_tokens: usize,
    keep: bool,
) -> candle_core::Result<(Tensor, Vec<Pass<Tensor>>)> {
    // By length: the next text is the longest, to which the others are filled up.
    let full = |pass: &Pass<Tensor>, next: usize| (pass.texts.len() + 1) * next > pass_tokens;
    let mut passes = plan(texts, 0, full);
    let (mut parts, mut places) = (Vec::new(), vec![0; texts.len()]);
    for (at, row) in passes.iter().flat_map(|pass| &pass.rows).enumerate() {
        places[*row] = at;
    }
    for pass in &mut passes {
        let vectors = encoder.forward(&pass.texts, drop)?;
        parts.push(vectors.detach());
        pass.tape = keep.then_some(vectors);
    }
    let places = rows(&places, parts[0].device())?;
    Ok((Tensor::cat(&parts, 0)?.index_select(&places, 0)?, passes))
}

fn rows(rows: &[usize], device: &Device) -> candle_core::Result<Tensor> {
    Tensor::from_iter(rows.iter().map(|row| *row as u32), device)
}
