//! nDCG@10 on SciFact: words, meaning and both, with the defaults.

use super::Targets;
use distilface_tests::Session;
use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub fn run(session: &mut Session, targets: &mut Targets) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/retrieval/scifact");
    if !dir.exists() {
        eprintln!("skipped: no shared/data/retrieval/scifact beside the project");
        return;
    }
    load(session, &dir);
    let judged = judgments(&dir);
    let got = ["lexical", "semantic", "hybrid"].map(|mode| ndcg(session, mode, &judged));
    let [lexical, semantic, hybrid] = got;
    println!(
        "SciFact nDCG@10: lexical {lexical:.4}, semantic {semantic:.4}, hybrid {hybrid:.4}, {} queries",
        judged.len()
    );
    targets.at_least("scifact_bm25", lexical, 0.675);
    targets.at_least("scifact_hybrid", hybrid, lexical.max(semantic) + 0.01);
}

/// A file of the data set, compressed or not.
fn read(dir: &Path, name: &str) -> String {
    let plain = dir.join(name);
    let packed = PathBuf::from(format!("{}.gz", plain.display()));
    if plain.exists() {
        return std::fs::read_to_string(plain).expect("a readable file");
    }
    let mut gzip = Command::new("gzip")
        .arg("-dc")
        .arg(packed)
        .stdout(Stdio::piped())
        .spawn()
        .expect("gzip can be started");
    let mut text = String::new();
    let mut out = gzip.stdout.take().expect("standard output was piped");
    out.read_to_string(&mut text).expect("UTF-8");
    gzip.wait().expect("gzip ends");
    text
}

fn load(session: &mut Session, dir: &Path) {
    session.sql(
        "DROP TABLE IF EXISTS scifact_lines, scifact_asked, scifact;
         CREATE TABLE scifact_lines (line jsonb); CREATE TABLE scifact_asked (line jsonb);
         CREATE TABLE scifact (id text, body text, e embedding(384))",
    );
    for (table, file) in [("scifact_lines", "corpus.jsonl"), ("scifact_asked", "queries.jsonl")] {
        let statement = format!("COPY {table} FROM STDIN");
        let mut copy = session.client().copy_in(&statement).expect("COPY starts");
        copy.write_all(read(dir, file).replace('\\', "\\\\").as_bytes()).expect("COPY takes it");
        copy.finish().expect("COPY ends");
    }
    session.sql(
        "INSERT INTO scifact
           SELECT line ->> '_id', concat_ws(' ', line ->> 'title', line ->> 'text')
             FROM scifact_lines;
         UPDATE scifact SET e = distilface_embed(body);
         CREATE INDEX ON scifact USING distilface_hnsw (e);
         CREATE INDEX ON scifact USING distilface_bm25 (body) WITH (text_config = 'english')",
    );
}

/// Relevant documents of each query of the test split.
fn judgments(dir: &Path) -> HashMap<String, HashMap<String, f64>> {
    let mut judged: HashMap<String, HashMap<String, f64>> = HashMap::new();
    for line in read(dir, "qrels/test.tsv").lines().skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        if let [query, document, grade] = fields[..] {
            let grade = grade.trim().parse().expect("a grade is a number");
            judged.entry(query.to_owned()).or_default().insert(document.to_owned(), grade);
        }
    }
    judged
}

fn ndcg(session: &mut Session, mode: &str, judged: &HashMap<String, HashMap<String, f64>>) -> f64 {
    let found = session.rows(&format!(
        "SELECT q.line ->> '_id', d.id FROM scifact_asked q,
           LATERAL distilface_search('scifact', q.line ->> 'text', mode => '{mode}') s
           JOIN scifact d ON d.ctid = s.ctid
          ORDER BY 1, s.score DESC, s.ctid"
    ));
    let mut lists: HashMap<String, Vec<String>> = HashMap::new();
    for row in found {
        if let [Some(query), Some(document)] = &row[..] {
            lists.entry(query.clone()).or_default().push(document.clone());
        }
    }
    let discount = |place: usize| 1.0 / ((place + 2) as f64).log2();
    let mut sum = 0.0;
    for (query, grades) in judged {
        let list = lists.get(query).map_or(&[][..], Vec::as_slice);
        let gain: f64 = list
            .iter()
            .take(10)
            .enumerate()
            .map(|(place, id)| grades.get(id).unwrap_or(&0.0) * discount(place))
            .sum();
        let mut ideal: Vec<f64> = grades.values().copied().collect();
        ideal.sort_by(|a, b| b.total_cmp(a));
        let best: f64 =
            ideal.iter().take(10).enumerate().map(|(place, g)| g * discount(place)).sum();
        sum += gain / best;
    }
    sum / judged.len() as f64
}
