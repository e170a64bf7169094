"""Our reader of tars beside Go's, by which images are read everywhere else (reliability.md T12).

    .venv/bin/python benchmarks/readers.py [MUTATED]

Needs `go`, any version. The archives are those that tests/layer has tables of, odd but legal ones and
hostile ones, and MUTATED damaged ones besides, 10,000 unless told. Each is read by both; compared are
whether it is refused, and else the members in their order: names, kinds, modes, owners, times, sizes,
links, attributes, and the digest of the bytes. Prints what differs, and how often for what reason.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from assembler.errors import BadArchive  # noqa: E402
from assembler.layer.changeset import Entry, Kind  # noqa: E402
from assembler.layer.fields import normalise  # noqa: E402
from assembler.layer.tar_reader import read  # noqa: E402
from tests.layer import test_hostile_tars as hostile  # noqa: E402
from tests.layer import test_mutated as mutated  # noqa: E402
from tests.layer import test_odd_archives as odd  # noqa: E402
from tests.layer.archives import ZEROS, raw  # noqa: E402

PROGRAM = """
package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
)

type member struct {
	Name, Link, Digest string
	Kind               byte
	Mode, Size, Time   int64
	Uid, Gid           int
	Major, Minor       int64
	Xattrs             map[string][]byte
}

type told struct {
	Members []member
	Error   string
}

func raw(text string) string { return hex.EncodeToString([]byte(text)) }

func look(content []byte) (found told) {
	reader := tar.NewReader(bytes.NewReader(content))
	for {
		header, err := reader.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			found.Error = err.Error()
			return
		}
		hasher := sha256.New()
		if _, err = io.Copy(hasher, reader); err != nil {
			found.Error = err.Error()
			return
		}
		one := member{Name: raw(header.Name), Link: raw(header.Linkname), Kind: header.Typeflag,
			Mode: header.Mode, Size: header.Size, Uid: header.Uid, Gid: header.Gid,
			Major: header.Devmajor, Minor: header.Devminor, Xattrs: map[string][]byte{}}
		one.Time = header.ModTime.UnixNano()
		if header.ModTime.IsZero() {
			one.Time = 0
		}
		one.Digest = hex.EncodeToString(hasher.Sum(nil))
		for key, value := range header.PAXRecords {
			if len(key) > 13 && key[:13] == "SCHILY.xattr." {
				one.Xattrs[raw(key[13:])] = []byte(value)
			}
		}
		found.Members = append(found.Members, one)
	}
}

