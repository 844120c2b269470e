#!/usr/bin/env bash
# Backs up real files, changes them, destroys them, brings them back, and shows what that proved.
#
#   scripts/demo.sh [--binary FILE] [--brief] [--keep]
#
#   --binary FILE   use this program, and build nothing
#   --brief         no transcript, only what was proved
#   --keep          leave the working directory, and say where it is
#
# Works on copies in a directory of its own (under TMPDIR, default /var/tmp), which is removed in the
# end. As root it also proves owners, a bare chroot and the restore by an unprivileged user.
# Exit status: 0 everything was proved, 1 something was not.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname -- "$0")/lib.sh"

binary='' brief='' keep=''
while [ $# -gt 0 ]; do
    case $1 in
        --binary) binary=${2:?--binary needs a file} && shift ;;
        --brief) brief=1 ;;
        --keep) keep=1 ;;
        *) echo "usage: scripts/demo.sh [--binary FILE] [--brief] [--keep]" >&2 && exit 2 ;;
    esac
    shift
done
for tool in age zstd tar python3 sqlite3 setfattr; do
    has "$tool" || die "$tool is missing" "scripts/install-deps.sh demo installs what the demo needs"
done

# --- the program -------------------------------------------------------------------------------------

if [ -z "$binary" ]; then
    need_cargo
    head_line "Building the release binary"
    (cd -- "$ROOT" && cargo build --release --locked)
    binary=$TARGET_DIR/release/backstay
