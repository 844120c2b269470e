#!/usr/bin/env bash
# Runs the release binary in a directory that holds nothing but it and libc: init, backup, list,
# verify and restore must work there. Shows that no OpenSSL, no time-zone data, no shell and no
# certificate store is needed.
set -euo pipefail

binary=${1:-${CARGO_TARGET_DIR:-target}/release/backstay}
[ -x "$binary" ] || { echo "check-chroot: $binary is not built (make build)" >&2; exit 1; }
if [ "$(id -u)" = 0 ]; then
    enter=(chroot)
elif unshare -r true 2>/dev/null; then
    enter=(unshare -r chroot)
else
    echo "check-chroot: needs root or user namespaces" >&2
    exit 1
fi

jail=$(mktemp -d)
trap 'rm -rf "$jail"' EXIT
mkdir -p "$jail"/{bin,tmp,data/dir}
cp "$binary" "$jail/bin/backstay"

# The libraries it asks for. Anything but libc's own parts is a finding.
while read -r library; do
    case $(basename "$library") in
    libc.so.*|libm.so.*|libpthread.so.*|libdl.so.*|ld-linux*) ;;
    *) echo "check-chroot: the binary needs $library" >&2; exit 1 ;;
    esac
    mkdir -p "$jail$(dirname "$library")"
    cp -L "$library" "$jail$library"
done < <(ldd "$binary" | grep -oE '/[^ ]+')

echo "some content" > "$jail/data/dir/file"
run() { "${enter[@]}" "$jail" /bin/backstay "$@"; }
public=$(run key generate --out /recovery.key --quiet)
run key generate --out /writer.key --quiet > /dev/null
cat > "$jail/policy.yaml" <<POLICY
version: 1
stack: jail
tier: development
timezone: Asia/Shanghai
repositories:
  main:
    local: { path: /repo }
    encryption: { recipients: [$public], writer_identity: "\${file:/writer.key}" }
sources:
  files: { directory: { path: /data } }
jobs:
  daily: { sources: all, kind: incremental, schedule: { cron: "0 3 * * *" }, keep: { for: 7d, at_least: 3 } }
POLICY
export BACKSTAY_POLICY=/policy.yaml
run --quiet init
run --quiet backup > /dev/null
run --quiet backup > /dev/null
run --quiet verify --depth content --identity /recovery.key > /dev/null
run --quiet restore jail/files --to /out --identity /recovery.key
cmp "$jail/data/dir/file" "$jail/out/dir/file"
echo "check-chroot: init, backup, verify and restore work with nothing but libc"
