"""What enters the key of a COPY, and what does not (rules C21, X2)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest

from assembler.context.filtered import FilteredTree
from assembler.dockerfile.ignore import IgnoreRules
from assembler.engine import content
from assembler.engine.files import Files
from assembler.engine.selection import select
from assembler.errors import Cancelled, ContextChanged
from assembler.layer import reading
from assembler.layer.changeset import Entry, InlineBytes, Kind
from assembler.layer.tree import Tree, everything
from assembler.oci.digest import Digest
from assembler.source import Source


def test_C21_times_and_the_context_directory_are_in_no_key(bench: Any, fill: Any) -> None:
    fill("d/f", "d/s/", "d/l -> f")
    before = bench.digest("COPY d /x")
    for name in ("d/f", "d/s", "d"):
        os.utime(bench.context / name, (1, 1))
    assert bench.digest("COPY d /x") == before
    bench.context.rename(bench.context.with_name("moved"))
    bench.context = bench.context.with_name("moved")
    assert bench.digest("COPY d /x") == before


ENTRY = Entry(
    "d/f",
    Kind.FILE,
    mode=0o644,
    uid=1,
    gid=2,
    size=1,
    xattrs=(("user.a", b"1"),),
    source=InlineBytes(b"1"),
)


@pytest.mark.parametrize(
    "changed",
    [
        ENTRY._replace(path="d/g"),
        ENTRY._replace(mode=0o645),
        ENTRY._replace(uid=3),
        ENTRY._replace(gid=3),
        ENTRY._replace(xattrs=(("user.a", b"2"),)),
        ENTRY._replace(xattrs=(("user.b", b"1"),)),
        ENTRY._replace(xattrs=()),
        ENTRY._replace(source=InlineBytes(b"2")),
        ENTRY._replace(size=0, source=InlineBytes(b"")),
        Entry("d/f", Kind.DIRECTORY, mode=0o644, uid=1, gid=2),
        Entry("d/f", Kind.SYMLINK, mode=0o644, uid=1, gid=2, link="1"),
        Entry("d/f", Kind.SYMLINK, mode=0o644, uid=1, gid=2, link="2"),
        Entry("d/f", Kind.FIFO, mode=0o644, uid=1, gid=2),
        Entry("d/f", Kind.CHARACTER, mode=0o644, uid=1, gid=2, device=(1, 3)),
        Entry("d/f", Kind.CHARACTER, mode=0o644, uid=1, gid=2, device=(1, 5)),
    ],
)
def test_C21_everything_that_is_copied_is_in_the_key(bench: Any, changed: Entry) -> None:
    seen = set()
    for entry in (ENTRY, changed):
        bench.st = (entry,)
        seen.add(bench.digest("COPY --from=st d /x"))
    assert len(seen) == 2


def test_C21_links_between_files_are_in_the_key(bench: Any, fill: Any) -> None:
    fill("d/a")
    (bench.context / "d/b").write_text("d/a")
    (bench.context / "d/b").chmod(0o644)
    apart = bench.digest("COPY d /x")
    (bench.context / "d/b").unlink()
    os.link(bench.context / "d/a", bench.context / "d/b")
    assert bench.digest("COPY d /x") != apart


@pytest.mark.parametrize(
    "instruction", ["COPY d/*.c /x/", "COPY d/[ab].c /x/", "COPY d/a.c d/b.c /x/"]
)
def test_C21_only_the_matched_set_counts(bench: Any, fill: Any, instruction: str) -> None:
    fill("d/a.c", "d/b.c", "d/other", "unrelated/f")
    before = bench.digest("COPY d/?.c /x/")
    fill("d/more", "d/s/")
    (bench.context / "d/other").write_text("changed")
    (bench.context / "d").chmod(0o700)
    assert bench.digest(instruction) == before
    (bench.context / "d/b.c").write_text("changed")
    assert bench.digest(instruction) != before


def test_C21_a_directory_counts_by_its_content(bench: Any, fill: Any) -> None:
    fill("d/s/f", "e/")
    before = bench.digest("COPY d /x")
    (bench.context / "d").chmod(0o700)
    assert bench.digest("COPY d /x") == before, "its own mode is not copied"
    (bench.context / "d/s").chmod(0o700)
    assert bench.digest("COPY d /x") != before
    os.rename(bench.context / "d", bench.context / "e/d")
    (bench.context / "e/d/s").chmod(0o755)
    assert bench.digest("COPY e/d /x") == before, "nor is its name"


def test_C21_excluded_files_do_not_count(bench: Any, fill: Any) -> None:
    fill("d/f", "d/log")
    before = bench.digest("COPY --exclude=log d /x")
    (bench.context / "d/log").write_text("changed")
    assert bench.digest("COPY --exclude=log d /x") == before


def test_C21_a_file_copied_as_another_name_has_another_key(bench: Any, fill: Any) -> None:
    fill("d/f")
    (bench.context / "d/g").write_text("d/f")
    (bench.context / "d/g").chmod(0o644)
    assert bench.digest("COPY d/f /x/") != bench.digest("COPY d/g /x/")


def test_C21_here_documents_count(bench: Any) -> None:
    texts = ["<<a /x/\n1\na\n", "<<b /x/\n1\nb\n", "<<a /x/\n2\na\n"]
    assert len({bench.digest(f"COPY {text}") for text in texts}) == 3


def test_X2_nothing_but_what_is_selected_is_read(bench: Any) -> None:
    tree = _Guarded(
        bench.tree_of([bench.file("src/a.c"), bench.file("src/b.h"), bench.file("big/f")])
    )
    rules = IgnoreRules.parse(Source(".dockerignore", "src/private\n"))
    for instruction in ("COPY src /x/", "COPY src/*.c /x/", "COPY --parents src/a.c /x/"):
        step = bench.step(instruction)
        content.digest(select(step, FilteredTree(tree, rules)))
    assert tree.listed <= {"src"}
    assert tree.read <= {"src/a.c", "src/b.h"}


class _Guarded:
    """A tree that remembers which directories were listed and which files were opened."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.listed: set[str] = set()
        self.read: set[str] = set()

    def lookup(self, path: str) -> Entry | None:
        entry = self.tree.lookup(path)
        return None if entry is None else self._watched(entry)

    def children(self, path: str) -> Iterable[Entry]:
        self.listed.add(path)
        return [self._watched(entry) for entry in self.tree.children(path)]

    def _watched(self, entry: Entry) -> Entry:
        if entry.source is None:
            return entry
        return entry._replace(source=_Watched(entry.source, partial(self.read.add, entry.path)))


