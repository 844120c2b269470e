#!/usr/bin/env bash
# Checks docker-compose.test.yml without Docker: syntax, names, pinned images, loopback ports, and
# that what the tests read from the environment is what scripts/test-compose.sh sets.
#
#   scripts/check-compose.sh [FILE]
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname -- "$0")/lib.sh"
cd -- "$ROOT"
file=${1:-docker-compose.test.yml}
has python3 || die "python3 is missing" "scripts/install-deps.sh test installs it"

# Debian's Python has PyYAML where another one on the PATH may not.
python=python3
python3 -c 'import yaml' 2>/dev/null || { [ -x /usr/bin/python3 ] && python=/usr/bin/python3; }
"$python" - "$file" <<'END'
import re
import sys

text = open(sys.argv[1], encoding="utf-8").read()
trouble = []
services = {}

try:
    import yaml
except ImportError:
    yaml = None

if yaml:
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        sys.exit(f"{sys.argv[1]}: {error}")
    unknown = set(document) - {"name", "services", "volumes", "networks"}
    if unknown:
        trouble.append(f"unknown top-level keys: {', '.join(sorted(unknown))}")
    if document.get("name") != "backstay-test":
        trouble.append("`name` is not backstay-test: another project's containers could be removed")
    services = document.get("services") or {}
else:
    # Without a YAML parser: the block style this file keeps to, two spaces a level.
    top = service = key = None
    for number, line in enumerate(text.splitlines(), 1):
        if "\t" in line:
            trouble.append(f"line {number}: a tab")
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        indent = len(line) - len(line.lstrip(" "))
        word = line.strip()
        if indent == 0:
            top, service, key = word.split(":")[0], None, None
        elif indent == 2 and top == "services":
            if not re.fullmatch(r"[^\s:]+:", word):
                trouble.append(f"line {number}: not a service: {word}")
            service, key = word.rstrip(":"), None
            services[service] = {}
        elif indent == 4 and service:
            key, _, value = word.partition(":")
            value = value.strip()
            services[service][key] = value if value and value[0] not in "&*" else [] if key == "ports" else {"test": "?"}
        elif service and key == "ports" and word.startswith("- "):
            services[service]["ports"].append(word[2:].strip().strip("\"'"))

if not services:
    trouble.append("no services")
known = {"image", "command", "entrypoint", "environment", "ports", "tmpfs", "healthcheck", "depends_on", "volumes"}
ports = []
for name, service in services.items():
    where = f"service {name}"
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        trouble.append(f"{where}: names are lower-case letters, digits and hyphens")
    for key in sorted(set(service) - known):
        trouble.append(f"{where}: unexpected key `{key}`")
    image = service.get("image", "")
    tag = re.fullmatch(r"[a-z0-9./-]+:([A-Za-z0-9][A-Za-z0-9._-]*)(@sha256:[0-9a-f]{64})?", image)
    if not tag:
        trouble.append(f"{where}: image `{image}` has no tag")
    elif not re.search(r"\d+[.-]\d+", tag[1]):
        trouble.append(f"{where}: image `{image}` is not pinned to a release")
    for port in service.get("ports", []):
        default = re.sub(r"\$\{[A-Z0-9_]+:-(\d+)\}", r"\1", str(port))
        if not re.fullmatch(r"127\.0\.0\.1:\d+:\d+", default):
            trouble.append(f"{where}: port `{port}` does not listen on 127.0.0.1 alone")
        ports.append(default.rpartition(":")[0])
    if service.get("ports") and "test" not in (service.get("healthcheck") or {}):
        trouble.append(f"{where}: listens, and has no healthcheck to wait for")
    depends = service.get("depends_on") or {}
    if yaml:
        for other in depends:
            if other not in services:
                trouble.append(f"{where}: depends on `{other}`, which is not there")
for port in sorted({port for port in ports if ports.count(port) > 1}):
    trouble.append(f"{port} is used twice")

for line in trouble:
    print(f"{sys.argv[1]}: {line}", file=sys.stderr)
if trouble:
    sys.exit(1)
how = "" if yaml else " (no PyYAML: structure only)"
print(f"{len(services)} services: pinned, on loopback, with healthchecks{how}")
END

# Services that the script starts exist; variables that the tests read are set.
for service in minio buckets postgres-15 postgres-17; do
    grep -q "^  $service:\$" "$file" || die "$file has no service $service, which scripts/test-compose.sh starts"
done
while read -r port; do
    grep -qF "\${$port}" scripts/test-compose.sh || die "$file says \${$port}, scripts/test-compose.sh does not"
done < <(grep -o 'BACKSTAY_TEST_[A-Z0-9_]*_PORT:-[0-9]*' "$file" | sort -u)
while read -r variable; do
    grep -qE "^export $variable=" scripts/test-compose.sh ||
        die "the tests read $variable, which scripts/test-compose.sh does not set"
done < <(grep -rhoE 'BACKSTAY_TEST_(S3|POSTGRES)_[A-Z0-9_]+' tests | sort -u || true)
# And the other way round: servers that no test is told of prove nothing.
for variable in BACKSTAY_TEST_S3_ENDPOINT BACKSTAY_TEST_S3_BUCKET; do
    grep -rqw "$variable" tests || die "no test reads $variable: make test-compose would not use the S3 server"
done
if docker compose version >/dev/null 2>&1; then
    docker compose -f "$file" config --quiet </dev/null
fi
