//! The packed weights: one block of bytes that every kernel reads as it lies.
//!
//! Packing happens once, when a model is built; opening is a check of the header and of the length.
//! All sizes are rounded up to whole tiles of 32, so that no kernel has an edge to treat; the
//! padding holds zeros and changes no sum. Every matrix is in bf16 or in int8, in the order of AMX's
//! tiles, which every other CPU's kernels read as well (see [`Matrix`]), so one file serves every
//! CPU. Folded in at packing: 1/√d and log₂e into the query projection (the attention works with
//! powers of two), Q, K and V into one matrix. The bytes are drawn in this folder's README.

use super::kernels::to_bf16;
use crate::model::{Config, ModelError, Precision, Tensors};
use std::ops::Range;

const MAGIC: [u8; 4] = *b"DFWT";
const VERSION: u32 = 1;
const HEADER: usize = 64;
const ALIGN: usize = 64;
/// Rows and columns of every matrix are multiples of this.
pub(crate) const TILE: usize = 32;
/// Values of an embedding row that share a scale.
const GROUP: usize = 32;
/// Inputs of a step of int8 codes.
pub(crate) const CODES_A_STEP: usize = 64;

/// Sizes as computed with: what the configuration says, rounded up to whole tiles.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Dims {
    pub layers: usize,
    pub heads: usize,
    pub vocab_size: usize,
    pub max_positions: usize,
    pub eps: f32,
    /// Width of a token's state, and the same padded.
    pub hidden: usize,
    pub hidden_padded: usize,
    /// Width of a head, and the same padded.
    pub head: usize,
    pub head_padded: usize,
    /// Width of the feed-forward's inner layer, and the same padded.
    pub inner: usize,
    pub inner_padded: usize,
}

impl Dims {
    fn new(c: &Config) -> Result<Dims, ModelError> {
        c.check()?;
        let head = c.hidden / c.heads;
        Ok(Dims {
            layers: c.layers,
            heads: c.heads,
            vocab_size: c.vocab_size,
            max_positions: c.max_positions,
            eps: c.layer_norm_eps,
            hidden: c.hidden,
            hidden_padded: c.hidden.next_multiple_of(TILE),
            head,
            head_padded: head.next_multiple_of(TILE),
            inner: c.intermediate,
            inner_padded: c.intermediate.next_multiple_of(TILE),
        })
    }

    /// Width of all heads' outputs side by side.
    pub(crate) fn context(&self) -> usize {
        self.heads * self.head_padded
    }

    /// Width of Q, K and V side by side.
    pub(crate) fn qkv(&self) -> usize {
        3 * self.context()
    }
}

/// A linear layer's weights, `n` outputs by `k` inputs, multiples of 32; int8's inputs of 64.
///
/// Panels of 32 outputs follow one another; a panel is a row of steps, a step two tiles of 16 outputs
/// each, a tile 16 rows of 64 bytes. In bf16 a step is 32 inputs, and row r of a tile holds, for its
/// 16 outputs in turn, the weights of inputs 2r and 2r + 1. In int8 a step is 64 inputs, and row r
/// holds those of inputs 4r to 4r + 3.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'m> {
    pub values: Values<'m>,
    pub n: usize,
    pub k: usize,
    /// The first input that takes part, and how many do: the first is at a step's start, their number
    /// a multiple of 32.
    pub from: usize,
    pub inputs: usize,
}

/// A matrix's values in the order of [`Matrix`].
#[derive(Clone, Copy)]
pub(crate) enum Values<'m> {
    Bf16(&'m [u16]),
    /// Codes, and for each output what a code of 1 stands for.
    Int8 {
        codes: &'m [i8],
        scales: &'m [f32],
    },
}

impl Matrix<'_> {
    /// Whether values and scales are as many as the sizes say.
    pub(crate) fn is_whole(&self) -> bool {
        let (values, scales) = match self.values {
            Values::Bf16(tiles) => (tiles.len(), self.n),
            Values::Int8 { codes, scales } => (codes.len(), scales.len()),
        };
        values == self.n * self.k && scales == self.n && self.from + self.inputs <= self.k
    }
}

/// Scale and shift of a layer norm, padded with zeros.
#[derive(Clone, Copy)]
pub(crate) struct Norm<'m> {
    pub weight: &'m [f32],
    pub bias: &'m [f32],
}

