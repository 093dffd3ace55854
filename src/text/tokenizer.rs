//! The tokenizer at work: one pass over the text, a word at a time.
//!
//! [`Walker`] keeps the word under way as normalized UTF-8. At a word's end the piece matcher walks
//! the trie for the longest first piece, then for the longest later piece, and so on; a word that
//! does not come out even is `[UNK]`. A word past the model's character limit is reported at once
//! and skipped to its end, so no input makes the state grow.

use std::ops::Range;

use super::TextError;
use super::trie::Trie;
use super::unicode::{FIRST_MAPPING, Mapped, class};
use super::vocab::{FIRST_PIECE, LATER_PIECE, Parts};

/// Bytes of text between two calls of an interrupt check.
const INTERRUPT_BYTES: usize = 64 << 10;

/// A tokenizer over a compiled vocabulary.
pub struct Tokenizer<'m> {
    parts: Parts<'m>,
    /// `parts.ascii`, decoded.
    ascii: [u16; 128],
    first_root: u64,
    later_root: u64,
    /// ASCII characters that an added token starts with.
    added_starts: u128,
}

/// What [`Tokenizer::encode`] wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoded {
    /// Ids written, `[CLS]` and `[SEP]` included; 2 means that the text has no token.
    pub tokens: usize,
    /// Whether the text had more tokens than were asked for.
    pub truncated: bool,
}

/// What [`Tokenizer::count`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Tokens of the whole text, `[CLS]` and `[SEP]` included.
    Tokens(u64),
    /// The interrupt check asked to stop.
    Interrupted,
}

