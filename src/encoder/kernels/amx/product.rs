//! Products: blocks of sums, finished by AVX-512 while the next block multiplies.
//!
//! A block is four tiles of sums: 32 rows by 32 columns in bf16, 16 rows in two bytes each by 32
//! columns in int8 (`integer`). They go through 4 KB of scratch. Activations are streamed past the
//! first cache, and so is a panel of weights after its first 32 KB; the next panel is asked for line
//! by line while this one is at work. No step branches on data, so that tiles of one block are under
//! way while the one before ends.

use super::{store_bf16, tile_dot, tile_load, tile_store, tile_zero};
use crate::encoder::kernels::Input;
use crate::encoder::weights::Linear;
use std::arch::asm;
use std::arch::x86_64::*;

/// What happens to 32 columns of a row of sums, bias added.
pub(super) trait Finish: Copy {
    /// # Safety
    /// The row and the panel lie inside the output; the CPU has AVX-512 with BF16.
    unsafe fn put(self, row: usize, panel: usize, lo: __m512, hi: __m512);
}

#[derive(Clone, Copy)]
pub(super) struct Store(pub *mut u16, pub usize);
#[derive(Clone, Copy)]
pub(super) struct Gelu(pub *mut u16, pub usize);
#[derive(Clone, Copy)]
pub(super) struct Add(pub *mut f32, pub usize);

impl Finish for Store {
    #[inline(always)]
    unsafe fn put(self, row: usize, panel: usize, lo: __m512, hi: __m512) {
        // SAFETY: inside the output, says the caller.
        unsafe { store_bf16(self.0.add((panel * self.1 + row) * 32), lo, hi) }
    }
}

impl Finish for Gelu {
    #[inline(always)]
    unsafe fn put(self, row: usize, panel: usize, lo: __m512, hi: __m512) {
        // SAFETY: inside the output, says the caller.
        unsafe {
            store_bf16(self.0.add((panel * self.1 + row) * 32), gelu(lo), gelu(hi));
        }
    }
}

impl Finish for Add {
    #[inline(always)]
    unsafe fn put(self, row: usize, panel: usize, lo: __m512, hi: __m512) {
        // SAFETY: inside the output, says the caller.
        unsafe {
            let p = self.0.add(row * self.1 + panel * 32);
            _mm512_storeu_ps(p, _mm512_add_ps(_mm512_loadu_ps(p), lo));
            _mm512_storeu_ps(p.add(16), _mm512_add_ps(_mm512_loadu_ps(p.add(16)), hi));
        }
    }
}

/// x·Φ(x) for results that are rounded to bf16: absolute error below 8e-5 everywhere.
///
/// As [`gelu`](super::lanes::gelu), with degree 7 on ±4.125 and Φ exact at both ends.
#[inline(always)]
unsafe fn gelu(x: __m512) -> __m512 {
    const P: [f32; 8] = [
        1.708_121_9e-1,
        -8.263_587e-2,
        5.602_083_7e-2,
        -3.737_180_6e-2,
        2.313_108e-2,
        -1.550_741e-2,
        9.900_23e-3,
        -3.137_13e-3,
    ];
    // SAFETY: the callers' CPU has AVX-512.
    unsafe {
        let splat = |v| _mm512_set1_ps(v);
        // The lesser magnitude of the two, with the sign of x.
        let c = _mm512_range_ps::<0b0010>(x, splat(4.125));
        let s = _mm512_fmadd_ps(_mm512_mul_ps(c, c), splat(2.0 / (4.125 * 4.125)), splat(-1.0));
        let mut p = splat(P[7]);
        let mut i = 7;
        while i > 0 {
            i -= 1;
            p = _mm512_fmadd_ps(p, s, splat(P[i]));
        }
        _mm512_mul_ps(x, _mm512_fmadd_ps(c, p, splat(0.5)))
    }
}

/// Sums of a block: four tiles.
#[repr(C, align(64))]
struct Sums([f32; 1024]);

/// What is multiplied: how a step does it, and how the sums of a block are read.
pub(super) trait Numbers: Copy {
    /// Rows of a block.
    const ROWS: usize;
    /// What a panel's sums need to become results.
    type Affine: Copy;

    /// # Safety
    /// There is such a panel; the CPU has AVX-512.
    unsafe fn affine(&self, panel: usize) -> Self::Affine;

    /// 32 results of row `row` of a block whose first is `first`.
    ///
    /// # Safety
    /// The row lies in the block, the block's first in the input; the CPU has AVX-512.
    unsafe fn results(
        &self,
        sums: *const f32,
        first: usize,
        row: usize,
        affine: &Self::Affine,
    ) -> (__m512, __m512);

