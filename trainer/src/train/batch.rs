//! What one step sees of one source.

use candle_core::{Device, Tensor, Var};
use distilface_core::training::mix;

use super::config::{Kind, Loss, SourceConfig};
use crate::data::{Order, Source};
use crate::error::Error;
use crate::losses::{
    Direction, group_nce, info_nce, matryoshka, mlp_head, regression, relational_ranking,
    similarity_kl,
};

/// Sets the choice of how many rows are joined apart from the choices within them.
const JOINED: u64 = 1 << 63;

/// Texts of a batch, in the order that its loss expects.
pub struct Batch {
    pub texts: Vec<String>,
    form: Form,
}

enum Form {
    /// So many anchors, as many positives, then the hard negatives.
    Contrast { anchors: usize },
    /// The line of each text.
    Groups(Vec<u32>),
    /// Texts on their own.
    Plain,
}

/// What a loss needs beside the vectors.
pub struct Beside<'a> {
    /// The teacher's vectors, one a text.
    pub teacher: Option<Tensor>,
    /// From the student's width to the teacher's.
    pub projection: Option<&'a Var>,
    /// Weight and bias.
    pub head: Option<[&'a Var; 2]>,
    pub dims: &'a [usize],
}

impl Batch {
    /// Batch number `visit` of a source.
    ///
    /// # Errors
    /// Where a row cannot be read.
    pub fn draw(
        source: &Source,
        config: &SourceConfig,
        order: &mut Order,
        visit: u64,
        seed: u64,
    ) -> Result<Batch, Error> {
        let key = mix(seed ^ mix(visit));
        if config.loss != Loss::Contrastive {
            let texts = (0..config.batch as u64)
                .map(|at| joined(source, config, order, visit * config.batch as u64 + at, key ^ at))
                .collect::<Result<_, Error>>()?;
            return Ok(Batch { texts, form: Form::Plain });
        }
        let first = visit * config.batch as u64;
        let rows = (0..config.batch as u64).map(|at| source.row(order.row(first + at)));
        let rows = rows.collect::<Result<Vec<Vec<String>>, Error>>()?;
        let column = |at: usize| rows.iter().filter_map(move |row| row.get(at).cloned());
        Ok(match config.kind {
            Kind::Sentences => {
                let anchors = rows.len();
                let texts = column(0).chain(column(0)).collect();
                Batch { texts, form: Form::Contrast { anchors } }
            }
            Kind::Pairs | Kind::Triplets => {
                let anchors = rows.len();
                let texts = column(0).chain(column(1)).chain(column(2)).collect();
                Batch { texts, form: Form::Contrast { anchors } }
            }
            Kind::Groups => {
                let (mut texts, mut lines) = (Vec::new(), Vec::new());
                for (line, row) in rows.iter().enumerate() {
                    let len = row.len() as u64;
                    let first = mix(key ^ line as u64) % len;
                    let second = (first + 1 + mix(key ^ mix(line as u64)) % (len - 1)) % len;
                    for at in [first, second] {
                        texts.push(row[at as usize].clone());
                        lines.push(line as u32);
                    }
                }
                Batch { texts, form: Form::Groups(lines) }
            }
        })
    }

    /// The loss of the batch's vectors, rows in the order of the texts.
    pub fn loss(
        &self,
        config: &SourceConfig,
        vectors: &Tensor,
        beside: &Beside<'_>,
    ) -> candle_core::Result<Tensor> {
        let tau = config.tau;
        let one = |x: &Tensor| -> candle_core::Result<Tensor> {
            if let Some(teacher) = &beside.teacher {
                return match config.loss {
                    Loss::Regression => {
                        let projection = beside.projection.map(|var| var.as_tensor());
                        regression(
                            x,
                            teacher,
                            projection.filter(|p| p.dim(0).ok() == x.dim(1).ok()),
                        )
                    }
                    Loss::Ranking => relational_ranking(x, teacher, tau),
                    _ => similarity_kl(x, teacher, tau, config.teacher_tau),
                };
            }
            let x = match beside.head {
                Some([weight, bias]) if weight.dim(1)? == x.dim(1)? => {
                    mlp_head(x, weight.as_tensor(), bias.as_tensor())?
                }
                _ => x.clone(),
            };
            match &self.form {
                Form::Contrast { anchors } => {
                    let n = *anchors;
                    let rows = |at: usize, n: usize| x.narrow(0, at, n);
                    let hard = self.texts.len() - 2 * n;
                    let negatives = (hard > 0).then(|| rows(2 * n, hard)).transpose()?;
                    let direction =
                        if config.symmetric { Direction::Symmetric } else { Direction::Forward };
                    info_nce(&rows(0, n)?, &rows(n, n)?, negatives.as_ref(), tau, direction)
                }
                Form::Groups(lines) => group_nce(&x, lines, tau),
                // Texts on their own have a teacher; `RunConfig::check` made sure.
                Form::Plain => x.sum_all().and_then(|sum| sum * 0.0),
            }
        };
        // A learned map to the teacher's space is of whole vectors only.
        let dims = if config.loss == Loss::Regression { &[] } else { beside.dims };
        matryoshka(vectors, dims, one)
    }
}

