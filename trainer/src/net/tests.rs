use distilface_core::model::{DType, SafeTensors};

use super::*;

/// What `fixtures/make_fixtures.py` computed with PyTorch.
pub(crate) struct Fixture(SafeTensors);

impl Fixture {
    pub(crate) fn open() -> Fixture {
        let bytes = include_bytes!("../../fixtures/gradients.safetensors");
        Fixture(SafeTensors::from_bytes(bytes.to_vec()).expect("the fixture is well-formed"))
    }

    pub(crate) fn floats(&self, name: &str) -> Vec<f32> {
        let view = self.0.get(name).unwrap_or_else(|| panic!("the fixture lacks {name}"));
        assert_eq!(view.dtype, DType::F32);
        view.data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    fn integers(&self, name: &str) -> Vec<usize> {
        let view = self.0.get(name).unwrap_or_else(|| panic!("the fixture lacks {name}"));
        view.data.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes) as usize).collect()
    }

    pub(crate) fn network(&self, pooling: Pooling) -> Network {
        let config = Config {
            layers: 5,
            hidden: 16,
            heads: 4,
            intermediate: 24,
            vocab_size: 40,
            max_positions: 12,
            layer_norm_eps: 1e-12,
        };
        let tensors = config.tensors();
        let weights =
            tensors.iter().flat_map(|(name, _)| self.floats(&format!("weights.{name}"))).collect();
        Network::from_weights(&config, pooling, Products::F32, weights)
    }

    pub(crate) fn texts(&self) -> Texts {
        let ids: Vec<u32> = self.integers("ids").into_iter().map(|id| id as u32).collect();
        let mut texts = Texts::default();
        let mut rest = &ids[..];
        for (number, len) in self.integers("lengths").into_iter().enumerate() {
            texts.push(&rest[..len], number as u64);
            rest = &rest[len..];
        }
        texts
    }
}

pub(crate) const DROPOUT: Dropout = Dropout { seed: 77, hidden: 0.1, attention: 0.1 };

/// Largest difference over the largest value.
pub(crate) fn relative_error(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    let largest = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let error = got.iter().zip(expected).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
    error / largest
}

#[test]
fn vectors_equal_pytorch_in_every_pooling() {
    let fixture = Fixture::open();
    for pooling in [
        Pooling::Cls,
        Pooling::Mean,
        Pooling::MeanFirstLast,
        Pooling::MeanLast2,
        Pooling::MeanLast4,
    ] {
        let got = fixture.network(pooling).forward(&Laid::default(), &fixture.texts(), None, None);
        let expected = fixture.floats(&format!("eval.{}", pooling.as_str()));
        let error = relative_error(&got, &expected);
        assert!(error < 2e-6, "{}: {error}", pooling.as_str());
    }
}

#[test]
fn a_text_alone_and_in_a_batch_has_the_same_gradient() {
    let fixture = Fixture::open();
    let network = fixture.network(Pooling::MeanLast4);
    let texts = fixture.texts();
    let gradient_of = |texts: &Texts, pooled: &[f32]| {
        let mut tape = Tape::default();
        network.forward(&Laid::default(), texts, Some(&DROPOUT), Some(&mut tape));
        let mut all = vec![0.0; network.weights.len()];
        let dense = &mut all[network.dense_start()..];
        let rows = network.backward(&Laid::default(), texts, Some(&DROPOUT), &tape, pooled, dense);
        network.add_embedding_gradient(texts, &rows, &mut all);
        all
    };
    let pooled: Vec<f32> = (0..texts.len() * 16).map(|i| (i % 7) as f32 - 3.0).collect();
    let together = gradient_of(&texts, &pooled);
    let mut sum = vec![0.0; together.len()];
    for (i, span) in texts.spans().enumerate() {
        let mut one = Texts::default();
        one.push(&texts.ids[span], texts.numbers[i]);
        let part = gradient_of(&one, &pooled[i * 16..][..16]);
        sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
    assert!(relative_error(&sum, &together) < 1e-5);
}
