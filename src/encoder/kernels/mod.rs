//! The stages of the forward pass, for every instruction set, chosen at run time.
//!
//! A stage works on a whole batch of rows. [`Stages`] is the seam: [`generic`] implements it for
//! f32 activations over any [`lanes::Lanes`], [`amx`] for bf16 activations on tiles. Each method is
//! the safe wrapper: it asserts lengths once and then enters code compiled for its set.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
mod generic;
mod integer;
#[cfg(target_arch = "x86_64")]
mod integer_x86;
mod lanes;
#[cfg(target_arch = "aarch64")]
mod lanes_neon;
#[cfg(target_arch = "x86_64")]
mod lanes_x86;
#[cfg(test)]
mod tests;

use crate::encoder::weights::{Dims, Embeddings, Linear, Norm, Values};
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::OnceLock;

pub(crate) use integer::codes_scratch;
pub(crate) use lanes::{from_bf16, to_bf16};

/// This thread's AMX tiles, configured until the value is dropped.
///
/// # Panics
/// If the CPU lacks them.
#[cfg(all(feature = "training", target_arch = "x86_64", target_os = "linux"))]
pub(crate) fn enter_tiles() -> impl Sized {
    <amx::Amx as Stages>::enter()
}

/// An instruction set that the forward pass is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// AMX tiles in bf16, AVX-512 around them.
    AmxBf16,
    /// AVX-512, f32 activations.
    Avx512,
    /// AVX2 and FMA, f32 activations.
    Avx2,
    /// 64-bit ARM's NEON, f32 activations.
    Neon,
    /// Plain Rust, f32 activations.
    Portable,
}

impl Kernel {
    /// Every kernel, fastest first.
    pub const ALL: [Kernel; 5] =
        [Kernel::AmxBf16, Kernel::Avx512, Kernel::Avx2, Kernel::Neon, Kernel::Portable];

    /// The fastest that this CPU has; found once per process.
    ///
    /// `DISTILFACE_KERNEL` set to `amx`, `avx512`, `avx2`, `neon` or `portable` asks for one of
    /// them; one that the CPU lacks is ignored.
    pub fn best() -> Kernel {
        static BEST: OnceLock<Kernel> = OnceLock::new();
        *BEST.get_or_init(|| {
            let asked = std::env::var("DISTILFACE_KERNEL").ok();
            let asked = asked.and_then(|name| Self::ALL.into_iter().find(|k| k.name() == name));
            let usable = |k: &Kernel| k.is_available();
            asked
                .filter(usable)
                .or_else(|| Self::ALL.into_iter().find(usable))
                .unwrap_or(Kernel::Portable)
        })
    }

    /// Its name in `DISTILFACE_KERNEL` and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::AmxBf16 => "amx",
            Kernel::Avx512 => "avx512",
            Kernel::Avx2 => "avx2",
            Kernel::Neon => "neon",
            Kernel::Portable => "portable",
        }
    }

    /// Whether this CPU and operating system run it. For AMX this asks Linux, once, for the right
    /// to use tiles.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Kernel::AmxBf16 => Kernel::Avx512.is_available() && amx::is_available(),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "aarch64")]
            Kernel::Neon => true,
            Kernel::Portable => true,
            #[allow(unreachable_patterns)] // Which kernels remain depends on the target.
            _ => false,
        }
    }
}

/// Rows `first..first + rows` of activations that are kept for `stride` rows.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a, T> {
    pub data: &'a [T],
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "only AMX lays activations out by it")
    )]
    pub stride: usize,
    pub first: usize,
    pub rows: usize,
}

