//! The tokenizer beside Hugging Face's `tokenizers`, in turns in one run on one thread:
//! `make bench-tokenizer`.
//!
//! Texts are real sentences and long passages where the data is at hand, and made-up ones
//! otherwise. The peer runs `encode_fast`, its form without offsets. Each figure is the median of
//! the rounds.

use std::hint::black_box;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Instant;

use distilface_core::text::{Tokenizer, TokenizerSpec, compile_vocab};

const ROUNDS: usize = 15;
/// What the design asks for, as a multiple of the peer's speed.
const ASKED: f64 = 4.0;

fn main() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let named = std::env::var_os("DISTILFACE_MINILM_DIR").map(PathBuf::from);
    let directories = [named, Some(root.join("models/all-minilm-l6-v2"))];
    let mut found = directories.into_iter().flatten().map(|dir| dir.join("tokenizer.json"));
    let Some(path) = found.find(|path| path.is_file()) else {
        eprintln!("no tokenizer.json: run `make model` or set DISTILFACE_MINILM_DIR");
        return;
    };
    let json = std::fs::read(path).expect("the tokenizer's file reads");
    let spec = TokenizerSpec::from_json(&json).expect("a BERT tokenizer");
    let blob = compile_vocab(&spec).expect("it compiles");
    let tokenizer = Tokenizer::view(&blob).expect("a fresh blob opens");
    let mut peer = tokenizers::Tokenizer::from_bytes(&json).expect("the peer reads it");
    peer.with_truncation(None).expect("truncation can be turned off").with_padding(None);

    let sentences = sentences(&root);
    let passages: Vec<String> = sentences.chunks(40).map(|chunk| chunk.join(" ")).collect();
    let queries: Vec<String> = sentences.iter().filter(|s| s.len() < 60).cloned().collect();
    let accented: Vec<String> = sentences
        .iter()
        .map(|s| s.replace('e', "é").replace('o', "ö").replace(" a", " 東京 ").replace("th", "Þ"))
        .collect();
    println!("one thread, medians of {ROUNDS} rounds in turns; tokenizers 0.23.2 encode_fast");
    println!("texts         tokens   ours ns/token   peer ns/token   ratio");
    let mut worst = f64::INFINITY;
    for (name, texts) in [
        ("queries", &queries),
        ("sentences", &sentences),
        ("passages", &passages),
        ("accented", &accented),
    ] {
        let mut ids = Vec::new();
        let tokens: usize =
            texts.iter().map(|text| tokenizer.encode(text, usize::MAX, &mut ids).tokens).sum();
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let start = Instant::now();
            for text in texts {
                ids.clear();
                tokenizer.encode(black_box(text), usize::MAX, &mut ids);
                black_box(&ids);
            }
            ours.push(start.elapsed().as_secs_f64());
            let start = Instant::now();
            for text in texts {
                let encoded = peer.encode_fast(black_box(text.as_str()), true);
                black_box(encoded.expect("the peer encodes"));
            }
            theirs.push(start.elapsed().as_secs_f64());
        }
        let per_token = |times: Vec<f64>| median(times) * 1e9 / tokens as f64;
        let (ours, theirs) = (per_token(ours), per_token(theirs));
        println!("{name:10} {tokens:>9} {ours:>15.1} {theirs:>15.1} {:>7.1}", theirs / ours);
        worst = worst.min(theirs / ours);
    }
    let mut opens = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..1000 {
            black_box(Tokenizer::view(black_box(&blob)).expect("it opens").id_bound());
        }
        opens.push(start.elapsed().as_secs_f64() / 1000.0);
    }
    println!("open: {:.2} µs, {} bytes", median(opens) * 1e6, blob.len());
    let verdict = if worst >= ASKED { "ok" } else { "short" };
    println!("target tokenizer-speedup got {worst:.1} asked {ASKED} {verdict}");
}

fn sentences(root: &Path) -> Vec<String> {
    let Ok(file) = std::fs::File::open(root.join("../shared/data/train/sentences.tsv.gz")) else {
        println!("no ../shared/data: sentences are made up");
        let words = ["The quick brown fox jumps over the lazy dog.", "Naïve résumés, unaffable!"];
        return (0..10_000).map(|i| format!("{} {i}", words[i % 2])).collect();
    };
    let lines = BufReader::new(flate2::read::MultiGzDecoder::new(file)).lines();
    let lines = lines.step_by(100).take(10_000).map(|line| line.expect("a line of text"));
    lines.filter_map(|line| Some(line.split_once('\t')?.1.to_owned())).collect()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