/// A linear layer with its bias, or a part of one.
#[derive(Clone, Copy)]
pub(crate) struct Linear<'m> {
    pub weight: Matrix<'m>,
    /// None where another part adds it.
    pub bias: Option<&'m [f32]>,
}

impl<'m> Linear<'m> {
    /// `n` outputs by `inputs` inputs.
    pub(crate) fn new(values: Values<'m>, n: usize, inputs: usize, bias: &'m [f32]) -> Linear<'m> {
        let k = match values {
            Values::Bf16(_) => inputs,
            Values::Int8 { .. } => inputs.next_multiple_of(CODES_A_STEP),
        };
        Linear { weight: Matrix { values, n, k, from: 0, inputs }, bias: Some(bias) }
    }

    /// The part that gives the outputs of `range`, which starts and ends at multiples of 32.
    pub(crate) fn outputs(&self, range: Range<usize>) -> Linear<'m> {
        let w = self.weight;
        let place = range.start * w.k..range.end * w.k;
        let values = match w.values {
            Values::Bf16(tiles) => Values::Bf16(&tiles[place]),
            Values::Int8 { codes, scales } => {
                Values::Int8 { codes: &codes[place], scales: &scales[range.clone()] }
            }
        };
        let bias = self.bias.map(|b| &b[range.clone()]);
        Linear { weight: Matrix { values, n: range.len(), ..w }, bias }
    }

    /// The part that takes the inputs of `range`, which starts at a step's start and ends at a
    /// multiple of 32. The bias goes with the first.
    pub(crate) fn inputs(&self, range: Range<usize>) -> Linear<'m> {
        let bias = if range.start == 0 { self.bias } else { None };
        let weight = Matrix { from: range.start, inputs: range.len(), ..self.weight };
        Linear { weight, bias }
    }
}

/// One transformer layer.
#[derive(Clone, Copy)]
pub(crate) struct Layer<'m> {
    pub qkv: Linear<'m>,
    pub out: Linear<'m>,
    pub attention_norm: Norm<'m>,
    pub up: Linear<'m>,
    pub down: Linear<'m>,
    pub output_norm: Norm<'m>,
}

/// A checked view of packed weights; borrows every byte of them.
#[derive(Clone, Copy)]
pub struct Weights<'m> {
    bytes: &'m [u8],
    dims: Dims,
    precision: Precision,
}

impl<'m> Weights<'m> {
    /// Reads the header of `bytes`, which must lie at a multiple of 64 and be exactly one block.
    ///
    /// # Errors
    /// [`ModelError::Packed`] on another magic number, version, precision, length or alignment.
    pub fn from_bytes(bytes: &'m [u8]) -> Result<Weights<'m>, ModelError> {
        let bad = |expected, got| ModelError::Packed { expected, got };
        if cfg!(target_endian = "big") {
            return Err(bad("a little-endian CPU", "a big-endian one".into()));
        }
        if bytes.len() < HEADER {
            return Err(bad("weights with a header of 64 bytes", format!("{} bytes", bytes.len())));
        }
        if !(bytes.as_ptr() as usize).is_multiple_of(ALIGN) {
            return Err(bad("weights at a multiple of 64", format!("{:p}", bytes.as_ptr())));
        }
        if bytes[..4] != MAGIC {
            return Err(bad("weights that begin with \"DFWT\"", format!("{:?}", &bytes[..4])));
        }
        let word = |i: usize| {
            u32::from_le_bytes(bytes[4 * i..][..4].try_into().expect("four bytes of the header"))
        };
        if word(1) != VERSION {
            return Err(bad("weights of version 1", word(1).to_string()));
        }
        let precision = match word(2) {
            1 => Precision::Bf16,
            3 => Precision::Int8,
            other => {
                return Err(bad("a precision code of 1 (bf16) or 3 (int8)", other.to_string()));
            }
        };
        let config = Config {
            layers: word(3) as usize,
            hidden: word(4) as usize,
            heads: word(5) as usize,
            intermediate: word(6) as usize,
            vocab_size: word(7) as usize,
            max_positions: word(8) as usize,
            layer_norm_eps: f32::from_bits(word(9)),
        };
        let dims = Dims::new(&config)?;
        let length = Layout::new(&dims, precision).length;
        if bytes.len() != length {
            return Err(bad("weights as long as their header says", {
                format!("{} bytes, not {length}", bytes.len())
            }));
        }
        Ok(Weights { bytes, dims, precision })
    }

    /// Checks that no number is NaN or infinite. Reads every byte.
    ///
    /// # Errors
    /// [`ModelError::Packed`] names the part.
    pub fn check_finite(&self) -> Result<(), ModelError> {
        let check = |part: &str, layer: Option<usize>, finite: bool| {
            if finite {
                return Ok(());
            }
            let place = layer.map_or(String::new(), |layer| format!(" of layer {layer}"));
            let got = format!("NaN or infinity in the {part}{place}");
            Err(ModelError::Packed { expected: "finite weights", got })
        };
        let floats = |values: &[f32]| values.iter().all(|v| v.is_finite());
        let halves = |values: &[u16]| values.iter().all(|v| v & 0x7F80 != 0x7F80);
        let norm = |norm: &Norm<'_>| floats(norm.weight) && floats(norm.bias);
        let linear = |linear: &Linear<'_>| {
            let weights = match linear.weight.values {
                Values::Bf16(tiles) => halves(tiles),
                Values::Int8 { scales, .. } => floats(scales),
            };
            weights && linear.bias.is_none_or(floats)
        };
        let embeddings = self.embeddings();
        check("embeddings", None, halves(embeddings.scales) && floats(embeddings.positions))?;
        check("embeddings' norm", None, norm(&embeddings.norm))?;
        for index in 0..self.layers() {
            let layer = self.layer(index);
            let attention = linear(&layer.qkv) && linear(&layer.out) && norm(&layer.attention_norm);
            check("attention", Some(index), attention)?;
            let feed_forward = linear(&layer.up) && linear(&layer.down) && norm(&layer.output_norm);
            check("feed-forward", Some(index), feed_forward)?;
        }
        Ok(())
    }

