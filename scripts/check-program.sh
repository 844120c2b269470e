#!/usr/bin/env bash
# What the program prints of itself, checked with the programs that read it: manual pages, completions,
# version, schema. The generated pages in docs/ are compared with the code by tests/docs.rs.
#
#   scripts/check-program.sh [BINARY]
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname -- "$0")/lib.sh"
cd -- "$ROOT"
binary=${1:-$TARGET_DIR/debug/backstay}
[ -x "$binary" ] || die "$binary is not built" "make build"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$binary" man --out "$work/man" >"$work/log" 2>&1 </dev/null || die "backstay man --out DIR failed: $(cat "$work/log")"
pages=$(find "$work/man" -type f -size +0 | wc -l)
commands=$("$binary" --help </dev/null | sed -n '/^Commands:/,/^$/s/^  \([a-z-]*\) .*/\1/p')
for command in $commands; do
    [ -s "$work/man/backstay-$command.1" ] || die "backstay man --out DIR wrote no page for $command"
done
for shell in bash zsh fish; do
    "$binary" completions "$shell" >"$work/completions.$shell" </dev/null || die "backstay completions $shell failed"
    for command in $commands; do
        grep -q -- "$command" "$work/completions.$shell" || die "the completions for $shell lack $command"
    done
done
bash -n "$work/completions.bash" || die "the completions for bash are not valid bash"
"$binary" schema </dev/null | python3 -m json.tool >/dev/null || die "backstay schema did not print JSON"

version=$(sed -n '/^\[package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
[ "$("$binary" --version)" = "backstay $version" ] || die "backstay --version is not the version in Cargo.toml ($version)"
grep -q '^## \[Unreleased\]' CHANGELOG.md || die "CHANGELOG.md has no section [Unreleased]"
say "$(wc -w <<<"$commands") commands, $pages manual pages, completions for 3 shells, version $version"
