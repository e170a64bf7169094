"""T10, T11, T12, T15: tars that are refused, each for its own reason, and what it may cost."""

from __future__ import annotations

import io
import os

import pytest

from assembler.errors import BadArchive
from assembler.layer.changeset import Kind
from assembler.layer.limits import DEFAULT_LIMITS, Limits
from assembler.layer.tar_reader import read
from tests.bounds import cpu_seconds
from tests.layer.archives import ZEROS, Endless, listed, pax, raw, record

ONE = raw(b"one", b"1")
LAST = raw(b"last", b"2") + ZEROS


def size_of(text: bytes) -> bytes:
    return raw(b"one", size=text)


LARGE = {
    "pax 200 MB": raw(b"p", kind=b"x", size=b"%011o\0" % 200_000_000),
    "pax of 1 MiB and a byte": raw(b"p", kind=b"x", size=b"%011o\0" % ((1 << 20) + 1)),
    "pax of 8 EiB": raw(b"p", kind=b"x", size=b"\x80" + bytes(3) + b"\x7f" + b"\xff" * 7),
    "global pax 200 MB": raw(b"p", kind=b"g", size=b"%011o\0" % 200_000_000),
    "long name 200 MB": raw(b"p", kind=b"L", size=b"%011o\0" % 200_000_000),
    "long link 200 MB": raw(b"p", kind=b"K", size=b"%011o\0" % 200_000_000),
    "volume header 200 MB": raw(b"p", kind=b"V", size=b"%011o\0" % 200_000_000),
}


@pytest.mark.parametrize("name", LARGE)
def test_T10_large_headers_are_refused_before_they_are_read(name: str) -> None:
    stream = Endless(LARGE[name])
    with pytest.raises(BadArchive, match="extended header of"):
        list(read(io.BufferedReader(stream, 8 << 10)))
    assert stream.count <= 8 << 10


T10 = {
    "records": pax(*(record(b"k%d" % n, b"") for n in range(1_001))) + ONE,
    "path": pax(record(b"path", b"n" * 4_097)) + ONE,
    "linkpath": pax(record(b"linkpath", b"n" * 4_097)) + raw(b"l", kind=b"2"),
    "long name": raw(b"n", b"n" * 4_097, kind=b"L") + ONE,
    "long link": raw(b"n", b"n" * 4_097, kind=b"K") + raw(b"l", kind=b"2"),
    "xattr": pax(record(b"SCHILY.xattr.user.a", b"x" * 65_537)) + ONE,
    "headers in a row": pax(record(b"a", b"b")) * 101 + ONE,
    "global headers in a row": pax(record(b"a", b"b"), kind=b"g") * 101 + ONE,
    "length of no record": pax(b"99 path=x\n") + ONE,
    "length zero": pax(b"0 path=x\n") + ONE,
    "length negative": pax(b"-9 path=x\n") + ONE,
    "length of many digits": pax(b"9" * 30 + b" path=x\n") + ONE,
    "record without equals": pax(b"9 pathxx\n") + ONE,
    "record without key": pax(b"5 =x\n") + ONE,
    "record without newline": pax(b"9 path=x!") + ONE,
    "key with NUL": pax(record(b"pa\0th", b"x")) + ONE,
    "path with NUL": pax(record(b"path", b"a\0b")) + ONE,
    "link with NUL": pax(record(b"linkpath", b"a\0b")) + raw(b"l", kind=b"2"),
    "sparse name with NUL": pax(
        record(b"GNU.sparse.name", b"a\0b"),
        record(b"GNU.sparse.map", b"0,1"),
        record(b"GNU.sparse.size", b"1"),
    )
    + ONE,
    "for no member": pax(record(b"path", b"x")),
    "name for no member": raw(b"n", b"name\0", kind=b"L"),
}


@pytest.mark.parametrize("name", T10)
def test_T10_extended_headers(name: str) -> None:
    with pytest.raises(BadArchive):
        listed(T10[name] + (LAST if "no member" not in name else ZEROS))