fi
[ -x "$binary" ] || die "$binary is not a program"
binary=$(cd -- "$(dirname -- "$binary")" && pwd -P)/${binary##*/}

unset BACKSTAY_POLICY BACKSTAY_IDENTITY BACKSTAY_FAILPOINT
export LC_ALL=C.UTF-8 TZ=UTC
umask 022
begun=$(now)
W=$(mktemp -d "${TMPDIR:-/var/tmp}/backstay-demo.XXXXXX")
W=$(cd -- "$W" && pwd -P)
export BACKSTAY_STATE_DIR=$W/state
# Others may pass through to what is handed to the unprivileged user below, and see nothing else.
chmod 0711 "$W"
finish() {
    stop_server immediate
    if [ -n "$keep" ]; then
        echo "everything is in $W"
    else
        chmod -R u+rwX "$W" 2>/dev/null || true
        rm -rf -- "$W"
    fi
}
trap finish EXIT
trap 'exit 130' INT TERM
cd -- "$W"
mkdir -m 0700 keys live restored facts logs hand bin
ln -s "$binary" bin/backstay
root=''
[ "$(id -u)" -ne 0 ] || root=1

program=(bin/backstay)
# shellcheck source=scripts/demo-postgres.sh
. "$ROOT/scripts/demo-postgres.sh"
# shellcheck source=scripts/demo-drill.sh
. "$ROOT/scripts/demo-drill.sh"

# --- small helpers in Python: an independent look at a tree, and the odd files -----------------------

cat >facts/tool.py <<'END'
import hashlib, json, os, re, stat, sys

sys.stdout.reconfigure(errors="surrogateescape", newline="\n")


def escaped(name):
    return "".join(chr(c) if 33 <= c < 127 and c != 92 else f"\\x{c:02x}" for c in name)


def walk(root):
    yield b".", os.lstat(root)
    stack = [b""]
    while stack:
        at = stack.pop()
        with os.scandir(os.path.join(root, at) if at else root) as entries:
            for entry in entries:
                path = os.path.join(at, entry.name)
                info = entry.stat(follow_symlinks=False)
                yield path, info
                if stat.S_ISDIR(info.st_mode):
                    stack.append(path)


def fingerprint(root):
    """One line an entry: path, type and size, mode, mtime, content, links, xattrs | owner, the rest."""
    root = os.fsencode(root)
    rows, groups = [], {}
    for path, info in walk(root):
        full = os.path.join(root, path)
        kind, size, content, link = stat.filemode(info.st_mode)[0], 0, "-", "-"
        if kind == "-":
            size = info.st_size
            with open(full, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            if info.st_nlink > 1:
                groups.setdefault((info.st_dev, info.st_ino), []).append(path)
                link = (info.st_dev, info.st_ino)
        elif kind == "l":
            content = escaped(os.readlink(full))
        common, privileged = [], []
        for name in sorted(os.listxattr(full, follow_symlinks=False)):
            value = os.getxattr(full, name, follow_symlinks=False).hex()
            ours = name.startswith("user.") or name.startswith("system.posix_acl")
            (common if ours else privileged).append(f"{name}={value}")
        mode = oct(stat.S_IMODE(info.st_mode)) if kind != "l" else "-"
        rows.append((path, [kind, str(size), mode, str(info.st_mtime_ns), content], link,
                     ",".join(common) or "-", f"{info.st_uid}:{info.st_gid}", ",".join(privileged) or "-"))
    for path, fields, link, common, owner, privileged in sorted(rows):
        group = escaped(min(groups[link])) if link in groups else "-"
        print("\t".join([escaped(path), *fields, group, common, owner, privileged]))


def put(root, name, data, mode=0o644, when=None):
    full = os.path.join(os.fsencode(root), name)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    with open(full, "wb") as file:
        file.write(data)
    os.chmod(full, mode)
    if when is not None:
        os.utime(full, ns=(when, when))
    return full


def odd(root, marker, outside):
    """Everything a file system allows and a backup likes to trip over."""
    old = 1_600_000_000_123_456_789
    at = os.path.join(root, "odd")
    for name in ["empty", "-rf", "a b", " leading and trailing ", "*?[x]", "semi;colon$(x)`y`", "back\\slash",
                 "quote'\"", "línea-ünï", "Привет", "备份与恢复.txt", "🦀.rs", "e\u0301-decomposed", "tab\there",
                 "new\nline", "#comment", "~tilde", "%41percent", "x" * 255]:
        put(at, name.encode(), b"" if name == "empty" else name.encode() * 3, when=old + len(name))
    put(at, b"latin1-\xe9\xff-not-utf8", b"not UTF-8", when=old)
    put(at, b"marker.txt", marker.encode() * 50, when=old)
    put(at, b"modes/read-only", b"0400", 0o400, old)
    put(at, b"modes/setuid", b"#!/bin/sh\n", 0o4755, old)
    put(at, b"modes/setgid", b"#!/bin/sh\n", 0o2755, old)
    put(at, b"modes/nobody-may", b"0600", 0o600, old)
    put(at, b"times/before-1970", b"1960", when=-300_000_000_987_654_321)
    put(at, b"times/far-future", b"2100", when=4_102_444_800_000_000_001)
    put(at, b"times/one-ns", b"ns", when=1_000_000_001)
    deep = b"/".join([b"deep"] + [b"d%02d-%s" % (n, b"y" * 95) for n in range(25)])
    put(at, deep + b"/bottom", b"more than 2,500 bytes of path", when=old)
    os.makedirs(os.path.join(at, "dirs/empty"))
    os.makedirs(os.path.join(at, "dirs/sticky"))
    os.chmod(os.path.join(at, "dirs/sticky"), 0o1777)
    os.makedirs(os.path.join(at, "dirs/setgid"))
    os.chmod(os.path.join(at, "dirs/setgid"), 0o2750)
    put(at, b"dirs/closed/inside", b"in a directory nobody may write", when=old)
    os.chmod(os.path.join(at, "dirs/closed"), 0o555)
    links = os.path.join(at, "links")
    os.makedirs(links)
    for name, target in [("relative", "../marker.txt"), ("absolute", "/etc/hostname"), ("dangling", "nowhere/at/all"),
                         ("to-dir", "../dirs"), ("loop", "loop"), ("out", outside), ("long", "z/" * 800 + "end"),
                         ("not-utf8", b"\xff\xfe")]:
        os.symlink(os.fsencode(target), os.path.join(os.fsencode(links), name.encode()))
    first = put(at, b"hard/one", os.urandom(300_000), when=old)
    os.makedirs(os.path.join(at, "hard/elsewhere"))
    os.link(first, os.path.join(os.fsencode(at), b"hard/two"))
    os.link(first, os.path.join(os.fsencode(at), b"hard/elsewhere/three"))
    with open(put(at, b"sparse", b""), "r+b") as file:
        file.truncate(256 << 20)
        for where in (0, 77 << 20, (256 << 20) - 4096):
            file.seek(where)
            file.write(os.urandom(4096))
    os.utime(os.path.join(at, "sparse"), ns=(old, old))
    full = put(at, b"attributes/user", b"with attributes", when=old)
    try:
        os.setxattr(full, "user.backstay.demo", "värde\n".encode())
        os.setxattr(full, "user.binary", bytes(range(256)))
        os.setxattr(os.path.dirname(full), "user.on-a-directory", b"yes")
        print("xattrs")
    except OSError:
        pass
    if os.getuid() == 0:
        os.chown(put(at, b"owners/other", b"somebody else's", 0o640, old), 12345, 54321)
        os.chown(put(at, b"owners/setuid", b"#!/bin/sh\n", when=old), 1, 1)
        os.chmod(os.path.join(at, "owners/setuid"), 0o6755)


def regular(root):
    return [p for p, i in sorted(walk(os.fsencode(root))) if stat.S_ISREG(i.st_mode) and i.st_nlink == 1
            and p.startswith(b"real/")]


def change(root, which):
    """Edits, deletes, renames and adds. Says how many of each."""
    base = os.fsencode(root)
    full = lambda p: os.path.join(base, p)
    files = regular(root)
    done = dict(edited=0, deleted=0, renamed=0, added=0, other=0)
    for n, path in enumerate(files):
        if n % 97 == which:
            with open(full(path), "ab") as file:
                file.write(b"\nappended %d\n" % which)
            done["edited"] += 1
        elif n % 151 == which:
            os.remove(full(path))
            done["deleted"] += 1
        elif n % 211 == which:
            os.rename(full(path), full(path + b".renamed-%d" % which))
            done["renamed"] += 1
        elif n % 307 == which:
            info = os.stat(full(path))
            if info.st_size > 0:
                # In place, same size, old time put back: only the ctime tells.
                with open(full(path), "r+b") as file:
                    byte = file.read(1)
                    file.seek(0)
                    file.write(bytes([byte[0] ^ 1]))
                os.utime(full(path), ns=(info.st_atime_ns, info.st_mtime_ns))
                done["edited"] += 1
        elif n % 401 == which:
            os.utime(full(path))
            os.chmod(full(path), 0o640)
            done["other"] += 1
    directories = sorted(p for p, i in walk(base) if stat.S_ISDIR(i.st_mode) and p.count(b"/") == 2
                         and p.startswith(b"real/"))
    if directories:
        os.rename(full(directories[which]), full(directories[which] + b" moved %d" % which))
        done["renamed"] += 1
    for n in range(40):
        put(root, b"new-%d/%d/file %d" % (which, n % 4, n), b"%d of %d\n" % (n, which) * (n * 50 + 1))
        done["added"] += 1
    links = full(b"odd/links")
    if which == 1:
        os.remove(full(b"odd/links/relative"))
        os.symlink("../elsewhere", full(b"odd/links/relative"))
        os.remove(full(b"odd/hard/two"))
        os.link(full(b"odd/hard/one"), full(b"odd/hard/four"))
        # A link becomes a directory: what is in it must never be restored to where the link led.
        for name in ("dangling", "out"):
            os.remove(full(b"odd/links/" + name.encode()))
            put(root, f"odd/links/{name}/backstay-demo-inside".encode(), b"not through the link")
        os.rmdir(full(b"odd/dirs/empty"))
        put(root, b"odd/dirs/empty", b"a file where a directory was")
        done["other"] += 6
    else:
        with open(full(b"odd/hard/one"), "ab") as file:
            file.write(b"through one of its names")
        with open(full(b"odd/sparse"), "r+b") as file:
            file.seek(120 << 20)
            file.write(b"no longer a hole")
        put(root, b"odd/\xe5\xa4\x87/\xff", b"new odd name")
        done["other"] += 3
    print(", ".join(f"{count} {what}" for what, count in done.items() if count))


def flip(path):
    with open(path, "r+b") as file:
        size = file.seek(0, 2)
        file.seek(size // 2)
        byte = file.read(1)
        file.seek(size // 2)
        file.write(bytes([byte[0] ^ 0x10]))
    print(f"byte {size // 2:,} of {size:,}")


def backups(path, source):
    """kind, entries, bytes, stored bytes of each backup of a source, oldest first."""
    for line in json.load(open(path)):
        if line["source"] == source:
            print(line["backup"], line["kind"], line["files"], line["bytes"], line["stored_bytes"])


def display(path):
    """How a name may be spelled in a report: as it is, or escaped."""
    plain = path.decode(errors="surrogateescape")
    quoted = "".join(chr(c) if c >= 128 else {10: "\\n", 9: "\\t", 13: "\\r", 92: "\\\\"}.get(c) or
                     (chr(c) if 32 <= c < 127 else f"\\x{c:02x}") for c in path)
    mixed = path.decode(errors="backslashreplace").replace("\n", "\\n").replace("\t", "\\t")
    return {plain, quoted, mixed, escaped(path), mixed.replace("\\", "\\\\")}


def damage(verified, restored, want, have):
    """Do verify, restore and the restored tree agree on what is lost? Says so, or what is wrong."""
    named, cost = set(), 0
    for report in json.load(open(verified)):
        for finding in report["findings"]:
            found = finding["costs"] or {"paths": [], "count": 0}
            cost += found["count"]
            named.update(found["paths"])
    failed = {finding["path"] for finding in json.load(open(restored))["tree"]["failed"]}
    want, have = ({line.split("\t")[0]: line for line in open(path)} for path in (want, have))
    unescape = lambda text: re.sub(rb"\\x([0-9a-f]{2})", lambda m: bytes([int(m[1], 16)]), text.encode())
    lost = {path for path, line in want.items() if have.get(path) != line}
    trouble = [f"nothing said of {path}" for path in lost if not display(unescape(path)) & failed]
    if len(lost) != len(failed):
        trouble.append(f"restore names {len(failed)} entries, {len(lost)} are lost")
    if len(named) == cost:
        trouble += [f"verify does not name {path}" for path in failed - named]
    else:
        print(f"verify names only {len(named)} of {cost}", file=sys.stderr)
    if not named or not lost:
        trouble.append("nothing is lost" if not lost else "verify names nothing")
    if trouble:
        sys.exit(f"{trouble[0]}" + (f" and {len(trouble) - 1} more" if len(trouble) > 1 else ""))
    print(cost, len(lost), len(want) - len(lost))


command, *rest = sys.argv[1:]
globals()[command](*(int(a) if a.isdigit() else a for a in rest))
END
tool() { python3 "$W/facts/tool.py" "$@"; }
fingerprint() { tool fingerprint "$1"; }

# --- showing and proving -----------------------------------------------------------------------------

facts=() failed=0
# proved WHAT EVIDENCE SECONDS / not_proved WHAT WHY
proved() {
    facts+=("ok"$'\t'"$1"$'\t'"$2"$'\t'"${3-}")
    [ -n "$brief" ] || say "  ${GREEN}proved:${PLAIN} $1 ($2)"
}
not_proved() {
    facts+=("FAILED"$'\t'"$1"$'\t'"see above"$'\t')
    failed=$((failed + 1))
    say "  ${RED}NOT PROVED:${PLAIN} $1: $2"
}
talk() { [ -n "$brief" ] || say "$@"; }
chapter() { [ -n "$brief" ] || head_line "$@"; }

# bs ARGS: runs the program, shows the command and what it printed. Its status is in RC, its time in
# SECS, its output in logs/out (data) and logs/all (both).
RC=0 SECS=0
bs() {
    local from shown=
    for word in "$@"; do
        case $word in *[!A-Za-z0-9_./:@%+=,-]*) shown+=" '$word'" ;; *) shown+=" $word" ;; esac
    done
    talk "  ${BOLD}\$ backstay$shown$PLAIN"
    from=$(now)
    RC=0
    "${program[@]}" --no-progress "$@" >logs/out 2>logs/err </dev/null || RC=$?
    SECS=$(since "$from")
    if [ "$RC" -eq 0 ]; then cat logs/err logs/out; else cat logs/out logs/err; fi >logs/all
    cat logs/all >>logs/everything
    if [ -z "$brief" ] && [ -z "${QUIET-}" ]; then
        awk -v most="${LINES_SHOWN:-20}" '{ line[NR] = $0 } END {
            for (n = 1; n <= NR; n++) {
                if (NR > most && n == most - 4) print "    ..."
                if (NR <= most || n < most - 4 || n > NR - 4) print "    " line[n]
            }
        }' logs/all | cut -c1-200
    fi
}
# must ARGS: like bs, and the demo cannot go on without it.
must() {
    bs "$@"
    [ "$RC" -eq 0 ] || {
        [ -z "$brief" ] || sed 's/^/    /' logs/all >&2
        die "\`backstay $*\` ended with exit status $RC"
    }
}
# same WANT HAVE [COLUMNS]: compares two fingerprints; the first differences go to logs/diff.
same() {
    local columns=${3:-1-}
    diff <(cut -f"$columns" "$1") <(cut -f"$columns" "$2") >logs/diff
}
difference() { grep -c '^[<>]' logs/diff | tr -d '\n' && printf ' lines differ, first: ' && sed -n '/^[<>]/{p;q}' logs/diff | cut -c1-160; }
entries() { wc -l <"$1" | tr -d ' '; }
size_of() { du -sb "$1" | cut -f1; }

# --- 1. real files -----------------------------------------------------------------------------------

chapter "Real files"
mkdir -p live/files/real
budget=$((${DEMO_MIB:-150} << 10))
while read -r tree; do
    [ -d "$tree" ] || continue
    kib=$(du -skx "$tree" 2>/dev/null | cut -f1) || true
    if [ "${kib:-0}" -eq 0 ] || [ "$kib" -gt "$budget" ]; then continue; fi
    budget=$((budget - kib))
    # Only what everyone may read: this copy does not spread secrets.
    find "$tree" -xdev \( -type d -perm -005 -o -type f -perm -004 -o -type l \) -print0 2>/dev/null |
        tar -c --null --no-recursion -T - -P -f - 2>/dev/null |
        tar -x -p -C live/files/real --transform 's,^/,,' -P -f - 2>/dev/null || true
done <<'END'
/etc
/usr/share/zoneinfo
/usr/share/perl
/usr/lib/git-core
/usr/lib/python3
/usr/lib/python3.11
/usr/share/i18n
/usr/share/doc
/usr/include
/usr/share/locale
/usr/lib/gcc
/usr/share/bash-completion
END
token="demo-token-$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')"
marker="marker-$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')"
mkdir -m 1777 outside
features=$(tool odd live/files "$marker" "$W/outside")
if has setfacl && setfacl -m u:1:r--,g:2:rwx live/files/odd/attributes/user 2>/dev/null &&
    setfacl -d -m u:1:rwx live/files/odd/attributes 2>/dev/null; then
    features="$features acls"
fi
[ "$(find live/files/real -type f | head -n 100 | wc -l)" -eq 100 ] || die "found no real files to copy"
# A database, dumped by a command.
find live/files/real -type f -printf '%s|%T@|%f\n' 2>/dev/null | LC_ALL=C tr -cd '[:print:]\n' | tr -d "\"'" >facts/rows
sqlite3 live/inventory.db 'create table files(size integer, mtime real, name text);' '.mode list' '.import facts/rows files' \
    'create index by_name on files(name);'
fingerprint live/files >facts/files.0
sqlite3 live/inventory.db .dump >facts/dump.0
talk "  $(entries facts/files.0) entries, $(human "$(size_of live/files/real)"), copied from this system; among them a sparse file, hard links,"
talk "  symlinks, ${features:+$features, }odd modes and times, names that are not UTF-8 or hold a newline, a path of 2,500 bytes."
talk "  A SQLite database of $(wc -l <facts/rows) rows, dumped by a command. A secret in the environment."

# --- 2. keys, policy, repository ---------------------------------------------------------------------

chapter "Keys, policy, repository"
must key generate --out keys/recovery.key
recipients=$(cat logs/out)
must key generate --out keys/safe.key
recipients="$recipients, $(cat logs/out)"
must key generate --out keys/writer.key
cat >policy.yaml <<END
version: 1
stack: demo
tier: development
timezone: UTC

repositories:
  main:
    local: { path: $W/repository }
    encryption:
      recipients: [$recipients]
      writer_identity: "\${file:$W/keys/writer.key}"

sources:
  files: { directory: { path: $W/live/files } }
  inventory: { command: { argv: [sqlite3, -readonly, $W/live/inventory.db, .dump] } }
  keys: { secrets: { DEMO_TOKEN: "\${env:DEMO_TOKEN}" } }

jobs:
  daily:
    sources: all
    kind: incremental
    schedule: { cron: "0 3 * * *" }
    keep: { for: 7d, at_least: 3 }
END
export BACKSTAY_POLICY=policy.yaml DEMO_TOKEN=$token
if [ -z "$brief" ]; then sed "s,^,    ,; s,$W,/demo,; s/\(age1.......\)[a-z0-9]*/\1.../g" policy.yaml; fi
must init
must check

# --- 3. full, changes, incremental -------------------------------------------------------------------

chapter "A full backup, then two rounds of changes"
must backup --kind full
full_secs=$SECS
talk "  then: $(tool change live/files 1), and a third of the database"
sqlite3 live/inventory.db 'delete from files where rowid % 3 = 0; update files set size = size + 1 where rowid % 7 = 0;'
fingerprint live/files >facts/files.1
sqlite3 live/inventory.db .dump >facts/dump.1
must backup
incr_secs=$SECS
talk "  then: $(tool change live/files 2), and more rows"
sqlite3 live/inventory.db "insert into files select size, mtime, 'copy of ' || name from files where rowid % 5 = 0;"
fingerprint live/files >facts/files.2
sqlite3 live/inventory.db .dump >facts/dump.2
talk "  (two seconds later: what changed less than 2 s before it is read is stored again next time, to be sure)"
sleep 2.2
must backup demo/files demo/inventory
LINES_SHOWN=20 must list
QUIET=1 bs list --output json
cp logs/out facts/list.json
tool backups facts/list.json demo/files >facts/backups
mapfile -t ids < <(cut -d' ' -f1 facts/backups)
mapfile -t kinds < <(cut -d' ' -f2 facts/backups)
mapfile -t bytes < <(cut -d' ' -f4 facts/backups)
mapfile -t stored < <(cut -d' ' -f5 facts/backups)
if [ "${#ids[@]}" -eq 3 ] && [ "${kinds[*]}" = "full incremental incremental" ] &&
    [ "${stored[1]}" -lt $((stored[0] / 4)) ] && [ "${stored[2]}" -lt $((stored[0] / 4)) ]; then
    proved "an incremental stores what changed" \
        "$(human "${stored[0]}"), then $(human "${stored[1]}") and $(human "${stored[2]}")" "$incr_secs"
else
    not_proved "an incremental stores what changed" "kinds ${kinds[*]-}, stored ${stored[*]-}"
fi

# --- 4. kill -9 --------------------------------------------------------------------------------------

chapter "kill -9 in the middle of a backup"
sed "s,local: {,limits: { upload: 4MiB }\n    local: {," policy.yaml >slow.yaml
touch facts/before
talk "  $BOLD\$ backstay backup demo/files --kind full$PLAIN   (throttled, killed as soon as it stores data)"
bin/backstay --policy slow.yaml --no-progress backup demo/files --kind full >logs/out 2>logs/err </dev/null &
victim=$!
for _ in $(seq 500); do
    [ -z "$(find repository/demo/sources/files/data -mindepth 1 -maxdepth 1 -newer facts/before -print -quit)" ] || break
    kill -0 $victim 2>/dev/null || break
    sleep 0.02
done
sleep 0.3
{ kill -KILL $victim && wait $victim; } 2>/dev/null || killed=$?
QUIET=1 bs list --output json demo/files
if [ "${killed-0}" -ne 137 ]; then
    not_proved "kill -9 leaves nothing listed" "the backup ended before it was killed"
elif cmp -s <(tool backups logs/out demo/files) facts/backups; then
    QUIET=1 must verify demo/files --depth stored
    proved "kill -9 leaves nothing listed, nothing broken" "still 3 backups, the latest sound" "$SECS"
else
    not_proved "kill -9 leaves nothing listed" "\`list\` shows something else than before"
fi
must backup demo/files
if grep -q 'nothing changed' logs/all; then
    proved "the next backup goes on; an unchanged tree stores nothing" "$(entries facts/files.2) entries looked at" "$SECS"
else
    not_proved "an unchanged tree stores nothing" "$(tail -n 1 logs/all)"
fi

# --- 5. destroy, restore -----------------------------------------------------------------------------

chapter "Everything is destroyed, and restored"
chmod -R u+rwX live
rm -rf live/files live/inventory.db
unset DEMO_TOKEN
[ -z "$(ls -A live)" ] || die "could not destroy $W/live"
talk "  $ rm -rf live/*"
identity=(--identity keys/recovery.key)

restore_tree() { # NUMBER WHAT ARGS
    local number=$1 what=$2 to=restored/files.$1 took
    shift 2
    bs restore demo/files --to "$to" "$@" "${identity[@]}"
    took=$SECS
    if [ "$RC" -ne 0 ]; then
        not_proved "$what" "restore ended with exit status $RC: $(tail -n 1 logs/err)"
        return
    fi
    fingerprint "$to" >"facts/restored.$number"
    if same "facts/files.$number" "facts/restored.$number"; then
        proved "$what" "$(entries "facts/files.$number") entries identical, $(human "${bytes[$number]}")" "$took"
    else
        not_proved "$what" "$(difference)"
    fi
}
restore_tree 2 "the latest state comes back"
restore_secs=$SECS
restore_tree 0 "so does the full, from before the changes" --backup "${ids[0]}"
restore_tree 1 "so does the incremental in between" --backup "${ids[1]}"
if [ -e restored/files.2/odd/sparse ]; then
    allocated=$(($(stat -c %b restored/files.2/odd/sparse) * 512))
    if [ "$allocated" -lt $((1 << 20)) ]; then
        proved "holes stay holes" "256 MiB file takes $(human "$allocated") on disk"
    else
        not_proved "holes stay holes" "the sparse file takes $(human "$allocated")"
    fi
fi

inventory=$(tool backups facts/list.json demo/inventory | sed -n 1p | cut -d' ' -f1)
talk "  $BOLD\$ backstay restore demo/inventory --to - | sqlite3 new.db$PLAIN"
from=$(now)
if bin/backstay --quiet restore demo/inventory --to - "${identity[@]}" 2>>logs/everything </dev/null | sqlite3 restored/new.db &&
    sqlite3 restored/new.db .dump | cmp -s - facts/dump.2 &&
    bin/backstay --quiet restore demo/inventory --backup "$inventory" --to - "${identity[@]}" 2>>logs/everything </dev/null | cmp -s - facts/dump.0; then
    proved "a command's stream comes back, piped into its program" \
        "$(sqlite3 restored/new.db 'select count(*) from files') rows, and the dump of the full" "$(since "$from")"
else
    not_proved "a command's stream comes back" "the restored dump differs"
fi

bs restore demo/keys --to restored/keys "${identity[@]}"
if [ "$RC" -eq 0 ] && [ "$(cat restored/keys/DEMO_TOKEN)" = "$token" ] && [ "$(stat -c %a restored/keys/DEMO_TOKEN)" = 600 ]; then
    proved "a secret comes back, readable by its owner only" "mode 0600" "$SECS"
else
    not_proved "a secret comes back" "restore ended with exit status $RC"
fi

one=$(cd restored/files.2 && find real -type f -size -64k -size +4k | LC_ALL=C sort | sed -n '100p')
talk "  $BOLD\$ backstay restore demo/files --path $one --to - | cmp$PLAIN"
from=$(now)
if bin/backstay --quiet restore demo/files --path "$one" --to - "${identity[@]}" 2>>logs/everything </dev/null | cmp -s - "restored/files.2/$one"; then
    took=$(since "$from")
    QUIET=1 bs restore demo/files --path "$one" --to restored/one --output json "${identity[@]}"
    fetched=$(python3 -c 'import json; print(json.load(open("logs/out"))["fetched"])')
    if [ "$RC" -eq 0 ] && [ "$fetched" -lt $((16 << 20)) ] && cmp -s "restored/one/$one" "restored/files.2/$one"; then
        proved "one file to standard output, without reading the rest" "read $(human "$fetched") of $(human "$(size_of repository)")" "$took"
    else
        not_proved "one file without reading the rest" "read $(human "$fetched")"
    fi
else
    not_proved "one file to standard output" "its bytes differ"
fi

# --- 6. verify ---------------------------------------------------------------------------------------

chapter "Every backup, every file"
bs verify --depth content "${identity[@]}"
if [ "$RC" -eq 0 ]; then
    proved "every file of every backup verifies" "$(grep -c '^sound' logs/out) backups, to the content" "$SECS"
else
    not_proved "every file of every backup verifies" "exit status $RC"
fi

# --- 7. who can read what ----------------------------------------------------------------------------

chapter "Who can read what"
bs restore demo/files --to restored/forbidden --identity keys/writer.key
if [ "$RC" -ne 0 ] && [ -z "$(find restored/forbidden -type f 2>/dev/null | head -n 1)" ]; then
    proved "the backup host's own key reads no content" "refused, exit status $RC" "$SECS"
else
    not_proved "the backup host's own key reads no content" "exit status $RC"
fi
if grep -rqF -e "$token" -e "$marker" -e "inventory.db" repository; then
    not_proved "the repository holds no content in the clear" "found some"
elif grep -qF -e "$token" logs/everything; then
    not_proved "no secret is printed" "found it in the output"
else
    proved "no secret and no content in the clear" "searched $(find repository -type f | wc -l) objects and all output"
fi

# --- 8. by hand --------------------------------------------------------------------------------------

chapter "By hand: restore.sh, age, zstd, tar, the second recovery key; no backstay, no privileges"
cp -a repository hand/repository
cp keys/safe.key hand/safe.key
mkdir hand/tmp
by=(env -i "PATH=/usr/local/bin:/usr/bin:/bin" "TMPDIR=$W/hand/tmp" "LC_ALL=C.UTF-8")
who=$(id -un)
if [ -n "$root" ]; then
    who=nobody
    chown -R "nobody:$(id -gn nobody)" hand
    by=(setpriv --reuid=nobody "--regid=$(id -gn nobody)" --clear-groups -- "${by[@]}")
fi
by_hand() { # ARGS of restore.sh
    talk "  $BOLD$who\$ sh restore.sh -i safe.key repository $*$PLAIN"
    (cd hand && "${by[@]}" sh repository/restore.sh -i safe.key repository "$@") >logs/hand.out 2>logs/hand.err </dev/null
}
hand_tree() { # NUMBER WHAT
    local from took
    from=$(now)
    if ! by_hand demo/files "${ids[$1]}" "$W/hand/files.$1"; then
        not_proved "$2" "restore.sh: $(tail -n 1 logs/hand.err)"
        return
    fi
    took=$(since "$from")
    fingerprint "hand/files.$1" >"facts/hand.$1"
    # An unprivileged user cannot give files away or set attributes of the system: columns 9 and 10.
    if same "facts/files.$1" "facts/hand.$1" 1-8; then
        proved "$2" "$(entries "facts/hand.$1") entries identical, as $who" "$took"
    else
        not_proved "$2" "$(difference)"
    fi
}
hand_tree 0 "by hand: the full"
hand_tree 2 "by hand: the second incremental"
from=$(now)
if by_hand demo/inventory latest "$W/hand/dump" && cmp -s hand/dump facts/dump.2; then
    proved "by hand: the stream" "$(human "$(size_of hand/dump)") identical, as $who" "$(since "$from")"
else
    not_proved "by hand: the stream" "$(tail -n 1 logs/hand.err)"
fi

if [ -z "$(ls -A outside)" ]; then
    proved "no restore leaves its target" "where a link in an older backup led, nothing was written"
else
    not_proved "no restore leaves its target" "$(find outside -type f | head -n 1) was written through a link"
fi

# --- 9. damage ---------------------------------------------------------------------------------------

chapter "One bit of one object is flipped, in a copy of the repository"
cp -a repository damaged
object=$(find damaged/demo/sources/files/data -name '*.tar.zst.age' -printf '%s %p\n' | sort -n | tail -n 1 | cut -d' ' -f2-)
where=$(tool flip "$object")
talk "  ${object#damaged/}: $where"
at=(--repository ./damaged "${identity[@]}")
LINES_SHOWN=12 bs verify "demo/files@${ids[2]}" --depth stored "${at[@]}"
stored_rc=$RC
LINES_SHOWN=12 bs verify "demo/files@${ids[2]}" --depth content "${at[@]}"
found_secs=$SECS
content_rc=$RC
QUIET=1 bs verify "demo/files@${ids[2]}" --depth content --output json "${at[@]}"
cp logs/out facts/verified.json
QUIET=1 bs restore demo/files --backup "${ids[2]}" --to restored/damaged --output json "${at[@]}"
took=$SECS
cp logs/out facts/restored.json
fingerprint restored/damaged >facts/restored.damaged
if [ "$stored_rc" -ne 5 ] || [ "$content_rc" -ne 5 ] || [ "$RC" -ne 5 ]; then
    not_proved "one flipped bit is found" "exit status $stored_rc (verify stored), $content_rc (content), $RC (restore)"
elif verdict=$(tool damage facts/verified.json facts/restored.json facts/files.2 facts/restored.damaged 2>logs/err); then
    read -r cost lost whole <<<"$verdict"
    [ ! -s logs/err ] || talk "    $(cat logs/err)"
    proved "verify finds one flipped bit and names what it may cost" "exit status 5, $cost of $(entries facts/files.2) entries" "$found_secs"
    proved "all else is restored, and what is not is named" "$whole entries identical, $lost named, exit status 5" "$took"
else
    not_proved "verify, restore and the files agree on the damage" "$(tail -n 1 logs/err)"
fi
rm -rf damaged

# --- 10. a database server ---------------------------------------------------------------------------

postgres_chapter

# --- 11. nothing but libc ----------------------------------------------------------------------------

chapter "Nothing but libc"
libraries=$(ldd "$binary" 2>/dev/null | grep -oE '/[^ ]+') || true
other=$(printf '%s\n' "$libraries" | grep -Ev '/(libc|libm|libgcc_s|libpthread|libdl|librt|ld-linux[^/]*|ld-musl[^/]*)\.so' || true)
if [ -n "${other//[[:space:]]/}" ]; then
    not_proved "the program needs nothing but libc" "it needs ${other//$'\n'/ }"
elif [ -n "$root" ]; then
    mkdir bare
    # shellcheck disable=SC2086  # a list of paths
    [ -z "$libraries" ] || cp --parents -L $libraries bare/
    cp "$binary" bare/backstay
    cp -a repository keys/recovery.key bare/
    from=$(now)
    if env -i "PATH=$PATH" chroot bare /backstay --quiet --repository /repository --identity /recovery.key restore demo/inventory --to - 2>logs/err </dev/null | cmp -s - facts/dump.2; then
        proved "restores in a bare chroot: one binary, the repository, a key" "no policy, no state; libraries: $(find bare -name '*.so*' | wc -l)" "$(since "$from")"
    else
        not_proved "restores in a bare chroot" "$(tail -n 1 logs/err)"
    fi
else
    proved "the program needs nothing but libc" "by ldd; as root this demo runs it in a bare chroot"
fi

# --- 12. a drill -------------------------------------------------------------------------------------

drill_said='' drill_report=''
drill_chapter

# --- the table ---------------------------------------------------------------------------------------

head_line "What was proved"
printf '%s\n' "${facts[@]}" | python3 -c '
import sys
rows = [line.rstrip("\n").split("\t") for line in sys.stdin]
green, red, plain = sys.argv[1:4]
width = [max(len(row[i]) for row in rows) for i in range(4)]
for mark, what, evidence, seconds in rows:
    colour = green if mark == "ok" else red
    took = f"{float(seconds):6.2f} s" if seconds else ""
    print(f"  {colour}{mark:<{width[0]}}{plain}  {what:<{width[1]}}  {evidence:<{width[2]}}  {took}".rstrip())
' "$GREEN" "$RED" "$PLAIN"

rate() { awk -v b="$1" -v s="$2" 'BEGIN { printf "%.0f MiB/s", b / s / 1048576 }'; }
head_line "Times and sizes"
say "  files        $(entries facts/files.0) entries, $(human "${bytes[0]}"), of which 256 MiB are the sparse file"
say "  full         $full_secs s for all three sources ($(rate "${bytes[0]}" "$full_secs")), $(human "${stored[0]}") stored, encrypted"
say "  incremental  $incr_secs s, $(human "${stored[1]}") stored"
say "  restore      $restore_secs s on disk ($(rate "${bytes[2]}" "$restore_secs"))"
say "  repository   $(human "$(size_of repository)") for $((${#ids[@]} + 1)) backups of the files, the dumps and the secret"
say "  demo         $(since "$begun") s${brief:+ (brief)}, $(uname -sm), $(nproc) cores"
if [ -n "$drill_said" ]; then
    head_line "The drill, against the production tier (RTO 1 h, RPO 15 min)"
    say "$drill_said"
    say "  report: $drill_report"
fi
say
if [ $failed -ne 0 ]; then
    say "${RED}$failed of ${#facts[@]} NOT PROVED$PLAIN"
    exit 1
fi
say "${GREEN}all ${#facts[@]} proved$PLAIN"
