"""Summaries of directory contexts (rules C21, G5; reliability B2, B10)."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from assembler.cancellation import nothing
from assembler.context.directory import DirectoryContext
from assembler.dockerfile.ignore import IgnoreRules
from assembler.engine.selection import Selected, Selection
from assembler.errors import Cancelled, ContextChanged, StepError
from assembler.layer.changeset import Entry, Kind
from assembler.layer.summary import Summary, Summing
from assembler.layer.tree import Tree
from assembler.source import Source
from tests.bounds import cpu_seconds
from tests.leftovers import nothing_left
from tests.ticks import tick


def rules(text: str) -> IgnoreRules | None:
    return IgnoreRules.parse(Source(".dockerignore", text)) if text else None


def summary(root: Path, text: str = "", path: str = "", records: str = "") -> Summary:
    tree: Any = DirectoryContext(str(root), rules(text), "", records).tree()
    return tree.summary(path, nothing)


def content(entry: Entry) -> bytes:
    if entry.source is None:
        return b""
    with entry.source.open() as stream:
        return hashlib.sha256(stream.read()).digest()


def slowly(root: Path, text: str = "", path: str = "") -> Summary:
    """The summary made of every entry that the context shows."""
    tree = DirectoryContext(str(root), rules(text)).tree()
    top = tree.lookup(path)
    assert top is not None
    summing = Summing()
    for below in Selection(()).below(Selected(top, "", tree)):
        summing.add(below.path, below.entry, content(below.entry))
    return summing.result()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path in ("context/d/e", "context/empty"):
        (tmp_path / path).mkdir(parents=True)
    for path in ("f", "d/f", "d/g", "d/e/f", "d/e/x.o"):
        (tmp_path / "context" / path).write_text(path)
    os.link(tmp_path / "context/d/f", tmp_path / "context/d/e/h")
    (tmp_path / "context/l").symlink_to("d/f")
    os.mkfifo(tmp_path / "context/pipe")
    os.mknod(tmp_path / "context/socket", stat.S_IFSOCK | 0o600)
    (tmp_path / "context" / os.fsdecode(b"\xff\n")).write_text("no text")
    tick(tmp_path / "context")
    return tmp_path / "context"


RULES = ("", "d", "*.o\n**/*.o", "*\n!d/e/f", "d\n!d/e", "**\n!**/none", "d/e\n!d/e/none\n!f", "l")


@pytest.mark.parametrize("text", RULES)
def test_a_walk_finds_what_the_tree_shows(root: Path, text: str) -> None:
    shown = DirectoryContext(str(root), rules(text)).tree()
    for path in ("", "d", "d/e"):
        if shown.lookup(path) is not None:
            assert summary(root, text, path) == slowly(root, text, path)


NAMES = some.sampled_from(["a", "b", "c.x"])
PATHS = some.lists(NAMES, min_size=1, max_size=3).map("/".join)
PATTERNS = some.lists(
    some.tuples(
        some.sampled_from(["", "!"]),
        some.lists(some.sampled_from(["a", "b", "*", "**", "*.x"]), min_size=1, max_size=3),
    ).map(lambda one: one[0] + "/".join(one[1])),
    max_size=4,
)


@settings(deadline=None, max_examples=150)
@given(paths=some.sets(PATHS, max_size=8), lines=PATTERNS)
def test_G5_a_walk_agrees_with_the_tree(paths: set[str], lines: list[str]) -> None:
    whole = {path for path in paths if not any(other.startswith(f"{path}/") for other in paths)}
    with tempfile.TemporaryDirectory() as name:
        for path in whole:
            (Path(name) / path).parent.mkdir(parents=True, exist_ok=True)
            (Path(name) / path).write_text(path)
        text = "\n".join(lines)
        assert summary(Path(name), text) == slowly(Path(name), text)


@pytest.mark.parametrize("text", RULES)
def test_a_tree_that_was_walked_shows_the_same(root: Path, text: str) -> None:
    fresh = DirectoryContext(str(root), rules(text)).tree()
    tree: Any = DirectoryContext(str(root), rules(text)).tree()
    tree.summary("", nothing)

    def everything(shown: Tree, path: str = "") -> list[tuple[Entry, object, object]]:
        found = []
        for entry in shown.children(path):
            found.append((entry, entry.inode, entry.source))
            if entry.kind is Kind.DIRECTORY:
                found += everything(shown, entry.path)
        return found

    assert everything(tree) == everything(fresh)


def test_a_context_is_walked_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree: Any = DirectoryContext(str(root), None).tree()
    whole, part = tree.summary("", nothing), tree.summary("d", nothing)
    shutil.rmtree(root / "d/e")
    assert (tree.summary("", nothing), tree.summary("d", nothing)) == (whole, part)
    assert [one.path for one in tree.children("d")] == ["d/e", "d/f", "d/g"]


@pytest.mark.parametrize("change", ["write", "add", "mode"])
def test_B2_two_walks_of_one_build_see_the_same(root: Path, change: str) -> None:
    """What one of them packs would not be what the other one found."""
    tree: Any = DirectoryContext(str(root), None).tree()
    assert tree.unread("d", nothing)
    if change == "write":
        (root / "d/g").write_text("new")
    elif change == "add":
        (root / "d/new").write_text("new")
    else:
        (root / "d/g").chmod(0o600)
    with pytest.raises(ContextChanged, match="d in the build context changed"):
        tree.unread("", nothing)


def test_directories_may_be_listed_in_another_order(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree: Any = DirectoryContext(str(root), None).tree()
    assert tree.unread("d", nothing)
    really = os.scandir

    @contextmanager
    def backwards(where: int) -> Iterator[list[os.DirEntry[str]]]:
        with really(where) as found:
            yield list(found)[::-1]

    monkeypatch.setattr(os, "scandir", backwards)
    assert tree.summary("", nothing) == slowly(root)


def test_hidden_directories_are_not_entered(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    really = os.open

    def watched(path: Any, *args: Any, **keywords: Any) -> int:
        opened.append(path)
        return really(path, *args, **keywords)

    monkeypatch.setattr(os, "open", watched)
    summary(root, "d\n!f")
    assert "d" not in opened and "empty" in opened


def test_trees_deeper_than_descriptors_are_kept(root: Path) -> None:
    deep = root / "/".join("n" * 200)
    deep.mkdir(parents=True)
    (deep / "f").write_text("deep")
    before = set(os.listdir("/proc/self/fd"))
    most = 0

    def check() -> None:
        nonlocal most
        most = max(most, len(set(os.listdir("/proc/self/fd")) - before))

    tree: Any = DirectoryContext(str(root), None).tree()
    with nothing_left():
        assert tree.summary("", check) == slowly(root)
    assert most < 80


def test_paths_longer_than_the_kernel_takes(root: Path) -> None:
    descriptor = os.open(root, os.O_RDONLY)
    for _ in range(90):
        os.mkdir("n" * 100, dir_fd=descriptor)
        deeper = os.open("n" * 100, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = deeper
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)
    assert summary(root) == slowly(root)


def test_a_walk_that_is_cancelled_leaves_nothing_open(root: Path) -> None:
    for stop in range(1, 12):
        calls = itertools.count(1)

        def check(calls: Iterator[int] = calls, stop: int = stop) -> None:
            if next(calls) == stop:
                raise Cancelled()

        tree: Any = DirectoryContext(str(root), None).tree()
        with nothing_left(), pytest.raises(Cancelled):
            tree.summary("", check)


SWAPPED = [("before", how) for how in ("another", "link", "gone")]
WRITTEN = [(when, how) for when in ("before", "while") for how in ("longer", "shorter", "touched")]


@pytest.mark.parametrize(("when", "change"), [*SWAPPED, *WRITTEN])
def test_B2_a_file_that_changes_while_it_is_read_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch, when: str, change: str
) -> None:
    place = root / "d/g"
    outside = root.parent / "canary"
    outside.write_text("canary")

    def act() -> None:
        if change == "longer":
            place.write_text("much longer")
        elif change == "shorter":
            place.write_text("")
        elif change == "touched":
            os.utime(place, ns=(1, 1))
        else:
            place.unlink()
            if change == "another":
                place.write_text("d/g")
            elif change == "link":
                place.symlink_to(outside)

    really = os.open if when == "before" else os.read
    done: list[Path] = []

    def watched(first: Any, *args: Any, **keywords: Any) -> Any:
        named = first if when == "before" else os.readlink(f"/proc/self/fd/{first}")
        if str(named).endswith("g") and not done:
            done.append(place)
            act()
        return really(first, *args, **keywords)

    monkeypatch.setattr(os, "open" if when == "before" else "read", watched)
    with pytest.raises(ContextChanged, match="d/g in the build context changed"):
        summary(root)


@pytest.mark.parametrize("selected", ["the directory", "the file"])
def test_a_file_of_which_the_disk_lost_bytes_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch, selected: str
) -> None:
    def lost(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    tree: Any = DirectoryContext(str(root), None).tree()
    monkeypatch.setattr(os, "read", lost)
    with (
        pytest.raises(StepError, match="d/e/f in the build context cannot be read: Input/output"),
        tree.contents("d/e/f", nothing) as content,
    ):
        if selected == "the file":
            content(tree.lookup("d/e/f"))
        else:
            tree.summary("d/e", nothing)


@contextmanager
def flipping(
    flip: Callable[[int], None], over: threading.Event, seconds: float, wanted: Callable[[], bool]
) -> Iterator[Iterator[None]]:
    """A thread that does `flip` again and again while the block runs, which sets `over` at its end. The
    block may go on for so many `seconds`; for a minute until it has what is `wanted`."""

    def turn() -> None:
        for number in itertools.count():
            if over.is_set():
                return
            flip(number)

    def turns() -> Iterator[None]:
        end = time.monotonic() + seconds
        while time.monotonic() < end or (time.monotonic() < end + 60 and not wanted()):
            yield

    thread = threading.Thread(target=turn)
    thread.start()
    try:
        yield turns()
    finally:
        over.set()
        thread.join()


def test_B2_files_and_directories_that_flip_to_links_are_never_followed(root: Path) -> None:
    """Whatever a writer swaps in, a walk gives one of the honest summaries or names what changed."""
    outside = root.parent / "outside"
    (outside / "e").mkdir(parents=True)
    (outside / "g").write_text("canary")
    place, kept = root / "d", root.parent / "kept"
    honest = summary(root)
    found: list[Summary | str] = []
    over = threading.Event()

    def flip(number: int) -> None:
        if number % 2:
            place.unlink()
            kept.rename(place)
            if number % 100 == 1:  # and stays for one walk at least, from its beginning to its end
                walks = len(found) + 2
                while len(found) < walks and not over.wait(0.001):
                    continue
        else:
            place.rename(kept)
            place.symlink_to(outside)

    missing: set[Summary] = set()
    place.rename(kept)
    missing.add(summary(root))
    place.symlink_to(outside)
    missing.add(summary(root))
    place.unlink()
    kept.rename(place)
    with flipping(flip, over, 1.5, lambda: honest in found) as turns:
        for _ in turns:
            try:
                found.append(summary(root))
            except ContextChanged as error:
                found.append(error.message)
    assert set(found) - missing - {honest} <= {
        f"{path} in the build context changed during the build" for path in ("d", ".", "d/e")
    } | {
        f"d/{name} in the build context changed during the build"
        for name in ("f", "g", "e/f", "e/h", "e/x.o")
    }
    assert honest in found


def test_B2_a_file_that_is_replaced_again_and_again(root: Path) -> None:
    place, new = root / "d/g", root.parent / "new"
    texts = [bytes([number]) * 3_000_000 for number in (65, 66)]
    honest = set()
    for text in texts:
        place.write_bytes(text)
        honest.add(summary(root))

    def flip(number: int) -> None:
        new.write_bytes(texts[number % 2])
        new.rename(place)

    found: set[Summary] = set()
    with flipping(flip, threading.Event(), 1.0, lambda: bool(found)) as turns:
        for _ in turns:
            try:
                found.add(summary(root))
            except ContextChanged as error:
                assert error.message == "d/g in the build context changed during the build"
    assert found and found <= honest


def test_B2_reading_to_the_end_tells_whether_it_was_one_state(root: Path) -> None:
    entry = DirectoryContext(str(root), None).tree().lookup("d/g")
    assert entry is not None and entry.source is not None
    for read in (lambda one: one.readinto(bytearray(9)), lambda one: one.read(9)):
        with entry.source.open() as stream:
            assert read(stream)
            os.utime(root / "d/g", ns=(1, 1))
            with pytest.raises(ContextChanged, match="d/g in the build context changed"):
                read(stream)
        os.utime(root / "d/g", ns=(entry.mtime, entry.mtime))


def test_B10_ten_thousand_patterns_over_many_files(tmp_path: Path) -> None:
    """As fast for each file as 100,000 of them below three seconds ask for."""
    for number in range(20):
        (tmp_path / f"context/package_{number}/src").mkdir(parents=True)
        for file in range(250):
            (tmp_path / f"context/package_{number}/src/module_{file}.py").touch()
    kinds = ("**/*.x{}", "**/n_{}", "b_{}/out", "!b_{}/out/keep", "docs/*/d_{}.md", "s_{}/**/c")
    lines = [kinds[number % len(kinds)].format(number) for number in range(10_000)]
    applied = rules("\n".join(lines))
    tree: Any = DirectoryContext(str(tmp_path / "context"), applied).tree()
    with cpu_seconds(1):
        tree.summary("", nothing)
    assert isinstance(tree.children("package_1/src"), list)


@pytest.mark.parametrize("text", RULES)
def test_a_walk_lists_what_the_summary_is_made_of(root: Path, text: str, tmp_path: Path) -> None:
    shown = DirectoryContext(str(root), rules(text)).tree()
    expected = {}
    for below in Selection(()).below(Selected(shown.lookup(""), "", shown)):  # type: ignore[arg-type]
        expected[below.path] = below.entry, content(below.entry)
    for records in ("", str(tmp_path / "records"), str(tmp_path / "records")):
        tree: Any = DirectoryContext(str(root), rules(text), "", records).tree()
        tree.summary("", nothing)
        listed = {entry.path: (entry, digest) for entry, digest in tree.listed("", nothing)}
        # besides, directories that rules hide, in which another rule might have shown something
        others = [entry for path, (entry, _) in listed.items() if path not in expected]
        assert all(entry.kind is Kind.DIRECTORY for entry in others)
        assert {path: listed[path] for path in expected} == expected


def test_a_listing_knows_digests_of_files_that_nobody_read_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("assembler.context.digests._MANY", 1)
    for above, directories, files in os.walk(root):
        for name in (*directories, *files):
            os.utime(os.path.join(above, name), (1, 1), follow_symlinks=False)
    monkeypatch.setattr("assembler.context.digests._RACY", -10_000_000_000)
    records = str(tmp_path / "records")
    summary(root, records=records)
    tree: Any = DirectoryContext(str(root), None, "", records).tree()
    tree.summary("d", nothing)
    tree.summary("", nothing)
    monkeypatch.setattr("assembler.context.digests._hashed", None)
    for path in ("", "d"):
        listed = {entry.path: (entry, digest) for entry, digest in tree.listed(path, nothing)}
        assert "d/e/f" in listed
        assert all(digest == content(entry) for entry, digest in listed.values())
