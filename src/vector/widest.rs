//! Plain loops, compiled anew for each width of vectors that CPUs have.

/// Loops for [`widest`]. What `run` calls is to be `#[inline(always)]`, and so is `run`: only what becomes
/// part of one function is compiled for one instruction set.
pub(crate) trait Loops {
    /// What they make.
    type Output;

    /// Runs them.
    fn run(self) -> Self::Output;
}

/// Runs the loops as compiled for the widest vectors of this CPU. The compiler reorders no floating-point
/// operations, so that the result is the same on each, bit for bit.
#[inline]
pub(crate) fn widest<L: Loops>(loops: L) -> L::Output {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use super::kernels::{Isa, Kernels};

        #[target_feature(enable = "avx512f,avx512bw")]
        fn avx512<L: Loops>(loops: L) -> L::Output {
            loops.run()
        }

        #[target_feature(enable = "avx2")]
        fn avx2<L: Loops>(loops: L) -> L::Output {
            loops.run()
        }

        match Kernels::get().isa() {
            // SAFETY: the CPU has the instructions of its kernels.
            Isa::Avx512Vnni | Isa::Avx512 => return unsafe { avx512(loops) },
            // SAFETY: as above.
            Isa::Avx2Vnni | Isa::Avx2 => return unsafe { avx2(loops) },
            Isa::Neon | Isa::Scalar => {}
        }
    }
    loops.run()
}
