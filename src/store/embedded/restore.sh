#!/bin/sh
# restore.sh: restore a Backstay backup with standard tools only.
#
# Needs: a POSIX sh, GNU tar, zstd, GNU coreutils and findutils, grep, sed; age if the repository is
# encrypted; curl if it is read over http(s); python3 for incremental backups of PostgreSQL clusters. The format is described in RESTORE.md beside this file.

set -eu
LC_ALL=C
export LC_ALL
umask 077

usage() {
    cat >&2 <<'END'
usage: restore.sh [-i IDENTITY] REPO STACK/SOURCE BACKUP|latest TARGET
       restore.sh [-i IDENTITY] -l REPO STACK/SOURCE [BACKUP|latest]

  REPO       a local directory, or an http(s) URL under which curl can read the objects
  TARGET     a new or empty directory; for a stream (a command source, a dump) a new file, or - for stdout
  -i FILE    age identity (recovery key); needed if the repository is encrypted
  -l         list: the backups of the source, or with BACKUP the entries of its index (JSON lines)

  CURL_OPTS  more options for curl, for example "--config /root/s3.curl" (see RESTORE.md)
  TAR_OPTS   more options for tar, for example "--numeric-owner"
  TMPDIR     where one object at a time is kept while it is checked, if REPO is a URL

  exit status: 0 restored; 1 failed, or some entries could not be restored (they are named); 2 usage
END
    exit 2
}

note() { printf 'restore.sh: %s\n' "$*" >&2; }
die() { note "error: $*"; exit 1; }
need() { command -v "$1" >/dev/null 2>&1 || die "$1 is missing: install it first"; }

identity=
list=
while getopts i:l opt; do
    case $opt in
        i) identity=$OPTARG ;;
        l) list=1 ;;
        *) usage ;;
    esac
done
shift $((OPTIND - 1))
if [ -n "$list" ]; then
    [ $# -eq 2 ] || [ $# -eq 3 ] || usage
else
    [ $# -eq 4 ] || usage
fi
repo=${1%/}
[ -n "$repo" ] || repo=/
stack=${2%%/*}
source=${2#*/}
backup=${3-}
target=${4-}

name_ok='^[a-z0-9][a-z0-9._-]{0,63}$'
id_ok='^[0-9]{8}T[0-9]{6}Z-(full|incr|snap)-[a-z0-9]{4,8}$'
printf '%s\n' "$stack" | grep -Eq "$name_ok" || die "not a STACK/SOURCE: $2"
printf '%s\n' "$source" | grep -Eq "$name_ok" || die "not a STACK/SOURCE: $2"
dir=$stack/sources/$source

for tool in zstd tar sha256sum grep sed find readlink; do need "$tool"; done
case $(tar --version 2>/dev/null) in
    *'GNU tar'*) ;;
    *) die "tar is not GNU tar: install it and put it first in PATH" ;;
esac
remote=
case $repo in
    http://*|https://*) remote=1; need curl ;;
    file://*) repo=${repo#file://} ;;
esac
[ -n "$remote" ] || [ -d "$repo" ] || die "no such repository directory: $repo"
[ -z "$identity" ] || [ -r "$identity" ] || die "cannot read the identity $identity"

# --- a private directory for the unwrapped key and the object in hand --------------------------------

