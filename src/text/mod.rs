//! Text to token ids: BERT's tokenizer, ours from end to end.
//!
//! The pipeline is the one of Hugging Face `tokenizers` 0.23 (`BertNormalizer`,
//! `BertPreTokenizer`, `WordPiece`), and its ids are the same ids on any string: clean the text,
//! put spaces around CJK ideographs, decompose (NFD), strip nonspacing marks, lowercase, split at
//! white space and around punctuation, then match each word greedily against the vocabulary.
//!
//! A tokenizer is compiled once ([`compile_vocab`]) into a blob that [`Tokenizer::view`] reads in
//! place. The blob holds the vocabulary as a double-array trie and, for every code point, what the
//! normalizer makes of it. So opening costs microseconds, and the Unicode version is a property of
//! the model: a newer compiler's tables move no vector.
//!
//! Text is streamed. A word longer than the model's limit is `[UNK]` whatever it holds, so state
//! is bounded by that limit, and [`Tokenizer::encode`] stops reading soon after its last token.
//! The one step of the pipeline that looks beyond a single character, NFD's reordering of
//! combining marks, is done by insertion into the word under way; marks are reordered only within
//! the word, because every separator is a starter.

mod chunk;
mod spec;
mod tokenizer;
mod trie;
mod unicode;
mod vocab;

pub use chunk::{Chunk, ChunkError, ChunkLimits, chunk};
pub use spec::TokenizerSpec;
pub use tokenizer::{Counted, Encoded, Tokenizer};
pub use vocab::compile_vocab;

/// Tokens that a compiled vocabulary can hold.
pub const MAX_VOCAB: usize = 1 << 20;

/// Why a tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The description is not well-formed JSON of the expected form.
    #[error("tokenizer description: {0}")]
    Json(#[from] serde_json::Error),
    /// The description calls for something other than BERT's tokenizer.
    #[error("unsupported tokenizer {part}: expected {expected}, got {got}")]
    Unsupported { part: &'static str, expected: &'static str, got: String },
    /// A value is out of its range.
    #[error("tokenizer {part}: expected {expected}, got {got}")]
    Invalid { part: &'static str, expected: String, got: String },
    /// The compiled form is damaged or of another version.
    #[error("compiled vocabulary: expected {expected}, got {got}")]
    Blob { expected: &'static str, got: String },
}
