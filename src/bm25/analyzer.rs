//! Analyzers: from a text to the terms that are indexed and searched.
//!
//! A `text_config` is a tokenizer or a language, followed by options, separated by commas:
//!
//! | first item | terms |
//! |---|---|
//! | `simple` | runs of letters and digits, lowercased |
//! | `whitespace` | what stands between blanks, unchanged |
//! | `english`, `german`, … | as `simple`, without the language's stop words, stemmed (Snowball) |
//! | `ngram(2,3)` | all substrings of 2 to 3 characters, lowercased |
//! | `cjk` | as `simple`, but runs of Chinese, Japanese or Korean characters become bigrams |
//!
//! Options: `ascii_folding` (é → e), `no_stop_words`, `no_stemming`, `stop_words(a b c)`.
//! Words longer than [`MAX_TERM_BYTES`] are left out, as in tantivy.

use std::fmt;
use tantivy::tokenizer::{
    AsciiFoldingFilter, Language, LowerCaser, NgramTokenizer, RemoveLongFilter, SimpleTokenizer,
    Stemmer, StopWordFilter, TextAnalyzer, Token, TokenStream, Tokenizer, WhitespaceTokenizer,
};

/// Words longer than this are not indexed.
pub const MAX_TERM_BYTES: usize = 255;
/// Longest n-gram that a configuration may ask for.
const MAX_GRAM: usize = 16;
/// Stop words that a configuration may list, in bytes.
const MAX_STOP_WORDS: usize = 1000;

/// Why a `text_config` is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextConfigError {
    /// The first item is no tokenizer and no language.
    #[error("unknown text configuration \"{0}\"")]
    UnknownBase(String),
    /// A later item is no option.
    #[error("unknown option \"{0}\" of a text configuration")]
    UnknownOption(String),
    /// An item's arguments do not fit it.
    #[error("{item} expects {expected}, got \"{got}\"")]
    Arguments { item: &'static str, expected: &'static str, got: String },
}

/// A term of an analyzed text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// What is indexed.
    pub text: String,
    /// Counted from 0; stop words leave gaps.
    pub position: usize,
    /// Bytes of the text that it came from.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

