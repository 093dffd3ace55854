//! Weights of several models made into one (Wortsman et al. 2022, model soups; and weights moved
//! along a run's direction, Ilharco et al. 2022).

use std::path::PathBuf;

use distilface_core::model::ModelDir;
use distilface_core::training::Products;

use super::output;
use crate::error::Error;
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
    let mut sum: Option<(Network, ModelDir)> = None;
    for (path, share) in &arguments.models {
        let model = ModelDir::open(path)?;
        let manifest = model.manifest();
        let mut own = Network::new(&manifest.encoder, manifest.pooling, Products::F32, &model)?;
        own.weights.iter_mut().for_each(|x| *x *= share);
        match &mut sum {
            None => sum = Some((own, model)),
            Some((sum, first)) => {
                if sum.config != own.config || first.tokenizer().vocab != model.tokenizer().vocab {
                    return Err(Error::missing(path, "the first model's sizes and vocabulary"));
                }
                sum.weights.iter_mut().zip(&own.weights).for_each(|(sum, own)| *sum += own);
            }
        }
    }
    if let Some((network, first)) = sum {
        let out = &arguments.out;
        output::write(out, arguments.name, &first, &network, arguments.full_weights)?;
        println!("{} written", out.display());
    }
    Ok(())
}
