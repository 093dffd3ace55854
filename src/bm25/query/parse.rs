//! From characters to nodes: recursive descent, one function a precedence level.

use super::{
    ColumnName, MAX_CLAUSES, MAX_DEPTH, MAX_EDITS, MAX_QUERY_BYTES, MAX_SLOP, Node, Occur,
    QueryError, Reason,
};
use std::ops::Bound;

pub(super) fn parse(query: &str) -> Result<Node, QueryError> {
    if query.len() > MAX_QUERY_BYTES {
        return Err(QueryError { position: 1, reason: Reason::TooLong });
    }
    let mut parser = Parser { chars: query.chars().collect(), at: 0, depth: 0, clauses: 0 };
    let node = parser.any_of(&None)?;
    match parser.peek() {
        None => Ok(node),
        Some(c) => Err(parser.unexpected("a clause", &format!("\"{c}\""))),
    }
}

struct Parser {
    chars: Vec<char>,
    at: usize,
    depth: usize,
    clauses: usize,
}

/// What a clause's prefix says of it.
enum Sign {
    None,
    Plus,
    Minus,
}

impl Parser {
    /// `and_group (OR? and_group)*`, up to the end or a closing parenthesis.
    fn any_of(&mut self, column: &ColumnName) -> Result<Node, QueryError> {
        self.enter()?;
        let mut clauses = Vec::new();
        loop {
            self.skip_blanks();
            match self.peek() {
                None | Some(')') => break,
                _ => {}
            }
            if !clauses.is_empty() && self.take_keyword("OR") {
                self.skip_blanks();
            }
            clauses.push(self.all_of(column)?);
        }
        self.depth -= 1;
        Ok(match clauses.len() {
            1 if clauses[0].0 == Occur::Should => clauses.remove(0).1,
            _ => Node::Clauses(clauses),
        })
    }

    /// `clause (AND clause)*`.
    fn all_of(&mut self, column: &ColumnName) -> Result<(Occur, Node), QueryError> {
        let first = self.signed(column)?;
        self.skip_blanks();
        if !self.at_keyword("AND") {
            return Ok(first);
        }
        let mut clauses = vec![required(first)];
        while self.take_keyword("AND") {
            clauses.push(required(self.signed(column)?));
            self.skip_blanks();
        }
        Ok((Occur::Should, Node::Clauses(clauses)))
    }

    /// A clause with `NOT`, `-` or `+` before it.
    fn signed(&mut self, column: &ColumnName) -> Result<(Occur, Node), QueryError> {
        self.skip_blanks();
        let sign = match self.peek() {
            Some('-') => Sign::Minus,
            Some('+') => Sign::Plus,
            _ if self.at_keyword("NOT") => {
                self.take_keyword("NOT");
                self.enter()?;
                let (occur, node) = self.signed(column)?;
                self.depth -= 1;
                return Ok(match occur {
                    Occur::MustNot => (Occur::Should, node),
                    _ => (Occur::MustNot, node),
                });
            }
            _ => Sign::None,
        };
        let occur = match sign {
            Sign::None => Occur::Should,
            Sign::Plus => Occur::Must,
            Sign::Minus => Occur::MustNot,
        };
        if occur != Occur::Should {
            self.at += 1;
        }
        Ok((occur, self.boosted(column)?))
    }

    /// A clause with `^boost` behind it.
    fn boosted(&mut self, column: &ColumnName) -> Result<Node, QueryError> {
        let node = self.clause(column)?;
        if self.peek() != Some('^') {
            return Ok(node);
        }
        self.at += 1;
        let start = self.at;
        let digits = self.take_while(|c| c.is_ascii_digit() || c == '.');
        match digits.parse::<f32>() {
            Ok(boost) if boost.is_finite() && boost <= 1e6 => {
                Ok(Node::Boost(Box::new(node), boost))
            }
            _ => {
                self.at = start;
                Err(self.unexpected("a boost from 0 to 1000000", &quoted(&digits)))
            }
        }
    }

