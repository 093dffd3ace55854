//! Index parameters, checked once: everything downstream takes a [`HnswParams`] as it is.

use super::layout::Layout;
use super::sketch::BITS;
use crate::vector::{MAX_DIMS, Metric};

/// Links per node on the upper levels, as pgvector allows.
pub const M_RANGE: std::ops::RangeInclusive<u16> = 2..=100;
/// Default of `m`.
pub const DEFAULT_M: u16 = 16;
/// Candidates kept while a node is linked.
pub const EF_CONSTRUCTION_RANGE: std::ops::RangeInclusive<u16> = 4..=1000;
/// Default of `ef_construction`.
pub const DEFAULT_EF_CONSTRUCTION: u16 = 64;
/// Candidates kept by a scan.
pub const EF_SEARCH_RANGE: std::ops::RangeInclusive<u32> = 1..=10_000;
/// Default of `ef_search`.
pub const DEFAULT_EF_SEARCH: u32 = 40;

/// What an index is made with; fixed for its life and kept in its metapage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HnswParams {
    dims: u16,
    metric: Metric,
    m: u16,
    ef_construction: u16,
    attr_len: u16,
    storage: Storage,
}

/// What lies beside a link on level 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// Nothing: every neighbor of an expanded node is read. The smallest index.
    Plain,
    /// A sketch of the edge (`sketch.rs`): only neighbors that are likely to be near are read. Twice
    /// the size, half the page accesses. For L2 and cosine with 128 dimensions or more.
    Sketched,
}

impl Storage {
    /// The number that stands for it on disk.
    pub fn code(self) -> u8 {
        match self {
            Storage::Plain => 0,
            Storage::Sketched => 1,
        }
    }

    /// The inverse of [`Storage::code`]; anything but 0 and 1 is refused by what it is checked with.
    pub(crate) fn from_code(code: u8) -> Self {
        if code == 0 { Storage::Plain } else { Storage::Sketched }
    }

    /// The storage of that name.
    pub fn by_name(name: &str) -> Option<Self> {
        [Storage::Plain, Storage::Sketched].into_iter().find(|storage| storage.name() == name)
    }

    /// The name as in `WITH (storage = …)`: `plain`, `sketched`.
    pub fn name(self) -> &'static str {
        match self {
            Storage::Plain => "plain",
            Storage::Sketched => "sketched",
        }
    }
}

/// Parameters that no index can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParamsError {
    /// Dimensions outside 1 to [`MAX_DIMS`].
    #[error("an index needs 1 to {MAX_DIMS} dimensions, got {got}")]
    Dims {
        /// What was asked for.
        got: usize,
    },
    /// A node would not fit in one page.
    #[error(
        "a node of {dims} dimensions with m = {m} takes {slot_size} bytes, a page holds {page_room}"
    )]
    TooWide {
        /// Dimensions asked for.
        dims: usize,
        /// `m` asked for.
        m: u16,
        /// Bytes that a node would take.
        slot_size: usize,
        /// Bytes that a page has for nodes.
        page_room: usize,
    },
    /// Filter columns wider than an attribute page can hold for two pages of nodes.
    #[error("filter columns of a node take {got} bytes, there is room for {most}")]
    Attributes {
        /// Bytes that there is room for.
        most: usize,
        /// Bytes asked for.
        got: usize,
    },
    /// Sketches of edges need a metric that a rotation keeps, and dimensions to take signs from.
    #[error(
        "storage = sketched needs l2 or cosine and at least {BITS} dimensions, got {metric} and {dims}"
    )]
    Sketched {
        /// The metric asked for.
        metric: Metric,
        /// Dimensions asked for.
        dims: usize,
    },
    /// `m` out of range.
    #[error("m must be between 2 and 100, got {got}")]
    M {
        /// What was asked for.
        got: i64,
    },
    /// `ef_construction` out of range.
    #[error("ef_construction must be between 4 and 1000, got {got}")]
    EfConstruction {
        /// What was asked for.
        got: i64,
    },
    /// Too few candidates to choose links from.
    #[error("ef_construction must be at least 2 * m = {expected}, got {got}")]
    EfConstructionBelowM {
        /// The least that would do.
        expected: u16,
        /// What was asked for.
        got: u16,
    },
}

