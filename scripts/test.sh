#!/usr/bin/env bash
# Everything that must hold before a change is merged (make test). Stops at the first failure.
#
# One build profile throughout (dev): the binary that the tests built runs the demo as well.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname -- "$0")/lib.sh"
cd -- "$ROOT"
need_cargo
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}
# Snapshots are compared, never accepted.
export INSTA_UPDATE=no

begun=$(now)
step() {
    head_line "$1"
    shift
    local from
    from=$(now)
    "$@"
    say "${DIM}$(since "$from") s$PLAIN"
}

documentation() { RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items --quiet; }

# Before the tests, and in a line of its own: the suite's closing lines are the ones that count.
examples() {
    local log status=0
    log=$(cargo test --locked --doc --quiet 2>&1) || status=$?
    if [ $status -ne 0 ]; then
        say "$log"
        return $status
    fi
    say "$(sed -n 's/^test result: ok\. \([0-9]*\) passed.*/\1/p' <<<"$log" | awk '{ n += $1 } END { print n + 0 }') examples"
}

tests() {
    if cargo nextest --version >/dev/null 2>&1; then
        cargo nextest run --locked --profile ci
    else
        say "cargo-nextest is not installed: running plain \`cargo test\`, which shows the same failures and"
        say "takes longer. (\`cargo install cargo-nextest --locked\` compiles for a quarter of an hour.)"
        cargo test --locked --lib --bins --tests
    fi
}

step "format" cargo fmt --all --check
step "shell scripts" scripts/check-shell.sh
step "compose file" scripts/check-compose.sh
step "lints" cargo clippy --locked --all-targets --quiet -- -D warnings
step "licences and bans" scripts/check-licences.sh
step "documentation" documentation
step "examples in the documentation" examples
step "tests" tests
# The binary that the suite was run with; building it without the tests would compile much of it again.
[ -x "$TARGET_DIR/debug/backstay" ] || die "the tests left no $TARGET_DIR/debug/backstay"
step "what the program says of itself" scripts/check-program.sh "$TARGET_DIR/debug/backstay"
step "nothing but libc" scripts/check-chroot.sh "$TARGET_DIR/debug/backstay"
step "demo" scripts/demo.sh --binary "$TARGET_DIR/debug/backstay" --brief

say
say "${GREEN}everything passed$PLAIN in $(since "$begun") s"
