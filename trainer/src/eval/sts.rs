//! The STS tasks by the protocol of SentEval and SimCSE (Gao, Yao, Chen 2021, appendix B):
//! Spearman's correlation of cosine and gold score, all subsets of a year in one list ("all"),
//! test splits only.

use std::collections::BTreeMap;
use std::path::Path;

use distilface_core::encoder::InputKind;
use serde_json::{Value, json};

use super::statistics::{alignment, spearman, uniformity};
use crate::embedder::{Embedder, dot};
use crate::error::Error;
use crate::lines::lines;

/// The seven tasks as the file names them, and whether each is one of the paper's five.
pub const TASKS: [(&str, bool); 7] = [
    ("STS12", true),
    ("STS13", true),
    ("STS14", true),
    ("STS15", true),
    ("STS16", false),
    ("STSB", true),
    ("SICK-R", false),
];
/// STS-B pairs from this score on count as close, as in SimCSE's figures of alignment.
const CLOSE: f64 = 4.0;

struct Pair {
    score: f64,
    sentences: [String; 2],
}

pub fn evaluate(path: &Path, embedder: &mut Embedder) -> Result<Value, Error> {
    let splits = read(path)?;
    let mut report = json!({});
    let mut scores = Vec::new();
    println!("{:10} {:>8} {:>7}", "STS", "Spearman", "pairs");
    for (task, of_five) in TASKS {
        let key = (task.to_owned(), "test".to_owned());
        let Some(pairs) = splits.get(&key) else { continue };
        let cosines = cosines(task, pairs, embedder)?;
        let score = 100.0 * correlation(pairs, &cosines);
        println!("{task:10} {score:>8.3} {:>7}", pairs.len());
        report["tasks"][task] = json!({ "spearman": score, "pairs": pairs.len() });
        scores.push((score, of_five));
    }
    let mean = |scores: Vec<f64>| scores.iter().sum::<f64>() / scores.len() as f64;
    if scores.len() == TASKS.len() {
        let seven = mean(scores.iter().map(|&(score, _)| score).collect());
        let five = mean(scores.iter().filter(|s| s.1).map(|&(score, _)| score).collect());
        println!("{:10} {seven:>8.3}", "seven");
        println!("{:10} {five:>8.3}  (STS12 to STS15 and STS-B, the paper's average)", "five");
        report["seven"] = seven.into();
        report["five"] = five.into();
    }
    if let Some(pairs) = splits.get(&("STSB".to_owned(), "dev".to_owned())) {
        let cosines = cosines("STSB dev", pairs, embedder)?;
        let score = 100.0 * correlation(pairs, &cosines);
        println!("{:10} {score:>8.3} {:>7}", "STSB dev", pairs.len());
        report["stsb_dev"] = score.into();
        let close = pairs.iter().zip(&cosines).filter(|(pair, _)| pair.score >= CLOSE);
        let align = alignment(close.map(|(_, cosine)| *cosine));
        let mut texts: Vec<&str> =
            pairs.iter().flat_map(|pair| pair.sentences.iter().map(String::as_str)).collect();
        texts.sort_unstable();
        texts.dedup();
        let uniform = uniformity(&embedder.embed("uniformity", &texts, InputKind::Passage)?);
        println!("alignment {align:.4} (pairs of {CLOSE} and more), uniformity {uniform:.4}");
        report["alignment"] = align.into();
        report["uniformity"] = uniform.into();
    }
    Ok(report)
}

fn cosines(what: &str, pairs: &[Pair], embedder: &mut Embedder) -> Result<Vec<f64>, Error> {
    let texts: Vec<&str> =
        pairs.iter().flat_map(|pair| pair.sentences.iter().map(String::as_str)).collect();
    let vectors = embedder.embed_distinct(what, &texts)?;
    Ok((0..pairs.len()).map(|i| dot(vectors.row(2 * i), vectors.row(2 * i + 1))).collect())
}

fn correlation(pairs: &[Pair], cosines: &[f64]) -> f64 {
    let gold: Vec<f64> = pairs.iter().map(|pair| pair.score).collect();
    spearman(cosines, &gold)
}

/// Pairs by task and split.
fn read(path: &Path) -> Result<BTreeMap<(String, String), Vec<Pair>>, Error> {
    let mut splits = BTreeMap::<_, Vec<Pair>>::new();
    for line in lines(path)? {
        let (number, line) = line?;
        let fields: Vec<&str> = line.split('\t').collect();
        let [task, _, split, score, first, second] = fields.as_slice() else {
            return Err(Error::data(path, number, "six fields", &line));
        };
        if number == 1 && *task == "task" {
            continue;
        }
        let Ok(score) = score.parse::<f64>() else {
            return Err(Error::data(path, number, "a score", score));
        };
        let sentences = [(*first).to_owned(), (*second).to_owned()];
        splits
            .entry(((*task).to_owned(), (*split).to_owned()))
            .or_default()
            .push(Pair { score, sentences });
    }
    if splits.is_empty() {
        return Err(Error::missing(path, "scored pairs"));
    }
    Ok(splits)
}