work=$(mktemp -d "${TMPDIR:-/tmp}/backstay-restore.XXXXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
secret=$work/secret
trouble=$work/trouble
: >"$secret"
: >"$trouble"

# --- reading objects ---------------------------------------------------------------------------------

# get KEY FILE: 0 and FILE holds the object, or not 0.
get() {
    if [ -n "$remote" ]; then
        # shellcheck disable=SC2086  # CURL_OPTS is a list of words
        curl -fsS --retry 5 ${CURL_OPTS-} -o "$2" "$repo/$1" 2>"$work/curl.err"
    else
        [ -f "$repo/$1" ] && cat <"$repo/$1" >"$2"
    fi
}

# fetch PATH SHA256: the object (relative to the source directory), proven, is in the file $object.
fetch() {
    if [ -n "$remote" ]; then
        object=$work/object
        get "$dir/$1" "$object" || die "cannot read $dir/$1: $(cat "$work/curl.err")"
    else
        object=$repo/$dir/$1
        [ -f "$object" ] || die "missing object: $dir/$1"
    fi
    have=$(sha256sum <"$object") || die "cannot read $dir/$1"
    [ "${have%% *}" = "$2" ] ||
        die "damaged object: $dir/$1 has SHA-256 ${have%% *}, SHA256SUMS says $2; nothing of it was extracted"
}

# decode PATH: plain bytes of $object to stdout. sh has no pipefail, so failures go to $trouble.
decode() {
    case $1 in
        *.age) { age -d -i "$secret" "$object" || echo "age cannot decrypt $dir/$1" >>"$trouble"; } |
            { zstd -dcq || echo "zstd cannot decompress $dir/$1" >>"$trouble"; } ;;
        *) zstd -dcq <"$object" || echo "zstd cannot decompress $dir/$1" >>"$trouble" ;;
    esac
}

no_trouble() {
    [ -s "$trouble" ] || return 0
    die "$(sed -n 1p "$trouble") (or what reads from it stopped)"
}

# --- which backups there are -------------------------------------------------------------------------

# s3_list URL PREFIX: the keys of an S3 ListObjectsV2 listing.
s3_list() {
    after=
    while :; do
        query="list-type=2&prefix=$(printf %s "$2" | sed 's,/,%2F,g')"
        [ -z "$after" ] || query="$query&start-after=$(printf %s "$after" | sed 's,/,%2F,g')"
        # shellcheck disable=SC2086
        curl -fsS --retry 5 ${CURL_OPTS-} -o "$work/list.xml" "$1?$query" 2>"$work/curl.err" || return 1
        grep -q '<ListBucketResult' "$work/list.xml" || return 1
        tr '>' '\n' <"$work/list.xml" | sed -n 's,</Key$,,p' >"$work/keys"
        cat "$work/keys"
        grep -q '<IsTruncated>true' "$work/list.xml" || return 0
        after=$(tail -n 1 "$work/keys")
        [ -n "$after" ] || return 1
    done
}

