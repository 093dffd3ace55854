//! The dev score: Spearman on STS-B's development pairs, by the network that is being trained.

use std::path::Path;

use distilface_core::text::Tokenizer;

use super::backend::Backend;
use super::run::tokenize;
use crate::embedder::{dot, normalize};
use crate::error::Error;
use crate::eval::statistics::spearman;
use crate::lines::lines;
use crate::net::Network;

/// Where dev texts are cut, in tokens; none is longer.
const CUT: usize = 128;

/// Scored pairs.
pub struct Dev {
    texts: Vec<String>,
    scores: Vec<f64>,
}

impl Dev {
    /// Reads the `STSB` `dev` rows of an STS file (task, subset, split, score, two sentences).
    ///
    /// # Errors
    /// Where there are none.
    pub fn read(path: &Path) -> Result<Dev, Error> {
        let (mut texts, mut scores) = (Vec::new(), Vec::new());
        for line in lines(path)? {
            let (number, line) = line?;
            let fields: Vec<&str> = line.split('\t').collect();
            let ["STSB", _, "dev", score, first, second] = fields.as_slice() else { continue };
            let Ok(score) = score.parse() else {
                return Err(Error::data(path, number, "a score", score));
            };
            scores.push(score);
            texts.extend([(*first).to_owned(), (*second).to_owned()]);
        }
        if scores.len() < 2 {
            return Err(Error::missing(path, "STSB dev pairs"));
        }
        Ok(Dev { texts, scores })
    }

    /// Spearman × 100 of cosines and gold scores.
    ///
    /// # Errors
    /// What the device says.
    pub fn score(
        &self,
        backend: &Backend,
        network: Network,
        tokenizer: &Tokenizer<'_>,
    ) -> Result<f64, Error> {
        let cut = CUT.min(network.config.max_positions);
        let width = network.hidden();
        let texts = tokenize(tokenizer, &self.texts, cut);
        let vectors = backend.vectors(&backend.frozen(network)?, &texts)?;
        let mut vectors: Vec<f32> = vectors.flatten_all()?.to_vec1()?;
        vectors.chunks_exact_mut(width).for_each(normalize);
        let cosines: Vec<f64> = vectors
            .chunks_exact(2 * width)
            .map(|pair| dot(&pair[..width], &pair[width..]))
            .collect();
        Ok(100.0 * spearman(&cosines, &self.scores))
    }
}
