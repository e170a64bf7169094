"""Packing: one order, one result, and no thread left behind."""

from __future__ import annotations

import hashlib
import io
import random
import signal
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assembler.errors import Cancelled, ContextChanged
from assembler.layer.changeset import Entry, InlineBytes, Kind, PathBytes
from assembler.layer.compression import Compression, Gzip, Plain, Zstd
from assembler.layer.decompression import reader
from assembler.layer.tar_reader import read
from assembler.layer.write import Packed, canonical, pack
from tests.leftovers import nothing_left

RELAXED = settings(deadline=None, suppress_health_check=list(HealthCheck))


def file(path: str, content: bytes = b"") -> Entry:
    return Entry(path, Kind.FILE, size=len(content), source=InlineBytes(content))


def directory(path: str) -> Entry:
    return Entry(path, Kind.DIRECTORY, 0o755)


PLAIN = Plain()


def packed(entries: list[Entry], compression: Compression = PLAIN) -> tuple[Packed, bytes]:
    out = io.BytesIO()
    return pack(entries, out, compression), out.getvalue()


CHANGESET = [
    directory(""),
    directory("a"),
    Entry("a", Kind.OPAQUE),
    file("a/b", b"1"),
    directory("a/c"),
    file("a/c/d", b"2"),
    Entry("a/c", Kind.WHITEOUT),
    file("a-b", b"3"),
    file("a.b", b"4"),
    Entry("z", Kind.WHITEOUT),
    Entry("link", Kind.SYMLINK, link="a"),
]


@RELAXED
@given(st.permutations(CHANGESET))
def test_the_order_of_entries_does_not_show(entries: list[Entry]) -> None:
    assert packed(entries) == packed(CHANGESET)


def test_Z1_the_order_is_that_of_a_sorted_walk() -> None:
    assert [(entry.path, entry.kind.value) for entry in canonical(reversed(CHANGESET))] == [
        ("", "directory"),
        ("a", "directory"),
        ("a", "opaque"),
        ("a/b", "file"),
        ("a/c", "whiteout"),
        ("a/c", "directory"),
        ("a/c/d", "file"),
        ("a-b", "file"),
        ("a.b", "file"),
        ("link", "symlink"),
        ("z", "whiteout"),
    ]


@pytest.mark.parametrize("order", [0, 1, 2])
def test_the_first_name_of_a_file_carries_it(order: int) -> None:
    names = ["a", "b", "c"]
    data = names.pop(order)
    entries = [file(data, b"content")]
    entries += [Entry(name, Kind.HARDLINK, link=data) for name in names]
    _, blob = packed(entries)
    found = [
        (entry.path, entry.kind, entry.link, body.read()) for entry, body in read(io.BytesIO(blob))
    ]
    assert found == [
        ("a", Kind.FILE, "", b"content"),
        ("b", Kind.HARDLINK, "a", b""),
        ("c", Kind.HARDLINK, "a", b""),
    ]


def test_of_two_entries_for_a_path_the_last_counts() -> None:
    assert packed([file("a", b"1"), file("a", b"2")]) == packed([file("a", b"2")])


@pytest.mark.parametrize("compression", [Plain(), Gzip(threads=1), Gzip(threads=2), Zstd()])
def test_what_is_reported_is_what_was_written(compression: Compression) -> None:
    content = random.Random(3).randbytes(2_500_000)
    result, blob = packed([file("a", content), file("b", b"x")], compression)
    tar = reader(io.BytesIO(blob)).read()
    assert result.digest.hex == hashlib.sha256(blob).hexdigest()
    assert result.diff_id.hex == hashlib.sha256(tar).hexdigest()
    assert (result.size, result.uncompressed_size, result.entries) == (len(blob), len(tar), 2)


