"""Summaries of directories: what counts, and that every way to one gives the same (rule C21)."""

from __future__ import annotations

import pytest

from assembler.layer.changeset import Entry, Kind
from assembler.layer.summary import Summary, Summing, plain_directory, record

FILE = Entry("f", Kind.FILE, mode=0o644, uid=1, gid=2, size=3, xattrs=(("user.a", b"1"),))


def summed(*entries: Entry, implied: str = "") -> Summary:
    summing = Summing()
    for entry in entries:
        content = b"1" if entry.kind is Kind.FILE else b""
        summing.add(entry.path, entry, content, implied=entry.path == implied)
    return summing.result()


def test_a_plain_directory_is_recorded_as_any() -> None:
    for name in ("d", "a\udcff", "7:x"):
        assert plain_directory(name, 0o755) == record(name, Entry("", Kind.DIRECTORY, mode=0o755))


@pytest.mark.parametrize(
    "changed",
    [
        FILE._replace(mode=0o600),
        FILE._replace(uid=2, gid=1),
        FILE._replace(xattrs=(("user.a", b"2"),)),
        FILE._replace(xattrs=(("user.", b"a1"),)),
        FILE._replace(link="x"),
        FILE._replace(device=(1, 2)),
        FILE._replace(kind=Kind.FIFO),
    ],
)
def test_C21_whatever_is_copied_makes_another_record(changed: Entry) -> None:
    assert record("f", changed, b"1") != record("f", FILE, b"1")
    assert record("f", FILE._replace(mtime=9, size=9), b"1") == record("f", FILE, b"1")


def test_what_is_in_which_directory_counts() -> None:
    directory, inner = Entry("d", Kind.DIRECTORY), Entry("d/e", Kind.DIRECTORY)
    seen = {
        summed(directory, inner, FILE._replace(path="d/e/f")),
        summed(directory, inner, FILE._replace(path="d/f")),
        summed(directory, inner, FILE),
        summed(directory, Entry("e", Kind.DIRECTORY), FILE),
        summed(directory, inner),
        summed(directory, inner, implied="d"),
        summed(directory),
        summed(),
    }
    assert len(seen) == 8


def test_C20_names_of_one_file_are_grouped_and_sorted() -> None:
    one, other = FILE._replace(inode=(1, 1)), FILE._replace(inode=(1, 2))
    found = summed(
        one._replace(path="a"),
        Entry("d", Kind.DIRECTORY),
        other._replace(path="d/a"),
        one._replace(path="d/b"),
        FILE._replace(path="d/c", inode=(1, 3)),
        other._replace(path="e"),
    )
    assert found.links == (("a", "d/b"), ("d/a", "e"))
