#!/usr/bin/env bash
# Everything about the tree that can be judged without running it. Runs every check, then fails if one failed.
. "$(dirname "$0")/common.sh"

failed=()
check() { # name, command…
  say "$1"
  "${@:2}" || failed+=("$1")
}

# The `mod::` paths of the core crate that a folder's files name, beyond those it may.
#   vector, page, text ← model, encoder, hnsw, bm25 ← fusion, index; training beside the encoder
imports() {
  local bad=0 layer allowed found
  while read -r layer allowed; do
    [ -e "src/$layer" ] || [ -e "src/$layer.rs" ] || continue
    # Test modules may build their input from any layer.
    found=$(find "src/$layer" "src/$layer.rs" -name '*.rs' ! -name 'tests.rs' 2>/dev/null |
      xargs -r awk -v layer="$layer" -v allowed=" $allowed $layer error " '
        FNR == 1 { tests = 0 }
        /^#\[cfg\(test\)\]/ { tests = 1 }
        !tests && !/^ *\/\// {
          line = $0
          while (match(line, /crate::[a-z0-9_]+/)) {
            name = substr(line, RSTART + 7, RLENGTH - 7)
            line = substr(line, RSTART + RLENGTH)
            if (index(layers, " " name " ") && !index(allowed, " " name " "))
              print FILENAME ":" FNR ": " layer " may not import " name
          }
        }' layers=" vector page text model encoder hnsw bm25 fusion index training ")
    [ -z "$found" ] || { printf '%s\n' "$found"; bad=1; }
  done <<'LAYERS'
vector
page
text
model vector text page
encoder vector text model
hnsw vector page
bm25 page text
fusion
index vector page text model encoder hnsw bm25 fusion
training vector encoder
LAYERS
  return $bad
}

# Prints the lines that a pattern finds in tracked files, and fails when there are any.
none_of() { # why, pattern, pathspec…
  local hits
  hits=$(git grep -nE "$2" -- "${@:3}" || true)
  [ -z "$hits" ] || { printf '%s\n' "$1:" "$hits"; return 1; }
}

postgres_stays_in_the_extension() {
  none_of 'PostgreSQL named outside the extension' '\b(pgrx|pg_sys)\b' 'src/*.rs' 'trainer/*.rs' Cargo.toml trainer/Cargo.toml
}

# Access-method callbacks have raw signatures by nature; everything else belongs behind extension/src/pg.
raw_postgres_is_concentrated() {
  local hits
  hits=$(git ls-files 'extension/src/*.rs' | grep -v '^extension/src/pg/' |
    xargs -r grep -cE 'pg_sys::' /dev/null | awk -F: '$2 > 25')
  [ -z "$hits" ] || { printf '%s\n' 'raw pg_sys outside extension/src/pg:' "$hits"; return 1; }
}

# Unsafe code: SIMD kernels in the core, extension/src/pg, and what pgrx's own signatures demand.
unsafe_is_concentrated() {
  local hits
  hits=$(git grep -nE '\bunsafe (fn|impl|\{)' -- 'src/*.rs' 'trainer/*.rs' |
    grep -vE '^src/(vector|encoder|training)/' | grep -vE '^[^:]+:[0-9]+: *//' || true)
  [ -z "$hits" ] || { printf '%s\n' 'unsafe outside the kernels:' "$hits"; return 1; }
}

no_machine_paths() { none_of 'paths of one machine' '/(work|farm|root|home/[a-z]+)/' . ':!*.lock' ':!scripts/lint.sh'; }

no_stubs() {
  none_of 'stubs, or tests that are switched off' 'todo!\(|unimplemented!\(|#\[ignore|TODO|FIXME|XXX' '*.rs'
}

no_timed_tests() {
  none_of 'timed assertions in tests (measure in a bench)' 'assert!\(.*elapsed\(\)' 'tests/*.rs' 'src/*.rs' 'extension/*.rs'
}

files_hold_one_idea() {
  local long
  long=$(git ls-files '*.rs' | xargs wc -l | awk '$1 > 900 && $2 != "total" {print $2 ": " $1 " lines"}')
  [ -z "$long" ] || { printf '%s\n' 'files past 900 lines:' "$long"; return 1; }
}

licences() { cargo deny --all-features --log-level error check --hide-inclusion-graph licenses bans sources; }

advisories() {
  local out
  if out=$(cargo deny --log-level error check --hide-inclusion-graph advisories 2>&1); then return 0; fi
  if grep -qE 'failed to fetch advisory database|failed to (clone|fetch|prepare)|unable to (fetch|clone)|error sending request' <<<"$out"; then
    note "NOT CHECKED: the advisory database could not be fetched from here"
    return 0
  fi
  printf '%s\n' "$out"
  return 1
}

check 'formatting' cargo fmt --all --check
check 'import direction' imports
check 'PostgreSQL only in the extension' postgres_stays_in_the_extension
check 'raw pg_sys in one place' raw_postgres_is_concentrated
check 'unsafe code in its places' unsafe_is_concentrated
check 'no machine paths' no_machine_paths
check 'no stubs' no_stubs
check 'no timed tests' no_timed_tests
check 'file sizes' files_hold_one_idea
check 'licences, bans and sources of dependencies' licences
check 'security advisories' advisories
check 'clippy' cargo clippy --release --workspace --all-targets --features distilface-core/bm25,distilface-core/candle --locked -- -D warnings

if [ ${#failed[@]} -gt 0 ]; then
  printf '\nfailed: %s\n' "$(IFS=,; echo "${failed[*]}")" >&2
  exit 1
fi
say "lint passed"