impl<'m> Tokenizer<'m> {
    /// Opens a blob of [`super::compile_vocab`], in microseconds and without a copy.
    ///
    /// Header and section sizes are checked here. What is inside the sections is checked at each
    /// access instead: a damaged blob can give wrong ids, all below [`Tokenizer::id_bound`].
    ///
    /// # Errors
    /// [`TextError::Blob`]
    pub fn view(blob: &'m [u8]) -> Result<Tokenizer<'m>, TextError> {
        let parts = Parts::view(blob)?;
        let mut ascii = [0; 128];
        for (code, bytes) in ascii.iter_mut().zip(parts.ascii.as_chunks().0) {
            *code = u16::from_le_bytes(*bytes);
        }
        let mut added_starts = 0u128;
        for byte in 0..128u8 {
            let mut rest = parts.added;
            while let Some((head, tail)) = rest.split_at_checked(6) {
                let len = usize::from(u16::from_le_bytes([head[4], head[5]]));
                if tail.first() == Some(&byte) {
                    added_starts |= 1 << byte;
                }
                rest = tail.get(len..).unwrap_or(&[]);
            }
        }
        let root = parts.trie.root();
        let first_root = parts.trie.child(root, FIRST_PIECE).unwrap_or(0);
        let later_root = parts.trie.child(root, LATER_PIECE).unwrap_or(0);
        Ok(Tokenizer { parts, ascii, first_root, later_root, added_starts })
    }

    /// Every id that comes out is below this.
    pub fn id_bound(&self) -> usize {
        self.parts.id_bound as usize
    }

    /// Appends the ids of `text` to `out`: `[CLS]`, its tokens, `[SEP]`, at most `max_tokens` in
    /// all (2 where less is asked for).
    ///
    /// Reads no further than the first token that does not fit.
    pub fn encode(&self, text: &str, max_tokens: usize, out: &mut Vec<u32>) -> Encoded {
        let start = out.len();
        let room = max_tokens.saturating_sub(2);
        let mut truncated = false;
        out.push(self.parts.cls);
        self.walk(text, &mut || false, &mut |ids, _| {
            let left = room - (out.len() - start - 1);
            truncated = ids.len() > left;
            out.extend_from_slice(&ids[..ids.len().min(left)]);
            !truncated
        });
        out.push(self.parts.sep);
        Encoded { tokens: out.len() - start, truncated }
    }

    /// Counts the tokens of the whole text, `[CLS]` and `[SEP]` included, in linear time.
    ///
    /// `interrupt` is asked every 64 KiB whether to stop.
    pub fn count(&self, text: &str, interrupt: &mut dyn FnMut() -> bool) -> Counted {
        let mut tokens = 2;
        let whole = self.walk(text, interrupt, &mut |ids, _| {
            tokens += ids.len() as u64;
            true
        });
        if whole { Counted::Tokens(tokens) } else { Counted::Interrupted }
    }

    /// Whether nothing but `[CLS]` and `[SEP]` would come out: white space, control characters
    /// and bare combining marks.
    ///
    /// Reads no further than the first token.
    pub fn is_blank(&self, text: &str) -> bool {
        self.walk(text, &mut || false, &mut |_, _| false)
    }

    /// Hands each word's ids and its place in the text to `sink` until that returns false. Whether
    /// the end was reached.
    ///
    /// A word past the character limit is handed over when it reaches the limit, so its place ends
    /// there. Two words can come of one character, and then start at one place.
    pub(super) fn walk(
        &self,
        text: &str,
        interrupt: &mut dyn FnMut() -> bool,
        sink: &mut Sink,
    ) -> bool {
        let mut walker = Walker {
            tokenizer: self,
            sink,
            word: Vec::with_capacity(4 * self.parts.max_word_chars + 16),
            chars: 0,
            run: Vec::new(),
            skipping: false,
            stopped: false,
            ids: Vec::with_capacity(self.parts.max_word_chars),
            start: 0,
            here: 0,
            next: 0,
        };
        let mut at = 0;
        while at < text.len() {
            let until = text.ceil_char_boundary(at.saturating_add(INTERRUPT_BYTES));
            at = walker.feed(text, at, until);
            if walker.stopped || (at < text.len() && interrupt()) {
                return false;
            }
        }
        (walker.here, walker.next) = (text.len(), text.len());
        walker.end_word();
        !walker.stopped
    }
}

/// Takes a word's ids and its place; false to stop.
pub(super) type Sink<'s> = dyn FnMut(&[u32], Range<usize>) -> bool + 's;

struct Walker<'t, 'm> {
    tokenizer: &'t Tokenizer<'m>,
    sink: &'t mut Sink<'t>,
    /// The word so far, normalized.
    word: Vec<u8>,
    /// Characters in `word`.
    chars: usize,
    /// The nonstarters at the word's end: canonical combining class and length in bytes. NFD
    /// wants them sorted by class, equal ones in their order.
    run: Vec<(u8, u8)>,
    /// The word is past the limit and has been reported.
    skipping: bool,
    /// The sink wants no more.
    stopped: bool,
    ids: Vec<u32>,
    /// Where the word under way starts.
    start: usize,
    /// Where the character under way starts and ends.
    here: usize,
    next: usize,
}

impl Walker<'_, '_> {
    /// Takes the text from `at` to `until`, or a little further where an added token lies across.
    fn feed(&mut self, text: &str, mut at: usize, until: usize) -> usize {
        let bytes = text.as_bytes();
        while at < until && !self.stopped {
            let byte = bytes[at];
            if !byte.is_ascii() {
                let c = text[at..].chars().next().expect("at is below the text's length");
                (self.here, self.next) = (at, at + c.len_utf8());
                at = self.next;
                self.push_char(c);
                continue;
            }
            let code = self.tokenizer.ascii[usize::from(byte)];
            match code >> 8 {
                class::WORD => at = self.push_ascii_run(bytes, at, until),
                class::SPACE => {
                    self.here = at;
                    self.end_word();
                    at += 1;
                }
                class::ISOLATED => {
                    (self.here, self.next) = (at, at + 1);
                    if self.tokenizer.added_starts >> byte & 1 == 1
                        && let Some((id, len)) = self.tokenizer.parts.added_at(&bytes[at..])
                    {
                        self.end_word();
                        (self.start, self.next) = (at, at + len);
                        self.emit(&[id]);
                        at += len;
                        continue;
                    }
                    self.push_isolated(u32::from(code & 0xFF));
                    at += 1;
                }
                _ => at += 1,
            }
        }
        at
    }

    /// The fast path: ASCII letters and digits up to the next other character.
    #[inline(always)]
    fn push_ascii_run(&mut self, bytes: &[u8], mut at: usize, until: usize) -> usize {
        self.run.clear();
        if self.chars == 0 {
            self.start = at;
        }
        let limit = self.tokenizer.parts.max_word_chars;
        while let Some(&byte) = bytes[..until].get(at) {
            let Some(&code) = self.tokenizer.ascii.get(usize::from(byte)) else { break };
            if code >> 8 != class::WORD {
                break;
            }
            at += 1;
            if self.chars < limit {
                self.word.push(code as u8);
                self.chars += 1;
            } else {
                self.here = at;
                self.overflow();
            }
        }
        at
    }

