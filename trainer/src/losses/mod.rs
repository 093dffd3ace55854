//! What is minimized, as functions of the pooled vectors, in candle.
//!
//! Every loss takes vectors as the network gives them (rows, not normalized) and gives one number;
//! candle differentiates it down to the vectors, and the network's own backward pass goes on from
//! there. Similarities are cosines divided by a temperature τ.
//!
//! | loss | source |
//! |---|---|
//! | [`info_nce`] | van den Oord et al. 2018; with dropout passes and hard negatives Gao et al. 2021 (SimCSE), whose setting Lim, Ng, Lim 2024 follow for DistilFace |
//! | [`group_nce`] | the same for lines of several texts: supervised contrastive loss (Khosla et al. 2020), each pair against the other lines alone |
//! | [`regression`] | Reimers & Gurevych 2020, on unit vectors |
//! | [`similarity_kl`] | Fang et al. 2021 (SEED), within the batch |
//! | [`relational_ranking`] | Liu et al. 2023 (RankCSE), pairwise form |
//! | [`matryoshka`] | Kusupati et al. 2022 |

use candle_core::{D, DType, Result, Tensor};

#[cfg(test)]
mod tests;

/// Added to masked scores: `exp` of it is 0 in f32, and sums with it stay finite.
const MASKED: f64 = -1e9;

/// Rows scaled to length 1.
pub fn normalize(x: &Tensor) -> Result<Tensor> {
    // As PyTorch's normalize: a zero row stays zero.
    let norm = x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?.clamp(1e-12, f64::MAX)?;
    x.broadcast_div(&norm)
}

/// Which way a contrastive loss is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Each anchor finds its positive.
    Forward,
    /// The mean of that and of each positive finding its anchor.
    Symmetric,
}

/// InfoNCE: anchor i against all positives, of which i is its own, and all `negatives` as further
/// columns. The symmetric form's second half has no such columns.
pub fn info_nce(
    anchors: &Tensor,
    positives: &Tensor,
    negatives: Option<&Tensor>,
    tau: f64,
    direction: Direction,
) -> Result<Tensor> {
    let (a, p) = (normalize(anchors)?, normalize(positives)?);
    let scores = (a.matmul(&p.t()?)? / tau)?;
    let columns = match negatives {
        None => scores.clone(),
        Some(negatives) => {
            let hard = (a.matmul(&normalize(negatives)?.t()?)? / tau)?;
            Tensor::cat(&[&scores, &hard], 1)?
        }
    };
    let own = scores.mul(&identity(&scores)?)?.sum(D::Minus1)?;
    let forward = (log_sum_exp(&columns)? - &own)?.mean_all()?;
    match direction {
        Direction::Forward => Ok(forward),
        Direction::Symmetric => {
            let backward = (log_sum_exp(&scores.t()?.contiguous()?)? - own)?.mean_all()?;
            (forward + backward)? / 2.0
        }
    }
}

/// Contrast between lines: any two texts of a line are positives of each other, texts of other
/// lines are negatives, and a line's texts are never each other's negatives. `lines[i]` is the
/// line of row i; lines of one text only serve as negatives.
pub fn group_nce(vectors: &Tensor, lines: &[u32], tau: f64) -> Result<Tensor> {
    let n = lines.len();
    let z = normalize(vectors)?;
    let scores = (z.matmul(&z.t()?)? / tau)?;
    let same = |i: usize, j: usize| lines[i] == lines[j];
    let mask = |f: &dyn Fn(usize, usize) -> f32| {
        let values: Vec<f32> = (0..n * n).map(|at| f(at / n, at % n)).collect();
        Tensor::from_vec(values, (n, n), vectors.device())
    };
    let others = mask(&|i, j| if same(i, j) { MASKED as f32 } else { 0.0 })?;
    let pairs = mask(&|i, j| f32::from(u8::from(i != j && same(i, j))))?;
    let count = (0..n * n).filter(|at| at / n != at % n && same(at / n, at % n)).count();
    // log(exp(s) + Σ exp(others)) − s
    let against = log_sum_exp(&(&scores + others)?)?.unsqueeze(1)?;
    let losses = softplus(&against.broadcast_sub(&scores)?)?;
    (losses.mul(&pairs)?.sum_all()? / count.max(1) as f64)?.to_dtype(DType::F32)
}

