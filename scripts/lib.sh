# shellcheck shell=bash
# What the scripts beside this file share. Sourced, never run.

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
TARGET_DIR=${CARGO_TARGET_DIR:-$ROOT/target}
case $TARGET_DIR in /*) ;; *) TARGET_DIR=$ROOT/$TARGET_DIR ;; esac

# Colour only on a terminal, and never under NO_COLOR.
if [ -t 1 ] && [ -z "${NO_COLOR-}" ] && [ "${TERM-dumb}" != dumb ]; then
    BOLD=$'\033[1m' DIM=$'\033[2m' GREEN=$'\033[32m' RED=$'\033[31m' PLAIN=$'\033[0m'
else
    BOLD='' DIM='' GREEN='' RED='' PLAIN=''
fi
# shellcheck disable=SC2034  # used by the scripts that source this
readonly ROOT TARGET_DIR BOLD DIM GREEN RED PLAIN

say() { printf '%s\n' "$*"; }
head_line() { printf '\n%s== %s%s\n' "$BOLD" "$*" "$PLAIN"; }
die() {
    printf '%s: %serror:%s %s\n' "${0##*/}" "$RED" "$PLAIN" "$1" >&2
    shift
    [ $# -eq 0 ] || printf '  hint: %s\n' "$@" >&2
    exit 1
}
has() { command -v "$1" >/dev/null 2>&1; }

# human BYTES: 1.4 GiB, 12 KiB, 7 B.
human() {
    awk -v n="$1" 'BEGIN {
        split("B KiB MiB GiB TiB", unit, " "); i = 1
        while (n >= 1024 && i < 5) { n /= 1024; i++ }
        if (i == 1 || n >= 100) printf "%d %s", n, unit[i]; else printf "%.1f %s", n, unit[i]
    }'
}

# now: seconds with a fraction. Not EPOCHREALTIME: its decimal point follows the locale.
now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.2f", b - a }'; }

need_cargo() {
    # shellcheck disable=SC1091  # written by rustup, if at all
    has cargo || [ ! -r "$HOME/.cargo/env" ] || . "$HOME/.cargo/env"
    has cargo || die "cargo is missing" "install Rust from https://rustup.rs, or your distribution's rustup"
}
