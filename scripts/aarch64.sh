#!/usr/bin/env bash
# The core's unit tests, compiled for aarch64 and run by qemu's user-mode emulator: the NEON kernels against their
# portable twins, the encoder in every company, and the bytes of pages and models.
. "$(dirname "$0")/common.sh"

target=aarch64-unknown-linux-gnu
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu -cpu max"

say "tests of the core on emulated aarch64"
# The fault tests of the full text index start thousands of writers: hours under an emulator, and nothing in them
# depends on the processor.
cargo test --release --locked -p distilface-core --target $target --lib -- vector:: encoder:: page:: text:: model:: hnsw::
