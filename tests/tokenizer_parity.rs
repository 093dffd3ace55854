//! The tokenizer gives the ids that Hugging Face's `tokenizers` gives: on the fixtures, on real
//! sentences, on every Unicode scalar value and on random strings.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::sync::OnceLock;

use distilface_core::text::{Counted, Encoded, Tokenizer, TokenizerSpec, compile_vocab};
use proptest::prelude::*;

/// Settings of the BERT normalizer: clean_text, handle_chinese_chars, strip_accents, lowercase.
type Settings = (bool, bool, Option<bool>, bool);

const UNCASED: Settings = (true, true, None, true);
const CASED: Settings = (true, true, None, false);
const ALL_SETTINGS: [Settings; 6] = [
    UNCASED,
    CASED,
    (true, true, Some(false), true),
    (true, true, Some(true), false),
    (true, false, None, true),
    (false, true, None, true),
];

struct Pair {
    blob: Vec<u8>,
    oracle: tokenizers::Tokenizer,
}

impl Pair {
    fn new(spec: &TokenizerSpec, json: &[u8]) -> Pair {
        let blob = compile_vocab(spec).expect("the description compiles");
        let mut oracle = tokenizers::Tokenizer::from_bytes(json).expect("the oracle reads it");
        oracle.with_truncation(None).expect("truncation can be turned off");
        oracle.with_padding(None);
        Pair { blob, oracle }
    }

    fn tokenizer(&self) -> Tokenizer<'_> {
        Tokenizer::view(&self.blob).expect("a fresh blob opens")
    }

    #[track_caller]
    fn assert_same(&self, text: &str) {
        let mut ids = Vec::new();
        let tokenizer = self.tokenizer();
        let encoded = tokenizer.encode(text, usize::MAX, &mut ids);
        let expected = self.oracle.encode_fast(text, true).expect("the oracle encodes");
        assert_eq!(ids, expected.get_ids(), "text {text:?}");
        assert_eq!(encoded, Encoded { tokens: ids.len(), truncated: false });
        assert_eq!(tokenizer.is_blank(text), ids.len() == 2, "text {text:?}");
        let counted = tokenizer.count(text, &mut || false);
        assert_eq!(counted, Counted::Tokens(ids.len() as u64), "text {text:?}");
    }
}

/// A tokenizer whose vocabulary spells (nearly) every character, so that no difference hides
/// behind `[UNK]`: all scalar values of the planes that have characters, as first and later piece.
fn full_unicode(settings: Settings) -> Pair {
    let mut vocab: Vec<String> =
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned).into();
    let planes = (0..0x3_1400).chain(0xE_0000..0xE_0200);
    for c in planes.filter_map(char::from_u32) {
        vocab.push(c.to_string());
        vocab.push(format!("##{c}"));
    }
    vocab.extend(["the", "##ing", "un", "##aff", "##able", "ß", "##ss"].map(str::to_owned));
    let mut seen = std::collections::HashSet::new();
    vocab.retain(|token| seen.insert(token.clone()));
    let (clean_text, handle_chinese_chars, strip_accents, lowercase) = settings;
    let added = vocab[..5].iter().cloned().zip(0..).collect();
    let spec = TokenizerSpec {
        vocab,
        clean_text,
        handle_chinese_chars,
        strip_accents,
        lowercase,
        max_input_chars_per_word: 100,
        unk: 1,
        cls: 2,
        sep: 3,
        added,
    };
    let json = spec.to_json();
    assert_eq!(TokenizerSpec::from_json(&json).expect("our own file is read"), spec);
    Pair::new(&spec, &json)
}

fn full_unicode_pairs() -> &'static [Pair] {
    static PAIRS: OnceLock<Vec<Pair>> = OnceLock::new();
    PAIRS.get_or_init(|| ALL_SETTINGS.map(full_unicode).into())
}

/// The directory of all-MiniLM-L6-v2, where there is one.
fn minilm_dir() -> Option<PathBuf> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let named = std::env::var_os("DISTILFACE_MINILM_DIR").map(PathBuf::from);
    [named, Some(root.join("models/all-minilm-l6-v2"))]
        .into_iter()
        .flatten()
        .find(|dir| dir.join("tokenizer.json").is_file())
}

