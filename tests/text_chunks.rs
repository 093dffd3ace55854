//! Chunks are the text again, keep to the model's own count of tokens, and end where sentences do.

mod common_model;

use distilface_core::text::{
    Chunk, ChunkError, ChunkLimits, Counted, Tokenizer, TokenizerSpec, chunk, compile_vocab,
};
use proptest::prelude::*;
use std::sync::OnceLock;

fn tokenizer() -> Tokenizer<'static> {
    static BLOB: OnceLock<Vec<u8>> = OnceLock::new();
    let blob = BLOB.get_or_init(|| {
        let mut spec = common_model::tokenizer(true);
        let more = ["?", "!", "。", ",", "\"", "'", "東", "京", "[", "]", "é", "ᄀ", "##ᅡ", "##ᆨ"];
        spec.vocab.extend(more.map(str::to_owned));
        compile_vocab(&spec).expect("the vocabulary compiles")
    });
    Tokenizer::view(blob).expect("a fresh blob opens")
}

fn cut(text: &str, max_tokens: usize, overlap: usize) -> Vec<Chunk> {
    let limits = ChunkLimits::parse(max_tokens, overlap).expect("limits in range");
    chunk(text, limits, &tokenizer(), &mut || false).expect("nobody interrupts")
}

fn texts<'t>(text: &'t str, chunks: &[Chunk]) -> Vec<&'t str> {
    chunks.iter().map(|chunk| &text[chunk.bytes.clone()]).collect()
}

fn tokens(text: &str) -> usize {
    match tokenizer().count(text, &mut || false) {
        Counted::Tokens(tokens) => tokens as usize,
        Counted::Interrupted => panic!("nobody interrupts"),
    }
}

#[test]
fn sentences_stay_whole_where_they_fit() {
    let text = "The cat sat. The dog ran! Did the bird sing? \"The end.\" Yes.";
    // "the" and "ing" are 1 token, other words one a letter, marks one each: 8, 8, 11, 7 and 4.
    let chunks = cut(text, 2 + 18, 0);
    let expected = ["The cat sat. The dog ran! ", "Did the bird sing? \"The end.\" ", "Yes."];
    assert_eq!(texts(text, &chunks), expected);
    assert!(chunks.iter().all(|chunk| chunk.tokens <= 20));
}

#[test]
fn paragraphs_come_before_sentences() {
    let text = "a b c d. e f.\n\ng h i. j k l m n o p";
    let chunks = cut(text, 2 + 12, 0);
    assert_eq!(texts(text, &chunks)[0], "a b c d. e f.\n\n");
}

#[test]
fn ideographic_sentences_need_no_space() {
    let text = "東京東京。東京東京。東京東京東京";
    assert_eq!(texts(text, &cut(text, 2 + 6, 0))[..2], ["東京東京。", "東京東京。"]);
}

#[test]
fn overlap_starts_at_a_sentence_or_a_word_of_the_last_chunk() {
    let text = "a b c d. e f g h. i j k l. m n o p.";
    let chunks = cut(text, 2 + 10, 5);
    let expected = ["a b c d. e f g h. ", "e f g h. i j k l. ", "i j k l. m n o p."];
    assert_eq!(texts(text, &chunks), expected);
    let words = "a b c d e f g h i j k l";
    let chunks = cut(words, 2 + 6, 2);
    assert_eq!(texts(words, &chunks), ["a b c d e f ", "e f g h i j ", "i j k l"]);
}

#[test]
fn a_word_longer_than_a_chunk_is_cut_inside() {
    let text = "ab abcdefghijklmnopqrst cd";
    let chunks = cut(text, 2 + 6, 2);
    assert_eq!(texts(text, &chunks), ["ab ", "abcdef", "ghijkl", "mnopqr", "st cd"]);
    // Past the tokenizer's limit a word is one token.
    let long = "x".repeat(5_000);
    assert_eq!(cut(&long, 8, 0).len(), 1);
}

#[test]
fn blank_text_has_no_chunks_and_white_space_is_kept() {
    assert!(cut(" \n\t\u{200B}", 10, 0).is_empty());
    assert!(cut("", 10, 0).is_empty());
    let text = " \n a  b \n";
    assert_eq!(texts(text, &cut(text, 10, 0)), [text]);
}

