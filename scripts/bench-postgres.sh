#!/usr/bin/env bash
# Measures base backups, recovery and archived WAL of a PostgreSQL cluster beside pgBackRest and
# pg_basebackup | zstd, in one run, on the machine at hand.
#
#   scripts/bench-postgres.sh [--binary FILE]
#
#   --binary FILE   measure this program, and build nothing
#
#   BENCH_SCALE=60      size of the pgbench tables: 100,000 rows, about 15 MB, each
#   BENCH_SEGMENTS=40   segments of WAL that are archived
#   BENCH_RUNS=3        rounds; the fastest counts. Who begins a round does not begin the next
#   BENCH_DIR=DIR       where everything happens (default: a new directory in /var/tmp)
#
# Every contender stores into a directory, without encryption, and compresses with zstd level 3
# (WAL: 1). Exit status: 0 every hold of DESIGN §9 is kept, 1 one was missed or something failed.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname -- "$0")/lib.sh"

binary=''
while [ $# -gt 0 ]; do
    case $1 in
        --binary) binary=${2:?--binary needs a file} && shift ;;
        *) echo "usage: scripts/bench-postgres.sh [--binary FILE]" >&2 && exit 2 ;;
    esac
    shift
done
scale=${BENCH_SCALE:-60} segments=${BENCH_SEGMENTS:-40} runs=${BENCH_RUNS:-3}
for tool in zstd tar pgbackrest runuser /usr/bin/time; do
    has "$tool" || die "$tool is missing" "scripts/install-deps.sh bench installs what the benchmark needs"
done
[ "$(id -u)" -eq 0 ] || die "servers are started as another user: run this as root"
if [ -z "$binary" ]; then
    need_cargo
    head_line "Building the release binary"
    (cd -- "$ROOT" && cargo build --release --locked)
    binary=$TARGET_DIR/release/backstay
fi
"$ROOT/scripts/get-postgres.sh" >/dev/null
# 15: the newest that Debian's pgBackRest knows.
bin=$("$ROOT/scripts/get-postgres.sh" --print)/15/bin
user=postgres
id "$user" >/dev/null 2>&1 || user=nobody

unset BACKSTAY_POLICY BACKSTAY_IDENTITY BACKSTAY_FAILPOINT
export LC_ALL=C.UTF-8
W=${BENCH_DIR:-$(mktemp -d "${TMPDIR:-/var/tmp}/backstay-bench.XXXXXX")}
mkdir -p -- "$W"
W=$(cd -- "$W" && pwd -P)/pg
rm -rf -- "$W"
mkdir -- "$W"
chmod 755 "$(dirname -- "$W")"
install -m 755 "$binary" "$W/backstay"
chown "$user" "$W"
as() { runuser -u "$user" -- env LC_ALL=C.UTF-8 HOME="$W" BACKSTAY_STATE_DIR="$W/state" "$@"; }
# shellcheck disable=SC2317  # called by the trap
finish() {
    as "$bin/pg_ctl" -D "$W/data" -m immediate stop >/dev/null 2>&1 || true
    rm -rf -- "$W"
    rmdir -- "$(dirname -- "$W")" 2>/dev/null || true
}
trap finish EXIT
trap 'exit 130' INT TERM
cd -- "$W"

head_line "A cluster of pgbench at scale $scale"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
as "$bin/initdb" -D "$W/data" -U postgres --data-checksums >/dev/null
as mkdir "$W/s"
cat >>"$W/data/postgresql.conf" <<END
port = $port
listen_addresses = ''
unix_socket_directories = '$W/s'
archive_mode = on
archive_command = '/bin/false'
max_wal_size = 8GB
max_wal_senders = 4
END
as "$bin/pg_ctl" -w -D "$W/data" -l "$W/log" start >/dev/null
sql() { as "$bin/psql" -h "$W/s" -p "$port" -U postgres -d postgres -X -A -t -c "$1"; }
as "$bin/pgbench" -h "$W/s" -p "$port" -U postgres -i -q -s "$scale" postgres 2>/dev/null
sql CHECKPOINT >/dev/null
say "$(human "$(du -sb "$W/data/base" | cut -f1)") in $(find "$W/data/base" -type f | wc -l) files"

