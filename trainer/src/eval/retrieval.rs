//! Search in BEIR's layout: `corpus.jsonl`, `queries.jsonl`, `qrels/test.tsv`, the first two
//! plain or gzip.
//!
//! Exact cosine over the whole corpus; a document is its title and text. nDCG@10 with linear gain,
//! recall@100 and MRR@10, as trec_eval and BEIR compute them, averaged over the queries that have
//! a relevant document.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use distilface_core::encoder::InputKind;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::embedder::{Embedder, dot};
use crate::error::Error;
use crate::lines::lines;

/// Documents kept for a query.
const DEPTH: usize = 100;

#[derive(Deserialize)]
struct Document {
    #[serde(rename = "_id")]
    id: String,
    #[serde(default)]
    title: String,
    text: String,
}

pub fn evaluate(directory: &Path, embedder: &mut Embedder) -> Result<Value, Error> {
    let corpus = read_documents(&one_of(directory, "corpus.jsonl"))?;
    let queries = read_documents(&one_of(directory, "queries.jsonl"))?;
    let qrels = read_qrels(&directory.join("qrels/test.tsv"))?;
    let texts: Vec<String> = corpus.iter().map(Document::passage).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let documents = embedder.embed("corpus", &texts, InputKind::Passage)?;
    let asked: Vec<&Document> = queries.iter().filter(|q| qrels.contains_key(&q.id)).collect();
    let texts: Vec<&str> = asked.iter().map(|query| query.text.as_str()).collect();
    let vectors = embedder.embed("queries", &texts, InputKind::Query)?;

    let mut sums = Scores::default();
    for (at, query) in asked.iter().enumerate() {
        let mut ranked: Vec<(f64, usize)> =
            (0..corpus.len()).map(|d| (dot(vectors.row(at), documents.row(d)), d)).collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        ranked.truncate(DEPTH);
        let judged = &qrels[&query.id];
        let gains: Vec<f64> = ranked
            .iter()
            .map(|&(_, document)| judged.get(&corpus[document].id).copied().unwrap_or(0.0))
            .collect();
        sums.add(&Scores::of(&gains, judged.values().copied()));
    }
    let count = asked.len() as f64;
    let Scores { ndcg_at_10, recall_at_100, mrr_at_10 } = sums.scaled(1.0 / count);
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    println!(
        "{name}: nDCG@10 {ndcg_at_10:.4}, recall@100 {recall_at_100:.4}, MRR@10 {mrr_at_10:.4} \
         ({} documents, {} queries)",
        corpus.len(),
        asked.len()
    );
    Ok(json!({
        "ndcg_at_10": ndcg_at_10, "recall_at_100": recall_at_100, "mrr_at_10": mrr_at_10,
        "documents": corpus.len(), "queries": asked.len(),
    }))
}

impl Document {
    fn passage(&self) -> String {
        if self.title.is_empty() {
            return self.text.clone();
        }
        format!("{} {}", self.title, self.text)
    }
}

#[derive(Debug, Default, PartialEq)]
struct Scores {
    ndcg_at_10: f64,
    recall_at_100: f64,
    mrr_at_10: f64,
}

impl Scores {
    /// `gains` in rank order, `judged` the gains of every judged document.
    fn of(gains: &[f64], judged: impl Iterator<Item = f64>) -> Scores {
        let mut ideal: Vec<f64> = judged.filter(|gain| *gain > 0.0).collect();
        ideal.sort_by(|a, b| b.total_cmp(a));
        let dcg = |gains: &[f64]| -> f64 {
            gains.iter().take(10).enumerate().map(|(i, gain)| gain / (i as f64 + 2.0).log2()).sum()
        };
        let found = gains.iter().take(DEPTH).filter(|gain| **gain > 0.0).count();
        let first = gains.iter().take(10).position(|gain| *gain > 0.0);
        Scores {
            ndcg_at_10: dcg(gains) / dcg(&ideal),
            recall_at_100: found as f64 / ideal.len() as f64,
            mrr_at_10: first.map_or(0.0, |rank| 1.0 / (rank as f64 + 1.0)),
        }
    }

    fn add(&mut self, other: &Scores) {
        self.ndcg_at_10 += other.ndcg_at_10;
        self.recall_at_100 += other.recall_at_100;
        self.mrr_at_10 += other.mrr_at_10;
    }

    fn scaled(self, factor: f64) -> Scores {
        Scores {
            ndcg_at_10: self.ndcg_at_10 * factor,
            recall_at_100: self.recall_at_100 * factor,
            mrr_at_10: self.mrr_at_10 * factor,
        }
    }
}

fn one_of(directory: &Path, name: &str) -> PathBuf {
    let packed = directory.join(format!("{name}.gz"));
    if packed.exists() { packed } else { directory.join(name) }
}

fn read_documents(path: &Path) -> Result<Vec<Document>, Error> {
    let mut documents = Vec::new();
    for line in lines(path)? {
        let (number, line) = line?;
        if line.trim().is_empty() {
            continue;
        }
        let document = serde_json::from_str(&line)
            .map_err(|e| Error::data(path, number, "a document in JSON", &e.to_string()))?;
        documents.push(document);
    }
    if documents.is_empty() {
        return Err(Error::missing(path, "documents"));
    }
    Ok(documents)
}

/// Gains by query and document; queries without a relevant document are left out.
fn read_qrels(path: &Path) -> Result<HashMap<String, HashMap<String, f64>>, Error> {
    let mut qrels = HashMap::<String, HashMap<String, f64>>::new();
    for line in lines(path)? {
        let (number, line) = line?;
        let fields: Vec<&str> = line.split('\t').collect();
        let [query, document, score] = fields.as_slice() else {
            return Err(Error::data(path, number, "query, document and score", &line));
        };
        match score.parse::<f64>() {
            Ok(score) => {
                qrels.entry((*query).to_owned()).or_default().insert((*document).to_owned(), score);
            }
            Err(_) if number == 1 => {}
            Err(_) => return Err(Error::data(path, number, "a score", score)),
        }
    }
    qrels.retain(|_, judged| judged.values().any(|score| *score > 0.0));
    if qrels.is_empty() {
        return Err(Error::missing(path, "relevant documents"));
    }
    Ok(qrels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_trec_evals() {
        // Relevant: gains 2 and 1; ranked third and first, one more never found.
        let scores = Scores::of(&[1.0, 0.0, 2.0, 0.0], [2.0, 1.0, 1.0, 0.0].into_iter());
        let dcg = 1.0 + 2.0 / 2.0;
        let ideal = 2.0 + 1.0 / 3f64.log2() + 1.0 / 2.0;
        assert!((scores.ndcg_at_10 - dcg / ideal).abs() < 1e-12);
        assert!((scores.recall_at_100 - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(scores.mrr_at_10, 1.0);
        let late = Scores::of(&[0.0; 11], [1.0].into_iter());
        assert_eq!(late, Scores::default());
    }
}