    /// Adds the products of two tiles of activations (one unless `TALL`) with two of weights, which
    /// stay in the first cache if `NEAR`.
    ///
    /// # Safety
    /// The tiles are readable and configured.
    unsafe fn step<const TALL: bool, const NEAR: bool>(a: *const u8, b: *const u8);
}

/// Where the operands of a product lie.
#[derive(Clone, Copy)]
pub(super) struct Operands {
    /// The first block of activations, and the bytes from block to block and from step to step.
    pub a: *const u8,
    pub block: usize,
    pub step: usize,
    pub rows: usize,
    /// The first panel of weights, and the bytes from panel to panel.
    pub b: *const u8,
    pub panel: usize,
    pub panels: usize,
    pub steps: usize,
}

/// One step of four products; weights by `$load`.
macro_rules! step {
    ($dot:literal, $tall:expr, $load:literal, $a:expr, $b:expr) => {
        if $tall {
            asm!(
                "tileloaddt1 tmm4, [{a} + {s}*1]",
                concat!($load, " tmm6, [{b} + {s}*1]"),
                concat!($load, " tmm7, [{b} + {s}*1 + 1024]"),
                "tileloaddt1 tmm5, [{a} + {s}*1 + 1024]",
                concat!($dot, " tmm0, tmm4, tmm6"),
                concat!($dot, " tmm1, tmm4, tmm7"),
                concat!($dot, " tmm2, tmm5, tmm6"),
                concat!($dot, " tmm3, tmm5, tmm7"),
                a = in(reg) $a, b = in(reg) $b, s = in(reg) 64usize,
                options(nostack, preserves_flags, readonly)
            )
        } else {
            asm!(
                "tileloaddt1 tmm4, [{a} + {s}*1]",
                concat!($load, " tmm6, [{b} + {s}*1]"),
                concat!($load, " tmm7, [{b} + {s}*1 + 1024]"),
                concat!($dot, " tmm0, tmm4, tmm6"),
                concat!($dot, " tmm1, tmm4, tmm7"),
                a = in(reg) $a, b = in(reg) $b, s = in(reg) 64usize,
                options(nostack, preserves_flags, readonly)
            )
        }
    };
}
pub(super) use step;

/// bf16 by bf16.
#[derive(Clone, Copy)]
struct Halves<'a>(&'a Linear<'a>);

impl Numbers for Halves<'_> {
    const ROWS: usize = 32;
    /// Bias.
    type Affine = [__m512; 2];

    #[inline(always)]
    unsafe fn affine(&self, panel: usize) -> [__m512; 2] {
        // SAFETY: the panel's 32 columns, says the caller.
        unsafe { bias(self.0, panel) }
    }

    #[inline(always)]
    unsafe fn results(
        &self,
        sums: *const f32,
        _first: usize,
        row: usize,
        bias: &[__m512; 2],
    ) -> (__m512, __m512) {
        // SAFETY: a row of 32 sums, says the caller.
        unsafe {
            let at = sums.add(row * 32);
            let lo = _mm512_add_ps(_mm512_load_ps(at), bias[0]);
            (lo, _mm512_add_ps(_mm512_load_ps(at.add(16)), bias[1]))
        }
    }

    #[inline(always)]
    unsafe fn step<const TALL: bool, const NEAR: bool>(a: *const u8, b: *const u8) {
        // SAFETY: the caller's promise is the same as ours.
        unsafe {
            if NEAR {
                step!("tdpbf16ps", TALL, "tileloadd", a, b)
            } else {
                step!("tdpbf16ps", TALL, "tileloaddt1", a, b)
            }
        }
    }
}

/// Bias of a panel.
#[inline(always)]
pub(super) unsafe fn bias(layer: &Linear<'_>, panel: usize) -> [__m512; 2] {
    // SAFETY: 16 values from each half of 32; the CPU has AVX-512, say the callers.
    unsafe {
        layer.bias.map_or([_mm512_setzero_ps(); 2], |values| {
            let values = &values[panel * 32..][..32];
            [_mm512_loadu_ps(values.as_ptr()), _mm512_loadu_ps(values.as_ptr().add(16))]
        })
    }
}