/// Mean squared distance between unit vectors of student and teacher, the student's mapped by
/// `projection` (student width, teacher width) where widths differ.
pub fn regression(
    student: &Tensor,
    teacher: &Tensor,
    projection: Option<&Tensor>,
) -> Result<Tensor> {
    let student = match projection {
        None => student.clone(),
        Some(projection) => student.matmul(projection)?,
    };
    (normalize(&student)? - normalize(teacher)?)?.sqr()?.sum(D::Minus1)?.mean_all()
}

/// Kullback–Leibler divergence between the distributions that teacher and student give a text over
/// the batch's other texts, the mean over texts.
pub fn similarity_kl(
    student: &Tensor,
    teacher: &Tensor,
    tau: f64,
    teacher_tau: f64,
) -> Result<Tensor> {
    let log_p = |x: &Tensor, tau: f64| -> Result<Tensor> {
        let z = normalize(x)?;
        let scores = (z.matmul(&z.t()?)? / tau)?;
        let scores = (&scores + (identity(&scores)? * MASKED)?)?;
        scores.broadcast_sub(&log_sum_exp(&scores)?.unsqueeze(1)?)
    };
    let (log_q, log_p) = (log_p(student, tau)?, log_p(teacher, teacher_tau)?.detach());
    // Masked entries have p = 0 exactly, and finite logarithms.
    log_p.exp()?.mul(&(log_p - log_q)?)?.sum(D::Minus1)?.mean_all()
}

/// For every text, each two others that the teacher tells apart are to be ranked as it does:
/// Σ (t_ij − t_ik)₊ · log(1 + exp((s_ik − s_ij) / τ)), over the sum of the weights.
pub fn relational_ranking(student: &Tensor, teacher: &Tensor, tau: f64) -> Result<Tensor> {
    let cosines = |x: &Tensor| -> Result<Tensor> {
        let z = normalize(x)?;
        z.matmul(&z.t()?)
    };
    let (s, t) = (cosines(student)?, cosines(teacher)?.detach());
    let n = s.dim(0)?;
    let three = |x: &Tensor, axis: usize| x.unsqueeze(axis)?.broadcast_as((n, n, n))?.contiguous();
    // [i, j, k]: how much more the teacher likes j than k.
    let weight = (three(&t, 2)? - three(&t, 1)?)?.relu()?;
    // Not the text itself, which every model puts first.
    let other: Vec<f32> = (0..n * n * n)
        .map(|at| {
            let (i, j, k) = (at / (n * n), at / n % n, at % n);
            f32::from(u8::from(i != j && i != k))
        })
        .collect();
    let weight = weight.mul(&Tensor::from_vec(other, (n, n, n), s.device())?)?;
    let gap = ((three(&s, 1)? - three(&s, 2)?)? / tau)?;
    let total = weight.sum_all()?.clamp(1e-12, f64::MAX)?;
    softplus(&gap)?.mul(&weight)?.sum_all()?.div(&total)
}

/// The mean of a loss over prefixes of the vectors.
pub fn matryoshka(
    vectors: &Tensor,
    prefixes: &[usize],
    loss: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let mut sum = loss(vectors)?;
    for prefix in prefixes {
        sum = (sum + loss(&vectors.narrow(1, 0, *prefix)?.contiguous()?)?)?;
    }
    sum / (prefixes.len() + 1) as f64
}

/// SimCSE's head, in training only: tanh(x wᵀ + b).
pub fn mlp_head(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    x.matmul(&weight.t()?)?.broadcast_add(bias)?.tanh()
}

fn identity(square: &Tensor) -> Result<Tensor> {
    Tensor::eye(square.dim(0)?, DType::F32, square.device())
}

/// log Σ exp over the last dimension.
fn log_sum_exp(x: &Tensor) -> Result<Tensor> {
    let most = x.max_keepdim(D::Minus1)?.detach();
    let sum = x.broadcast_sub(&most)?.exp()?.sum_keepdim(D::Minus1)?;
    (sum.log()? + most)?.squeeze(D::Minus1)
}

/// log(1 + exp(x)) without overflow: max(x, 0) + log(1 + exp(−|x|)).
fn softplus(x: &Tensor) -> Result<Tensor> {
    x.relu()? + (x.abs()?.neg()?.exp()? + 1.0)?.log()?
}
