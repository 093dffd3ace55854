//! What an index is made with: its columns' analyzers and boosts, `k1` and `b`.

use super::analyzer::{TextConfig, TextConfigError};
use tantivy::schema::{Field, IndexRecordOption, Schema, TextFieldIndexing, TextOptions};
use tantivy::tokenizer::TokenizerManager;

/// Columns that an index may have, PostgreSQL's `INDEX_MAX_KEYS`.
pub const MAX_COLUMNS: usize = 32;
/// Bytes that the columns' configurations may take in the metapage.
pub(crate) const MAX_CONFIG_BYTES: usize = 2048;
/// BM25's saturation, as in Lucene and tantivy.
pub const DEFAULT_K1: f32 = 1.2;
/// BM25's length normalization, as in Lucene and tantivy.
pub const DEFAULT_B: f32 = 0.75;

/// Why parameters are refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ParamsError {
    /// No column, or too many.
    #[error("an index has 1 to 32 columns, got {0}")]
    Columns(usize),
    /// A value out of its range.
    #[error("{name} must be from {min} to {max}, got {got}")]
    Range { name: &'static str, min: f32, max: f32, got: f32 },
    /// The configurations do not fit into the metapage.
    #[error("the columns' text configurations take {0} bytes, at most 2048 fit")]
    TooLong(usize),
    /// A column's configuration is not understood.
    #[error(transparent)]
    TextConfig(#[from] TextConfigError),
}

/// A column of an index.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// How its text is cut into terms.
    pub config: TextConfig,
    /// What its scores are multiplied by.
    pub boost: f32,
}

/// An index's parameters, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Bm25Params {
    columns: Vec<Column>,
    k1: f32,
    b: f32,
}

impl Bm25Params {
    /// Checks the parameters: `k1` from 0 to 10, `b` from 0 to 1, boosts from 0 to 1000.
    ///
    /// # Errors
    /// [`ParamsError`] names what is out of range.
    pub fn new(columns: Vec<Column>, k1: f32, b: f32) -> Result<Self, ParamsError> {
        if columns.is_empty() || columns.len() > MAX_COLUMNS {
            return Err(ParamsError::Columns(columns.len()));
        }
        in_range("k1", k1, 0.0, 10.0)?;
        in_range("b", b, 0.0, 1.0)?;
        for column in &columns {
            in_range("a boost", column.boost, 0.0, 1000.0)?;
        }
        let bytes: usize = columns.iter().map(|column| column.config.to_string().len() + 6).sum();
        if bytes > MAX_CONFIG_BYTES {
            return Err(ParamsError::TooLong(bytes));
        }
        Ok(Self { columns, k1, b })
    }

    /// One column with a configuration and BM25's usual constants.
    ///
    /// # Errors
    /// [`TextConfigError`] where the configuration is not understood.
    pub fn single(config: &str) -> Result<Self, TextConfigError> {
        let config = TextConfig::parse(config)?;
        let columns = vec![Column { config, boost: 1.0 }];
        Ok(Self { columns, k1: DEFAULT_K1, b: DEFAULT_B })
    }

    /// The columns, in the index's order.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// BM25's `k1`.
    pub fn k1(&self) -> f32 {
        self.k1
    }

    /// BM25's `b`.
    pub fn b(&self) -> f32 {
        self.b
    }

    /// The same columns with other constants, which may change without a rebuild.
    ///
    /// # Errors
    /// As for [`Bm25Params::new`].
    pub fn with_constants(self, k1: f32, b: f32) -> Result<Self, ParamsError> {
        Self::new(self.columns, k1, b)
    }

    /// The columns' fields in [`Bm25Params::schema`].
    pub(crate) fn fields(&self) -> Vec<Field> {
        (0..self.columns.len() as u32).map(Field::from_field_id).collect()
    }

    /// tantivy's schema: a text field a column, in their order, named by its number, with positions.
    pub(crate) fn schema(&self) -> Schema {
        let mut builder = Schema::builder();
        for column in 0..self.columns.len() {
            let name = field_name(column);
            let indexing = TextFieldIndexing::default()
                .set_tokenizer(&name)
                .set_index_option(IndexRecordOption::WithFreqsAndPositions);
            builder.add_text_field(&name, TextOptions::default().set_indexing_options(indexing));
        }
        builder.build()
    }

    /// The columns' analyzers under their fields' names.
    pub(crate) fn tokenizers(&self) -> TokenizerManager {
        let manager = TokenizerManager::new();
        for (number, column) in self.columns.iter().enumerate() {
            manager.register(&field_name(number), column.config.analyzer());
        }
        manager
    }
}

fn field_name(column: usize) -> String {
    format!("c{column}")
}

fn in_range(name: &'static str, got: f32, min: f32, max: f32) -> Result<(), ParamsError> {
    if (min..=max).contains(&got) {
        Ok(())
    } else {
        Err(ParamsError::Range { name, min, max, got })
    }
}