    fn clause(&mut self, column: &ColumnName) -> Result<Node, QueryError> {
        self.clauses += 1;
        if self.clauses > MAX_CLAUSES {
            return Err(self.error(Reason::TooManyClauses));
        }
        match self.peek() {
            Some('(') => {
                self.at += 1;
                let node = self.any_of(column)?;
                self.skip_blanks();
                if self.peek() != Some(')') {
                    let got = self.next_quoted();
                    return Err(self.unexpected("a closing parenthesis", &got));
                }
                self.at += 1;
                Ok(node)
            }
            Some('"') => self.phrase(column),
            Some('[' | '{') => self.bracketed(column),
            Some('>' | '<') => self.compared(column),
            Some('*') => {
                self.at += 1;
                Ok(Node::Everything)
            }
            _ => self.word(column),
        }
    }

    fn phrase(&mut self, column: &ColumnName) -> Result<Node, QueryError> {
        let start = self.at;
        let text = self.quoted_text()?;
        let mut slop = 0;
        if self.peek() == Some('~') {
            self.at += 1;
            let digits = self.take_while(|c| c.is_ascii_digit());
            slop = match digits.parse() {
                Ok(slop) if slop <= MAX_SLOP => slop,
                _ => return Err(self.unexpected("a distance from 0 to 10000", &quoted(&digits))),
            };
        }
        debug_assert!(self.at > start);
        Ok(Node::Phrase { column: column.clone(), text, slop })
    }

    fn quoted_text(&mut self) -> Result<String, QueryError> {
        let start = self.at;
        self.at += 1;
        let mut text = String::new();
        loop {
            match self.next() {
                Some('"') => return Ok(text),
                Some('\\') => text.extend(self.next()),
                Some(c) => text.push(c),
                None => {
                    self.at = start;
                    return Err(self.unexpected("a closing quotation mark", "the end"));
                }
            }
        }
    }

    fn word(&mut self, column: &ColumnName) -> Result<Node, QueryError> {
        let start = self.at;
        let text = self.take_word();
        match self.peek() {
            Some(':') if !text.is_empty() => {
                self.at += 1;
                let column = Some((text, start + 1));
                self.enter()?;
                self.skip_blanks();
                let node = self.clause(&column)?;
                self.depth -= 1;
                Ok(node)
            }
            _ if text.is_empty() => {
                let got = self.next_quoted();
                Err(self.unexpected("a word, a phrase or a parenthesis", &got))
            }
            Some('*') => {
                self.at += 1;
                Ok(Node::Prefix { column: column.clone(), text })
            }
            Some('~') => {
                self.at += 1;
                let digits = self.take_while(|c| c.is_ascii_digit());
                let edits = if digits.is_empty() { Ok(1) } else { digits.parse() };
                match edits {
                    Ok(edits) if edits <= MAX_EDITS => {
                        Ok(Node::Fuzzy { column: column.clone(), text, edits })
                    }
                    _ => Err(self.unexpected("a number of edits from 0 to 2", &quoted(&digits))),
                }
            }
            _ => Ok(Node::Word { column: column.clone(), text }),
        }
    }

    /// `[a TO b]`, `{a TO b}` and mixtures.
    fn bracketed(&mut self, column: &ColumnName) -> Result<Node, QueryError> {
        let open = self.next();
        let lower = self.range_end()?;
        self.skip_blanks();
        if !self.take_keyword("TO") {
            let got = self.next_quoted();
            return Err(self.unexpected("TO", &got));
        }
        let upper = self.range_end()?;
        self.skip_blanks();
        let bound = |end: Option<String>, including| match end {
            None => Bound::Unbounded,
            Some(end) if including => Bound::Included(end),
            Some(end) => Bound::Excluded(end),
        };
        let close = self.peek();
        if !matches!(close, Some(']' | '}')) {
            let got = self.next_quoted();
            return Err(self.unexpected("a closing bracket", &got));
        }
        self.at += 1;
        Ok(Node::Range {
            column: column.clone(),
            lower: bound(lower, open == Some('[')),
            upper: bound(upper, close == Some(']')),
        })
    }

