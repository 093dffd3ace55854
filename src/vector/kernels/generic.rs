//! The floating-point kernels of every instruction set, written once.

/// Defines the floating-point kernels from the primitives in scope: the type `V` of `LANES` floats,
/// `zero`, `splat`, `load`, `load_tail` (fewer than `LANES` floats, padded with zeros), `load_i8` and
/// `load_i8_tail` (codes made floats), `add`, `sub`, `abs`, `fmadd(a, b, c)` = a b + c, `sub_scaled(x, s, c)` = x − s c rounded once, as it
/// is often far smaller than its operands, `add_where(a, x, bits)`, which adds the lanes whose bit is set,
/// `at_least(a, b)`, the bits of the lanes with a ≥ b, and `sum`.
macro_rules! float_kernels {
    ($(#[$feature:meta])*) => {
        $(#[$feature])*
        fn sum_where(x: &[f32], bits: &[u8]) -> f32 {
            let mut total = 0.0;
            for (x, bits) in x.chunks(super::BLOCK).zip(bits.chunks(super::BLOCK / 8)) {
                let mut sums = [zero(); 4];
                for (x, bits) in x.as_chunks::<64>().0.iter().zip(bits.as_chunks::<8>().0) {
                    let bits = u64::from_le_bytes(*bits);
                    for (i, x) in x.as_chunks::<LANES>().0.iter().enumerate() {
                        sums[i % 4] = add_where(sums[i % 4], load(x), bits >> (i * LANES));
                    }
                }
                total += sum(add(add(sums[0], sums[1]), add(sums[2], sums[3])));
            }
            total
        }

        $(#[$feature])*
        fn at_least_i8(a: &[i8], scale_a: f32, b: &[i8], scale_b: f32, bits: &mut [u8]) {
            let (scale_a, scale_b, none) = (splat(scale_a), splat(scale_b), zero());
            let pairs = a.as_chunks::<64>().0.iter().zip(b.as_chunks::<64>().0);
            for ((a, b), bits) in pairs.zip(bits.as_chunks_mut::<8>().0) {
                let mut word = 0;
                let lanes = a.as_chunks::<LANES>().0.iter().zip(b.as_chunks::<LANES>().0);
                for (i, (x, y)) in lanes.enumerate() {
                    let x = fmadd(scale_a, load_i8(x), none);
                    word |= at_least(x, fmadd(scale_b, load_i8(y), none)) << (i * LANES);
                }
                *bits = u64::to_le_bytes(word);
            }
        }

        $(#[$feature])*
        fn l2_squared(a: &[f32], b: &[f32]) -> f32 {
            fold_pair!(a, load, load_tail, b, load, load_tail, |acc, x, y| {
                let d = sub(x, y);
                fmadd(d, d, acc)
            })
        }

        $(#[$feature])*
        fn inner_product(a: &[f32], b: &[f32]) -> f32 {
            fold_pair!(a, load, load_tail, b, load, load_tail, |acc, x, y| fmadd(x, y, acc))
        }

        $(#[$feature])*
        fn l1(a: &[f32], b: &[f32]) -> f32 {
            fold_pair!(a, load, load_tail, b, load, load_tail, |acc, x, y| {
                add(acc, abs(sub(x, y)))
            })
        }

        $(#[$feature])*
        fn cosine_terms(a: &[f32], b: &[f32]) -> [f32; 3] {
            let mut totals = [0.0; 3];
            for (a, b) in a.chunks(super::BLOCK).zip(b.chunks(super::BLOCK)) {
                let ((xs, x_tail), (ys, y_tail)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
                let ((x2, x_rest), (y2, y_rest)) = (xs.as_chunks::<2>(), ys.as_chunks::<2>());
                // Two sets of three sums, so that six additions are under way at once.
                let mut sums = [[zero(); 3]; 2];
                for (x, y) in x2.iter().zip(y2) {
                    for i in 0..2 {
                        let (x, y) = (load(&x[i]), load(&y[i]));
                        let [dot, xx, yy] = sums[i];
                        sums[i] = [fmadd(x, y, dot), fmadd(x, x, xx), fmadd(y, y, yy)];
                    }
                }
                for (x, y) in x_rest.iter().zip(y_rest) {
                    let (x, y) = (load(x), load(y));
                    let [dot, xx, yy] = sums[0];
                    sums[0] = [fmadd(x, y, dot), fmadd(x, x, xx), fmadd(y, y, yy)];
                }
                if !x_tail.is_empty() {
                    let (x, y) = (load_tail(x_tail), load_tail(y_tail));
                    let [dot, xx, yy] = sums[1];
                    sums[1] = [fmadd(x, y, dot), fmadd(x, x, xx), fmadd(y, y, yy)];
                }
                for (i, total) in totals.iter_mut().enumerate() {
                    *total += sum(add(sums[0][i], sums[1][i]));
                }
            }
            totals
        }

        $(#[$feature])*
        fn dot_f32_i8(x: &[f32], codes: &[i8]) -> f32 {
            fold_pair!(x, load, load_tail, codes, load_i8, load_i8_tail, |acc, x, c| {
                fmadd(x, c, acc)
            })
        }

        $(#[$feature])*
        fn l2_squared_f32_i8(x: &[f32], codes: &[i8], scale: f32) -> f32 {
            let scale = splat(scale);
            fold_pair!(x, load, load_tail, codes, load_i8, load_i8_tail, |acc, x, c| {
                let d = sub_scaled(x, scale, c);
                fmadd(d, d, acc)
            })
        }

        $(#[$feature])*
        fn l1_f32_i8(x: &[f32], codes: &[i8], scale: f32) -> f32 {
            let scale = splat(scale);
            fold_pair!(x, load, load_tail, codes, load_i8, load_i8_tail, |acc, x, c| {
                add(acc, abs(sub_scaled(x, scale, c)))
            })
        }

        $(#[$feature])*
        fn l1_scaled_i8(a: &[i8], scale_a: f32, b: &[i8], scale_b: f32) -> f32 {
            let (scale_a, scale_b, none) = (splat(scale_a), splat(scale_b), zero());
            fold_pair!(a, load_i8, load_i8_tail, b, load_i8, load_i8_tail, |acc, x, y| {
                add(acc, abs(sub_scaled(fmadd(scale_a, x, none), scale_b, y)))
            })
        }
    };
}

/// Folds two slices block by block, `LANES` elements at a time into four running vectors of sums.
macro_rules! fold_pair {
    (
        $a:expr, $load_a:ident, $tail_a:ident,
        $b:expr, $load_b:ident, $tail_b:ident,
        |$acc:ident, $x:ident, $y:ident| $step:expr
    ) => {{
        let mut total = 0.0;
        for (a, b) in $a.chunks(super::BLOCK).zip($b.chunks(super::BLOCK)) {
            let ((xs, x_tail), (ys, y_tail)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
            let ((x4, x_rest), (y4, y_rest)) = (xs.as_chunks::<4>(), ys.as_chunks::<4>());
            let mut sums = [zero(); 4];
            for (x, y) in x4.iter().zip(y4) {
                for i in 0..4 {
                    let ($acc, $x, $y) = (sums[i], $load_a(&x[i]), $load_b(&y[i]));
                    sums[i] = $step;
                }
            }
            for (x, y) in x_rest.iter().zip(y_rest) {
                let ($acc, $x, $y) = (sums[0], $load_a(x), $load_b(y));
                sums[0] = $step;
            }
            if !x_tail.is_empty() {
                let ($acc, $x, $y) = (sums[1], $tail_a(x_tail), $tail_b(y_tail));
                sums[1] = $step;
            }
            total += sum(add(add(sums[0], sums[1]), add(sums[2], sums[3])));
        }
        total
    }};
}

/// Names the kernels in scope in a table.
macro_rules! kernel_table {
    ($isa:expr, $dot_i8:path, $dot_i8_rows:path) => {
        super::Kernels {
            isa: $isa,
            l2_squared,
            inner_product,
            l1,
            cosine_terms,
            dot_i8: $dot_i8,
            dot_i8_rows: $dot_i8_rows,
            dot_f32_i8,
            l2_squared_f32_i8,
            l1_f32_i8,
            l1_scaled_i8,
            sum_where,
            at_least_i8,
        }
    };
}

/// `dot_i8_rows` by the kernel for one pair.
macro_rules! row_by_row {
    ($name:ident, $dot_i8:path, $(#[$feature:meta])*) => {
        $(#[$feature])*
        fn $name(row: &[i8], rows: &[i8], picks: &[u32], products: &mut [i32]) {
            for (product, &pick) in products.iter_mut().zip(picks) {
                *product = $dot_i8(row, &rows[pick as usize * row.len()..][..row.len()]);
            }
        }
    };
}

/// `load_tail` and `load_i8_tail` through a buffer of zeros, for sets without masked loads.
macro_rules! padded_tails {
    ($(#[$feature:meta])*) => {
        #[inline]
        $(#[$feature])*
        fn load_tail(tail: &[f32]) -> V {
            let mut padded = [0f32; LANES];
            padded[..tail.len()].copy_from_slice(tail);
            load(&padded)
        }

        #[inline]
        $(#[$feature])*
        fn load_i8_tail(tail: &[i8]) -> V {
            let mut padded = [0i8; LANES];
            padded[..tail.len()].copy_from_slice(tail);
            load_i8(&padded)
        }
    };
}