    /// How the linear layers are stored: bf16 or int8.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Bytes of scratch that products of `rows` rows of up to `inputs` inputs need; see
    /// [`codes_scratch`](super::kernels::codes_scratch).
    pub(crate) fn product_scratch(&self, rows: usize, inputs: usize) -> usize {
        match self.precision {
            Precision::Int8 => super::kernels::codes_scratch(rows, inputs),
            _ => 0,
        }
    }

    pub(crate) fn dims(&self) -> &Dims {
        &self.dims
    }

    /// Width of a vector.
    pub fn dimensions(&self) -> usize {
        self.dims.hidden
    }

    /// Longest text in tokens.
    pub fn max_positions(&self) -> usize {
        self.dims.max_positions
    }

    /// Rows of the token embedding; ids are below it.
    pub fn vocab_size(&self) -> usize {
        self.dims.vocab_size
    }

    /// Transformer layers.
    pub fn layers(&self) -> usize {
        self.dims.layers
    }

    /// The sizes as configured.
    pub fn config(&self) -> Config {
        let d = &self.dims;
        Config {
            layers: d.layers,
            hidden: d.hidden,
            heads: d.heads,
            intermediate: d.inner,
            vocab_size: d.vocab_size,
            max_positions: d.max_positions,
            layer_norm_eps: d.eps,
        }
    }

    pub(crate) fn embeddings(&self) -> Embeddings<'m> {
        let layout = Layout::new(&self.dims, self.precision);
        Embeddings {
            words: self.read(layout.words),
            scales: self.read(layout.scales),
            positions: self.read(layout.positions),
            norm: self.norm(layout.norm),
            width: self.dims.hidden_padded,
        }
    }

    pub(crate) fn layer(&self, index: usize) -> Layer<'m> {
        let start = Layout::new(&self.dims, self.precision).layer_start(index);
        let at = LayerLayout::new(&self.dims, self.precision, start);
        let d = &self.dims;
        let linear = |place: Place, n, k| {
            let values = match self.precision {
                Precision::Int8 => {
                    Values::Int8 { codes: self.read(place.values), scales: self.read(place.scales) }
                }
                _ => Values::Bf16(self.read(place.values)),
            };
            Linear::new(values, n, k, self.read(place.bias))
        };
        Layer {
            qkv: linear(at.qkv, d.qkv(), d.hidden_padded),
            out: linear(at.out, d.hidden_padded, d.context()),
            attention_norm: self.norm(at.attention_norm),
            up: linear(at.up, d.inner_padded, d.hidden_padded),
            down: linear(at.down, d.hidden_padded, d.inner_padded),
            output_norm: self.norm(at.output_norm),
        }
    }

    fn norm(&self, (weight, bias): (Range<usize>, Range<usize>)) -> Norm<'m> {
        Norm { weight: self.read(weight), bias: self.read(bias) }
    }

    fn read<T: bytemuck::Pod>(&self, range: Range<usize>) -> &'m [T] {
        bytemuck::cast_slice(&self.bytes[range])
    }
}

