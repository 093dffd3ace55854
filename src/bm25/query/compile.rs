//! From nodes to tantivy queries, by an index's analyzers: first to what a row has to have
//! ([`Condition`]), then to a query.

use super::{Node, Occur, Query, QueryError, Reason};
use crate::bm25::analyzer::{Term as Token, terms};
use crate::bm25::params::Bm25Params;
use crate::bm25::search::Scope;
use crate::bm25::weight::{Bm25Leaf, Constants};
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
    /// Where the index's constants are not tantivy's, and the query asks for any of some terms: the
    /// same with tantivy's constants, whose scores bound the query's.
    pub(crate) bound: Option<Box<dyn TantivyQuery>>,
    /// What makes a text match, for highlighting.
    pub(crate) leaves: Vec<Leaf>,
    /// Columns that contribute scores.
    pub(crate) columns: Vec<usize>,
    /// Columns that it looks into, for clauses that must not match too.
    pub(crate) all_columns: Vec<usize>,
    /// The query's terms where it asks for any of them and nothing else.
    pub(crate) any_of: Option<Vec<AnyOf>>,
    /// What it asks of a row; nothing where it is several queries combined.
    pub(crate) condition: Option<Condition>,
}

/// One of the terms that a query asks for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AnyOf {
    pub(crate) column: usize,
    pub(crate) text: String,
    pub(crate) boost: f32,
}

/// A condition on the terms of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Leaf {
    Term(usize, String),
    Prefix(usize, String),
    Fuzzy(usize, String, u8),
    /// Terms with their places in the phrase, and the slop.
    Phrase(usize, Vec<(usize, String)>, u32),
}

/// A query in an index's own terms: what a row has to have, and what its score is multiplied by.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Condition {
    Leaf {
        leaf: Leaf,
        boost: f32,
    },
    Range {
        column: usize,
        lower: Bound<String>,
        upper: Bound<String>,
        boost: f32,
    },
    Everything {
        boost: f32,
    },
    /// Without clauses no row matches.
    Clauses(Vec<(Occur, Condition)>),
}

/// Most terms of [`Compiled::any_of`].
const MAX_ANY_OF: usize = 64;

/// Compiles a query for an index; `analyzers` are those of its columns.
pub(crate) fn compile(
    query: &Query,
    params: &Bm25Params,
    analyzers: &[TextAnalyzer],
    scope: Scope<'_>,
) -> Result<Compiled, QueryError> {
    let mut resolver = Resolver {
        params,
        names: scope.names,
        defaults: scope.defaults,
        analyzers,
        negated: 0,
        leaves: Vec::new(),
        columns: Vec::new(),
        all_columns: Vec::new(),
    };
    let condition =
        resolver.node(&query.root, 1.0)?.unwrap_or_else(|| Condition::Clauses(Vec::new()));
    for columns in [&mut resolver.columns, &mut resolver.all_columns] {
        columns.sort_unstable();
        columns.dedup();
    }
    let Resolver { leaves, columns, all_columns, .. } = resolver;
    let constants = Bm25Leaf::constants(params);
    let lowering = Lowering { fields: params.fields(), constants };
    let mut terms = Vec::new();
    let any_of = condition.any_of(&mut terms).then_some(terms);
    let (mut union, mut bound) = (None, None);
    if let Some(terms) = any_of.as_deref().filter(|terms| !terms.is_empty()) {
        let query: Box<dyn TantivyQuery> = Box::new(lowering.union(terms));
        match constants {
            None => union = Some(query),
            Some(_) => bound = Some(query),
        }
    }
    let query = union.unwrap_or_else(|| lowering.query(&condition));
    let condition = Some(condition);
    Ok(Compiled { query, bound, leaves, columns, all_columns, any_of, condition })
}

impl Condition {
    /// Collects the terms of a condition that asks for any of them; false where it asks for more.
    fn any_of(&self, out: &mut Vec<AnyOf>) -> bool {
        match self {
            Self::Leaf { leaf: Leaf::Term(column, text), boost } => {
                out.push(AnyOf { column: *column, text: text.clone(), boost: *boost });
                out.len() <= MAX_ANY_OF
            }
            Self::Clauses(clauses) => {
                clauses.iter().all(|(occur, clause)| *occur == Occur::Should && clause.any_of(out))
            }
            _ => false,
        }
    }
}

/// Finds out what a query means in an index.
struct Resolver<'a> {
    params: &'a Bm25Params,
    names: &'a [&'a str],
    defaults: &'a [usize],
    analyzers: &'a [TextAnalyzer],
    negated: usize,
    leaves: Vec<Leaf>,
    columns: Vec<usize>,
    all_columns: Vec<usize>,
}

