#!/usr/bin/env bash
# Measures Backstay beside tar|zstd, restic and borg, in one run, on the machine at hand.
#
#   scripts/bench.sh [--write] [--binary FILE] [--keep]
#
#   --write         put the result into docs/benchmarks.md
#   --binary FILE   measure this program, and build nothing
#   --keep          leave the tree for the next run (BENCH_DIR must be given)
#
#   BENCH_FILES=113000       files in the tree
#   BENCH_BYTES=2400000000   bytes in the tree
#   BENCH_RUNS=3             rounds; the fastest counts
#   BENCH_PEERS="restic borg"
#   BENCH_DIR=DIR            where everything happens (default: a new directory in /var/tmp). Needs five
#                            times BENCH_BYTES on a real disk; a tree that is there already is used again
#   BENCH_MEMORY=/dev/shm    a file system in memory, for restores without a disk; needs 1.5 times
#                            BENCH_BYTES free, or it is left out
#
# Exit status: 0 every hold of DESIGN §9 is kept, 1 one was missed or something failed.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname -- "$0")/lib.sh"

write='' binary='' keep=''
while [ $# -gt 0 ]; do
    case $1 in
        --write) write=1 ;;
        --binary) binary=${2:?--binary needs a file} && shift ;;
        --keep) keep=1 ;;
        *) echo "usage: scripts/bench.sh [--write] [--binary FILE] [--keep]" >&2 && exit 2 ;;
    esac
    shift
done
files=${BENCH_FILES:-113000} bytes=${BENCH_BYTES:-2400000000} runs=${BENCH_RUNS:-3}
peers=${BENCH_PEERS-restic borg}
for tool in zstd tar python3 /usr/bin/time $peers; do
    has "$tool" || die "$tool is missing" "scripts/install-deps.sh bench installs what the benchmark needs"
done
if [ -z "$binary" ]; then
    need_cargo
    head_line "Building the release binary"
    (cd -- "$ROOT" && cargo build --release --locked)
    binary=$TARGET_DIR/release/backstay
fi
[ -x "$binary" ] || die "$binary is not a program"
binary=$(cd -- "$(dirname -- "$binary")" && pwd -P)/${binary##*/}

unset BACKSTAY_POLICY BACKSTAY_IDENTITY BACKSTAY_FAILPOINT
export LC_ALL=C.UTF-8
[ -z "$keep" ] || [ -n "${BENCH_DIR-}" ] || die "--keep needs BENCH_DIR"
W=${BENCH_DIR:-$(mktemp -d "${TMPDIR:-/var/tmp}/backstay-bench.XXXXXX")}
mkdir -p -- "$W"
W=$(cd -- "$W" && pwd -P)
export BACKSTAY_STATE_DIR=$W/work/state
# shellcheck disable=SC2317  # called by the trap
finish() {
    rm -rf -- "$W/work"
    [ -z "${MEMORY-}" ] || rm -rf -- "$MEMORY"
    [ -n "$keep" ] || rm -rf -- "$W/tree" "$W/tree.made" "$W/tree.making"
    rmdir -- "$W" 2>/dev/null || true
}
trap finish EXIT
trap 'exit 130' INT TERM
rm -rf -- "$W/work"
mkdir -- "$W/work"
cd -- "$W/work"

case $(stat -f -c %T .) in
    tmpfs | ramfs) die "$W is in memory: a benchmark of writing needs a disk" "give BENCH_DIR=DIR on a disk" ;;
esac
free=$(df -B1 --output=avail . | tail -n 1)
[ "$free" -gt $((bytes * 5)) ] || die "$W has $(human "$free") free, and $(human $((bytes * 5))) are needed"

# --- the tree ----------------------------------------------------------------------------------------

made="$files files, $bytes bytes, v1"
if [ "$(cat "$W/tree.made" 2>/dev/null || true)" != "$made" ]; then
    head_line "Making a tree of $files files, $(human "$bytes")"
    rm -rf -- "$W/tree" "$W/tree.made"
    python3 - "$W/tree" "$files" "$bytes" <<'END'
