//! Plain Rust, for CPUs without any of the vector sets and as the tests' reference. Eight lanes in
//! an array: the compiler turns them into the baseline's vectors where there are some.

use super::{Isa, Kernels};

type V = [f32; LANES];
const LANES: usize = 8;

pub(super) static BASE: Kernels = kernel_table!(Isa::Scalar, dot_i8, dot_i8_rows);

row_by_row!(dot_i8_rows, dot_i8,);

float_kernels!();

padded_tails!();

fn dot_i8(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).map(|(&x, &y)| i32::from(x) * i32::from(y)).fold(0, i32::wrapping_add)
}

#[inline]
fn zero() -> V {
    [0.0; LANES]
}

#[inline]
fn splat(v: f32) -> V {
    [v; LANES]
}

#[inline]
fn load(x: &[f32; LANES]) -> V {
    *x
}

#[inline]
fn load_i8(codes: &[i8; LANES]) -> V {
    codes.map(f32::from)
}

#[inline]
fn add(a: V, b: V) -> V {
    std::array::from_fn(|i| a[i] + b[i])
}

#[inline]
fn add_where(a: V, x: V, bits: u64) -> V {
    std::array::from_fn(|i| a[i] + if bits >> i & 1 == 1 { x[i] } else { 0.0 })
}

#[inline]
fn at_least(a: V, b: V) -> u64 {
    a.iter().zip(b).rev().fold(0, |bits, (&a, b)| bits << 1 | u64::from(a >= b))
}

#[inline]
fn sub(a: V, b: V) -> V {
    std::array::from_fn(|i| a[i] - b[i])
}

#[inline]
fn abs(a: V) -> V {
    a.map(f32::abs)
}

/// Rounds twice: `f32::mul_add` is a library call where there is no such instruction.
#[inline]
fn fmadd(a: V, b: V, c: V) -> V {
    std::array::from_fn(|i| a[i] * b[i] + c[i])
}

/// Through double precision, which holds the product of a float and a code exactly.
#[inline]
fn sub_scaled(x: V, scale: V, c: V) -> V {
    std::array::from_fn(|i| (f64::from(x[i]) - f64::from(scale[i]) * f64::from(c[i])) as f32)
}

#[inline]
fn sum(a: V) -> f32 {
    ((a[0] + a[4]) + (a[1] + a[5])) + ((a[2] + a[6]) + (a[3] + a[7]))
}
