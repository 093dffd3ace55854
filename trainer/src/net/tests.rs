use candle_core::{Device, Tensor};
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

const POOLINGS: [Pooling; 5] =
    [Pooling::Cls, Pooling::Mean, Pooling::MeanFirstLast, Pooling::MeanLast2, Pooling::MeanLast4];

#[test]
fn vectors_equal_pytorch_in_every_pooling() {
    let fixture = Fixture::open();
    for pooling in POOLINGS {
        let network = fixture.network(pooling);
        let got = network.forward(&Laid::default(), &fixture.texts(), None, None);
        let expected = fixture.floats(&format!("eval.{}", pooling.as_str()));
        let error = relative_error(&got, &expected);
        assert!(error < 2e-6, "{}: {error}", pooling.as_str());

        let on_device = OnDevice::copy(&network, &Device::Cpu, 1).expect("a network");
        let got = on_device.forward(&fixture.texts(), None).expect("a row a text");
        let got: Vec<f32> = got.flatten_all().and_then(|got| got.to_vec1()).expect("f32");
        let error = relative_error(&got, &expected);
        assert!(error < 2e-6, "{} on a device: {error}", pooling.as_str());
    }
}

/// With dropout and without, and with either kind alone: the masks are of one hash.
#[test]
fn a_device_gives_the_kernels_vectors_and_gradients_in_every_pooling() {
    let fixture = Fixture::open();
    let texts = fixture.texts();
    let pooled: Vec<f32> = (0..texts.len() * 16).map(|i| (i % 7) as f32 - 3.0).collect();
    let weighed = (0..40u8).map(|id| f32::from(id % 7 + 1) / 8.0).collect();
    let drops = [
        None,
        Some(DROPOUT),
        Some(Dropout { hidden: 0.0, ..DROPOUT }),
        Some(Dropout { attention: 0.0, ..DROPOUT }),
    ];
    let mut networks: Vec<Network> = POOLINGS.map(|pooling| fixture.network(pooling)).to_vec();
    networks.push(Network { token_weights: Some(weighed), ..fixture.network(Pooling::MeanLast2) });
    for (network, drop) in networks.iter().flat_map(|n| drops.iter().map(move |drop| (n, drop))) {
        let drop = drop.as_ref();
        let mut tape = Tape::default();
        let expected = network.forward(&Laid::default(), &texts, drop, Some(&mut tape));
        let mut all = vec![0.0; network.weights.len()];
        let dense = &mut all[network.dense_start()..];
        let rows = network.backward(&Laid::default(), &texts, drop, &tape, &pooled, dense);
        network.add_embedding_gradient(&texts, &rows, &mut all);

        let what = format!("{} {drop:?}", network.pooling.as_str());
        let (student, vars) = OnDevice::trained(network, &Device::Cpu, 3).expect("a network");
        let got = student.forward(&texts, drop).expect("a row a text");
        let grad = Tensor::from_slice(&pooled, got.shape(), &Device::Cpu).expect("as many");
        let product = got.mul(&grad).and_then(|product| product.sum_all()).expect("one number");
        let mut grads = product.backward().expect("every operation has a derivative");
        let grads: Vec<Tensor> =
            vars.iter().map(|var| grads.remove(var).expect("all count")).collect();
        let got: Vec<f32> = got.flatten_all().and_then(|got| got.to_vec1()).expect("f32");
        let error = relative_error(&got, &expected);
        assert!(error < 2e-6, "{what}: vectors are off by {error}");
        let error = relative_error(&values(&grads).expect("f32"), &all);
        assert!(error < 1e-4, "{what}: gradients are off by {error}");
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
