//! The compiled vocabulary: one blob, read in place.
//!
//! | bytes | content |
//! |---|---|
//! | 0–7 | magic and version, `DFVOCAB` 1 |
//! | 8–11 | flags: bit 0 canonical decomposition by arithmetic for Hangul |
//! | 12–31 | ids below this, `[CLS]`, `[SEP]`, `[UNK]`, `max_input_chars_per_word` |
//! | 32–79 | offset and length in bytes of the six sections |
//! | then | sections, each at a multiple of eight: block index (u16), classes (u16), mapping offsets (u32), mapped characters (u32), trie units (u64), added tokens |
//! | last 256 bytes | the 128 ASCII characters (u16) |
//!
//! All integers are little-endian u32 where not said otherwise. The trie's keys are `0x00 token`
//! for a word's first piece and `0x01 piece` for the others, without their `##`. An added token is
//! its id, its length (u16) and its bytes; they are sorted by length, longest first.

use super::spec::TokenizerSpec;
use super::trie;
use super::unicode::{BLOCKS, CharTable};
use super::{MAX_VOCAB, TextError};

const MAGIC: [u8; 8] = *b"DFVOCAB\x01";
const HEADER: usize = 80;
const SECTIONS: usize = 6;
const ASCII: usize = 256;

/// First byte of a trie key for a word's first piece.
pub(super) const FIRST_PIECE: u8 = 0;
/// First byte of a trie key for a later piece.
pub(super) const LATER_PIECE: u8 = 1;

/// Compiles a tokenizer to the blob that [`super::Tokenizer::view`] reads.
///
/// # Errors
/// [`TextError::Invalid`] and [`TextError::Unsupported`] as for reading a description.
pub fn compile_vocab(spec: &TokenizerSpec) -> Result<Vec<u8>, TextError> {
    spec.check()?;
    let table = CharTable::build(spec);
    let mut keys: Vec<(Vec<u8>, u32)> = Vec::with_capacity(spec.vocab.len());
    for (id, token) in spec.vocab.iter().enumerate() {
        let (first, piece) = match token.strip_prefix("##") {
            Some(piece) if !piece.is_empty() => (LATER_PIECE, piece),
            _ => (FIRST_PIECE, token.as_str()),
        };
        if !piece.is_empty() {
            keys.push(([&[first], piece.as_bytes()].concat(), id as u32));
        }
    }
    keys.sort_unstable();
    let units = trie::build(&keys).ok_or_else(|| TextError::Invalid {
        part: "vocabulary",
        expected: "tokens that fit the trie".to_owned(),
        got: format!("{} tokens", spec.vocab.len()),
    })?;

    let mut added = Vec::new();
    let mut by_length: Vec<&(String, u32)> = spec.added.iter().collect();
    by_length.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
    for (text, id) in by_length {
        added.extend_from_slice(&id.to_le_bytes());
        added.extend_from_slice(&(text.len() as u16).to_le_bytes());
        added.extend_from_slice(text.as_bytes());
    }

    let u16s = |values: &[u16]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let sections: [Vec<u8>; SECTIONS] = [
        u16s(&table.index),
        u16s(&table.classes),
        table.offsets.iter().flat_map(|v| v.to_le_bytes()).collect(),
        table.mapped.iter().flat_map(|v| v.0.to_le_bytes()).collect(),
        units.iter().flat_map(|v| v.to_le_bytes()).collect(),
        added,
    ];
    let mut blob = MAGIC.to_vec();
    let fields = [
        u32::from(spec.strip_accents()),
        spec.id_bound() as u32,
        spec.cls,
        spec.sep,
        spec.unk,
        spec.max_input_chars_per_word as u32,
    ];
    blob.extend(fields.iter().flat_map(|v| v.to_le_bytes()));
    let mut offset = HEADER;
    for section in &sections {
        blob.extend_from_slice(&(offset as u32).to_le_bytes());
        blob.extend_from_slice(&(section.len() as u32).to_le_bytes());
        offset += section.len().next_multiple_of(8);
    }
    for section in &sections {
        blob.extend_from_slice(section);
        blob.resize(blob.len().next_multiple_of(8), 0);
    }
    blob.extend(u16s(&table.ascii));
    Ok(blob)
}

/// The blob's parts, sizes checked.
pub(super) struct Parts<'m> {
    pub id_bound: u32,
    pub cls: u32,
    pub sep: u32,
    pub unk: u32,
    pub max_word_chars: usize,
    pub index: &'m [[u8; 2]],
    pub classes: &'m [[u8; 2]],
    pub offsets: &'m [[u8; 4]],
    pub mapped: &'m [[u8; 4]],
    pub trie: trie::Trie<'m>,
    pub added: &'m [u8],
    pub ascii: &'m [u8; ASCII],
}

impl<'m> Parts<'m> {
    pub(super) fn view(blob: &'m [u8]) -> Result<Parts<'m>, TextError> {
        let wrong = |expected, got: String| TextError::Blob { expected, got };
        if blob.len() < HEADER + ASCII || !blob.starts_with(&MAGIC) {
            let head = &blob[..blob.len().min(8)];
            return Err(wrong("magic DFVOCAB 1", format!("{} bytes, {head:02x?}", blob.len())));
        }
        let words: &[[u8; 4]] = blob[8..HEADER].as_chunks().0;
        let word = |at: usize| u32::from_le_bytes(words[at]);
        let section = |at: usize| {
            let (start, len) = (word(6 + 2 * at) as usize, word(7 + 2 * at) as usize);
            let end = start.checked_add(len).filter(|&end| end <= blob.len() - ASCII);
            end.and_then(|end| blob.get(start..end))
                .ok_or_else(|| wrong("sections inside the blob", format!("{start} + {len}")))
        };
        let parts = Parts {
            id_bound: word(1),
            cls: word(2),
            sep: word(3),
            unk: word(4),
            max_word_chars: word(5) as usize,
            index: section(0)?.as_chunks().0,
            classes: section(1)?.as_chunks().0,
            offsets: section(2)?.as_chunks().0,
            mapped: section(3)?.as_chunks().0,
            trie: trie::Trie::view(section(4)?),
            added: section(5)?,
            ascii: blob.last_chunk().expect("the length was checked above"),
        };
        let ids = [parts.cls, parts.sep, parts.unk];
        if parts.id_bound as usize > MAX_VOCAB || ids.iter().any(|&id| id >= parts.id_bound) {
            return Err(wrong("ids in range", format!("{ids:?} of {}", parts.id_bound)));
        }
        if !(1..=1 << 10).contains(&parts.max_word_chars) {
            return Err(wrong("1 to 1024 characters a word", parts.max_word_chars.to_string()));
        }
        if parts.index.len() != BLOCKS {
            return Err(wrong("a class for every code point", parts.index.len().to_string()));
        }
        Ok(parts)
    }

    /// The added token that `text` starts with; the longest, as they are sorted so.
    pub(super) fn added_at(&self, text: &[u8]) -> Option<(u32, usize)> {
        let mut rest = self.added;
        while let Some((head, tail)) = rest.split_at_checked(6) {
            let id = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
            let len = usize::from(u16::from_le_bytes([head[4], head[5]]));
            let (token, tail) = tail.split_at_checked(len)?;
            if len > 0 && id < self.id_bound && text.starts_with(token) {
                return Some((id, len));
            }
            rest = tail;
        }
        None
    }
}
