//! The binary form of a vector: only finite values get in, and the same bytes come out.
#![no_main]

use distilface_core::vector::binary;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|message: &[u8]| {
    if let Ok(x) = binary::decode(message) {
        assert!(!x.is_empty() && x.iter().all(|v| v.is_finite()));
        let mut written = Vec::new();
        binary::encode(&x, &mut written);
        assert_eq!(written, message);
    }
});