import itertools
import os
import stat
import sys

target, want_files, want_bytes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
# Real files of this system, in a fixed order, as often as it takes. Every 256 KiB of every file begin
# with 16 bytes of their own, so that nothing can be stored once for many: tar|zstd cannot do that, and
# neither does Backstay. Names, modes, times and symbolic links are those of the originals.
ROOTS = ["/usr/share", "/usr/lib", "/usr/include", "/etc", "/usr/bin"]
LIMIT, BLOCK = 2_000_000, 256 << 10
found = []
for root in ROOTS:
    for at, directories, names in os.walk(root):
        directories.sort()
        for name in sorted(names):
            path = os.path.join(at, name)
            try:
                info = os.lstat(path)
            except OSError:
                continue
            if stat.S_ISLNK(info.st_mode) or (stat.S_ISREG(info.st_mode) and info.st_size <= LIMIT
                                              and os.access(path, os.R_OK)):
                found.append((path, info))
files = written = number = 0
made = set()


def stamped(data):
    """The data with 16 bytes of its own at every block."""
    global number
    parts = []
    for start in range(0, max(len(data), 1), BLOCK):
        number += 1
        parts += [b"%015x\n" % (number * 2654435761), data[start:start + BLOCK]]
    return b"".join(parts)


def put(path, data, info):
    global files, written
    folder = os.path.dirname(path)
    if folder not in made:
        os.makedirs(folder, exist_ok=True)
        made.add(folder)
    with open(path, "wb") as file:
        file.write(data)
    os.chmod(path, stat.S_IMODE(info.st_mode) & 0o777 | 0o400)
    os.utime(path, ns=(info.st_mtime_ns, info.st_mtime_ns))
    files += 1
    written += len(data)


# Small files first; what is then missing in bytes comes as archives of some MiB each.
big = []
for turn in itertools.count(1):
    for path, info in found:
        if files >= want_files:
            break
        place = f"{target}/{turn:02}{path}"
        if stat.S_ISLNK(info.st_mode):
            os.makedirs(os.path.dirname(place), exist_ok=True)
            os.symlink(os.readlink(path), place)
            continue
        # Keep to the average that is asked for: large files wait once the bytes run ahead.
        if written > want_bytes * (files + 1000) / want_files and info.st_size > 8000:
            big.append((path, info))
            continue
        try:
            with open(path, "rb") as file:
                put(place, stamped(file.read()), info)
        except OSError:
            continue
    if files >= want_files:
        break
    if not any(stat.S_ISREG(info.st_mode) for _, info in found):
        sys.exit("no files to make a tree of")
sources = itertools.cycle([(p, i) for p, i in found if stat.S_ISREG(i.st_mode) and i.st_size > 4000])
archive = 0
while written < want_bytes:
    data, size = [], 0
    while size < 8 << 20 and written + size < want_bytes:
        path, info = next(sources)
        with open(path, "rb") as file:
            data.append(file.read())
        size += len(data[-1])
    archive += 1
    put(f"{target}/archives/{archive:04}.bin", stamped(b"".join(data)), info)
END
    sync -f "$W/tree"
    printf '%s\n' "$made" >"$W/tree.made"
fi
MEMORY=
memory=${BENCH_MEMORY:-/dev/shm}
if [ "$(stat -f -c %T "$memory" 2>/dev/null || true)" = tmpfs ]; then
    free=$(df -B1 --output=avail "$memory" | tail -n 1)
    [ "$free" -lt $((bytes * 3 / 2)) ] || MEMORY=$(mktemp -d "$memory/backstay-bench.XXXXXX")
