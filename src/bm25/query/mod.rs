//! The query language.
//!
//! | form | matches |
//! |---|---|
//! | `word` | the word's term; a word that gives several terms (`wi-fi`) is a phrase |
//! | `a b` | either (more of them score higher) |
//! | `a AND b`, `a OR b`, `NOT a` | AND binds tighter than OR; the words in capitals |
//! | `+a b -c` | a must, b may, c must not occur |
//! | `"a b"`, `"a b"~3` | the phrase; its words at most 3 moves apart |
//! | `pre*` | terms that begin so |
//! | `word~`, `word~2` | terms at most 1 or 2 edits away |
//! | `title:word`, `title:(a b)` | in another column |
//! | `title:[a TO b]`, `{a TO b}`, `title:>=a` | terms in a range, square brackets including the ends; `*` leaves an end open |
//! | `clause^2.5` | the clause with its score multiplied |
//! | `*` | every row |
//! | `\x` | the character x without its meaning |
//!
//! [`Query::parse`] is strict: it tells where it did not understand. [`Query::lenient`] is for what
//! users type: what is no query is searched as words, and nothing is an error.

mod compile;
mod parse;

pub(crate) use compile::{AnyOf, Compiled, Condition, Leaf, compile};
use std::ops::Bound;

/// Longest query, in bytes.
pub const MAX_QUERY_BYTES: usize = 64 << 10;
/// Deepest nesting of parentheses and NOTs.
pub const MAX_DEPTH: usize = 64;
/// Most terms, phrases and operators together.
pub const MAX_CLAUSES: usize = 1024;
/// Widest slop of a phrase.
pub const MAX_SLOP: u32 = 10_000;
/// Most edits of a fuzzy term.
pub const MAX_EDITS: u8 = 2;

/// Why a query is refused, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason} at character {position} of the query")]
pub struct QueryError {
    /// Counted in characters from 1.
    pub position: usize,
    /// What is wrong there.
    pub reason: Reason,
}

/// What is wrong with a query.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    #[error("query of more than 65536 bytes")]
    TooLong,
    #[error("nesting of more than 64 levels")]
    TooDeep,
    #[error("more than 1024 clauses")]
    TooManyClauses,
    #[error("expected {expected}, got {got}")]
    Unexpected { expected: &'static str, got: String },
    #[error("unknown column \"{0}\"")]
    UnknownColumn(String),
}

/// A parsed query.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    pub(crate) root: Node,
}

/// Where a clause looks: a column by name, or the default ones.
pub(crate) type ColumnName = Option<(String, usize)>;

/// Whether a clause has to match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occur {
    Should,
    Must,
    MustNot,
}

/// A part of a query.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    /// A word: its terms, next to each other.
    Word {
        column: ColumnName,
        text: String,
    },
    /// Any of a text's terms.
    AnyWord {
        text: String,
    },
    Phrase {
        column: ColumnName,
        text: String,
        slop: u32,
    },
    Prefix {
        column: ColumnName,
        text: String,
    },
    Fuzzy {
        column: ColumnName,
        text: String,
        edits: u8,
    },
    Range {
        column: ColumnName,
        lower: Bound<String>,
        upper: Bound<String>,
    },
    Everything,
    Clauses(Vec<(Occur, Node)>),
    Boost(Box<Node>, f32),
}

impl Query {
    /// Parses a query of the language above.
    ///
    /// # Errors
    /// [`QueryError`] tells what was not understood and where.
    pub fn parse(query: &str) -> Result<Self, QueryError> {
        parse::parse(query).map(|root| Self { root })
    }

    /// Parses what a user typed: a query where it is one that names no other columns than `columns`,
    /// its words where it is not. Never fails; words past the limits are left out.
    pub fn lenient(query: &str, columns: &[&str]) -> Self {
        match Self::parse(query) {
            Ok(parsed) if parsed.names().iter().all(|name| columns.contains(name)) => parsed,
            _ => Self::words(query),
        }
    }

    /// The columns that its clauses name.
    pub fn names(&self) -> Vec<&str> {
        let mut names = Vec::new();
        self.root.names(&mut names);
        names
    }

    /// Every row.
    pub fn everything() -> Self {
        Self { root: Node::Everything }
    }

    /// The same clauses, each looking into the default columns whatever column it names.
    pub fn without_columns(mut self) -> Self {
        self.root.forget_columns();
        self
    }

    /// Any of the text's words, whatever characters stand between them.
    pub fn words(text: &str) -> Self {
        let mut end = text.len().min(MAX_QUERY_BYTES);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Self { root: Node::AnyWord { text: text[..end].to_owned() } }
    }
}

impl Node {
    fn names<'n>(&'n self, out: &mut Vec<&'n str>) {
        match self {
            Self::Word { column, .. }
            | Self::Phrase { column, .. }
            | Self::Prefix { column, .. }
            | Self::Fuzzy { column, .. }
            | Self::Range { column, .. } => {
                out.extend(column.iter().map(|(name, _)| name.as_str()));
            }
            Self::Clauses(clauses) => clauses.iter().for_each(|(_, node)| node.names(out)),
            Self::Boost(node, _) => node.names(out),
            Self::AnyWord { .. } | Self::Everything => {}
        }
    }

    fn forget_columns(&mut self) {
        match self {
            Self::Word { column, .. }
            | Self::Phrase { column, .. }
            | Self::Prefix { column, .. }
            | Self::Fuzzy { column, .. }
            | Self::Range { column, .. } => *column = None,
            Self::Clauses(clauses) => {
                clauses.iter_mut().for_each(|(_, node)| node.forget_columns());
            }
            Self::Boost(node, _) => node.forget_columns(),
            Self::AnyWord { .. } | Self::Everything => {}
        }
    }
}
