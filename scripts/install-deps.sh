#!/usr/bin/env bash
# Installs what is missing for one purpose, and nothing that is there already.
#
#   scripts/install-deps.sh build|test|demo|bench
#
# Looks for programs, not for packages: on any system that has them, nothing is installed. Where
# something is missing, apt (Debian, Ubuntu) is asked once; other systems get the list to install.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname -- "$0")/lib.sh"

# PROGRAM:PACKAGE
build="cc:build-essential make:make git:git"
tools="age:age zstd:zstd tar:tar curl:curl python3:python3 getfattr:attr setfattr:attr setfacl:acl"
case ${1-} in
    build) want=$build ;;
    test) want="$build $tools shellcheck:shellcheck sqlite3:sqlite3 promtool:prometheus /usr/sbin/mariadbd:mariadb-server-core mariadb-dump:mariadb-client haproxy:haproxy redis-server:redis-server knotd:knot ssh:openssh-client /usr/sbin/sshd:openssh-server ip:iproute2 chromium:chromium node:nodejs npm:npm" ;;
    demo) want="$build $tools sqlite3:sqlite3" ;;
    bench) want="$build $tools restic:restic borg:borgbackup /usr/bin/time:time pgbackrest:pgbackrest" ;;
    *)
        echo "usage: scripts/install-deps.sh build|test|demo|bench" >&2
        exit 2
        ;;
esac

packages=()
for pair in $want; do
    has "${pair%%:*}" || packages+=("${pair##*:}")
done
# Debian keeps half of the `venv` module in a package of its own, without a program to look for.
case $1 in test) python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3-venv) ;; esac
# Debian calls the program by another name than its makers.
case $1 in test) has prometheus-alertmanager || has alertmanager || packages+=(prometheus-alertmanager) ;; esac
# Downloads over TLS need certificates; a program to look for there is not.
[ -d /etc/ssl/certs ] && [ -n "$(ls -A /etc/ssl/certs)" ] || [ -d /etc/pki ] || packages+=(ca-certificates)
# The servers that tests start come last: fetching them needs some of these programs.
all=()
[ "$1" != test ] || all=(--all)
servers() { case $1 in test | demo) "$ROOT/scripts/get-postgres.sh" "${all[@]}" ;; esac; }
if [ "$1" = test ] || [ "$1" = demo ] && ! "$ROOT/scripts/get-postgres.sh" "${all[@]}" --check; then
    # Python may be here without pip, which fetches them.
    python3 -m pip --version >/dev/null 2>&1 || packages+=(python3-pip)
fi
if [ ${#packages[@]} -eq 0 ]; then
    servers "$1"
    exit
fi
mapfile -t packages < <(printf '%s\n' "${packages[@]}" | sort -u)

has apt-get || die "missing: ${packages[*]}" \
    "apt-get is not here: install what provides them on this system, then run this again"
if [ "$(id -u)" -eq 0 ]; then
    root=()
elif has sudo && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
    root=(sudo)
else
    die "missing: ${packages[*]}" \
        "as root: apt-get update && apt-get install -y ${packages[*]}"
fi

echo "installing ${packages[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() {
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o Dpkg::Lock::Timeout=300 "$@" </dev/null
}
{ apt update && apt install -y --no-install-recommends "${packages[@]}"; } >"$log" 2>&1 || {
    tail -n 20 "$log" >&2
    die "apt-get could not install ${packages[*]}" "its last lines are above"
}
servers "$1"