as tee policy.yaml >/dev/null <<END
version: 1
stack: bench
tier: development
timezone: UTC
repositories:
  main: { local: { path: $W/backstay-repository } }
sources:
  pg: { postgres_cluster: { connection: "host=$W/s port=$port user=postgres dbname=postgres", wal: { archive: { to: [main] } } } }
jobs:
  all: { sources: all, kind: full, schedule: { every: 12h }, keep: { for: 7d } }
END
stay() { as "$W/backstay" --quiet --no-progress --policy "$W/policy.yaml" "$@"; }
rest() {
    local settings=$1
    shift
    as pgbackrest --config="$W/$settings.conf" --stanza=bench --log-level-console=error --log-level-file=off "$@"
}
for settings in tuned default async; do
    more="compress-type=zst
compress-level=3
process-max=2"
    [ "$settings" != default ] || more=''
    [ "$settings" != async ] || more="$more
archive-async=y
spool-path=$W/spool"
    as tee "$settings.conf" >/dev/null <<END
[global]
repo1-path=$W/pgbackrest-$settings
repo1-retention-full=100
lock-path=$W/lock-$settings
log-path=$W
start-fast=y
archive-check=n
$more
[bench]
pg1-path=$W/data
pg1-port=$port
pg1-user=postgres
pg1-socket-path=$W/s
END
done
stay init --yes >/dev/null 2>&1 || stay init >/dev/null
for settings in tuned default async; do rest "$settings" stanza-create; done

# measure NAME COMMAND..: seconds and peak memory of a whole process, to times/NAME and memory/NAME.
mkdir -p times memory
measure() {
    local name=$1
    shift
    sync
    local before
    before=$(now)
    /usr/bin/time -f %M -o memory.one "$@" >out.one 2>&1 || { cat out.one >&2 && die "$name failed"; }
    sync -f "$W"
    since "$before" >>"times/$name"
    printf '\n' >>"times/$name"
    cat memory.one >>"memory/$name"
}
export -f as stay rest
export user W bin port
best() { sort -n "times/$1" | grep . | head -n 1; }

pipe_backup() {
    as sh -c "'$bin/pg_basebackup' -h '$W/s' -p '$port' -U postgres -c fast -X fetch -D - -Ft | zstd -q -3 -T2 -o '$W/pipe.tar.zst' -f"
}
backstay_backup() { stay backup bench/pg; }
tuned_backup() { rest tuned --type=full --no-archive-check backup; }
default_backup() { rest default --type=full --no-archive-check backup; }
export -f pipe_backup backstay_backup tuned_backup default_backup

head_line "Base backups ($runs rounds)"
contenders=(pipe backstay tuned default)
for round in $(seq "$runs"); do
    for turn in 0 1 2 3; do
        who=${contenders[$(((turn + round) % 4))]}
        measure "backup-$who" bash -c "${who}_backup"
    done
    say "round $round: $(for who in "${contenders[@]}"; do printf '%s %s s  ' "$who" "$(grep . "times/backup-$who" | tail -n 1)"; done)"
done

head_line "Restores"
pipe_restore() { as sh -c "mkdir -m 700 '$W/restored' && zstd -q -dc '$W/pipe.tar.zst' | tar -x -C '$W/restored'"; }
backstay_restore() { stay restore bench/pg --to "$W/restored"; }
tuned_restore() { as mkdir -m 700 "$W/restored" && rest tuned --pg1-path="$W/restored" --type=none --archive-mode=off restore; }
export -f pipe_restore backstay_restore tuned_restore
contenders=(pipe backstay tuned)
for round in $(seq "$runs"); do
    for turn in 0 1 2; do
        who=${contenders[$(((turn + round) % 3))]}
        measure "restore-$who" bash -c "${who}_restore"
        rm -rf -- "$W/restored"
    done
    say "round $round: $(for who in "${contenders[@]}"; do printf '%s %s s  ' "$who" "$(grep . "times/restore-$who" | tail -n 1)"; done)"
