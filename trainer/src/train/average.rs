//! Weights of several models made into one (Wortsman et al. 2022, model soups; and weights moved
//! along a run's direction, Ilharco et al. 2022).

use std::path::PathBuf;

use distilface_core::model::{ModelDir, Pooling};
use distilface_core::training::Products;

use super::{output, sif};
use crate::card;
use crate::error::Error;
use crate::import::open_base;
use crate::net::Network;

#[derive(clap::Args)]
pub struct AverageArguments {
    /// Model directories of one architecture and tokenizer, with their shares: DIR=0.5
    #[arg(required = true, value_parser = share)]
    models: Vec<(PathBuf, f32)>,
    /// The model directory to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The model's name [default: that of the output directory]
    #[arg(long)]
    name: Option<String>,
    /// Pool the embedding output too, with this weight beside the last layer's 1 (the models pool
    /// by mean; the result by mean-first-last, its last layer norm scaled)
    #[arg(long, value_name = "WEIGHT")]
    first_state: Option<f32>,
    /// Weigh tokens in the mean by A / (A + their share of the tokens of --texts)
    #[arg(long, value_name = "A", requires = "texts")]
    sif: Option<f64>,
    /// Texts for --sif (text, TSV, JSONL, with .gz; Parquet)
    #[arg(long, value_name = "FILE", requires = "sif")]
    texts: Option<PathBuf>,
    /// Take only rows of --texts with one of these in the first column
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "texts")]
    only: Option<Vec<String>>,
    /// Write the weights in f32 instead of bfloat16
    #[arg(long)]
    full_weights: bool,
}

fn share(argument: &str) -> Result<(PathBuf, f32), String> {
    let (path, share) = argument.rsplit_once('=').ok_or("expected DIR=SHARE")?;
    let share: f32 = share.parse().map_err(|_| format!("expected a number, got {share}"))?;
    if !share.is_finite() {
        return Err(format!("expected a finite share, got {share}"));
    }
    Ok((PathBuf::from(path), share))
}

/// Writes the weighted sum of the models' weights. Shares add up to 1; one may be negative.
pub fn average(arguments: AverageArguments) -> Result<(), Error> {
    output::check_new(&arguments.out)?;
    let total: f32 = arguments.models.iter().map(|(_, share)| share).sum();
    if (total - 1.0).abs() > 1e-3 {
        return Err(Error::Recipe {
            field: "shares".to_owned(),
            expected: "a sum of 1",
            got: total.to_string(),
        });
    }
    let mut parts = Vec::new();
    let mut sum: Option<(Network, ModelDir)> = None;
    for (path, share) in &arguments.models {
        let model = open_base(path)?;
        let manifest = model.manifest();
        parts.push((manifest.name.clone(), *share));
        let mut own = Network::new(&model, None, Products::F32)?;
        own.weights.iter_mut().for_each(|x| *x *= share);
        match &mut sum {
            None => sum = Some((own, model)),
            Some((sum, first)) => {
                if sum.config != own.config || first.tokenizer().vocab != model.tokenizer().vocab {
                    return Err(Error::missing(path, "the first model's sizes and vocabulary"));
                }
                if sum.pooling != own.pooling || sum.token_weights != own.token_weights {
                    return Err(Error::missing(path, "the first model's pooling"));
                }
                sum.weights.iter_mut().zip(&own.weights).for_each(|(sum, own)| *sum += own);
            }
        }
    }
    if let Some((mut network, first)) = sum {
        if let Some(weight) = arguments.first_state {
            network = with_first_state(network, weight)?;
        }
        if let (Some(a), Some(texts)) = (arguments.sif, arguments.texts) {
            network = sif::weigh(network, &first, a, texts, arguments.only)?;
        }
        let out = &arguments.out;
        let form = output::Form {
            dims: first.manifest().matryoshka_dims.clone(),
            full_weights: arguments.full_weights,
        };
        let written = output::write(out, arguments.name, &first, &network, &form)?;
        card::write_average(out, &written, &parts)?;
        println!("{} written", out.display());
    }
    Ok(())
}

/// The mean of first and last state weighs both alike, so the last layer norm, which nothing else
/// reads, is scaled by one over the weight: the sum then points the same way.
fn with_first_state(mut network: Network, weight: f32) -> Result<Network, Error> {
    let wrong = |field: &str, expected, got: String| {
        Err(Error::Recipe { field: field.to_owned(), expected, got })
    };
    if network.pooling != Pooling::Mean {
        let got = network.pooling.as_str().to_owned();
        return wrong("pooling", "mean, to add the first state to", got);
    }
    if !(weight > 0.0 && weight.is_finite()) {
        return wrong("first-state", "a weight above 0", weight.to_string());
    }
    network.pooling = Pooling::MeanFirstLast;
    network.scale_last_norm(1.0 / weight);
    Ok(network)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Laid;
    use crate::net::tests::{Fixture, relative_error};

    #[test]
    fn the_first_state_is_added_with_its_weight() {
        let fixture = Fixture::open();
        let texts = fixture.texts();
        let unit = |mut x: Vec<f32>| {
            x.chunks_exact_mut(16).for_each(crate::embedder::normalize);
            x
        };
        let vectors =
            |pooling| fixture.network(pooling).forward(&Laid::default(), &texts, None, None);
        let (last, both) = (vectors(Pooling::Mean), vectors(Pooling::MeanFirstLast));
        // Twice the mean of first and last, less the last, is the first.
        let expected: Vec<f32> =
            both.iter().zip(&last).map(|(both, last)| last + 0.4 * (2.0 * both - last)).collect();
        let network = with_first_state(fixture.network(Pooling::Mean), 0.4).expect("mean pooling");
        let got = network.forward(&Laid::default(), &texts, None, None);
        assert!(relative_error(&unit(got), &unit(expected)) < 1e-5);
        assert!(with_first_state(fixture.network(Pooling::Cls), 0.4).is_err());
        assert!(with_first_state(fixture.network(Pooling::Mean), 0.0).is_err());
    }
}
