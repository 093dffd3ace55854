//! Training data: texts, pairs, triplets and groups, streamed from files or a database into rows
//! on disk ([`spool`]). Memory holds some 40 bytes a row, whatever its texts' length.
//!
//! Formats go by the file's name: `.parquet` ([`parquet`]); `.tsv` (one row a line), `.jsonl` (one
//! object a line) and anything else as text, one a line, with `.gz` after any of these three. A
//! PostgreSQL query gives rows as well ([`database`]). Blank texts, rows of too few columns and
//! lines that are no UTF-8 are malformed: they are counted, and the first line numbers kept for the report. A row that came
//! before is dropped.
//!
//! What a step sees is a function of (seed, source, how often it was drawn): [`Order`] shuffles
//! each epoch anew by a hash, so that a run goes on after a kill without any state of its own.

use std::collections::HashSet;
use std::path::Path;

use distilface_core::training::mix;
use serde::Serialize;

use crate::error::Error;
use crate::lines::lines;
use crate::train::config::{Kind, SourceConfig};

mod database;
mod parquet;
mod spool;
#[cfg(test)]
mod tests;

pub use database::{is_address, without_password};
use spool::{RowOrder, Spool, SpoolWriter, fingerprint};

/// Line numbers that are kept of malformed lines.
const KEPT_NUMBERS: usize = 10;

/// A source, read.
pub struct Source {
    rows: Spool,
    pub read: Read,
}

/// What reading came to.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Read {
    pub lines: usize,
    pub kept: usize,
    /// Of another value in the first column than asked for.
    pub filtered: usize,
    pub duplicates: usize,
    pub malformed: usize,
    /// Of the first malformed lines, from 1.
    pub malformed_lines: Vec<usize>,
}

enum Line {
    Row(Vec<String>),
    Filtered,
    Malformed,
}

/// Rows as they come, and what became of them.
struct Rows {
    rows: SpoolWriter,
    read: Read,
    seen: HashSet<u64>,
}

impl Rows {
    /// Takes the next line; `number` is what it is reported by.
    ///
    /// # Errors
    /// Where the row cannot be written.
    fn take(&mut self, number: usize, line: Line) -> Result<(), Error> {
        self.read.lines += 1;
        match line {
            Line::Filtered => self.read.filtered += 1,
            Line::Malformed => {
                self.read.malformed += 1;
                if self.read.malformed_lines.len() < KEPT_NUMBERS {
                    self.read.malformed_lines.push(number);
                }
            }
            Line::Row(row) => {
                let fingerprint = fingerprint(&row);
                if self.seen.insert(fingerprint) {
                    self.rows.push(&row, fingerprint)?;
                } else {
                    self.read.duplicates += 1;
                }
            }
        }
        Ok(())
    }
}

impl Source {
    /// Reads a source's file, or runs its query; rows are kept in a file of `directory`.
    ///
    /// # Errors
    /// Where the file cannot be read or the query not be run, or nothing is left of the rows.
    pub fn read(config: &SourceConfig, directory: &Path) -> Result<Source, Error> {
        let path = &config.path;
        let rows = SpoolWriter::new(directory)?;
        let mut taken = Rows { rows, read: Read::default(), seen: HashSet::new() };
        match &config.query {
            Some(query) => database::read(config, query, &mut taken)?,
            None => match Format::of(path) {
                Format::Parquet => parquet::read(config, &mut taken)?,
                format => {
                    for line in lines(path)? {
                        match line {
                            Ok((number, line)) => {
                                taken.take(number, parse(format, config, &line))?;
                            }
                            Err(Error::Data { line, .. }) => taken.take(line, Line::Malformed)?,
                            Err(error) => return Err(error),
                        }
                    }
                }
            },
        }
        let Rows { rows, mut read, seen } = taken;
        drop(seen);
        // A table has no order of its own: what is learned depends on its rows alone.
        let order = match config.query {
            Some(_) => RowOrder::ByContent,
            None => RowOrder::AsTheyCame,
        };
        let mut rows = rows.finish(order)?;
        if let Some(limit) = config.limit {
            // The first rows of a shuffle, so that a limit does not take one topic.
            let order = Order::new(rows.len(), config.limit_seed);
            let mut picked: Vec<usize> = order.permutation(0).into_iter().take(limit).collect();
            picked.sort_unstable();
            rows.keep(&picked);
        }
        read.kept = rows.len();
        if rows.len() < 2 {
            return Err(Error::Missing {
                path: config.place(),
                expected: "two rows of its source or more",
            });
        }
        Ok(Source { rows, read })
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// A row of one text (sentences), two (pairs), two or three (triplets), two or more (groups).
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn row(&self, at: usize) -> Result<Vec<String>, Error> {
        self.rows.row(at)
    }
}

/// What a file's name says of its content.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    Tsv,
    JsonLines,
    Parquet,
}