/// The embedding tables. A word's row is `width` int8 with a bf16 scale for each 32 of them.
pub(crate) struct Embeddings<'m> {
    pub words: &'m [i8],
    pub scales: &'m [u16],
    pub positions: &'m [f32],
    pub norm: Norm<'m>,
    pub width: usize,
}

impl<'m> Embeddings<'m> {
    /// A word's row and its scales.
    pub(crate) fn word(&self, id: usize) -> (&'m [i8], &'m [u16]) {
        let scales = self.width / GROUP;
        (&self.words[id * self.width..][..self.width], &self.scales[id * scales..][..scales])
    }

    /// A position's row.
    pub(crate) fn position(&self, at: usize) -> &'m [f32] {
        &self.positions[at * self.width..][..self.width]
    }
}

/// Packs a model's tensors.
///
/// # Errors
/// What [`Tensors::tensor`] says of a missing, misshapen or non-finite tensor, and
/// [`ModelError::Config`] for sizes out of range.
pub fn pack_weights(
    config: &Config,
    tensors: &dyn Tensors,
    precision: Precision,
) -> Result<Vec<u8>, ModelError> {
    let dims = Dims::new(config)?;
    let layout = Layout::new(&dims, precision);
    let mut out = vec![0u8; layout.length];
    out[..4].copy_from_slice(&MAGIC);
    let words = [
        VERSION,
        precision_code(precision)?,
        dims.layers as u32,
        dims.hidden as u32,
        dims.heads as u32,
        dims.inner as u32,
        dims.vocab_size as u32,
        dims.max_positions as u32,
        dims.eps.to_bits(),
    ];
    for (i, word) in words.iter().enumerate() {
        out[4 + 4 * i..][..4].copy_from_slice(&word.to_le_bytes());
    }
    out[40..48].copy_from_slice(&(layout.length as u64).to_le_bytes());
    pack_embeddings(&dims, &layout, tensors, &mut out)?;
    for index in 0..dims.layers {
        pack_layer(&dims, &layout, tensors, precision, index, &mut out)?;
    }
    Ok(out)
}

fn precision_code(precision: Precision) -> Result<u32, ModelError> {
    match precision {
        Precision::Bf16 => Ok(1),
        Precision::Int8 => Ok(3),
        Precision::F32 => Err(ModelError::Unsupported {
            part: "precision of packed weights",
            expected: "bf16 or int8",
            got: format!("{precision:?}").to_lowercase(),
        }),
    }
}

fn pack_embeddings(
    d: &Dims,
    layout: &Layout,
    tensors: &dyn Tensors,
    out: &mut [u8],
) -> Result<(), ModelError> {
    let words = tensors.tensor("embeddings.word_embeddings.weight", &[d.vocab_size, d.hidden])?;
    let groups = d.hidden_padded / GROUP;
    for (id, row) in words.chunks_exact(d.hidden).enumerate() {
        for (g, values) in row.chunks(GROUP).enumerate() {
            let top = values.iter().fold(0f32, |m, v| m.max(v.abs()));
            // Rounded to bf16 first, so that codes are made for the scale that is stored.
            let scale = super::kernels::from_bf16(to_bf16(top / 127.0));
            let at = layout.scales.start + 2 * (id * groups + g);
            out[at..at + 2].copy_from_slice(&to_bf16(top / 127.0).to_le_bytes());
            let at = layout.words.start + id * d.hidden_padded + g * GROUP;
            for (byte, v) in out[at..].iter_mut().zip(values) {
                let code = if scale > 0.0 { (v / scale).round().clamp(-127.0, 127.0) } else { 0.0 };
                *byte = code as i8 as u8;
            }
        }
    }
    let name = "embeddings.position_embeddings.weight";
    let positions = tensors.tensor(name, &[d.max_positions, d.hidden])?;
    for (at, row) in positions.chunks_exact(d.hidden).enumerate() {
        put_f32(out, layout.positions.start + 4 * at * d.hidden_padded, row);
    }
    pack_norm(d, tensors, "embeddings.LayerNorm", &layout.norm, out)
}