#[test]
fn limits_out_of_range_are_refused() {
    assert_eq!(ChunkLimits::parse(7, 0), Err(ChunkError::TooShort(7)));
    assert_eq!(ChunkLimits::parse(12, 6), Err(ChunkError::Overlap { most: 5, got: 6 }));
    assert!(ChunkLimits::parse(usize::MAX, 0).is_ok());
}

#[test]
fn chunking_stops_when_asked() {
    let limits = ChunkLimits::parse(64, 8).expect("limits in range");
    let text = "the ".repeat(1 << 20);
    let result = chunk(&text, limits, &tokenizer(), &mut || true);
    assert_eq!(result, Err(ChunkError::Interrupted));
}

fn text_strategy() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-zA-Z]{1,12}",
        2 => prop::sample::select(vec![" ", "  ", "\n", "\n\n", ". ", "! ", "?\" ", "。", ".\n\n"])
            .prop_map(str::to_owned),
        1 => "\\PC{0,6}",
        1 => prop::collection::vec(any::<char>(), 0..4).prop_map(String::from_iter),
        1 => prop::sample::select(vec![
            "[CLS]", "[MASK]", "[", "\u{AC01}\u{AC01}", "é\u{301}", "\u{302E}\u{1D165}",
            "\u{1D160}", "\u{FA0E}\u{F900}", "東京", "\u{200B}", "\u{301}", "\u{2029}",
        ]).prop_map(str::to_owned),
        1 => (1usize..300).prop_map(|len| "q".repeat(len)),
    ];
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

fn tokenizers() -> &'static [Vec<u8>] {
    static BLOBS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    BLOBS.get_or_init(|| {
        let uncased = common_model::tokenizer(true);
        let plain = TokenizerSpec { clean_text: false, ..common_model::tokenizer(false) };
        [uncased, plain].map(|spec| compile_vocab(&spec).expect("it compiles")).into()
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 3_000, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn chunks_are_the_text_again_and_keep_to_the_models_count(
        text in text_strategy(),
        max_tokens in 8usize..40,
        share in 0usize..=100,
    ) {
        let overlap = (max_tokens - 2) / 2 * share / 100;
        let limits = ChunkLimits::parse(max_tokens, overlap).expect("limits in range");
        for blob in tokenizers() {
            let tokenizer = Tokenizer::view(blob).expect("a fresh blob opens");
            let count = |text: &str| match tokenizer.count(text, &mut || false) {
                Counted::Tokens(tokens) => tokens as usize,
                Counted::Interrupted => panic!("nobody interrupts"),
            };
            for limits in [limits, ChunkLimits::parse(max_tokens, 0).expect("no overlap")] {
                let chunks = chunk(&text, limits, &tokenizer, &mut || false).expect("whole");
                prop_assert_eq!(chunks.is_empty(), tokenizer.is_blank(&text));
                let mut end = 0;
                let mut start = 0;
                for (at, chunk) in chunks.iter().enumerate() {
                    let part = &text[chunk.bytes.clone()];
                    prop_assert_eq!(chunk.tokens, count(part), "{:?} of {:?}", part, text);
                    prop_assert!(chunk.tokens <= max_tokens);
                    prop_assert_eq!(text[..chunk.bytes.start].chars().count(), chunk.chars.start);
                    prop_assert_eq!(part.chars().count(), chunk.chars.len());
                    prop_assert!(chunk.bytes.start <= end && chunk.bytes.end > end);
                    prop_assert!(at == 0 || chunk.bytes.start > start);
                    let shared = count(&text[chunk.bytes.start..end]) - 2;
                    prop_assert!(shared <= overlap, "{} tokens shared in {:?}", shared, text);
                    (start, end) = (chunk.bytes.start, chunk.bytes.end);
                }
                prop_assert!(chunks.is_empty() || end == text.len());
                if limits == ChunkLimits::parse(max_tokens, 0).expect("no overlap") {
                    let again: String = chunks.iter().map(|c| &text[c.bytes.clone()]).collect();
                    prop_assert!(chunks.is_empty() || again == text);
                }
            }
        }
    }
}

#[test]
fn the_real_limit_is_kept_on_a_long_text() {
    let text = "The quick brown fox jumps over the lazy dog. ".repeat(2_000);
    let chunks = cut(&text, 256, 32);
    assert!(chunks.len() > 100);
    for chunk in &chunks {
        assert_eq!(chunk.tokens, tokens(&text[chunk.bytes.clone()]));
        assert!(text[chunk.bytes.clone()].starts_with("The quick"));
    }
}
