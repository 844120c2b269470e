#!/usr/bin/env python3
"""A second reader of the Backstay repository format, written from docs/format.md alone.

    reader.py verify  REPO STACK/SOURCE BACKUP|latest [--identity FILE]
    reader.py restore REPO STACK/SOURCE BACKUP|latest TARGET [--identity FILE]

REPO is a local directory. Only the standard library and the programs `age` and `zstd` are used.
`verify` proves everything the format promises; `restore` writes the files from the index alone, by
position. A JSON summary goes to stdout, findings to stderr; the exit status is 1 if there are any,
2 on wrong usage. Section numbers in comments are those of docs/format.md.
"""
import argparse
import base64
import hashlib
import hmac
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections import OrderedDict

KIB, MIB = 1 << 10, 1 << 20
MANIFEST_MAX, LINE_MAX, PATH_LEN_MAX, PAX_MAX = 64 * MIB, 16 * MIB, 65535, 32 * MIB
FRAME_MAX, WINDOW_MAX, FILE_MAX = 4 * MIB, 8 * MIB, 1 << 30
NAME = r"[a-z0-9][a-z0-9._-]{0,63}"
BACKUP = r"[0-9]{8}T[0-9]{6}Z-(?:full|incr|snap)-[a-z0-9]{4,8}"
KEY = r"[0-9]{8}T[0-9]{6}Z-[a-z0-9]{4}"
RE_BACKUP, RE_KEY, RE_HEX = re.compile(BACKUP), re.compile(KEY), re.compile(r"[0-9a-f]{64}")
RE_SEGMENT = re.compile(rf"data/({BACKUP})/([0-9]{{6}})(\.tar)?\.zst(\.age)?")
RE_OTHER = re.compile(rf"data/({BACKUP})/(index|large|backup_manifest|pages|dead-({BACKUP})-([0-9]{{6}}))\.zst(\.age)?")
RE_IN = re.compile(rf"({BACKUP})/([0-9]{{6}})")
KINDS = {"full": "full", "incremental": "incr", "snapshot": "snap"}
TYPES = {"file", "layered", "dir", "symlink", "hardlink", "char", "block", "stream"}
PAGE = 8192
WHITE = b"\t\n\v\f\r "


class Fatal(Exception):
    """Nothing sensible can be said beyond this point."""


class Findings:
    def __init__(self):
        self.list = []

    def add(self, text):
        if len(self.list) < 200:
            print("finding: " + text, file=sys.stderr)
        self.list.append(text)

    def check(self, ok, text):
        if not ok:
            self.add(text)
        return bool(ok)


def show(path):
    """A path for messages: no raw control bytes."""
    return ascii(path.decode("utf-8", "surrogateescape"))


def sort_key(path):
    """§8.2: bytes, component by component; the root comes first."""
    return b"" if path == b"." else path.replace(b"/", b"\0")


def tail_only(path):
    """§6.5: names that GNU tar's -X cannot hold."""
    return b"\n" in path or path[-1:] in WHITE


def safe_path(path):
    if path == b".":
        return True
    if not path or len(path) > PATH_LEN_MAX or b"\0" in path:
        return False
    return all(c not in (b"", b".", b"..") for c in path.split(b"/"))


def uint(value):
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


# ---------------------------------------------------------------------------------------------------
# §5 frames


class Frames:
    """Random access to the plain bytes of a file of zstd frames; each frame is decoded on its own."""

    def __init__(self, file, name):
        self.file, self.name = file, name
        self.table = []  # (compressed offset, compressed length, plain offset, plain length)
        self.starts = {}  # compressed offset -> place in table
        self.stored = os.fstat(file.fileno()).st_size
        self.cache = OrderedDict()
        self.size = 0
        pos = 0
        while pos < self.stored:
            pos = self._frame(pos)
        if not self.table:
            raise Fatal(f"{name}: holds no zstd frame")

    def _at(self, pos, count):
        self.file.seek(pos)
        data = self.file.read(count)
        if len(data) != count:
            raise Fatal(f"{self.name}: ends inside a zstd frame")
        return data

    def _frame(self, start):
        magic = struct.unpack("<I", self._at(start, 4))[0]
        if magic & 0xFFFFFFF0 == 0x184D2A50:  # skippable
            return self._skip_to(start + 8 + struct.unpack("<I", self._at(start + 4, 4))[0])
        if magic != 0xFD2FB528:
            raise Fatal(f"{self.name}: no zstd frame at byte {start}")
        head = self._at(start, min(18, self.stored - start)) + bytes(18)
        desc, pos = head[4], 5
        single = desc & 0x20
        window = None
        if not single:
            log, part = 10 + (head[pos] >> 3), head[pos] & 7
            window = (1 << log) + ((1 << log) >> 3) * part
            pos += 1
        if desc & 3:
            raise Fatal(f"{self.name}: the frame at byte {start} wants a dictionary")
        if desc & 8:
            raise Fatal(f"{self.name}: the frame at byte {start} sets a reserved bit")
        width = {0: 1 if single else 0, 1: 2, 2: 4, 3: 8}[desc >> 6]
        if not width:
            raise Fatal(f"{self.name}: the frame at byte {start} does not tell its content size")
        content = int.from_bytes(head[pos:pos + width], "little") + (256 if width == 2 else 0)
        pos += width
        if not desc & 4:
            raise Fatal(f"{self.name}: the frame at byte {start} has no checksum")
        if content > FRAME_MAX:
            raise Fatal(f"{self.name}: the frame at byte {start} holds {content} bytes, over 4 MiB")
        if window is not None and window > WINDOW_MAX:
            raise Fatal(f"{self.name}: the frame at byte {start} has a window of {window} bytes, over 8 MiB")
        pos += start
        while True:
            block = int.from_bytes(self._at(pos, 3), "little")
            kind = block >> 1 & 3
            if kind == 3:
                raise Fatal(f"{self.name}: reserved block type in the frame at byte {start}")
            pos = self._skip_to(pos + 3 + (1 if kind == 1 else block >> 3))
            if block & 1:
                break
        pos = self._skip_to(pos + 4)
        self.starts[start] = len(self.table)
        self.table.append((start, pos - start, self.size, content))
        self.size += content
        return pos

    def _skip_to(self, pos):
        if pos > self.stored:
            raise Fatal(f"{self.name}: ends inside a zstd frame")
        return pos

    def frame(self, number):
        """Plain bytes of one frame."""
        if number in self.cache:
            self.cache.move_to_end(number)
            return self.cache[number]
        offset, length, _, content = self.table[number]
        done = subprocess.run(["zstd", "-dcq"], input=self._at(offset, length), capture_output=True)
        if done.returncode or len(done.stdout) != content:
            raise Fatal(f"{self.name}: zstd cannot decode the frame at byte {offset}: {done.stderr.decode(errors='replace').strip()}")
        self.cache[number] = done.stdout
        while len(self.cache) > 3:
            self.cache.popitem(last=False)
        return done.stdout

    def number(self, pos):
        """The place in the table of the frame that holds plain byte `pos`."""
        low, high = 0, len(self.table)
        while high - low > 1:
            mid = (low + high) // 2
            if self.table[mid][2] <= pos:
                low = mid
            else:
                high = mid
        return low

    def chunks(self, pos, count):
        """Plain bytes from `pos`, frame by frame."""
        if pos + count > self.size:
            raise Fatal(f"{self.name}: is {self.size} plain bytes long, {pos + count} are needed")
        while count:
            number = self.number(pos)
            data = self.frame(number)[pos - self.table[number][2]:][:count]
            if not data:  # an empty frame between others
                raise Fatal(f"{self.name}: no byte {pos}")
            yield data
            pos += len(data)
            count -= len(data)

    def read(self, pos, count):
        return b"".join(self.chunks(pos, count))

    def lines(self, limit=LINE_MAX):
        rest = b""
        for number in range(len(self.table)):
            rest += self.frame(number)
            parts = rest.split(b"\n")
            rest = parts.pop()
            if len(rest) > limit:
                raise Fatal(f"{self.name}: a line is longer than {limit} bytes")
            yield from parts
        if rest:
            raise Fatal(f"{self.name}: the last line has no end")

    def at(self, start, length):
        """§8.4: [frame, skip, span] of the member at plain byte `start`."""
        first, last = self.number(start), self.number(start + length - 1)
        offset, _, plain, _ = self.table[first]
        return [offset, start - plain, self.table[last][0] + self.table[last][1] - offset]