/// How text is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Base {
    Simple,
    Whitespace,
    Ngram { min: usize, max: usize },
    Cjk,
    Language(Language),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum StopWords {
    OfLanguage,
    None,
    Listed(Vec<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stemming {
    OfLanguage,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Folding {
    None,
    Ascii,
}

/// A parsed `text_config`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextConfig {
    base: Base,
    stop_words: StopWords,
    stemming: Stemming,
    folding: Folding,
}

/// The languages that have a stemmer.
pub const LANGUAGES: [Language; 18] = [
    Language::Arabic,
    Language::Danish,
    Language::Dutch,
    Language::English,
    Language::Finnish,
    Language::French,
    Language::German,
    Language::Greek,
    Language::Hungarian,
    Language::Italian,
    Language::Norwegian,
    Language::Portuguese,
    Language::Romanian,
    Language::Russian,
    Language::Spanish,
    Language::Swedish,
    Language::Tamil,
    Language::Turkish,
];

impl Default for TextConfig {
    fn default() -> Self {
        Self {
            base: Base::Simple,
            stop_words: StopWords::OfLanguage,
            stemming: Stemming::OfLanguage,
            folding: Folding::None,
        }
    }
}

impl TextConfig {
    /// Reads a configuration as the module's text describes it.
    ///
    /// # Errors
    /// [`TextConfigError`] names the item that is not understood.
    pub fn parse(config: &str) -> Result<Self, TextConfigError> {
        let mut items = split_items(config).into_iter();
        let base = Base::parse(items.next().unwrap_or_default())?;
        let mut parsed = Self { base, ..Self::default() };
        for item in items {
            let (name, arguments) = split_arguments(item);
            match (name.as_str(), arguments) {
                ("ascii_folding", None) => parsed.folding = Folding::Ascii,
                ("no_stop_words", None) => parsed.stop_words = StopWords::None,
                ("no_stemming", None) => parsed.stemming = Stemming::None,
                ("stop_words", Some(words)) if words.len() <= MAX_STOP_WORDS => {
                    let words = words.split_whitespace().map(str::to_lowercase).collect();
                    parsed.stop_words = StopWords::Listed(words);
                }
                ("stop_words", words) => {
                    return Err(TextConfigError::Arguments {
                        item: "stop_words",
                        expected: "a list of words in parentheses of at most 1000 bytes",
                        got: words.unwrap_or_default().to_owned(),
                    });
                }
                _ => return Err(TextConfigError::UnknownOption(item.to_owned())),
            }
        }
        Ok(parsed)
    }

    /// The same without stop words and stemming: what applies to a part of a word.
    pub(crate) fn unstemmed(&self) -> Self {
        Self { stop_words: StopWords::None, stemming: Stemming::None, ..self.clone() }
    }

    /// The analyzer that the configuration describes.
    pub fn analyzer(&self) -> TextAnalyzer {
        let builder = match self.base {
            Base::Simple | Base::Language(_) => {
                TextAnalyzer::builder(SimpleTokenizer::default()).dynamic()
            }
            Base::Whitespace => TextAnalyzer::builder(WhitespaceTokenizer::default()).dynamic(),
            Base::Cjk => TextAnalyzer::builder(CjkTokenizer).dynamic(),
            Base::Ngram { min, max } => TextAnalyzer::builder(
                NgramTokenizer::all_ngrams(min, max).expect("parse checks 1 ≤ min ≤ max"),
            )
            .dynamic(),
        };
        let mut builder = builder.filter_dynamic(RemoveLongFilter::limit(MAX_TERM_BYTES + 1));
        if self.base != Base::Whitespace {
            builder = builder.filter_dynamic(LowerCaser);
        }
        let language = match self.base {
            Base::Language(language) => Some(language),
            _ => None,
        };
        let stop_words = match &self.stop_words {
            StopWords::OfLanguage => language.and_then(StopWordFilter::new),
            StopWords::None => None,
            StopWords::Listed(words) => Some(StopWordFilter::remove(words.clone())),
        };
        if let Some(filter) = stop_words {
            builder = builder.filter_dynamic(filter);
        }
        if let (Some(language), Stemming::OfLanguage) = (language, self.stemming) {
            builder = builder.filter_dynamic(Stemmer::new(language));
        }
        if self.folding == Folding::Ascii {
            builder = builder.filter_dynamic(AsciiFoldingFilter);
        }
        builder.build()
    }
}

/// The terms of a text.
pub fn tokenize(text: &str, config: &TextConfig) -> Vec<Term> {
    terms(text, &mut config.analyzer())
}

/// The terms of a text by an analyzer that is at hand.
pub(crate) fn terms(text: &str, analyzer: &mut TextAnalyzer) -> Vec<Term> {
    let mut stream = analyzer.token_stream(text);
    let mut terms = Vec::new();
    while let Some(token) = stream.next() {
        terms.push(Term {
            text: token.text.clone(),
            position: token.position,
            start: token.offset_from,
            end: token.offset_to,
        });
    }
    terms
}

impl Base {
    fn parse(item: &str) -> Result<Self, TextConfigError> {
        let (name, arguments) = split_arguments(item);
        match (name.as_str(), arguments) {
            ("" | "simple", None) => Ok(Self::Simple),
            ("whitespace", None) => Ok(Self::Whitespace),
            ("cjk", None) => Ok(Self::Cjk),
            ("ngram", arguments) => {
                let got = arguments.unwrap_or("2,3");
                let (min, max) = got.split_once(',').unwrap_or((got, got));
                match (min.trim().parse(), max.trim().parse()) {
                    (Ok(min), Ok(max)) if 1 <= min && min <= max && max <= MAX_GRAM => {
                        Ok(Self::Ngram { min, max })
                    }
                    _ => Err(TextConfigError::Arguments {
                        item: "ngram",
                        expected: "two lengths from 1 to 16, the shorter one first",
                        got: got.to_owned(),
                    }),
                }
            }
            (name, None) => LANGUAGES
                .into_iter()
                .find(|&language| language_name(language) == name)
                .map(Self::Language)
                .ok_or_else(|| TextConfigError::UnknownBase(item.to_owned())),
            _ => Err(TextConfigError::UnknownBase(item.to_owned())),
        }
    }
}

/// A language's name in a configuration.
pub fn language_name(language: Language) -> String {
    format!("{language:?}").to_lowercase()
}

impl fmt::Display for TextConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.base {
            Base::Simple => f.write_str("simple")?,
            Base::Whitespace => f.write_str("whitespace")?,
            Base::Cjk => f.write_str("cjk")?,
            Base::Ngram { min, max } => write!(f, "ngram({min},{max})")?,
            Base::Language(language) => f.write_str(&language_name(language))?,
        }
        if self.folding == Folding::Ascii {
            f.write_str(", ascii_folding")?;
        }
        match &self.stop_words {
            StopWords::OfLanguage => {}
            StopWords::None => f.write_str(", no_stop_words")?,
            StopWords::Listed(words) => write!(f, ", stop_words({})", words.join(" "))?,
        }
        match self.stemming {
            Stemming::OfLanguage => Ok(()),
            Stemming::None => f.write_str(", no_stemming"),
        }
    }
}

/// Items between commas that stand outside of parentheses.
fn split_items(config: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    config
        .split(|c: char| {
            match c {
                '(' => depth += 1,
                ')' => depth = depth.saturating_sub(1),
                _ => {}
            }
            c == ',' && depth == 0
        })
        .map(str::trim)
        .collect()
}

/// `name(arguments)`, the name in lower case.
fn split_arguments(item: &str) -> (String, Option<&str>) {
    match item.split_once('(') {
        Some((name, rest)) => {
            let arguments = rest.trim_end().strip_suffix(')').unwrap_or(rest);
            (name.trim().to_lowercase(), Some(arguments))
        }
        None => (item.trim().to_lowercase(), None),
    }
}

