//! What the chip gives: AMX bf16 products in registers, nothing loaded or stored.

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

/// None: this is another CPU.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub fn amx_tflops() -> Option<f64> {
    None
}