fi
have_files=$(find "$W/tree" -type f | wc -l)
have_bytes=$(find "$W/tree" -type f -printf '%s\n' | awk '{ s += $1 } END { printf "%.0f", s }')
# A small file from the middle of the tree, for the restore of one.
small=$(cd "$W/tree" && find . -type f -size +3k -size -40k | sed 's,^\./,,' | LC_ALL=C sort | awk '{ l[NR] = $0 } END { print l[int(NR / 2)] }')
say "tree: $have_files files, $(human "$have_bytes")"

# --- the contenders ----------------------------------------------------------------------------------

"$binary" --quiet key generate --out recovery.key >recovery.pub
"$binary" --quiet key generate --out writer.key >/dev/null
for how in plain encrypted; do
    mkdir -- "$how"
    encryption=''
    [ "$how" = plain ] || encryption="
    encryption: { recipients: [$(cat recovery.pub)], writer_identity: \"\${file:$W/work/writer.key}\" }"
    cat >"$how.yaml" <<END
version: 1
stack: bench
tier: development
timezone: UTC
repositories:
  main:
    local: { path: $W/work/$how/repository }$encryption
sources:
  tree: { directory: { path: $W/tree } }
jobs:
  daily: { sources: all, kind: incremental, schedule: { cron: "0 3 * * *" }, keep: { for: 7d, at_least: 3 } }
END
done
cat >run.sh <<'END'
# shellcheck shell=bash
# One measured step: run.sh STEP CONTENDER. Set up and clean up are steps of their own, not measured.
set -euo pipefail
step=$1 who=$2
export RESTIC_PASSWORD=bench RESTIC_REPOSITORY=$PWD/restic RESTIC_CACHE_DIR=$PWD/restic.cache
export BORG_PASSPHRASE=bench BORG_BASE_DIR=$PWD/borg.base BORG_REPO=$PWD/borg
export BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes BORG_RELOCATED_REPO_ACCESS_IS_OK=yes
backstay() { "$BINARY" --quiet --no-progress --policy "$who.yaml" "$@"; }
case $step-$who in
    clean-pipe) rm -f pipe.tar.zst ;;
    clean-plain | clean-encrypted) rm -rf "$who/repository" && backstay init >/dev/null 2>&1 ;;
    clean-restic) rm -rf restic restic.cache && restic init -q ;;
    clean-borg) rm -rf borg borg.base && borg init -e repokey-blake2 ;;
    clean-out) rm -rf out && mkdir out ;;
    clean-memory) rm -rf "$MEMORY/out" && mkdir "$MEMORY/out" ;;

    # --sort=none is tar's default; sync -f makes the pipe as durable as Backstay's result is.
    first-pipe) tar -C "$TREE" -c . | zstd -q -3 -T2 -o pipe.tar.zst && sync -f pipe.tar.zst ;;
    first-plain | first-encrypted | again-plain | again-encrypted) backstay backup bench/tree ;;
    first-restic | again-restic) restic backup -q "$TREE" ;;
    first-borg | again-borg) cd "$TREE" && borg create --compression zstd,3 "::$step-$(date +%s%N)" . ;;

    restore-pipe) zstd -qdc pipe.tar.zst | tar -C out -xp && sync -f out ;;
    restore-plain | restore-encrypted) backstay restore bench/tree --to out --identity recovery.key ;;
    restore-restic) restic restore -q latest --target out ;;
    restore-borg) cd out && borg extract "::$(borg list --last 1 --short)" ;;

    memory-pipe) zstd -qdc pipe.tar.zst | tar -C "$MEMORY/out" -xp ;;
    memory-plain | memory-encrypted) backstay restore bench/tree --to "$MEMORY/out" --identity recovery.key ;;
    memory-restic) restic restore -q latest --target "$MEMORY/out" ;;
    memory-borg) cd "$MEMORY/out" && borg extract "::$(borg list --last 1 --short)" ;;

    one-plain | one-encrypted) backstay restore bench/tree --path "$SMALL" --to out --identity recovery.key --output json ;;
    one-restic) restic restore -q latest --include "$TREE/$SMALL" --target out ;;
    one-borg) cd out && borg extract "::$(borg list --last 1 --short)" "$SMALL" ;;
    one-pipe) zstd -qdc pipe.tar.zst | tar -C out -xp "./$SMALL" ;;
    *) echo "unknown step $step-$who" >&2 && exit 2 ;;
