//! From nodes to tantivy queries, by an index's analyzers.

use super::{Node, Occur, Query, QueryError, Reason};
use crate::bm25::analyzer::{Term as Token, terms};
use crate::bm25::params::Bm25Params;
use crate::bm25::weight::Bm25Leaf;
use std::ops::Bound;
use tantivy::Term;
use tantivy::query::{
    AllQuery, BooleanQuery, BoostQuery, EmptyQuery, FuzzyTermQuery, Occur as TantivyOccur,
    PhraseQuery, Query as TantivyQuery, RangeQuery, RegexQuery, TermQuery,
};
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::tokenizer::TextAnalyzer;

/// A query made ready for an index.
pub(crate) struct Compiled {
    pub(crate) query: Box<dyn TantivyQuery>,
    /// What makes a text match, for highlighting.
    pub(crate) leaves: Vec<Leaf>,
    /// Columns that contribute scores.
    pub(crate) columns: Vec<usize>,
    /// Columns that it looks into, for clauses that must not match too.
    pub(crate) all_columns: Vec<usize>,
    /// The query's terms where it asks for any of them and nothing else.
    pub(crate) any_of: Option<Vec<AnyOf>>,
}

/// One of the terms that a query asks for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AnyOf {
    pub(crate) column: usize,
    pub(crate) text: String,
    pub(crate) boost: f32,
}

/// A positive condition on the terms of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Leaf {
    Term(usize, String),
    Prefix(usize, String),
    Fuzzy(usize, String, u8),
    /// Terms with their places in the phrase, and the slop.
    Phrase(usize, Vec<(usize, String)>, u32),
}

/// Compiles a query for an index. Clauses without a column look into the columns `defaults`;
/// `names` are the columns' names.
pub(crate) fn compile(
    query: &Query,
    params: &Bm25Params,
    names: &[&str],
    defaults: &[usize],
) -> Result<Compiled, QueryError> {
    let (_, fields) = params.schema();
    let mut compiler = Compiler {
        params,
        fields,
        names,
        defaults,
        analyzers: params.columns().iter().map(|column| column.config.analyzer()).collect(),
        clauses: 0,
        negated: 0,
        leaves: Vec::new(),
        columns: Vec::new(),
        all_columns: Vec::new(),
    };
    let compiled = compiler.node(&query.root)?.unwrap_or_else(|| Box::new(EmptyQuery));
    let mut terms = Vec::new();
    let any_of = compiler.any_of(&query.root, 1.0, &mut terms).then_some(terms);
    for columns in [&mut compiler.columns, &mut compiler.all_columns] {
        columns.sort_unstable();
        columns.dedup();
    }
    let Compiler { leaves, columns, all_columns, .. } = compiler;
    Ok(Compiled { query: compiled, leaves, columns, all_columns, any_of })
}

/// Most terms that [`Compiled::any_of`] lists.
const MAX_ANY_OF: usize = 64;

struct Compiler<'a> {
    params: &'a Bm25Params,
    fields: Vec<Field>,
    names: &'a [&'a str],
    defaults: &'a [usize],
    analyzers: Vec<TextAnalyzer>,
    clauses: usize,
    negated: usize,
    leaves: Vec<Leaf>,
    columns: Vec<usize>,
    all_columns: Vec<usize>,
}

type Built = Option<Box<dyn TantivyQuery>>;

