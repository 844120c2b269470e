#!/usr/bin/env bash
# Prints the path of moto's S3 server, which tests start. Installs it from PyPI the first time, into
# the target directory: nothing of the system is changed, and `cargo clean` removes it.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname -- "$0")/lib.sh"

list=$ROOT/scripts/moto.txt
has python3 || die "python3 is missing" "scripts/install-deps.sh test installs it"
# Another list or another Python is another installation.
key=$({ cat "$list" && python3 -c 'import sys; print(sys.version, sys.prefix)'; } | cksum | cut -d' ' -f1)
place=$TARGET_DIR/test-tools/moto-$key
server=$place/bin/moto_server

mkdir -p -- "$TARGET_DIR/test-tools"
# Tests run side by side, and one of them installs.
exec 9>"$place.lock"
flock 9
if [ ! -e "$place/complete" ]; then
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    rm -rf -- "$place"
    {
        python3 -m venv "$place" &&
            "$place/bin/python" -m pip install --disable-pip-version-check --no-input --quiet --requirement "$list"
    } >"$log" 2>&1 || {
        tail -n 20 "$log" >&2
        die "moto could not be installed" \
            "scripts/install-deps.sh test installs python3-venv; PyPI must be reachable, or PIP_INDEX_URL name a mirror"
    }
    touch -- "$place/complete"
fi
printf '%s\n' "$server"