esac
END
export BINARY=$binary TREE=$W/tree SMALL=$small MEMORY
all="pipe plain encrypted $peers"

# measure STEP CONTENDER: wall seconds and peak memory (of the largest process) go to results.
measure() {
    sync
    /usr/bin/time -f '%e %M' -o took bash run.sh "$1" "$2" >out.log 2>err.log </dev/null || {
        tail -n 20 out.log err.log >&2
        die "$1 by $2 failed"
    }
    printf '%s %s %s\n' "$1" "$2" "$(tail -n 1 took)" >>results
    printf '  %-8s %-10s %8s s %8s MiB\n' "$1" "$2" "$(cut -d' ' -f1 took)" "$(awk '{ printf "%d", $2 / 1024 }' took)"
}
# turn A B C D: C D A B
turn() { shift_by=2 && [ $# -gt 2 ] || shift_by=1; printf '%s ' "${@:shift_by+1}" "${@:1:shift_by}"; }
quiet() { bash run.sh "$@" >out.log 2>&1 </dev/null || { tail -n 20 out.log >&2 && die "$* failed"; }; }
: >results

# --- the measurement ---------------------------------------------------------------------------------

head_line "Reading everything once, so that nobody pays for the disk"
tar -C "$W/tree" -c . | cat >/dev/null
for round in $(seq "$runs"); do
    head_line "Round $round of $runs"
    # A disk that was idle takes the first writer's bytes faster than the next one's: whoever began the
    # last round comes later in this one.
    # shellcheck disable=SC2086  # each is a word
    [ "$round" -eq 1 ] || all=$(turn $all)
    for who in $all; do
        quiet clean "$who"
        measure first "$who"
    done
    for who in $all; do
        [ "$who" = pipe ] || measure again "$who"
    done
    for who in $all; do
        quiet clean out
        measure restore "$who"
        # Once, that it is the tree at all.
        if [ "$round" -eq 1 ]; then
            place=out
            [ "$who" != restic ] || place=out$W/tree
            diff -rq --no-dereference "$W/tree" "$place" >out.log 2>&1 || die "$who did not restore the tree: $(head -n 1 out.log)"
        fi
    done
    for who in ${MEMORY:+$all}; do
        quiet clean memory
        measure memory "$who"
    done
    [ -z "$MEMORY" ] || rm -rf -- "$MEMORY/out"
    for who in $all; do
        quiet clean out
        measure one "$who"
        case $who in plain | encrypted)
            printf 'fetched %s %s 0\n' "$who" "$(python3 -c 'import json; print(json.load(open("out.log"))["fetched"])')" >>results ;;
        esac
    done
    quiet clean out
done
for who in $all; do
    case $who in pipe) at=pipe.tar.zst ;; plain | encrypted) at=$who/repository ;; *) at=$who ;; esac
    printf 'size %s %s 0\n' "$who" "$(du -sb "$at" | cut -f1)" >>results
done

# --- the report --------------------------------------------------------------------------------------

versions="$("$binary" --version), $(tar --version | sed -n '1s/tar (GNU tar)/tar/p'), zstd $(zstd --version | grep -o 'v[0-9.]*' | head -n 1)"
for peer in $peers; do
    flag=--version
    [ "$peer" != restic ] || flag=version
    versions+=", $("$peer" "$flag" | grep -oE '^[a-z]+ [0-9.]+')"
done
machine="$(nproc) cores ($(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)), $(free -g | awk '/^Mem/ { print $2 }') GiB, $(stat -f -c %T .), Linux $(uname -r | grep -oE '^[0-9]+\.[0-9]+')"
status=0
python3 - results "$have_files" "$have_bytes" "$runs" "$versions" "$machine" "$peers" >report.md <<'END' || status=$?
import sys

