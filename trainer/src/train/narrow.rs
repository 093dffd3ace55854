//! The recipe's `width`: a base whose states are projected onto the directions in which they are
//! longest, for a student that is narrower than it.

use distilface_core::text::Tokenizer;
use distilface_core::training::Products;

use super::config::RunConfig;
use super::pca::principal_directions;
use super::run::tokenize;
use crate::error::Error;
use crate::net::{Network, Texts};

/// Texts whose states say where the directions lie, and where they are cut.
pub const TEXTS: usize = 128;
const CUT: usize = 64;

/// The network at the recipe's width, by the states of some training texts.
///
/// # Errors
/// [`Error::Recipe`] where the width is not one of whole heads.
pub fn narrow(
    config: &RunConfig,
    mut network: Network,
    texts: &[String],
    tokenizer: &Tokenizer<'_>,
) -> Result<Network, Error> {
    let Some(width) = config.width else { return Ok(network) };
    let sizes = &network.config;
    let head = sizes.hidden / sizes.heads;
    if width == 0 || width >= sizes.hidden || !width.is_multiple_of(head) {
        return Err(Error::Recipe {
            field: "width".to_owned(),
            expected: "whole heads of the base, fewer than it has",
            got: format!("{width}, where {} heads have {head} each", sizes.heads),
        });
    }
    let cut = CUT.min(config.max_tokens);
    let mut laid_out = Texts::default();
    for (at, ids) in tokenize(tokenizer, texts, cut).iter().enumerate() {
        laid_out.push(ids, at as u64);
    }
    let products = std::mem::replace(&mut network.products, Products::F32);
    let directions = principal_directions(&network.states(&laid_out), network.config.hidden, width);
    let mut narrow = network.narrowed(width, &directions, &laid_out);
    narrow.products = products;
    Ok(narrow)
}
