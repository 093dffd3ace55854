#!/usr/bin/env bash
# Compiles the cargo feature `cuda` of the extension and so of the core, and of the trainer, CUDA kernels included (a quarter of an
# hour), with NVIDIA's compiler and headers from PyPI in .venv (150 MB; no driver, no device and no root). Nothing
# is linked and nothing is run: that takes a machine's own CUDA libraries. DISTILFACE_CUDA names a toolkit that is
# there.
. "$(dirname "$0")/common.sh"

# 13.4 is the newest that candle's bindings know.
toolkit=13.0
cuda=${DISTILFACE_CUDA:-}
if [ -z "$cuda" ]; then
  say "fetching NVIDIA's compiler $toolkit from PyPI"
  venv_pip install -q "cuda-toolkit[nvcc,cudart,cccl]==$toolkit.*"
  cuda=$(.venv/bin/python -c 'import nvidia; print(list(nvidia.__path__)[0])')/cu${toolkit%.*}
fi
[ -x "$cuda/bin/nvcc" ] || die "no nvcc in $cuda/bin"

export CUDA_HOME=$cuda PATH=$cuda/bin:$PATH CUDARC_CUDA_VERSION=${toolkit/./0}0
# What kernels are compiled for: without a device at hand, nobody else can say.
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-80}
note "$(nvcc --version | tail -n 2 | head -n 1), compute capability $CUDA_COMPUTE_CAP"
say "compiling the extension, and with it the core, and the trainer with the feature cuda"
cargo check --release --locked --target-dir target/cuda -p distilface -p distilface-train --features cuda