/// Text number `text` of distillation: one text of each of 1 to `join` rows, one after another.
/// (Of each row one: a distribution over texts that mean the same teaches nothing.)
fn joined(
    source: &Source,
    config: &SourceConfig,
    order: &mut Order,
    text: u64,
    key: u64,
) -> Result<String, Error> {
    let join = config.join as u64;
    let parts = 1 + mix(key ^ JOINED) % join;
    let part = |part: u64| {
        let mut row = source.row(order.row(text * join + part))?;
        let at = mix(key ^ part << 32) % row.len() as u64;
        Ok(row.swap_remove(at as usize))
    };
    Ok((0..parts).map(part).collect::<Result<Vec<String>, Error>>()?.join(" "))
}

/// Rows of f32 as a tensor.
pub fn tensor(values: &[f32], rows: usize, device: &Device) -> candle_core::Result<Tensor> {
    Tensor::from_slice(values, (rows, values.len() / rows.max(1)), device)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::train::config::RunConfig;

    #[test]
    fn texts_of_distillation_are_joined_from_up_to_so_many_rows_each_drawn_once_an_epoch() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let path = place.path().join("rows.txt");
        let rows: Vec<String> = (0..120).map(|at| format!("r{at}")).collect();
        std::fs::write(&path, rows.join("\n")).expect("it is written");
        let config = SourceConfig {
            loss: Loss::Regression,
            teachers: vec![place.path().to_owned()],
            batch: 4,
            join: 3,
            ..SourceConfig::new(path, Kind::Sentences)
        };
        let source = Source::read(&config, place.path()).expect("120 rows");
        let draw = |config: &SourceConfig, visit| {
            let mut order = Order::new(source.len(), 5);
            let batch = Batch::draw(&source, config, &mut order, visit, 9).expect("rows");
            (batch.texts, order)
        };
        let (mut seen, mut counts) = (HashSet::new(), [0; 4]);
        // 10 batches of 4 texts of 3 rows: one epoch.
        for visit in 0..10 {
            let (texts, _) = draw(&config, visit);
            assert_eq!(texts.len(), 4);
            assert_eq!(texts, draw(&config, visit).0, "no state but the number");
            for text in texts {
                let parts: Vec<&str> = text.split(' ').collect();
                counts[parts.len()] += 1;
                assert!(parts.iter().all(|part| seen.insert((*part).to_owned())), "{text}");
            }
        }
        assert!(counts[1..].iter().all(|count| *count > 4), "of one, two and three: {counts:?}");

        let single = SourceConfig { join: 1, ..config.clone() };
        let (texts, mut order) = draw(&single, 2);
        let expected: Vec<String> = (8..12).map(|at| rows[order.row(at)].clone()).collect();
        assert_eq!(texts, expected, "one row a text");

        let checked = |source: SourceConfig| {
            RunConfig { sources: vec![source], ..RunConfig::default() }.check()
        };
        checked(config.clone()).expect("it can be trained with");
        assert!(checked(SourceConfig { join: 0, ..config.clone() }).is_err());
        let contrast =
            SourceConfig { loss: Loss::Contrastive, teachers: Vec::new(), ..config.clone() };
        assert!(checked(contrast).is_err(), "a joined text has no positive");
    }
}
