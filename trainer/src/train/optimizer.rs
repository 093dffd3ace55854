//! AdamW over the flat weights: rate schedule, clipping by the norm of all gradients, and the
//! moving average of the weights. Each thread takes a part of the weights; the parts change no
//! bit, for a weight's step depends on its own gradient and on the norm, whose sums are of blocks.

use std::ops::Range;

use distilface_core::training::{AdamStep, adam_step, dot};

use super::config::RunConfig;

/// Moments and average, each as long as the weights that it follows.
pub struct Optimizer {
    pub first: Vec<f32>,
    pub second: Vec<f32>,
    /// Empty where no average is kept.
    pub average: Vec<f32>,
    /// Ranges without weight decay, in order.
    without_decay: Vec<Range<usize>>,
}

impl Optimizer {
    /// At rest.
    pub fn new(weights: &[f32], without_decay: Vec<Range<usize>>, config: &RunConfig) -> Optimizer {
        let average = if config.ema > 0.0 { weights.to_vec() } else { Vec::new() };
        let (first, second) = (vec![0.0; weights.len()], vec![0.0; weights.len()]);
        Optimizer { first, second, average, without_decay }
    }

    /// Moves the weights and leaves the gradient at zero for the next; `step` counts from 0. Gives
    /// the gradient's norm before clipping.
    pub fn step(
        &mut self,
        config: &RunConfig,
        step: usize,
        grad: &mut [f32],
        weights: &mut [f32],
    ) -> f32 {
        let norm = norm(grad, config.threads);
        let adam = adam(config, step, norm);
        let part = weights.len().div_ceil(config.threads).max(1);
        let without_decay = &self.without_decay;
        std::thread::scope(|scope| {
            let mut averages = self.average.chunks_mut(part);
            let moments = self.first.chunks_mut(part).zip(self.second.chunks_mut(part));
            let parts = weights.chunks_mut(part).zip(grad.chunks_mut(part)).zip(moments);
            for (at, ((weights, grad), (first, second))) in parts.enumerate() {
                let average = averages.next();
                scope.spawn(move || {
                    let span = at * part..at * part + weights.len();
                    for (range, decay) in decay_ranges(without_decay, span, adam.decay) {
                        adam_step(
                            &AdamStep { decay, ..adam },
                            &grad[range.clone()],
                            &mut weights[range.clone()],
                            &mut first[range.clone()],
                            &mut second[range],
                        );
                    }
                    grad.fill(0.0);
                    for (average, weight) in average.into_iter().flatten().zip(weights.iter()) {
                        *average += (1.0 - config.ema) * (weight - *average);
                    }
                });
            }
        });
        norm
    }
}

/// The step of a gradient of that norm; `step` counts from 0.
pub fn adam(config: &RunConfig, step: usize, norm: f32) -> AdamStep {
    AdamStep {
        rate: rate(config, step),
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        decay: config.weight_decay,
        scale: if config.clip > 0.0 && norm > config.clip { config.clip / norm } else { 1.0 },
        step: step as u32 + 1,
    }
}

/// The ranges of a part of the weights, counted from its start, with the decay of each.
fn decay_ranges(
    without: &[Range<usize>],
    span: Range<usize>,
    decay: f32,
) -> Vec<(Range<usize>, f32)> {
    let mut ranges = Vec::new();
    let mut at = span.start;
    let mut push = |range: Range<usize>, decay: f32| {
        if !range.is_empty() {
            ranges.push((range.start - span.start..range.end - span.start, decay));
        }
    };
    for range in without {
        let (start, end) = (range.start.clamp(at, span.end), range.end.clamp(at, span.end));
        push(at..start, decay);
        push(start..end, 0.0);
        at = end;
    }
    push(at..span.end, decay);
    ranges
}

/// The rate of a step: a linear rise over the warm-up, then a linear fall to 0 after the last.
pub fn rate(config: &RunConfig, step: usize) -> f32 {
    let warmup = (config.warmup * config.steps as f32) as usize;
    let share = if step < warmup {
        (step + 1) as f32 / (warmup + 1) as f32
    } else {
        (config.steps - step) as f32 / (config.steps - warmup) as f32
    };
    config.rate * share
}

/// The Euclidean norm; sums of blocks in f64, so that 10⁸ values add up well.
pub fn norm(x: &[f32], threads: usize) -> f32 {
    const BLOCK: usize = 1 << 12;
    let mut sums = vec![0.0; x.len().div_ceil(BLOCK)];
    let part = sums.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        for (x, sums) in x.chunks(part * BLOCK).zip(sums.chunks_mut(part)) {
            scope.spawn(move || {
                for (block, sum) in x.chunks(BLOCK).zip(sums) {
                    *sum = f64::from(dot(block, block));
                }
            });
        }
    });
    sums.iter().sum::<f64>().sqrt() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_then_falls_to_its_last_step() {
        let config = RunConfig { steps: 10, warmup: 0.2, rate: 1.0, ..RunConfig::default() };
        let rates: Vec<f32> = (0..10).map(|step| rate(&config, step)).collect();
        assert!(rates[0] < rates[1] && rates[1] < rates[2] && rates[2] == 1.0);
        assert!(rates[2..].windows(2).all(|pair| pair[0] > pair[1]));
        assert!((rates[9] - 0.125).abs() < 1e-6);
    }

    #[test]
    fn clipping_bounds_the_gradient_and_decay_spares_biases() {
        let config = RunConfig {
            clip: 1.0,
            weight_decay: 0.5,
            warmup: 0.0,
            rate: 0.1,
            ..RunConfig::default()
        };
        let mut weights = vec![1.0; 4];
        let mut optimizer = Optimizer::new(&weights, std::iter::once(1..3).collect(), &config);
        let mut grad = [0.0, 0.0, 3.0, 4.0];
        let norm = optimizer.step(&config, 0, &mut grad, &mut weights);
        assert_eq!(norm, 5.0);
        assert_eq!(grad, [0.0; 4], "ready for the next");
        // Decay only: 1 − 0.1 · 0.5; untouched; Adam's first step is the rate.
        assert!((weights[0] - 0.95).abs() < 1e-6 && weights[1] == 1.0);
        assert!((weights[2] - 0.9).abs() < 1e-6 && (weights[3] - 0.85).abs() < 1e-6);
        assert!((optimizer.first[3] - 0.08).abs() < 1e-6, "clipped by 5");
    }

    #[test]
    fn parts_of_threads_change_no_bit() {
        let step = |threads: usize| {
            let config = RunConfig { threads, weight_decay: 0.5, ema: 0.9, ..RunConfig::default() };
            let mut weights: Vec<f32> = (0..9_001).map(|at| (at % 17) as f32 - 8.0).collect();
            let ranges = vec![0..3, 2_990..3_010, 6_000..6_001];
            let mut optimizer = Optimizer::new(&weights, ranges, &config);
            let mut grad: Vec<f32> = (0..9_001).map(|at| (at % 23) as f32 * 0.1 - 1.0).collect();
            let norm = optimizer.step(&config, 3, &mut grad, &mut weights);
            (norm, weights, optimizer.first, optimizer.second, optimizer.average)
        };
        let one = step(1);
        assert!(step(2) == one && step(3) == one && step(50) == one);
    }
}