    fn push_char(&mut self, c: char) {
        let parts = &self.tokenizer.parts;
        let code_point = c as u32;
        let block = parts.index.get(code_point as usize / 128).copied().unwrap_or_default();
        let at = usize::from(u16::from_le_bytes(block)) * 128 + code_point as usize % 128;
        let class = u16::from_le_bytes(parts.classes.get(at).copied().unwrap_or_default());
        match class {
            class::WORD | class::BARRIER | class::SPACE | class::ISOLATED => {
                self.push(class, code_point, 0);
            }
            class::HANGUL => self.push_hangul(code_point),
            FIRST_MAPPING.. => {
                let mapping = usize::from(class - FIRST_MAPPING);
                let Some(&[start, end]) = parts
                    .offsets
                    .get(mapping..mapping + 2)
                    .map(|ends| [u32::from_le_bytes(ends[0]), u32::from_le_bytes(ends[1])])
                    .as_ref()
                else {
                    return;
                };
                for mapped in parts.mapped.get(start as usize..end as usize).unwrap_or(&[]) {
                    let mapped = Mapped(u32::from_le_bytes(*mapped));
                    self.push(mapped.class(), mapped.code_point(), mapped.ccc());
                }
            }
            _ => {}
        }
    }

    /// Unicode 3.12, "Hangul Syllable Decomposition".
    fn push_hangul(&mut self, code_point: u32) {
        let index = code_point.wrapping_sub(0xAC00);
        self.push(class::WORD, 0x1100 + index / 588, 0);
        self.push(class::WORD, 0x1161 + index % 588 / 28, 0);
        if !index.is_multiple_of(28) {
            self.push(class::WORD, 0x11A7 + index % 28, 0);
        }
    }

    fn push(&mut self, class: u16, code_point: u32, ccc: u8) {
        match class {
            class::WORD => self.push_word_char(code_point, ccc),
            class::BARRIER => self.run.clear(),
            class::SPACE => self.end_word(),
            class::ISOLATED => self.push_isolated(code_point),
            _ => {}
        }
    }

    fn push_isolated(&mut self, code_point: u32) {
        self.end_word();
        self.push_word_char(code_point, 0);
        self.end_word();
    }

    fn push_word_char(&mut self, code_point: u32, ccc: u8) {
        if self.chars >= self.tokenizer.parts.max_word_chars {
            return self.overflow();
        }
        let mut utf8 = [0; 4];
        let c = char::from_u32(code_point).unwrap_or(char::REPLACEMENT_CHARACTER);
        let utf8 = c.encode_utf8(&mut utf8).as_bytes();
        if self.chars == 0 {
            self.start = self.here;
        }
        self.chars += 1;
        if ccc == 0 {
            self.run.clear();
            self.word.extend_from_slice(utf8);
            return;
        }
        let place = self.run.iter().rposition(|&(other, _)| other <= ccc).map_or(0, |p| p + 1);
        let behind: usize = self.run[place..].iter().map(|&(_, len)| usize::from(len)).sum();
        let at = self.word.len() - behind;
        self.word.splice(at..at, utf8.iter().copied());
        self.run.insert(place, (ccc, utf8.len() as u8));
    }

    #[cold]
    fn overflow(&mut self) {
        if !self.skipping {
            self.skipping = true;
            self.emit(&[self.tokenizer.parts.unk]);
        }
    }

    fn end_word(&mut self) {
        if self.chars == 0 {
            self.run.clear();
            return;
        }
        if !self.skipping && !self.stopped {
            self.match_pieces();
        }
        self.word.clear();
        self.run.clear();
        self.chars = 0;
        self.skipping = false;
    }

    /// Greedy longest match first (Wu et al. 2016; Devlin et al. 2019).
    fn match_pieces(&mut self) {
        let tokenizer = self.tokenizer;
        let trie = tokenizer.parts.trie;
        self.ids.clear();
        let mut rest: &[u8] = &self.word;
        let mut root = tokenizer.first_root;
        while !rest.is_empty() {
            let Some((len, id)) = longest_piece(trie, root, rest) else {
                self.ids.clear();
                self.ids.push(tokenizer.parts.unk);
                break;
            };
            self.ids.push(id.min(tokenizer.parts.id_bound - 1));
            rest = &rest[len..];
            root = tokenizer.later_root;
        }
        let place = self.place();
        self.stopped = !(self.sink)(&self.ids, place);
    }

    fn emit(&mut self, ids: &[u32]) {
        if !self.stopped {
            let place = self.place();
            self.stopped = !(self.sink)(ids, place);
        }
    }

    /// Of the word that ends now: before the character under way, or with it where it is all.
    fn place(&self) -> Range<usize> {
        self.start..if self.start == self.here { self.next } else { self.here }
    }
}

#[inline(always)]
fn longest_piece(trie: Trie, root: u64, word: &[u8]) -> Option<(usize, u32)> {
    let mut unit = root;
    let mut longest = None;
    for (at, &byte) in word.iter().enumerate() {
        match trie.child(unit, byte) {
            Some(child) => unit = child,
            None => break,
        }
        if let Some(id) = Trie::id(unit) {
            longest = Some((at + 1, id));
        }
    }
    longest
}
