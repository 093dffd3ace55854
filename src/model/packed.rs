//! The packed form: one read-only block of bytes that a backend uses in place.
//!
//! | bytes | content |
//! |---|---|
//! | 0–7 | magic and version, `DFPACK` 0 1 |
//! | 8–11 | number of sections (u32) |
//! | 12–15 | zero |
//! | 16–23 | length of the whole in bytes (u64) |
//! | 24–55 | sha256 of bytes 0–23 followed by everything from 64 on |
//! | 56–63 | zero |
//! | 64– | the table: for each section its tag (4 bytes), zero (4 bytes), offset and length (u64) |
//! | then | the sections, each at a multiple of 64 |
//!
//! Integers are little-endian. The alignment is within the block: who maps or includes it puts it
//! at a multiple of 64 as well. [`Packed::open`] checks the table and costs microseconds;
//! [`Packed::verify`] reads everything.

use sha2::{Digest, Sha256};

use super::{Manifest, ModelError};
use crate::text::Tokenizer;

/// The packed form's file in a model directory.
pub const PACKED_FILE: &str = "model.packed";
/// Alignment of a section, in bytes.
pub const SECTION_ALIGN: usize = 64;
/// A section's name.
pub type Tag = [u8; 4];
/// The manifest, as JSON.
pub const MANIFEST: Tag = *b"MANI";
/// The compiled vocabulary.
pub const VOCABULARY: Tag = *b"VOCA";
/// The weights, in the layout that the encoder reads.
pub const WEIGHTS: Tag = *b"WGHT";
/// What each token id counts in a weighted mean: f32, one for each.
pub const TOKEN_WEIGHTS: Tag = *b"TWGT";
/// A cross-encoder's head: its tensors in the order of `head_tensors`, f32 end to end.
pub const HEAD: Tag = *b"HEAD";

const MAGIC: [u8; 8] = *b"DFPACK\x00\x01";
const HEADER: usize = 64;
const ENTRY: usize = 24;
const MAX_SECTIONS: usize = 64;

/// Collects sections.
#[derive(Default)]
pub struct PackedWriter {
    sections: Vec<(Tag, Vec<u8>)>,
}

impl PackedWriter {
    /// No section yet.
    pub fn new() -> PackedWriter {
        PackedWriter::default()
    }

    /// Adds a section. A tag is used once.
    pub fn section(&mut self, tag: Tag, bytes: Vec<u8>) -> &mut PackedWriter {
        debug_assert!(self.sections.iter().all(|(other, _)| *other != tag), "a tag is used once");
        self.sections.push((tag, bytes));
        self
    }

    /// Lays out the block and signs it with its sha256.
    pub fn finish(self) -> Vec<u8> {
        let mut offset = (HEADER + ENTRY * self.sections.len()).next_multiple_of(SECTION_ALIGN);
        let mut table = Vec::new();
        for (tag, bytes) in &self.sections {
            table.extend_from_slice(tag);
            table.extend_from_slice(&[0; 4]);
            table.extend_from_slice(&(offset as u64).to_le_bytes());
            table.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
            offset = (offset + bytes.len()).next_multiple_of(SECTION_ALIGN);
        }
        let mut block = MAGIC.to_vec();
        block.reserve(offset);
        block.extend_from_slice(&(self.sections.len() as u32).to_le_bytes());
        block.extend_from_slice(&[0; 4]);
        block.extend_from_slice(&(offset as u64).to_le_bytes());
        block.resize(HEADER, 0);
        block.extend_from_slice(&table);
        for (_, bytes) in &self.sections {
            block.resize(block.len().next_multiple_of(SECTION_ALIGN), 0);
            block.extend_from_slice(bytes);
        }
        block.resize(block.len().next_multiple_of(SECTION_ALIGN), 0);
        let digest = digest(&block);
        block[24..56].copy_from_slice(&digest);
        block
    }
}

/// A packed model in place.
#[derive(Clone, Copy)]
pub struct Packed<'m> {
    block: &'m [u8],
    table: &'m [[u8; ENTRY]],
}