/// Words as [`SimpleTokenizer`] cuts them, except that runs of CJK characters become overlapping
/// pairs; a single one stands alone.
#[derive(Clone)]
struct CjkTokenizer;

struct CjkStream {
    tokens: Vec<Token>,
    at: usize,
}

impl Tokenizer for CjkTokenizer {
    type TokenStream<'a> = CjkStream;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> CjkStream {
        let mut tokens = Vec::new();
        let mut chars = text.char_indices().peekable();
        while let Some((start, c)) = chars.next() {
            if !c.is_alphanumeric() {
                continue;
            }
            let mut run = vec![start];
            let mut end = start + c.len_utf8();
            let cjk = is_cjk(c);
            while let Some(&(at, c)) = chars.peek() {
                if !c.is_alphanumeric() || is_cjk(c) != cjk {
                    break;
                }
                run.push(at);
                end = at + c.len_utf8();
                chars.next();
            }
            if cjk {
                run.push(end);
                let pairs = run.len().saturating_sub(2).max(1);
                for pair in 0..pairs {
                    let to = run[(pair + 2).min(run.len() - 1)];
                    push_token(&mut tokens, text, run[pair], to);
                }
            } else {
                push_token(&mut tokens, text, start, end);
            }
        }
        CjkStream { tokens, at: 0 }
    }
}

fn push_token(tokens: &mut Vec<Token>, text: &str, start: usize, end: usize) {
    tokens.push(Token {
        offset_from: start,
        offset_to: end,
        position: tokens.len(),
        text: text[start..end].to_owned(),
        position_length: 1,
    });
}

impl TokenStream for CjkStream {
    fn advance(&mut self) -> bool {
        self.at += 1;
        self.at <= self.tokens.len()
    }

    fn token(&self) -> &Token {
        &self.tokens[self.at - 1]
    }

    fn token_mut(&mut self) -> &mut Token {
        &mut self.tokens[self.at - 1]
    }
}

/// Han, kana and Hangul, the scripts that put no blank between words or whose particles hide them.
fn is_cjk(c: char) -> bool {
    matches!(u32::from(c),
        0x1100..=0x11FF | 0x3040..=0x30FF | 0x3130..=0x318F | 0x31F0..=0x31FF
        | 0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xA960..=0xA97F | 0xAC00..=0xD7FF
        | 0xF900..=0xFAFF | 0xFF66..=0xFF9F | 0x20000..=0x323AF)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str, config: &str) -> Vec<String> {
        let config = TextConfig::parse(config).expect("a valid configuration");
        tokenize(text, &config).into_iter().map(|term| term.text).collect()
    }

    #[test]
    fn configurations_give_the_terms_they_promise() {
        assert_eq!(words("The Running-dogs, 2x!", "simple"), ["the", "running", "dogs", "2x"]);
        assert_eq!(words("The Running-dogs", "whitespace"), ["The", "Running-dogs"]);
        assert_eq!(words("The running dogs", "english"), ["run", "dog"]);
        assert_eq!(words("The running", "english, no_stop_words, no_stemming"), ["the", "running"]);
        assert_eq!(words("Die Häuser", "german, ascii_folding"), ["haus"]);
        assert_eq!(words("Café crème", "simple, ascii_folding"), ["cafe", "creme"]);
        assert_eq!(words("abc", "ngram(2,3)"), ["ab", "abc", "bc"]);
        assert_eq!(words("東京都 Tokyo 港", "cjk"), ["東京", "京都", "tokyo", "港"]);
        assert_eq!(words("a b C", "simple, stop_words(b c)"), ["a"]);
        assert_eq!(words("", "english"), [""; 0]);
    }

    #[test]
    fn every_language_parses_and_prints_itself() {
        for language in LANGUAGES {
            let name = language_name(language);
            let config = TextConfig::parse(&name).expect("a language of the list");
            assert_eq!(config.to_string(), name);
            assert!(!tokenize("Bonjour 123", &config).is_empty());
        }
        let long = "ngram(1,4), ascii_folding, stop_words(x y), no_stemming";
        assert_eq!(TextConfig::parse(long).expect("valid").to_string(), long);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let error = |config| TextConfig::parse(config).expect_err("invalid").to_string();
        assert_eq!(error("klingon"), "unknown text configuration \"klingon\"");
        assert_eq!(error("simple, x"), "unknown option \"x\" of a text configuration");
        assert!(error("ngram(3,2)").starts_with("ngram expects"));
        assert!(error("simple, stop_words").starts_with("stop_words expects"));
    }

    #[test]
    fn offsets_point_into_the_text() {
        for config in ["simple", "english", "cjk", "ngram(2,2)"] {
            let text = "Ünïcode 東京 end";
            let config = TextConfig::parse(config).expect("valid");
            for term in tokenize(text, &config) {
                assert!(text.get(term.start..term.end).is_some(), "{term:?}");
            }
        }
    }
}
