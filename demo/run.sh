#!/usr/bin/env bash
# The demo: a throwaway cluster of its own, a real corpus, an index, a few questions. `run.sh stop` removes it.
# A second run begins afresh. Nothing is installed and no other cluster is touched.
. "$(dirname "$0")/../scripts/common.sh"

bin=${DEMO_BINDIR:-$("$PG_CONFIG" --bindir)}
state=${DEMO_STATE:-$top/.demo}

# User postgres must be able to enter the cluster's directory: where it cannot reach the checkout, /var/tmp serves.
# The socket lies in a short directory, because its path may have 107 bytes.
stop() {
  [ -f "$state/home" ] || return 0
  local home
  home=$(cat "$state/home")
  if [ -f "$home/data/postmaster.pid" ]; then
    as_postgres "$bin/pg_ctl" stop -s -m immediate -D "$home/data" || true
  fi
  rm -rf "$home" "$state"
}

start() {
  say "starting a throwaway PostgreSQL $("$bin/postgres" --version | grep -oE '[0-9]+(\.[0-9]+)?' | head -n1)"
  local home
  home=$(mktemp -d /tmp/distilface-demo-XXXXXX)
  mkdir -p "$state"
  echo "$home" >"$state/home"
  [ "$(id -u)" != 0 ] || chown postgres:postgres "$home"
  as_postgres "$bin/initdb" --no-locale -E UTF8 -U postgres -A trust --no-sync -D "$home/data" >"$state/initdb.log"
  as_postgres "$bin/pg_ctl" start -s -w -D "$home/data" -l "$home/log" -o \
    "-c listen_addresses= -c unix_socket_directories=$home -c fsync=off -c shared_buffers=128MB" ||
    { tail -n 20 "$home/log" >&2; die "the server did not start"; }
  as_postgres "$bin/createdb" -h "$home" -U postgres demo
}

psql_demo() { "$bin/psql" -X -q -h "$(cat "$state/home")" -U postgres -d demo -v ON_ERROR_STOP=1 "$@"; }

stop
if [ "${1:-}" = stop ]; then exit 0; fi

began=$(date +%s)
start
say "loading and embedding the corpus"
gzip -dc demo/corpus.tsv.gz >"$state/corpus.tsv"
(cd "$state" && psql_demo -f "$top/demo/load.sql")
say "asking"
psql_demo -f demo/questions.sql

home=$(cat "$state/home")
say "done in $(($(date +%s) - began)) s; the server runs on. Ask it yourself:"
cat <<TXT

    $bin/psql -h $home -U postgres demo
    demo=# SELECT body FROM passages ORDER BY e <=> distilface_embed_query('your question') LIMIT 5;

    make demo-stop      stops it and removes it
TXT
