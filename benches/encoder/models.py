"""The same encoder in three forms: plain numpy (the f32 reference), an ONNX graph of standard
operators (for OpenVINO) and one of ONNX Runtime's own fused operators. Weights come from a
DistilBERT directory, so that every peer computes exactly the model that ours does."""

import json
import pathlib
import shutil

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

OPSET = 20


class Model:
    def __init__(self, directory):
        directory = pathlib.Path(directory)
        manifest = json.loads((directory / "distilface.json").read_text())
        self.config = manifest["encoder"]
        weights = load_file(directory / "model.safetensors")
        self.weights = {k.removeprefix("distilbert."): v.astype(np.float32) for k, v in weights.items()}
        self.hidden = self.config["hidden"]
        self.heads = self.config["heads"]
        self.layers = self.config["layers"]
        self.eps = self.config["layer_norm_eps"]

    def linear(self, name):
        return self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]

    def matrix_bytes(self, width):
        """Of the matrices, which a query reads once, at so many bytes a weight."""
        h, i = self.hidden, self.config["intermediate"]
        return width * self.layers * (4 * h * h + 2 * h * i)

    def flops(self, lengths):
        """Of the matrix products, for texts of these lengths."""
        h, i = self.hidden, self.config["intermediate"]
        token = 2 * (4 * h * h + 2 * h * i)
        return self.layers * sum(n * token + 4 * n * n * h for n in lengths)


def reference(model, ids):
    """The f32 vector of one text."""
    from math import sqrt

    def norm(x, name):
        w, b = model.linear(name)
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + model.eps) * w + b

    def linear(x, name):
        w, b = model.linear(name)
        return x @ w.T + b

    w = model.weights
    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x, "embeddings.LayerNorm")
    d = model.hidden // model.heads
    heads = lambda t: t.reshape(len(ids), model.heads, d).transpose(1, 0, 2)
    for n in range(model.layers):
        p = f"transformer.layer.{n}"
        q, k, v = (heads(linear(x, f"{p}.attention.{m}_lin")) for m in "qkv")
        s = q @ k.transpose(0, 2, 1) / np.float32(sqrt(d))
        s = np.exp(s - s.max(-1, keepdims=True))
        a = (s / s.sum(-1, keepdims=True)) @ v
        a = a.transpose(1, 0, 2).reshape(len(ids), model.hidden)
        x = norm(x + linear(a, f"{p}.attention.out_lin"), f"{p}.sa_layer_norm")
        y = linear(x, f"{p}.ffn.lin1")
        y = y * 0.5 * (1 + erf(y / np.float32(sqrt(2))))
        x = norm(x + linear(y, f"{p}.ffn.lin2"), f"{p}.output_layer_norm")
    v = x.mean(0)
    return v / np.linalg.norm(v)


def erf(x):
    """Abramowitz and Stegun 7.1.26, absolute error 1.5e-7."""
    t = 1 / (1 + 0.3275911 * np.abs(x))
    y = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.sign(x) * (1 - y * np.exp(-x * x))


class Graph:
    """Nodes and constants, named as they come."""

    def __init__(self):
        self.nodes, self.constants, self.count = [], {}, 0

    def constant(self, name, value):
        self.constants.setdefault(name, numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def op(self, kind, *inputs, domain="", **attributes):
        self.count += 1
        out = f"t{self.count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], domain=domain, **attributes))
        return out

    def ints(self, *values):
        return self.constant("i" + "_".join(map(str, values)), np.array(values, np.int64))

    def embed(self, model):
        w = model.weights
        words = self.constant("words", w["embeddings.word_embeddings.weight"])
        positions = self.constant("positions", w["embeddings.position_embeddings.weight"])
        length = self.op("Shape", "input_ids", start=1, end=2)
        places = self.op("Slice", positions, self.ints(0), length, self.ints(0))
        x = self.op("Add", self.op("Gather", words, "input_ids"), places)
        return self.norm(model, x, "embeddings.LayerNorm")

    def norm(self, model, x, name):
        w, b = (self.constant(f"{name}.{i}", v) for i, v in enumerate(model.linear(name)))
        return self.op("LayerNormalization", x, w, b, axis=-1, epsilon=model.eps)

    def pool(self, x):
        mask = self.op("Unsqueeze", self.op("Cast", "attention_mask", to=TensorProto.FLOAT), self.ints(2))
        total = self.op("ReduceSum", self.op("Mul", x, mask), self.ints(1), keepdims=0)
        mean = self.op("Div", total, self.op("ReduceSum", mask, self.ints(1), keepdims=0))
        self.nodes.append(helper.make_node("LpNormalization", [mean], ["vectors"], axis=-1, p=2))

    def save(self, model, path):
        inputs = [
            helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "length"])
            for n in ("input_ids", "attention_mask")
        ]
        out = helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["batch", model.hidden])
        graph = helper.make_graph(self.nodes, "encoder", inputs, [out], list(self.constants.values()))
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)