impl Resolver<'_> {
    /// What a node asks for; nothing where no term is left of it (stop words only).
    fn node(&mut self, node: &Node, boost: f32) -> Result<Option<Condition>, QueryError> {
        let column = match node {
            Node::Word { column, .. }
            | Node::Phrase { column, .. }
            | Node::Prefix { column, .. }
            | Node::Fuzzy { column, .. }
            | Node::Range { column, .. } => column,
            Node::AnyWord { .. } => &None,
            Node::Everything => return Ok(Some(Condition::Everything { boost })),
            Node::Boost(node, by) => return self.node(node, boost * by),
            Node::Clauses(clauses) => return self.clauses(clauses, boost),
        };
        let mut found = Vec::new();
        for column in self.columns_of(column)? {
            let boost = boost * self.params.columns()[column].boost;
            found.extend(match node {
                Node::Word { text, .. } => self.phrase(column, text, 0, boost),
                Node::AnyWord { text } => self.any_word(column, text, boost),
                Node::Phrase { text, slop, .. } => self.phrase(column, text, *slop, boost),
                Node::Prefix { text, .. } => {
                    let text = self.folded(column, text);
                    Some(self.leaf(Leaf::Prefix(column, text), boost))
                }
                Node::Fuzzy { text, edits, .. } => {
                    let text = self.folded(column, text);
                    Some(self.leaf(Leaf::Fuzzy(column, text, *edits), boost))
                }
                Node::Range { lower, upper, .. } => Some(self.range(column, lower, upper, boost)),
                Node::Everything | Node::Boost(..) | Node::Clauses(..) => None,
            });
        }
        Ok(any(found))
    }

    fn clauses(
        &mut self,
        clauses: &[(Occur, Node)],
        boost: f32,
    ) -> Result<Option<Condition>, QueryError> {
        let mut found = Vec::with_capacity(clauses.len());
        for (occur, node) in clauses {
            let negated = usize::from(*occur == Occur::MustNot);
            self.negated += negated;
            let condition = self.node(node, boost)?;
            self.negated -= negated;
            found.extend(condition.map(|condition| (*occur, condition)));
        }
        if !found.is_empty() && found.iter().all(|(occur, _)| *occur == Occur::MustNot) {
            found.push((Occur::Must, Condition::Everything { boost }));
        }
        Ok(match found.len() {
            0 => None,
            1 => found.pop().map(|(_, condition)| condition),
            _ => Some(Condition::Clauses(found)),
        })
    }

    /// The columns that a clause looks into.
    fn columns_of(&mut self, name: &super::ColumnName) -> Result<Vec<usize>, QueryError> {
        let columns = match name {
            None => self.defaults.to_vec(),
            Some((name, position)) => {
                let known = self.names.iter().position(|known| known == name);
                let column = known.ok_or_else(|| QueryError {
                    position: *position,
                    reason: Reason::UnknownColumn(name.clone()),
                })?;
                vec![column]
            }
        };
        if self.negated == 0 {
            self.columns.extend(&columns);
        }
        self.all_columns.extend(&columns);
        Ok(columns)
    }

    fn tokens(&self, column: usize, text: &str) -> Vec<Token> {
        terms(text, &mut self.analyzers[column].clone())
    }

    fn leaf(&mut self, leaf: Leaf, boost: f32) -> Condition {
        if self.negated == 0 {
            self.leaves.push(leaf.clone());
        }
        Condition::Leaf { leaf, boost }
    }

    /// Terms next to each other; terms at one place (n-grams) must all occur instead.
    fn phrase(&mut self, column: usize, text: &str, slop: u32, boost: f32) -> Option<Condition> {
        let tokens = self.tokens(column, text);
        let base = tokens.first()?.position;
        if let [token] = &tokens[..] {
            return Some(self.leaf(Leaf::Term(column, token.text.clone()), boost));
        }
        if tokens.iter().all(|token| token.position == base) {
            let mut texts: Vec<String> = tokens.into_iter().map(|token| token.text).collect();
            texts.sort_unstable();
            texts.dedup();
            texts.truncate(super::MAX_CLAUSES);
            let clauses = texts
                .into_iter()
                .map(|text| (Occur::Must, self.leaf(Leaf::Term(column, text), boost)))
                .collect();
            return Some(Condition::Clauses(clauses));
        }
        let places = tokens
            .into_iter()
            .take(super::MAX_CLAUSES)
            .map(|token| (token.position - base, token.text))
            .collect();
        Some(self.leaf(Leaf::Phrase(column, places, slop), boost))
    }

    fn any_word(&mut self, column: usize, text: &str, boost: f32) -> Option<Condition> {
        let mut seen = std::collections::HashSet::new();
        let mut texts: Vec<String> = Vec::new();
        for token in self.tokens(column, text) {
            if texts.len() < super::MAX_CLAUSES && seen.insert(token.text.clone()) {
                texts.push(token.text);
            }
        }
        any(texts.into_iter().map(|text| self.leaf(Leaf::Term(column, text), boost)).collect())
    }

    /// A word as it is written, but in the column's case and without accents where the analyzer
    /// folds them: stems and stop words do not apply to parts of words.
    fn folded(&self, column: usize, text: &str) -> String {
        let mut config = self.params.columns()[column].config.unstemmed().analyzer();
        match &terms(text, &mut config)[..] {
            [token] => token.text.clone(),
            _ => text.to_lowercase(),
        }
    }

    fn range(
        &self,
        column: usize,
        lower: &Bound<String>,
        upper: &Bound<String>,
        boost: f32,
    ) -> Condition {
        let end = |bound: &Bound<String>| bound.as_ref().map(|text| self.folded(column, text));
        match (end(lower), end(upper)) {
            (Bound::Unbounded, Bound::Unbounded) => Condition::Everything { boost },
            (lower, upper) => Condition::Range { column, lower, upper, boost },
        }
    }
}