/// Activations times weights in bf16.
///
/// # Safety
/// AVX-512 with BF16, tiles configured; operands as `linear` asserts.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn product<F: Finish>(
    input: Input<'_, u16>,
    tiles: &[u16],
    layer: &Linear<'_>,
    finish: F,
) {
    let w = &layer.weight;
    let mut operands = Operands {
        a: input.data[input.first * 32..].as_ptr().cast(),
        block: 32 * 64,
        step: input.stride * 64,
        rows: input.rows,
        b: tiles[w.from * 32..].as_ptr().cast(),
        panel: w.k * 64,
        panels: w.n / 32,
        steps: w.inputs / 32,
    };
    // SAFETY: `linear` asserted that rows, panels and steps lie inside the operands; a tile of
    // activations may reach past `rows`, never past `stride`.
    unsafe {
        let mut first = 0;
        if input.rows <= 16 {
            // Bound by the memory: three streams of weights keep more of it busy than one.
            let mut sums = [const { Sums([0.0; 1024]) }; 3];
            while first + 3 <= operands.panels {
                let b = [0, 1, 2].map(|i| operands.b.add((first + i) * operands.panel).cast());
                three_panels(
                    input.data.as_ptr().add(input.first * 32),
                    input.stride * 32,
                    b,
                    operands.steps,
                    &mut sums,
                );
                for (i, sums) in sums.iter().enumerate() {
                    let (panel, numbers) = (first + i, Halves(layer));
                    let affine = numbers.affine(panel);
                    let sums = sums.0.as_ptr();
                    Pending { sums, row: 0, panel, affine, numbers, finish }.finish(0, input.rows);
                }
                first += 3;
            }
        }
        operands.b = operands.b.add(first * operands.panel);
        multiply(&operands, first, Halves(layer), finish);
    }
}

/// A block whose sums wait to be finished.
#[derive(Clone, Copy)]
struct Pending<N: Numbers, F> {
    sums: *const f32,
    row: usize,
    panel: usize,
    affine: N::Affine,
    numbers: N,
    finish: F,
}

impl<N: Numbers, F: Finish> Pending<N, F> {
    /// Finishes `rows` rows from `first` on.
    #[inline(always)]
    unsafe fn finish(&self, first: usize, rows: usize) {
        for row in first..first + rows {
            // SAFETY: `blocks` made the block from rows and a panel inside the operands.
            unsafe {
                let (lo, hi) = self.numbers.results(self.sums, self.row, row, &self.affine);
                self.finish.put(self.row + row, self.panel, lo, hi);
            }
        }
    }
}

/// Steps of a panel that the first cache keeps, 32 KB; the rest passes it by, as activations do.
const NEAR: usize = 16;

/// Down each panel from the operands' first, which is the output's `panel`, block by block of rows.
///
/// # Safety
/// AVX-512 with BF16, tiles configured; rows, panels and steps lie inside operands and output.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn multiply<N: Numbers, F: Finish>(
    operands: &Operands,
    panel: usize,
    numbers: N,
    finish: F,
) {
    // How many of the steps there are, at the least, is how often a share of the block before is
    // finished.
    // SAFETY: as ours.
    unsafe {
        match operands.steps.min(NEAR) {
            16.. => blocks::<N, F, 16>(operands, panel, numbers, finish),
            8.. => blocks::<N, F, 8>(operands, panel, numbers, finish),
            4.. => blocks::<N, F, 4>(operands, panel, numbers, finish),
            2.. => blocks::<N, F, 2>(operands, panel, numbers, finish),
            _ => blocks::<N, F, 1>(operands, panel, numbers, finish),
        }
    }
}

/// [`multiply`], where each of the first `BUSY` steps finishes its share of the block before.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn blocks<N: Numbers, F: Finish, const BUSY: usize>(
    o: &Operands,
    first_panel: usize,
    numbers: N,
    finish: F,
) {
    let mut sums = [const { Sums([0.0; 1024]) }; 2];
    let mut work = Work {
        step: o.step,
        steps: o.steps,
        ahead: std::ptr::null(),
        // The next panel comes from the third cache while this one is at work: a few lines at each
        // step, all of them by the panel's end.
        pairs_a_step: 16usize.div_ceil(o.rows.div_ceil(N::ROWS).max(1)),
    };
    let mut pending: Option<Pending<N, F>> = None;
    let mut place = 0;
    // SAFETY: rows, panels and steps lie inside the operands, says the caller.
    unsafe {
        for panel in first_panel..o.panels {
            let b = o.b.add((panel - first_panel) * o.panel);
            work.ahead = b.wrapping_add(o.panel);
            let affine = numbers.affine(panel);
            for row in (0..o.rows).step_by(N::ROWS) {
                let rows = N::ROWS.min(o.rows - row);
                let a = o.a.add(row / N::ROWS * o.block);
                let out = sums[place].0.as_mut_ptr();
                // Sums of int8 need both tiles of activations, which are parts of the same rows.
                let tall = rows > 16 || N::ROWS == 16;
                let share = N::ROWS / BUSY;
                match pending {
                    Some(before) if tall => {
                        let finish = |step| before.finish(step * share, share);
                        work.block::<N, true>(a, b, out, BUSY, finish);
                    }
                    Some(before) => {
                        let finish = |step| before.finish(step * share, share);
                        work.block::<N, false>(a, b, out, BUSY, finish);
                    }
                    None if tall => work.block::<N, true>(a, b, out, 0, |_| ()),
                    None => work.block::<N, false>(a, b, out, 0, |_| ()),
                }
                let block = Pending { sums: out, row, panel, affine, numbers, finish };
                if rows == N::ROWS {
                    pending = Some(block);
                    place ^= 1;
                } else {
                    block.finish(0, rows);
                    pending = None;
                }
            }
        }
        if let Some(last) = pending {
            last.finish(0, N::ROWS);
        }
    }
}

