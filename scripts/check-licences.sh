#!/usr/bin/env bash
# Holds the dependencies to deny.toml (licences, bans, sources) with cargo metadata and Python alone.
# Where cargo-deny is installed, it is run as well.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname -- "$0")/lib.sh"
cd -- "$ROOT"
need_cargo
has python3 || die "python3 is missing" "scripts/install-deps.sh test installs it"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# One graph per target that is shipped: crates for other systems only are nobody's concern here.
while read -r target; do
    cargo metadata --locked --format-version 1 --filter-platform "$target" >"$work/$target.json"
done < <(sed -n '/^targets = \[/,/^\]/s/^ *"\(.*\)",$/\1/p' deny.toml)

python3 - deny.toml "$work"/*.json <<'END'
import json
import re
import sys

try:
    import tomllib
except ImportError:
    sys.exit("check-licences.sh: error: Python 3.11 or newer is needed to read deny.toml")

rules = tomllib.load(open(sys.argv[1], "rb"))
allowed = set(rules["licenses"]["allow"])
registries = {"registry+" + url for url in rules["sources"]["allow-registry"]}
banned = {ban["name"]: ban for ban in rules["bans"]["deny"]}
trouble, seen, used = set(), {}, {}


def holds(expression):
    """Whether the allowed licences satisfy an SPDX expression. Cargo's old `/` means OR."""
    tokens = re.findall(r"[()]|[^\s()]+", expression.replace("/", " OR "))
    at = 0

    def term():
        nonlocal at
        if at < len(tokens) and tokens[at] == "(":
            at += 1
            value = any_of()
            if at >= len(tokens) or tokens[at] != ")":
                raise ValueError(expression)
            at += 1
            return value
        if at >= len(tokens) or tokens[at] in (")", "AND", "OR", "WITH"):
            raise ValueError(expression)
        name = tokens[at]
        at += 1
        if at < len(tokens) and tokens[at] == "WITH":
            name += " WITH " + tokens[at + 1]
            at += 2
        if name in allowed:
            used[name] = used.get(name, 0) + 1
        return name in allowed

    def all_of():
        nonlocal at
        value = term()
        while at < len(tokens) and tokens[at] == "AND":
            at += 1
            value = term() and value
        return value

    def any_of():
        nonlocal at
        value = all_of()
        while at < len(tokens) and tokens[at] == "OR":
            at += 1
            value = all_of() or value
        return value

    value = any_of()
    if at != len(tokens):
        raise ValueError(expression)
    return value


# The evaluator itself, before anything is trusted to it.
for text, want in {
    "MIT": True,
    "GPL-3.0-only": False,
    "GPL-3.0-only OR MIT": True,
    "GPL-3.0-only AND MIT": False,
    "MIT/Apache-2.0": True,
    "(MIT OR GPL-3.0-only) AND ISC": True,
    "MIT AND (GPL-3.0-only OR AGPL-3.0-only)": False,
    "GPL-2.0-only WITH Classpath-exception-2.0": False,
}.items():
    assert holds(text) is want, text
used.clear()

for path in sys.argv[2:]:
    graph = json.load(open(path))
    packages = {package["id"]: package for package in graph["packages"]}
    parents = {}
    for node in graph["resolve"]["nodes"]:
        for child in node["deps"]:
            parents.setdefault(child["pkg"], set()).add(packages[node["id"]]["name"])
    for node in graph["resolve"]["nodes"]:
        package = packages[node["id"]]
        name = f"{package['name']} {package['version']}"
        if package["source"] is None:
            if package["id"] not in graph["workspace_members"]:
                trouble.add(f"{name}: comes from a path, not from a registry")
        elif package["source"] not in registries:
            trouble.add(f"{name}: comes from {package['source']}")
        ban = banned.get(package["name"])
        if ban and not parents.get(package["id"], {"?"}) <= set(ban.get("wrappers", [])):
            by = ", ".join(sorted(parents.get(package["id"], [])))
            trouble.add(f"{name}: banned ({ban['reason']}); needed by {by}")
        if name in seen:
            continue
        seen[name] = package["license"]
        if not package["license"]:
            trouble.add(f"{name}: names no licence")
            continue
        try:
            if not holds(package["license"]):
                trouble.add(f"{name}: licence `{package['license']}` is not allowed by deny.toml")
        except (ValueError, IndexError):
            trouble.add(f"{name}: cannot read the licence `{package['license']}`")

for line in sorted(trouble):
    print(line, file=sys.stderr)
if trouble:
    sys.exit(f"check-licences.sh: error: {len(trouble)} finding(s)")
print(f"{len(seen)} crates, {len(set(seen.values()))} licence expressions: all allowed; nothing banned")
END

if cargo deny --version >/dev/null 2>&1; then
    cargo deny --locked check licenses bans sources
fi