def write_standard(model, path):
    """Standard operators, which OpenVINO fuses by itself."""
    g = Graph()
    x = g.embed(model)
    h, d = model.heads, model.hidden // model.heads

    def linear(x, name, scale=1.0):
        w, b = model.linear(name)
        y = g.op("MatMul", x, g.constant(f"{name}.w", w.T * np.float32(scale)))
        return g.op("Add", y, g.constant(f"{name}.b", b * np.float32(scale)))

    def heads(x, order):
        return g.op("Transpose", g.op("Reshape", x, g.ints(0, 0, h, d)), perm=order)

    mask = g.op("Cast", "attention_mask", to=TensorProto.FLOAT)
    mask = g.op("Unsqueeze", mask, g.ints(1, 2))
    mask = g.op("Sub", mask, g.constant("one", np.float32(1)))
    mask = g.op("Mul", mask, g.constant("large", np.float32(1e9)))
    for n in range(model.layers):
        p = f"transformer.layer.{n}"
        q = heads(linear(x, f"{p}.attention.q_lin", d**-0.5), [0, 2, 1, 3])
        k = heads(linear(x, f"{p}.attention.k_lin"), [0, 2, 3, 1])
        v = heads(linear(x, f"{p}.attention.v_lin"), [0, 2, 1, 3])
        s = g.op("Softmax", g.op("Add", g.op("MatMul", q, k), mask), axis=-1)
        a = g.op("Transpose", g.op("MatMul", s, v), perm=[0, 2, 1, 3])
        a = g.op("Reshape", a, g.ints(0, 0, model.hidden))
        x = g.norm(model, g.op("Add", x, linear(a, f"{p}.attention.out_lin")), f"{p}.sa_layer_norm")
        y = g.op("Gelu", linear(x, f"{p}.ffn.lin1"))
        x = g.norm(model, g.op("Add", x, linear(y, f"{p}.ffn.lin2")), f"{p}.output_layer_norm")
    g.pool(x)
    g.save(model, path)


def write_fused(model, path):
    """ONNX Runtime's fused operators, the form that its BERT optimizer arrives at."""
    g = Graph()
    x = g.embed(model)
    mask = g.op("Cast", "attention_mask", to=TensorProto.INT32)

    def skip(x, y, norm, bias):
        w, b = (g.constant(f"{norm}.{i}", v) for i, v in enumerate(model.linear(norm)))
        inputs = (x, y, w, b, g.constant(f"{norm}.skip", bias))
        return g.op("SkipLayerNormalization", *inputs, domain="com.microsoft", epsilon=model.eps)

    for n in range(model.layers):
        p = f"transformer.layer.{n}"
        parts = [model.linear(f"{p}.attention.{m}_lin") for m in "qkv"]
        w = g.constant(f"{p}.qkv.w", np.concatenate([w.T for w, _ in parts], axis=1))
        b = g.constant(f"{p}.qkv.b", np.concatenate([b for _, b in parts]))
        a = g.op("Attention", x, w, b, mask, domain="com.microsoft", num_heads=model.heads)
        w, b = model.linear(f"{p}.attention.out_lin")
        x = skip(x, g.op("MatMul", a, g.constant(f"{p}.out.w", w.T)), f"{p}.sa_layer_norm", b)
        w, b = model.linear(f"{p}.ffn.lin1")
        y = g.op("MatMul", x, g.constant(f"{p}.lin1.w", w.T))
        y = g.op("BiasGelu", y, g.constant(f"{p}.lin1.b", b), domain="com.microsoft")
        w, b = model.linear(f"{p}.ffn.lin2")
        x = skip(x, g.op("MatMul", y, g.constant(f"{p}.lin2.w", w.T)), f"{p}.output_layer_norm", b)
    g.pool(x)
    g.save(model, path)


def write_distilbert(source, directory):
    """A Hugging Face directory of DistilBERT's size with random weights and `source`'s vocabulary:
    distilbert-base-uncased itself is not on the package index, and time does not depend on values."""
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    sizes = dict(n_layers=6, dim=768, n_heads=12, hidden_dim=3072, vocab_size=30522)
    config = dict(
        sizes, architectures=["DistilBertModel"], model_type="distilbert", activation="gelu",
        max_position_embeddings=512, sinusoidal_pos_embds=False, pad_token_id=0,
    )
    (directory / "config.json").write_text(json.dumps(config, indent=1))
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        if (pathlib.Path(source) / name).exists():
            shutil.copy(pathlib.Path(source) / name, directory / name)
    rng = np.random.default_rng(1)
    make = lambda *shape, scale: (rng.standard_normal(shape, np.float32) * np.float32(scale))
    h, i = sizes["dim"], sizes["hidden_dim"]
    weights = {
        "embeddings.word_embeddings.weight": make(sizes["vocab_size"], h, scale=0.05),
        "embeddings.position_embeddings.weight": make(512, h, scale=0.02),
    }

    def norm(name):
        weights[f"{name}.weight"] = 1 + make(h, scale=0.1)
        weights[f"{name}.bias"] = make(h, scale=0.1)

    norm("embeddings.LayerNorm")
    for n in range(sizes["n_layers"]):
        p = f"transformer.layer.{n}"
        for name, out, inputs in (
            *((f"attention.{m}_lin", h, h) for m in ("q", "k", "v", "out")),
            ("ffn.lin1", i, h), ("ffn.lin2", h, i),
        ):
            weights[f"{p}.{name}.weight"] = make(out, inputs, scale=inputs**-0.5)
            weights[f"{p}.{name}.bias"] = make(out, scale=0.05)
        norm(f"{p}.sa_layer_norm")
        norm(f"{p}.output_layer_norm")
    save_file(weights, directory / "model.safetensors")
