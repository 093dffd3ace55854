//! The product of two matrices of either layout.

use super::amx;

/// What products are computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Products {
    /// 32-bit floats.
    F32,
    /// Factors rounded to bfloat16, sums in 32-bit floats.
    Bf16,
}

/// A matrix in row-major order, or the transpose of one.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    pub(super) data: &'a [f32],
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// From one row to the next, and from one column to the next; one of them is 1.
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// `rows` by `cols`, row after row.
    ///
    /// # Panics
    /// If `data` holds another number of values.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Matrix<'a> {
        assert_eq!(Some(data.len()), rows.checked_mul(cols), "a matrix of {rows} by {cols}");
        Matrix { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// The transpose, without moving anything.
    pub fn transposed(self) -> Matrix<'a> {
        Matrix {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// What becomes of the result's former values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Into {
    /// They are overwritten.
    Replace,
    /// The product is added to them.
    Add,
}

/// A right factor that many products share, laid out once for them.
pub struct Packed {
    rows: usize,
    cols: usize,
    tiles: amx::Tiles,
}

impl Packed {
    /// Lays `b` out; `None` where products of this kind take it as it is.
    pub fn new(products: Products, b: Matrix<'_>) -> Option<Packed> {
        let tiles =
            (products == Products::Bf16 && amx::is_available()).then(|| amx::Tiles::right(b))?;
        Some(Packed { rows: b.rows, cols: b.cols, tiles })
    }

    /// `out = a · b`, or added to it, with the same bits as [`product`].
    ///
    /// # Panics
    /// If the inner sizes differ or `out` has another length.
    pub fn product(&self, a: Matrix<'_>, out: &mut [f32], into: Into) {
        check(a, self.rows, self.cols, out);
        amx::product_packed(a, &self.tiles, self.cols, out, into);
    }
}

fn check(a: Matrix<'_>, rows: usize, cols: usize, out: &[f32]) {
    assert_eq!(a.cols, rows, "inner sizes of a product");
    assert_eq!(Some(out.len()), a.rows.checked_mul(cols), "size of a product");
}

/// `out = a · b`, or added to it; `out` is row-major, `a.rows` by `b.cols`.
///
/// # Panics
/// If the inner sizes differ or `out` has another length.
pub fn product(products: Products, a: Matrix<'_>, b: Matrix<'_>, out: &mut [f32], into: Into) {
    check(a, b.rows, b.cols, out);
    if a.rows == 0 || b.cols == 0 {
        return;
    }
    if products == Products::Bf16 && amx::is_available() {
        return amx::product(a, b, out, into);
    }
    let stride = |stride: usize| stride as isize;
    // SAFETY: `Matrix` and the assertion above make every element that the sizes and strides reach
    // lie inside its slice; `out` is borrowed exclusively.
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            out.as_mut_ptr(),
            1,
            stride(b.cols),
            into == Into::Add,
            a.data.as_ptr(),
            stride(a.col_stride),
            stride(a.row_stride),
            b.data.as_ptr(),
            stride(b.col_stride),
            stride(b.row_stride),
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
