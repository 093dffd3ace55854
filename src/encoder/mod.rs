//! The encoder: texts to vectors on a CPU.
//!
//! [`SentenceEncoder`] is what callers use: a packed model opened in place, its tokenizer, one call
//! for any number of texts. Below it, [`Encoder`] takes token ids; [`TokenBatch`] holds texts end to
//! end without padding; [`Context`] keeps a caller's buffers, threads and hooks; [`Weights`]
//! is the checked view of the packed bytes. The forward pass (`forward`) is written once over the
//! stages of an instruction set (`kernels`), which is chosen at run time.
//!
//! What holds throughout:
//! - A text's vector is the same bits alone, in any batch, in any order and on any number of
//!   threads: every stage computes a row, or a text, in an order that depends on nothing else.
//!   It does depend on the [`Kernel`], within rounding.
//! - No token is computed that is not a text's.
//! - Nothing allocates in proportion to the number of texts but the results.
//! - Blank text has no vector, never a zero one.
//!
//! `reference` is the same pass on candle in f32, behind the feature `candle`; with the feature `cuda`
//! it runs on a GPU, from the packed weights (`unpack`).
//!
//! The folder's README draws the packed bytes and says how each stage is computed.

mod batch;
mod context;
mod cross;
mod forward;
mod kernels;
mod model;
mod pool;
#[cfg(feature = "candle")]
mod reference;
mod sentence;
#[cfg(test)]
mod tests;
#[cfg(feature = "candle")]
mod unpack;
mod weights;

pub use batch::TokenBatch;
pub use context::{Context, Done};
pub use cross::{ScoreError, Scored};
pub use kernels::Kernel;
#[cfg(all(feature = "training", target_arch = "x86_64", target_os = "linux"))]
pub(crate) use kernels::enter_tiles;
pub use model::{Encoder, Normalization};
#[cfg(feature = "candle")]
pub use reference::{Reference, ReferenceError, cuda_device};
pub use sentence::{Embedded, InputKind, SentenceEncoder, pack_model, pack_model_with};
pub use weights::{Weights, pack_weights};

/// Why texts have no vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The context's hook asked to stop.
    #[error("embedding was canceled")]
    Canceled,
    /// A text has no tokens, not even the markers around it.
    #[error("text {text}: expected at least 1 token, got 0")]
    Empty { text: usize },
    /// A text has more tokens than the model has positions.
    #[error("text {text}: expected at most {most} tokens, got {got}")]
    TooLong { text: usize, most: usize, got: usize },
    /// A token id without a row in the embedding.
    #[error("text {text}: expected token ids below {rows}, got {id}")]
    UnknownToken { text: usize, id: u32, rows: usize },
}
