"""What our writer writes, read by GNU tar, bsdtar, Python's tarfile and umoci."""

from __future__ import annotations

import io
import os
import re
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from assembler.layer.changeset import Changeset, Entry, InlineBytes, Kind, PathBytes
from assembler.layer.compression import Gzip, Plain
from assembler.layer.tar_writer import TarWriter
from assembler.layer.write import pack
from assembler.oci.config import Execution, History, ImageConfig
from assembler.oci.descriptor import Descriptor
from assembler.oci.image import Image, Layer
from assembler.oci.platform import Platform
from assembler.output.layout import LayoutDirectory
from assembler.store.blobs import Blobs

pytestmark = pytest.mark.integration

SECOND = 1_000_000_000
TIME = 1_234_567_890
MOST = 0xFFFFFFFE  # the largest id that Linux has
DEEP = "/".join(["directory" * 8] * 4)
LATIN = os.fsdecode(b"d/caf\xe9")
XATTRS = (("user.a", b"\0\n="), ("user.b", b"text"))


def file(path: str, content: bytes = b"", mode: int = 0o640, **more: object) -> Entry:
    return Entry(
        path, Kind.FILE, mode, 7, 8, TIME * SECOND, len(content), source=InlineBytes(content),
    )._replace(**more)  # fmt: skip


def directory(path: str, mode: int = 0o755) -> Entry:
    return Entry(path, Kind.DIRECTORY, mode, 7, 8, TIME * SECOND)


def special(path: str, kind: Kind, mode: int = 0o600, **more: object) -> Entry:
    return Entry(path, kind, mode, 7, 8, TIME * SECOND)._replace(**more)


PARENTS = ["/".join(DEEP.split("/")[: depth + 1]) for depth in range(4)]
FILES: Changeset = (
    directory("d", 0o2750),
    file("d/a", b"content", 0o4711),
    file(LATIN, b"latin"),
    special("d/same", Kind.HARDLINK, 0o4711, link="d/a"),
    *map(directory, PARENTS),
    file(f"{DEEP}/{'f' * 255}", b"far"),
    file("na\u00efve \u2603", b"utf-8"),
    special("link", Kind.SYMLINK, 0o777, link="t" * 300),
    file("x", b"xattrs", xattrs=XATTRS),
)
NODES: Changeset = (
    special("n/block", Kind.BLOCK, 0o660, device=(259, 65537)),
    special("n/null", Kind.CHARACTER, 0o666, device=(1, 3)),
    special("n/pipe", Kind.FIFO, 0o622),
    file("n/owner", b"x", uid=MOST, gid=MOST),
    file("n/old", mtime=-1 * SECOND),
    file("n/late", mtime=(1 << 35) * SECOND),
)


def tar(*entries: Entry) -> bytes:
    out = io.BytesIO()
    pack(entries, out, Plain())
    return out.getvalue()


Found = dict[str, tuple[Kind, int, int, int, int, int, str]]
"""Path to kind, mode, uid, gid, size, seconds, link or device."""


def expected(entries: Changeset) -> Found:
    return {
        entry.path: (
            entry.kind, entry.mode, entry.uid, entry.gid, entry.size, entry.mtime // SECOND,
            ",".join(map(str, entry.device)) if any(entry.device) else entry.link,
        )
        for entry in entries
    }  # fmt: skip


LETTERS = {
    "-": Kind.FILE, "d": Kind.DIRECTORY, "l": Kind.SYMLINK, "h": Kind.HARDLINK,
    "c": Kind.CHARACTER, "b": Kind.BLOCK, "p": Kind.FIFO,
}  # fmt: skip
LINE = re.compile(
    rb"(?P<kind>.)(?P<mode>\S{9}) (?P<uid>\d+)/(?P<gid>\d+) +(?P<size>[\d,]+) "
    rb"(?P<time>-?\d+) (?P<path>.*?)(?: -> (?P<to>.*)| link to (?P<first>.*))?"
)