impl HnswParams {
    /// Checks what a user asked for.
    ///
    /// # Errors
    /// [`ParamsError`] names the value and what it may be.
    pub fn parse(
        dims: usize,
        metric: Metric,
        m: i64,
        ef_construction: i64,
    ) -> Result<Self, ParamsError> {
        if dims == 0 || dims > MAX_DIMS {
            return Err(ParamsError::Dims { got: dims });
        }
        let in_range = |value: i64, range: std::ops::RangeInclusive<u16>| {
            u16::try_from(value).ok().filter(|value| range.contains(value))
        };
        let m_checked = in_range(m, M_RANGE).ok_or(ParamsError::M { got: m })?;
        let ef_construction = in_range(ef_construction, EF_CONSTRUCTION_RANGE)
            .ok_or(ParamsError::EfConstruction { got: ef_construction })?;
        if ef_construction < 2 * m_checked {
            let expected = 2 * m_checked;
            return Err(ParamsError::EfConstructionBelowM { expected, got: ef_construction });
        }
        let storage = Storage::Plain;
        let plain =
            Self { dims: dims as u16, metric, m: m_checked, ef_construction, attr_len: 0, storage }
                .fitting()?;
        // The faster storage where it can be had.
        Ok(plain.with_storage(Storage::Sketched).unwrap_or(plain))
    }

    /// The same with another storage. [`HnswParams::parse`] chooses [`Storage::Sketched`] where it
    /// can.
    ///
    /// # Errors
    /// [`ParamsError::Sketched`] where there can be no sketches; [`ParamsError::TooWide`].
    pub fn with_storage(self, storage: Storage) -> Result<Self, ParamsError> {
        let (metric, dims) = (self.metric, self.dims());
        let can_sketch = matches!(metric, Metric::L2 | Metric::Cosine) && dims >= BITS;
        if storage == Storage::Sketched && !can_sketch {
            return Err(ParamsError::Sketched { metric, dims });
        }
        Self { storage, ..self }.fitting()
    }

    /// What lies beside a link.
    pub fn storage(&self) -> Storage {
        self.storage
    }

    /// The same with `attr_len` bytes for each node's filter columns.
    ///
    /// # Errors
    /// [`ParamsError::Attributes`] where a page then holds those of less than two pages of nodes.
    pub fn with_attr_len(self, attr_len: u16) -> Result<Self, ParamsError> {
        Self { attr_len, ..self }.fitting()
    }

    fn fitting(self) -> Result<Self, ParamsError> {
        let layout = Layout::new(&self);
        if layout.slots_per_page() == 0 {
            return Err(ParamsError::TooWide {
                dims: self.dims(),
                m: self.m,
                slot_size: layout.slot_size(),
                page_room: Layout::PAGE_ROOM,
            });
        }
        if self.attr_len > 0 && layout.group_pages() < 2 {
            return Err(ParamsError::Attributes {
                most: Layout::PAGE_ROOM / (2 * layout.slots_per_page()),
                got: self.attr_len.into(),
            });
        }
        Ok(self)
    }

    /// Numbers in a vector.
    pub fn dims(&self) -> usize {
        self.dims.into()
    }

    /// How distance is measured.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// How the distance of linked nodes is measured. For inner product it is L2: by inner product a
    /// vector of small norm is nobody's nearest, and pruning would cut off a tenth of the nodes
    /// where norms differ; where they do not, the two order alike.
    pub(crate) fn link_metric(&self) -> Metric {
        match self.metric {
            Metric::InnerProduct => Metric::L2,
            metric => metric,
        }
    }

    /// Most links of a node on each upper level; level 0 has twice as many.
    pub fn m(&self) -> usize {
        self.m.into()
    }

    /// Most links of a node on `level`.
    pub fn max_links(&self, level: u8) -> usize {
        if level == 0 { 2 * self.m() } else { self.m() }
    }

    /// Candidates kept while a node is linked.
    pub fn ef_construction(&self) -> usize {
        self.ef_construction.into()
    }

    /// Bytes for filter columns in each node.
    pub fn attr_len(&self) -> usize {
        self.attr_len.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_parameters_say_what_they_may_be() {
        let parse =
            |dims, m, ef| HnswParams::parse(dims, Metric::L2, m, ef).map_err(|e| e.to_string());
        assert!(parse(384, 16, 64).is_ok());
        assert!(parse(7_900, 16, 64).is_ok());
        assert_eq!(parse(0, 16, 64).unwrap_err(), "an index needs 1 to 16000 dimensions, got 0");
        assert_eq!(parse(384, 1, 64).unwrap_err(), "m must be between 2 and 100, got 1");
        assert_eq!(
            parse(384, 40, 64).unwrap_err(),
            "ef_construction must be at least 2 * m = 80, got 64"
        );
        assert!(parse(9_000, 16, 64).unwrap_err().starts_with("a node of 9000 dimensions"));
    }
}