fn pack_layer(
    d: &Dims,
    layout: &Layout,
    tensors: &dyn Tensors,
    precision: Precision,
    index: usize,
    out: &mut [u8],
) -> Result<(), ModelError> {
    let at = LayerLayout::new(d, precision, layout.layer_start(index));
    let prefix = format!("transformer.layer.{index}");
    let load = |name: &str, n: usize, k: usize| {
        let weight = tensors.tensor(&format!("{prefix}.{name}.weight"), &[n, k])?;
        let bias = tensors.tensor(&format!("{prefix}.{name}.bias"), &[n])?;
        Ok::<_, ModelError>((weight, bias))
    };
    // Where an index of the model's own width goes among padded heads.
    let padded = |i: usize| (i / d.head) * d.head_padded + i % d.head;
    let same = |i: usize| i;
    let scale = std::f32::consts::LOG2_E / (d.head as f32).sqrt();
    for (part, name) in ["q_lin", "k_lin", "v_lin"].into_iter().enumerate() {
        let (mut weight, mut bias) = load(&format!("attention.{name}"), d.hidden, d.hidden)?;
        if part == 0 {
            weight.to_mut().iter_mut().chain(bias.to_mut()).for_each(|v| *v *= scale);
        }
        let output = |i: usize| part * d.context() + padded(i);
        let source = Source { weight: &weight, bias: &bias, inputs: d.hidden };
        source.put(out, &at.qkv, d.hidden_padded, output, same, precision);
    }
    let (weight, bias) = load("attention.out_lin", d.hidden, d.hidden)?;
    let source = Source { weight: &weight, bias: &bias, inputs: d.hidden };
    source.put(out, &at.out, d.context(), same, padded, precision);
    let (weight, bias) = load("ffn.lin1", d.inner, d.hidden)?;
    let source = Source { weight: &weight, bias: &bias, inputs: d.hidden };
    source.put(out, &at.up, d.hidden_padded, same, same, precision);
    let (weight, bias) = load("ffn.lin2", d.hidden, d.inner)?;
    let source = Source { weight: &weight, bias: &bias, inputs: d.inner };
    source.put(out, &at.down, d.inner_padded, same, same, precision);
    pack_norm(d, tensors, &format!("{prefix}.sa_layer_norm"), &at.attention_norm, out)?;
    pack_norm(d, tensors, &format!("{prefix}.output_layer_norm"), &at.output_norm, out)
}

/// A linear layer as a model has it.
struct Source<'a> {
    weight: &'a [f32],
    bias: &'a [f32],
    inputs: usize,
}

impl Source<'_> {
    /// Stores it at `place`, whose matrix has `k` inputs, each output and input where it belongs.
    fn put(
        &self,
        out: &mut [u8],
        place: &Place,
        k: usize,
        output: impl Fn(usize) -> usize,
        input: impl Fn(usize) -> usize,
        precision: Precision,
    ) {
        for (row, (values, bias)) in
            self.weight.chunks_exact(self.inputs).zip(self.bias).enumerate()
        {
            let n = output(row);
            put_f32(out, place.bias.start + 4 * n, &[*bias]);
            let top = values.iter().fold(0f32, |m, v| m.max(v.abs()));
            let scale = if top > 0.0 { top / 127.0 } else { 1.0 };
            if precision == Precision::Int8 {
                put_f32(out, place.scales.start + 4 * n, &[scale]);
            }
            for (col, &v) in values.iter().enumerate() {
                if precision == Precision::Int8 {
                    let at = position(n, input(col), k.next_multiple_of(CODES_A_STEP), 1);
                    out[place.values.start + at] = (v / scale).round() as i8 as u8;
                } else {
                    let at = position(n, input(col), k, 2);
                    let bytes = to_bf16(v).to_le_bytes();
                    out[place.values.start + at..][..2].copy_from_slice(&bytes);
                }
            }
        }
    }
}

