//! The tokenizer on any UTF-8: its limits hold, and counting agrees with encoding.
#![no_main]

use std::sync::LazyLock;

use distilface_core::text::{Counted, Tokenizer, TokenizerSpec, compile_vocab};
use libfuzzer_sys::fuzz_target;

/// A cased and an uncased tokenizer over a vocabulary that spells many words and not all.
static BLOBS: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
    [true, false].map(|lowercase| {
        let mut vocab = String::from("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n");
        for piece in ('a'..='z')
            .chain('A'..='M')
            .chain('0'..='9')
            .chain("!?.,\u{e9}\u{4e2d}\u{ac00}".chars())
        {
            vocab.push_str(&format!("{piece}\n##{piece}\n"));
        }
        vocab.push_str("the\n##ing\nun\n##ion\n##able\n");
        let spec =
            TokenizerSpec::from_vocab_txt(&vocab, lowercase).expect("the vocabulary is sound");
        compile_vocab(&spec).expect("the vocabulary is sound")
    })
});

fuzz_target!(|input: (u8, &str)| {
    let (limit, text) = input;
    for blob in BLOBS.iter() {
        let tokenizer = Tokenizer::view(blob).expect("a compiled vocabulary can be opened");
        let mut all = Vec::new();
        let whole = tokenizer.encode(text, usize::MAX, &mut all);
        assert!(!whole.truncated);
        assert!(all.iter().all(|&id| (id as usize) < tokenizer.id_bound()));
        assert_eq!(tokenizer.count(text, &mut || false), Counted::Tokens(all.len() as u64));
        assert_eq!(tokenizer.is_blank(text), all.len() == 2);

        let limit = usize::from(limit).max(2);
        let mut cut = Vec::new();
        let head = tokenizer.encode(text, limit, &mut cut);
        assert_eq!(cut.len(), all.len().min(limit));
        assert_eq!(head.truncated, all.len() > limit);
        assert_eq!(cut[..cut.len() - 1], all[..cut.len() - 1]);
    }
});
