//! What a tokenizer is, before it is compiled: read from a Hugging Face `tokenizer.json` or from
//! the older `vocab.txt`.
//!
//! Only BERT's normalizer, pre-tokenizer and WordPiece pass; anything else is refused by name, so
//! that no model ever runs on almost its own tokens. Truncation and padding are ignored: the
//! model's manifest says where text is cut.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use super::{MAX_VOCAB, TextError};

/// Longest `tokenizer.json` that is read, in bytes.
pub const MAX_TOKENIZER_JSON: usize = 16 << 20;
/// Longest token, in bytes.
const MAX_TOKEN_BYTES: usize = 1 << 10;
/// Added tokens that a text is searched for.
const MAX_ADDED: usize = 256;
/// Largest `max_input_chars_per_word`.
const MAX_WORD_CHARS: usize = 1 << 10;

/// A BERT tokenizer's vocabulary and settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizerSpec {
    /// The tokens; a token's place is its id.
    pub vocab: Vec<String>,
    /// Remove control characters and turn white space into spaces.
    pub clean_text: bool,
    /// Make each CJK ideograph a word.
    pub handle_chinese_chars: bool,
    /// Remove nonspacing marks; absent means as `lowercase`.
    pub strip_accents: Option<bool>,
    /// Lowercase the text.
    pub lowercase: bool,
    /// A word of more characters than this is `[UNK]`.
    pub max_input_chars_per_word: usize,
    /// Stands for a word that the vocabulary cannot spell.
    pub unk: u32,
    /// Starts every sequence.
    pub cls: u32,
    /// Ends every sequence.
    pub sep: u32,
    /// Tokens that are found in the raw text, before it is normalized, with their ids.
    pub added: Vec<(String, u32)>,
}

impl TokenizerSpec {
    /// Whether nonspacing marks are removed.
    pub fn strip_accents(&self) -> bool {
        self.strip_accents.unwrap_or(self.lowercase)
    }

    /// Ids that the tokenizer can give are below this.
    pub fn id_bound(&self) -> usize {
        let added = self.added.iter().map(|&(_, id)| id as usize + 1).max();
        self.vocab.len().max(added.unwrap_or(0))
    }

    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// [`TextError::Json`] where it is not such a file, [`TextError::Unsupported`] where it names
    /// another tokenizer, [`TextError::Invalid`] where the vocabulary has holes or is too large.
    pub fn from_json(json: &[u8]) -> Result<TokenizerSpec, TextError> {
        if json.len() > MAX_TOKENIZER_JSON {
            return Err(invalid("file", format!("at most {MAX_TOKENIZER_JSON} bytes"), json.len()));
        }
        // The kinds first, which allocates nothing for what is then refused.
        let kinds: KindsFile = serde_json::from_slice(json)?;
        expect_kind("normalizer", "BertNormalizer", kinds.normalizer)?;
        expect_kind("pre-tokenizer", "BertPreTokenizer", kinds.pre_tokenizer)?;
        expect_kind("model", "WordPiece", kinds.model)?;
        let file: TokenizerFile = serde_json::from_slice(json)?;
        let (normalizer, model) = (file.normalizer, file.model);
        if model.continuing_subword_prefix != "##" {
            return Err(TextError::Unsupported {
                part: "continuing_subword_prefix",
                expected: "\"##\"",
                got: format!("{:?}", shortened(&model.continuing_subword_prefix)),
            });
        }
        let mut added = Vec::new();
        for token in file.added_tokens {
            // Stripping white space beside a token changes no id; the other options do.
            let got = match (token.normalized, token.single_word) {
                (true, _) => "normalized",
                (false, true) => "single_word",
                (false, false) => {
                    added.push((token.content, token.id));
                    continue;
                }
            };
            return Err(TextError::Unsupported {
                part: "added token",
                expected: "neither normalized nor single_word",
                got: format!("{:?}, which is {got}", shortened(&token.content)),
            });
        }
        let (cls, sep) = template(file.post_processor)?;
        let vocab = by_id(model.vocab.0)?;
        let unk = position(&vocab, &model.unk_token)?;
        let spec = TokenizerSpec {
            vocab,
            clean_text: normalizer.clean_text,
            handle_chinese_chars: normalizer.handle_chinese_chars,
            strip_accents: normalizer.strip_accents,
            lowercase: normalizer.lowercase,
            max_input_chars_per_word: model.max_input_chars_per_word,
            unk,
            cls,
            sep,
            added,
        };
        spec.check()?;
        Ok(spec)
    }

