//! A damaged compiled vocabulary is refused or gives ids below its bound; it is never read past its end.
#![no_main]

use distilface_core::text::Tokenizer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|blob: &[u8]| {
    if let Ok(tokenizer) = Tokenizer::view(blob) {
        let mut ids = Vec::new();
        tokenizer.encode(
            "the Quick br\u{f6}wn \u{4e2d}\u{6587} \u{ac00}\u{301} [MASK] fox!",
            64,
            &mut ids,
        );
        assert!(ids.len() <= 64);
    }
});
