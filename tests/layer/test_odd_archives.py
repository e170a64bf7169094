"""Archives that are odd but legal: all of them are accepted, and mean what Docker makes of them."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import pytest

from assembler.layer.apply import unpack
from assembler.layer.archive import expand
from assembler.layer.changeset import InlineBytes
from tests.bounds import watchdog
from tests.layer.archives import GID, UID, ZEROS, pax, raw, record


def shape(top: Path) -> dict[str, str]:
    found = {}
    for path in (Path(at, name) for at, dirs, files in os.walk(top) for name in dirs + files):
        status = path.lstat()
        name = os.fsencode(path.relative_to(top)).decode("utf-8", "backslashreplace")
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        else:
            readable = os.access(path, os.R_OK) and stat.S_ISREG(status.st_mode)
            found[name] = path.read_text() if readable else "/" * stat.S_ISDIR(status.st_mode)
        if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
            found[name] += f" ×{status.st_nlink}"
    return found


FILE = raw(b"f", b"1")
ODD: dict[str, tuple[bytes, dict[str, str]]] = {
    "kaniko 330: a link to itself": (raw(b"bin/dash", kind=b"2", link=b"dash"), {"bin": "/", "bin/dash": "-> dash"}),
    "kaniko 330: links in a circle": (
        raw(b"a", kind=b"2", link=b"b") + raw(b"b", kind=b"2", link=b"a"), {"a": "-> b", "b": "-> a"}),
    "kaniko 440: cacerts with more `..` than it is deep": (
        raw(b"jre/cacerts", kind=b"2", link=b"../../../../etc/pki/java/cacerts"),
        {"jre": "/", "jre/cacerts": "-> ../../../../etc/pki/java/cacerts"}),
    "a link of 4,095 bytes": (
        raw(b"l", b"t" * 4095 + b"\0", kind=b"K") + raw(b"l", kind=b"2"), {"l": "-> " + "t" * 4095}),
    "a dangling link": (raw(b"l", kind=b"2", link=b"/no/where"), {"l": "-> /no/where"}),
    "./ before all names": (
        raw(b"./", kind=b"5") + raw(b"./d/", kind=b"5") + raw(b"./d/f", b"1"), {"d": "/", "d/f": "1"}),
    "/ before all names": (raw(b"/", kind=b"5") + raw(b"/d/", kind=b"5") + raw(b"/d/f", b"1"), {"d": "/", "d/f": "1"}),
    "superfluous slashes and dots": (raw(b".//d/./e//f", b"1"), {"d": "/", "d/e": "/", "d/e/f": "1"}),
    "no entries for directories": (raw(b"a/b/c", b"1"), {"a": "/", "a/b": "/", "a/b/c": "1"}),
    "a directory after what is in it": (raw(b"d/f", b"1") + raw(b"d/", kind=b"5"), {"d": "/", "d/f": "1"}),
    "a directory without a slash": (raw(b"d", kind=b"5") + raw(b"d/f", b"1"), {"d": "/", "d/f": "1"}),
    "a directory of a header before ustar": (raw(b"d/", kind=b"\0", magic=b""), {"d": "/"}),
    "a directory by its slash": (raw(b"d/", kind=b"0"), {"d": "/"}),
    "a directory twice": (raw(b"d/", kind=b"5") * 2, {"d": "/"}),
    "a v7 header": (raw(b"f", b"1", kind=b"\0", magic=b"\0" * 8), {"f": "1"}),
    "a contiguous file": (raw(b"f", b"1", kind=b"7"), {"f": "1"}),
    "a GNU header": (raw(b"f", b"1", magic=b"ustar  \0"), {"f": "1"}),
    "a prefix": (raw(b"f", b"1", at=(345, b"some/where")), {"some": "/", "some/where": "/", "some/where/f": "1"}),
    "a name of 100 bytes without a zero": (raw(b"n" * 100, b"1"), {"n" * 100: "1"}),
    "a GNU long name": (raw(b"././@LongLink", b"n" * 200 + b"\0", kind=b"L") + FILE, {"n" * 200: "1"}),
    "a GNU long name without a zero": (raw(b"././@LongLink", b"n" * 200, kind=b"L") + FILE, {"n" * 200: "1"}),
    "a GNU long name and a pax path": (
        raw(b"././@LongLink", b"gnu\0", kind=b"L") + pax(record(b"path", b"pax")) + FILE, {"gnu": "1"}),
    "a pax link and a GNU long link": (
        pax(record(b"linkpath", b"pax")) + raw(b"././@LongLink", b"gnu\0", kind=b"K") + raw(b"l", kind=b"2"),
        {"l": "-> gnu"}),
    "a long name that is short": (raw(b"././@LongLink", b"n\0", kind=b"L") + FILE, {"n": "1"}),
    "a name of 255 bytes": (pax(record(b"path", b"n" * 255)) + FILE, {"n" * 255: "1"}),
    "names of 255 bytes, 15 deep": (pax(record(b"path", b"/".join([b"n" * 255] * 15))) + FILE,
        {"/".join(["n" * 255] * n): "/" for n in range(1, 15)} | {"/".join(["n" * 255] * 15): "1"}),
    "a base-256 size": (raw(b"f", b"1", size=b"\x80" + bytes(10) + b"\1"), {"f": "1"}),
    "base-256 owners": (raw(b"f", b"1", at=(108, b"\x80\0\0\0" + UID.to_bytes(4, "big") + b"\x80\0\0\0" + GID.to_bytes(4, "big"))), {"f": "1"}),
    "a time before 1970": (raw(b"f", b"1", at=(136, b"\xff" * 12)), {"f": "1"}),
    "numbers with leading blanks": (raw(b"f", b"1", size=b"          1 "), {"f": "1"}),
    "numbers without an end": (raw(b"f", b"1", mode=b"00000644", size=b"000000000001"), {"f": "1"}),
    "empty numbers": (raw(b"f", mode=b"\0" * 8, size=b" " * 12, at=(136, b"\0" * 12)), {"f": ""}),
    "a checksum of signed bytes": (b"", {}),
    "an empty pax header": (raw(b"p", kind=b"x") + FILE, {"f": "1"}),
    "padding among pax records": (raw(b"p", record(b"path", b"x") + bytes(20), kind=b"x") + FILE, {"x": "1"}),
    "unknown pax records": (pax(record(b"VENDOR.what", b"\0\xff="), record(b"comment", b"c")) + FILE, {"f": "1"}),
    "a pax value with newlines": (pax(record(b"path", b"a\nb")) + FILE, {"a\nb": "1"}),
    "pax twice, the last one wins": (pax(record(b"path", b"x")) + pax(record(b"path", b"y")) + FILE, {"y": "1"}),
    "an empty pax value means the header's": (pax(record(b"path", b""), record(b"size", b"")) + FILE, {"f": "1"}),
    "a global header of git": (pax(record(b"comment", b"c" * 40), kind=b"g") + FILE, {"f": "1"}),
    "a volume header": (raw(b"label", kind=b"V") + FILE, {"f": "1"}),
    "a Solaris extended header": (pax(record(b"path", b"x"), kind=b"X") + FILE, {"x": "1"}),
    "a hard link after its file": (FILE + raw(b"g", kind=b"1", link=b"f"), {"f": "1 ×2", "g": "1 ×2"}),
    "a hard link by ./": (FILE + raw(b"./g", kind=b"1", link=b"./f"), {"f": "1 ×2", "g": "1 ×2"}),
    "a hard link by /": (FILE + raw(b"g", kind=b"1", link=b"/f"), {"f": "1 ×2", "g": "1 ×2"}),
    "a hard link with a size": (FILE + raw(b"g", kind=b"1", link=b"f", size=b"00000000001\0"), {"f": "1 ×2", "g": "1 ×2"}),
    "a hard link to a symbolic link": (raw(b"s", kind=b"2", link=b"/x") + raw(b"h", kind=b"1", link=b"s"), {"s": "-> /x", "h": "-> /x"}),
    "a hard link through a link": (
        raw(b"d/f", b"1") + raw(b"l", kind=b"2", link=b"d") + raw(b"g", kind=b"1", link=b"l/f"),
        {"d": "/", "d/f": "1 ×2", "g": "1 ×2", "l": "-> d"}),
    "a chain of hard links": (
        FILE + raw(b"g", kind=b"1", link=b"f") + raw(b"h", kind=b"1", link=b"g"), {"f": "1 ×3", "g": "1 ×3", "h": "1 ×3"}),
    "a directory with a size": (raw(b"d/", kind=b"5", size=b"00000010000\0") + FILE, {"d": "/", "f": "1"}),
    "the end without zeros": (FILE, {"f": "1"}),
    "one block of zeros": (FILE + bytes(512), {"f": "1"}),
    "records of 10,240 bytes": (FILE + bytes(9_216), {"f": "1"}),
    "something after the end": (FILE + ZEROS + b"a signature", {"f": "1"}),
    "nothing": (b"", {}),
    "only zeros": (bytes(10_240), {}),
    "a name that is no UTF-8": (raw(b"caf\xe9", b"1"), {"caf\\xe9": "1"}),
    "the same letters in another case and form": (
        raw(b"A", b"1") + raw(b"a", b"2") + raw(b"\xc3\xa9", b"3") + raw(b"e\xcc\x81", b"4"),
        {"A": "1", "a": "2", "\u00e9": "3", "e\u0301": "4"}),
    "a file of no mode": (raw(b"f", mode=b"0000000\0"), {"f": ""}),
    "file type bits in the mode": (raw(b"f", b"1", mode=b"0100644\0"), {"f": "1"}),
}  # fmt: skip


def signed() -> bytes:
    """A header whose checksum was made of signed bytes, by tars older than POSIX."""
    header = bytearray(raw(b"\xe9", b"1"))
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(byte - 256 * (byte > 127) for byte in header[:512])
    return bytes(header)


ODD["a checksum of signed bytes"] = signed(), {"\\xe9": "1"}


@pytest.mark.parametrize("name", ODD)
def test_odd_but_legal_layers(tmp_path: Path, name: str) -> None:
    content, expected = ODD[name]
    ended = name in ("the end without zeros", "one block of zeros", "something after the end")
    into = tmp_path / "into"
    into.mkdir()
    unpack(io.BytesIO(content if ended else content + ZEROS), str(into))
    assert shape(into) == expected


@pytest.mark.parametrize("name", ODD)
def test_B9_the_same_archives_by_add(tmp_path: Path, name: str) -> None:
    content, expected = ODD[name]
    found = {entry.path for entry in expand(InlineBytes(content + ZEROS), str(tmp_path))}
    spelled = {os.fsencode(path).decode("utf-8", "backslashreplace") for path in found - {""}}
    implied = {path for path, shown in expected.items() if shown == "/"}
    assert spelled | implied == set(expected)


def test_T8_special_files_hang_nobody(tmp_path: Path) -> None:
    """TR-04. Each twice and in the other's place: what is there already is never opened."""
    fifo = raw(b"a", kind=b"6")
    devices = [raw(b"a", kind=kind, at=(329, b"0000001\0" * 2)) for kind in (b"3", b"4")]
    below = (
        raw(b"d/a", kind=b"6") + raw(b"d", kind=b"6") + raw(b"d/", kind=b"5") + raw(b"d/a", b"1")
    )
    with watchdog():
        for number, content in enumerate((fifo * 2, fifo + raw(b"a", b"1") + fifo, below)):
            into = tmp_path / str(number)
            into.mkdir()
            unpack(io.BytesIO(content + ZEROS), str(into))
        for number, device in enumerate(devices):
            into = tmp_path / f"device-{number}"
            into.mkdir()
            unpack(io.BytesIO(fifo + device + device + fifo + ZEROS), str(into))
            assert stat.S_ISFIFO((into / "a").lstat().st_mode)
    assert (tmp_path / "2/d/a").read_bytes() == b"1"


def test_T16_special_bits_and_attributes_are_kept(tmp_path: Path) -> None:
    records = pax(
        record(b"SCHILY.xattr.user.a", b"\0\xff"), record(b"LIBARCHIVE.xattr.user.a", b"AP8=")
    )
    content = (
        records + raw(b"f", b"1", mode=b"0006755\0") + raw(b"d/", kind=b"5", mode=b"0003777\0")
    )
    unpack(io.BytesIO(content + ZEROS), str(tmp_path))
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o6755
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o3777
    assert os.getxattr(tmp_path / "f", "user.a") == b"\0\xff"