    /// Makes the tokenizer of a bare `vocab.txt`, one token a line, with BERT's special tokens.
    ///
    /// # Errors
    /// [`TextError::Invalid`] where a special token is missing or a token stands twice.
    pub fn from_vocab_txt(text: &str, lowercase: bool) -> Result<TokenizerSpec, TextError> {
        let vocab: Vec<String> = text.lines().map(|line| line.trim_end().to_owned()).collect();
        let mut added = Vec::new();
        for token in ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] {
            added.push((token.to_owned(), position(&vocab, token)?));
        }
        let spec = TokenizerSpec {
            clean_text: true,
            handle_chinese_chars: true,
            strip_accents: None,
            lowercase,
            max_input_chars_per_word: 100,
            unk: added[1].1,
            cls: added[2].1,
            sep: added[3].1,
            vocab,
            added,
        };
        spec.check()?;
        Ok(spec)
    }

    /// Writes the `tokenizer.json` that Hugging Face's `tokenizers` reads as this tokenizer.
    pub fn to_json(&self) -> Vec<u8> {
        let token = |id: u32| self.vocab.get(id as usize).map_or("", String::as_str);
        let special =
            |id: u32| serde_json::json!({ "id": token(id), "ids": [id], "tokens": [token(id)] });
        let vocab: serde_json::Map<String, Value> =
            self.vocab.iter().enumerate().map(|(id, token)| (token.clone(), id.into())).collect();
        let added: Vec<Value> = self
            .added
            .iter()
            .map(|(content, id)| {
                serde_json::json!({
                    "id": id, "content": content, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": true,
                })
            })
            .collect();
        let (cls, sep) = (token(self.cls), token(self.sep));
        let json = serde_json::json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": {
                "type": "BertNormalizer",
                "clean_text": self.clean_text,
                "handle_chinese_chars": self.handle_chinese_chars,
                "strip_accents": self.strip_accents,
                "lowercase": self.lowercase,
            },
            "pre_tokenizer": { "type": "BertPreTokenizer" },
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [
                    { "SpecialToken": { "id": cls, "type_id": 0 } },
                    { "Sequence": { "id": "A", "type_id": 0 } },
                    { "SpecialToken": { "id": sep, "type_id": 0 } },
                ],
                "pair": [
                    { "SpecialToken": { "id": cls, "type_id": 0 } },
                    { "Sequence": { "id": "A", "type_id": 0 } },
                    { "SpecialToken": { "id": sep, "type_id": 0 } },
                    { "Sequence": { "id": "B", "type_id": 1 } },
                    { "SpecialToken": { "id": sep, "type_id": 1 } },
                ],
                "special_tokens": { cls: special(self.cls), sep: special(self.sep) },
            },
            "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
            "model": {
                "type": "WordPiece",
                "unk_token": token(self.unk),
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": self.max_input_chars_per_word,
                "vocab": vocab,
            },
        });
        json.to_string().into_bytes()
    }

    /// What [`super::compile_vocab`] relies on.
    pub(super) fn check(&self) -> Result<(), TextError> {
        if !(1..=MAX_VOCAB).contains(&self.vocab.len()) {
            return Err(invalid(
                "vocabulary",
                format!("1 to {MAX_VOCAB} tokens"),
                self.vocab.len(),
            ));
        }
        let words = self.max_input_chars_per_word;
        if !(1..=MAX_WORD_CHARS).contains(&words) {
            let expected = format!("1 to {MAX_WORD_CHARS}");
            return Err(invalid("max_input_chars_per_word", expected, words));
        }
        for (part, id) in [("[UNK]", self.unk), ("[CLS]", self.cls), ("[SEP]", self.sep)] {
            if id as usize >= self.vocab.len() {
                return Err(invalid(part, format!("an id below {}", self.vocab.len()), id));
            }
        }
        if self.added.len() > MAX_ADDED {
            return Err(invalid("added tokens", format!("at most {MAX_ADDED}"), self.added.len()));
        }
        let texts = self.vocab.iter().chain(self.added.iter().map(|(text, _)| text));
        if let Some(long) = texts.map(String::len).find(|&len| len > MAX_TOKEN_BYTES) {
            return Err(invalid("token", format!("at most {MAX_TOKEN_BYTES} bytes"), long));
        }
        for (text, id) in &self.added {
            let in_vocab = self.vocab.get(*id as usize);
            if *id as usize >= MAX_VOCAB || in_vocab.is_some_and(|token| token != text) {
                let got = format!("{id} for {:?}", shortened(text));
                return Err(invalid("added token", "its own id".to_owned(), got));
            }
            let starts_well = text.as_bytes().first().is_some_and(u8::is_ascii_punctuation);
            if !starts_well || text.contains(char::is_whitespace) {
                return Err(TextError::Unsupported {
                    part: "added token",
                    expected: "ASCII punctuation first and no white space",
                    got: format!("{:?}", shortened(text)),
                });
            }
        }
        let mut seen = std::collections::HashSet::with_capacity(self.vocab.len());
        match self.vocab.iter().find(|token| !seen.insert(token.as_str())) {
            Some(twice) => {
                let got = format!("{:?} twice", shortened(twice));
                Err(invalid("vocabulary", "distinct tokens".to_owned(), got))
            }
            None => Ok(()),
        }
    }
}