path, files, size, runs, versions, machine, peers = sys.argv[1:]
seen = {}
for line in open(path):
    step, who, value, memory = line.split()
    seen.setdefault((step, who), []).append((float(value), int(memory)))
value = lambda step, who: min(v for v, _ in seen[step, who])
memory = lambda step, who: max(m for _, m in seen[step, who]) / 1024
names = {"pipe": "`tar \\| zstd -3 -T2`", "plain": "Backstay, plain", "encrypted": "Backstay, encrypted",
         "restic": "restic (encrypted)", "borg": "borg (encrypted)"}
peers = peers.split()
ours, missed = ["plain", "encrypted"], 0
seconds = lambda s: f"{s:.2f} s" if s < 10 else f"{s:.1f} s"


def verdict(good):
    global missed
    missed += not good
    return "kept" if good else "**missed**"


print(f"Tree: {int(files):,} files, {int(size) / 1e9:.2f} GB. The fastest of {runs} rounds, in which everyone takes turns.")
print(f"Machine: {machine}.")
print(f"Versions: {versions}.")
for step, title, base, hold in [
    ("first", "First backup", "pipe", 1.25),
    ("again", "Unchanged tree again", None, 0.15),
    ("restore", "Restore of the tree", "pipe", 1.2),
    ("memory", "Restore of the tree into memory", "pipe", None),
]:
    if base is None and not peers or (step, "plain") not in seen:
        continue
    best = base or min(peers, key=lambda who: value(step, who))
    versus = "the pipe" if base else f"the best peer ({best})"
    print(f"\n### {title}\n\nHold: at most {hold} × {versus}.\n" if hold else f"\n### {title}\n")
    print(f"| | wall time | × {'the pipe' if base else best} | peak memory | hold |\n|---|---:|---:|---:|---|")
    for who in (["pipe"] if base else []) + ours + peers:
        ratio = value(step, who) / value(step, best)
        shown = f"{memory(step, who):.0f} MiB"
        holds = verdict(ratio <= hold) if hold and who in ours else ""
        print(f"| {names[who]} | {seconds(value(step, who))} | {ratio:.2f} | {shown} | {holds} |")
print("\n### One small file\n\nHold: less than 16 MiB read from the repository.\n")
print("| | wall time | read from the repository | peak memory | hold |\n|---|---:|---:|---:|---|")
for who in ["pipe"] + ours + peers:
    fetched, holds = "", ""
    if who in ours:
        fetched = f"{value('fetched', who) / 1048576:.1f} MiB"
        holds = verdict(value("fetched", who) < 16 << 20)
    elif who == "pipe":
        fetched = f"all: {value('size', who) / 1048576:.0f} MiB"
    print(f"| {names[who]} | {seconds(value('one', who))} | {fetched} | {memory('one', who):.0f} MiB | {holds} |")
print("\n### Memory and size\n\nHold: at most 128 MiB at any of these.\n")
print("| | peak memory of all steps | size of the repository | hold |\n|---|---:|---:|---|")
for who in ["pipe"] + ours + peers:
    peak = max(memory(step, w) for step, w in seen if w == who and step in ("first", "again", "restore", "memory", "one"))
    holds = verdict(peak <= 128) if who in ours else ""
    print(f"| {names[who]} | {peak:.0f} MiB | {value('size', who) / 1e6:.0f} MB | {holds} |")
sys.exit(1 if missed else 0)
END
head_line "Result"
cat report.md
if [ -n "$write" ]; then
    page=$ROOT/docs/benchmarks.md
    grep -q '^<!-- measured -->$' "$page" || die "$page has no line <!-- measured -->"
    { sed '/^<!-- measured -->$/q' "$page"; echo; cat report.md; } >page.new
    cat page.new >"$page"
    say && say "wrote docs/benchmarks.md"
fi
exit $status