fn minilm() -> Option<&'static Pair> {
    static PAIR: OnceLock<Option<Pair>> = OnceLock::new();
    let pair = PAIR.get_or_init(|| {
        let json = std::fs::read(minilm_dir()?.join("tokenizer.json")).expect("the file reads");
        let spec = TokenizerSpec::from_json(&json).expect("a BERT tokenizer");
        Some(Pair::new(&spec, &json))
    });
    if pair.is_none() {
        eprintln!("SKIPPED: no all-MiniLM-L6-v2 (`make setup`, or set DISTILFACE_MINILM_DIR)");
    }
    pair.as_ref()
}

fn shared(path: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(path);
    if !path.exists() {
        eprintln!("SKIPPED: no {}", path.display());
        return None;
    }
    Some(path)
}

#[test]
fn fixture_texts_have_their_ids() {
    let (Some(pair), Some(path)) = (minilm(), shared("fixtures/minilm-l6-parity.json")) else {
        return;
    };
    let file: serde_json::Value =
        serde_json::from_slice(&std::fs::read(path).expect("the fixture reads")).expect("JSON");
    let fixtures = file["fixtures"].as_array().expect("a list of fixtures");
    assert_eq!(fixtures.len(), 28);
    for fixture in fixtures {
        let text = fixture["text"].as_str().expect("a text");
        let expected: Vec<u32> =
            serde_json::from_value(fixture["input_ids"].clone()).expect("a list of ids");
        let mut ids = Vec::new();
        pair.tokenizer().encode(text, 512, &mut ids);
        assert_eq!(ids, expected, "text {text:?}");
    }
}

#[test]
fn real_sentences_have_the_oracles_ids() {
    let (Some(pair), Some(path)) = (minilm(), shared("train/sentences.tsv.gz")) else {
        return;
    };
    let full = std::env::var_os("DISTILFACE_FULL").is_some_and(|value| value == "1");
    let step = if full { 1 } else { 21 };
    let file = std::fs::File::open(path).expect("the file opens");
    let lines = BufReader::new(flate2::read::MultiGzDecoder::new(file)).lines();
    let mut checked = 0;
    for line in lines.step_by(step) {
        pair.assert_same(&line.expect("a line of text"));
        checked += 1;
    }
    eprintln!("{checked} sentences with equal ids");
    assert!(checked >= 50_000, "{checked} sentences");
}

#[test]
fn every_scalar_value_has_the_oracles_ids() {
    for pair in full_unicode_pairs() {
        let scalars: Vec<char> = (0..=0x10_FFFF).filter_map(char::from_u32).collect();
        // Between other letters, 40 apart so that most words stay below 100 characters.
        for chunk in scalars.chunks(40) {
            let text: String = chunk.iter().flat_map(|c| ['a', *c, 'Z', ' ']).collect();
            pair.assert_same(&text);
            pair.assert_same(&chunk.iter().collect::<String>());
        }
    }
}

#[test]
fn special_tokens_in_the_text_are_found_before_it_is_normalized() {
    for pair in full_unicode_pairs() {
        for text in [
            "[CLS]",
            "a[MASK]b",
            "[[MASK]]",
            "[mask]",
            "[MASK",
            "e[SEP]\u{301}",
            "x\u{302E}[PAD]\u{301}\u{302E} y",
            "[UNK][UNK] [CLS][",
        ] {
            pair.assert_same(text);
        }
        // Across the seam of two pieces of streamed text.
        for before in 65_528..65_540 {
            pair.assert_same(&format!("{}[MASK] e\u{301}", "a ".repeat(before / 2) + "b"));
        }
    }
}

#[test]
fn combining_marks_are_reordered_as_in_the_whole_text() {
    // Spacing marks with a combining class stay in the word, in NFD's order, whatever is removed
    // between them.
    for pair in full_unicode_pairs() {
        for text in [
            "a\u{1D165}\u{302E}\u{302F}b",
            "a\u{302E}\u{1D165}b",
            "a\u{302E}\u{301}\u{1D165}\u{200B}\u{302F}b",
            "a\u{302E}\u{93E}\u{1D165}",
            "a\u{302E}\u{941}\u{1D165}",
            "\u{302E}\u{1D165} \u{302E}\u{1D165}",
            "!\u{302E}\u{1D165}",
            "\u{AC01}\u{302E}\u{1D165}\u{302E}",
            "\u{1E9B}\u{323}\u{130}\u{344}",
        ] {
            pair.assert_same(text);
        }
        let marks = "\u{1D165}\u{302E}\u{302F}".repeat(40);
        pair.assert_same(&format!("a{}", &marks[..marks.len() / 4 / 10 * 10]));
        pair.assert_same(&format!("a{marks} b"));
    }
}