def test_each_file_is_hashed_on_the_way(tmp_path: Path) -> None:
    contents = {
        "empty": b"",
        "large": random.Random(5).randbytes(2_300_000),
        "small": b"content",
        "text": b"inline",
        "up to the arena": bytes(1 << 20),
    }
    entries = []
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        source = PathBytes(str(tmp_path / name)) if name != "text" else InlineBytes(content)
        entries.append(Entry(name, Kind.FILE, size=len(content), source=source))
    found: dict[str, bytes] = {}
    more = [directory("d"), Entry("link", Kind.HARDLINK, link="small")]
    pack(
        [*entries, *more],
        io.BytesIO(),
        PLAIN,
        seen=lambda entry, digest: found.update({entry.path: digest}),
    )
    assert found.pop("link") == hashlib.sha256(contents.pop("small")).digest()  # carries the data
    assert found == {name: hashlib.sha256(one).digest() for name, one in contents.items()}


def test_epoch_caps_times() -> None:
    out = io.BytesIO()
    pack([Entry("a", Kind.DIRECTORY, mtime=99 * 10**9)], out, Plain(), epoch=7)
    assert next(iter(read(io.BytesIO(out.getvalue()))))[0].mtime == 7 * 10**9


class Full:
    """A sink that fails after a while."""

    def __init__(self) -> None:
        self.left = 3

    def write(self, data: bytes, /) -> int:
        self.left -= 1
        if not self.left:
            raise OSError(28, "No space left on device")
        return len(data)


@pytest.mark.parametrize("compression", [Plain(), Gzip(threads=2), Zstd(threads=2)])
def test_a_failing_sink_stops_everything(compression: Compression) -> None:
    noise = random.Random(3).randbytes(1_000_000)
    with nothing_left(), pytest.raises(OSError, match="No space"):
        pack([file(f"f{number:03}", noise) for number in range(60)], Full(), compression)


@pytest.mark.parametrize("compression", [Plain(), Gzip(threads=2), Zstd(threads=2)])
def test_cancelling_stops_everything(compression: Compression) -> None:
    calls = iter(range(40))

    def check() -> None:
        if next(calls, None) is None:
            raise Cancelled()

    entries = [file(f"f{number}", bytes(1_000_000)) for number in range(60)]
    with nothing_left(), pytest.raises(Cancelled):
        pack(entries, io.BytesIO(), compression, check=check)


class Slow:
    """A sink that is never done, so that packing waits for it; after a while somebody presses
    Ctrl-C."""

    def __init__(self) -> None:
        self.turns = iter(range(15))

    def write(self, data: bytes | memoryview, /) -> int:
        time.sleep(0.02)
        if next(self.turns, None) == 14:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)
        return len(data)


@pytest.mark.parametrize("compression", [Plain(), Gzip(threads=2), Zstd(threads=2)])
def test_ctrl_c_leaves_no_thread_and_no_file_open(tmp_path: Path, compression: Compression) -> None:
    (tmp_path / "f").write_bytes(random.Random(3).randbytes(900_000))
    source = PathBytes(str(tmp_path / "f"))
    entries = [Entry(f"f{n}", Kind.FILE, size=900_000, source=source) for n in range(2_000)]

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    handler = signal.signal(signal.SIGALRM, interrupted)
    try:
        with nothing_left(), pytest.raises(KeyboardInterrupt):
            pack(entries, Slow(), compression)
    finally:
        signal.signal(signal.SIGALRM, handler)


def test_a_source_that_changed_stops_everything(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12")
    entry = Entry("f", Kind.FILE, size=1, source=PathBytes(str(tmp_path / "f")))
    with nothing_left(), pytest.raises(ContextChanged):
        pack([entry], io.BytesIO(), Gzip())


class Dribble:
    """A sink that takes a few bytes at a time, as an unbuffered pipe may."""

    def __init__(self) -> None:
        self.content = b""

    def write(self, data: bytes, /) -> int:
        self.content += data[:1000]
        return min(1000, len(data))


def test_short_writes_lose_nothing() -> None:
    sink = Dribble()
    result = pack([file("a", bytes(5000))], sink, Plain())
    assert hashlib.sha256(sink.content).hexdigest() == result.digest.hex
