"""Files as one tar (rules O1, T2, Z1): where it goes, and that a reader finds what there was."""

from __future__ import annotations

import io
import os
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from assembler.cancellation import nothing
from assembler.errors import Cancelled, StoreError
from assembler.layer.changeset import Entry, InlineBytes, Kind, PathBytes
from assembler.layer.tree import ChangesetTree, MergedTree
from assembler.output.tarball import Tarball

SECOND = 1_000_000_000


def file(path: str, text: bytes = b"", **more: object) -> Entry:
    content = InlineBytes(text)
    return Entry(path, Kind.FILE, size=len(text), source=content, **more)  # type: ignore[arg-type]


ENTRIES = (
    Entry("d", Kind.DIRECTORY, 0o2751, 3, 4, mtime=9 * SECOND),
    file("d/f", b"content", mode=0o4755, uid=5, gid=6, xattrs=(("user.x", b"y"),)),
    Entry("d/g", Kind.HARDLINK, link="d/f"),
    file("d/.wh.f", b"no whiteout here"),
    Entry("d/l", Kind.SYMLINK, 0o777, uid=7, link="../../x"),
    Entry("n", Kind.CHARACTER, 0o666, device=(1, 3)),
    Entry("p", Kind.FIFO, 0o622),
)


def write(
    path: str | Path,
    *entries: Entry,
    epoch: int | None = None,
    check: Callable[[], None] = nothing,
) -> None:
    Tarball(str(path), epoch).write(MergedTree((ChangesetTree(entries),)), check)


def members(content: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return {member.name: member for member in archive}


def test_O1_owners_links_attributes_and_nodes_are_kept(tmp_path: Path) -> None:
    write(tmp_path / "made/too/x.tar", *reversed(ENTRIES[:1]), *ENTRIES[1:])
    found = members((tmp_path / "made/too/x.tar").read_bytes())
    assert list(found) == ["d", "d/.wh.f", "d/f", "d/g", "d/l", "n", "p"], "sorted, no root"
    owners = {name: (one.mode, one.uid, one.gid) for name, one in found.items() if one.uid}
    assert owners == {
        "d": (0o2751, 3, 4), "d/f": (0o4755, 5, 6), "d/g": (0o4755, 5, 6), "d/l": (0o777, 7, 0),
    }  # fmt: skip
    assert found["d/f"].pax_headers["SCHILY.xattr.user.x"] == "y"
    assert (found["d/g"].type, found["d/g"].linkname) == (tarfile.LNKTYPE, "d/f")
    assert (found["d/l"].linkname, found["n"].devminor) == ("../../x", 3)


def test_T2_the_same_files_are_the_same_bytes_and_an_epoch_their_time(tmp_path: Path) -> None:
    write(tmp_path / "one", *ENTRIES, epoch=5)
    write(tmp_path / "two", *(one._replace(mtime=one.mtime + 1) for one in ENTRIES), epoch=5)
    content = (tmp_path / "one").read_bytes()
    assert content == (tmp_path / "two").read_bytes()
    assert {one.mtime for one in members(content).values()} == {5}


def test_a_file_is_whole_or_what_it_was(tmp_path: Path) -> None:
    def check() -> None:
        raise Cancelled

    (tmp_path / "x.tar").write_bytes(b"old")
    with pytest.raises(Cancelled):
        write(tmp_path / "x.tar", *ENTRIES, check=check)
    assert os.listdir(tmp_path) == ["x.tar"] and (tmp_path / "x.tar").read_bytes() == b"old"
    write(tmp_path / "x.tar", *ENTRIES)
    assert "d/f" in members((tmp_path / "x.tar").read_bytes())


def test_what_is_no_file_is_written_to_and_stays(tmp_path: Path) -> None:
    """`-o type=tar,dest=>(gzip > x)`: a shell's word for a pipe."""
    pipe, found = tmp_path / "pipe", bytearray()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.extend(pipe.read_bytes()))
    reader.start()
    write(pipe, *ENTRIES)
    reader.join()
    assert "d/f" in members(bytes(found)) and pipe.is_fifo()


def test_a_pipe_that_nobody_opens_can_be_given_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    looks: list[int] = []

    def check() -> None:
        looks.append(1)
        if len(looks) > 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        write(tmp_path / "pipe", *ENTRIES, check=check)
    os.close(os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK))  # ends the open(2)


def test_a_pipe_whose_reader_has_gone_and_one_that_does_not_block() -> None:
    from assembler.output.stream import sink

    reader, writer = os.pipe2(os.O_NONBLOCK)
    found = bytearray()

    def read() -> None:
        os.set_blocking(reader, True)
        while piece := os.read(reader, 1 << 16):
            found.extend(piece)

    thread = threading.Thread(target=read)
    with os.fdopen(writer, "wb", buffering=0) as stream:
        put = sink(stream, nothing)
        thread.start()
        put(memoryview(b"x" * 1_000_000))
    thread.join()
    os.close(reader)
    assert len(found) == 1_000_000
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb", buffering=0) as stream, pytest.raises(BrokenPipeError):
        sink(stream, nothing)(memoryview(b"x"))


def test_a_directory_in_the_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=str(tmp_path)):
        write(tmp_path, *ENTRIES)


def test_a_file_of_8_gib_passes_in_pieces(tmp_path: Path) -> None:
    from assembler.output.tarball import Tarball as Packer

    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(8 << 30)
    source = PathBytes(str(tmp_path / "sparse"))
    big = Entry("f", Kind.FILE, size=8 << 30, source=source)
    largest = 0

    class Pieces(io.RawIOBase):
        def write(self, data: memoryview) -> int:  # type: ignore[override]
            nonlocal largest
            largest = max(largest, len(data))
            if len(seen) >= 64:
                raise Cancelled
            seen.append(len(data))
            return len(data)

    seen: list[int] = []
    with pytest.raises(Cancelled):
        Packer("-")._pack(MergedTree((ChangesetTree((big,)),)), Pieces(), nothing)  # type: ignore[arg-type]
    assert largest <= 1 << 20