#[test]
fn long_words_are_unknown_and_end_where_they_end() {
    for pair in full_unicode_pairs() {
        for len in [98, 99, 100, 101, 102, 5_000, 65_536, 70_000] {
            for c in ["a", "é", "\u{AC01}", "ß"] {
                pair.assert_same(&format!("{} {}!x", c.repeat(len), c.repeat(3)));
            }
        }
    }
}

#[test]
fn truncation_keeps_the_head_and_says_so() {
    let pair = &full_unicode_pairs()[0];
    let tokenizer = pair.tokenizer();
    let text = "The quick unaffable fox, 東京 [MASK] naïve résumé";
    let mut whole = Vec::new();
    tokenizer.encode(text, usize::MAX, &mut whole);
    for max_tokens in 0..whole.len() + 3 {
        let mut ids = vec![77];
        let encoded = tokenizer.encode(text, max_tokens, &mut ids);
        let kept = max_tokens.clamp(2, whole.len());
        assert_eq!(encoded.tokens, kept);
        assert_eq!(encoded.truncated, kept < whole.len());
        assert_eq!(ids[0], 77, "what was in the buffer stays");
        assert_eq!(ids[1..kept], whole[..kept - 1]);
        assert_eq!(ids[kept], 3);
    }
}

fn text_strategy() -> impl Strategy<Value = String> {
    let interesting = prop_oneof![
        4 => prop::char::range('\0', '\u{7F}'),
        2 => prop::char::range('\u{80}', '\u{24F}'),
        2 => prop::char::range('\u{300}', '\u{36F}'),
        1 => prop::char::range('\u{900}', '\u{DFF}'),
        1 => prop::char::range('\u{1100}', '\u{11FF}'),
        1 => prop::char::range('\u{1E00}', '\u{206F}'),
        1 => prop::char::range('\u{3000}', '\u{30FF}'),
        1 => prop::char::range('\u{4E00}', '\u{4FFF}'),
        1 => prop::char::range('\u{AC00}', '\u{D7A3}'),
        1 => prop::char::range('\u{F900}', '\u{FFFF}'),
        1 => prop::char::range('\u{1D150}', '\u{1D1FF}'),
        1 => prop::char::range('\u{1F300}', '\u{1FAFF}'),
        1 => prop::char::any(),
        2 => prop::sample::select(vec!['\u{302E}', '\u{302F}', '\u{1D165}', '\u{1D16D}', '\u{16FF0}']),
    ];
    let piece = prop_oneof![
        8 => prop::collection::vec(interesting, 0..12).prop_map(String::from_iter),
        1 => prop::sample::select(vec!["[CLS]", "[MASK]", "[", "##ing", " ", "unaffable"])
            .prop_map(str::to_owned),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_unicode_has_the_oracles_ids(text in text_strategy()) {
        for pair in full_unicode_pairs() {
            pair.assert_same(&text);
        }
        if let Some(pair) = minilm() {
            pair.assert_same(&text);
        }
    }

    #[test]
    fn damaged_blobs_never_panic(
        text in text_strategy(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..200),
        head in any::<bool>(),
    ) {
        static SMALL: OnceLock<Vec<u8>> = OnceLock::new();
        let blob = SMALL.get_or_init(|| {
            let vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n##a\nunaffable\n##ing\n";
            let spec = TokenizerSpec::from_vocab_txt(vocab, true).expect("a small vocabulary");
            compile_vocab(&spec).expect("it compiles")
        });
        let mut blob = blob.clone();
        let range = if head { 80 } else { blob.len() };
        for (at, byte) in flips {
            blob[at.index(range)] = byte;
        }
        if let Ok(tokenizer) = Tokenizer::view(&blob) {
            let mut ids = Vec::new();
            tokenizer.encode(&text, 512, &mut ids);
            let bound = tokenizer.id_bound() as u32;
            prop_assert!(ids.iter().all(|&id| id < bound));
        }
    }
}
