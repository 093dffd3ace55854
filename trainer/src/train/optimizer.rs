//! AdamW over the flat weights: rate schedule, clipping by the norm of all gradients, and the
//! moving average of the weights.

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

    /// Moves the weights; `step` counts from 0. Gives the gradient's norm before clipping.
    pub fn step(
        &mut self,
        config: &RunConfig,
        step: usize,
        grad: &[f32],
        weights: &mut [f32],
    ) -> f32 {
        let norm = norm(grad);
        let scale = if config.clip > 0.0 && norm > config.clip { config.clip / norm } else { 1.0 };
        let adam = AdamStep {
            rate: rate(config, step),
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            decay: config.weight_decay,
            scale,
            step: step as u32 + 1,
        };
        let mut apply = |adam: &AdamStep, range: Range<usize>| {
            let (first, second) = (&mut self.first[range.clone()], &mut self.second[range.clone()]);
            adam_step(adam, &grad[range.clone()], &mut weights[range], first, second);
        };
        let mut at = 0;
        for range in &self.without_decay {
            apply(&adam, at..range.start);
            apply(&AdamStep { decay: 0.0, ..adam }, range.clone());
            at = range.end;
        }
        apply(&adam, at..grad.len());
        for (average, weight) in self.average.iter_mut().zip(weights.iter()) {
            *average += (1.0 - config.ema) * (weight - *average);
        }
        norm
    }
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
pub fn norm(x: &[f32]) -> f32 {
    x.chunks(1 << 12).map(|block| f64::from(dot(block, block))).sum::<f64>().sqrt() as f32
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
        let norm = optimizer.step(&config, 0, &[0.0, 0.0, 3.0, 4.0], &mut weights);
        assert_eq!(norm, 5.0);
        // Decay only: 1 − 0.1 · 0.5; untouched; Adam's first step is the rate.
        assert!((weights[0] - 0.95).abs() < 1e-6 && weights[1] == 1.0);
        assert!((weights[2] - 0.9).abs() < 1e-6 && (weights[3] - 0.85).abs() < 1e-6);
        assert!((optimizer.first[3] - 0.08).abs() < 1e-6, "clipped by 5");
    }
}
