//! A weights file: whatever is accepted has every tensor inside the file, of the size that its shape says.
#![no_main]

use distilface_core::model::SafeTensors;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(file) = SafeTensors::from_bytes(bytes.to_vec()) {
        for name in file.names() {
            let tensor = file.get(name).expect("a listed tensor is there");
            let elements: usize = tensor.shape.iter().product();
            assert_eq!(tensor.data.len(), elements * tensor.dtype.size());
        }
    }
});