def of_gnu_tar(content: bytes) -> Found:
    command = ["tar", "-tv", "--numeric-owner", "--full-time", "--quoting-style=literal"]
    listed = subprocess.run(command, input=content, check=True, capture_output=True).stdout
    found: Found = {}
    for line in listed.splitlines():
        stamp = re.search(rb" (-?\d+-\d\d-\d\d \d\d:\d\d:\d\d) ", line)
        assert stamp is not None
        seconds = subprocess.run(
            ["date", "-d", stamp[1].decode(), "+%s"], check=True, capture_output=True
        ).stdout.strip()
        match = LINE.fullmatch(line.replace(stamp[1], seconds))
        assert match is not None, line
        kind, sizes = LETTERS[match["kind"].decode()], match["size"].decode()
        node = kind in (Kind.CHARACTER, Kind.BLOCK)
        found[os.fsdecode(match["path"].rstrip(b"/"))] = (
            kind, mode_of(match["mode"].decode()), int(match["uid"]), int(match["gid"]),
            0 if node else int(sizes), int(match["time"]),
            sizes if node else os.fsdecode(match["to"] or match["first"] or b""),
        )  # fmt: skip
    return found


def mode_of(letters: str) -> int:
    """`rwsr-x--t` as a number."""
    mode = sum(1 << (8 - n) for n, one in enumerate(letters) if one not in "-ST")
    return mode | sum(
        bit for at, bit in ((2, 0o4000), (5, 0o2000), (8, 0o1000)) if letters[at] in "sStT"
    )


MTREE = {"dir": Kind.DIRECTORY, "link": Kind.SYMLINK, "char": Kind.CHARACTER, "block": Kind.BLOCK,
         "fifo": Kind.FIFO, "file": Kind.FILE}  # fmt: skip


def of_bsdtar(content: bytes) -> Found:
    """By way of its mtree(5) form, which tells everything but what a hard link is."""
    command = ["bsdtar", "-c", "-f", "-", "--format=mtree", "--options=mtree:!all,mtree:type,"
               "mtree:mode,mtree:uid,mtree:gid,mtree:size,mtree:time,mtree:link,mtree:device",
               "@-"]  # fmt: skip
    listed = subprocess.run(command, input=content, check=True, capture_output=True).stdout
    found: Found = {}
    for line in listed.decode().splitlines()[1:]:
        name, *words = line.split(" ")
        values = dict(word.partition("=")[::2] for word in words)
        kind = MTREE[values["type"]]
        device = values.get("device", "").removeprefix("native,")
        found[unescaped(name).removeprefix("./")] = (
            kind, int(values["mode"], 8), int(values["uid"]), int(values["gid"]),
            int(values.get("size", "0")), int(values["time"].partition(".")[0]),
            device or unescaped(values.get("link", "")),
        )  # fmt: skip
    return found


def unescaped(text: str) -> str:
    octal = re.compile(rb"\\(\d{3})")
    return os.fsdecode(octal.sub(lambda one: bytes([int(one[1], 8)]), text.encode()))


TYPES = {
    tarfile.REGTYPE: Kind.FILE, tarfile.DIRTYPE: Kind.DIRECTORY, tarfile.SYMTYPE: Kind.SYMLINK,
    tarfile.LNKTYPE: Kind.HARDLINK, tarfile.CHRTYPE: Kind.CHARACTER, tarfile.BLKTYPE: Kind.BLOCK,
    tarfile.FIFOTYPE: Kind.FIFO,
}  # fmt: skip


def of_tarfile(content: bytes) -> Found:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return {
            one.name: (
                TYPES[one.type], one.mode, one.uid, one.gid, one.size, int(one.mtime),
                f"{one.devmajor},{one.devminor}" if one.isdev() and not one.isfifo()
                else one.linkname,
            )
            for one in archive
        }  # fmt: skip


