#!/usr/bin/env bash
# Documents that are printed by the program: written again, or checked for drift.
#
#   scripts/generated.sh --write [BINARY]      overwrite them
#   scripts/generated.sh --check [BINARY]      fail if one differs from what the program prints
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname -- "$0")/lib.sh"
cd -- "$ROOT"

mode=${1-}
binary=${2-}
case $mode in --write | --check) ;; *) echo "usage: scripts/generated.sh --write|--check [BINARY]" >&2 && exit 2 ;; esac
if [ -z "$binary" ]; then
    need_cargo
    cargo build --locked --quiet
    binary=$TARGET_DIR/debug/backstay
fi

# FILE and the arguments that print it.
list() {
    printf '%s\t%s\n' docs/policy.schema.json "schema"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
stale=0 count=0
while IFS=$'\t' read -r file arguments; do
    # shellcheck disable=SC2086  # a list of words
    NO_COLOR=1 "$binary" $arguments >"$work/new" </dev/null || die "backstay $arguments failed"
    count=$((count + 1))
    if [ "$mode" = --write ]; then
        mkdir -p -- "$(dirname -- "$file")"
        cmp -s "$work/new" "$file" || { cat "$work/new" >"$file" && say "wrote $file"; }
    elif [ ! -e "$file" ]; then
        say "$file is missing (backstay $arguments prints it)"
        stale=1
    elif ! diff -u --label "$file" --label "backstay $arguments" "$file" "$work/new" | head -n 40; then
        stale=1
    fi
done < <(list)

# Every command has a page and completions; what they say is checked by the tests.
"$binary" man --out "$work/man" >/dev/null 2>&1 || die "backstay man --out DIR failed"
pages=$(find "$work/man" -type f | wc -l)
for shell in bash zsh fish; do
    "$binary" completions "$shell" >"$work/completions.$shell" </dev/null || die "backstay completions $shell failed"
    [ -s "$work/completions.$shell" ] || die "backstay completions $shell printed nothing"
done
bash -n "$work/completions.bash" || die "the completions for bash are not valid bash"

# What the program says of itself is what the package says.
version=$(sed -n '/^\[package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
[ "$("$binary" --version)" = "backstay $version" ] || die "backstay --version is not the version in Cargo.toml ($version)"
grep -q '^## \[Unreleased\]' CHANGELOG.md || die "CHANGELOG.md has no section [Unreleased]"

if [ $stale -ne 0 ]; then
    die "generated documents are out of date" "run \`make docs\` and commit the result"
fi
say "$count generated document(s) current, $pages manual pages, completions for 3 shells"