/// What goes from block to block.
struct Work {
    /// Bytes of activations from step to step.
    step: usize,
    steps: usize,
    /// The next line of weights to ask for.
    ahead: *const u8,
    pairs_a_step: usize,
}

impl Work {
    /// Multiplies a block, and calls `meanwhile` at each of the first `busy` steps.
    #[inline(always)]
    unsafe fn block<N: Numbers, const TALL: bool>(
        &mut self,
        mut a: *const u8,
        mut b: *const u8,
        out: *mut f32,
        busy: usize,
        meanwhile: impl Fn(usize),
    ) {
        // SAFETY: as in `blocks`.
        unsafe {
            tile_zero!(0, 1, 2, 3);
            let near = self.steps.min(NEAR);
            for step in 0..busy {
                N::step::<TALL, true>(a, b);
                self.prefetch();
                meanwhile(step);
                a = a.wrapping_add(self.step);
                b = b.wrapping_add(2048);
            }
            for _ in busy..near {
                N::step::<TALL, true>(a, b);
                self.prefetch();
                a = a.wrapping_add(self.step);
                b = b.wrapping_add(2048);
            }
            for _ in near..self.steps {
                N::step::<TALL, false>(a, b);
                self.prefetch();
                a = a.wrapping_add(self.step);
                b = b.wrapping_add(2048);
            }
            let stride = 128usize;
            tile_store!(0, out, stride);
            tile_store!(1, out.add(16), stride);
            if TALL {
                tile_store!(2, out.add(512), stride);
                tile_store!(3, out.add(528), stride);
            }
        }
    }

    #[inline(always)]
    unsafe fn prefetch(&mut self) {
        for _ in 0..self.pairs_a_step {
            // SAFETY: a prefetch reads nothing.
            unsafe {
                _mm_prefetch::<_MM_HINT_T1>(self.ahead.cast());
                _mm_prefetch::<_MM_HINT_T1>(self.ahead.wrapping_add(64).cast());
            }
            self.ahead = self.ahead.wrapping_add(128);
        }
    }
}

/// Up to 16 rows times three panels at once.
#[inline(always)]
unsafe fn three_panels(
    a: *const u16,
    panel_stride: usize,
    b: [*const u16; 3],
    steps: usize,
    out: &mut [Sums; 3],
) {
    // SAFETY: as in `product`.
    unsafe {
        tile_zero!(0, 1, 2, 3, 4, 5);
        three_panel_steps(a, panel_stride, b, steps);
        three_panel_sums(out);
    }
}

#[inline(always)]
unsafe fn three_panel_steps(
    mut a: *const u16,
    panel_stride: usize,
    mut b: [*const u16; 3],
    steps: usize,
) {
    for _ in 0..steps {
        // SAFETY: as in `product`.
        unsafe {
            tile_load!(6, a);
            tile_load!(7, b[0]);
            tile_dot!(0, 6, 7);
            tile_load!(7, b[1]);
            tile_dot!(2, 6, 7);
            tile_load!(7, b[2]);
            tile_dot!(4, 6, 7);
            tile_load!(7, b[0].add(512));
            tile_dot!(1, 6, 7);
            tile_load!(7, b[1].add(512));
            tile_dot!(3, 6, 7);
            tile_load!(7, b[2].add(512));
            tile_dot!(5, 6, 7);
            a = a.add(panel_stride);
            b = b.map(|b| b.wrapping_add(1024));
        }
    }
}

#[inline(always)]
unsafe fn three_panel_sums(out: &mut [Sums; 3]) {
    let stride = 128usize;
    // SAFETY: each is 32 rows of 32, of which two tiles take the first 16.
    unsafe {
        let at = out[0].0.as_mut_ptr();
        tile_store!(0, at, stride);
        tile_store!(1, at.add(16), stride);
        let at = out[1].0.as_mut_ptr();
        tile_store!(2, at, stride);
        tile_store!(3, at.add(16), stride);
        let at = out[2].0.as_mut_ptr();
        tile_store!(4, at, stride);
        tile_store!(5, at.add(16), stride);
    }
}
