//! Weights of tokens in a mean by their frequency: a / (a + p), p being a token's share of a corpus
//! (Arora, Liang, Ma 2017, "smooth inverse frequency"; without their common component).
//!
//! What a word tells falls with how often it is used, and a mean over few tokens is moved by the
//! commonest. `[CLS]` and `[SEP]`, which no text contains, weigh 1, as the rarest words nearly do.

use std::path::PathBuf;

use distilface_core::model::{ModelDir, Pooling};
use distilface_core::text::Tokenizer;

use crate::data::Source;
use crate::error::Error;
use crate::net::Network;
use crate::train::config::{Kind, SourceConfig};

/// Tokens of a text that are counted.
const MOST_TOKENS: usize = 512;

/// The network with weights of its tokens, counted in the texts of a file.
///
/// # Errors
/// Where the file cannot be read, `a` is not above 0, or the network pools no mean.
pub fn weigh(
    mut network: Network,
    model: &ModelDir,
    a: f64,
    texts: PathBuf,
    only: Option<Vec<String>>,
) -> Result<Network, Error> {
    let wrong = |field: &str, expected, got: String| {
        Err(Error::Recipe { field: field.to_owned(), expected, got })
    };
    if !(a > 0.0 && a.is_finite()) {
        return wrong("sif", "a number above 0", a.to_string());
    }
    if network.pooling == Pooling::Cls {
        return wrong(
            "pooling",
            "a mean, to weigh its tokens",
            network.pooling.as_str().to_owned(),
        );
    }
    let space = tempfile::tempdir().map_err(|e| Error::io(&std::env::temp_dir(), e))?;
    let config = SourceConfig { only, ..SourceConfig::new(texts, Kind::Sentences) };
    let source = Source::read(&config, space.path())?;
    let vocabulary = model.vocab_blob()?;
    let tokenizer = Tokenizer::view(&vocabulary).map_err(|e| Error::Model(e.into()))?;
    let mut counts = vec![0u64; network.config.vocab_size];
    let mut ids = Vec::new();
    for at in 0..source.len() {
        for text in source.row(at)? {
            ids.clear();
            tokenizer.encode(&text, MOST_TOKENS, &mut ids);
            // The two marks around every text are no words of it.
            ids[1..ids.len() - 1].iter().for_each(|id| counts[*id as usize] += 1);
        }
    }
    println!("{}: {} tokens counted", config.place(), counts.iter().sum::<u64>());
    network.token_weights = Some(smooth_inverse(&counts, a));
    Ok(network)
}

/// a / (a + p) of each count, p with one count more for every token.
fn smooth_inverse(counts: &[u64], a: f64) -> Vec<f32> {
    let total = (counts.iter().sum::<u64>() + counts.len() as u64) as f64;
    let weight = |count: &u64| (a / (a + (count + 1) as f64 / total)) as f32;
    counts.iter().map(weight).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_fall_with_frequency_from_one() {
        let weights = smooth_inverse(&[0, 9, 99, 999_886], 0.01);
        let expected = [1e-6, 1e-5, 1e-4, 0.999_887].map(|p| (0.01 / (0.01 + p)) as f32);
        for (got, expected) in weights.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-6, "{weights:?}");
        }
    }
}
