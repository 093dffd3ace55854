//! Whether a run fits: what it will hold, against what the machine has, before hours are spent.

use std::path::Path;

use super::config::{Kind, Loss, RunConfig, SourceConfig, TrainDevice};
use crate::error::Error;
use crate::net::Network;

/// Compares a run's need with what is free; says nothing where the system does not tell.
///
/// # Errors
/// [`Error::Memory`]
pub fn check(config: &RunConfig, network: &Network, teachers: usize) -> Result<(), Error> {
    let needed = needed(config, network, teachers);
    match available() {
        Some(available) if needed > available => Err(Error::Memory { needed, available }),
        _ => Ok(()),
    }
}

/// Bytes that a run holds at most; in f64, for a recipe may ask for anything.
///
/// Weights with their gradients, moments and averages; each further thread's gradients; weights
/// laid out for products; teachers' weights; and what one source's passes keep for their
/// derivatives. With a device, the copies of the first alone: it holds the rest, and says itself
/// what it lacks.
fn needed(config: &RunConfig, network: &Network, teachers: usize) -> f64 {
    let sizes = &network.config;
    let all = network.weights.len() as f64;
    let dense = all - network.dense_start() as f64;
    let copies =
        4.0 + f64::from(u8::from(config.ema > 0.0)) + f64::from(u8::from(config.dev_every > 0));
    if config.device != TrainDevice::Cpu {
        return 4.0 * copies * all;
    }
    let states = 8.0 * sizes.hidden as f64 + 2.0 * sizes.intermediate as f64;
    let token = |cut: usize| sizes.layers as f64 * (states + (sizes.heads * cut) as f64);
    let kept = |source: &SourceConfig| {
        let cut = source.max_tokens.unwrap_or(config.max_tokens).min(sizes.max_positions);
        let texts = match (source.loss, source.kind) {
            (Loss::Contrastive, Kind::Triplets) => 3.0,
            (Loss::Contrastive, _) => 2.0,
            _ => 1.0,
        };
        let tokens = source.batch as f64 * texts * cut as f64;
        // Beyond `cache_above`, passes are computed again one by one.
        let most = config.cache_above.max(config.threads.saturating_mul(config.pass_tokens)) as f64;
        tokens.min(most) * token(cut)
    };
    let kept = config.sources.iter().map(kept).fold(0.0, f64::max);
    let threads = config.threads as f64 - 1.0;
    4.0 * (copies * all + threads * dense + dense + teachers as f64 + kept)
}

/// Bytes that the system says a process may still take: free memory, or less by a container's
/// limit.
fn available() -> Option<f64> {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).ok();
    let number = |text: String| text.trim().parse::<f64>().ok();
    let memory = read("/proc/meminfo")?;
    let line = memory.lines().find(|line| line.starts_with("MemAvailable:"))?;
    let free = line.split_whitespace().nth(1)?.parse::<f64>().ok()? * 1024.0;
    let limit = read("/sys/fs/cgroup/memory.max").and_then(number);
    let used = read("/sys/fs/cgroup/memory.current").and_then(number);
    Some(match (limit, used) {
        (Some(limit), Some(used)) => free.min(limit - used),
        _ => free,
    })
}

#[cfg(test)]
mod tests {
    use distilface_core::model::Pooling;

    use super::*;
    use crate::net::tests::Fixture;

    #[test]
    fn need_grows_with_the_batch_until_passes_are_computed_again() {
        let network = Fixture::open().network(Pooling::Mean);
        let need = |batch: usize, cache_above: usize| {
            let source = SourceConfig { batch, ..SourceConfig::new("x".into(), Kind::Sentences) };
            let config = RunConfig { cache_above, sources: vec![source], ..RunConfig::default() };
            needed(&config, &network, 0)
        };
        assert!(need(128, 1 << 20) > need(64, 1 << 20));
        assert!(need(usize::MAX, usize::MAX) > 1e15, "no overflow");
        assert_eq!(need(1 << 20, 4_096), need(1 << 30, 4_096));
        let config = RunConfig { device: TrainDevice::Cuda, ..RunConfig::default() };
        assert_eq!(needed(&config, &network, 0), 16.0 * network.weights.len() as f64);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_run_that_does_not_fit_says_so_before_it_starts() {
        let network = Fixture::open().network(Pooling::Mean);
        let source = SourceConfig { batch: 1 << 40, ..SourceConfig::new("x".into(), Kind::Pairs) };
        let config =
            RunConfig { cache_above: usize::MAX, sources: vec![source], ..RunConfig::default() };
        let error = check(&config, &network, 0).expect_err("no machine has so much");
        assert!(error.to_string().contains("cache_above"), "{error}");
        let config = RunConfig { cache_above: 4_096, ..config };
        check(&config, &network, 0).expect("a few megabytes");
    }
}