def test_T10_at_the_limits() -> None:
    records = [record(b"k%d" % n, b"") for n in range(996)]
    records += [record(b"SCHILY.xattr.user.a", b"x" * 65_536), record(b"path", b"n" * 4_096)]
    content = pax(*records, record(b"comment", b"c" * 900_000)) + ONE + ZEROS
    ((entry, body),) = listed(content)
    assert (len(entry.path), len(entry.xattrs[0][1]), body) == (4_096, 65_536, b"1")


NUMBERS = {
    "size negative": size_of(b"\xff" * 12),
    "size of base-256 that overflows": size_of(b"\x80" + b"\xff" * 11),
    "size with an 8": size_of(b"00000000008\0"),
    "size of letters": size_of(b"12345678xyz\0"),
    "size with a sign": size_of(b"+0000000001\0"),
    "size with a minus": size_of(b"-0000000001\0"),
    "size with 0o": size_of(b"0o000000001\0"),
    "size with an underscore": size_of(b"0_000000001\0"),
    "size with a blank inside": size_of(b"00000 00001\0"),
    "mode of letters": raw(b"one", mode=b"rwxr-xr\0"),
    "uid negative": raw(b"one", at=(108, b"\xff" * 8)),
    "uid beyond Linux": raw(b"one", at=(108, b"\x80\0\0\0\xff\xff\xff\xff")),
    "gid of letters": raw(b"one", at=(116, b"wheel\0\0\0")),
    "time of letters": raw(b"one", at=(136, b"yesterday\0\0\0")),
    "time beyond everything": raw(b"one", at=(136, b"\x80" + b"\x7f" * 11)),
    "device beyond Linux": raw(b"one", kind=b"3", at=(329, b"7777777\0" * 2)),
    "pax size negative": pax(record(b"size", b"-1")) + ONE,
    "pax size of many digits": pax(record(b"size", b"9" * 30)) + ONE,
    "pax size of 8 EiB": pax(record(b"size", b"%d" % (1 << 63))) + ONE,
    "pax size with an underscore": pax(record(b"size", b"1_0")) + ONE,
    "pax size with a blank": pax(record(b"size", b" 1")) + ONE,
    "pax size in hexadecimal": pax(record(b"size", b"0x1")) + ONE,
    "pax uid": pax(record(b"uid", b"4294967295")) + ONE,
    "pax gid": pax(record(b"gid", b"-1")) + ONE,
    "pax time": pax(record(b"mtime", b"nan")) + ONE,
    "pax time with an exponent": pax(record(b"mtime", b"1e9")) + ONE,
    "pax time beyond everything": pax(record(b"mtime", b"9" * 20)) + ONE,
    "unknown kind": raw(b"one", kind=b"Z"),
    "multi-volume": raw(b"one", kind=b"M"),
    "directory with bytes": raw(b"one/", b"1", kind=b"0"),
    "old directory with bytes": raw(b"one/", b"1", kind=b"\0"),
    "file for the root": raw(b"./."),
    "link to nothing": raw(b"one", kind=b"2"),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_T11_fields(name: str) -> None:
    with pytest.raises(BadArchive):
        listed(NUMBERS[name] + LAST)


def test_T11_the_size_of_pax_wins_so_that_nobody_reads_other_members() -> None:
    """As two readers disagreed in CVE-2025-62518: what is inside a member is no member."""
    hidden = raw(b"hidden", b"x")
    header = raw(b"shown", size=b"00000000000\0")
    content = pax(record(b"size", b"%d" % len(hidden))) + header + hidden + LAST
    assert [(entry.path, body) for entry, body in listed(content)] == [
        ("shown", hidden),
        ("last", b"2"),
    ]


@pytest.mark.parametrize("kind", [b"1", b"2", b"5", b"6", b"3"])
def test_T11_kinds_without_bytes_have_none(kind: bytes) -> None:
    header = raw(b"one", kind=kind, link=b"x", size=b"%011o\0" % 512, at=(329, b"0000001\0" * 2))
    found = [entry.path for entry, _ in listed(header + LAST)]
    assert found == ["one", "last"]
    found = [entry.path for entry, _ in listed(pax(record(b"size", b"512")) + header + LAST)]
    assert found == ["one", "last"]


SOUND = pax(record(b"mtime", b"1.5")) + ONE + raw(b"two", b"2" * 700) + raw(b"three/", kind=b"5")


def test_T12_cut_anywhere() -> None:
    whole = SOUND + ZEROS
    borders = {2048: 1, 3584: 2, 4096: 3}  # the zeros at the end may be missing
    accepted = {}
    for cut in range(1, len(whole)):
        try:
            accepted[cut] = len(listed(whole[:cut]))
        except BadArchive:
            continue
    complete = dict.fromkeys(range(len(SOUND) + 512, len(whole)), 3)
    assert accepted == borders | complete


@pytest.mark.parametrize("at", [0, 1024, 2048, 3584])
def test_T12_a_wrong_checksum_is_no_end(at: int) -> None:
    damaged = SOUND[: at + 3] + bytes([SOUND[at + 3] ^ 1]) + SOUND[at + 4 :] + ZEROS
    with pytest.raises(BadArchive, match="checksum"):
        listed(damaged)


def test_T12_errors_name_the_last_member_that_was_right() -> None:
    for damaged in (SOUND[:-3], SOUND[: 2048 + 3], SOUND[:2048] + b"X" + SOUND[2049:]):
        with pytest.raises(BadArchive, match=r"after '(one|two)'|the bytes of 'two'"):
            listed(damaged)


def test_T12_after_the_end_everything_is_passed_over_and_read() -> None:
    for rest in (b"garbage" * 1000, raw(b"second", b"archive") + ZEROS, b"x"):
        stream = io.BytesIO(SOUND + ZEROS + rest)
        assert len(list(read(stream))) == 3
        assert not stream.read()


def test_T12_one_block_of_zeros_is_no_end_unless_nothing_follows() -> None:
    assert len(listed(SOUND + bytes(512))) == 3
    with pytest.raises(BadArchive, match="single block of zeros"):
        listed(SOUND + bytes(512) + LAST)


def test_T15_members_are_counted() -> None:
    assert DEFAULT_LIMITS.entries == 5_000_000
    with pytest.raises(BadArchive, match="more than 2 members"):
        list(read(io.BytesIO(SOUND + ZEROS), Limits(entries=2)))


def test_T15_5000_deep_paths_are_refused_at_once() -> None:
    with cpu_seconds(1):
        with pytest.raises(BadArchive, match="impossible path"):
            listed(pax(record(b"path", b"d/" * 5_000 + b"f")) + LAST)
        with pytest.raises(BadArchive, match="name of"):
            listed(raw(b"n", b"d/" * 5_000 + b"f\0", kind=b"L") + LAST)


ODD = [
    b"new\nline", b"\x1b[31mred", b"\xff\xfe", b"caf\xe9", b"back\\slash", b"..\\..\\up", b" ",
    b"-rf", b"a:b", b"C:\\x", b"\xe2\x80\xae", b"caf\xc3\xa9", b"cafe\xcc\x81", b"CAFE", b"cafe",
    b"*", b"%s", b"~", b"#", b"a" * 100,
]  # fmt: skip


def test_T15_odd_names_are_names() -> None:
    content = b"".join(raw(name, name) for name in ODD) + ZEROS
    assert [(os.fsencode(entry.path), body) for entry, body in listed(content)] == [
        (name, name) for name in ODD
    ]


def test_T15_errors_say_odd_names_without_their_control_characters() -> None:
    with pytest.raises(BadArchive) as caught:
        listed(raw(b"a\x1b]0;x\x07\n", kind=b"Z"))
    assert caught.value.message.isprintable()


def test_T15_the_name_in_a_header_ends_at_its_first_zero() -> None:
    ((entry, _),) = listed(raw(b"name\0junk") + ZEROS)
    assert (entry.path, entry.kind) == ("name", Kind.FILE)