/// Any of several conditions.
fn any(mut conditions: Vec<Condition>) -> Option<Condition> {
    match conditions.len() {
        0 | 1 => conditions.pop(),
        _ => Some(Condition::Clauses(
            conditions.into_iter().map(|condition| (Occur::Should, condition)).collect(),
        )),
    }
}

/// From conditions to tantivy's queries.
struct Lowering {
    fields: Vec<Field>,
    constants: Option<Constants>,
}

impl Lowering {
    fn query(&self, condition: &Condition) -> Box<dyn TantivyQuery> {
        match condition {
            Condition::Leaf { leaf, boost } => boosted(self.leaf(leaf), *boost),
            Condition::Range { column, lower, upper, boost } => {
                let end = |bound: &Bound<String>| bound.as_ref().map(|t| self.term(*column, t));
                boosted(Box::new(RangeQuery::new(end(lower), end(upper))), *boost)
            }
            Condition::Everything { boost } => boosted(Box::new(AllQuery), *boost),
            Condition::Clauses(clauses) if clauses.is_empty() => Box::new(EmptyQuery),
            Condition::Clauses(clauses) => {
                let clauses = clauses.iter().map(|(occur, condition)| {
                    let occur = match occur {
                        Occur::Should => TantivyOccur::Should,
                        Occur::Must => TantivyOccur::Must,
                        Occur::MustNot => TantivyOccur::MustNot,
                    };
                    (occur, self.query(condition))
                });
                Box::new(BooleanQuery::new(clauses.collect()))
            }
        }
    }

    fn leaf(&self, leaf: &Leaf) -> Box<dyn TantivyQuery> {
        match leaf {
            Leaf::Term(column, text) => {
                let term = self.term(*column, text);
                match self.constants {
                    None => Box::new(TermQuery::new(term, IndexRecordOption::WithFreqs)),
                    Some(constants) => Box::new(Bm25Leaf::term(term, constants)),
                }
            }
            Leaf::Phrase(column, places, slop) => {
                let terms = places.iter().map(|(at, text)| (*at, self.term(*column, text)));
                let phrase = PhraseQuery::new_with_offset_and_slop(terms.collect(), *slop);
                match self.constants {
                    None => Box::new(phrase),
                    Some(constants) => Box::new(Bm25Leaf::phrase(phrase, constants)),
                }
            }
            Leaf::Prefix(column, text) => {
                let pattern = format!("{}.*", escape_regex(text));
                match RegexQuery::from_pattern(&pattern, self.fields[*column]) {
                    Ok(query) => Box::new(query),
                    Err(_) => Box::new(EmptyQuery),
                }
            }
            Leaf::Fuzzy(column, text, edits) => {
                Box::new(FuzzyTermQuery::new(self.term(*column, text), *edits, true))
            }
        }
    }

    fn term(&self, column: usize, text: &str) -> Term {
        Term::from_field_text(self.fields[column], text)
    }

    /// A query for any of the terms, one clause each: tantivy ends early only where no clause has
    /// clauses of its own. It is told that none has to match, which means the same where there are no
    /// others; a single clause that has to match would become an AND of one, which never ends early.
    fn union(&self, terms: &[AnyOf]) -> BooleanQuery {
        let clauses = terms.iter().map(|AnyOf { column, text, boost }| {
            let query = TermQuery::new(self.term(*column, text), IndexRecordOption::WithFreqs);
            (TantivyOccur::Should, boosted(Box::new(query), *boost))
        });
        BooleanQuery::with_minimum_required_clauses(clauses.collect(), 0)
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
