#!/usr/bin/env bash
# Prints the path of Azurite's blob server, which tests start. Installs it from npm the first time, into
# the target directory: nothing of the system is changed, and `cargo clean` removes it.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname -- "$0")/lib.sh"

lock=$ROOT/scripts/azurite
has npm || die "npm is missing" "scripts/install-deps.sh test installs it"
# Another list or another Node is another installation.
key=$({ cat "$lock/package.json" "$lock/package-lock.json" && node --version; } | cksum | cut -d' ' -f1)
place=$TARGET_DIR/test-tools/azurite-$key
server=$place/node_modules/.bin/azurite-blob

mkdir -p -- "$TARGET_DIR/test-tools"
# Tests run side by side, and one of them installs.
exec 9>"$place.lock"
flock 9
if [ ! -e "$place/complete" ]; then
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    rm -rf -- "$place"
    mkdir -p -- "$place"
    cp -- "$lock/package.json" "$lock/package-lock.json" "$place"
    (cd -- "$place" && npm ci --no-audit --no-fund --ignore-scripts --loglevel=error) >"$log" 2>&1 || {
        tail -n 20 "$log" >&2
        die "Azurite could not be installed" "the npm registry must be reachable, or npm's \`registry\` name a mirror"
    }
    touch -- "$place/complete"
fi
printf '%s\n' "$server"
