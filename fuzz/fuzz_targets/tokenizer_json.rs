//! `tokenizer.json`: a description that is accepted compiles or is refused, and what it compiles to tokenizes.
#![no_main]

use distilface_core::text::{Tokenizer, TokenizerSpec, compile_vocab};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &[u8]| {
    let Ok(spec) = TokenizerSpec::from_json(json) else { return };
    // Compiling walks all of Unicode, thousands of times as long as reading: one in sixteen inputs.
    if !json.len().is_multiple_of(16) {
        return;
    }
    if let Ok(blob) = compile_vocab(&spec) {
        let tokenizer = Tokenizer::view(&blob).expect("a compiled vocabulary can be opened");
        let mut ids = Vec::new();
        tokenizer.encode("The quick brown f\u{f6}x, \u{4e2d}\u{6587} [MASK]", 64, &mut ids);
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.id_bound()));
    }
});
