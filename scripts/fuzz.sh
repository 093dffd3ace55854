#!/usr/bin/env bash
# Runs every fuzz target for SECONDS (60). A crash leaves its input in fuzz/artifacts/ and fails at the end.
# cargo-fuzz wants sanitizer flags that stable Rust has but hides: RUSTC_BOOTSTRAP=1 shows them.
. "$(dirname "$0")/common.sh"

seconds=${1:-60}
export RUSTC_BOOTSTRAP=1
# The build's flag is for extensions; sanitizers bring their own.
unset RUSTFLAGS
failed=()
# Real files to begin with, beside the small ones in fuzz/seeds.
mkdir -p fuzz/corpus/manifest_json
[ ! -f models/all-minilm-l6-v2/distilface.json ] ||
  cp models/all-minilm-l6-v2/distilface.json fuzz/corpus/manifest_json/
say "building the fuzz targets"
cargo fuzz build -O
for target in $(cargo fuzz list); do
  say "fuzzing $target for $seconds s"
  mkdir -p "fuzz/corpus/$target"
  seeds=()
  [ ! -d "fuzz/seeds/$target" ] || seeds=("fuzz/seeds/$target")
  log=fuzz/corpus/$target.log
  cargo fuzz run -O "$target" "fuzz/corpus/$target" "${seeds[@]}" -- \
    -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 >"$log" 2>&1 || {
    failed+=("$target")
    tail -n 40 "$log"
  }
  note "$(sed -n 's/^stat::number_of_executed_units: */inputs tried: /p' "$log")"
done
if [ ${#failed[@]} -gt 0 ]; then die "crashes in: ${failed[*]} (inputs in fuzz/artifacts)"; fi
say "no crash"
