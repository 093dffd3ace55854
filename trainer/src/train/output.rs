//! The model directory that a run or an average writes, with its packed form.

use std::path::Path;

use distilface_core::encoder::pack_model;
use distilface_core::model::{
    Manifest, ModelDir, NewModel, PACKED_FILE, WeightsType, write_directory,
};

use crate::error::Error;
use crate::net::Network;

/// Refuses an output directory that holds something, before hours are spent.
///
/// # Errors
/// [`Error::Missing`]
pub fn check_new(out: &Path) -> Result<(), Error> {
    let taken = std::fs::read_dir(out).is_ok_and(|mut files| files.next().is_some());
    if taken { Err(Error::missing(out, "a new or empty directory")) } else { Ok(()) }
}

/// What is written of a model beside its network.
#[derive(Default)]
pub struct Form {
    /// Prefixes of the vectors that were trained too.
    pub dims: Vec<usize>,
    /// Weights in f32 instead of bfloat16.
    pub full_weights: bool,
}

/// Writes the network under the base's tokenizer, prompts and length of text.
///
/// # Errors
/// What writing and packing refuse; weights that are not finite.
pub fn write(
    out: &Path,
    name: Option<String>,
    base: &ModelDir,
    network: &Network,
    form: &Form,
) -> Result<Manifest, Error> {
    let like = base.manifest();
    let mut dims = form.dims.clone();
    dims.sort_unstable();
    dims.dedup();
    let own_name = || out.file_name().map(|name| name.to_string_lossy().to_lowercase());
    let model = NewModel {
        name: name.or_else(own_name).unwrap_or_default(),
        config: network.config.clone(),
        matryoshka_dims: dims,
        head: None,
        max_tokens: like.max_tokens,
        pooling: network.pooling,
        token_weights: network.token_weights.clone(),
        normalize: like.normalize,
        prompts: like.prompts.clone(),
        precision: like.precision,
        source: Some(format!(
            "distilface-train, from {} of revision {}",
            like.name,
            &like.revision[..12]
        )),
        tokenizer: base.tokenizer().clone(),
        weights: if form.full_weights { WeightsType::F32 } else { WeightsType::Bf16 },
    };
    let manifest = write_directory(out, &model, network)?;
    let packed = pack_model(&ModelDir::open(out)?)?;
    let path = out.join(PACKED_FILE);
    std::fs::write(&path, &packed).map_err(|source| Error::io(&path, source))?;
    println!("{}: {:.1} MB packed", out.display(), packed.len() as f64 / 1e6);
    Ok(manifest)
}
