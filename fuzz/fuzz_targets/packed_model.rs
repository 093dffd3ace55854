//! A packed model: any bytes are refused, or every section lies inside them.
#![no_main]

use distilface_core::model::Packed;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(packed) = Packed::open(bytes) {
        assert!(packed.bytes().len() <= bytes.len());
        let _ = packed.verify();
        let _ = packed.manifest();
        if let Ok(tokenizer) = packed.tokenizer() {
            let mut ids = Vec::new();
            tokenizer.encode("the quick brown fox", 16, &mut ids);
        }
    }
});
