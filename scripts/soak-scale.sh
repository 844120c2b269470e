#!/usr/bin/env bash
# Backs up very many files and a very long stream, and compares the memory that took with that of less.
#
#   scripts/soak-scale.sh [--binary FILE]
#
#   SCALE_FILES=1000000        small files; the comparison has a tenth of them
#   SCALE_BYTES=107374182400   bytes of a generated stream; the comparison has a tenth of them
#
# Exit status: 0 memory stays where it is, 1 it does not, or something failed.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname -- "$0")/lib.sh"

binary=''
while [ $# -gt 0 ]; do
    case $1 in
        --binary) binary=${2:?--binary needs a file} && shift ;;
        *) echo "usage: scripts/soak-scale.sh [--binary FILE]" >&2 && exit 2 ;;
    esac
    shift
done
files=${SCALE_FILES:-1000000} bytes=${SCALE_BYTES:-107374182400}
# A tenth does not fill all buffers, so more may take half as much again; and what it may be at most.
most=$((128 << 10))
if [ -z "$binary" ]; then
    need_cargo
    head_line "Building the release binary"
    (cd -- "$ROOT" && cargo build --release --locked)
    binary=$TARGET_DIR/release/backstay
fi
unset BACKSTAY_POLICY BACKSTAY_IDENTITY BACKSTAY_FAILPOINT
W=$(mktemp -d "${TMPDIR:-/var/tmp}/backstay-scale.XXXXXX")
trap 'rm -rf -- "$W"' EXIT
export BACKSTAY_STATE_DIR=$W/state

make_files() { # make_files DIRECTORY COUNT
    python3 - "$1" "$2" <<'END'
import os, sys

place, count = sys.argv[1], int(sys.argv[2])
for number in range(count):
    directory = f"{place}/{number // 100000:03}/{number // 1000 % 100:02}"
    if number % 1000 == 0:
        os.makedirs(directory, exist_ok=True)
    with open(f"{directory}/file-{number:09}.txt", "w") as file:
        file.write(f"content of file {number}\n" * (1 + number % 5))
END
}
policy() { # policy DIRECTORY FILES BYTES
    mkdir -p -- "$1"
    cat >"$1/policy.yaml" <<END
version: 1
stack: scale
tier: development
repositories: { main: { local: { path: $1/repo } } }
sources:
  files: { directory: { path: $2 } }
  stream: { command: { shell: "yes 'a line of a stream that somebody generates, and that has no end' | head -c $3 || [ \$? = 141 ]" } }
jobs:
  daily: { sources: all, kind: incremental, schedule: { cron: "0 3 * * *" }, keep: { for: 7d, at_least: 1 } }
END
}
measured() { # measured NAME COMMAND..: seconds and peak KiB into $seconds and $memory
    local name=$1
    shift
    /usr/bin/time -f '%e %M' -o "$W/time" "$@" >"$W/out" 2>"$W/err" || {
        tail -n 5 "$W/err" >&2
        die "$name failed"
    }
    read -r seconds memory <"$W/time"
    say "$(printf '%-44s %9s s %9s' "$name" "$seconds" "$(human $((memory << 10)))")"
}
missed=0
hold() { # hold NAME SMALL LARGE
    if [ "$3" -gt $(($2 * 3 / 2)) ] || [ "$3" -gt "$most" ]; then
        say "${RED}missed${PLAIN}: $1 takes $(human $(($3 << 10))), and $(human $(($2 << 10))) for a tenth"
        missed=1
    fi
}

[ -x /usr/bin/time ] || die "/usr/bin/time is missing" "scripts/install-deps.sh bench installs it"
head_line "Making $files files, and a tenth of them"
make_files "$W/few" $((files / 10))
make_files "$W/many" "$files"
policy "$W/small" "$W/few" $((bytes / 10))
policy "$W/large" "$W/many" "$bytes"
head_line "What it takes: time and peak memory"
declare -A took
for size in small large; do
    export BACKSTAY_POLICY=$W/$size/policy.yaml
    "$binary" --quiet init
    for step in "backup files" "backup files again" "backup stream" "verify" "restore files"; do
        case $step in
            "backup files" | "backup files again") line="backup scale/files" ;;
            "backup stream") line="backup scale/stream" ;;
            verify) line="verify --depth content" ;;
            "restore files") line="restore scale/files --to $W/$size/out" ;;
        esac
        # shellcheck disable=SC2086  # words of a command line
        measured "$size: $step" "$binary" --quiet $line
        took[$size/$step]=$memory
    done
    rm -rf -- "$W/$size/out" "$W/$size/repo"
done
for step in "backup files" "backup files again" "backup stream" verify "restore files"; do
    hold "$step" "${took[small/$step]}" "${took[large/$step]}"
done
[ "$missed" = 0 ] || exit 1
say "${GREEN}memory stays where it is${PLAIN} for ten times the files and ten times the bytes"