/// Where a product goes, from row 0.
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "only AMX lays activations out by a stride")
)]
pub(crate) enum Output<'a, T> {
    /// Sum and bias, as activations.
    Store { data: &'a mut [T], stride: usize },
    /// GELU of sum and bias, as activations.
    Gelu { data: &'a mut [T], stride: usize },
    /// Sum and bias added to the row-major residual.
    Add(&'a mut [f32]),
}

/// The stages on one instruction set. How activations are laid out is the implementation's own;
/// residuals are f32, row-major, `hidden_padded` wide.
///
/// A value is the proof that the CPU has the set, and for AMX that this thread's tiles are
/// configured until it is dropped; it stays on its thread.
pub(crate) trait Stages: Sized {
    /// An activation.
    type Act: bytemuck::Pod;

    /// Gets ready on this thread.
    ///
    /// # Panics
    /// If the CPU lacks the set; [`Kernel::is_available`] tells.
    fn enter() -> Self;

    /// Rows to keep space for, so that `rows` can be worked on.
    fn stride(rows: usize) -> usize;
    /// Bytes of scratch for the attention of texts of up to `longest` tokens.
    fn attention_scratch(d: &Dims, longest: usize) -> usize;
    /// Word plus position rows of one text, before the norm.
    fn embed(&self, e: &Embeddings<'_>, ids: &[u32], x: &mut [f32]);
    /// `input` times the layer's weights. For int8 weights, `scratch` holds the input's codes:
    /// [`codes_scratch`] bytes.
    fn linear(
        &self,
        input: Input<'_, Self::Act>,
        layer: &Linear<'_>,
        output: Output<'_, Self::Act>,
        scratch: &mut [f32],
    );
    /// Attention of the text at rows `span`, from Q, K and V side by side.
    fn attention(
        &self,
        qkv: &[Self::Act],
        stride: usize,
        span: Range<usize>,
        d: &Dims,
        context: &mut [Self::Act],
        scratch: &mut [f32],
    );
    /// Layer norm of every row of `x`, in place and as activations.
    fn layer_norm(
        &self,
        x: &mut [f32],
        norm: &Norm<'_>,
        d: &Dims,
        act: &mut [Self::Act],
        stride: usize,
    );
}

/// Implements [`Stages`] with the generic code: `$cols` registers of `$lanes` a block of columns,
/// compiled with `$attr`; products of int8 with `$dots`, or with what `$better` finds this CPU to
/// have beyond the set.
macro_rules! stages {
    ($name:ident, $kernel:expr, $lanes:ty, $cols:literal, $dots:ty, $better:expr, $(#[$attr:meta])*) => {
        pub(crate) struct $name(PhantomData<*const ()>);

        impl Stages for $name {
            type Act = f32;

            fn stride(rows: usize) -> usize {
                rows
            }

            fn attention_scratch(d: &Dims, longest: usize) -> usize {
                4 * generic::attention_scratch(d, longest)
            }

            fn enter() -> Self {
                assert!($kernel.is_available(), "the CPU lacks {}", $kernel.name());
                $name(PhantomData)
            }

            fn embed(&self, e: &Embeddings<'_>, ids: &[u32], x: &mut [f32]) {
                $(#[$attr])*
                unsafe fn inner(e: &Embeddings<'_>, ids: &[u32], x: &mut [f32]) {
                    generic::embed(e, ids, 0, x);
                }
                // SAFETY: `enter` made `self`, so that the CPU has the set.
                unsafe { inner(e, ids, x) }
            }

            fn linear(
                &self,
                input: Input<'_, f32>,
                layer: &Linear<'_>,
                output: Output<'_, f32>,
                scratch: &mut [f32],
            ) {
                $(#[$attr])*
                unsafe fn floats(input: Input<'_, f32>, l: &Linear<'_>, output: Output<'_, f32>) {
                    // SAFETY: compiled for the set; the code checks lengths.
                    unsafe { generic::linear::<$lanes, $cols>(input, l, output) }
                }
                $(#[$attr])*
                unsafe fn codes(
                    input: Input<'_, f32>,
                    l: &Linear<'_>,
                    output: Output<'_, f32>,
                    scratch: &mut [f32],
                ) {
                    // SAFETY: compiled for the set; the code checks lengths.
                    unsafe { integer::linear::<$dots, $cols>(input, l, output, scratch) }
                }
                // SAFETY: `enter` made `self`, so that the CPU has the set; `$better` only says
                // yes where the CPU has its own.
                unsafe {
                    match layer.weight.values {
                        Values::Bf16(_) => floats(input, layer, output),
                        Values::Int8 { .. } => {
                            if let Some(better) = $better() {
                                return better(input, layer, output, scratch);
                            }
                            codes(input, layer, output, scratch)
                        }
                    }
                }
            }

            fn attention(
                &self,
                qkv: &[f32],
                _stride: usize,
                span: Range<usize>,
                d: &Dims,
                context: &mut [f32],
                scratch: &mut [f32],
            ) {
                $(#[$attr])*
                unsafe fn inner(
                    qkv: &[f32],
                    span: Range<usize>,
                    d: &Dims,
                    context: &mut [f32],
                    scratch: &mut [f32],
                ) {
                    // SAFETY: compiled for the set; the code checks lengths.
                    unsafe {
                        generic::attention::<$lanes, $cols>(qkv, span, d, context, scratch);
                    }
                }
                // SAFETY: `enter` made `self`, so that the CPU has the set.
                unsafe { inner(qkv, span, d, context, scratch) }
            }

            fn layer_norm(
                &self,
                x: &mut [f32],
                norm: &Norm<'_>,
                d: &Dims,
                act: &mut [f32],
                _stride: usize,
            ) {
                $(#[$attr])*
                unsafe fn inner(x: &mut [f32], norm: &Norm<'_>, d: &Dims, act: &mut [f32]) {
                    // SAFETY: compiled for the set; the code checks lengths.
                    unsafe { generic::layer_norm::<$lanes>(x, norm, d, act) }
                }
                // SAFETY: `enter` made `self`, so that the CPU has the set.
                unsafe { inner(x, norm, d, act) }
            }
        }
    };
}

/// A product of int8 weights by an instruction set of its own.
type Codes = unsafe fn(Input<'_, f32>, &Linear<'_>, Output<'_, f32>, &mut [f32]);

#[cfg(target_arch = "x86_64")]
stages!(Avx512, Kernel::Avx512, lanes_x86::Avx512, 2, integer_x86::Avx512, integer_x86::vnni512, #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]);
#[cfg(target_arch = "x86_64")]
stages!(Avx2, Kernel::Avx2, lanes_x86::Avx2, 2, integer_x86::Avx2, integer_x86::vnni256, #[target_feature(enable = "avx2,fma")]);
#[cfg(target_arch = "aarch64")]
stages!(Neon, Kernel::Neon, lanes_neon::Neon, 4, lanes_neon::Neon, no_better, #[target_feature(enable = "neon")]);
stages!(Portable, Kernel::Portable, lanes::Portable, 2, lanes::Portable, no_better,);

fn no_better() -> Option<Codes> {
    None
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) use amx::Amx;