# ---------------------------------------------------------------------------------------------------
# §6 tar


def octal(field, what, name):
    text = field.strip(b"\0 ")
    if not re.fullmatch(rb"[0-7]*", text):
        raise Fatal(f"{name}: {what} in a tar header is not an octal number")
    return int(text or b"0", 8)


def decimal_time(text, name):
    """'-1.25' -> [-2, 750000000]"""
    match = re.fullmatch(rb"(-?)([0-9]{1,19})(?:\.([0-9]{1,9}))?", text)
    if not match:
        raise Fatal(f"{name}: bad mtime {text!r}")
    total = int(match[2]) * 10**9 + int((match[3] or b"").ljust(9, b"0"))
    return list(divmod(-total if match[1] else total, 10**9))


class Member:
    __slots__ = ("path", "kind", "mode", "uid", "gid", "user", "group", "mtime", "link", "rdev", "size",
                 "stored", "sparse", "xattrs", "acls", "start", "body", "end")


def pax_records(data, name):
    out, pos = {}, 0
    while pos < len(data):
        space = data.find(b" ", pos, pos + 12)
        if space < 0 or not data[pos:space].isdigit():
            raise Fatal(f"{name}: broken pax record")
        end = pos + int(data[pos:space])
        if end > len(data) or end <= space + 1 or data[end - 1:end] != b"\n" or b"=" not in data[space + 1:end]:
            raise Fatal(f"{name}: broken pax record")
        key, value = data[space + 1:end - 1].split(b"=", 1)
        if key in out:
            raise Fatal(f"{name}: pax record {key!r} twice in one header")
        out[key] = value
        pos = end
    return out


