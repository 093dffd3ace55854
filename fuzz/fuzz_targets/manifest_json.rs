//! `distilface.json`: a manifest that is accepted survives being written and read.
#![no_main]

use distilface_core::model::Manifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &[u8]| {
    if let Ok(manifest) = Manifest::from_json(json) {
        let again = Manifest::from_json(&manifest.to_json()).expect("what was written can be read");
        assert_eq!(again, manifest);
    }
});
