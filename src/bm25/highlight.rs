//! Marks the words of a text that made it match.

use super::analyzer::{Term, terms};
use super::error::Bm25Error;
use super::params::Bm25Params;
use super::query::{Leaf, Query, compile};
use super::search::Scope;
use std::ops::Range;

/// How a highlighted text looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Highlight {
    /// Before a marked word.
    pub start: String,
    /// After it.
    pub end: String,
    /// Longest result in characters, marks not counted; 0 means the whole text.
    pub max_chars: usize,
    /// Where the text was cut.
    pub ellipsis: String,
}

impl Default for Highlight {
    fn default() -> Self {
        Self {
            start: "<b>".to_owned(),
            end: "</b>".to_owned(),
            max_chars: 0,
            ellipsis: "…".to_owned(),
        }
    }
}

/// The text with the words marked that match positive clauses of the query; words of a phrase only
/// where the phrase stands. With a length limit, the part with the most marked words.
///
/// `column` is the index's column that the text belongs to.
///
/// # Errors
/// [`Bm25Error::Query`] where the query names an unknown column.
pub fn highlight(
    text: &str,
    query: &Query,
    params: &Bm25Params,
    scope: Scope<'_>,
    column: usize,
    style: &Highlight,
) -> Result<String, Bm25Error> {
    let mut analyzers: Vec<_> =
        params.columns().iter().map(|column| column.config.analyzer()).collect();
    let leaves = compile(query, params, &analyzers, scope)?.leaves;
    let config = &params.columns()[column].config;
    let tokens = terms(text, &mut analyzers[column]);
    let plain = terms(text, &mut config.unstemmed().analyzer());
    let mut marked: Vec<Range<usize>> = Vec::new();
    for leaf in &leaves {
        match leaf {
            Leaf::Term(of, word) if *of == column => {
                marked.extend(tokens.iter().filter(|t| t.text == *word).map(range));
            }
            Leaf::Prefix(of, prefix) if *of == column => {
                let either = tokens.iter().chain(&plain);
                marked.extend(either.filter(|t| t.text.starts_with(prefix)).map(range));
            }
            Leaf::Fuzzy(of, word, edits) if *of == column => {
                let near = tokens.iter().filter(|t| within_edits(&t.text, word, *edits));
                marked.extend(near.map(range));
            }
            Leaf::Phrase(of, words, slop) if *of == column => {
                mark_phrases(&tokens, words, *slop as usize, &mut marked);
            }
            _ => {}
        }
    }
    marked.sort_unstable_by_key(|range| (range.start, range.end));
    marked.dedup();
    let window = window(text, &marked, style.max_chars);
    Ok(render(text, &marked, window, style))
}

fn range(term: &Term) -> Range<usize> {
    term.start..term.end
}

/// Marks where the phrase's words stand at their places, each at most `slop` away from it.
fn mark_phrases(
    tokens: &[Term],
    words: &[(usize, String)],
    slop: usize,
    marked: &mut Vec<Range<usize>>,
) {
    let Some((_, first)) = words.first() else { return };
    for (at, start) in tokens.iter().enumerate().filter(|(_, token)| token.text == *first) {
        let mut found = vec![range(start)];
        for (place, word) in &words[1..] {
            let wanted = start.position + place;
            let near = tokens[at..]
                .iter()
                .take_while(|token| token.position <= wanted + slop)
                .find(|token| token.text == *word && token.position.abs_diff(wanted) <= slop);
            match near {
                Some(token) => found.push(range(token)),
                None => break,
            }
        }
        if found.len() == words.len() {
            marked.append(&mut found);
        }
    }
}

/// Whether two words are at most `edits` insertions, deletions, substitutions or swaps of
/// neighbors apart (optimal string alignment).
fn within_edits(a: &str, b: &str, edits: u8) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let edits = usize::from(edits);
    if a.len().abs_diff(b.len()) > edits {
        return false;
    }
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let substituted = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = substituted.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()] <= edits
}

/// The part of the text to show: as many marked words as fit, from a marked word's neighborhood on.
fn window(text: &str, marked: &[Range<usize>], max_chars: usize) -> Range<usize> {
    if max_chars == 0 || text.chars().count() <= max_chars {
        return 0..text.len();
    }
    let chars: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let char_of = |byte: usize| chars.partition_point(|&at| at < byte);
    let mut best = (0, 0);
    for (number, first) in marked.iter().enumerate() {
        let limit = char_of(first.start) + max_chars;
        let inside =
            marked[number..].iter().take_while(|range| char_of(range.end) <= limit).count();
        if inside > best.0 {
            best = (inside, number);
        }
    }
    let (inside, number) = best;
    if inside == 0 {
        return 0..chars[max_chars];
    }
    let (from, to) = (char_of(marked[number].start), char_of(marked[number + inside - 1].end));
    // The marked words in the middle of what is shown, the start at a word's start.
    let lead = (max_chars - (to - from)) / 2;
    let mut start = from.saturating_sub(lead).min(chars.len() - 1 - max_chars);
    while start > 0 && start < from && !text[..chars[start]].ends_with(char::is_whitespace) {
        start += 1;
    }
    let end = (start + max_chars).min(chars.len() - 1);
    chars[start]..chars[end]
}

fn render(text: &str, marked: &[Range<usize>], window: Range<usize>, style: &Highlight) -> String {
    let mut out = String::with_capacity(window.len() + 64);
    if window.start > 0 {
        out.push_str(&style.ellipsis);
    }
    let mut at = window.start;
    for range in marked {
        // n-grams overlap: what is already out is not marked again.
        let start = range.start.max(at);
        if range.start < window.start || range.end > window.end || start >= range.end {
            continue;
        }
        out.push_str(&text[at..start]);
        out.push_str(&style.start);
        out.push_str(&text[start..range.end]);
        out.push_str(&style.end);
        at = range.end;
    }
    out.push_str(&text[at..window.end]);
    if window.end < text.len() {
        out.push_str(&style.ellipsis);
    }
    out
}
