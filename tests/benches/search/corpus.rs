//! The sentences, and queries of terms that are common or rare in them.

use distilface_tests::{Session, second_column};
use std::collections::HashMap;
use std::io::Write as _;
use std::path::Path;

/// Up to `rows` sentences, spread over the file; `None` where the file is not there.
pub fn sentences(rows: usize) -> Option<Vec<String>> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/train/sentences.tsv.gz");
    if !path.exists() {
        return None;
    }
    let all = second_column(&path, 1, usize::MAX);
    let step = (all.len() / rows.max(1)).max(1);
    Some(all.into_iter().step_by(step).take(rows).collect())
}

/// Copies rows `(id, body)` into a table.
pub fn copy<'t>(session: &mut Session, table: &str, texts: impl Iterator<Item = &'t str>) {
    let statement = format!("COPY {table} (id, body) FROM STDIN");
    let mut copy = session.client().copy_in(&statement).expect("COPY starts");
    for (id, text) in texts.enumerate() {
        let text = text.replace(['\\', '\t', '\n', '\r'], " ");
        writeln!(copy, "{id}\t{text}").expect("COPY takes a line");
    }
    copy.finish().expect("COPY ends");
}

/// A query of some terms, any of which may match.
pub struct Query {
    /// What kind of terms, in words.
    pub kind: String,
    pub terms: Vec<String>,
}

const PER_KIND: usize = 10;

/// Queries of one to four terms: common ones (in 1 of 20 to 1 of 1,000 rows), rare ones (in 5 to
/// 100 rows), and both.
pub fn queries(sentences: &[String]) -> Vec<Query> {
    let mut doc_freq: HashMap<String, usize> = HashMap::new();
    for sentence in sentences {
        let mut terms: Vec<String> = sentence
            .split(|c: char| !c.is_alphanumeric())
            .filter(|term| term.len() > 2 && term.is_ascii())
            .map(str::to_ascii_lowercase)
            .collect();
        terms.sort_unstable();
        terms.dedup();
        for term in terms {
            *doc_freq.entry(term).or_default() += 1;
        }
    }
    let mut terms: Vec<(String, usize)> = doc_freq.into_iter().collect();
    terms.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let between = |least: usize, most: usize| -> Vec<&str> {
        terms
            .iter()
            .filter(|(_, n)| (least..=most).contains(n))
            .map(|(term, _)| &term[..])
            .collect()
    };
    let common = between(sentences.len() / 1000, sentences.len() / 20);
    let rare = between(5, 100);
    let mut state = 1_u64;
    let mut pick = |from: &[&str]| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        from[(state >> 33) as usize % from.len()].to_owned()
    };
    let mut queries = Vec::new();
    for count in 1..=4_usize {
        for (name, commons) in [("common", count), ("rare", 0), ("both", count / 2)] {
            if name == "both" && commons == 0 {
                continue;
            }
            for _ in 0..PER_KIND {
                let terms = (0..count)
                    .map(|place| pick(if place < commons { &common } else { &rare }))
                    .collect();
                queries.push(Query { kind: format!("{count} {name}"), terms });
            }
        }
    }
    queries
}
