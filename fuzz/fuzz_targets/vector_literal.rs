//! A vector literal: whatever is read can be written and read again, to the same bits.
#![no_main]

use distilface_core::vector::literal;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    if let Ok(x) = literal::parse(text) {
        assert!(!x.is_empty() && x.iter().all(|v| v.is_finite()));
        let mut written = Vec::new();
        literal::write(&x, &mut written);
        let again = literal::parse(&written).expect("what was written can be read");
        assert!(
            x.iter().zip(&again).all(|(a, b)| a.to_bits() == b.to_bits()) && x.len() == again.len()
        );
    }
});
