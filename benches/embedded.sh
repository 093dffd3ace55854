#!/usr/bin/env bash
# The embedded index beside hnswlib and usearch in memory, on the same data, in turns: build, recall, queries a
# second. The peers come from PyPI into a Python environment of this bench; hnswlib is compiled there.
. "$(dirname "$0")/../scripts/common.sh"

peers=(numpy==2.4.6 hnswlib==0.8.0 usearch==2.26.6)
dir=target/bench-embedded
mkdir -p $dir
if [ "$(cat $dir/peers 2>/dev/null)" != "${peers[*]}" ]; then
  note "installing ${peers[*]}"
  rm -rf $dir/venv
  python3 -m venv $dir/venv
  $dir/venv/bin/pip --disable-pip-version-check install -q "${peers[@]}"
  echo "${peers[*]}" >$dir/peers
fi

bench() { cargo bench -q --locked -p distilface-core --bench embedded -- "$@"; }
bench prepare $dir
say "$(git rev-parse --short HEAD), $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n1), ${peers[*]}; m 16, ef_construction 64, k 10, queries on one thread"
for turn in 1 2; do
  note "turn $turn"
  bench run $dir
  for peer in hnswlib usearch-f32 usearch-i8; do
    $dir/venv/bin/python benches/embedded_peers.py $peer $dir
  done
done
