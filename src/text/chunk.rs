//! Long texts into chunks that a model takes whole, cut where a reader would.
//!
//! A text is a row of *pieces*: a word, a punctuation mark or a special token, with the white
//! space behind it. Tokens do not reach across pieces, so that a chunk of whole pieces has the sum
//! of their tokens, and one pass over the text finds every cut. A chunk is filled as far as the
//! limit goes and then cut back to the last end of a paragraph in its second half, else to the
//! last end of a sentence in its last three quarters, else to white space, else between pieces.
//!
//! Chunks without overlap are the text again when they are put together, white space and all.
//! Only a word that alone exceeds the limit is cut inside, at the last character that fits; a
//! word past the tokenizer's own limit of characters is one token and stays whole.
//!
//! Memory is bounded by the limit, time is linear.

use std::collections::VecDeque;
use std::ops::Range;

use super::tokenizer::{Counted, Tokenizer};

/// Fewest tokens that a limit may allow: one character can be three, beside the two markers.
const MIN_TOKENS: usize = 8;
/// The two tokens around every sequence.
const MARKERS: usize = 2;

/// How long chunks are, in tokens as the model counts them, `[CLS]` and `[SEP]` included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkLimits {
    room: usize,
    overlap: usize,
}

/// Why a text was not cut.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// The limit leaves no room for every character.
    #[error("max_tokens: expected at least {MIN_TOKENS}, got {0}")]
    TooShort(usize),
    /// Chunks would hold little but what the last one held.
    #[error(
        "overlap: expected at most {most}, half of max_tokens without its 2 markers, got {got}"
    )]
    Overlap { most: usize, got: usize },
    /// The interrupt check asked to stop.
    #[error("chunking was interrupted")]
    Interrupted,
}

impl ChunkLimits {
    /// Chunks of at most `max_tokens`, each starting with up to `overlap` tokens of the last.
    ///
    /// # Errors
    /// [`ChunkError::TooShort`] and [`ChunkError::Overlap`]
    pub fn parse(max_tokens: usize, overlap: usize) -> Result<ChunkLimits, ChunkError> {
        if max_tokens < MIN_TOKENS {
            return Err(ChunkError::TooShort(max_tokens));
        }
        let room = max_tokens - MARKERS;
        if overlap > room / 2 {
            return Err(ChunkError::Overlap { most: room / 2, got: overlap });
        }
        Ok(ChunkLimits { room, overlap })
    }
}

/// A part of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Its place in bytes.
    pub bytes: Range<usize>,
    /// Its place in characters.
    pub chars: Range<usize>,
    /// Its tokens, `[CLS]` and `[SEP]` included.
    pub tokens: usize,
}

/// Cuts a text. Blank text has no chunks.
///
/// `interrupt` is asked every 64 KiB of text whether to stop.
///
/// # Errors
/// [`ChunkError::Interrupted`]
pub fn chunk(
    text: &str,
    limits: ChunkLimits,
    tokenizer: &Tokenizer,
    interrupt: &mut dyn FnMut() -> bool,
) -> Result<Vec<Chunk>, ChunkError> {
    let mut cutter = Cutter {
        text,
        limits,
        tokenizer,
        pieces: VecDeque::new(),
        tokens: 0,
        fresh: 0,
        counted: (0, 0),
        chunks: Vec::new(),
    };
    // A piece is complete when the next one starts, because two can start at one character.
    let mut last: Option<(Range<usize>, usize)> = None;
    let whole = tokenizer.walk(text, interrupt, &mut |ids, place| {
        match &mut last {
            Some((piece, tokens)) if piece.start == place.start => {
                piece.end = place.end;
                *tokens += ids.len();
            }
            _ => {
                if let Some((piece, tokens)) = last.replace((place, ids.len())) {
                    cutter.take(piece, tokens);
                }
            }
        }
        true
    });
    if !whole {
        return Err(ChunkError::Interrupted);
    }
    if let Some((piece, tokens)) = last {
        cutter.take(piece, tokens);
    }
    cutter.finish();
    Ok(cutter.chunks)
}

/// How good a place before a piece is to cut at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Boundary {
    /// Between a word and a mark.
    Piece,
    /// After white space.
    Word,
    /// After a sentence.
    Sentence,
    /// After an empty line.
    Paragraph,
    /// Inside a word that is too long: cut here, and never chunk across.
    Forced,
}

#[derive(Debug, Clone, Copy)]
struct Piece {
    /// Where it starts, in bytes and characters.
    byte: usize,
    char: usize,
    tokens: usize,
    /// The cut before it.
    boundary: Boundary,
}

struct Cutter<'c, 'm> {
    text: &'c str,
    limits: ChunkLimits,
    tokenizer: &'c Tokenizer<'m>,
    /// The chunk under way; the first piece starts it.
    pieces: VecDeque<Piece>,
    /// Tokens of `pieces`.
    tokens: usize,
    /// Pieces at the front that the last chunk has as well.
    fresh: usize,
    /// A byte position and the number of characters before it.
    counted: (usize, usize),
    chunks: Vec<Chunk>,
}

