#!/usr/bin/env bash
# Lints every shell script here, and the restore.sh that goes into every repository.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname -- "$0")/lib.sh"
cd -- "$ROOT"

embedded=src/store/embedded/restore.sh
has shellcheck || die "shellcheck is missing" "scripts/install-deps.sh test installs it"
shellcheck --external-sources scripts/*.sh .ci/run
# Whoever restores by hand may have no bash.
shellcheck --shell=sh "$embedded"
sh -n "$embedded"
for script in scripts/*.sh .ci/run; do
    case $script in scripts/lib.sh) continue ;; esac
    [ -x "$script" ] || die "$script is not executable" "chmod +x $script"
done
say "$(find scripts -name '*.sh' | wc -l) scripts, .ci/run and $embedded are clean"