impl Format {
    pub fn of(path: &Path) -> Format {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        if name.ends_with(".parquet") {
            return Format::Parquet;
        }
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        match name.rsplit_once('.') {
            Some((_, "tsv")) => Format::Tsv,
            Some((_, "jsonl")) => Format::JsonLines,
            _ => Format::Text,
        }
    }
}

fn parse(format: Format, config: &SourceConfig, line: &str) -> Line {
    let columns: Vec<String> = match format {
        Format::Text | Format::Parquet => vec![line.to_owned()],
        Format::Tsv => line.split('\t').map(str::to_owned).collect(),
        Format::JsonLines => match json_columns(config, line) {
            Some(columns) => columns,
            None => return Line::Malformed,
        },
    };
    let columns = match (&config.only, format) {
        (Some(only), Format::Tsv) => match columns.split_first() {
            Some((first, rest)) if only.contains(first) => rest.to_vec(),
            _ => return Line::Filtered,
        },
        _ => columns,
    };
    row(config.kind, &columns)
}

/// A row of the kind that is asked for.
fn row(kind: Kind, columns: &[String]) -> Line {
    let mut texts: Vec<String> = columns.iter().map(|text| text.trim().to_owned()).collect();
    let (least, most) = match kind {
        Kind::Sentences => (1, 1),
        Kind::Pairs => (2, 2),
        Kind::Triplets => (2, 3),
        Kind::Groups => (2, usize::MAX),
    };
    match kind {
        Kind::Groups => texts.retain(|text| !text.is_empty()),
        // A triplet's third column may be empty.
        Kind::Triplets if texts.last().is_some_and(String::is_empty) && texts.len() == 3 => {
            texts.pop();
        }
        _ => (),
    }
    if texts.len() < least || texts.iter().take(most).any(String::is_empty) {
        return Line::Malformed;
    }
    texts.truncate(most);
    Line::Row(texts)
}

/// The named fields of an object; a field that is a list of strings gives them all.
fn json_columns(config: &SourceConfig, line: &str) -> Option<Vec<String>> {
    let object: serde_json::Value = serde_json::from_str(line).ok()?;
    let mut columns = Vec::new();
    for field in &config.fields {
        match object.get(field)? {
            serde_json::Value::String(text) => columns.push(text.clone()),
            serde_json::Value::Array(texts) => {
                for text in texts {
                    columns.push(text.as_str()?.to_owned());
                }
            }
            _ => return None,
        }
    }
    Some(columns)
}

/// The order in which rows are drawn.
pub struct Order {
    rows: usize,
    seed: u64,
    epoch: Option<(u64, Vec<usize>)>,
}

impl Order {
    /// Of so many rows, by a seed.
    pub fn new(rows: usize, seed: u64) -> Order {
        Order { rows, seed, epoch: None }
    }

    /// Row number `at` of the endless sequence, each epoch a shuffle of its own.
    pub fn row(&mut self, at: u64) -> usize {
        let rows = self.rows as u64;
        let epoch = at / rows;
        if self.epoch.as_ref().is_none_or(|(known, _)| *known != epoch) {
            self.epoch = Some((epoch, self.permutation(epoch)));
        }
        self.epoch.as_ref().map_or(0, |(_, order)| order[(at % rows) as usize])
    }

    /// Fisher–Yates with hashed choices.
    fn permutation(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.rows).collect();
        let key = mix(self.seed ^ mix(epoch));
        for last in (1..order.len()).rev() {
            let other = mix(key ^ last as u64) % (last as u64 + 1);
            order.swap(last, other as usize);
        }
        order
    }
}