fn pack_norm(
    d: &Dims,
    tensors: &dyn Tensors,
    name: &str,
    at: &(Range<usize>, Range<usize>),
    out: &mut [u8],
) -> Result<(), ModelError> {
    put_f32(out, at.0.start, &tensors.tensor(&format!("{name}.weight"), &[d.hidden])?);
    put_f32(out, at.1.start, &tensors.tensor(&format!("{name}.bias"), &[d.hidden])?);
    Ok(())
}

fn put_f32(out: &mut [u8], at: usize, values: &[f32]) {
    for (bytes, v) in out[at..at + 4 * values.len()].chunks_exact_mut(4).zip(values) {
        bytes.copy_from_slice(&v.to_le_bytes());
    }
}

/// The byte at which the value of output `n` for input `k` begins, of `width` bytes, in the order of
/// [`Matrix`].
pub(super) fn position(n: usize, k: usize, inputs: usize, width: usize) -> usize {
    let (inputs_a_step, inputs_a_row) = (64 / width, 4 / width);
    let step = (n / 32) * (inputs / inputs_a_step) + k / inputs_a_step;
    let tile = 2 * step + (n % 32) / 16;
    let row = (k % inputs_a_step) / inputs_a_row;
    1024 * tile + 64 * row + 4 * (n % 16) + width * (k % inputs_a_row)
}

/// Hands out consecutive ranges at multiples of 64. Sizes are bounded by [`Config::check`], far below
/// what 64 bits hold.
struct Cursor(usize);

impl Cursor {
    fn take(&mut self, bytes: usize) -> Range<usize> {
        let start = self.0;
        self.0 = (start + bytes).next_multiple_of(ALIGN);
        start..start + bytes
    }

    fn norm(&mut self, width: usize) -> (Range<usize>, Range<usize>) {
        (self.take(4 * width), self.take(4 * width))
    }

    fn linear(&mut self, precision: Precision, n: usize, k: usize) -> Place {
        let int8 = precision == Precision::Int8;
        let values = self.take(if int8 { n * k.next_multiple_of(CODES_A_STEP) } else { 2 * n * k });
        let scales = self.take(if int8 { 4 * n } else { 0 });
        Place { values, scales, bias: self.take(4 * n) }
    }
}

/// Where a linear layer lies. There are no scales in bf16.
struct Place {
    values: Range<usize>,
    scales: Range<usize>,
    bias: Range<usize>,
}

/// Where everything lies, computed from the sizes alone.
struct Layout {
    words: Range<usize>,
    scales: Range<usize>,
    positions: Range<usize>,
    norm: (Range<usize>, Range<usize>),
    layers: usize,
    layer_bytes: usize,
    length: usize,
}

impl Layout {
    fn new(d: &Dims, precision: Precision) -> Layout {
        let mut at = Cursor(HEADER);
        let words = at.take(d.vocab_size * d.hidden_padded);
        let scales = at.take(2 * d.vocab_size * d.hidden_padded / GROUP);
        let positions = at.take(4 * d.max_positions * d.hidden_padded);
        let norm = at.norm(d.hidden_padded);
        let layers = at.0;
        let layer_bytes = LayerLayout::new(d, precision, 0).end;
        let length = layers + d.layers * layer_bytes;
        Layout { words, scales, positions, norm, layers, layer_bytes, length }
    }

    fn layer_start(&self, index: usize) -> usize {
        self.layers + index * self.layer_bytes
    }
}

/// Where a layer's parts lie, in the order in which the forward pass reads them.
struct LayerLayout {
    qkv: Place,
    out: Place,
    attention_norm: (Range<usize>, Range<usize>),
    up: Place,
    down: Place,
    output_norm: (Range<usize>, Range<usize>),
    end: usize,
}

impl LayerLayout {
    fn new(d: &Dims, precision: Precision, start: usize) -> LayerLayout {
        let mut at = Cursor(start);
        let qkv = at.linear(precision, d.qkv(), d.hidden_padded);
        let out = at.linear(precision, d.hidden_padded, d.context());
        let attention_norm = at.norm(d.hidden_padded);
        let up = at.linear(precision, d.inner_padded, d.hidden_padded);
        let down = at.linear(precision, d.hidden_padded, d.inner_padded);
        let output_norm = at.norm(d.hidden_padded);
        LayerLayout { qkv, out, attention_norm, up, down, output_norm, end: at.0 }
    }
}
