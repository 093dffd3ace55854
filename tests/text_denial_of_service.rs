//! Texts that were made to hurt: the tokenizer's memory stays small whatever comes, and counting
//! can be stopped (reliability test 20).

mod common_model;

use common_model::tokenizer;
use distilface_core::text::{Counted, Encoded, Tokenizer, compile_vocab};

/// Memory beyond the text itself, in bytes.
const MAX_GROWTH: u64 = 16 << 20;

#[test]
fn hostile_texts_cost_no_memory_and_give_their_tokens() {
    let blob = compile_vocab(&tokenizer(true)).expect("the vocabulary compiles");
    let tokenizer = Tokenizer::view(&blob).expect("it opens");
    let mb = 1 << 20;
    // What it is, the text, how many tokens it has (None: many), whether it is blank.
    let texts: [(&str, String, Option<u64>); 10] = [
        ("100 MB of words", "the cat ".repeat(100 * mb / 8), None),
        ("1 MB without a space", "a".repeat(mb), Some(1)),
        ("100 MB without a space", "a".repeat(100 * mb), Some(1)),
        ("1 MB of combining marks", "\u{301}".repeat(mb / 2), Some(0)),
        ("1 MB of marks that stay, out of order", "\u{302E}\u{1D165}".repeat(mb / 7), Some(1)),
        ("a letter under 1 MB of marks", format!("a{}", "\u{302E}\u{301}".repeat(mb / 5)), Some(1)),
        ("100 MB of spaces", " ".repeat(100 * mb), Some(0)),
        ("1 MB of removed characters", "\u{200B}\0\u{FFFD}".repeat(mb / 7), Some(0)),
        ("1 MB of opening brackets", "[".repeat(mb), Some(mb as u64)),
        ("every scalar value", (0..=0x10_FFFF).filter_map(char::from_u32).collect(), None),
    ];
    let before = resident("VmRSS");
    for (name, text, tokens) in &texts {
        let mut ids = Vec::new();
        let encoded = tokenizer.encode(text, 512, &mut ids);
        let counted = tokenizer.count(text, &mut || false);
        match tokens {
            Some(tokens) => {
                assert_eq!(counted, Counted::Tokens(tokens + 2), "{name}");
                let kept = (tokens + 2).min(512) as usize;
                assert_eq!(encoded, Encoded { tokens: kept, truncated: *tokens > 510 }, "{name}");
                assert_eq!(tokenizer.is_blank(text), *tokens == 0, "{name}");
            }
            None => {
                assert_eq!(encoded, Encoded { tokens: 512, truncated: true }, "{name}");
                assert!(matches!(counted, Counted::Tokens(513..)), "{name}: {counted:?}");
                assert!(!tokenizer.is_blank(text), "{name}");
            }
        }
    }
    if let (Some(before), Some(peak)) = (before, resident("VmHWM")) {
        let growth = peak.saturating_sub(before);
        assert!(growth <= MAX_GROWTH, "memory grew by {growth} bytes");
    }
}

#[test]
fn counting_stops_when_asked() {
    let blob = compile_vocab(&tokenizer(true)).expect("the vocabulary compiles");
    let tokenizer = Tokenizer::view(&blob).expect("it opens");
    let text = "the ".repeat(1 << 20);
    let mut asked = 0;
    let counted = tokenizer.count(&text, &mut || {
        asked += 1;
        asked == 3
    });
    assert_eq!((counted, asked), (Counted::Interrupted, 3));
    let mut asked = 0;
    tokenizer.count(&"a".repeat(1 << 20), &mut || {
        asked += 1;
        false
    });
    assert_eq!(asked, 15, "a word of a megabyte is interruptible as well");
}

/// Memory of this process, in bytes, where Linux tells it.
fn resident(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.trim_matches([':', ' ', '\t', 'k', 'B']).trim().parse::<u64>().ok()? << 10)
}
