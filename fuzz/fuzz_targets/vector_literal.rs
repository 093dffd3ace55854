//! A vector literal: whatever is read can be printed and read again, to the same bits.
#![no_main]

use distilface_core::vector::literal;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    if let Ok(x) = literal::parse(text) {
        assert!(!x.is_empty() && x.iter().all(|v| v.is_finite()));
        let digits: Vec<String> = x.iter().map(|v| format!("{v:e}")).collect();
        let printed = format!("[{}]", digits.join(","));
        let again = literal::parse(printed.as_bytes()).expect("what was printed can be read");
        assert!(
            x.iter().zip(&again).all(|(a, b)| a.to_bits() == b.to_bits()) && x.len() == again.len()
        );
    }
});