func main() {
	input, output := bufio.NewReader(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var size uint32
		if binary.Read(input, binary.LittleEndian, &size) != nil {
			return
		}
		content := make([]byte, size)
		if _, err := io.ReadFull(input, content); err != nil {
			return
		}
		output.Encode(look(content))
	}
}
"""
KINDS = {
    ord("0"): Kind.FILE, 0: Kind.FILE, ord("7"): Kind.FILE, ord("S"): Kind.FILE,
    ord("1"): Kind.HARDLINK, ord("2"): Kind.SYMLINK, ord("3"): Kind.CHARACTER,
    ord("4"): Kind.BLOCK, ord("5"): Kind.DIRECTORY, ord("6"): Kind.FIFO,
}  # fmt: skip

Told = list[tuple[object, ...]] | str
"""Members, or why it is refused."""


def archives(count: int) -> Iterator[tuple[str, bytes]]:
    """The archives, by what is said of them."""
    for name, (content, _) in odd.ODD.items():
        yield f"odd: {name}", content + ZEROS * (name != "the end without zeros")
    for table in (hostile.LARGE, hostile.T10, hostile.NUMBERS):
        for name, content in table.items():
            yield f"hostile: {name}", content + hostile.LAST
    whole = raw(b"a", b"1") + raw(b"b", b"22") + raw(b"c", b"333") + ZEROS
    for end in range(0, len(whole), 128):
        yield f"cut: {end} of {len(whole)} bytes", whole[:end]
    for at in (0, 100, 148, 156, 257, 1024, 1024 + 148, 2048 + 124):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        yield f"flipped: byte {at}", bytes(damaged)
    for name, end in {"garbage": b"x" * 700, "another archive": whole}.items():
        yield f"behind the end: {name}", whole + end
        yield f"behind one block of zeros: {name}", whole[:-512] + end
    for seed in range(count):
        dice = random.Random(seed)
        data = mutated.damaged(dice.choice(mutated.TARS), dice)
        yield f"mutated: {seed}", mutated.mended(data) if seed % 5 else data


def ours(content: bytes) -> Told:
    """What our reader makes of it."""
    found: list[tuple[object, ...]] = []
    try:
        for entry, body in read(io.BytesIO(content)):
            digest = hashlib.sha256(body.read() if entry.kind is Kind.FILE else b"").hexdigest()
            found.append(shown(entry, digest))
    except BadArchive as error:
        return str(error)
    return found


def shown(entry: Entry, digest: str) -> tuple[object, ...]:
    """What is compared of a member."""
    return (entry.path, entry.kind.value, entry.mode, entry.uid, entry.gid, entry.mtime, entry.size,
            entry.link, entry.device, entry.xattrs, digest)  # fmt: skip


def theirs(told: dict[str, object]) -> Told:
    """What Go's makes of it, names as layers have them."""
    if told["Error"]:
        return str(told["Error"])
    found: list[tuple[object, ...]] = []
    for one in told["Members"] or ():  # type: ignore[attr-defined]
        name, link = text(one["Name"]), text(one["Link"])
        kind = KINDS.get(one["Kind"])
        if kind is None:
            if one["Kind"] != ord("g"):
                return f"a member of kind {chr(one['Kind'])!r}, which Docker refuses"
            continue
        if kind is Kind.HARDLINK:
            link = normalise(link)
        attributes = one["Xattrs"].items()
        xattrs = tuple(sorted((text(key), base64.b64decode(value)) for key, value in attributes))
        size = one["Size"] if kind is Kind.FILE else 0
        device = (one["Major"], one["Minor"]) if kind in (Kind.CHARACTER, Kind.BLOCK) else (0, 0)
        entry = Entry(
            normalise(name), kind, one["Mode"] & 0o7777, one["Uid"], one["Gid"], one["Time"],
            size, link if kind in (Kind.HARDLINK, Kind.SYMLINK) else "", device, xattrs,
        )  # fmt: skip
        found.append(shown(entry, one["Digest"]))
    return found


def text(told: str) -> str:
    """Bytes in hexadecimal as a name."""
    return bytes.fromhex(told).decode("utf-8", "surrogateescape")


def main() -> None:
    """Compare."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    everything = list(archives(count))
    with tempfile.TemporaryDirectory(prefix="readers-") as work:
        source = Path(work, "look.go")
        source.write_text(PROGRAM)
        subprocess.run(["go", "build", "-o", f"{work}/look", source], check=True, cwd=work)
        given = b"".join(struct.pack("<I", len(one)) + one for _, one in everything)
        output = subprocess.run([f"{work}/look"], input=given, stdout=subprocess.PIPE, check=True)
    answers = output.stdout.splitlines()
    assert len(answers) == len(everything)
    counted: Counter[str] = Counter()
    for (name, content), answer in zip(everything, answers, strict=True):
        mine, go = ours(content), theirs(json.loads(answer))
        if isinstance(mine, str) and isinstance(go, str):
            verdict = "both refuse"
        elif isinstance(mine, str):
            verdict = f"only ours refuses: {mine[:90]}"
        elif isinstance(go, str):
            verdict = f"only Go's refuses: {go}"
        else:
            verdict = "the same members" if mine == go else f"other members: {first(mine, go)}"
        group = name.partition(":")[0]
        counted[f"{group:12} {verdict if group != 'mutated' else verdict[:60]}"] += 1
        if verdict not in ("both refuse", "the same members") and group != "mutated":
            print(f"{name}\n    {verdict}")
    print()
    for verdict, number in sorted(counted.items(), key=lambda one: (one[0][:12], -one[1])):
        print(f"{number:6} {verdict}")


def first(mine: list[tuple[object, ...]], go: list[tuple[object, ...]]) -> str:
    """The first difference."""
    for one, other in zip(mine, go, strict=False):
        if one != other:
            return " ".join(f"{a!r}≠{b!r}" for a, b in zip(one, other, strict=True) if a != b)
    return f"{len(mine)} ≠ {len(go)}"


if __name__ == "__main__":
    main()