done

head_line "WAL: $segments segments that are ready"
# Real WAL: rows with noise in them, so that segments compress as a busy server's do.
while [ "$(find "$W/data/pg_wal/archive_status" -name '*.ready' | wc -l)" -lt "$segments" ]; do
    sql "CREATE TABLE IF NOT EXISTS w (t text); INSERT INTO w SELECT md5(random()::text) || repeat('x', 60) FROM generate_series(1, 60000)" >/dev/null
done
mapfile -t ready < <(find "$W/data/pg_wal/archive_status" -name '????????????????????????.ready' -printf '%f\n' | LC_ALL=C sort | sed 's/\.ready$//' | head -n "$segments")
one_by_one() { # one_by_one COMMAND..: as the server's archiver calls it
    local name
    for name in $READY; do (cd "$W/data" && "$@" "pg_wal/$name") || return 1; done
}
backstay_push() { one_by_one stay wal push; }
tuned_push() { one_by_one rest tuned archive-push; }
async_push() { one_by_one rest async archive-push; }
alone_push() { # each file in a directory of its own: nothing is ready behind it
    local name
    for name in $READY; do
        (cd "$W/data" && stay wal push --system-id "$SYSTEM" "$W/alone/$name") || return 1
    done
}
export -f one_by_one backstay_push tuned_push async_push alone_push
export READY="${ready[*]}"
SYSTEM=$(sql 'SELECT system_identifier FROM pg_control_system()')
export SYSTEM
as mkdir "$W/alone"
for name in "${ready[@]}"; do as cp "$W/data/pg_wal/$name" "$W/alone/"; done
contenders=(backstay alone tuned async)
for round in $(seq "$runs"); do
    for turn in 0 1 2 3; do
        who=${contenders[$(((turn + round) % 4))]}
        rm -rf -- "$W/spool" "$W"/backstay-repository/bench/sources/pg/wal "$W/data/pg_wal/.backstay"
        find "$W/pgbackrest-tuned/archive" "$W/pgbackrest-async/archive" -name '0*' -type d -prune -exec rm -rf {} + 2>/dev/null || true
        measure "push-$who" bash -c "${who}_push"
    done
    say "round $round: $(for who in "${contenders[@]}"; do printf '%s %s s  ' "$who" "$(grep . "times/push-$who" | tail -n 1)"; done)"
done

head_line "Result: the fastest of $runs rounds"
failed=''
ratio() { awk -v a="$(best "$1")" -v b="$(best "$2")" 'BEGIN { printf "%.2f", a / b }'; }
hold() { # hold WHAT MEASURED BASE LIMIT
    local r verdict=kept
    r=$(ratio "$2" "$3")
    awk -v r="$r" -v limit="$4" 'BEGIN { exit !(r > limit) }' && verdict=MISSED && failed=1
    printf '%-52s %8s s %8s s   %5s  (hold %s: %s)\n' "$1" "$(best "$2")" "$(best "$3")" "$r" "$4" "$verdict"
}
hold 'base backup, against pgBackRest tuned' backup-backstay backup-tuned 1.0
hold 'base backup, against pg_basebackup | zstd' backup-backstay backup-pipe 1.25
hold 'restore, against pgBackRest tuned' restore-backstay restore-tuned 0.9
hold 'WAL push alone, against pgBackRest synchronous' push-alone push-tuned 0.8
hold 'WAL push sustained, against pgBackRest asynchronous' push-backstay push-async 0.667
printf '%-52s %8s s %8s s   %5s\n' 'base backup, against pgBackRest as it comes' "$(best backup-backstay)" "$(best backup-default)" "$(ratio backup-backstay backup-default)"
peak=$(sort -n memory/*-backstay memory/push-alone | tail -n 1)
printf '%-52s %8s MiB  (hold 128)\n' 'peak memory of Backstay' $((peak / 1024))
[ "$peak" -le $((128 * 1024)) ] || failed=1
[ -z "$failed" ] || exit 1