impl Compiler<'_> {
    /// The query of a node; nothing where no term is left of it (stop words only).
    fn node(&mut self, node: &Node) -> Result<Built, QueryError> {
        Ok(match node {
            Node::Word { column, text } => {
                self.columns_of(column)?.any(|this, column| this.word(column, text))
            }
            Node::AnyWord { text } => {
                let columns = self.columns_of(&None)?;
                columns.any(|this, column| this.any_word(column, text))
            }
            Node::Phrase { column, text, slop } => {
                self.columns_of(column)?.any(|this, column| this.phrase(column, text, *slop))
            }
            Node::Prefix { column, text } => {
                self.columns_of(column)?.any(|this, column| Some(this.prefix(column, text)))
            }
            Node::Fuzzy { column, text, edits } => {
                self.columns_of(column)?.any(|this, column| Some(this.fuzzy(column, text, *edits)))
            }
            Node::Range { column, lower, upper } => {
                self.columns_of(column)?.any(|this, column| Some(this.range(column, lower, upper)))
            }
            Node::Everything => Some(Box::new(AllQuery)),
            Node::Boost(node, boost) => self.node(node)?.map(|query| boosted(query, *boost)),
            Node::Clauses(clauses) => self.clauses(clauses)?,
        })
    }

    fn clauses(&mut self, clauses: &[(Occur, Node)]) -> Result<Built, QueryError> {
        let mut built = Vec::with_capacity(clauses.len());
        for (occur, node) in clauses {
            let negated = usize::from(*occur == Occur::MustNot);
            self.negated += negated;
            let query = self.node(node)?;
            self.negated -= negated;
            if let Some(query) = query {
                built.push((*occur, query));
            }
        }
        let negative_only =
            !built.is_empty() && built.iter().all(|(occur, _)| *occur == Occur::MustNot);
        if negative_only {
            built.push((Occur::Must, Box::new(AllQuery)));
        }
        Ok(match built.len() {
            0 => None,
            1 => built.pop().map(|(_, query)| query),
            _ => Some(Box::new(BooleanQuery::new(
                built
                    .into_iter()
                    .map(|(occur, query)| {
                        let occur = match occur {
                            Occur::Should => TantivyOccur::Should,
                            Occur::Must => TantivyOccur::Must,
                            Occur::MustNot => TantivyOccur::MustNot,
                        };
                        (occur, query)
                    })
                    .collect(),
            ))),
        })
    }

    /// Collects the terms of a node that asks for any of them; false where it asks for more.
    fn any_of(&mut self, node: &Node, boost: f32, out: &mut Vec<AnyOf>) -> bool {
        let (name, text, single) = match node {
            Node::Word { column, text } => (column, text, true),
            Node::AnyWord { text } => (&None, text, false),
            Node::Boost(node, by) => return self.any_of(node, boost * by, out),
            Node::Clauses(clauses) => {
                return clauses
                    .iter()
                    .all(|(occur, node)| *occur == Occur::Should && self.any_of(node, boost, out));
            }
            _ => return false,
        };
        let columns = match name {
            None => self.defaults.to_vec(),
            Some((name, _)) => {
                self.names.iter().position(|known| known == name).into_iter().collect()
            }
        };
        for column in columns {
            let mut texts: Vec<String> = Vec::new();
            for token in self.tokens(column, text) {
                if !texts.contains(&token.text) {
                    texts.push(token.text);
                }
            }
            if texts.len() > if single { 1 } else { MAX_ANY_OF } {
                return false;
            }
            let boost = boost * self.params.columns()[column].boost;
            out.extend(texts.into_iter().map(|text| AnyOf { column, text, boost }));
        }
        true
    }

    fn columns_of(&mut self, name: &super::ColumnName) -> Result<Columns<'_, Self>, QueryError> {
        self.clauses += 1;
        let columns = match name {
            None => self.defaults.to_vec(),
            Some((name, position)) => {
                let column =
                    self.names.iter().position(|known| known == name).ok_or_else(|| {
                        QueryError {
                            position: *position,
                            reason: Reason::UnknownColumn(name.clone()),
                        }
                    })?;
                vec![column]
            }
        };
        if self.negated == 0 {
            self.columns.extend(&columns);
        }
        self.all_columns.extend(&columns);
        Ok(Columns { columns, compiler: self })
    }

    fn tokens(&mut self, column: usize, text: &str) -> Vec<Token> {
        terms(text, &mut self.analyzers[column])
    }

    fn term(&self, column: usize, text: &str) -> Term {
        Term::from_field_text(self.fields[column], text)
    }

    fn leaf(&mut self, leaf: Leaf) {
        if self.negated == 0 {
            self.leaves.push(leaf);
        }
    }

    fn term_query(&mut self, column: usize, text: &str) -> Box<dyn TantivyQuery> {
        self.leaf(Leaf::Term(column, text.to_owned()));
        let term = self.term(column, text);
        let query: Box<dyn TantivyQuery> = match Bm25Leaf::constants(self.params) {
            None => Box::new(TermQuery::new(term, IndexRecordOption::WithFreqs)),
            Some(constants) => Box::new(Bm25Leaf::term(term, constants)),
        };
        self.with_column_boost(column, query)
    }

    fn with_column_boost(
        &self,
        column: usize,
        query: Box<dyn TantivyQuery>,
    ) -> Box<dyn TantivyQuery> {
        boosted(query, self.params.columns()[column].boost)
    }

    fn word(&mut self, column: usize, text: &str) -> Built {
        let tokens = self.tokens(column, text);
        self.adjacent(column, tokens, 0)
    }

    fn phrase(&mut self, column: usize, text: &str, slop: u32) -> Built {
        let tokens = self.tokens(column, text);
        self.adjacent(column, tokens, slop)
    }

    /// Terms next to each other; terms at one place (n-grams) must all occur instead.
    fn adjacent(&mut self, column: usize, tokens: Vec<Token>, slop: u32) -> Built {
        match &tokens[..] {
            [] => None,
            [token] => Some(self.term_query(column, &token.text)),
            [first, rest @ ..] if rest.iter().all(|token| token.position == first.position) => {
                let mut texts: Vec<String> = tokens.into_iter().map(|token| token.text).collect();
                texts.sort_unstable();
                texts.dedup();
                let queries = texts
                    .iter()
                    .take(super::MAX_CLAUSES)
                    .map(|text| (TantivyOccur::Must, self.term_query(column, text)))
                    .collect();
                Some(Box::new(BooleanQuery::new(queries)))
            }
            [first, ..] => {
                let base = first.position;
                let places: Vec<(usize, String)> = tokens
                    .into_iter()
                    .take(super::MAX_CLAUSES)
                    .map(|token| (token.position - base, token.text))
                    .collect();
                let terms =
                    places.iter().map(|(at, text)| (*at, self.term(column, text))).collect();
                self.leaf(Leaf::Phrase(column, places, slop));
                let phrase = PhraseQuery::new_with_offset_and_slop(terms, slop);
                let query: Box<dyn TantivyQuery> = match Bm25Leaf::constants(self.params) {
                    None => Box::new(phrase),
                    Some(constants) => Box::new(Bm25Leaf::phrase(phrase, constants)),
                };
                Some(self.with_column_boost(column, query))
            }
        }
    }

    fn any_word(&mut self, column: usize, text: &str) -> Built {
        let mut texts: Vec<String> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for token in self.tokens(column, text) {
            if texts.len() < super::MAX_CLAUSES && seen.insert(token.text.clone()) {
                texts.push(token.text);
            }
        }
        let queries: Vec<_> = texts
            .iter()
            .map(|text| (TantivyOccur::Should, self.term_query(column, text)))
            .collect();
        match queries.len() {
            0 => None,
            1 => queries.into_iter().next().map(|(_, query)| query),
            _ => Some(Box::new(BooleanQuery::new(queries))),
        }
    }

    /// A word as it is written, but in the column's case and without accents where the analyzer
    /// folds them: stems and stop words do not apply to parts of words.
    fn folded(&mut self, column: usize, text: &str) -> String {
        let mut config = self.params.columns()[column].config.unstemmed().analyzer();
        match &terms(text, &mut config)[..] {
            [token] => token.text.clone(),
            _ => text.to_lowercase(),
        }
    }

    fn prefix(&mut self, column: usize, text: &str) -> Box<dyn TantivyQuery> {
        let text = self.folded(column, text);
        self.leaf(Leaf::Prefix(column, text.clone()));
        let pattern = format!("{}.*", escape_regex(&text));
        let query: Box<dyn TantivyQuery> =
            match RegexQuery::from_pattern(&pattern, self.fields[column]) {
                Ok(query) => Box::new(query),
                Err(_) => Box::new(EmptyQuery),
            };
        self.with_column_boost(column, query)
    }

    fn fuzzy(&mut self, column: usize, text: &str, edits: u8) -> Box<dyn TantivyQuery> {
        let text = self.folded(column, text);
        self.leaf(Leaf::Fuzzy(column, text.clone(), edits));
        let query = FuzzyTermQuery::new(self.term(column, &text), edits, true);
        self.with_column_boost(column, Box::new(query))
    }

    fn range(
        &mut self,
        column: usize,
        lower: &Bound<String>,
        upper: &Bound<String>,
    ) -> Box<dyn TantivyQuery> {
        let mut end = |bound: &Bound<String>| match bound {
            Bound::Included(text) => {
                let text = self.folded(column, text);
                Bound::Included(self.term(column, &text))
            }
            Bound::Excluded(text) => {
                let text = self.folded(column, text);
                Bound::Excluded(self.term(column, &text))
            }
            Bound::Unbounded => Bound::Unbounded,
        };
        let (lower, upper) = (end(lower), end(upper));
        if matches!((&lower, &upper), (Bound::Unbounded, Bound::Unbounded)) {
            return Box::new(AllQuery);
        }
        self.with_column_boost(column, Box::new(RangeQuery::new(lower, upper)))
    }
}

/// The columns that a clause looks into.
struct Columns<'c, C> {
    columns: Vec<usize>,
    compiler: &'c mut C,
}

impl<C> Columns<'_, C> {
    /// The clause in any of the columns.
    fn any(self, mut build: impl FnMut(&mut C, usize) -> Built) -> Built {
        let mut queries: Vec<Box<dyn TantivyQuery>> = Vec::new();
        for column in self.columns {
            queries.extend(build(self.compiler, column));
        }
        match queries.len() {
            0 => None,
            1 => queries.pop(),
            _ => Some(Box::new(BooleanQuery::union(queries))),
        }
    }
}

fn boosted(query: Box<dyn TantivyQuery>, boost: f32) -> Box<dyn TantivyQuery> {
    if boost == 1.0 { query } else { Box::new(BoostQuery::new(query, boost)) }
}

fn escape_regex(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_punctuation() {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}