class _Watched:
    def __init__(self, source: Any, opened: Callable[[], None]) -> None:
        self.source = source
        self.opened = opened

    def open(self) -> Any:
        self.opened()
        return self.source.open()


class _Growing:
    """A source that has more bytes than its entry says, or fewer."""

    def __init__(self, size: int) -> None:
        self.size = size

    def open(self) -> Any:
        return InlineBytes(bytes(self.size)).open()


@pytest.mark.parametrize(("size", "how"), [(11, "longer"), (9, "shorter"), (0, "shorter")])
def test_a_file_that_changes_while_it_is_read_is_named(bench: Any, size: int, how: str) -> None:
    entry = Entry("d/log", Kind.FILE, size=10, source=_Growing(size))
    step = bench.step("COPY d /x")
    with pytest.raises(ContextChanged, match=f"'d/log' changed.*became {how} than 10 bytes"):
        content.digest(select(step, bench.tree_of([entry])))


def test_what_somebody_else_read_makes_the_same_digest(bench: Any, fill: Any) -> None:
    fill("d/a", "d/e/b", "d/l -> a", "f")
    os.link(bench.context / "d/a", bench.context / "d/e/c")

    for instruction in ("COPY d/a f /x/", "COPY --exclude=e d /x/", "COPY --parents d/*/b /x/"):
        selection = bench.select(bench.step(instruction))
        known = {}
        for entry in selection.entries():
            if entry.source is not None:
                with entry.source.open() as stream:
                    known[entry.source] = hashlib.sha256(stream.read()).digest()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reading, "Reading", None)  # nothing is read
            found = content.digest(selection, known=known)
        assert str(found) == bench.digest(instruction)


@pytest.mark.parametrize("flags", ["", "--exclude=none "])
def test_C21_the_same_files_have_one_key_wherever_they_are(
    bench: Any, fill: Any, flags: str
) -> None:
    fill("d/a", "d/e/b", "d/l -> a")
    os.link(bench.context / "d/a", bench.context / "d/e/c")
    bench.st = tuple(everything(bench.directory_context().tree()))
    assert bench.digest(f"COPY {flags}d /x") == bench.digest(f"COPY --from=st {flags}d /x")


def test_hashing_stops_when_it_is_told_to(bench: Any) -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise Cancelled()

    step = bench.step("COPY d /x")
    tree = bench.tree_of(bench.file(f"d/{n}", b"x") for n in range(100))
    with pytest.raises(Cancelled):
        content.digest(select(step, tree), check)
    assert calls == 5


@pytest.mark.parametrize(
    ("instruction", "names"),
    [
        ("COPY . /x", ["a", "d", "d/e", "d/e/f", "d/g", "d/l"]),
        ("COPY d a /x/", ["a", "d/e", "d/e/f", "d/g", "d/l"]),
        ("COPY --exclude=e d /x", ["d/g", "d/l"]),
        ("COPY d/e/f d/g /x/", ["d/e/f", "d/g"]),
    ],
)
def test_C21_everything_that_is_selected_is_seen_with_its_digest(
    bench: Any, fill: Any, instruction: str, names: list[str]
) -> None:
    fill("a", "d/e/f", "d/g", "d/l -> g")
    seen: dict[str, tuple[Kind, bytes]] = {}
    selection = bench.select(bench.step(instruction))

    def see(path: str, entry: Entry, digest: bytes) -> None:
        seen[path] = entry.kind, digest

    told = content.digest(selection, seen=see)
    assert told == content.digest(selection)
    assert sorted(seen) == names
    for path, (kind, digest) in seen.items():
        text = path.encode()
        assert digest == (hashlib.sha256(text).digest() if kind is Kind.FILE else b"")


def test_what_is_seen_of_a_stage_has_the_paths_of_the_stage(bench: Any) -> None:
    bench.st = (bench.file("out/bin/app", b"1", mode=0o755), bench.link("out/l", "bin"))
    files = Files()
    told = content.digest(bench.select(bench.step("COPY --from=st /out /x")), seen=files.see)

    digest = hashlib.sha256(b"1").hexdigest()[:32]
    assert files.of(told) == {
        str(told): {
            "out/bin": "d 755 0:0  ",
            "out/bin/app": f"- 755 0:0  {digest}",
            "out/l": "l 644 0:0  bin",
        }
    }


def test_of_very_many_files_there_is_no_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assembler.engine.files.LARGEST_LISTING", 2)
    files, digest = Files(), Digest.of(b"")
    for name in "ab":
        files.see(name, ENTRY, b"1")
    assert set(files.of(digest)[str(digest)]) == {"a", "b"}
    files.see("c", ENTRY, b"1")
    assert files.of(digest) == {}