impl Cutter<'_, '_> {
    /// Takes the next piece, in parts where it is longer than a chunk.
    fn take(&mut self, place: Range<usize>, tokens: usize) {
        let boundary = self.boundary(place.start);
        if tokens <= self.limits.room {
            return self.push(place.start, tokens, boundary);
        }
        let (mut start, mut boundary) = (place.start, boundary);
        while start < place.end {
            let (end, tokens) = self.longest_part(start..place.end);
            self.push(start, tokens, boundary);
            (start, boundary) = (end, Boundary::Forced);
        }
    }

    /// The end of the longest part, growing character by character, that fits a chunk.
    fn longest_part(&self, place: Range<usize>) -> (usize, usize) {
        let mut fits = (place.end, 0);
        for (at, c) in self.text[place.clone()].char_indices() {
            let end = place.start + at + c.len_utf8();
            let tokens = match self.tokenizer.count(&self.text[place.start..end], &mut || false) {
                Counted::Tokens(tokens) => tokens as usize - MARKERS,
                Counted::Interrupted => 0,
            };
            if tokens > self.limits.room {
                break;
            }
            fits = (end, tokens);
        }
        fits
    }

    fn push(&mut self, byte: usize, tokens: usize, boundary: Boundary) {
        // The first piece takes what is before it along.
        let byte = if self.chunks.is_empty() && self.pieces.is_empty() { 0 } else { byte };
        let between = &self.text[self.counted.0..byte];
        self.counted = (byte, self.counted.1 + between.chars().count());
        let piece = Piece { byte, char: self.counted.1, tokens, boundary };
        while boundary == Boundary::Forced && !self.pieces.is_empty() {
            self.cut(self.pieces.len(), piece);
        }
        while self.tokens + tokens > self.limits.room {
            let at = self.best_cut(piece);
            self.cut(at, piece);
        }
        self.pieces.push_back(piece);
        self.tokens += tokens;
    }

    /// Before which of `pieces`, or of `next` behind them, the chunk under way should end.
    fn best_cut(&self, next: Piece) -> usize {
        let room = self.limits.room;
        let mut before = self.tokens;
        let mut best = (self.pieces.len(), Boundary::Piece);
        for at in (self.fresh + 1..=self.pieces.len()).rev() {
            let piece = self.pieces.get(at).unwrap_or(&next);
            if at < self.pieces.len() {
                before -= piece.tokens;
            }
            let boundary = match piece.boundary {
                Boundary::Paragraph if 2 * before < room => Boundary::Sentence,
                other => other,
            };
            let boundary = match boundary {
                Boundary::Sentence if 4 * before < room => Boundary::Word,
                other => other,
            };
            if boundary > best.1 {
                best = (at, boundary);
            }
        }
        best.0
    }

    /// Ends the chunk under way before piece `at`, and starts the next one.
    fn cut(&mut self, at: usize, next: Piece) {
        let end = *self.pieces.get(at).unwrap_or(&next);
        let tokens: usize = self.pieces.range(..at).map(|piece| piece.tokens).sum();
        self.emit((end.byte, end.char), tokens);
        // The next chunk must reach past this one, so there is room for the piece behind the cut.
        let most = self.limits.overlap.min(self.limits.room - end.tokens.min(self.limits.room));
        let (mut start, mut kept) = (at, 0);
        let mut best = (at, Boundary::Piece);
        while end.boundary != Boundary::Forced && start > 1 {
            let piece = self.pieces[start - 1];
            if kept + piece.tokens > most || piece.boundary == Boundary::Forced {
                break;
            }
            (start, kept) = (start - 1, kept + piece.tokens);
            let boundary = piece.boundary.min(Boundary::Sentence);
            if boundary >= best.1 {
                best = (start, boundary);
            }
        }
        self.pieces.drain(..best.0);
        self.fresh = at - best.0;
        self.tokens = self.pieces.iter().map(|piece| piece.tokens).sum();
    }

    fn emit(&mut self, end: (usize, usize), tokens: usize) {
        if let Some(first) = self.pieces.front() {
            self.chunks.push(Chunk {
                bytes: first.byte..end.0,
                chars: first.char..end.1,
                tokens: tokens + MARKERS,
            });
        }
    }

    fn finish(&mut self) {
        let chars = self.counted.1 + self.text[self.counted.0..].chars().count();
        self.emit((self.text.len(), chars), self.tokens);
    }

    /// What lies before the piece at `at`.
    fn boundary(&self, at: usize) -> Boundary {
        let before = &self.text[..at];
        let trimmed = before.trim_end();
        let gap = &before[trimmed.len()..];
        if gap.matches('\n').nth(1).is_some() || gap.contains('\u{2029}') {
            return Boundary::Paragraph;
        }
        let closed = trimmed.trim_end_matches(['"', '\'', ')', ']', '”', '’', '»']);
        let ideographic = trimmed.ends_with(['。', '！', '？']);
        let sentence = closed.ends_with(['.', '!', '?', '…', '。', '！', '？']);
        if ideographic || (sentence && !gap.is_empty()) {
            Boundary::Sentence
        } else if gap.is_empty() {
            Boundary::Piece
        } else {
            Boundary::Word
        }
    }
}