impl<'m> Packed<'m> {
    /// Checks the header and that every section lies inside the block. Trailing bytes after the
    /// stated length are left alone.
    ///
    /// # Errors
    /// [`ModelError::Packed`]
    pub fn open(block: &'m [u8]) -> Result<Packed<'m>, ModelError> {
        let wrong = |expected, got: String| ModelError::Packed { expected, got };
        let Some(header) = block.first_chunk::<HEADER>() else {
            return Err(wrong("a header of 64 bytes", format!("{} bytes", block.len())));
        };
        if !header.starts_with(&MAGIC) {
            return Err(wrong("magic DFPACK version 1", format!("{:02x?}", &header[..8])));
        }
        let length = u64_at(header, 16);
        let whole = usize::try_from(length).ok().and_then(|length| block.get(..length));
        let Some(block) = whole else {
            let got = format!("{length} stated and {} bytes there", block.len());
            return Err(wrong("the stated length", got));
        };
        let count = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
        if count > MAX_SECTIONS {
            return Err(wrong("at most 64 sections", count.to_string()));
        }
        let table = block.get(HEADER..HEADER + count * ENTRY);
        let Some(table) = table.map(|table| table.as_chunks().0) else {
            return Err(wrong("a table inside the block", format!("{count} sections")));
        };
        let packed = Packed { block, table };
        for entry in table {
            let (offset, len) = (u64_at(entry, 8), u64_at(entry, 16));
            let aligned = offset.is_multiple_of(SECTION_ALIGN as u64);
            if !aligned || packed.bytes_of(entry).is_none() {
                let name = entry[..4].escape_ascii();
                let got = format!("section {name} at {offset}, {len} bytes long, of {length}");
                return Err(wrong("aligned sections inside the block", got));
            }
        }
        Ok(packed)
    }

    /// Compares the stored sha256 with the content.
    ///
    /// # Errors
    /// [`ModelError::Packed`]
    pub fn verify(&self) -> Result<(), ModelError> {
        let (stored, computed) = (&self.block[24..56], digest(self.block));
        if stored == computed {
            return Ok(());
        }
        Err(ModelError::Packed {
            expected: "content of the stored sha256",
            got: format!("sha256 {} where {} is stored", super::hex(&computed), super::hex(stored)),
        })
    }

    /// The stored sha256, which [`verify`](Self::verify) compares: it names the block.
    pub fn sha256(&self) -> String {
        super::hex(&self.block[24..56])
    }

    /// The whole block, without anything that followed it.
    pub fn bytes(&self) -> &'m [u8] {
        self.block
    }

    /// A section's bytes; they start at a multiple of [`SECTION_ALIGN`] within the block.
    ///
    /// # Errors
    /// [`ModelError::Packed`] where there is none of that tag.
    pub fn section(&self, tag: Tag) -> Result<&'m [u8], ModelError> {
        let entry = self.table.iter().find(|entry| entry[..4] == tag);
        entry.and_then(|entry| self.bytes_of(entry)).ok_or_else(|| ModelError::Packed {
            expected: "every section",
            got: format!("none tagged {}", tag.escape_ascii()),
        })
    }

    /// Reads the manifest.
    ///
    /// # Errors
    /// [`ModelError::Packed`] where it is missing, [`ModelError::Manifest`] where it is wrong.
    pub fn manifest(&self) -> Result<Manifest, ModelError> {
        Manifest::from_json(self.section(MANIFEST)?)
    }

    /// Opens the tokenizer in place.
    ///
    /// # Errors
    /// [`ModelError::Packed`] where it is missing, [`ModelError::Text`] where it is damaged.
    pub fn tokenizer(&self) -> Result<Tokenizer<'m>, ModelError> {
        Ok(Tokenizer::view(self.section(VOCABULARY)?)?)
    }

    fn bytes_of(&self, entry: &[u8; ENTRY]) -> Option<&'m [u8]> {
        let start = usize::try_from(u64_at(entry, 8)).ok()?;
        let len = usize::try_from(u64_at(entry, 16)).ok()?;
        self.block.get(start..start.checked_add(len)?)
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn digest(block: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(&block[..24]).chain_update(&block[HEADER..]).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block() -> Vec<u8> {
        let mut writer = PackedWriter::new();
        writer.section(*b"ONE ", vec![1; 100]).section(*b"TWO ", vec![]);
        writer.section(WEIGHTS, (0..200).collect());
        writer.finish()
    }

    #[test]
    fn sections_come_back_aligned() {
        let block = block();
        let packed = Packed::open(&block).expect("a fresh block opens");
        packed.verify().expect("a fresh block is whole");
        assert_eq!(packed.section(*b"ONE ").expect("it is there"), [1; 100]);
        assert!(packed.section(*b"TWO ").expect("it is there").is_empty());
        let weights = packed.section(WEIGHTS).expect("it is there");
        assert_eq!(weights, (0..200).collect::<Vec<u8>>());
        let offset = weights.as_ptr() as usize - block.as_ptr() as usize;
        assert_eq!(offset % SECTION_ALIGN, 0);
        assert!(matches!(packed.section(*b"NONE"), Err(ModelError::Packed { .. })));
    }

    #[test]
    fn every_flipped_byte_is_caught() {
        let whole = block();
        for at in 0..whole.len() {
            let mut block = whole.clone();
            block[at] ^= 0x40;
            let caught = match Packed::open(&block) {
                Ok(packed) => packed.verify().is_err(),
                Err(_) => true,
            };
            // Bytes 56–63 are padding that nothing reads.
            assert_eq!(caught, !(56..64).contains(&at), "byte {at}");
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        let whole = block();
        for len in 0..whole.len() {
            assert!(Packed::open(&whole[..len]).is_err(), "{len} bytes");
        }
    }
}
