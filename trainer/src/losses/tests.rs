use candle_core::{Device, Tensor, Var};
use distilface_core::model::Pooling;

use super::*;
use crate::net::tests::{DROPOUT, Fixture, relative_error};
use crate::net::{Laid, Network, OnDevice, Tape, values};

fn tensor(fixture: &Fixture, name: &str, shape: (usize, usize)) -> Tensor {
    Tensor::from_vec(fixture.floats(name), shape, &Device::Cpu).expect("the fixture's shape")
}

/// Runs the fixture's network with its dropout masks, the loss on top, and compares loss and every
/// weight's gradient with PyTorch's: by the kernels, and by candle.
fn assert_equals_pytorch(name: &str, pooling: Pooling, loss: impl Fn(&Tensor) -> Result<Tensor>) {
    network_equals_pytorch(name, &Fixture::open().network(pooling), loss);
}

fn network_equals_pytorch(name: &str, network: &Network, loss: impl Fn(&Tensor) -> Result<Tensor>) {
    let fixture = Fixture::open();
    let texts = fixture.texts();
    let mut tape = Tape::default();
    let pooled = network.forward(&Laid::default(), &texts, Some(&DROPOUT), Some(&mut tape));
    let pooled = Tensor::from_vec(pooled, (texts.len(), 16), &Device::Cpu).expect("a row a text");
    let pooled = Var::from_tensor(&pooled).expect("a fresh tensor");
    let value = loss(&pooled).expect("shapes agree");
    let grads = value.backward().expect("every operation has a derivative");
    let pooled_grad = grads.get(&pooled).expect("the loss depends on the vectors");
    let pooled_grad = pooled_grad.flatten_all().and_then(|g| g.to_vec1()).expect("f32");
    let mut all = vec![0.0; network.weights.len()];
    let dense = &mut all[network.dense_start()..];
    let rows =
        network.backward(&Laid::default(), &texts, Some(&DROPOUT), &tape, &pooled_grad, dense);
    network.add_embedding_gradient(&texts, &rows, &mut all);

    let value: f32 = value.to_scalar().expect("one number");
    let error = relative_error(&[value], &fixture.floats(&format!("{name}.loss")));
    assert!(error < 1e-4, "{name}: loss {value} is off by {error}");
    let error = relative_error(&all, &fixture.floats(&format!("{name}.gradient")));
    assert!(error < 1e-4, "{name}: gradients are off by {error}");

    let (student, vars) = OnDevice::trained(network, &Device::Cpu, 2).expect("a network");
    let value = loss(&student.forward(&texts, Some(&DROPOUT)).expect("a row a text"));
    let value = value.expect("shapes agree");
    let mut grads = value.backward().expect("every operation has a derivative");
    let grad = |var: &Var| grads.remove(var).map_or_else(|| var.zeros_like(), Ok);
    let grads = vars.iter().map(grad).collect::<Result<Vec<Tensor>>>().expect("all are there");
    let value: f32 = value.to_scalar().expect("one number");
    let error = relative_error(&[value], &fixture.floats(&format!("{name}.loss")));
    assert!(error < 1e-4, "{name} on a device: loss {value} is off by {error}");
    let grads = values(&grads).expect("f32");
    let error = relative_error(&grads, &fixture.floats(&format!("{name}.gradient")));
    assert!(error < 1e-4, "{name} on a device: gradients are off by {error}");
}

fn rows(x: &Tensor, from: usize, count: usize) -> Result<Tensor> {
    x.narrow(0, from, count)
}

#[test]
fn info_nce_equals_pytorch() {
    assert_equals_pytorch("info_nce", Pooling::MeanLast4, |x| {
        info_nce(&rows(x, 0, 3)?, &rows(x, 3, 3)?, None, 0.05, Direction::Forward)
    });
    assert_equals_pytorch("info_nce_symmetric", Pooling::Cls, |x| {
        info_nce(&rows(x, 0, 3)?, &rows(x, 3, 3)?, None, 0.05, Direction::Symmetric)
    });
}

#[test]
fn hard_negatives_equal_pytorch() {
    assert_equals_pytorch("info_nce_hard", Pooling::Mean, |x| {
        let negatives = rows(x, 4, 2)?;
        info_nce(&rows(x, 0, 2)?, &rows(x, 2, 2)?, Some(&negatives), 0.05, Direction::Forward)
    });
}

#[test]
fn groups_equal_pytorch() {
    let lines = [0, 0, 1, 1, 1, 2];
    assert_equals_pytorch("group_nce", Pooling::MeanLast2, |x| group_nce(x, &lines, 0.05));
}

#[test]
fn regression_and_its_projection_equal_pytorch() {
    let fixture = Fixture::open();
    let teacher = tensor(&fixture, "teacher", (6, 10));
    let projection = Var::from_tensor(&tensor(&fixture, "projection", (16, 10))).expect("fresh");
    assert_equals_pytorch("regression", Pooling::MeanFirstLast, |x| {
        regression(x, &teacher, Some(&projection))
    });
    let x = tensor(&fixture, "teacher", (6, 10));
    let same = regression(&x, &teacher, None).and_then(|x| x.to_scalar::<f32>());
    assert_eq!(same.expect("one number"), 0.0);
}

#[test]
fn similarity_kl_equals_pytorch() {
    let teacher = tensor(&Fixture::open(), "teacher", (6, 10));
    assert_equals_pytorch("similarity_kl", Pooling::MeanLast4, |x| {
        similarity_kl(x, &teacher, 0.05, 0.1)
    });
}

#[test]
fn relational_ranking_equals_pytorch() {
    let teacher = tensor(&Fixture::open(), "teacher", (6, 10));
    assert_equals_pytorch("relational_ranking", Pooling::Cls, |x| {
        relational_ranking(x, &teacher, 0.05)
    });
}

#[test]
fn matryoshka_prefixes_equal_pytorch() {
    assert_equals_pytorch("matryoshka", Pooling::Mean, |x| {
        matryoshka(x, &[8, 4], |x| {
            info_nce(&rows(x, 0, 3)?, &rows(x, 3, 3)?, None, 0.05, Direction::Forward)
        })
    });
}

#[test]
fn weighted_tokens_equal_pytorch() {
    let mut network = Fixture::open().network(Pooling::MeanFirstLast);
    network.token_weights = Some((0..40u8).map(|id| f32::from(id % 7 + 1) / 8.0).collect());
    network_equals_pytorch("weighted", &network, |x| {
        info_nce(&rows(x, 0, 3)?, &rows(x, 3, 3)?, None, 0.05, Direction::Forward)
    });
}

#[test]
fn the_head_equals_pytorch() {
    let fixture = Fixture::open();
    let weight = tensor(&fixture, "head.weight", (16, 16));
    let bias = Tensor::from_vec(fixture.floats("head.bias"), 16, &Device::Cpu).expect("16 values");
    assert_equals_pytorch("head", Pooling::MeanLast2, |x| {
        let x = mlp_head(x, &weight, &bias)?;
        info_nce(&rows(&x, 0, 3)?, &rows(&x, 3, 3)?, None, 0.05, Direction::Forward)
    });
}