@pytest.mark.parametrize("reader", [of_gnu_tar, of_bsdtar, of_tarfile])
def test_every_reader_finds_what_was_written(reader: Callable[[bytes], Found]) -> None:
    wanted = expected((*FILES, *NODES))
    if reader is of_bsdtar:
        wanted["d/same"] = (Kind.FILE, *wanted["d/same"][1:-1], "")
    assert reader(tar(*FILES, *NODES)) == wanted


def test_a_file_of_nine_gibibytes(tmp_path: Path) -> None:
    """Its header says so; the bytes behind it are not needed for that."""
    size = 9 << 30
    with (tmp_path / "big").open("wb") as stream:
        stream.truncate(size)
    entry = file("big", size=size, source=PathBytes(str(tmp_path / "big")))
    pieces: list[bytes] = []

    def sink(piece: memoryview) -> None:
        pieces.append(bytes(piece))
        raise EOFError

    with pytest.raises(EOFError):
        TarWriter(sink).add(entry)
    head = pieces[0]
    with tarfile.open(fileobj=io.BytesIO(head), mode="r|") as archive:
        first = archive.next()
    assert first is not None and first.size == size
    for command in (["tar", "-tv", "--numeric-owner"], ["bsdtar", "-tvf", "-"]):
        listed = subprocess.run(command, input=head, capture_output=True)
        assert re.search(rb" %d .* big\n" % size, listed.stdout), listed
        assert listed.returncode


def gnu_tar(content: bytes, into: Path) -> Path:
    command = ["tar", "-xp", "--xattrs", "--xattrs-include=*", "-C", str(into)]
    subprocess.run(command, input=content, check=True)
    return into


def bsdtar(content: bytes, into: Path) -> Path:
    command = ["bsdtar", "-xp", "--xattrs", "-f", "-", "-C", str(into)]
    subprocess.run(command, input=content, check=True)
    return into


def umoci(content: bytes, into: Path) -> Path:
    """By way of an image of one layer, in a layout that our output writes."""
    blobs, compression = Blobs(str(into / "blobs")), Gzip()
    (into / "blobs").mkdir()
    with blobs.ingest() as ingest:
        packed = pack(FILES, ingest, compression)
        ingest.commit_as(packed.digest, packed.size)
    descriptor = Descriptor(compression.media_type, packed.digest, packed.size)
    created = "1970-01-01T00:00:00Z"
    config = ImageConfig(
        Platform.parse("linux/amd64"), Execution(), (packed.diff_id,), (History("", created),), created
    )  # fmt: skip
    image = Image.create(config, (Layer(descriptor, packed.diff_id),))
    layout = into / "layout"
    LayoutDirectory(str(layout), "x:1").write(image, lambda one: blobs.open(one.digest))
    command = ["umoci", "unpack", "--rootless", "--image", f"{layout}:1", str(into / "bundle")]
    subprocess.run(command, check=True, capture_output=True)
    return into / "bundle/rootfs"


@pytest.mark.parametrize("unpack", [gnu_tar, bsdtar, umoci])
def test_every_reader_unpacks_what_was_written(
    unpack: Callable[[bytes, Path], Path], tmp_path: Path
) -> None:
    root = unpack(tar(*FILES), tmp_path)
    kept = 0o777 if unpack is bsdtar else 0o7777  # bsdtar: no setuid for an owner it may not set
    for entry in FILES:
        path = root / entry.path
        status = path.lstat()
        assert int(status.st_mtime) == TIME or entry.kind is Kind.SYMLINK or unpack is umoci
        if entry.kind is Kind.SYMLINK:
            assert os.readlink(path) == entry.link
            continue
        assert status.st_mode & kept == entry.mode & kept, entry.path
        if isinstance(entry.source, InlineBytes):
            assert path.read_bytes() == entry.source.content
    assert (root / "d/same").samefile(root / "d/a")
    assert {name: os.getxattr(root / "x", name) for name in dict(XATTRS)} == dict(XATTRS)