# ids: all names under commits/, oldest first; tombstones are among them.
ids() {
    if [ -z "$remote" ]; then
        [ -d "$repo/$dir/commits" ] || die "no such source: $repo/$dir"
        find "$repo/$dir/commits/" -name '*.json' >"$work/names"
    else
        scheme=${repo%%://*}
        rest=${repo#*://}
        host=${rest%%/*}
        case $rest in */*) rest=${rest#*/} ;; *) rest= ;; esac
        bucket=${rest%%/*}
        case $rest in */*) prefix=${rest#*/}/ ;; *) prefix= ;; esac
        : >"$work/names"
        # Path style first (https://host/bucket/prefix), then the bucket in the host name.
        [ -z "$bucket" ] || s3_list "$scheme://$host/$bucket" "$prefix$dir/commits/" >"$work/names" || :
        [ -s "$work/names" ] || s3_list "$scheme://$host/" "${rest:+$rest/}$dir/commits/" >"$work/names" || :
        [ -s "$work/names" ] ||
            die "cannot list $repo/$dir/commits/ (no S3 listing, or nothing there): name the BACKUP instead of 'latest'"
    fi
    sed -n 's,^.*/\([^/]*\)\.json$,\1,p' "$work/names" | grep -E "$id_ok" | sort -u || :
}

# manifest ID: 0 if ID is a backup (its manifest is in $work/manifest), 1 if it is a tombstone.
manifest() {
    get "$dir/commits/$1.json" "$work/manifest" || die "there is no backup $dir/commits/$1.json: $(cat "$work/curl.err" 2>/dev/null || :)"
    grep -q '"backstay_manifest"' "$work/manifest" || return 1
    grep -Eq '"backstay_manifest"[[:space:]]*:[[:space:]]*1[^0-9]' "$work/manifest" ||
        die "$dir/commits/$1.json has a newer format than this script knows"
}

if [ -z "$backup" ]; then
    ids >"$work/ids"
    while read -r id <&3; do
        if manifest "$id"; then printf '%s\n' "$id"; fi
    done 3<"$work/ids"
    exit 0
fi
if [ "$backup" = latest ]; then
    backup=
    ids >"$work/ids"
    sort -r "$work/ids" >"$work/ids.down"
    while read -r id <&3; do
        if manifest "$id"; then backup=$id; break; fi
    done 3<"$work/ids.down"
    [ -n "$backup" ] || die "$dir has no backup"
    note "latest is $backup"
else
    printf '%s\n' "$backup" | grep -Eq "$id_ok" || die "not a backup id: $backup"
    manifest "$backup" || die "$backup was given up before it was complete (its commit is a tombstone)"
fi

# --- what it consists of -----------------------------------------------------------------------------

sums=$work/SHA256SUMS
get "$dir/data/$backup/SHA256SUMS" "$sums" || die "cannot read $dir/data/$backup/SHA256SUMS"
have=$(sha256sum <"$sums")
grep -q "\"${have%% *}\"" "$work/manifest" ||
    die "damaged object: $dir/data/$backup/SHA256SUMS is not the one that commits/$backup.json names"
obj='[0-9]{8}T[0-9]{6}Z-(full|incr|snap)-[a-z0-9]{4,8}'
if grep -Evq "^[0-9a-f]{64}  data/$obj/(index|large|backup_manifest|pages|dead-$obj-[0-9]{6}|[0-9]{6}|[0-9]{6}\.tar)\.zst(\.age)?\$" "$sums"; then
    die "$dir/data/$backup/SHA256SUMS holds a line this script does not know"
fi

# Unwrap the repository keys the manifest names: keys/ID.age, keys/ID.2.age, ...
if grep -q '\.age$' "$sums"; then
    need age
    [ -n "$identity" ] || die "this backup is encrypted: give the recovery identity with -i FILE"
    grep -Eo '"[0-9]{8}T[0-9]{6}Z-[a-z0-9]{4}"' "$work/manifest" | tr -d '"' | sort -u >"$work/keyids"
    [ -s "$work/keyids" ] || die "commits/$backup.json names no key"
    while read -r key <&3; do
        n=1
        found=
        while :; do
            wrap=keys/$key.age
            [ $n -eq 1 ] || wrap=keys/$key.$n.age
            get "$wrap" "$work/wrap" || break
            if age -d -i "$identity" "$work/wrap" >"$work/plain" 2>"$work/age.err" &&
                grep -q '^AGE-SECRET-KEY-' "$work/plain"; then
                cat "$work/plain" >>"$secret"
                found=1
                break
            fi
            n=$((n + 1))
        done
        rm -f "$work/plain"
        [ -n "$found" ] || die "$identity opens none of the $((n - 1)) wraps keys/$key*.age of the repository key $key: $(cat "$work/age.err" 2>/dev/null || :)"
    done 3<"$work/keyids"
fi

# one REGEX: the line of SHA256SUMS whose path matches, as $sum and $path; 1 if there is none.
one() {
    line=$(grep -E "^[0-9a-f]{64}  $1\$" "$sums" | tail -n 1) || return 1
    [ -n "$line" ] || return 1
    sum=${line%% *}
    path=${line#*  }
}

if [ -n "$list" ]; then
    one "data/$obj/index\.zst(\.age)?" || die "SHA256SUMS names no index"
    fetch "$path" "$sum"
    decode "$path"
    no_trouble
    exit 0
fi

# --- a stream ----------------------------------------------------------------------------------------

grep -E '/[0-9]{6}\.tar\.zst(\.age)?$' "$sums" >"$work/trees" || :
grep -E '/[0-9]{6}\.zst(\.age)?$' "$sums" >"$work/streams" || :

if [ ! -s "$work/trees" ]; then
    [ -s "$work/streams" ] || die "SHA256SUMS names no segment"
    if [ "$target" != - ]; then
        if [ -e "$target" ] || [ -L "$target" ]; then die "$target exists: give a new file for this stream, or -"; fi
        set -C
        exec 4>"$target.partial" || die "cannot create $target.partial"
        set +C
    else
        exec 4>&1
    fi
    while read -r sum path <&3; do
        fetch "$path" "$sum"
        note "$path"
        decode "$path" >&4 || :
        no_trouble
    done 3<"$work/streams"
    exec 4>&-
    if [ "$target" != - ]; then
        mv "$target.partial" "$target"
        note "restored $backup to the file $target"
    else
        note "wrote all of $backup"
    fi
    exit 0
fi

# --- a tree ------------------------------------------------------------------------------------------

[ "$target" != - ] || die "$backup is a tree of files: give a directory, not -"
# Files of this backup are made of layers: each backup's files are laid over those of older ones.
layered=
if grep -Eq '/(backup_manifest|pages)\.zst(\.age)?$' "$sums"; then
    layered=1
    need python3
    if [ -e "$target.layer" ]; then die "$target.layer exists: it is where increments go for a while"; fi
fi
if [ -e "$target" ] || [ -L "$target" ]; then
    [ -d "$target" ] || die "$target is not a directory"
    [ -z "$(find "$target/" -mindepth 1 -maxdepth 1 | head -c 1)" ] || die "$target is not empty"
else
    mkdir -p -- "$target"
fi
target=$(cd -- "$target" && pwd -P)
if [ "$(id -u)" -eq 0 ]; then owner=--same-owner; else owner=--no-same-owner; fi
partly=
into=$target

# extract SUM PATH: one tree segment, without the names on its dead list.
extract() {
    of=${2#data/}
    of=${of%%.*}
    ext_sum=$1
    ext_path=$2
    : >"$work/dead"
    if one "data/$obj/dead-${of%/*}-${of#*/}\.zst(\.age)?"; then
        fetch "$path" "$sum"
        decode "$path" >"$work/dead"
        no_trouble
    fi
    fetch "$ext_path" "$ext_sum"
    note "$ext_path"
    : >"$work/tar"
    # shellcheck disable=SC2086  # TAR_OPTS is a list of words
    decode "$ext_path" | {
        tar -x -p -f - -C "$into" "$owner" --acls --xattrs --xattrs-include='*' \
            --delay-directory-restore --warning=no-timestamp ${TAR_OPTS-} \
            --anchored --no-wildcards --no-unquote -X "$work/dead" || echo failed >"$work/tar"
    }
    no_trouble
    [ ! -s "$work/tar" ] || { partly=1; note "tar could not restore everything of $ext_path: see its messages above"; }
}

# Attributes of a finished large file: owner before mode, or set-id bits are lost; mtime last.
finish_large() {
    [ -n "${out-}" ] || return 0
    if [ "$owner" = --same-owner ]; then
        chown -- "$uid_of:$gid_of" "$out" || partly=1
    fi
    chmod -- "$mode_of" "$out" || partly=1
    touch -d "@$mtime_of" -- "$out" || partly=1
    out=
}

large_files() {
    one "data/$obj/large\.zst(\.age)?" || return 0
    fetch "$path" "$sum"
    decode "$path" >"$work/large"
    no_trouble
    out=
    last=0
    tab=$(printf '\t')
    while IFS="$tab" read -r mode uid gid mtime n slice name <&3; do
        if [ "$n" -eq 1 ]; then
            finish_large
            shown=$name
            name=$(printf '%b.' "$(printf %s "$name" | sed 's/\\/\\0/g')")
            name=${name%.}
            case /$name/ in *//*|*/./*|*/../*) die "the large list names a path outside the target: $shown" ;; esac
            out=$target/$name
            real=$(readlink -m -- "${out%/*}" && echo x)
            real=${real%?x}
            case $real/ in "$target"/*) ;; *) die "refusing to write through a link out of the target: $shown" ;; esac
            mkdir -p -- "${out%/*}"
            if [ -e "$out" ] || [ -L "$out" ]; then die "would overwrite the large file $shown"; fi
            : >"$out"
            mode_of=$mode uid_of=$uid gid_of=$gid mtime_of=$mtime
            note "large file $shown"
        else
            if [ -z "$out" ] || [ "$n" -ne $((last + 1)) ]; then die "the large list is out of order at $name, slice $n"; fi
        fi
        last=$n
        one "data/${slice%/*}/${slice#*/}\.zst(\.age)?" || die "SHA256SUMS lacks the slice data/$slice of $shown"
        fetch "$path" "$sum"
        # Blocks of zeros become holes.
        decode "$path" | dd of="$out" bs=64K iflag=fullblock oflag=seek_bytes seek="$(stat -c %s -- "$out")" \
            conv=notrunc,sparse status=none || echo "cannot write the large file $shown" >>"$trouble"
        no_trouble
    done 3<"$work/large"
    finish_large
}

# What one backup stored goes over what older ones did: whole files in their place, pages into theirs.
lay() {
    [ "$into" != "$target" ] || return 0
    note "laying $1 over what is older"
    python3 - "$into" "$target" <<'END'
import os, struct, sys
layer, target = map(os.fsencode, sys.argv[1:])
PAGE, MAGIC = 8192, 0xD3AE1F0D
for where, dirs, names in os.walk(layer):
    into = os.path.join(target, os.path.relpath(where, layer))
    os.makedirs(into, exist_ok=True)
    for name in sorted(names) + [d for d in dirs if os.path.islink(os.path.join(where, d))]:
        new = os.path.join(where, name)
        if not name.startswith(b"INCREMENTAL."):
            os.replace(new, os.path.join(into, name))
            continue
        path = os.path.join(into, name[12:].split(b"~")[0])
        with open(new, "rb") as changes, open(path, "r+b") as file:
            magic, count, pages = struct.unpack("<III", changes.read(12))
            if magic != MAGIC:
                sys.exit("not an increment: %r" % new)
            blocks = struct.unpack("<%dI" % count, changes.read(4 * count))
            if count:
                changes.seek(-(12 + 4 * count) % PAGE, 1)
            file.truncate(pages * PAGE)
            for block in blocks:
                file.seek(block * PAGE)
                if file.write(changes.read(PAGE)) != PAGE:
                    sys.exit("an increment ends too early: %r" % new)
        os.remove(new)
label = os.path.join(target, b"backup_label")
lines = open(label, "rb").read().splitlines(True) if os.path.exists(label) else []
kept = [line for line in lines if not line.startswith(b"INCREMENTAL FROM ")]
if kept != lines:
    open(label, "wb").writelines(kept)
    if os.path.exists(os.path.join(target, b"backup_manifest")):
        os.remove(os.path.join(target, b"backup_manifest"))
END
    rm -rf "$into"
}

# The last tree segment carries all directories, and links to large files: it goes last.
final=$(tail -n 1 "$work/trees")
writer=
while read -r s p <&3; do
    [ "$s  $p" != "$final" ] || continue
    if [ -n "$layered" ]; then
        of=${p#data/}
        of=${of%%/*}
        if [ -n "$writer" ] && [ "$of" != "$writer" ]; then
            lay "$writer"
            into=$target.layer
            mkdir -- "$into"
        fi
        writer=$of
    fi
    extract "$s" "$p"
done 3<"$work/trees"
lay "$writer"
into=$target
large_files
extract "${final%% *}" "${final#*  }"

if [ -n "$partly" ]; then
    note "$backup is in $target, but not complete: see the messages above"
    exit 1
fi
note "restored $backup to $target"