    /// `>a`, `>=a`, `<a`, `<=a`.
    fn compared(&mut self, column: &ColumnName) -> Result<Node, QueryError> {
        let sign = self.next();
        let including = self.peek() == Some('=');
        if including {
            self.at += 1;
        }
        let Some(end) = self.range_end()? else {
            return Err(self.unexpected("a word", "\"*\""));
        };
        let end = if including { Bound::Included(end) } else { Bound::Excluded(end) };
        let (lower, upper) =
            if sign == Some('>') { (end, Bound::Unbounded) } else { (Bound::Unbounded, end) };
        Ok(Node::Range { column: column.clone(), lower, upper })
    }

    /// A word or phrase that ends a range; nothing for `*`.
    fn range_end(&mut self) -> Result<Option<String>, QueryError> {
        self.skip_blanks();
        match self.peek() {
            Some('*') => {
                self.at += 1;
                Ok(None)
            }
            Some('"') => self.quoted_text().map(Some),
            _ => {
                let text = self.take_word();
                if text.is_empty() {
                    let got = self.next_quoted();
                    return Err(self.unexpected("a word or *", &got));
                }
                Ok(Some(text))
            }
        }
    }

    fn take_word(&mut self) -> String {
        let mut text = String::new();
        while let Some(c) = self.peek() {
            match c {
                '\\' => {
                    self.at += 1;
                    match self.next() {
                        Some(escaped) => text.push(escaped),
                        None => text.push('\\'),
                    }
                }
                c if is_special(c) => break,
                c => {
                    text.push(c);
                    self.at += 1;
                }
            }
        }
        text
    }

    fn at_keyword(&self, keyword: &str) -> bool {
        let mut at = self.at;
        for c in keyword.chars() {
            if self.chars.get(at) != Some(&c) {
                return false;
            }
            at += 1;
        }
        self.chars.get(at).is_none_or(|&c| c.is_whitespace() || c == '(' || c == '"')
    }

    fn take_keyword(&mut self, keyword: &str) -> bool {
        let found = self.at_keyword(keyword);
        if found {
            self.at += keyword.len();
        }
        found
    }

    fn take_while(&mut self, holds: impl Fn(char) -> bool) -> String {
        let start = self.at;
        while self.peek().is_some_and(&holds) {
            self.at += 1;
        }
        self.chars[start..self.at].iter().collect()
    }

    fn skip_blanks(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek();
        self.at += usize::from(next.is_some());
        next
    }

    fn next_quoted(&self) -> String {
        self.peek().map_or_else(|| "the end".to_owned(), |c| format!("\"{c}\""))
    }

    fn enter(&mut self) -> Result<(), QueryError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH { Err(self.error(Reason::TooDeep)) } else { Ok(()) }
    }

    fn error(&self, reason: Reason) -> QueryError {
        QueryError { position: self.at + 1, reason }
    }

    fn unexpected(&self, expected: &'static str, got: &str) -> QueryError {
        self.error(Reason::Unexpected { expected, got: got.to_owned() })
    }
}

fn required((occur, node): (Occur, Node)) -> (Occur, Node) {
    match occur {
        Occur::MustNot => (Occur::MustNot, node),
        Occur::Should | Occur::Must => (Occur::Must, node),
    }
}

fn quoted(text: &str) -> String {
    if text.is_empty() { "nothing".to_owned() } else { format!("\"{text}\"") }
}

/// Characters that end a word.
fn is_special(c: char) -> bool {
    c.is_whitespace()
        || matches!(c, '(' | ')' | '"' | '^' | '~' | '*' | ':' | '[' | ']' | '{' | '}' | '<' | '>')
}

#[cfg(test)]
mod tests {
    use super::super::Query;
    use super::*;

    fn word(text: &str) -> Node {
        Node::Word { column: None, text: text.to_owned() }
    }

    fn parsed(query: &str) -> Node {
        Query::parse(query).expect(query).root
    }

