//! PostgreSQL's hash of bytes, the one that its own types use.

unsafe extern "C" {
    // Neither raises an error, so that no guard is needed around them.
    fn hash_bytes(key: *const u8, length: i32) -> u32;
    fn hash_bytes_extended(key: *const u8, length: i32, seed: u64) -> u64;
}

/// `hash_bytes`, for a hash operator class's first function.
pub fn hash(bytes: &[u8]) -> u32 {
    // SAFETY: reads `length` bytes.
    unsafe { hash_bytes(bytes.as_ptr(), length(bytes)) }
}

/// `hash_bytes_extended`, for its second function.
pub fn hash_extended(bytes: &[u8], seed: u64) -> u64 {
    // SAFETY: reads `length` bytes.
    unsafe { hash_bytes_extended(bytes.as_ptr(), length(bytes), seed) }
}

fn length(bytes: &[u8]) -> i32 {
    i32::try_from(bytes.len()).unwrap_or(i32::MAX)
}