def member_at(frames, start):
    """The member whose first header block is at plain byte `start`, or None at the end of the archive."""
    name, pos, pax = frames.name, start, {}
    while True:
        head = frames.read(pos, 512)
        if head == bytes(512):
            if pos != start:
                raise Fatal(f"{name}: pax header without a member")
            return None
        if octal(head[148:156], "checksum", name) != sum(head) - sum(head[148:156]) + 8 * 32:
            raise Fatal(f"{name}: tar header checksum is wrong at plain byte {pos}")
        if head[257:265] != b"ustar\x0000":
            raise Fatal(f"{name}: not a ustar header at plain byte {pos}")
        size = octal(head[124:136], "size", name)
        flag = head[156:157]
        if flag != b"x":
            break
        if pax or size > PAX_MAX:
            raise Fatal(f"{name}: unexpected pax header at plain byte {pos}")
        pax = pax_records(frames.read(pos + 512, size), name)
        pos += 512 + -(-size // 512) * 512
    kinds = {b"0": "file", b"1": "hardlink", b"2": "symlink", b"3": "char", b"4": "block", b"5": "dir"}
    if flag not in kinds:
        raise Fatal(f"{name}: tar member of type {flag!r}, which the format does not use")
    m = Member()
    m.kind, m.start = kinds[flag], start
    text = lambda a, b: head[a:b].split(b"\0", 1)[0]
    prefix = text(345, 500)
    m.path = pax.pop(b"path", (prefix + b"/" if prefix else b"") + text(0, 100))
    m.link = pax.pop(b"linkpath", text(157, 257))
    m.mode = octal(head[100:108], "mode", name)
    m.uid = int(pax.pop(b"uid", octal(head[108:116], "uid", name)))
    m.gid = int(pax.pop(b"gid", octal(head[116:124], "gid", name)))
    m.user = pax.pop(b"uname", text(265, 297))
    m.group = pax.pop(b"gname", text(297, 329))
    when = pax.pop(b"mtime", None)
    m.mtime = [octal(head[136:148], "mtime", name), 0] if when is None else decimal_time(when, name)
    m.rdev = [octal(head[329:337], "major", name), octal(head[337:345], "minor", name)]
    if m.kind != "file" and size:
        raise Fatal(f"{name}: a {m.kind} with content")
    m.stored = m.size = size
    m.body = pos + 512
    m.end = m.body + -(-size // 512) * 512
    m.sparse = None
    if b"GNU.sparse.major" in pax:
        version = (pax.pop(b"GNU.sparse.major"), pax.pop(b"GNU.sparse.minor", b""))
        if version != (b"1", b"0") or m.kind != "file":
            raise Fatal(f"{name}: sparse member of another version than 1.0")
        m.path = pax.pop(b"GNU.sparse.name")
        m.size = int(pax.pop(b"GNU.sparse.realsize"))
        sparse_map(frames, m)
    if m.size > FILE_MAX:
        raise Fatal(f"{name}: {show(m.path)} is over 1 GiB and in a tree segment")
    if m.kind == "dir":
        if not m.path.endswith(b"/"):
            raise Fatal(f"{name}: directory {show(m.path)} without a slash at its end")
        m.path = b"." if m.path == b"./" else m.path[:-1]
    m.xattrs, m.acls = {}, {}
    for key, value in pax.items():
        if key.startswith(b"SCHILY.xattr."):
            m.xattrs[key[13:].replace(b"%3D", b"=").replace(b"%25", b"%")] = value
        elif key in (b"SCHILY.acl.access", b"SCHILY.acl.default"):
            m.acls[b"system.posix_acl_" + key[11:]] = acl_bytes(value, name)
        else:
            raise Fatal(f"{name}: pax record {key!r} is not one the format uses")
    if not safe_path(m.path):
        raise Fatal(f"{name}: unsafe member name {show(m.path)}")
    return m


def sparse_map(frames, m):
    """GNU sparse 1.0: decimal lines, padded to a block, before the data."""
    pos, text = m.body, b""

    def number():
        nonlocal pos, text
        while b"\n" not in text:
            if pos >= m.end:
                raise Fatal(f"{frames.name}: broken sparse map of {show(m.path)}")
            text += frames.read(pos, 512)
            pos += 512
        line, text = text.split(b"\n", 1)
        if not re.fullmatch(rb"[0-9]{1,19}", line):
            raise Fatal(f"{frames.name}: broken sparse map of {show(m.path)}")
        return int(line)

    count = number()
    if count > 1 << 20:
        raise Fatal(f"{frames.name}: sparse map of {show(m.path)} has {count} extents")
    m.sparse = [[number(), number()] for _ in range(count)]
    m.stored = sum(length for _, length in m.sparse)
    head = pos - m.body
    m.body = pos
    end = 0
    for offset, length in m.sparse:
        if offset < end or offset + length > m.size:
            raise Fatal(f"{frames.name}: sparse map of {show(m.path)} overlaps or leaves the file")
        end = offset + length
    if head + -(-m.stored // 512) * 512 != m.end - (pos - head):
        raise Fatal(f"{frames.name}: sparse member {show(m.path)} has another size than its map")


def acl_bytes(text, name):
    """§6.4: the text of an ACL as the raw value of system.posix_acl_*."""
    tags = {(b"user", False): 1, (b"user", True): 2, (b"group", False): 4, (b"group", True): 8,
            (b"mask", False): 16, (b"other", False): 32}
    out = struct.pack("<I", 2)
    for line in text.rstrip(b"\n").split(b"\n"):
        match = re.fullmatch(rb"(user|group|mask|other):([0-9]*):([r-])([w-])([x-])", line)
        if not match or (match[1], bool(match[2])) not in tags:
            raise Fatal(f"{name}: ACL line {line!r}")
        perm = sum(bit for bit, c in zip((4, 2, 1), match.groups()[2:]) if c != b"-")
        out += struct.pack("<HHI", tags[match[1], bool(match[2])], perm, int(match[2] or 0xFFFFFFFF))
    return out


def logical(frames, m):
    """Content of a file member, piece by piece; holes are zeros."""
    pos, body = 0, m.body
    for offset, length in [[0, m.size]] if m.sparse is None else m.sparse:
        yield from zeros(offset - pos)
        yield from frames.chunks(body, length)
        body += length
        pos = offset + length
    yield from zeros(m.size - pos)


def zeros(count):
    while count:
        piece = bytes(min(MIB, count))
        yield piece
        count -= len(piece)


# ---------------------------------------------------------------------------------------------------
# Repository, manifest, index


class Repository:
    def __init__(self, root, stack_source, identity, findings):
        self.root, self.findings = root, findings
        if not re.fullmatch(rf"{NAME}/{NAME}", stack_source):
            raise Fatal(f"not STACK/SOURCE: {stack_source}")
        self.stack, self.source = stack_source.split("/")
        if self.stack in ("keys", "backstay.json", "restore.sh", "restore.md"):
            raise Fatal(f"{self.stack} is a reserved name")
        self.dir = os.path.join(root, self.stack, "sources", self.source)
        self.temp = tempfile.TemporaryDirectory(prefix="backstay-reader.")
        self.secret = os.path.join(self.temp.name, "secret")
        self.identity = identity
        self.read_bytes = 0
        about = self.json(os.path.join(root, "backstay.json"), MIB)
        if about.get("backstay_repository") != 1:
            raise Fatal("backstay.json: not a repository of version 1")
        findings.check(re.fullmatch(r"[0-9a-f]{32}", str(about.get("id"))), "backstay.json: id is not 32 hex digits")
        findings.check(isinstance(about.get("encrypted"), bool), "backstay.json: encrypted is not a boolean")
        self.encrypted = bool(about.get("encrypted"))

    def json(self, path, limit):
        try:
            if os.path.getsize(path) > limit:
                raise Fatal(f"{path}: over {limit} bytes")
            with open(path, "rb") as f:
                value = json.loads(f.read())
        except (OSError, ValueError) as e:
            raise Fatal(f"{path}: {e}")
        if not isinstance(value, dict):
            raise Fatal(f"{path}: not a JSON object")
        return value

    def manifest(self, backup):
        if backup == "latest":
            names = sorted(n[:-5] for n in os.listdir(os.path.join(self.dir, "commits")) if n.endswith(".json"))
            for name in reversed(names):
                value = self.json(os.path.join(self.dir, "commits", name + ".json"), MANIFEST_MAX)
                if "aborted" not in value:
                    return name, value
            raise Fatal("no backup")
        if not RE_BACKUP.fullmatch(backup):
            raise Fatal(f"not a backup id: {backup}")
        value = self.json(os.path.join(self.dir, "commits", backup + ".json"), MANIFEST_MAX)
        if "aborted" in value:
            raise Fatal(f"{backup} is a tombstone, not a backup")
        return backup, value

    def unwrap(self, keys):
        if self.identity is None:
            raise Fatal("the backup is encrypted: give --identity")
        with open(os.open(self.secret, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "wb") as out:
            for key in keys:
                wraps = [f for f in sorted(os.listdir(os.path.join(self.root, "keys")))
                         if re.fullmatch(re.escape(key) + r"(\.[1-9][0-9]*)?\.age", f)]
                for wrap in wraps:
                    done = subprocess.run(["age", "-d", "-i", self.identity, os.path.join(self.root, "keys", wrap)], capture_output=True)
                    if done.returncode == 0:
                        out.write(done.stdout)
                        break
                else:
                    raise Fatal(f"the identity opens no wrap of the repository key {key} ({len(wraps)} tried)")
                with open(os.path.join(self.root, "keys", key + ".pub")) as f:
                    public = f.read().strip()
                derived = subprocess.run(["age-keygen", "-y"], input=done.stdout, capture_output=True).stdout.decode().strip()
                self.findings.check(public == derived, f"keys/{key}.pub is not the recipient of the wrapped secret")

    def check(self, obj):
        """Size and SHA-256 of one object against the manifest."""
        path = os.path.join(self.dir, obj["path"])
        try:
            digest = hashlib.sha256()
            with open(path, "rb") as f:
                while data := f.read(MIB):
                    digest.update(data)
                size = f.tell()
        except OSError as e:
            self.findings.add(f"{obj['path']}: {e.strerror}")
            return False
        self.read_bytes += size
        ok = self.findings.check(size == obj["size"], f"{obj['path']}: {size} bytes stored, the manifest says {obj['size']}")
        return self.findings.check(digest.hexdigest() == obj["sha256"], f"{obj['path']}: SHA-256 is not the one in the manifest") and ok

    def frames(self, obj):
        path = os.path.join(self.dir, obj["path"])
        if obj["path"].endswith(".age"):
            file = tempfile.TemporaryFile(dir=self.temp.name)
            done = subprocess.run(["age", "-d", "-i", self.secret, path], stdout=file, stderr=subprocess.PIPE)
            if done.returncode:
                raise Fatal(f"{obj['path']}: age: {done.stderr.decode(errors='replace').strip()}")
        else:
            file = open(path, "rb")
        return Frames(file, obj["path"])


def check_manifest(repo, backup, m, findings):
    """§10: form. Fatal where the rest could not be read."""
    version = m.get("backstay_manifest")
    if version != 1:
        raise Fatal(f"commits/{backup}.json: format {version}: only 1 is understood")
    check = findings.check
    check(m.get("backup") == backup, "manifest: names another backup")
    check(m.get("stack") == repo.stack and m.get("source") == repo.source, "manifest: names another stack or source")
    check(m.get("form") in ("tree", "stream"), "manifest: form")
    check(KINDS.get(m.get("kind")) == backup.split("-")[1], "manifest: kind does not match the id")
    base = m.get("base")
    check(base is None or (isinstance(base, str) and RE_BACKUP.fullmatch(base) and base < backup), "manifest: base")
    check((m.get("kind") == "incremental") == (base is not None), "manifest: an incremental has a base, others have none")
    check(uint(m.get("epoch")), "manifest: epoch")
    check(re.fullmatch(r"[0-9a-f]{32}", str(m.get("nonce"))), "manifest: nonce")
    for field in ("start", "end"):
        check(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", str(m.get(field))), f"manifest: {field} is no RFC 3339 time")
    encryption = m.get("encryption")
    if encryption is not None:
        keys = encryption.get("keys") if isinstance(encryption, dict) else None
        if not isinstance(keys, list) or not keys or not all(isinstance(k, str) and RE_KEY.fullmatch(k) for k in keys):
            raise Fatal("manifest: encryption.keys")
        check(encryption.get("key") in keys, "manifest: encryption.key is not among encryption.keys")
    check((encryption is not None) == repo.encrypted, "manifest: encryption and backstay.json disagree")

    def ref(obj, what, pattern):
        if not isinstance(obj, dict):
            raise Fatal(f"manifest: {what} is missing")
        match = pattern.fullmatch(str(obj.get("path")))
        if not match:
            raise Fatal(f"manifest: {what} has the path {obj.get('path')!r}")
        if not uint(obj.get("size")) or not RE_HEX.fullmatch(str(obj.get("sha256"))):
            raise Fatal(f"manifest: {what} lacks size or sha256")
        if pattern is not RE_SUMS:
            check(obj["path"].endswith(".age") == (encryption is not None), f"manifest: {obj['path']} and encryption disagree")
        return match

    RE_SUMS = re.compile(rf"data/{re.escape(backup)}/SHA256SUMS")
    ref(m.get("sums"), "sums", RE_SUMS)
    owners = set()
    match = ref(m.get("index"), "index", RE_OTHER)
    check(match[2] == "index", "manifest: index has another name")
    owners.add(match[1])
    if not uint(m["index"].get("entries")):
        raise Fatal("manifest: index.entries")
    if m.get("large") is not None:
        match = ref(m["large"], "large", RE_OTHER)
        check(match[2] == "large" and match[1] == RE_OTHER.fullmatch(m["index"]["path"])[1], "manifest: large is not beside the index")
    if not isinstance(m.get("segments"), list) or not m["segments"]:
        raise Fatal("manifest: no segments")
    seen = set()
    for s in m["segments"]:
        match = ref(s, "segment", RE_SEGMENT)
        s["_id"] = match[1] + "/" + match[2]
        s["_owner"] = match[1]
        owners.add(match[1])
        check(match[1] <= backup, f"manifest: {s['path']} is of a later backup")
        check(s["_id"] not in seen, f"manifest: segment {s['_id']} twice")
        seen.add(s["_id"])
        check(s.get("type") == ("tar" if match[3] else "stream"), f"manifest: type of {s['path']}")
        for field in ("plain", "content", "live"):
            if not uint(s.get(field)):
                raise Fatal(f"manifest: {s['path']} lacks {field}")
        dead = s.get("dead")
        if dead is not None:
            match = ref(dead, "dead list", RE_OTHER)
            check(match[3] and match[3] + "/" + match[4] == s["_id"], f"manifest: {dead['path']} is not the dead list of {s['path']}")
            check(s["type"] == "tar", f"manifest: a stream segment with a dead list: {s['path']}")
            check(match[1] <= RE_OTHER.fullmatch(m["index"]["path"])[1], f"manifest: {dead['path']} is newer than the index")
    if m["kind"] != "incremental":
        check(owners == {backup}, "manifest: a full or snapshot refers to another backup")
    types = [s["type"] for s in m["segments"]]
    if m["form"] == "stream":
        check("tar" not in types and m.get("large") is None, "manifest: a stream backup with tree parts")
    else:
        check(types[-1] == "tar", "manifest: the last segment of a tree is not a tree segment")
        body = types[:-1]
        check("tar" not in body[body.index("stream"):] if "stream" in body else True, "manifest: slices of large files do not stand right before the last segment")
        check(("stream" in types) == (m.get("large") is not None), "manifest: large list and stream segments do not match")
        last, index = m["segments"][-1], RE_OTHER.fullmatch(m["index"]["path"])[1]
        check(last["_owner"] == index, "manifest: the last tree segment is not of the backup that wrote the index")
        check(last.get("dead") is None, "manifest: the last tree segment has a dead list")
        if index != backup:
            check(backup not in owners, "manifest: an unchanged backup with segments of its own")


def check_sums(repo, m, findings):
    with open(os.path.join(repo.dir, m["sums"]["path"]), "rb") as f:
        text = f.read()
    want = [m["index"]] + ([m["large"]] if m.get("large") else []) + [s["dead"] for s in m["segments"] if s.get("dead")] + m["segments"]
    cluster = m.get("cluster") or {}
    if cluster.get("layered"):
        want += [cluster[name] for name in ("listing", "pages") if cluster.get(name)]
    findings.check(text == "".join(f"{o['sha256']}  {o['path']}\n" for o in want).encode(),
                   f"{m['sums']['path']}: is not index, large list, dead lists, segments in the manifest's order")
    return want


def entry_bytes(e, field, where):
    plain, coded = e.get(field), e.get(field + "_b64")
    if plain is not None and coded is None and isinstance(plain, str):
        return plain.encode("utf-8")
    if coded is not None and plain is None and isinstance(coded, str):
        value = base64.b64decode(coded, validate=True)
        try:
            value.decode("utf-8")
        except UnicodeDecodeError:
            return value
        raise Fatal(f"{where}: {field}_b64 holds valid UTF-8")
    raise Fatal(f"{where}: needs one of {field} and {field}_b64")


def read_layers(e, segments, m, where):
    layers = e.get("layers")
    if not uint(e.get("size")) or not isinstance(layers, list) or len(layers) < 2 or {"in", "at", "parts", "sha256"} & e.keys():
        raise Fatal(f"{where}: layers")
    for layer in layers:
        if not isinstance(layer, dict) or not uint(layer.get("size")) or not RE_HEX.fullmatch(str(layer.get("sha256"))) \
                or segments.get(layer.get("in"), {}).get("type") != "tar" or layer["in"] == m["segments"][-1]["_id"]:
            raise Fatal(f"{where}: a layer that no tree segment of the manifest holds")
        if not (isinstance(layer.get("at"), list) and len(layer["at"]) == 3 and all(map(uint, layer["at"]))):
            raise Fatal(f"{where}: at of a layer")
    writers = [layer["in"].partition("/")[0] for layer in layers]
    if writers != sorted(writers) or writers[0] == writers[1]:
        raise Fatal(f"{where}: layers are out of order")


def layer_path(path, number, layer):
    if number == 0:
        return path
    head, slash, name = path.rpartition(b"/")
    part = layer.get("part", 1)
    return head + slash + b"INCREMENTAL." + name + (b"~%d" % part if part > 1 else b"")


def lay(data, layer):
    """An increment over a file (§11.4)."""
    magic, count, pages = struct.unpack("<III", layer[:12])
    header = 12 + 4 * count
    header += -header % PAGE if count else 0
    if magic != 0xD3AE1F0D or len(layer) != header + count * PAGE:
        raise Fatal("an increment that is none")
    blocks = struct.unpack(f"<{count}I", layer[12:12 + 4 * count])
    if any(a >= b for a, b in zip(blocks, blocks[1:])):
        raise Fatal("an increment with blocks out of order")
    end = max((pages, *(b + 1 for b in blocks))) * PAGE
    out = bytearray(data[:pages * PAGE].ljust(end, b"\0"))
    for n, block in enumerate(blocks):
        out[block * PAGE:(block + 1) * PAGE] = layer[header + n * PAGE:header + (n + 1) * PAGE]
    return bytes(out)


def put_together(repo, segments, path, e):
    """The content of a layered file, each layer compared with its digest."""
    data = b""
    for number, layer in enumerate(e["layers"]):
        frames = repo.frames(segments[layer["in"]])
        at = layer["at"]
        if at[0] not in frames.starts:
            raise Fatal(f"{show(path)}: no frame of {layer['in']} starts at byte {at[0]}")
        member = member_at(frames, frames.table[frames.starts[at[0]]][2] + at[1])
        if member is None or member.kind != "file" or member.path != layer_path(path, number, layer):
            raise Fatal(f"{show(path)}: the position of a layer in {layer['in']} holds something else")
        content = b"".join(logical(frames, member))
        if len(content) != layer["size"] or hashlib.sha256(content).hexdigest() != layer["sha256"]:
            raise Fatal(f"{show(path)}: a layer in {layer['in']} is not what was backed up")
        data = lay(data, content) if number else content
    if len(data) != e["size"]:
        raise Fatal(f"{show(path)}: layers make {len(data)} bytes, the index says {e['size']}")
    return data


def read_index(repo, m, findings):
    frames, check = repo.frames(m["index"]), findings.check
    entries, before = OrderedDict(), None
    segments = {s["_id"]: s for s in m["segments"]}
    for number, line in enumerate(frames.lines(), 1):
        where = f"{m['index']['path']} line {number}"
        try:
            e = json.loads(line.decode("utf-8"))
        except ValueError as error:
            raise Fatal(f"{where}: {error}")
        if number == 1:
            if not isinstance(e, dict) or e.get("backstay_index") != 1:
                raise Fatal(f"{where}: not an index of version 1")
            continue
        if not isinstance(e, dict) or e.get("type") not in TYPES:
            raise Fatal(f"{where}: no entry, or its type is unknown")
        e = {k: v for k, v in e.items() if v is not None and not k.startswith("_")}
        try:
            path = entry_bytes(e, "path", where)
            if e["type"] == "symlink":
                e["_target"] = entry_bytes(e, "target", where)
            if e["type"] == "hardlink":
                e["_leader"] = entry_bytes(e, "hardlink", where)
            e["_xattrs"] = {os.fsencode(k): base64.b64decode(v, validate=True) for k, v in e.get("xattrs", {}).items()}
        except (ValueError, AttributeError) as error:
            raise Fatal(f"{where}: {error}")
        if not safe_path(path):
            raise Fatal(f"{where}: unsafe path {show(path)}")
        if before is not None and sort_key(path) <= before:
            raise Fatal(f"{where}: {show(path)} is out of order")
        before = sort_key(path)
        where = show(path)
        if e["type"] == "stream":
            e.setdefault("mode", "0600")
        if not re.fullmatch(r"[0-7]{4}", str(e.get("mode"))):
            raise Fatal(f"{where}: mode")
        e.setdefault("mtime", [0, 0])
        for field in ("mtime", "ctime"):
            if field in e:
                t = e[field]
                check(isinstance(t, list) and len(t) == 2 and isinstance(t[0], int) and uint(t[1]) and t[1] < 10**9, f"{where}: {field}")
        if e["type"] in ("file", "hardlink", "stream"):
            if not uint(e.setdefault("size", 0)):
                raise Fatal(f"{where}: size")
            check(("sha256" in e) != ("fingerprint" in e), f"{where}: needs one of sha256 and fingerprint")
        if e["type"] == "layered":
            read_layers(e, segments, m, where)
            entries[path] = e
            continue
        if e["type"] == "stream" or "parts" in e:
            if e["type"] not in ("file", "stream") or not isinstance(e.get("parts"), list) or "in" in e or "at" in e:
                raise Fatal(f"{where}: parts")
            for p in e["parts"]:
                if not isinstance(p, dict) or not uint(p.get("size")) or not RE_HEX.fullmatch(str(p.get("sha256"))) \
                        or segments.get(p.get("in"), {}).get("type") != "stream":
                    raise Fatal(f"{where}: a part that no stream segment of the manifest holds")
            check(sum(p["size"] for p in e["parts"]) == e["size"], f"{where}: parts and size disagree")
            check(e["type"] == "stream" or e["size"] > FILE_MAX or LOOSE, f"{where}: parts for a file of up to 1 GiB")
        else:
            if segments.get(e.get("in"), {}).get("type") != "tar":
                raise Fatal(f"{where}: is in {e.get('in')!r}, which is no tree segment of the manifest")
            for field in ("at", "leader_at") if "leader_at" in e else ("at",):
                if not (isinstance(e.get(field), list) and len(e[field]) == 3 and all(map(uint, e[field]))):
                    raise Fatal(f"{where}: {field}")
        entries[path] = e
    check(len(entries) == m["index"]["entries"], f"{m['index']['path']}: {len(entries)} entries, the manifest says {m['index']['entries']}")
    if m["form"] == "stream":
        check([e["type"] for e in entries.values()] == ["stream"], "index of a stream: not exactly one entry of type stream")
        check([p["in"] for e in entries.values() for p in e.get("parts", ())] == [s["_id"] for s in m["segments"]], "index of a stream: parts are not the segments in order")
    else:
        check(all(e["type"] != "stream" for e in entries.values()), "index of a tree: entry of type stream")
        for path, e in entries.items():
            parent = path.rpartition(b"/")[0]
            while parent:
                if parent in entries:
                    if entries[parent]["type"] != "dir":
                        raise Fatal(f"{show(path)} lies below {show(parent)}, which is no directory")
                    break
                parent = parent.rpartition(b"/")[0]
            if e["type"] == "hardlink":
                leader = entries.get(e["_leader"])
                if leader is None or leader["type"] != "file":
                    raise Fatal(f"{show(path)}: its leader {show(e['_leader'])} is no file in the index")
                check(sort_key(e["_leader"]) < sort_key(path), f"{show(path)}: its leader does not sort first")
                check((e["size"], e.get("sha256")) == (leader["size"], leader.get("sha256")), f"{show(path)}: size or sha256 is not its leader's")
                if "parts" in leader:
                    check("leader_at" not in e and e["in"] == m["segments"][-1]["_id"], f"{show(path)}: a link to a large file belongs into the last segment, without leader_at")
                else:
                    check(e["in"] == leader["in"] and e.get("leader_at") == leader["at"], f"{show(path)}: is not in its leader's segment, or leader_at is wrong")
    return entries


# ---------------------------------------------------------------------------------------------------
# verify


def content_ok(e, digest, mac, where, findings):
    if "fingerprint" in e:
        match = re.fullmatch(r"hmac-sha256:([A-Za-z0-9+/=]+):([0-9a-f]{64})", str(e["fingerprint"]))
        findings.check(match and mac is not None and mac.hexdigest() == match[2], f"{where}: content does not match its fingerprint")
    else:
        findings.check(digest.hexdigest() == e.get("sha256"), f"{where}: content does not match its sha256")


def mac_of(e):
    match = re.fullmatch(r"hmac-sha256:([A-Za-z0-9+/=]+):([0-9a-f]{64})", str(e.get("fingerprint")))
    return hmac.new(base64.b64decode(match[1]), digestmod="sha256") if match else None


def verify_tree_segment(repo, s, last, older, entries, layers, findings, seen):
    frames, check = repo.frames(s), findings.check
    check(frames.size == s["plain"], f"{s['path']}: {frames.size} plain bytes, the manifest says {s['plain']}")
    dead = []
    if s.get("dead"):
        dead = list(repo.frames(s["dead"]).lines())
        check(dead, f"{s['dead']['path']}: is empty")
        check(all(sort_key(a) < sort_key(b) for a, b in zip(dead, dead[1:])), f"{s['dead']['path']}: is not sorted")
        check(not any(tail_only(n) for n in dead), f"{s['dead']['path']}: a name that tar -X cannot hold")
    dead = set(dead)
    pos, content, live, members, dirs_begun = 0, 0, 0, {}, False
    while (m := member_at(frames, pos)) is not None:
        where = f"{s['path']}: {show(m.path)}"
        check(m.path not in members, f"{where}: twice in one segment")
        members[m.path] = m.start
        if m.kind == "dir":
            dirs_begun = True
            check(last, f"{where}: a directory outside the last tree segment")
        else:
            check(not dirs_begun, f"{where}: comes after a directory")
        check(last or not tail_only(m.path), f"{where}: a name that only the last tree segment may hold")
        e = entries.get(m.path)
        layer = layers.get((s["_id"], m.path))
        wanted = layer is not None or e is not None and e.get("in") == s["_id"]
        if wanted == (m.path in dead):
            findings.add(f"{where}: " + ("is wanted, but on the dead list" if wanted else "is neither wanted nor on the dead list"))
        if m.kind == "file":
            content += m.stored
        if layer is not None:
            check(frames.at(m.start, m.end - m.start) == layer["at"], f"{where}: is at another place than the index says")
            check(m.kind == "file" and m.size == layer["size"], f"{where}: is not the layer that the index has")
            live += m.stored
        elif wanted:
            compare(frames, m, e, where, findings, members, older)
            seen.add(m.path)
            if m.kind == "file":
                live += m.stored
        pos = m.end
    for number in range(frames.number(pos), len(frames.table)):
        start = frames.table[number][2]
        check(not any(frames.frame(number)[max(0, pos - start):]), f"{s['path']}: bytes after the end of the archive")
    check(frames.size - pos >= 1024, f"{s['path']}: the archive does not end with two zero blocks")
    check(dead <= members.keys(), f"{s['path']}: names on the dead list that the segment does not hold")
    check(content == s["content"], f"{s['path']}: {content} bytes of content, the manifest says {s['content']}")
    check(live == s["live"], f"{s['path']}: {live} bytes alive, the manifest says {s['live']}")
    return len(members)


def compare(frames, m, e, where, findings, members, older):
    """tar member against index entry, and the content."""
    check = findings.check
    if not check(m.kind == e["type"], f"{where}: a {m.kind} in the segment, a {e['type']} in the index"):
        return
    check(frames.at(m.start, m.end - m.start) == e["at"], f"{where}: is at {frames.at(m.start, m.end - m.start)}, the index says {e['at']}")
    check(m.mode == int(e["mode"], 8), f"{where}: mode {m.mode:04o}, the index says {e['mode']}")
    check((m.uid, m.gid) == (e.get("uid", 0), e.get("gid", 0)), f"{where}: owner differs from the index")
    check((m.user, m.group) == (e.get("user", "").encode(), e.get("group", "").encode()), f"{where}: owner's name differs from the index")
    # §11.2: a file that was only touched stays in an older segment, with its older mtime.
    check(m.mtime == e["mtime"] or (older and m.kind in ("file", "hardlink")), f"{where}: mtime {m.mtime}, the index says {e['mtime']}")
    if m.kind == "symlink":
        check(m.link == e["_target"], f"{where}: target differs from the index")
    elif m.kind == "hardlink":
        check(m.link == e["_leader"], f"{where}: leader differs from the index")
        if "leader_at" in e:
            check(m.link in members, f"{where}: its leader does not come before it")
    elif m.kind in ("char", "block"):
        check(m.rdev == e.get("rdev"), f"{where}: device numbers differ from the index")
    if m.kind != "hardlink":
        check({**m.xattrs, **m.acls} == e["_xattrs"] and not any(k.startswith(b"system.posix_acl_") for k in m.xattrs),
              f"{where}: extended attributes or ACLs differ from the index")
    if m.kind == "file":
        check(m.sparse == e.get("sparse"), f"{where}: extents differ from the index")
        check(m.size == e["size"], f"{where}: {m.size} bytes, the index says {e['size']}")
        digest, mac = hashlib.sha256(), mac_of(e)
        for data in logical(frames, m):
            digest.update(data)
            if mac:
                mac.update(data)
        content_ok(e, digest, mac, where, findings)


def verify_streams(repo, m, entries, findings):
    parts, used = {s["_id"]: s for s in m["segments"]}, []
    for path, e in entries.items():
        if "parts" not in e:
            continue
        whole, mac = hashlib.sha256(), mac_of(e)
        for number, p in enumerate(e["parts"], 1):
            s = parts[p["in"]]
            frames, digest = repo.frames(s), hashlib.sha256()
            for data in frames.chunks(0, frames.size):
                digest.update(data)
                whole.update(data)
                if mac:
                    mac.update(data)
            where = f"{show(path)} slice {number} ({s['path']})"
            findings.check(frames.size == s["plain"] == s["content"] == s["live"] == p["size"], f"{where}: sizes disagree")
            if len(e["parts"]) > 1 or "sha256" in e:
                findings.check(digest.hexdigest() == p["sha256"], f"{where}: content does not match its sha256")
            used.append(p["in"])
        content_ok(e, whole, mac, show(path), findings)
    findings.check(used == [s["_id"] for s in m["segments"] if s["type"] == "stream"],
                   "stream segments are not the slices of the index, in order, each once")
    if m.get("large"):
        want = []
        for path, e in entries.items():
            name = b"".join(b"\\%03o" % c if c < 0x21 or c >= 0x7F or c == 0x5C else bytes([c]) for c in path)
            total = e["mtime"][0] * 10**9 + e["mtime"][1]
            when = "%s%d.%09d" % ("-" if total < 0 else "", *divmod(abs(total), 10**9))
            for n, p in enumerate(e.get("parts", ()), 1):
                head = "\t".join([e["mode"], str(e.get("uid", 0)), str(e.get("gid", 0)), when, str(n), p["in"], ""])
                want.append(head.encode() + name)
        findings.check(list(repo.frames(m["large"]).lines()) == want, f"{m['large']['path']}: is not what the index says")


def check_counts(backup, m, entries, findings):
    have = {"files": 0, "directories": 0, "symlinks": 0, "hardlinks": 0, "devices": 0, "bytes": 0, "changed": 0}
    group = {"file": "files", "layered": "files", "stream": "files", "dir": "directories", "symlink": "symlinks", "hardlink": "hardlinks", "char": "devices", "block": "devices"}
    for e in entries.values():
        have[group[e["type"]]] += 1
        have["bytes"] += e["size"] if e["type"] in ("file", "layered", "stream") else 0
        have["changed"] += e.get("changed") is True
    own = [m["index"], m.get("large")] + [s.get("dead") for s in m["segments"]] + m["segments"]
    have["stored_bytes"] = sum(o["size"] for o in own if o and o["path"].startswith(f"data/{backup}/"))
    counts = m.get("counts", {})
    if RE_OTHER.fullmatch(m["index"]["path"])[1] != backup:
        del have["changed"]  # counts what this run met, the shared index is of another run
    for name, value in have.items():
        findings.check(counts.get(name) == value, f"manifest: counts.{name} is {counts.get(name)}, should be {value}")
    for name in ("new_files", "new_bytes", "skipped", "changed", "vanished", "unreadable"):
        findings.check(uint(counts.get(name)), f"manifest: counts.{name}")


def verify(repo, backup, m, findings):
    objects = check_sums(repo, m, findings) if repo.check(m["sums"]) else []
    if not all([repo.check(o) for o in objects]) or not objects:
        raise Fatal("objects are missing or damaged: the content was not looked at")
    if m.get("encryption"):
        repo.unwrap(m["encryption"]["keys"])
    entries = read_index(repo, m, findings)
    seen, members = set(), 0
    trees = [s for s in m["segments"] if s["type"] == "tar"]
    by_id = {s["_id"]: s for s in trees}
    layered = {path: e for path, e in entries.items() if e["type"] == "layered"}
    layers = {(layer["in"], layer_path(path, n, layer)): layer for path, e in layered.items() for n, layer in enumerate(e["layers"])}
    findings.check(len(layers) == sum(len(e["layers"]) for e in layered.values()), "two layers are one member")
    findings.check(len(layered) == (m.get("cluster") or {}).get("layered", 0), "manifest: cluster.layered")
    for path, e in layered.items():
        put_together(repo, by_id, path, e)
        seen.add(path)
    for s in trees:
        members += verify_tree_segment(repo, s, s is trees[-1], s["_owner"] != trees[-1]["_owner"], entries, layers, findings, seen)
    for path, e in entries.items():
        findings.check("parts" in e or path in seen, f"{show(path)}: is in the index, but not in {e.get('in')}")
    verify_streams(repo, m, entries, findings)
    check_counts(backup, m, entries, findings)
    return {"objects": len(objects) + 1, "stored_bytes": repo.read_bytes, "segments": len(m["segments"]), "members": members,
            "entries": len(entries), "bytes": sum(e["size"] for e in entries.values() if e["type"] in ("file", "layered", "stream"))}


# ---------------------------------------------------------------------------------------------------
# restore


def restore(repo, m, target, findings):
    os.makedirs(target, 0o700, exist_ok=True)
    if os.listdir(target):
        raise Fatal(f"{target} is not empty")
    objects = [m["index"]] + m["segments"]
    if not all([repo.check(o) for o in objects]):
        raise Fatal("objects are missing or damaged: nothing was restored")
    if m.get("encryption"):
        repo.unwrap(m["encryption"]["keys"])
    entries = read_index(repo, m, findings)
    root, summary = os.fsencode(os.path.abspath(target)), {"files": 0, "bytes": 0, "others": 0}
    place = lambda path: os.path.join(root, path)
    segments = {s["_id"]: s for s in m["segments"]}

    # Links come after every file, so that nothing is ever written through one.
    for path, e in entries.items():
        if e["type"] == "dir":
            os.makedirs(place(path), 0o700, exist_ok=True)
        elif b"/" in path:
            os.makedirs(os.path.dirname(place(path)), 0o700, exist_ok=True)
    by_segment = {}
    for path, e in entries.items():
        if e["type"] == "file" and "parts" not in e:
            by_segment.setdefault(e["in"], []).append((e["at"], path, e))
    for name, wanted in by_segment.items():
        frames = repo.frames(segments[name])
        for at, path, e in sorted(wanted, key=lambda w: w[0]):
            if at[0] not in frames.starts:
                raise Fatal(f"{show(path)}: no frame of {name} starts at byte {at[0]}")
            member = member_at(frames, frames.table[frames.starts[at[0]]][2] + at[1])
            if member is None or member.path != path or member.kind != "file":
                raise Fatal(f"{show(path)}: its position in {name} holds something else")
            write_file(place(path), logical(frames, member), e, show(path), findings, summary)
    for path, e in entries.items():
        if e["type"] == "layered":
            data = put_together(repo, segments, path, e)
            write_file(place(path), [data], e, show(path), None, summary)
    for path, e in entries.items():
        if "parts" in e:
            def pieces(e=e):
                for p in e["parts"]:
                    frames = repo.frames(segments[p["in"]])
                    yield from frames.chunks(0, frames.size)
            write_file(place(path), pieces(), e, show(path), findings, summary)
    for path, e in entries.items():
        try:
            if e["type"] == "symlink":
                os.symlink(e["_target"], place(path))
            elif e["type"] in ("char", "block"):
                os.mknod(place(path), (0o020000 if e["type"] == "char" else 0o060000) | 0o600, os.makedev(*e["rdev"]))
            elif e["type"] == "hardlink":
                os.link(place(e["_leader"]), place(path), follow_symlinks=False)
            else:
                continue
            summary["others"] += 1
        except OSError as error:
            findings.add(f"{show(path)}: {error.strerror}")
            e["_failed"] = True
    # Attributes: deepest first, so that a directory's time is set after everything in it.
    for path, e in reversed(entries.items()):
        if e["type"] not in ("hardlink", "stream") and not e.get("_failed"):
            attributes(place(path), e, show(path), findings)
    return summary | {"entries": len(entries)}


def write_file(place, pieces, e, where, findings, summary):
    digest, mac, size = hashlib.sha256(), mac_of(e), 0
    with open(place, "xb") as out:
        for data in pieces:
            digest.update(data)
            if mac:
                mac.update(data)
            size += len(data)
            if len(data) >= 64 * KIB and not any(data):
                out.seek(len(data), os.SEEK_CUR)
            else:
                out.write(data)
        out.truncate(size)
    if findings is not None:  # a layered file was compared layer by layer
        findings.check(size == e["size"], f"{where}: {size} bytes, the index says {e['size']}")
        content_ok(e, digest, mac, where, findings)
    summary["files"] += 1
    summary["bytes"] += size


def attributes(place, e, where, findings):
    link = e["type"] == "symlink"
    try:
        if os.geteuid() == 0:
            os.chown(place, e.get("uid", 0), e.get("gid", 0), follow_symlinks=False)
        if not link:
            os.chmod(place, int(e["mode"], 8))
    except OSError as error:
        findings.add(f"{where}: owner or mode: {error.strerror}")
    for name, value in e["_xattrs"].items():
        try:
            os.setxattr(place, name, value, follow_symlinks=False)
        except OSError as error:
            findings.add(f"{where}: attribute {show(name)}: {error.strerror}")
    sec, nsec = e["mtime"]
    os.utime(place, ns=(sec * 10**9 + nsec,) * 2, follow_symlinks=False)


# ---------------------------------------------------------------------------------------------------

LOOSE = False


def main():
    global LOOSE
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("verify", "restore"):
        sub = commands.add_parser(name)
        sub.add_argument("repo")
        sub.add_argument("source", metavar="STACK/SOURCE")
        sub.add_argument("backup", metavar="BACKUP|latest")
        if name == "restore":
            sub.add_argument("target")
        sub.add_argument("--identity", help="age identity file that opens keys/*.age")
        sub.add_argument("--small-slices", action="store_true", help="accept files of up to 1 GiB as slices (test repositories)")
    args = parser.parse_args()
    LOOSE = args.small_slices
    for tool in ("zstd",) + (("age", "age-keygen") if args.identity else ()):
        if not shutil.which(tool):
            parser.error(f"{tool} is missing")
    findings, summary, backup = Findings(), {}, args.backup
    try:
        repo = Repository(args.repo, args.source, args.identity, findings)
        backup, manifest = repo.manifest(args.backup)
        check_manifest(repo, backup, manifest, findings)
        if args.command == "verify":
            summary = verify(repo, backup, manifest, findings)
        else:
            summary = restore(repo, manifest, args.target, findings)
    except Fatal as error:
        findings.add(str(error))
    except Exception as error:  # a malformed record that no check foresaw is a finding as well
        findings.add(f"malformed: {type(error).__name__}: {error}")
    print(json.dumps({"ok": not findings.list, "command": args.command, "source": args.source, "backup": backup,
                      **summary, "findings": findings.list[:200], "findings_total": len(findings.list)}, indent=1))
    return 1 if findings.list else 0


if __name__ == "__main__":
    sys.exit(main())
