//! What the normalizer makes of each code point, as a two-level table.
//!
//! [`CharTable::build`] runs the normalizer of Hugging Face's `tokenizers` on every scalar value,
//! with that crate's own Unicode tables, and keeps one 16-bit class a code point; classes from
//! [`FIRST_MAPPING`] on are indexes of sequences. Equal blocks of 128 classes are stored once.

use unicode_categories::UnicodeCategories;
use unicode_normalization_alignments::char::{canonical_combining_class, decompose_canonical};

use super::spec::TokenizerSpec;

/// Code points in a block of the table.
pub(super) const BLOCK: usize = 128;
/// Blocks that cover Unicode.
pub(super) const BLOCKS: usize = 0x11_0000 / BLOCK;
/// The first class that is a mapping's index plus this.
pub(super) const FIRST_MAPPING: u16 = 8;

/// Classes below [`FIRST_MAPPING`], also the kind of a mapped character.
pub(super) mod class {
    /// Part of a word, as it is.
    pub const WORD: u16 = 0;
    /// Removed before the text is decomposed, or a removed nonstarter: as if not there.
    pub const DROP: u16 = 1;
    /// A removed starter: not in the word, but combining marks are not reordered across it.
    pub const BARRIER: u16 = 2;
    /// Ends a word.
    pub const SPACE: u16 = 3;
    /// A word of its own.
    pub const ISOLATED: u16 = 4;
    /// A precomposed Hangul syllable, decomposed by arithmetic.
    pub const HANGUL: u16 = 5;
}

/// A character of a mapped sequence: code point in bits 0–20, class in 21–23, canonical combining
/// class in 24–31.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Mapped(pub u32);

impl Mapped {
    fn new(c: char, class: u16, ccc: u8) -> Mapped {
        Mapped(c as u32 | (u32::from(class) << 21) | (u32::from(ccc) << 24))
    }

    pub(super) fn code_point(self) -> u32 {
        self.0 & 0x1F_FFFF
    }

    pub(super) fn class(self) -> u16 {
        (self.0 >> 21 & 7) as u16
    }

    pub(super) fn ccc(self) -> u8 {
        (self.0 >> 24) as u8
    }
}

/// The table as built, before it is written to the blob.
pub(super) struct CharTable {
    /// For every block of code points, its block of classes.
    pub index: Vec<u16>,
    /// Classes, [`BLOCK`] a block.
    pub classes: Vec<u16>,
    /// Where each mapping starts in `mapped`, and the end.
    pub offsets: Vec<u32>,
    pub mapped: Vec<Mapped>,
    /// For the 128 ASCII characters: class in the high byte, the character that it becomes in the
    /// low one. None maps to more than one character.
    pub ascii: Vec<u16>,
}

impl CharTable {
    /// Runs the normalizer on every scalar value.
    pub(super) fn build(spec: &TokenizerSpec) -> CharTable {
        let mut table = CharTable {
            index: Vec::with_capacity(BLOCKS),
            classes: Vec::new(),
            offsets: vec![0],
            mapped: Vec::new(),
            ascii: Vec::with_capacity(128),
        };
        let mut blocks = std::collections::HashMap::<Vec<u16>, u16>::new();
        let mut sequence = Vec::new();
        for block in 0..BLOCKS {
            let mut classes = Vec::with_capacity(BLOCK);
            for code_point in block * BLOCK..(block + 1) * BLOCK {
                // A surrogate is no scalar value and cannot come out of a `str`.
                let Some(c) = char::from_u32(code_point as u32) else {
                    classes.push(class::DROP);
                    continue;
                };
                normalize(spec, c, &mut sequence);
                classes.push(table.class_of(c, &sequence, spec));
                if c.is_ascii() {
                    let one = sequence.first().copied().unwrap_or(Mapped::new(c, class::DROP, 0));
                    table.ascii.push(one.class() << 8 | one.code_point() as u16);
                }
            }
            let next = (table.classes.len() / BLOCK) as u16;
            let at = *blocks.entry(classes).or_insert_with_key(|classes| {
                table.classes.extend_from_slice(classes);
                next
            });
            table.index.push(at);
        }
        table
    }

    fn class_of(&mut self, c: char, sequence: &[Mapped], spec: &TokenizerSpec) -> u16 {
        match sequence {
            [] => class::DROP,
            [one] if one.class() == class::BARRIER || one.class() == class::SPACE => one.class(),
            [one] if one.code_point() == c as u32 && one.ccc() == 0 => one.class(),
            // Between two spaces a word is isolated, which is all that the spaces are for.
            [before, one, after]
                if (before.class(), after.class()) == (class::SPACE, class::SPACE)
                    && one.code_point() == c as u32
                    && one.ccc() == 0 =>
            {
                class::ISOLATED
            }
            _ if spec.strip_accents() && ('\u{AC00}'..='\u{D7A3}').contains(&c) => class::HANGUL,
            _ => {
                let mapping = u16::try_from(self.offsets.len() - 1 + usize::from(FIRST_MAPPING));
                let class = mapping.expect("Unicode has a few thousand mapped characters");
                self.mapped.extend_from_slice(sequence);
                self.offsets.push(self.mapped.len() as u32);
                class
            }
        }
    }
}

/// The normalizer and the pre-tokenizer's predicates on one character. Dropped nonstarters leave
/// nothing behind, dropped starters a barrier.
fn normalize(spec: &TokenizerSpec, c: char, out: &mut Vec<Mapped>) {
    out.clear();
    let c = if !spec.clean_text {
        c
    } else if c == '\0' || c == '\u{FFFD}' || is_control(c) {
        return;
    } else if is_white_space(c) {
        ' '
    } else {
        c
    };
    let spaced = spec.handle_chinese_chars && is_cjk_ideograph(c);
    if spaced {
        out.push(Mapped::new(' ', class::SPACE, 0));
    }
    if spec.strip_accents() {
        decompose_canonical(c, |d| {
            let ccc = canonical_combining_class(d);
            match (d.is_mark_nonspacing(), ccc) {
                (true, 0) => out.push(Mapped::new(d, class::BARRIER, 0)),
                (true, _) => {}
                (false, _) => lowercase(spec, d, ccc, out),
            }
        });
    } else {
        lowercase(spec, c, 0, out);
    }
    if spaced {
        out.push(Mapped::new(' ', class::SPACE, 0));
    }
}

fn lowercase(spec: &TokenizerSpec, c: char, ccc: u8, out: &mut Vec<Mapped>) {
    let classify = |c: char| match c {
        c if c.is_whitespace() => class::SPACE,
        c if c.is_ascii_punctuation() || c.is_punctuation() => class::ISOLATED,
        _ => class::WORD,
    };
    if spec.lowercase {
        out.extend(c.to_lowercase().map(|c| Mapped::new(c, classify(c), ccc)));
    } else {
        out.push(Mapped::new(c, classify(c), ccc));
    }
}

fn is_white_space(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r') || c.is_whitespace()
}

fn is_control(c: char) -> bool {
    !matches!(c, '\t' | '\n' | '\r') && c.is_other()
}

/// The CJK Unified Ideographs blocks as BERT lists them.
fn is_cjk_ideograph(c: char) -> bool {
    matches!(
        c as u32,
        0x4E00..=0x9FFF
            | 0x3400..=0x4DBF
            | 0x2_0000..=0x2_A6DF
            | 0x2_A700..=0x2_B73F
            | 0x2_B740..=0x2_B81F
            | 0x2_B920..=0x2_CEAF
            | 0xF900..=0xFAFF
            | 0x2_F800..=0x2_FA1F
    )
}