#[derive(Deserialize)]
struct TokenizerFile {
    #[serde(default)]
    added_tokens: Vec<AddedFile>,
    normalizer: NormalizerFile,
    #[serde(default)]
    post_processor: Value,
    model: ModelFile,
}

#[derive(Deserialize)]
struct KindsFile {
    normalizer: Option<KindFile>,
    pre_tokenizer: Option<KindFile>,
    model: Option<KindFile>,
}

#[derive(Deserialize)]
struct KindFile {
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct AddedFile {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    normalized: bool,
}

#[derive(Deserialize)]
struct NormalizerFile {
    clean_text: bool,
    handle_chinese_chars: bool,
    strip_accents: Option<bool>,
    lowercase: bool,
}

#[derive(Deserialize)]
struct ModelFile {
    unk_token: String,
    continuing_subword_prefix: String,
    max_input_chars_per_word: usize,
    vocab: VocabFile,
}

#[derive(Deserialize)]
struct VocabFile(HashMap<String, u32>);

fn expect_kind(
    part: &'static str,
    expected: &'static str,
    kind: Option<KindFile>,
) -> Result<(), TextError> {
    let kind = match &kind {
        None => "none",
        Some(kind) => kind.kind.as_deref().unwrap_or("an unnamed type"),
    };
    if kind == expected {
        return Ok(());
    }
    Err(TextError::Unsupported { part, expected, got: shortened(kind).to_owned() })
}

/// The ids around a sequence, from either of the two post-processors that BERT models come with.
fn template(value: Value) -> Result<(u32, u32), TextError> {
    let unsupported = |got: &str| TextError::Unsupported {
        part: "post-processor",
        expected: "[CLS] text [SEP] by TemplateProcessing or BertProcessing",
        got: shortened(got).to_owned(),
    };
    let id_in = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value.get("type").and_then(Value::as_str) {
        Some("BertProcessing") => {
            let id = |name: &str| value.get(name).and_then(|pair| id_in(pair.get(1)?));
            id("cls").zip(id("sep")).ok_or_else(|| unsupported("BertProcessing without ids"))
        }
        Some("TemplateProcessing") => {
            let special = |piece: &Value| {
                let name = piece.get("SpecialToken")?.get("id")?.as_str()?;
                match value.get("special_tokens")?.get(name)?.get("ids")?.as_array()?.as_slice() {
                    [id] => id_in(id),
                    _ => None,
                }
            };
            let single = value.get("single").and_then(Value::as_array).map(Vec::as_slice);
            match single {
                Some([first, middle, last]) if middle.get("Sequence").is_some() => special(first)
                    .zip(special(last))
                    .ok_or_else(|| unsupported("TemplateProcessing of another form")),
                _ => Err(unsupported("TemplateProcessing of another form")),
            }
        }
        Some(other) => Err(unsupported(other)),
        None => Err(unsupported("none")),
    }
}

fn by_id(vocab: HashMap<String, u32>) -> Result<Vec<String>, TextError> {
    let count = vocab.len();
    if count > MAX_VOCAB {
        return Err(invalid("vocabulary", format!("1 to {MAX_VOCAB} tokens"), count));
    }
    let mut tokens = vec![None; count];
    for (token, id) in vocab {
        match tokens.get_mut(id as usize) {
            Some(place @ None) => *place = Some(token),
            _ => {
                let got = format!("id {id} of {:?}, of {count} tokens", shortened(&token));
                return Err(invalid("vocabulary", "ids from 0 without holes".to_owned(), got));
            }
        }
    }
    Ok(tokens.into_iter().flatten().collect())
}

fn position(vocab: &[String], token: &str) -> Result<u32, TextError> {
    match vocab.iter().position(|known| known == token) {
        Some(id) => Ok(id as u32),
        None => {
            let expected = format!("{:?} in the vocabulary", shortened(token));
            Err(invalid("vocabulary", expected, "none"))
        }
    }
}

fn invalid(part: &'static str, expected: String, got: impl ToString) -> TextError {
    TextError::Invalid { part, expected, got: got.to_string() }
}

/// A file's own words, cut to what an error message can carry.
fn shortened(text: &str) -> &str {
    let end = text.char_indices().nth(60).map_or(text.len(), |(at, _)| at);
    &text[..end]
}
