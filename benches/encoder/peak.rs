//! What the chip gives: AMX bf16 products in registers, nothing loaded or stored; and bytes from where
//! they lie, nothing done with them.

/// TFLOP/s of this core, best of a few tries; none without AMX.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub fn amx_tflops() -> Option<f64> {
    use distilface_core::encoder::Kernel;
    use std::arch::asm;

    const LOOPS: u32 = 100_000;
    if !Kernel::AmxBf16.is_available() {
        return None;
    }
    let mut config = [0u8; 64];
    config[0] = 1;
    for tile in 0..8 {
        config[16 + 2 * tile] = 64;
        config[48 + tile] = 16;
    }
    let mut best = 0f64;
    for _ in 0..20 {
        let before = crate::processor_ms();
        // SAFETY: AMX is there and permitted, as `is_available` found; tiles are released again.
        unsafe {
            asm!(
                "ldtilecfg [{config}]",
                "2:",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "dec {loops:e}",
                "jnz 2b",
                "tilerelease",
                config = in(reg) config.as_ptr(),
                loops = inout(reg) LOOPS => _,
                options(nostack, readonly),
            );
        }
        let ms = crate::processor_ms() - before;
        best = best.max(f64::from(LOOPS) * 4.0 * 16_384.0 / ms / 1e9);
    }
    Some(best)
}

/// Milliseconds of reading these bytes once, best of a few tries: in order, and as three parts side by
/// side, which keeps the prefetcher busy across the ends of pages.
pub fn stream_ms(bytes: &[u8]) -> f64 {
    let lines = bytes.as_chunks::<64>().0;
    let third = lines.len() / 3;
    let mut best = f64::MAX;
    for _ in 0..10 {
        let before = crate::processor_ms();
        let mut sum = 0u64;
        for line in lines {
            sum = sum.wrapping_add(first_word(line));
        }
        let between = crate::processor_ms();
        for i in 0..third {
            for part in 0..3 {
                sum = sum.wrapping_add(first_word(&lines[part * third + i]));
            }
        }
        std::hint::black_box(sum);
        best = best.min(between - before).min(crate::processor_ms() - between);
    }
    best
}

fn first_word(line: &[u8; 64]) -> u64 {
    u64::from_le_bytes(*line.first_chunk().expect("a line has eight bytes"))
}

/// None: this is another CPU.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub fn amx_tflops() -> Option<f64> {
    None
}
