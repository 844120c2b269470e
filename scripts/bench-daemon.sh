#!/usr/bin/env bash
# Measures what a daemon with a thousand sources and five thousand jobs takes while nothing is due.
#
#   scripts/bench-daemon.sh [--binary FILE]
#
#   BENCH_POLICIES=50   policies of 20 sources and 100 jobs each
#   BENCH_SECONDS=60    how long the idle daemon is watched
#
# Exit status: 0 every hold is kept, 1 one was missed or something failed.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname -- "$0")/lib.sh"

binary=''
while [ $# -gt 0 ]; do
    case $1 in
        --binary) binary=${2:?--binary needs a file} && shift ;;
        *) echo "usage: scripts/bench-daemon.sh [--binary FILE]" >&2 && exit 2 ;;
    esac
    shift
done
policies=${BENCH_POLICIES:-50} seconds=${BENCH_SECONDS:-60}
if [ -z "$binary" ]; then
    need_cargo
    head_line "Building the release binary"
    (cd -- "$ROOT" && cargo build --release --locked)
    binary=$TARGET_DIR/release/backstay
fi
unset BACKSTAY_POLICY BACKSTAY_IDENTITY BACKSTAY_FAILPOINT
W=$(mktemp -d "${TMPDIR:-/var/tmp}/backstay-bench.XXXXXX")
daemon=''
# shellcheck disable=SC2317  # called by the trap
finish() {
    [ -z "$daemon" ] || kill "$daemon" 2>/dev/null || true
    [ -z "$daemon" ] || wait "$daemon" 2>/dev/null || true
    rm -rf -- "$W"
}
trap finish EXIT
mkdir -- "$W/policies" "$W/src"
python3 - "$W" "$policies" <<'END'
import sys

place, count = sys.argv[1], int(sys.argv[2])
for p in range(count):
    text = f"version: 1\nstack: s{p}\nobjectives: {{ rto: 8h, rpo: 400d }}\ntimezone: Europe/Berlin\n"
    text += f"repositories:\n  main: {{ local: {{ path: {place}/repo }} }}\nsources:\n"
    for s in range(20):
        text += f"  src{s}: {{ directory: {{ path: {place}/src }} }}\n"
    text += "jobs:\n"
    for s in range(20):
        for k in range(5):
            # Once a year, so that nothing is due meanwhile.
            cron = f"{(s * 5 + k) % 60} {k} {1 + s} {1 + k} *"
            text += f"  job{s}-{k}: {{ sources: [src{s}], kind: full, schedule: {{ cron: \"{cron}\" }}, keep: {{ at_least: 2 }} }}\n"
    with open(f"{place}/policies/s{p}.yaml", "w") as file:
        file.write(text)
END
ticks() { awk '{ print $14 + $15 }' "/proc/$daemon/stat"; }
until_said() { # until_said TEXT: waits at most two minutes
    local turn
    for turn in $(seq 1200); do
        ! grep -q "$1" "$W/log" || return 0
        sleep 0.1
        [ $((turn % 10)) -ne 0 ] || kill -0 "$daemon" 2>/dev/null || break
    done
    cat "$W/log" >&2
    die "the daemon did not say \`$1\`"
}
say "$policies policies, $((policies * 20)) sources, $((policies * 100)) jobs"
"$binary" daemon --policy "$W/policies" --state-dir "$W/state" --listen 0 2>"$W/log" &
daemon=$!
until_said 'jobs watched'
# Until every job has its row, and each is looked at once.
last=-1
while [ "$(ticks)" -ne "$last" ]; do
    last=$(ticks)
    sleep 3
    [ $(($(ticks) - last)) -gt 30 ] || break
done
hertz=$(getconf CLK_TCK)
before=$(ticks)
sleep "$seconds"
idle=$(awk -v t=$(($(ticks) - before)) -v h="$hertz" -v s="$seconds" 'BEGIN { printf "%.2f", 100 * t / h / s }')
before=$(ticks)
sed -i 's/at_least: 2/at_least: 3/' "$W/policies/s7.yaml"
until_said 'the policies changed'
sleep 3
reload=$(awk -v t=$(($(ticks) - before)) -v h="$hertz" 'BEGIN { printf "%.2f", t / h }')
memory=$(awk '/VmHWM/ { print $2 }' "/proc/$daemon/status")
failed=''
hold() { # hold WHAT MEASURED LIMIT UNIT
    local verdict=kept
    awk -v m="$2" -v l="$3" 'BEGIN { exit !(m > l) }' && verdict=MISSED && failed=1
    printf '%-36s %8s %s  (hold %s: %s)\n' "$1" "$2" "$4" "$3" "$verdict"
}
hold 'processor time of a reload' "$reload" 2 s
hold 'a core, while nothing is due' "$idle" 2 '%'
hold 'peak memory' $((memory / 1024)) 256 MiB
[ -z "$failed" ]
