//! Vectors of a batch and the way back, on several threads, without keeping more than asked for.
//!
//! A batch's texts are sorted by length and cut into passes of about [`Engine::pass_tokens`]
//! tokens. Pass p belongs to thread p mod threads, and each thread adds up its own gradients in
//! order, so that one setting of threads always sums in one order: the same run gives the same
//! bits. Where a batch has more tokens than [`Engine::cache_above`], nothing is kept from the first
//! forward pass and each pass is computed again for its derivative, with the same dropout masks
//! (gradient caching, Gao et al. 2021): memory then depends on the passes, not on the batch.

use distilface_core::training::add;

use crate::net::{Direction, Dropout, Network, Tape, Texts};

/// Passes over batches.
pub struct Engine {
    pub threads: usize,
    pub pass_tokens: usize,
    pub cache_above: usize,
    /// Gradients of all weights but the embedding rows, of each thread but the first.
    dense: Vec<Vec<f32>>,
}

/// A batch on its way.
pub struct Forward {
    /// Vectors in the order of the batch's texts.
    pub vectors: Vec<f32>,
    passes: Vec<Pass<Tape>>,
    drop: Option<Dropout>,
}

/// Texts that are computed together.
pub(super) struct Pass<T> {
    pub texts: Texts,
    /// Which text of the batch each is.
    pub rows: Vec<usize>,
    /// What the derivative needs; none where the pass is computed again for it.
    pub tape: Option<T>,
}

impl Engine {
    /// With nothing added up yet.
    pub fn new(threads: usize, pass_tokens: usize, cache_above: usize) -> Engine {
        Engine { threads, pass_tokens, cache_above, dense: Vec::new() }
    }

    /// Vectors of texts, not normalized, without dropout.
    pub fn vectors(&self, network: &Network, texts: &[Vec<u32>]) -> Vec<f32> {
        self.run(network, texts, 0, None, false).vectors
    }

    /// Vectors of texts under dropout; text i has number `first` + i.
    pub fn forward(
        &self,
        network: &Network,
        texts: &[Vec<u32>],
        first: u64,
        drop: Dropout,
    ) -> Forward {
        let tokens: usize = texts.iter().map(Vec::len).sum();
        self.run(network, texts, first, Some(drop), tokens <= self.cache_above)
    }

    fn run(
        &self,
        network: &Network,
        texts: &[Vec<u32>],
        first: u64,
        drop: Option<Dropout>,
        keep: bool,
    ) -> Forward {
        let full = |pass: &Pass<Tape>, next| pass.texts.ids.len() + next > self.pass_tokens;
        let mut passes = plan(texts, first, full);
        let width = network.hidden();
        let mut vectors = vec![0.0; texts.len() * width];
        let laid = network.lay(Direction::Forward, self.threads);
        let laid = &laid;
        let mut shares = split(&mut passes, self.threads);
        let results = std::thread::scope(|scope| {
            let workers: Vec<_> = shares
                .iter_mut()
                .map(|share| {
                    scope.spawn(move || {
                        let mut out = Vec::new();
                        for pass in share.iter_mut() {
                            let mut tape = keep.then(Tape::default);
                            out.push(network.forward(
                                laid,
                                &pass.texts,
                                drop.as_ref(),
                                tape.as_mut(),
                            ));
                            pass.tape = tape;
                        }
                        out
                    })
                })
                .collect();
            workers.into_iter().map(join).collect::<Vec<_>>()
        });
        for (share, results) in shares.iter().zip(results) {
            for (pass, result) in share.iter().zip(results) {
                for (row, vector) in pass.rows.iter().zip(result.chunks_exact(width)) {
                    vectors[row * width..(row + 1) * width].copy_from_slice(vector);
                }
            }
        }
        Forward { vectors, passes, drop }
    }

    /// Adds the gradients of all weights to `all`, given that of the vectors.
    pub fn backward(&mut self, network: &Network, forward: Forward, grad: &[f32], all: &mut [f32]) {
        let Forward { mut passes, drop, .. } = forward;
        let width = network.hidden();
        let start = network.dense_start();
        let again = passes.iter().any(|pass| pass.tape.is_none());
        let forward = again.then(|| network.lay(Direction::Forward, self.threads));
        let (forward, laid) =
            (&forward.unwrap_or_default(), &network.lay(Direction::Backward, self.threads));
        let shares = split(&mut passes, self.threads);
        // The first thread adds to the result itself, the others to gradients of their own.
        let size = all.len() - start;
        self.dense.resize_with(shares.len() - 1, || vec![0.0; size]);
        let own = self.dense.iter_mut().map(|own| &mut own[..]);
        let targets = std::iter::once(&mut all[start..]).chain(own);
        let embedded = std::thread::scope(|scope| {
            let workers: Vec<_> = shares
                .into_iter()
                .zip(targets)
                .enumerate()
                .map(|(thread, (share, dense))| {
                    scope.spawn(move || {
                        if thread > 0 {
                            dense.fill(0.0);
                        }
                        let mut rows = Vec::new();
                        for pass in share {
                            let tape = pass.tape.take().unwrap_or_else(|| {
                                let mut tape = Tape::default();
                                network.forward(
                                    forward,
                                    &pass.texts,
                                    drop.as_ref(),
                                    Some(&mut tape),
                                );
                                tape
                            });
                            let vectors: Vec<f32> = pass
                                .rows
                                .iter()
                                .flat_map(|row| &grad[row * width..(row + 1) * width])
                                .copied()
                                .collect();
                            let texts = &pass.texts;
                            rows.push(network.backward(
                                laid,
                                texts,
                                drop.as_ref(),
                                &tape,
                                &vectors,
                                dense,
                            ));
                        }
                        rows
                    })
                })
                .collect();
            workers.into_iter().map(join).collect::<Vec<_>>()
        });
        for own in &self.dense {
            add(&mut all[start..], own);
        }
        for (at, pass) in passes.iter().enumerate() {
            let rows = &embedded[at % self.threads][at / self.threads];
            network.add_embedding_gradient(&pass.texts, rows, all);
        }
    }
}

/// A worker's result; its panic goes on in this thread.
fn join<T>(worker: std::thread::ScopedJoinHandle<'_, T>) -> T {
    worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Passes by turns, for each thread its own.
fn split<T>(passes: &mut [Pass<T>], threads: usize) -> Vec<Vec<&mut Pass<T>>> {
    let mut shares: Vec<Vec<&mut Pass<T>>> = Vec::new();
    shares.resize_with(threads, Vec::new);
    for (at, pass) in passes.iter_mut().enumerate() {
        shares[at % threads].push(pass);
    }
    shares
}

/// Texts by length in passes, the next begun where one is full for a text of so many tokens.
pub(super) fn plan<T>(
    texts: &[Vec<u32>],
    first: u64,
    full: impl Fn(&Pass<T>, usize) -> bool,
) -> Vec<Pass<T>> {
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by_key(|at| (texts[*at].len(), *at));
    let mut passes: Vec<Pass<T>> = Vec::new();
    for at in order {
        if passes.last().is_none_or(|pass| full(pass, texts[at].len())) {
            passes.push(Pass { texts: Texts::default(), rows: Vec::new(), tape: None });
        }
        if let Some(pass) = passes.last_mut() {
            pass.texts.push(&texts[at], first + at as u64);
            pass.rows.push(at);
        }
    }
    passes
}
