//! The models of the repository, those that `extension/build.rs` compiles in and those that lie
//! beside them: each is the file that its card describes, whole, of a size that a library can carry,
//! under a licence that lies beside it.

use std::path::{Path, PathBuf};

use distilface_core::encoder::{Context, InputKind, SentenceEncoder};
use sha2::{Digest, Sha256};

/// Every model of the repository, and the most bytes of its packed form.
const COMMITTED: [(&str, usize); 2] =
    [("distilface-small", 40_000_000), ("distilface-tiny", 25_000_000)];

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models")
}

fn builtin() -> Vec<String> {
    let list = std::fs::read_to_string(models().join("builtin.txt")).expect("there is a list");
    let names = list.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    names.map(str::to_owned).collect()
}

fn aligned(bytes: &[u8]) -> (Vec<u8>, usize) {
    let mut all = vec![0; bytes.len() + 64];
    let start = all.as_ptr().align_offset(64);
    all[start..start + bytes.len()].copy_from_slice(bytes);
    (all, start)
}

#[test]
fn what_is_compiled_in_lies_in_the_repository_and_the_small_model_is_the_default() {
    let names = builtin();
    assert_eq!(names[0], "distilface-small", "the default");
    let committed = |name: &String| COMMITTED.iter().any(|(known, _)| known == name);
    assert!(names.iter().all(committed), "{names:?}");
}

#[test]
fn every_committed_model_is_the_one_that_its_card_describes() {
    for (name, most) in COMMITTED {
        let directory = models().join(name);
        let read = |file: &str| {
            let path = directory.join(file);
            std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let block = read("model.packed");
        assert!(block.len() <= most, "{name}: {} bytes", block.len());
        let (aligned, start) = aligned(&block);
        let model = SentenceEncoder::verify_packed(&aligned[start..start + block.len()]);
        let model = model.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(model.manifest().name, name);

        let card = String::from_utf8(read("README.md")).expect("UTF-8");
        let digest = Sha256::digest(&block);
        let sha256: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        for stated in [&sha256, &model.manifest().revision] {
            assert!(card.contains(stated.as_str()), "{name}: the card does not state {stated}");
        }
        assert!(card.starts_with("---\nlicense: "), "{name}: the card names no licence");
        for file in ["LICENSE", "NOTICE"] {
            assert!(!read(file).is_empty(), "{name}: {file}");
        }

        // It has learned what words mean.
        let texts = ["How do I bake bread?", "a recipe for a loaf", "the stock market fell"];
        let all = model.embed(&texts, InputKind::Passage, &mut Context::new(1)).expect("no cancel");
        let vector = |i| all.vector(i).expect("not blank");
        let similarity =
            |i, j| -> f32 { vector(i).iter().zip(vector(j)).map(|(a, b)| a * b).sum() };
        assert!(similarity(0, 1) > similarity(0, 2) + 0.2, "{name}");
    }
}

/// Lengths in tokens are guessed from lengths in bytes; a point is a token of one byte. A pass of all of
/// them took many times the memory that was asked for.
#[test]
fn texts_of_more_tokens_than_guessed_take_no_more_memory() {
    let block = std::fs::read(models().join("distilface-tiny/model.packed")).expect("it is there");
    let (aligned, start) = aligned(&block);
    let model = SentenceEncoder::from_packed(&aligned[start..start + block.len()]);
    let model = model.expect("it opens");
    let embed = |texts: &[&str], context: &mut Context| {
        model.embed(texts, InputKind::Passage, context).expect("nobody cancels")
    };
    // Words, of which the guess is right, fill passes of what is asked for.
    let mut words = Context::new(1).with_max_batch_tokens(256);
    let text = "the cat sat on the mat ".repeat(8);
    embed(&[text.as_str(); 64], &mut words);
    let points = ".".repeat(100);
    let mut context = Context::new(1).with_max_batch_tokens(256);
    let all = embed(&[points.as_str(); 64], &mut context);
    assert_eq!(all.tokens, 64 * 102);
    let (got, asked) = (context.bytes(), words.bytes());
    assert!(got <= asked * 5 / 4, "{got} bytes, {asked} for words");
    let alone = embed(&[&points], &mut context);
    assert!(all.vectors().all(|vector| vector == alone.vector(0)));
}
