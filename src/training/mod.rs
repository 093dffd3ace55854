//! Kernels of training: matrix products and the rowwise stages of a transformer, each with its
//! derivative.
//!
//! The trainer writes the encoder's forward and backward pass over these; they are here because
//! they need SIMD and its `unsafe`, as the encoder's own kernels do. Behind the feature `training`,
//! so that the extension carries none of it.
//!
//! - [`product`] multiplies f32 matrices, transposed or not, in f32 (the gemm crate's kernels) or
//!   with both factors rounded to bfloat16 and sums in f32 (AMX tiles; where the CPU has none, in
//!   f32).
//! - [`attention`], [`gelu`], [`LayerNorm`], [`dropout`] and their derivatives run on the widest vectors that the
//!   CPU has.
//!
//! Every function computes the same bits for the same input on one machine, whatever runs beside
//! it: nothing here starts threads.

mod amx;
mod attention;
mod dropout;
mod matrix;
mod memory;
mod rows;
#[cfg(test)]
mod tests;

pub use attention::{AttentionShape, attention, attention_backward};
pub use dropout::{DropoutKey, dropout, dropout_mask, mix};
pub use matrix::{Into, Matrix, Packed, Products, product};
pub use memory::keep_freed_memory;
pub use rows::{AdamStep, LayerNorm, adam_step, add, add_bias, dot, gelu, multiply, sum_rows};
