//! A user's own pairs and triplets.

use std::path::Path;

use serde_json::{Value, json};

use super::statistics::spearman;
use crate::embedder::{Embedder, dot};
use crate::error::Error;
use crate::lines::lines;

/// Spearman's correlation of cosine and score.
pub fn scored(path: &Path, embedder: &mut Embedder) -> Result<Value, Error> {
    let rows = read(path, "sentence1, sentence2 and score")?;
    let mut gold = Vec::with_capacity(rows.len());
    for (number, [_, _, score]) in &rows {
        gold.push(number_of(score, path, *number)?);
    }
    let texts: Vec<&str> = rows.iter().flat_map(|(_, [a, b, _])| [a.as_str(), b]).collect();
    let vectors = embedder.embed_distinct("pairs", &texts)?;
    let cosines: Vec<f64> =
        (0..rows.len()).map(|i| dot(vectors.row(2 * i), vectors.row(2 * i + 1))).collect();
    let score = 100.0 * spearman(&cosines, &gold);
    println!("{}: Spearman {score:.3} ({} pairs)", path.display(), rows.len());
    Ok(json!({ "spearman": score, "pairs": rows.len() }))
}

/// Share of triplets whose anchor is closer to the positive than to the negative.
pub fn triplets(path: &Path, embedder: &mut Embedder) -> Result<Value, Error> {
    let rows = read(path, "anchor, positive and negative")?;
    let texts: Vec<&str> =
        rows.iter().flat_map(|(_, row)| row.iter().map(String::as_str)).collect();
    let vectors = embedder.embed_distinct("triplets", &texts)?;
    let right = (0..rows.len()).filter(|i| {
        let [anchor, positive, negative] = [0, 1, 2].map(|side| vectors.row(3 * i + side));
        dot(anchor, positive) > dot(anchor, negative)
    });
    let accuracy = 100.0 * right.count() as f64 / rows.len() as f64;
    println!("{}: {accuracy:.2} % of {} triplets right", path.display(), rows.len());
    Ok(json!({ "accuracy": accuracy, "triplets": rows.len() }))
}

fn number_of(score: &str, path: &Path, line: usize) -> Result<f64, Error> {
    score.trim().parse().map_err(|_| Error::data(path, line, "a score", score))
}

fn read(path: &Path, expected: &'static str) -> Result<Vec<(usize, [String; 3])>, Error> {
    let mut rows = Vec::new();
    for line in lines(path)? {
        let (number, line) = line?;
        let fields: Vec<String> = line.split('\t').map(str::to_owned).collect();
        let row = <[String; 3]>::try_from(fields);
        rows.push((number, row.map_err(|_| Error::data(path, number, expected, &line))?));
    }
    if rows.is_empty() {
        return Err(Error::missing(path, expected));
    }
    Ok(rows)
}