    #[test]
    fn and_binds_tighter_than_or_and_not_tightest() {
        let a_and_b = Node::Clauses(vec![(Occur::Must, word("a")), (Occur::Must, word("b"))]);
        assert_eq!(parsed("a AND b"), a_and_b);
        assert_eq!(
            parsed("a AND b OR c"),
            Node::Clauses(vec![(Occur::Should, a_and_b), (Occur::Should, word("c"))])
        );
        assert_eq!(
            parsed("a AND NOT b"),
            Node::Clauses(vec![(Occur::Must, word("a")), (Occur::MustNot, word("b"))])
        );
        assert_eq!(
            parsed("+a b -c"),
            Node::Clauses(vec![
                (Occur::Must, word("a")),
                (Occur::Should, word("b")),
                (Occur::MustNot, word("c"))
            ])
        );
        assert_eq!(parsed("a OR b"), parsed("a b"));
        assert_eq!(parsed("NOT NOT a"), word("a"));
        assert_eq!(parsed("ANDROID"), word("ANDROID"));
    }

    #[test]
    fn every_form_is_understood() {
        let title = |at| Some(("title".to_owned(), at));
        assert_eq!(
            parsed("\"exact phrase\"~3"),
            Node::Phrase { column: None, text: "exact phrase".to_owned(), slop: 3 }
        );
        assert_eq!(
            parsed("title:\"a\""),
            Node::Phrase { column: title(1), text: "a".to_owned(), slop: 0 }
        );
        assert_eq!(parsed("pre*"), Node::Prefix { column: None, text: "pre".to_owned() });
        assert_eq!(parsed("w~"), Node::Fuzzy { column: None, text: "w".to_owned(), edits: 1 });
        assert_eq!(parsed("w~2^3"), {
            let fuzzy = Node::Fuzzy { column: None, text: "w".to_owned(), edits: 2 };
            Node::Boost(Box::new(fuzzy), 3.0)
        });
        assert_eq!(
            parsed("title:[a TO *}"),
            Node::Range {
                column: title(1),
                lower: Bound::Included("a".to_owned()),
                upper: Bound::Unbounded
            }
        );
        assert_eq!(
            parsed("title:<=b"),
            Node::Range {
                column: title(1),
                lower: Bound::Unbounded,
                upper: Bound::Included("b".to_owned())
            }
        );
        assert_eq!(parsed("*"), Node::Everything);
        assert_eq!(parsed(r"a\:b"), word("a:b"));
        assert_eq!(parsed("wi-fi"), word("wi-fi"));
        assert_eq!(parsed(""), Node::Clauses(vec![]));
    }

    #[test]
    fn errors_tell_where() {
        let error = |query: &str| Query::parse(query).expect_err(query).to_string();
        assert_eq!(
            error("a (b"),
            "expected a closing parenthesis, got the end at character 5 of the query"
        );
        assert_eq!(
            error("ä \"b"),
            "expected a closing quotation mark, got the end at character 3 of the query"
        );
        assert!(error("a )").starts_with("expected a clause, got \")\""));
        assert!(error("w~9").contains("a number of edits from 0 to 2"));
        assert!(error("a^x").contains("a boost"));
        assert!(error("[a b]").starts_with("expected TO"));
        assert!(error(&"(".repeat(100)).contains("64 levels"));
        assert!(error(&"NOT ".repeat(100)).contains("64 levels"));
        assert!(error(&"a:".repeat(100)).contains("64 levels"));
        assert!(error(&"a ".repeat(2000)).contains("1024 clauses"));
        assert!(error(&"a".repeat(70_000)).contains("65536"));
    }

    #[test]
    fn lenient_queries_never_fail() {
        for query in ["a (b", "\"", "a:(", "~~~", "^", "[x", "\\", "((((", "a AND", "-", "+", "\0"]
        {
            let _ = Query::lenient(query, &[]);
        }
        let long = "ä".repeat(100_000);
        let Node::AnyWord { text } = Query::lenient(&long, &[]).root else {
            panic!("words expected")
        };
        assert!(text.len() <= MAX_QUERY_BYTES);
    }
}
